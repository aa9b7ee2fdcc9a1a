"""As tarefas do curso: dados reais em português, métricas e as linhas de base que todo resultado precisa vencer.

task = tasks.load("aceitabilidade")
task.train[0]                   # {"text": …, "label": …, "source": …}
tasks.tfidf(task)               # o que um saco de palavras consegue na mesma divisão
"""

from dataclasses import dataclass

import datasets
import numpy as np
import sklearn.metrics
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from tqdm.auto import tqdm

from ftcourse.files import DATA, choose

TASKS = {
    "aceitabilidade": ("com falha", "bem escrita"),
    "bncc_componente": (
        "Arte", "Ciências", "Educação Física", "Ensino Religioso", "Geografia", "História",
        "Língua Inglesa", "Língua Portuguesa", "Matemática",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """Uma tarefa de classificação, de `text` para um de `labels`; cada divisão é um `datasets.Dataset`."""

    name: str
    labels: tuple[str, ...]
    train: datasets.Dataset
    validation: datasets.Dataset
    test: datasets.Dataset
    out_of_domain: datasets.Dataset | None = None  # frases de uma fonte que o treino não viu

    def encode(self, tokenizer, rows):
        """As linhas em fichas: uma lista de {"input_ids": …, "attention_mask": …, "labels": …}."""
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


def load(name):
    """A tarefa de nome `name`, lida de data/tarefas. Levanta ValueError, com as que existem, se não a conhece."""
    labels = TASKS[choose("a tarefa", name, TASKS)]
    folder = DATA / "tarefas" / name
    files = {
        split: paths
        for split in ("train", "validation", "test", "out_of_domain")
        if (paths := sorted(map(str, folder.rglob(f"{split}.jsonl"))))
    }
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        return Task(name, labels, **datasets.load_dataset("json", data_files=files))
    finally:
        if not bars:
            datasets.enable_progress_bars()


def majority(task, rows):
    """Responder sempre a classe mais comum do treino, o piso de qualquer tabela: (n,)."""
    return np.full(len(rows), np.bincount(task.train["label"]).argmax())


def tfidf(task, rows):
    """Palavras e pares com TF-IDF e regressão logística: o que se consegue sem pré-treino e quase sem ordem. (n,)"""
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
    )
    return model.fit(task.train["text"], task.train["label"]).predict(rows["text"])


@torch.no_grad()
def surprise(model, tokenizer, sentence):
    """O espanto do modelo com cada ficha da frase quando ela é escondida, e a incerteza dele ali; ambos (T,), em nats.

    A soma do espanto é menos a pseudo-log-verossimilhança (Salazar et al., 2020, eq. 1): uma máscara por posição,
    todas num lote só. A incerteza é a entropia da distribuição prevista.
    """
    ids = tokenizer(sentence, truncation=True, return_tensors="pt")["input_ids"].to(model.device)  # (1, T + 2)
    inner = torch.arange(1, ids.shape[1] - 1, device=ids.device)
    batch = ids.repeat(len(inner), 1)  # (T, T + 2)
    batch[torch.arange(len(inner)), inner] = tokenizer.mask_token_id
    hidden = model.base_model(batch).last_hidden_state[torch.arange(len(inner)), inner]  # (T, d)
    log_p = model.cls(hidden).log_softmax(-1)  # (T, V)
    return -log_p.gather(1, ids[0, inner, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


def without_labels(model, tokenizer, sentences):
    """Uma nota por frase sem ter visto um rótulo: menos o maior excesso de espanto, espanto − incerteza. (n,)"""
    bar = tqdm(sentences, desc="lendo com uma máscara por vez", unit="frase", delay=2, leave=False)
    return np.array(
        [-max(s - h for s, h in zip(*map(torch.Tensor.tolist, surprise(model, tokenizer, t)))) for t in bar]
    )
