"""Constrói a tarefa *habilidade_bncc*: escrever uma habilidade da BNCC a partir de componente, ano e objeto.

    python data/tarefas/habilidade_bncc/constroi.py PASTA_BRUTA [DESTINO]

Fonte, em PASTA_BRUTA: `bncc_ef.tsv.xz`, a mesma de *bncc_componente*. As habilidades que têm um objeto de conhecimento
em comum, e as quase iguais, ficam na mesma parte; e uma habilidade está aqui na parte em que está lá, ou não está: quem
treina as duas tarefas sobre a mesma base não viu o teste de nenhuma.
"""

import runpy
import sys
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import scipy.sparse

from ftcourse.files import write_jsonl

HERE = Path(__file__).resolve().parent
MAX_WORDS, MAX_OBJECT_WORDS = 80, 30  # pedido e resposta cabem em 256 tokens
PARTS = ("test", "validation", "train")  # num empate, o grupo vai para a parte menor
bncc = SimpleNamespace(**runpy.run_path(str(HERE.parent / "bncc_componente" / "constroi.py")))


def years(numbers):
    """ "5" → "5º ano"; "8/9" → "8º e 9º anos"; "6/7/8/9" → "6º ao 9º ano"."""
    first, *others = numbers.split("/")
    if not others:
        return f"{first}º ano"
    return f"{first}º ao {others[-1]}º ano" if others[1:] else f"{first}º e {others[0]}º anos"


def subjects(skill):
    """Os objetos de conhecimento de uma habilidade."""
    return [part.strip() for part in skill["objetos_de_conhecimento"].split("|")]


def groups_of(skills):
    """Número do grupo de cada habilidade: liga as que têm um objeto do mesmo componente em comum e as quase iguais."""
    alike = bncc.groups_of([skill["texto"] for skill in skills])
    keys, edges = {}, []
    for place, (skill, group) in enumerate(zip(skills, alike, strict=True)):
        for key in (group, *((skill["componente"], subject.casefold()) for subject in subjects(skill))):
            edges.append((place, len(skills) + keys.setdefault(key, len(keys))))
    size = len(skills) + len(keys)
    graph = scipy.sparse.coo_matrix((np.ones(len(edges)), np.transpose(edges)), shape=(size, size))
    return scipy.sparse.csgraph.connected_components(graph, directed=False)[1][: len(skills)]


def fits(skill):
    """Se pedido e resposta são curtos o bastante."""
    words = len(skill["texto"].split()), len("; ".join(subjects(skill)).split())
    return words[0] <= MAX_WORDS and words[1] <= MAX_OBJECT_WORDS


def build(raw):
    """(parte → linhas, quantas ficaram fora por motivo)"""
    skills, out = bncc.read_skills(raw / bncc.RAW_NAME), Counter()
    published = {row["text"]: name for name, rows in bncc.build(raw).items() for row in rows}
    members = defaultdict(list)
    for skill, group in zip(skills, groups_of(skills), strict=True):
        members[group].append(skill)
    table = {name: [] for name in reversed(PARTS)}
    for group in members.values():
        parts = Counter(published[skill["texto"]] for skill in group)
        part = max(PARTS, key=parts.__getitem__)
        for skill in group:
            if published[skill["texto"]] != part:
                out["em outra parte de bncc_componente"] += 1
            elif not fits(skill):
                out["longas"] += 1
            else:
                row = {"text": skill["texto"], "componente": skill["componente"], "ano": years(skill["anos"])}
                row |= {"objeto": "; ".join(subjects(skill)), "codigo": skill["codigo"], "group": group[0]["codigo"]}
                table[part].append(row)
    return {name: sorted(rows, key=lambda row: row["codigo"]) for name, rows in table.items()}, out


def markdown_counts(table, out):
    counts = {name: Counter(row["componente"] for row in rows) for name, rows in table.items()}
    lines = [["componente", *table], ["---", *["---:"] * len(table)]]
    for component in sorted(set().union(*counts.values())):
        lines.append([component, *(counts[name][component] for name in table)])
    lines.append(["total", *(len(rows) for rows in table.values())])
    lines.append(["grupos", *(len({row["group"] for row in rows}) for rows in table.values())])
    body = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
    return body + "\n\nFora: " + ", ".join(f"{n} {reason}" for reason, n in out.items()) + "."


def main(arguments):
    if not 1 <= len(arguments) <= 2:
        sys.exit(f"Uso: python {Path(__file__).name} PASTA_BRUTA [DESTINO]")
    raw, target = Path(arguments[0]), Path(arguments[1]) if arguments[1:] else HERE
    if not (raw / bncc.RAW_NAME).is_file():
        sys.exit(
            f"A pasta '{raw}' não serve: falta {bncc.RAW_NAME}, as habilidades da BNCC. "
            f"Passe o caminho da pasta que o contém: python {Path(__file__).name} PASTA_BRUTA [DESTINO]"
        )
    table, out = build(raw)
    for name, rows in table.items():
        write_jsonl(target / f"{name}.jsonl", rows)
    print(markdown_counts(table, out))


if __name__ == "__main__":
    main(sys.argv[1:])
