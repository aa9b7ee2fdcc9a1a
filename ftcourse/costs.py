"""O que um passo custa: o tempo em rodízio, os bytes que o treino guarda, e o arquivo com o custo de cada técnica."""

import json
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from ftcourse import environment, experiments, methods, models, modules, tasks
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
    variants: Iterable[str] = ("full", "head", "lora", "lora_r1"), repeats: int = 25, length: int = 32
) -> list[dict]:
    """O que um passo de treino custa com cada técnica: uma linha por técnica, como em data/resultados/custo.jsonl.

    Conta os parâmetros que treinam, os bytes de gradientes e de estado do AdamW depois de um passo, os do arquivo que
    se guarda, e mede o passo inteiro, em lotes de 32 × `length` tokens, como razão do passo do ajuste completo.
    """
    task, rows, steps = tasks.load("aceitabilidade"), {}, {}
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 8000, (experiments.BATCH, length), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 2}
    for variant in variants:
        experiment = experiments.get(task.name, variant)
        model = models.load("bert", task, profile="embutido")[0]
        methods.apply(model, experiment.technique, **experiment.settings).train()
        optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-6)

        def step(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()

        steps[variant] = step
        step()
        trainable, total = modules.count_parameters(model)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        states = [t for state in optimizer.state.values() for t in state.values()]
        with tempfile.TemporaryDirectory() as folder:
            methods.save(model, folder)
            file = sum(f.stat().st_size for f in Path(folder).iterdir())
        rows[variant] = {"variant": variant, "trainable": trainable, "total": total, "gradient_bytes": size(gradients),
                         "optimizer_bytes": size(states), "file_bytes": file}  # fmt: skip
    seconds = interleaved(steps, repeats)
    for variant, row in rows.items():
        row["step_ratio"] = {k: round(v, 3) for k, v in ratio(seconds, variant, "full").items()}
        row["step_ms"] = round(1000 * float(np.median(seconds[variant])), 1)
    described = {"model": models.digest("bert"), "environment": environment.describe()}
    return [row | {"batch": [experiments.BATCH, length]} | described for row in rows.values()]


def activations(model: nn.Module, batch: dict[str, torch.Tensor]) -> int:
    """Quantos bytes uma ida deixa guardados para a volta, sem os pesos: as ativações de um lote."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}  # {endereço: bytes}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # o próprio tensor prenderia a si mesmo, e a memória não voltaria

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _ = model(**batch)  # enquanto a saída vive, o que ela guardou também vive
    return sum(kept.values())


def size(tensors: Iterable[torch.Tensor]) -> int:
    """Quantos bytes um conjunto de tensores ocupa."""
    return sum(t.numel() * t.element_size() for t in tensors)


def measured() -> pd.DataFrame:
    """O custo gravado de cada técnica, com a variante como índice."""
    lines = COSTS.read_text(encoding="utf-8").splitlines()
    return pd.DataFrame([json.loads(line) for line in lines]).set_index("variant")
