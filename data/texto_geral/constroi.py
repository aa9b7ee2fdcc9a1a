"""Escolhe os parágrafos de *texto_geral*: o que um modelo já sabia, para medir o que um ajuste o fez esquecer.

    python data/texto_geral/constroi.py CORPUS [DESTINO]

CORPUS é a pasta de textos do pré-treino. Saem dela só parágrafos que ele reservou (`is_held_out`, em corpus.py), sem
frase de tarefa, e só de onde a licença deixa republicar um parágrafo solto.
"""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

from ftcourse.files import DATA, write_jsonl

HERE = Path(__file__).resolve().parent
EACH, MAX_WORDS = 100, 100
# Até que parágrafo se lê: os primeiros de `documentacao` são todos de um repositório só, com licença conhecida.
SOURCES = {"literatura": None, "documentacao": 70_000}


def build(corpus):
    """As linhas, EACH de cada fonte: os parágrafos reservados de resumo menor, na ordem do resumo."""
    rules = SimpleNamespace(**runpy.run_path(str(DATA / "modelos" / "corpus.py")))
    contamination = rules.Contamination(rules.task_sentences([DATA / "tarefas"]))
    rows = []
    for source, end in SOURCES.items():
        paragraphs = list(dict.fromkeys(rules.read_lines(corpus / f"{source}.txt.xz")))[:end]
        reserved = [p for p in paragraphs if rules.is_held_out(p) and p not in contamination]
        short = sorted((p for p in reserved if len(p.split()) <= MAX_WORDS), key=rules.digest)
        rows += [{"paragraph": p, "source": source} for p in short[:EACH]]
        print(f"{source}: {len(reserved)} parágrafos reservados, {len(short)} de até {MAX_WORDS} palavras")
    return rows


def main(arguments):
    if not 1 <= len(arguments) <= 2:
        sys.exit(f"Uso: python {Path(__file__).name} CORPUS [DESTINO]")
    corpus, target = Path(arguments[0]), Path(arguments[1]) if arguments[1:] else HERE
    if missing := [f"{source}.txt.xz" for source in SOURCES if not (corpus / f"{source}.txt.xz").is_file()]:
        sys.exit(
            f"A pasta '{corpus}' não serve: falta {', '.join(missing)}. "
            f"Passe o caminho da pasta de textos do pré-treino: python {Path(__file__).name} CORPUS [DESTINO]"
        )
    write_jsonl(target / "test.jsonl", build(corpus))


if __name__ == "__main__":
    main(sys.argv[1:])
