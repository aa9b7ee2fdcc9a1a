"""As tarefas do curso: dados reais em português, ou os seus, prontos para treinar e medir.

task = tasks.load("aceitabilidade")     # de um texto para um rótulo
task.train[0]                           # {"text": …, "label": …, "source": …}
tasks.load("meus.csv", text="frase", label="classe")            # a mesma coisa, com os seus dados
task = tasks.load("corrija")            # de um texto para outro: ver text_tasks
task.train[0]                           # {"input": "corrija: …", "target": …, "given": …, "kind": …, "source": …}
baselines.tfidf(task, task.test)        # o que se consegue sem rede neural na mesma divisão
"""

import json
from pathlib import Path
from typing import Any

import datasets

from ftcourse import own_data
from ftcourse.files import DATA, choose
from ftcourse.task import Task
from ftcourse.text_tasks import WRITTEN, Paragraphs

LABELS = {
    "aceitabilidade": ("com falha", "bem escrita"),
    "bncc_componente": (
        "Arte", "Ciências", "Educação Física", "Ensino Religioso", "Geografia", "História",
        "Língua Inglesa", "Língua Portuguesa", "Matemática",
    ),
}  # fmt: skip
TASKS = (*LABELS, *WRITTEN)


def load(name: str, **columns: Any) -> Task:
    """A tarefa de nome `name`, lida de data/tarefas, ou a que se faz dos dados de quem lê: ver `own_data.read_source`.

    Levanta ValueError, com as que existem, se não a conhece, e o que `own_data.read_source` levanta.
    """
    if name not in TASKS and own_data.is_source(name):
        own, labels, splits = own_data.read_source(name, **columns)
        return Task(own, labels, **splits)
    if columns:
        raise ValueError(f"{', '.join(columns)} valem para os seus dados; a tarefa {name!r} já tem as colunas dela.")
    if choose("a tarefa", name, TASKS) in LABELS:
        return Task(name, LABELS[name], **read(DATA / "tarefas" / name))
    folder, kind = WRITTEN[name]
    return kind(name, (), **read(DATA / "tarefas" / folder, kind))


def general_text() -> Paragraphs:
    """Os parágrafos reservados de data/texto_geral, como uma tarefa que só tem teste: não se treina nela."""
    return Paragraphs("texto_geral", (), None, None, **read(DATA / "texto_geral", Paragraphs))


def read(folder: Path, kind: type[Task] = Task) -> dict[str, datasets.Dataset]:
    """{divisão: datasets.Dataset} dos .jsonl de uma pasta, cada linha como `kind.row` a faz.

    Em memória, sem o cache de datasets: ele pede uma pasta em que se grave, e não veria uma mudança nesta casa.
    """
    splits = {}
    for split in own_data.SPLITS:
        paths = sorted(folder.rglob(f"{split}.jsonl"))
        lines = [line for path in paths for line in path.read_text(encoding="utf-8").split("\n") if line]
        if rows := [row for line in lines if (row := kind.row(json.loads(line)))]:
            splits[split] = datasets.Dataset.from_list(rows)
    return splits
