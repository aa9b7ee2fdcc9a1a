"""O que um modelo treinado responde: previsões, perda de cada ficha, textos escritos, e as métricas da tarefa.

evaluation.evaluate(model, tokenizer, task)       # {"accuracy": …, "mcc": …, "f1": …, "n": …}, ou {"loss": …, …}
evaluation.predict(model, tokenizer, task, rows)  # os logits, se a tarefa é de classificar
evaluation.generate(model, tokenizer, task, rows) # as respostas, se é de escrever
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import datasets
import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftcourse import models
from ftcourse.files import choose
from ftcourse.own_data import SPLITS
from ftcourse.task import IGNORED, Task
from ftcourse.text_tasks import TextTask


def autocast(model: PreTrainedModel) -> AbstractContextManager:
    """O contexto em que o modelo faz as contas: a precisão do perfil com que foi carregado."""
    precision = getattr(model, "profile", models.Profile()).precision
    if precision == "float32":
        return nullcontext()
    return torch.autocast(model.device.type, getattr(torch, precision))


def why_not_finite(model: PreTrainedModel) -> str:
    """A causa provável de uma conta do modelo ter dado nan ou infinito, e a saída."""
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            return f"O peso {name} já não é feito de números: carregue outra vez o modelo, ou o adaptador."
    if in_float16(model):
        return (
            "Os pesos são todos números, mas em float16 nenhuma conta passa de 65.504, e T5, entre outros, passa. "
            'Faça-as em bfloat16 ou em float32: model.float() e model.profile = models.Profile(precision="float32").'
        )
    name, largest = max(((name, p.abs().max().item()) for name, p in model.named_parameters()), key=lambda of: of[1])
    return (
        f"Os pesos são todos números; o maior é de {name}, {largest:.3g}. Se é grande demais, volte aos pesos de antes "
        "do treino que o fez crescer; senão, procure o que há de diferente nessas linhas."
    )


def in_float16(model: PreTrainedModel) -> bool:
    """Se o modelo faz contas em float16, pelo perfil ou porque os pesos o são."""
    profile = getattr(model, "profile", models.Profile())
    return profile.precision == "float16" or any(p.dtype == torch.float16 for p in model.parameters())


def check_finite(what: str, rows: Iterable[int], finite: Iterable[bool], model: PreTrainedModel) -> None:
    """Levanta FloatingPointError com as linhas cuja conta não deu um número: nan nunca vira resultado."""
    if wrong := sorted(int(row) for row, fine in zip(rows, finite, strict=True) if not fine):
        more = f" e de outras {len(wrong) - 3}" if len(wrong) > 3 else ""
        raise FloatingPointError(
            f"{what} de rows[{'], rows['.join(map(str, wrong[:3]))}]{more} não é um número (nan ou infinito). "
            f"{why_not_finite(model)}"
        )


def collate(
    tokenizer: PreTrainedTokenizerBase, examples: list[dict], device: str | torch.device = "cpu", side: str = "right"
) -> dict[str, torch.Tensor]:
    """Os exemplos num lote, preenchidos até o mais longo: {"input_ids": (B, T), …}; os rótulos, com IGNORED."""
    fill = {"input_ids": tokenizer.pad_token_id, "attention_mask": 0, "labels": IGNORED}
    batch = {}
    for name in examples[0]:
        values = [torch.tensor(example[name], dtype=torch.long) for example in examples]
        one_each = values[0].ndim == 0  # o rótulo de uma classificação
        batch[name] = torch.stack(values) if one_each else pad_sequence(values, True, fill[name], side)
    return {name: tensor.to(device) for name, tensor in batch.items()}


@contextmanager
def measuring(model: PreTrainedModel) -> Iterator[None]:
    """O modelo em modo de avaliação, sem gradientes, na precisão do perfil; na saída, no modo em que estava."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), autocast(model):
            yield
    finally:
        model.train(training)


def by_length(
    tokenizer: PreTrainedTokenizerBase, examples: list[dict], model: PreTrainedModel, batch_size: int, label: str,
    side: str = "right", most: float = math.inf,
) -> Iterator[tuple[np.ndarray, dict[str, torch.Tensor]]]:  # fmt: skip
    """Lotes de exemplos de tamanho parecido, com uma barra: (os índices, o lote).

    Os de mais de `most` fichas só vão com os do mesmo tamanho.
    """
    lengths = np.array([len(example["input_ids"]) for example in examples])
    order = np.argsort(lengths, kind="stable")
    size = np.maximum(lengths[order], most)
    alike = np.split(order, np.flatnonzero(size[1:] != size[:-1]) + 1)
    lots = [rows[i : i + batch_size] for rows in alike for i in range(0, len(rows), batch_size)]
    for chosen in tqdm(lots, desc=label, unit="lote", delay=2, leave=False):
        yield chosen, collate(tokenizer, [examples[j] for j in chosen], model.device, side)


def predict(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, rows: datasets.Dataset, batch_size: int = 32
) -> torch.Tensor:
    """Os logits de cada linha, na ordem delas: (n, classes). Levanta FloatingPointError se um não é um número."""
    examples = task.encode(tokenizer, rows)
    logits = torch.empty(len(examples), len(task.labels))
    with measuring(model):
        for chosen, batch in by_length(tokenizer, examples, model, batch_size, "avaliação"):
            del batch["labels"]
            logits[chosen] = model(**batch).logits.float().cpu()
            check_finite("A resposta", chosen, logits[chosen].isfinite().all(1), model)
    return logits


