"""O que um modelo treinado responde: previsões, perda de cada ficha, textos escritos, e as métricas da tarefa.

evaluation.evaluate(model, tokenizer, task)       # {"accuracy": …, "mcc": …, "f1": …, "n": …}, ou {"loss": …, …}
evaluation.predict(model, tokenizer, task, rows)  # os logits, se a tarefa é de classificar
evaluation.generate(model, tokenizer, task, rows) # as respostas, se é de escrever
"""

from contextlib import contextmanager, nullcontext

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from ftcourse import models
from ftcourse.task import IGNORED


def autocast(model):
    """O contexto em que o modelo faz as contas: a precisão do perfil com que foi carregado."""
    precision = getattr(model, "profile", models.Profile()).precision
    if precision == "float32":
        return nullcontext()
    return torch.autocast(model.device.type, getattr(torch, precision))


def collate(tokenizer, examples, device="cpu", side="right"):
    """Os exemplos num lote, preenchidos até o mais longo: {"input_ids": (B, T), …}; os rótulos, com IGNORED."""
    fill = {"input_ids": tokenizer.pad_token_id, "attention_mask": 0, "labels": IGNORED}
    batch = {}
    for name in examples[0]:
        values = [torch.tensor(example[name]) for example in examples]
        one_each = values[0].ndim == 0  # o rótulo de uma classificação
        batch[name] = torch.stack(values) if one_each else pad_sequence(values, True, fill[name], side)
    return {name: tensor.to(device) for name, tensor in batch.items()}


@contextmanager
def measuring(model):
    """O modelo em modo de avaliação, sem gradientes, na precisão do perfil; na saída, no modo em que estava."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), autocast(model):
            yield
    finally:
        model.train(training)


def by_length(tokenizer, examples, model, batch_size, label, side="right"):
    """Lotes de exemplos de tamanho parecido, com uma barra: (os índices, o lote)."""
    order = np.argsort([len(example["input_ids"]) for example in examples], kind="stable")
    for i in tqdm(range(0, len(order), batch_size), desc=label, unit="lote", delay=2, leave=False):
        chosen = order[i : i + batch_size]
        yield chosen, collate(tokenizer, [examples[j] for j in chosen], model.device, side)


def predict(model, tokenizer, task, rows, batch_size=32):
    """Os logits de cada linha, na ordem delas: (n, classes)."""
    examples = task.encode(tokenizer, rows)
    logits = torch.empty(len(examples), len(task.labels))
    with measuring(model):
        for chosen, batch in by_length(tokenizer, examples, model, batch_size, "avaliação"):
            del batch["labels"]
            logits[chosen] = model(**batch).logits.float().cpu()
    return logits


def token_losses(model, tokenizer, task, rows, batch_size=32):
    """A perda de cada ficha da resposta, a de fim incluída, em nats: uma lista de (fichas,), na ordem das linhas."""
    seq2seq = model.config.is_encoder_decoder
    examples = task.encode(tokenizer, rows, seq2seq)
    losses = [None] * len(examples)
    with measuring(model):
        for chosen, batch in by_length(tokenizer, examples, model, batch_size, "perda"):
            logits, labels = model(**batch).logits, batch["labels"]  # (B, T, V), (B, T)
            if not seq2seq:  # em cada posição, a ficha seguinte
                logits, labels = logits[:, :-1], labels[:, 1:]
            asked = labels != IGNORED
            found = F.cross_entropy(logits[asked].float(), labels[asked], reduction="none").cpu()
            for i, loss in zip(chosen, found.split(asked.sum(1).tolist())):
                losses[i] = loss
    return losses


def generate(model, tokenizer, task, rows, *, max_new_tokens=160, batch_size=32):
    """O que o modelo escreve, a ficha mais provável entre as que task.no_repeat deixa: uma lista de textos, na ordem.

    Para na ficha de fim ou numa de task.stop, depois de max_new_tokens ou no tamanho do modelo. O que quem fez o modelo
    recomenda, em generation_config.json, não entra: uma repetition_penalty faria da ficha mais provável outra.
    """
    seq2seq = model.config.is_encoder_decoder
    prompts = task.prompts(tokenizer, rows["input"], seq2seq)
    examples = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in prompts]
    advised = model.generation_config
    settings = {"do_sample": False, "num_beams": 1, "no_repeat_ngram_size": task.no_repeat}
    ends = [tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(list(task.stop))]
    settings |= {"eos_token_id": ends, "pad_token_id": tokenizer.pad_token_id}
    settings |= {"decoder_start_token_id": advised.decoder_start_token_id}
    answers = [None] * len(examples)
    # Quem continua o pedido tem de encontrá-lo no fim da linha: o preenchimento vai à esquerda.
    side = "right" if seq2seq else "left"
    with measuring(model):
        model.generation_config = transformers.GenerationConfig(**settings)  # o que falta a generate, ele busca aqui
        try:
            for chosen, batch in by_length(tokenizer, examples, model, batch_size, "geração", side):
                read = 0 if seq2seq else batch["input_ids"].shape[1]
                room = min(max_new_tokens, tokenizer.model_max_length - read)
                new = model.generate(**batch, max_new_tokens=room)[:, read:]
                for i, text in zip(chosen, tokenizer.batch_decode(new, skip_special_tokens=True)):
                    answers[i] = text.strip()
        finally:
            model.generation_config = advised
    return answers


def evaluate(model, tokenizer, task, split="test", generation=False):
    """As métricas da tarefa numa divisão: "train", "validation", "test" ou "out_of_domain".

    Numa tarefa de escrever, as da perda na resposta; com `generation`, também as do que o modelo escreve, que demoram.
    """
    rows = getattr(task, split)
    if task.labels:
        return task.metrics(predict(model, tokenizer, task, rows).argmax(-1).numpy(), rows["label"])
    measured = task.loss_metrics(token_losses(model, tokenizer, task, rows), tokenizer, rows)
    if generation:
        measured |= task.metrics(generate(model, tokenizer, task, rows), rows)
    return measured
