"""O que um ajuste fez esquecer: a perda do pré-treino nos parágrafos reservados de data/texto_geral, antes e depois.

before = forgetting.general_loss(*models.load("bert"))
forgetting.general_loss(model, tokenizer) - before      # nats por token

LLaMA    a perda de cada token, dados os anteriores
T5       a perda dos trechos escondidos, um em cada 20 tokens, de 3 tokens       Raffel et al., 2020, §3.1.4
BERT     a perda dos 15 % de tokens escondidos, com o corpo de agora e a cabeça do pré-treino
                                                                                 Devlin et al., 2019, §3.1
"""

from pathlib import Path

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
    hide = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15, seed=0)
    with evaluation.measuring(model):
        for i in tqdm(range(0, len(paragraphs), 32), desc="texto geral", unit="lote", delay=2, leave=False):
            ids = tokenize(tokenizer, paragraphs[i : i + 32], truncation=True, max_length=LONGEST)
            batch = hide([{"input_ids": row} for row in ids]).to(model.device)
            labels = batch.pop("labels")  # (B, T)
            hidden = model.base_model(**batch).last_hidden_state[:, -labels.shape[1] :]  # sem os tokens virtuais
            chosen = labels != IGNORED
            logits = language.cls(hidden[chosen]).float()
            losses = F.cross_entropy(logits, labels[chosen], reduction="none")
            evaluation.check_finite("A perda", range(len(losses)), losses.isfinite(), model)
            total, asked = total + losses.sum().item(), asked + len(losses)
    return total / asked
