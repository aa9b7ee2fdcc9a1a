"""O que é uma tarefa: as divisões, como as linhas viram fichas, o que se mede. As que existem, `tasks.load` carrega."""

import hashlib
import json
from dataclasses import dataclass

import datasets
import sklearn.metrics

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

    def digest(self) -> str:
        """Um resumo dos dados, em 12 dígitos hexadecimais: muda com qualquer célula de qualquer divisão, e com a ordem.

        É o mesmo em toda máquina e não depende do nome: diz em que dados um resultado foi medido.
        """
        splits = (self.train, self.validation, self.test, self.out_of_domain)
        content = [self.labels, *(rows and rows.to_dict() for rows in splits)]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def encode(self, tokenizer, rows, seq2seq=False):
        """As linhas em fichas: uma lista de {"input_ids": …, "attention_mask": …, "labels": …}, em toda família."""
        encoded = tokenizer(list(rows["text"]), truncation=True, return_token_type_ids=False, verbose=False)
        return [
            {"input_ids": ids, "attention_mask": mask, "labels": label}
            for ids, mask, label in zip(encoded["input_ids"], encoded["attention_mask"], rows["label"], strict=True)
        ]

    def metrics(self, predictions, references):
        """Acurácia, MCC e F1 macro, de 0 a 1 (MCC: de −1 a 1), e o número de exemplos. predictions: (n,) inteiros."""
        return {
            "accuracy": float(sklearn.metrics.accuracy_score(references, predictions)),
            "mcc": float(sklearn.metrics.matthews_corrcoef(references, predictions)),
            "f1": float(sklearn.metrics.f1_score(references, predictions, average="macro")),
            "n": len(references),
        }
