"""O que cada técnica custa: o tempo em rodízio, os bytes de um passo, e o arquivo com o custo de todas."""

import json
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel

from ftcourse import environment, experiments, meter, methods, models, modules, qlora, tasks
from ftcourse.files import DATA

COSTS = DATA / "resultados" / "custo.jsonl"


def interleaved(actions: dict[str, Callable], repeats: int = 15) -> dict[str, np.ndarray]:
    """Os segundos de cada ação, medidas em rodízio para que a máquina pese igual em todas: {nome: (repeats,)}.

    actions: {nome: função sem argumentos}. Cada uma roda antes uma vez, sem contar.
    """
    for action in actions.values():
        action()
    seconds = {name: np.empty(repeats) for name in actions}
    for i in range(repeats):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            seconds[name][i] = time.perf_counter() - started
    return seconds


def ratio(seconds: dict[str, np.ndarray], name: str, reference: str) -> dict[str, float]:
    """Quantas vezes o tempo de `reference` uma ação leva: mediana e quartis das razões de cada volta do rodízio."""
    low, median, high = np.percentile(seconds[name] / seconds[reference], [25, 50, 75])
    return {"median": median, "low": low, "high": high}


def measure(
    variants: Iterable[str] | None = None, repeats: int = 25, length: int = 32, task: str = experiments.BERT
) -> list[dict]:
    """O que cada técnica custa numa tarefa: uma linha por variante, como em data/resultados/custo.jsonl.

    Conta os parâmetros que treinam, com a cabeça e sem ela; os bytes de um passo (ver `meter`) em lotes de 32 ×
    `length` tokens; os do arquivo que se guarda; e o tempo do passo e da resposta, esta com o adaptador à parte e, se
    ele se funde, fundido, como razão do ajuste completo, que tem de estar entre as variantes. Sem `variants`, são todas
    as que treinam.
    """
    loaded, rows, models_of = tasks.load(task), {}, {}
    for variant in variants or [e.variant for e in experiments.of(task) if e.rates and e.pretrained]:
        experiment = experiments.get(task, variant)
        model = models.load(experiment.family, loaded, profile="embutido")[0]
        if experiment.quantized:
            qlora.quantize_model(model)
        models_of[variant] = methods.apply(model, experiment.technique, **experiment.settings)
        batch = lot(model, length)
        trainable, total = modules.count_parameters(model)
        in_head = sum(model.get_parameter(name).numel() for name in modules.head_parameters(model))
        used = meter.measure(model.train(), batch)
        with tempfile.TemporaryDirectory() as folder:
            methods.save(model, folder)
            file = sum(f.stat().st_size for f in Path(folder).iterdir())
        rows[variant] = {
            "task": task, "family": experiment.family, "variant": variant, "trainable": trainable,
            "trainable_head": in_head, "total": total, "weight_bytes": used.weights, "gradient_bytes": used.gradients,
            "optimizer_bytes": used.optimizer, "activation_bytes": used.saved, "peak_bytes": used.peak,
            "file_bytes": file,
        }  # fmt: skip
    for what, seconds in timed(models_of, batch, repeats).items():
        for variant in seconds:
            rows[variant][f"{what}_ratio"] = {k: round(v, 3) for k, v in ratio(seconds, variant, "full").items()}
            rows[variant][f"{what}_ms"] = round(1000 * float(np.median(seconds[variant])), 1)
    described = {"batch": [experiments.BATCH, length], "model": models.digest(experiments.FAMILY[task])}
    return [row | described | {"environment": environment.describe()} for row in rows.values()]


def lot(model: PreTrainedModel, length: int) -> dict[str, torch.Tensor]:
    """Um lote de tokens sorteados, com os rótulos que o modelo pede; os do T5 têm um quarto do comprimento."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, model.config.vocab_size - 100, (experiments.BATCH, length), generator=generator)
    if modules.head(model):
        labels = ids[:, 0] % model.config.num_labels
    else:
        labels = ids[:, : length // 4].contiguous() if model.config.is_encoder_decoder else ids
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def timed(models_of: dict[str, PreTrainedModel], batch: dict, repeats: int) -> dict[str, dict[str, np.ndarray]]:
    """Os segundos de um passo, da resposta e da resposta com o adaptador fundido: {o quê: {variante: (repeats,)}}."""
    steps, answers = {}, {}
    for variant, model in models_of.items():
        optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-6)

        def step(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()

        @torch.no_grad()
        def answer(model=model):
            model(**batch)

        steps[variant], answers[variant] = step, answer
    found = {"step": interleaved(steps, repeats)}
    for model in models_of.values():
        model.eval()
    found["answer"] = interleaved(answers, repeats)
    merged = {"full": answers["full"]}
    for variant, model in models_of.items():
        with suppress(ValueError):  # o que não se funde, ou está em 4 bits
            methods.merge(model)
            merged[variant] = answers[variant]
    found["merged"] = interleaved(merged, repeats)
    return found


def measured(task: str = experiments.BERT) -> pd.DataFrame:
    """O custo gravado de cada técnica numa tarefa, com a variante como índice; vazia, se ainda não se mediu."""
    rows = [json.loads(line) for line in COSTS.read_text(encoding="utf-8").splitlines()]
    found = {row["variant"]: row for row in rows if row["task"] == task}
    return (
        pd.DataFrame(found.values(), index=found.keys()).rename_axis("variant").drop(columns="variant", errors="ignore")
    )


def current(rows: Iterable[dict]) -> list[dict]:
    """As linhas da bancada de velocidade que valem: sem as de um modelo que hoje tem outros pesos.

    As que são de antes de o resumo dos pesos se gravar, em "model", não se podem conferir, e ficam.
    """
    today = {family: models.digest(family) for family in models.FAMILIES}
    return [row for row in rows if "model" not in row or row["model"] == today[row["family"]]]
