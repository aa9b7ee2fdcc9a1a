"""A previsão contra a medida, nos modelos do curso: uma linha por treino, em data/resultados/memoria.jsonl.

    python -m ftcourse.memory_table      # mede o que falta; interrompida, continua
    memory_table.read()                  # o que está gravado, uma linha por treino
    memory_table.plot()                  # as ativações previstas contra as medidas, um ponto por treino
    memory_table.markdown()              # quanto a previsão erra, por família e precisão: a tabela dos resultados

Cada técnica em cada família, com lotes de 8 × 32 e 16 × 64, sem e com preenchimento, sem e com checkpointing, em
float32 e em autocast. O que se mede é um passo de verdade numa CPU; o que se prevê sai da configuração, sem os pesos.
Os bytes mudam com as versões de torch e de transformers, que estão em cada linha, e não com a máquina.
"""

import itertools
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
import transformers
from tqdm.auto import tqdm

from ftcourse import (
    benchmark,
    environment,
    files,
    formats,
    memory,
    meter,
    methods,
    models,
    modules,
    qlora,
    results,
    tasks,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PATH = files.DATA / "resultados" / "memoria.jsonl"
TASK = {"bert": "aceitabilidade", "llama": None, "t5": None}  # o LLaMA e o T5 escrevem
FAMILIES = {"bert": "BERT", "llama": "LLaMA", "t5": "T5"}
NEEDED: dict[tuple, dict[str, Any]] = {
    ("llama", "bitfit"): {"trains": "new_bias"},
    ("t5", "bitfit"): {"trains": "new_bias"},
}
PARTS = ("weights", "gradients", "optimizer", "activations", "peak")


def jobs() -> Iterator[dict[str, Any]]:
    """Os treinos, na ordem em que se medem: os mais comuns primeiro."""
    choices = itertools.product((False, True), ("float32", "autocast"), (False, True), ((8, 32), (16, 64)))
    for checkpointing, precision, padding, (batch, length) in choices:
        for technique, family in itertools.product(memory.TECHNIQUES, TASK):
            if (family, technique) != ("t5", "head"):  # a cabeça de classificar do T5 não se ensaia: ver memory.plan
                yield {"family": family, "technique": technique, "batch": batch, "length": length, "padding": padding,
                       "checkpointing": checkpointing, "precision": precision}  # fmt: skip


def run(job: dict[str, Any]) -> dict[str, Any]:
    """A linha de um treino: o que se previu e o que se mediu."""
    family, technique = job["family"], job["technique"]
    task = tasks.load(TASK[family] or "aceitabilidade") if TASK[family] or technique == "head" else None
    model, _ = models.load(family, task, profile="embutido")
    settings, labels = NEEDED.get((family, technique), {}), len(task.labels) if task else None
    asked = {name: value for name, value in job.items() if name not in ("family", "technique")}
    planned = memory.plan(model.config, technique, labels=labels, **asked, **settings)
    if technique == "qlora":
        qlora.quantize_model(model)
    methods.apply(model, "lora" if technique == "qlora" else technique, **settings).train()
    if job["checkpointing"]:
        qlora.checkpoint(model)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, model.config.vocab_size, (job["batch"], job["length"]), generator=generator)
    inputs = {"input_ids": ids, "labels": ids[:, 0] % 2 if modules.head(model) else ids}
    if job["padding"]:
        inputs["attention_mask"] = torch.ones_like(ids)
        inputs["attention_mask"][0, -1] = 0
    measured = meter.measure(model, inputs, precision=memory.PRECISIONS[job["precision"]][1])
    found = {"planned": planned, "measured": measured}
    rows = {name: {part: getattr(value, part) for part in PARTS} for name, value in found.items()}
    return {**job, **rows, "model": models.digest(family), "environment": environment.describe()}


def read() -> pd.DataFrame:
    """Uma linha por treino medido nos pesos de hoje: o que rodou e os bytes previstos e medidos de cada parcela."""
    today = {family: models.digest(family) for family in TASK}
    rows = [row for row in results.parsed(PATH) if row["model"] == today[row["family"]]]
    for row in rows:
        for name in ("planned", "measured"):
            values = row.pop(name)
            row |= {f"{name}_{part}": values[part] for part in PARTS if part != "activations"}
            row[f"{name}_activations"] = sum(values["activations"].values())
    columns = [*next(jobs()), *(f"{name}_{part}" for name in ("planned", "measured") for part in PARTS)]
    return pd.DataFrame(rows, columns=columns)


