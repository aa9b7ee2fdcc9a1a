"""Mede o que se acerta na tarefa sem saber português: o que sobra aqui é artefato de quem pôs as falhas.

    python data/tarefas/aceitabilidade/mede_artefatos.py

Regressão logística sobre TF-IDF de pares de palavras, de sequências de letras, e sobre o comprimento, treinada e
avaliada em cada fonte. O acaso é 0,500. Por tipo de falha lê-se a parte encontrada contra a parte das frases certas
acusadas sem razão ("alarme"): iguais, a contagem não viu a falha.
"""

import json
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

HERE = Path(__file__).resolve().parent
KINDS = ("gênero", "número", "verbo", "ordem", "crase", "preposição")


def lengths(texts):
    return np.array([[len(text), len(text.split())] for text in texts])


VIEWS = {
    "palavras e pares": lambda: TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]", min_df=2),
    "2 a 4 letras": lambda: TfidfVectorizer(ngram_range=(2, 4), analyzer="char", lowercase=False, min_df=2),
    "comprimento": lambda: FunctionTransformer(lengths),
}


def read(source, split):
    with open(HERE / source / f"{split}.jsonl", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def fitted(view, rows):
    model = make_pipeline(VIEWS[view](), LogisticRegression(max_iter=1000))
    return model.fit([row["text"] for row in rows], [row["label"] for row in rows])


def measures(model, rows):
    """Acurácia, alarme, e a parte encontrada de cada tipo de falha."""
    labels = np.array([row["label"] for row in rows])
    flagged = model.predict([row["text"] for row in rows]) == 0
    found = [flagged[[row["kind"] == kind for row in rows]] for kind in KINDS]
    return [np.mean(flagged == (labels == 0)), flagged[labels == 1].mean(), *(part.mean() for part in found)]


def main():
    head = ["fonte", "o que se conta", "acurácia", "alarme", *KINDS]
    print("| " + " | ".join(head) + " |\n|---|---|" + "---:|" * (len(head) - 2))
    for source in ("ajuda", "noticias"):
        train, test = read(source, "train"), read(source, "test")
        for view in VIEWS:
            numbers = measures(fitted(view, train), test)
            print(f"| {source} | {view} | " + " | ".join(f"{n:.3f}".replace(".", ",") for n in numbers) + " |")


if __name__ == "__main__":
    main()
