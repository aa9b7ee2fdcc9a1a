"""Constrói a tarefa *bncc_componente*: de que componente curricular é esta habilidade da BNCC?

    python data/tarefas/bncc_componente/constroi.py PASTA_BRUTA [DESTINO]

Fonte, em PASTA_BRUTA: `bncc_ef.tsv.xz`, as 1.304 habilidades do Ensino Fundamental (dados estruturados por bncc.dev,
CC BY 4.0). Habilidades quase iguais ficam na mesma parte: quem decorou uma não acerta a irmã no teste.
"""

import csv
import hashlib
import lzma
import re
import sys
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

from ftcourse.files import write_jsonl

HERE = Path(__file__).resolve().parent
RAW_NAME = "bncc_ef.tsv.xz"
SHARES = {"train": 0.70, "validation": 0.10, "test": 0.20}
ALIKE = 0.7  # semelhança de Jaccard entre os conjuntos de palavras a partir da qual duas habilidades andam juntas


def read_skills(path):
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def word_set(text):
    return frozenset(re.findall(r"\w+", text.lower()))


def groups_of(texts):
    """Número do grupo de cada texto: os quase iguais, e os quase iguais a esses, ficam juntos (união e busca)."""
    parent = list(range(len(texts)))

    def root(place):
        while parent[place] != place:
            place = parent[place]
        return place

    sets = [word_set(text) for text in texts]
    for first, second in combinations(range(len(texts)), 2):
        common = len(sets[first] & sets[second])
        if common >= ALIKE * (len(sets[first]) + len(sets[second]) - common):
            parent[root(second)] = root(first)
    return [root(place) for place in range(len(texts))]


def order_key(text):
    """Um sorteio próprio de cada habilidade, igual em toda execução."""
    return hashlib.sha256(text.encode()).digest()


def splits_of(rows):
    """Parte de cada grupo: cada um vai para a parte a que mais falta do seu componente."""
    members = defaultdict(list)
    for row in rows:
        members[row["group"]].append(row)
    totals = Counter(row["componente"] for row in rows)
    filled, split = Counter(), {}
    # Os grupos grandes primeiro: depois deles ainda há com que acertar as proporções.
    for group in sorted(members, key=lambda group: (-len(members[group]), order_key(members[group][0]["text"]))):
        component = Counter(row["componente"] for row in members[group]).most_common(1)[0][0]
        split[group] = max(SHARES, key=lambda name: SHARES[name] - filled[name, component] / totals[component])
        for row in members[group]:
            filled[split[group], row["componente"]] += 1
    return split


def build(raw):
    """parte → linhas"""
    skills = read_skills(raw / RAW_NAME)
    names = sorted({skill["componente"] for skill in skills})
    groups = groups_of([skill["texto"] for skill in skills])
    rows = []
    for skill, group in zip(skills, groups, strict=True):
        component = skill["componente"]
        row = {"text": skill["texto"], "label": names.index(component), "componente": component}
        rows.append(row | {"group": skills[group]["codigo"]})
    split = splits_of(rows)
    return {name: [row for row in rows if split[row["group"]] == name] for name in SHARES}


def markdown_counts(table):
    counts = {name: Counter((row["label"], row["componente"]) for row in rows) for name, rows in table.items()}
    lines = [["rótulo", "componente", *table], ["---:", "---", *["---:"] * len(table)]]
    for key in sorted(set().union(*counts.values())):
        lines.append([*key, *(counts[name][key] for name in table)])
    lines.append(["", "total", *(len(rows) for rows in table.values())])
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def main(arguments):
    if not 1 <= len(arguments) <= 2:
        sys.exit(f"Uso: python {Path(__file__).name} PASTA_BRUTA [DESTINO]")
    raw, target = Path(arguments[0]), Path(arguments[1]) if arguments[1:] else HERE
    if not (raw / RAW_NAME).is_file():
        sys.exit(
            f"A pasta '{raw}' não serve: falta {RAW_NAME}, as habilidades da BNCC. "
            f"Passe o caminho da pasta que o contém: python {Path(__file__).name} PASTA_BRUTA [DESTINO]"
        )
    table = build(raw)
    for name, rows in table.items():
        write_jsonl(target / f"{name}.jsonl", rows)
    print(markdown_counts(table))


if __name__ == "__main__":
    main(sys.argv[1:])
