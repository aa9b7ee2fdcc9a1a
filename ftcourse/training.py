"""O laço de treino do curso, para qualquer técnica: treina o que estiver com `requires_grad` e retoma de onde parou.

history = training.train(model, tokenizer, task, lr=5e-4, steps=200)
history.plot()
evaluation.evaluate(model, tokenizer, task)     # o que ele aprendeu: ver evaluation
"""

import hashlib
import io
import math
import pickle
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.amp import GradScaler
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftcourse import models, modules
from ftcourse.evaluation import autocast, collate, evaluate, in_float16, why_not_finite
from ftcourse.files import atomic_write
from ftcourse.task import IGNORED, Task


@dataclass
class History:
    """O que o treino registrou: `loss[i]` é a perda do passo i + 1; `evaluations`, as medidas na validação."""

    loss: list[float] = field(default_factory=list)
    evaluations: list[dict] = field(default_factory=list)

    def plot(self, **options):
        """A curva da perda e, se houve, as avaliações. Devolve o eixo de matplotlib."""
        from ftcourse import plots

        return plots.history(self, **options)


def train(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, *, lr: float, steps: int,
    batch_size: int | None = None, micro_batch_size: int | None = None, seed: int = 0, warmup: float = 0.1,
    weight_decay: float = 0.01, max_grad_norm: float = 1.0, eval_every: int | None = None,
    checkpoint: str | Path | None = None, checkpoint_every: int = 100, multipliers: dict[str, float] | None = None,
) -> History:  # fmt: skip
    """Treina os parâmetros com `requires_grad` por AdamW e devolve o History.

    lr: a taxa no pico; sobe na fração `warmup` dos `steps` e desce em linha reta até zero. weight_decay: que fração das
    matrizes, vezes a taxa, se tira a cada passo; um vetor (viés, ganho de uma norma, IA³) não encolhe. eval_every:
    passos entre medidas na validação (None: nenhuma). checkpoint: arquivo em que o estado é guardado a cada
    `checkpoint_every` passos; se já existe, o treino continua dele e chega aos números a que chegaria sem a
    interrupção. multipliers: por quanto se multiplica a taxa de um parâmetro, {nome: número}, como `lora.plus` os dá; o
    resto treina com lr. O lote, se não vem, e a precisão das contas são os do perfil do modelo (`models.PROFILES`): 32
    e float32 nos do curso. Se o lote não cabe na memória, micro_batch_size diz quantas linhas dele passam pelo modelo
    de cada vez: os gradientes se somam, e o passo é o do lote inteiro. Em float16 a perda é multiplicada antes da
    volta, e o passo em que o gradiente estoura se pula.

    Levanta FloatingPointError se a perda ou o gradiente deixa de ser um número, ValueError se nada treina ou se o
    checkpoint é de outro treino: outros ajustes, outros dados, outra base.
    """
    profile = getattr(model, "profile", models.Profile())
    batch_size = whole("batch_size", profile.batch_size if batch_size is None else batch_size)
    if micro_batch_size is not None:
        micro_batch_size = whole("micro_batch_size", micro_batch_size)
    lr, steps, seed = float(lr), int(steps), int(seed)  # um número de numpy não volta de um checkpoint
    warmup, weight_decay, max_grad_norm = float(warmup), float(weight_decay), float(max_grad_norm)
    if multipliers:
        multipliers = {name: by.item() if isinstance(by, np.generic) else by for name, by in multipliers.items()}
    settings = {"task": task.name, "lr": lr, "steps": steps, "batch_size": batch_size, "seed": seed, "warmup": warmup,
                "weight_decay": weight_decay, "max_grad_norm": max_grad_norm, "eval_every": eval_every,
                "multipliers": multipliers, "precision": profile.precision,
                "micro_batch_size": micro_batch_size}  # fmt: skip
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise ValueError(
            'Neste modelo nada treina: comece por methods.apply(model, "lora") ou, se o adaptador está fundido, por '
            "methods.unmerge(model)."
        )
    groups = by_rate(trained, multipliers or {}, weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=lr)
    scaler = GradScaler(model.device.type, enabled=profile.precision == "float16")
    examples = task.encode(tokenizer, task.train, model.config.is_encoder_decoder)
    if checkpoint:
        settings |= origin(model, examples)
    history, first = History(), 0
    if checkpoint and Path(checkpoint).exists():
        history, first = restore(checkpoint, settings, trained, optimizer, scaler)
    lengths = np.array([len(example["input_ids"]) for example in examples])
    # Quem continua textos prevê o token seguinte: o rótulo do primeiro não entra na perda.
    shift = 0 if task.labels or model.config.is_encoder_decoder else 1
    asked = np.array([np.sum(np.atleast_1d(example["labels"])[shift:] != IGNORED) for example in examples])
    optimizer.zero_grad()  # o que um treino interrompido tenha deixado
    per_epoch = max(1, len(examples) // batch_size)
    bar = tqdm(range(first, steps), initial=first, total=steps, desc="treino", unit="passo", delay=1, leave=False)
    for step in bar:
        epoch, k = divmod(step, per_epoch)
        if k == 0 or step == first:
            order = batches(lengths, batch_size, seed, epoch)
        torch.manual_seed(1_000_003 * seed + step)  # o dropout também é função de (semente, passo): retomar é exato
        model.train()
        loss, rows, size = 0.0, order[k], micro_batch_size or len(order[k])
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        for part in [part for part in parts if asked[part].any()] or [rows]:
            batch = collate(tokenizer, [examples[i] for i in part], model.device)
            with autocast(model):  # a média do lote é a das partes, cada uma com o peso dos seus tokens pedidos
                part_loss = model(**batch).loss * (asked[part].sum() / asked[rows].sum())
            if not part_loss.isfinite():
                raise FloatingPointError(
                    f"A perda virou {part_loss.item()} no passo {step + 1}, {blame(model, optimizer, lr, part)}"
                )
            scaler.scale(part_loss).backward()
            loss += part_loss.item()
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), max_grad_norm)
        if not norm.isfinite() and scaler.get_scale() <= 1:
            raise FloatingPointError(
                f"O gradiente virou {norm.item()} no passo {step + 1}, {blame(model, optimizer, lr, rows)} Os pesos "
                "ficaram como estavam."
            )
        for group, rate in zip(optimizer.param_groups, groups):
            group["lr"] = lr * rate["multiplier"] * schedule(step, steps, warmup)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        history.loss.append(loss)
        if eval_every and (step + 1) % eval_every == 0:
            history.evaluations.append({"step": step + 1, **evaluate(model, tokenizer, task, "validation")})
            name, measure = ("acurácia", "accuracy") if task.labels else ("reservada", "loss")
            bar.set_postfix({name: f"{history.evaluations[-1][measure]:.3f}"})
        if checkpoint and ((step + 1) % checkpoint_every == 0 or step + 1 == steps):
            tensors = {name: p.detach() for name, p in trained.items()}
            save_state({"settings": settings, "step": step + 1, "history": asdict(history),
                        "trained": tensors, "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()},
                       checkpoint)  # fmt: skip
    model.eval()
    return history


def whole(name: str, value: Any) -> int:
    """`value`, que pode ter vindo de numpy, como inteiro. Levanta ValueError se não é um, a partir de 1."""
    number = value.item() if isinstance(value, np.generic) else value
    if not modules.is_count(number):
        raise ValueError(f"{name}={value!r}: é quantas linhas vão juntas, um inteiro a partir de 1.")
    return number


def blame(model: PreTrainedModel, optimizer: torch.optim.Optimizer, lr: float, rows: np.ndarray) -> str:
    """De quem é a culpa de uma conta que não deu um número. A taxa só a tem depois de um passo que mudou os pesos."""
    if not optimizer.state:
        shown = ", ".join(map(str, sorted(rows.tolist())))
        return (
            f"antes que a taxa agisse: ela não tem culpa. {why_not_finite(model)} As linhas do treino eram {shown} (a "
            "primeira é a 0)."
        )
    if in_float16(model):
        other = "faça as contas em bfloat16 ou em float32: em float16 nenhuma passa de 65.504"
    else:
        other = "procure o que há de diferente nas linhas deste lote"
    return f"com lr={lr:g}. Comece por uma taxa dez vezes menor; se continuar, {other}."


def by_rate(trained: dict[str, nn.Parameter], multipliers: dict[str, float], weight_decay: float) -> list[dict]:
    """Os parâmetros que treinam, num grupo do otimizador para cada taxa; vieses, normas e outros vetores não decaem.

    Levanta ValueError se um nome não treina.
    """
    if lost := sorted(multipliers.keys() - trained.keys()):
        raise ValueError(f"multipliers: {lost[0]!r} não é um parâmetro que treina neste modelo.")
    if wrong := {n: by for n, by in multipliers.items() if not isinstance(by, (int, float)) or not 0 <= by < math.inf}:
        raise ValueError(f"multipliers: {wrong} não é um número a partir de 0.")
    groups: dict[tuple, list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        groups.setdefault((multipliers.get(name, 1), parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "multiplier": multiplier, "weight_decay": weight_decay * matrices}
        for (multiplier, matrices), parameters in groups.items()
    ]


def adamw(model: nn.Module, lr: float, weight_decay: float = 0.01) -> torch.optim.AdamW:
    """O AdamW de `train`, para um laço escrito à mão: o que treina, com os vetores a salvo do decaimento."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return torch.optim.AdamW(by_rate(trained, {}, weight_decay), lr=lr)


def lots(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, steps: int, batch_size: int = 32,
    seed: int = 0,
) -> Iterator[dict[str, torch.Tensor]]:  # fmt: skip
    """Os lotes de `train`, para um laço escrito à mão: um por passo, na ordem sorteada de cada época, com uma barra."""
    examples = task.encode(tokenizer, task.train, model.config.is_encoder_decoder)
    lengths = np.array([len(example["input_ids"]) for example in examples])
    for step in tqdm(range(steps), desc="treino", unit="passo", delay=1, leave=False):
        epoch, k = divmod(step, max(1, len(examples) // batch_size))
        rows = batches(lengths, batch_size, seed, epoch)[k]
        yield collate(tokenizer, [examples[i] for i in rows], model.device)


def origin(model: nn.Module, examples: list[dict]) -> dict:
    """O que, além dos argumentos, faz de um treino outro: dados em tokens, base congelada, ajustes da técnica."""
    config = getattr(model, "adapters", {}).get(getattr(model, "active_name", None))
    data = hashlib.sha256(repr(examples).encode()).hexdigest()[:16]
    return {"task.train": data, "base": modules.fingerprint(model, frozen=True), "method": repr(config)}


def schedule(step: int, steps: int, warmup: float) -> float:
    """A fração da taxa no passo (o primeiro é 0): sobe até 1 em warmup·steps passos e desce em linha reta."""
    rising = max(1, round(warmup * steps))
    return min((step + 1) / rising, (steps - step) / max(1, steps - rising))


def batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int, pool: int = 20) -> np.ndarray:
    """Os lotes de uma época em ordem sorteada, os índices de cada um numa linha: (lotes, batch_size).

    Dentro de grupos de `pool` lotes sorteados, frases de tamanho parecido vão juntas: preenche-se menos, e o passo leva
    pouco mais da metade do tempo.
    """
    rng = np.random.default_rng((seed, epoch))
    size = min(batch_size, len(lengths))
    order = rng.permutation(len(lengths))
    order = order[np.lexsort((lengths[order], np.arange(len(order)) // (pool * size)))]
    return rng.permutation(order[: len(order) // size * size].reshape(-1, size))


def save_state(state: dict, path: str | Path) -> None:
    """Grava em `path` um dicionário de tensores e números, inteiro ou nada."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def load_state(path: str | Path, device: str | torch.device = "cpu") -> dict:
    """Lê o que `save_state` gravou. Levanta OSError se o arquivo se cortou ou é de outra coisa."""
    try:
        return torch.load(path, weights_only=True, map_location=device)
    except (RuntimeError, EOFError, ValueError, LookupError, pickle.UnpicklingError) as error:
        raise OSError(f"O arquivo {path} está cortado ou não é um checkpoint. Apague-o para recomeçar.") from error


def restore(
    checkpoint: str | Path, settings: dict, trained: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer,
    scaler: GradScaler,
) -> tuple[History, int]:  # fmt: skip
    """Põe parâmetros, otimizador e multiplicador da perda como estavam e devolve (History, próximo passo)."""
    state = load_state(checkpoint, next(iter(trained.values())).device)
    if not isinstance(state, dict) or "settings" not in state:
        raise OSError(f"O arquivo {checkpoint} está cortado ou não é um checkpoint. Apague-o para recomeçar.")
    differs = [name for name in settings if settings[name] != state["settings"].get(name)]
    now, then = ({name: p.shape for name, p in tensors.items()} for tensors in (trained, state["trained"]))
    differs += sorted({name for name, _ in now.items() ^ then.items()})[:2]  # outra técnica, ou outro modelo
    if differs:
        raise ValueError(
            f"O checkpoint {checkpoint} é de outro treino: difere em {', '.join(differs)}. "
            "Apague-o para recomeçar ou dê outro nome em checkpoint=."
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(state["trained"][name])
    optimizer.load_state_dict(state["optimizer"])
    scaler.load_state_dict(state["scaler"])
    return History(**state["history"]), state["step"]
