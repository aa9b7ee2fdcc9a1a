"""O que um ajuste fez esquecer: a perda do pré-treino nos parágrafos reservados de data/texto_geral, antes e depois.

before = forgetting.general_loss(*models.load("bert"))
forgetting.general_loss(model, tokenizer) - before      # nats por token

hidden = forgetting.hide(tokenizer, texts)              # umas frases quaisquer, 15 % dos tokens por adivinhar
forgetting.loss(model, pretrained, hidden)              # o corpo de um BERT, com a cabeça do pré-treino

LLaMA    a perda de cada token, dados os anteriores
T5       a perda dos trechos escondidos, um em cada 20 tokens, de 3 tokens       Raffel et al., 2020, §3.1.4
BERT     a perda dos 15 % de tokens escondidos, com o corpo de agora e a cabeça do pré-treino
                                                                                 Devlin et al., 2019, §3.1
"""

from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm
from transformers import DataCollatorForLanguageModeling, PreTrainedModel, PreTrainedTokenizerBase

from ftcourse import evaluation, models, tasks
from ftcourse.task import IGNORED, tokenize

LONGEST = 96  # tokens de cada parágrafo que o BERT lê: sobra lugar para tokens virtuais


def general_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, profile: str | Path | None = None
) -> float:
    """A perda do pré-treino no texto geral, em nats por token, com o adaptador que estiver ativo.

    O que se esconde é sempre o mesmo. profile: de onde vem a cabeça de pré-treino do BERT, como em `models.load`; as
    outras famílias não precisam dela. Levanta FloatingPointError se a perda não é um número.
    """
    if model.config.model_type != "bert":
        return evaluation.evaluate(model, tokenizer, tasks.general_text())["loss"]
    language, _ = models.load("bert", profile=profile)
    language.to(model.device)
    total, asked, paragraphs = 0.0, 0, tasks.general_text().test["target"]
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15, seed=0)
    with evaluation.measuring(model):
        for i in tqdm(range(0, len(paragraphs), 32), desc="texto geral", unit="lote", delay=2, leave=False):
            ids = tokenize(tokenizer, paragraphs[i : i + 32], truncation=True, max_length=LONGEST)
            hidden = collator([{"input_ids": row} for row in ids]).to(model.device)
            loss, n = guessing_loss(states(model, hidden), language, hidden), int((hidden["labels"] != IGNORED).sum())
            evaluation.check_finite("A perda", range(i, i + 1), [loss.isfinite()], model)
            total, asked = total + n * loss.item(), asked + n
    return total / asked


# ---------------------------------------------------------------- em poucas frases, no BERT


def hide(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], seed: int = 0, device: str | torch.device = "cpu"
) -> dict[str, torch.Tensor]:
    """Um lote com 15 % dos tokens por adivinhar, os mesmos se a semente é a mesma: {"input_ids": (B, T), …}.

    É o sorteio do pré-treino do BERT: dos escolhidos, 8 em 10 viram [MASK], 1 vira outro token e 1 fica como está.
    Em `labels` está o token certo de cada um, e IGNORED no lugar dos outros.
    """
    examples = [{"input_ids": ids} for ids in tokenizer(list(texts), truncation=True)["input_ids"]]
    return DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15, seed=seed)(examples).to(device)


def states(model: PreTrainedModel, hidden: dict[str, torch.Tensor]) -> torch.Tensor:
    """As representações que o corpo do modelo dá aos tokens por adivinhar: (n, d)."""
    body = model.base_model(hidden["input_ids"], attention_mask=hidden["attention_mask"]).last_hidden_state
    text = body[:, -hidden["labels"].shape[1] :]  # sem os tokens virtuais, que vêm na frente
    return text[hidden["labels"] != IGNORED]


def guessing_loss(states: torch.Tensor, pretrained: PreTrainedModel, hidden: dict[str, torch.Tensor]) -> torch.Tensor:
    """A perda de adivinhar os tokens por essas representações, com a cabeça do pré-treino: um número, em nats."""
    return F.cross_entropy(pretrained.cls(states).float(), hidden["labels"][hidden["labels"] != IGNORED])


@torch.no_grad()
def loss(model: PreTrainedModel, pretrained: PreTrainedModel, hidden: dict[str, torch.Tensor]) -> float:
    """A perda de língua: o corpo de `model` e a cabeça de `pretrained` adivinham os tokens de `hidden`, em nats."""
    return guessing_loss(states(model, hidden), pretrained, hidden).item()