def token_losses(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, rows: datasets.Dataset, batch_size: int = 32
) -> list[torch.Tensor]:
    """A perda de cada ficha da resposta, a de fim incluída, em nats: uma lista de (fichas,), na ordem das linhas.

    Levanta FloatingPointError se uma não é um número.
    """
    seq2seq = model.config.is_encoder_decoder
    examples = task.encode(tokenizer, rows, seq2seq)
    losses = [torch.empty(0)] * len(examples)
    with measuring(model):
        for chosen, batch in by_length(tokenizer, examples, model, batch_size, "perda"):
            logits, labels = model(**batch).logits, batch["labels"]  # (B, T, V), (B, T)
            if not seq2seq:  # em cada posição, a ficha seguinte
                logits, labels = logits[:, :-1], labels[:, 1:]
            asked = labels != IGNORED
            found = F.cross_entropy(logits[asked].float(), labels[asked], reduction="none").cpu()
            for i, loss in zip(chosen, found.split(asked.sum(1).tolist())):
                losses[i] = loss
            check_finite("A perda", chosen, [losses[i].isfinite().all() for i in chosen], model)
    return losses


class EachItsOwn(transformers.LogitsProcessor):
    """O que cada linha do lote ainda pode escrever: sem repetir `no_repeat` fichas seguidas suas.

    A de transformers compararia também as fichas de preenchimento, e uma linha teria, no lote, proibições que sozinha
    não tem.
    """

    def __init__(self, model, chosen, lengths, read, ends, no_repeat):
        self.model, self.chosen, self.lengths, self.read, self.ends = model, chosen, lengths, read, ends
        self.banned = transformers.NoRepeatNGramLogitsProcessor(no_repeat) if no_repeat else None

    def __call__(self, ids, scores):  # (B, T), (B, V)
        new = ids[:, self.read or 1 :]  # num decodificador, a primeira ficha é a de começo
        ended = torch.isin(new, self.ends.to(ids.device)).any(1)
        check_finite("A escrita", self.chosen, scores.amax(1).isfinite() | ended, self.model)
        if not self.banned:
            return scores
        first = [max(self.read - length, 0) for length in self.lengths]
        rows = [self.banned(ids[i : i + 1, start:], scores[i : i + 1]) for i, start in enumerate(first)]
        return torch.cat(rows)


def generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: TextTask, rows: datasets.Dataset, *,
    max_new_tokens: int = 160, batch_size: int = 32,
) -> list[str]:  # fmt: skip
    """O que o modelo escreve, a ficha mais provável entre as que task.no_repeat deixa: uma lista de textos, na ordem.

    Cada linha para na ficha de fim ou numa de task.stop, depois de max_new_tokens ou onde, com o seu pedido, chega ao
    tamanho do modelo. O que quem fez o modelo recomenda, em generation_config.json, não entra: uma repetition_penalty
    faria da ficha mais provável outra. Levanta FloatingPointError se a nota de uma ficha não é um número.
    """
    seq2seq = model.config.is_encoder_decoder
    prompts = task.prompts(tokenizer, rows["input"], seq2seq)
    examples = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in prompts]
    advised, limit = model.generation_config, tokenizer.model_max_length
    ends = [tokenizer.eos_token_id, *map(tokenizer.convert_tokens_to_ids, task.stop)]
    plain = transformers.GenerationConfig(
        do_sample=False, num_beams=1, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=advised.decoder_start_token_id,
    )  # fmt: skip
    answers = [""] * len(examples)
    # Quem continua o pedido tem de encontrá-lo no fim da linha: o preenchimento vai à esquerda. E quem tem menos lugar
    # que max_new_tokens só vai com quem tem o mesmo: no lote, ninguém passa do tamanho do modelo nem para antes do seu.
    side, most = ("right", math.inf) if seq2seq else ("left", float(limit - max_new_tokens))
    with measuring(model):
        model.generation_config = plain  # o que falta a generate, ele busca aqui
        try:
            for chosen, batch in by_length(tokenizer, examples, model, batch_size, "geração", side, most):
                read = 0 if seq2seq else batch["input_ids"].shape[1]
                lengths = [len(prompts[i]) for i in chosen]
                own = EachItsOwn(model, chosen, lengths, read, torch.tensor(ends), task.no_repeat)
                room = min(max_new_tokens, limit - read)
                new = model.generate(**batch, max_new_tokens=room, logits_processor=[own])[:, read:]  # type: ignore[operator]
                for i, text in zip(chosen, tokenizer.batch_decode(new, skip_special_tokens=True)):
                    answers[i] = text.strip()
        finally:
            model.generation_config = advised
    return answers


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    split: str = "test",
    generation: bool = False,
) -> dict[str, float]:
    """As métricas da tarefa numa divisão: "train", "validation", "test" ou "out_of_domain".

    Numa tarefa de escrever, as da perda na resposta; com `generation`, também as do que o modelo escreve, que demoram.
    Levanta ValueError se a tarefa não tem a divisão e FloatingPointError se uma conta não dá um número.
    """
    rows = getattr(task, choose("a divisão", split, [name for name in SPLITS if getattr(task, name)]))
    if not isinstance(task, TextTask):
        return task.metrics(predict(model, tokenizer, task, rows).argmax(-1).numpy(), rows["label"])
    measured = task.loss_metrics(token_losses(model, tokenizer, task, rows), tokenizer, rows)
    if generation:
        measured |= task.metrics(generate(model, tokenizer, task, rows), rows)
    return measured
