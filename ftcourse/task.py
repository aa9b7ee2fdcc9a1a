"""O que é uma tarefa: as divisões, como as linhas viram tokens, o que se mede. As que existem, `tasks.load` carrega."""

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import sklearn.metrics
from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerBase

IGNORED = -100  # o rótulo que cross_entropy pula


@dataclass(frozen=True)
class Task:
    """Uma tarefa de classificação, de `text` para um de `labels`; cada divisão é um `datasets.Dataset`."""

    name: str
    labels: tuple[str, ...]
    train: datasets.Dataset
    validation: datasets.Dataset
    test: datasets.Dataset
    out_of_domain: datasets.Dataset | None = None  # frases de uma fonte que o treino não viu

    @staticmethod
    def row(row: dict) -> dict | None:
        """A linha da tarefa que sai de uma do arquivo; None, e ela fica de fora."""
        return row

    def digest(self) -> str:
        """Um resumo dos dados, em 12 dígitos hexadecimais: muda com qualquer célula de qualquer divisão, e com a ordem.

        É o mesmo em toda máquina e não depende do nome: diz em que dados um resultado foi medido.
        """
        splits = (self.train, self.validation, self.test, self.out_of_domain)
        content = [self.labels, *(rows and rows.to_dict() for rows in splits)]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def encode(self, tokenizer: PreTrainedTokenizerBase, rows: datasets.Dataset, seq2seq: bool = False) -> list[dict]:
        """As linhas em tokens: uma lista de {"input_ids": …, "attention_mask": …, "labels": …}, em toda família.

        Levanta ValueError se uma delas não tem token algum, e o que `tokenize` levanta.
        """
        encoded = tokenize(tokenizer, rows["text"][:], truncation=True)
        if (empty := next((i for i, ids in enumerate(encoded) if not ids), None)) is not None:
            raise ValueError(
                f"{where(empty, rows['text'][empty])} não dá token algum, e este tokenizador não põe o de começo nem "
                "o de fim. Preencha o texto ou tire a linha."
            )
        return [
            {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": label}
            for ids, label in zip(encoded, rows["label"][:], strict=True)
        ]

    def metrics(self, predictions: Sequence | np.ndarray, references: Sequence[int]) -> dict[str, float]:
        """Acurácia, MCC e F1 macro, de 0 a 1 (MCC: de −1 a 1), e o número de exemplos. predictions: (n,) inteiros."""
        references = references[:]  # de uma coluna de datasets, cada medida leria outra vez, número por número
        return {
            "accuracy": float(sklearn.metrics.accuracy_score(references, predictions)),
            "mcc": float(sklearn.metrics.matthews_corrcoef(references, predictions)),
            "f1": float(sklearn.metrics.f1_score(references, predictions, average="macro")),
            "n": len(references),
        }


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], **options: Any) -> list[list[int]]:
    """Os tokens de cada texto, com os ajustes do tokenizador que vierem em `options`.

    O que alguém escreveu é texto: "<s>R$ 30</s>" numa frase são letras e sinais, não os tokens de começo e de fim.
    Levanta ValueError, com a linha, se o tokenizador só o lê como token de controle.
    """
    control = {i for i, added in tokenizer.added_tokens_decoder.items() if added.special}
    control = control.union(tokenizer.all_special_ids) - {tokenizer.unk_token_id}  # este é também o do que não se lê

    def read(reader, texts):
        found = reader(texts, split_special_tokens=True, return_special_tokens_mask=True, verbose=False, **options)
        ids, masks = found["input_ids"], found["special_tokens_mask"]  # a máscara diz o que o tokenizador pôs
        return ids, [{i for i, put in zip(*row) if i in control and not put} for row in zip(ids, masks)]

    if not (texts := list(texts)):
        return []
    ids, written = read(tokenizer, texts)
    unknown = tokenizer.unk_token
    if strange := [i for i, text in enumerate(texts) if written[i] or (unknown and unknown in text)]:
        found, written = read(splitting(tokenizer, control), [texts[i] for i in strange])
        for i, again, left in zip(strange, found, written):
            if left:
                raise ValueError(
                    f"{where(i, texts[i])} tem {tokenizer.convert_ids_to_tokens(min(left))!r}, que este tokenizador só "
                    "lê como token de controle. Tire-o do texto."
                )
            ids[i] = again
    return ids


def splitting(tokenizer: PreTrainedTokenizerBase, control: Iterable[int]) -> PreTrainedTokenizerBase:
    """Uma cópia do tokenizador que parte em dois o nome de um token de controle.

    split_special_tokens não basta onde o nome está também entre os pedaços do vocabulário, como "</s>" no do T5.
    """
    reader = copy.deepcopy(tokenizer)
    if reader.is_fast:
        names = [name for name in [*reader.convert_ids_to_tokens([*control]), reader.unk_token] if name]
        inside = "|".join(f"{re.escape(name[0])}(?={re.escape(name[1:])})" for name in names)
        parts = [reader.backend_tokenizer.pre_tokenizer, pre_tokenizers.Split(Regex(inside), "merged_with_previous")]
        reader.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([part for part in parts if part])
    return reader


def where(row: int, text: str) -> str:
    """Como se diz a alguém de que linha se fala."""
    return f"A linha {row} (a primeira é a 0), {text[:40]!r}{'…' if len(text) > 40 else ''},"
