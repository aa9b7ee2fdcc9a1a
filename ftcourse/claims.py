"""As afirmações do texto de que o curso partiu: se valem, o que é certo, quem o diz e onde se confere.

    Markdown(claims.markdown(12))       # num caderno: a afirmação 12, com o veredito
    Markdown(claims.markdown())         # todas, com a conta dos vereditos: o apêndice do caderno 12
    claims.load()                       # uma tabela, uma linha por afirmação

Elas ficam em `data/afirmacoes.csv`. A coluna `evidência` diz onde conferir, com "; " entre um lugar e outro:

    tests/test_x.py::test_nome                      um teste
    notebooks/04_x.ipynb#um pedaço do título        uma seção de um caderno
    data/resultados/tarefa.jsonl#variante           uma experiência de `experiments`: lê-se "a medir" até que ela rode
"""

from collections.abc import Iterable
from pathlib import PurePosixPath

import pandas as pd

from ftcourse import experiments, results
from ftcourse.files import DATA

VERDICTS = {  # {veredito: o que ele quer dizer}
    "confirmada": "vale como está, com o limite que se diz ao lado",
    "em parte": "vale em alguns casos, que se dizem ao lado",
    "corrigida": "a ideia serve, e o número, o nome ou o alcance é outro",
    "refutada": "a fonte ou a medida diz o contrário",
    "sem fonte": "nenhum dos artigos citados tem o número",
}
PAGES = {"custo": "o custo de cada técnica", "velocidade": "a bancada de velocidade"}  # não são tarefas


def load() -> pd.DataFrame:
    """As afirmações, uma por linha: o número é o índice, e as colunas são as do arquivo, todas de texto."""
    return pd.read_csv(DATA / "afirmacoes.csv", index_col="número", keep_default_na=False)


def places(evidence: str) -> list[str]:
    """Os lugares de uma casa da coluna `evidência`; nenhum, se ela está vazia."""
    return evidence.split("; ") if evidence else []


def measured(tasks: Iterable[str]) -> set[tuple[str, str]]:
    """As experiências dessas tarefas que já têm teste, nos dados e nos pesos de hoje: {(tarefa, variante)}."""
    return {(task, row["variant"]) for task in tasks for row in results.current(task) if row["split"] == "test"}


def written(evidence: str, done: set[tuple[str, str]]) -> str:
    """Uma casa da coluna `evidência`, como se lê num caderno. done: o que `measured` devolve."""
    files: dict[str, list[str]] = {}
    for place in places(evidence):
        file, _, part = place.partition("#")
        files.setdefault(file, []).append(part)
    lines = []
    for file, parts in files.items():
        path = PurePosixPath(file)
        if path.suffix == ".ipynb":
            lines.append(f"[caderno {path.stem[:2]}](../{file}), " + " e ".join(f'"{part}"' for part in parts))
        elif path.suffix == ".jsonl" and path.stem in experiments.FAMILY:
            names = [experiments.get(path.stem, part).name for part in parts]
            marks = ["" if (path.stem, part) in done else " (a medir)" for part in parts]
            lines.append(f"[{path.stem}](../{file}): " + " · ".join(map("".join, zip(names, marks))))
        elif path.suffix in (".jsonl", ".md"):
            lines.append(f"[{PAGES.get(path.stem, parts[0])}](../{file})")
        else:
            lines.append(f"`{file}`")
    return "; ".join(lines) or "nenhuma medida nossa"


def markdown(*numbers: int) -> str:
    """As afirmações desses números, em Markdown; sem números, todas, depois da conta dos vereditos.

    Levanta ValueError se não há afirmação com um deles.
    """
    known = load()
    if missing := [number for number in numbers if number not in known.index]:
        raise ValueError(f"Não há afirmação {missing[0]!r}: elas vão de {known.index.min()} a {known.index.max()}.")
    chosen = known.loc[list(numbers)] if numbers else known
    cited = {PurePosixPath(place.partition("#")[0]).stem for row in chosen["evidência"] for place in places(row)}
    done = measured(cited & {*experiments.FAMILY})
    lines = []
    if not numbers:
        count = known["veredito"].value_counts()
        lines.append("\n".join(f"- **{name}** ({count[name]}): {meaning}." for name, meaning in VERDICTS.items()))
    for number, row in chosen.iterrows():
        lines.append(
            f"**{number}. {row['afirmação']}** *{row['veredito'].capitalize()}.* {row['o que é certo']} "
            f"Fonte: {row['fonte']}. Onde conferir: {written(row['evidência'], done)}."
        )
    return "\n\n".join(lines)