def plot(ax: "Axes | None" = None) -> "Axes":
    """As ativações previstas contra as medidas, um ponto por treino; na diagonal, a previsão acertou."""
    from ftcourse import plots

    ax, table = plots.axes(figsize=(5, 4.4)) if ax is None else ax, read()
    for i, (family, name) in enumerate(FAMILIES.items()):
        of = table[table["family"] == family]
        ax.plot(of["measured_activations"] / 1e6, of["planned_activations"] / 1e6, "os^"[i], label=name, alpha=0.6)
    ax.axline((1, 1), slope=1, color="black", linewidth=1, linestyle=":")
    ax.set(xlabel="ativações medidas (MB)", ylabel="ativações previstas (MB)", xscale="log", yscale="log")
    for axis in (ax.xaxis, ax.yaxis):
        plots.marks(axis, [0.01, 0.1, 1, 10, 100])
    ax.legend()
    return ax


def markdown() -> str:
    """Quanto a previsão erra: por família e precisão, os treinos e o maior erro de cada parcela, em %. Em Markdown."""
    lines = ["| | treinos | pesos, gradientes, otimizador | ativações | pico |", "|---|---|---|---|---|"]
    for (family, precision, checkpointing), rows in read().groupby(["family", "precision", "checkpointing"]):
        wrong = {p: 100 * (rows[f"planned_{p}"] / rows[f"measured_{p}"] - 1).abs().max() for p in PARTS}
        static = max(wrong[part] for part in ("weights", "gradients", "optimizer"))
        errors = (f"{formats.number(error, 1)} %" for error in (static, wrong["activations"], wrong["peak"]))
        name = f"{FAMILIES[family]}, {precision}{', checkpointing' if checkpointing else ''}"
        lines.append(f"| {name} | {len(rows)} | {' | '.join(errors)} |")
    return "\n".join(lines)


def published() -> pd.DataFrame:
    """O que os artigos publicam, ao lado do que o planejador dá, em GB, e por que diferem, se diferem."""
    bert, full = memory.plan("bert-base", "full", precision="float32"), memory.plan("llama-65b", "full")
    large = memory.plan("llama-65b", "qlora", r=64, lora_alpha=16, checkpointing=True)
    gpt3 = memory.plan(transformers.GPT2Config(n_embd=12288, n_layer=96, n_head=96, n_positions=2048), "full")
    rows = [
        ("BERT-base, ajuste completo, float32, sem ativações", "1,75", bert.weights + bert.gradients + bert.optimizer,
         "16 bytes por parâmetro"),
        ("LLaMA-65B, ajuste completo (QLoRA, §1)", "mais de 780", full.weights + full.gradients + 2 * full.optimizer,
         "12 bytes por parâmetro: pesos e gradientes em 16 bits, os estados do Adam em 32"),
        ("LLaMA-65B, QLoRA r = 64, um texto de 512 tokens", "menos de 48", large.peak,
         "o pico, com checkpointing e os adaptadores em float32"),
        ("GPT-3, LoRA (Hu et al., §4.2)", "350", gpt3.weights, "só os pesos, em 16 bits"),
        ("GPT-3, ajuste completo (Hu et al., §4.2)", "1.200", gpt3.weights + gpt3.gradients + gpt3.optimizer,
         "8 bytes por parâmetro, tudo em 16 bits; os 6,9 do artigo não são nenhuma das contas conhecidas, e ele não "
         "diz o que soma"),
    ]  # fmt: skip
    columns = ["caso", "publicado, GB", "planejado, GB", "que conta"]
    return pd.DataFrame([(what, said, nbytes / 1e9, why) for what, said, nbytes, why in rows], columns=columns)


def main() -> None:
    """Mede o que falta, grava cada linha assim que sai, e refaz a tabela e a figura da página dos resultados."""
    torch.set_num_threads(1)
    today = {family: models.digest(family) for family in TASK}
    done = {key(row) for row in results.parsed(PATH) if row["model"] == today[row["family"]]}
    for job in tqdm([job for job in jobs() if key(job) not in done], desc="memória", unit="treino"):
        benchmark.append(PATH, run(job))
    figure: Any = plot().get_figure(root=True)
    figure.savefig(PATH.with_suffix(".svg"), metadata={"Date": None})
    results.write_table("memoria", markdown())


def key(row: dict[str, Any]) -> str:
    """O que distingue um treino de outro."""
    return json.dumps([row[name] for name in ("family", "technique", "batch", "length", "padding", "checkpointing",
                                              "precision")])  # fmt: skip


if __name__ == "__main__":
    main()
