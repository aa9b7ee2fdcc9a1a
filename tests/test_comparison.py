"""O caderno 12 com linhas inventadas de todas as experiências, com as que há hoje e sem nenhuma: enche-se sozinho."""

import ast
import io
import json
from contextlib import redirect_stdout

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from notebook_tools import NOTEBOOKS, code_cells, read, sections, tags

from ftcourse import benchmark, experiments, plots, results, tasks

[PATH] = [path for path in NOTEBOOKS if path.stem.startswith("12_")]
LIVE = ("training.train(", "live", "memory.plan(", "planned")  # o que treina, e a conta dos 7 bilhões
PRESENT = results.path


def answers(task, known, share, seed):
    """Respostas que acertam mais ou menos essa fração das frases."""
    right = np.random.default_rng(seed).random(len(known)) < share
    if task.labels:
        return "".join(str(label if ok else 1 - label) for label, ok in zip(known["label"], right))
    return [target if ok else "nada disso" for target, ok in zip(known["target"], right)]


def invented(name):
    """As linhas de uma tarefa inteira: a busca das taxas, com o melhor no meio, e o teste de cada semente."""
    task, origins = tasks.load(name), results.origins(name)
    known, rows = results.evaluated(task, "test"), []
    for i, experiment in enumerate(experiments.of(name)):
        where = origins[experiment.variant] | {"general_loss": 2 + 0.01 * i}
        for k, lr in enumerate(experiment.rates if len(experiment.rates) > 1 else ()):
            value = {"accuracy": 0.6 + 0.1 * (k == 1) + 0.001 * i, "loss": 2 - (k == 1) - 0.001 * i}
            metrics = dict.fromkeys(experiments.SOURCES[name], value)
            rows.append(experiment.job("validation", lr, seed=0) | {"metrics": metrics} | where)
        best = experiment.rates[len(experiment.rates) // 2] if experiment.rates else None
        for seed in experiment.seeds:
            given = answers(task, known, 0.55 + 0.02 * i, 10 * i + (seed or 0))
            row = experiment.job("test", best, seed=seed) | {"predictions": given} | where
            rows.append(
                row | {"metrics": benchmark.measure(task, known, given if not task.labels else [*map(int, given)])}
            )
    return rows


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resultados")
    for name in experiments.COMPARED:
        lines = [json.dumps(row) + "\n" for row in invented(name)]
        (folder / f"{name}.jsonl").write_text("".join(lines), "utf-8")
    return folder


def told(source, space):
    """O que uma célula escreve e o valor da última linha, como se lê."""
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    with redirect_stdout(io.StringIO()) as said:
        exec(compile(ast.Module(body, []), "12", "exec"), space)
        value = eval(compile(ast.Expression(last.value), "12", "eval"), space) if last else None
    shown = getattr(value, "data", None) if isinstance(getattr(value, "data", None), str) else None
    html = value.to_html() if hasattr(value, "to_html") else ""
    return said.getvalue() + (shown or html)


def run(monkeypatch, path):
    """As saídas do caderno, sem o que treina nem os exercícios, com as linhas de uma pasta: [(fonte, o que disse)]."""
    monkeypatch.setattr(results, "path", path)
    notebook = read(PATH)
    part, space, outputs = sections(notebook), {"__name__": "caderno"}, []
    skipped = {
        part[i]
        for i, cell in enumerate(notebook.cells)
        if i in part and any(s in cell.source for s in LIVE[:1] + LIVE[2:3])
    }
    with matplotlib.rc_context({"backend": "agg"}):
        for i, cell in enumerate(notebook.cells):
            if i not in part or "%pip" in cell.source or "exercicio" in tags(cell) or "balanco" in cell.source[:10]:
                continue
            if part[i] not in skipped and "import importlib" not in cell.source:
                outputs.append((cell.source, told(cell.source, space)))
    plt.close("all")
    return outputs, space


@pytest.fixture(autouse=True)
def own_predictions(tmp_path, monkeypatch):
    monkeypatch.setenv("FTCOURSE_PREVISOES", str(tmp_path / "previsoes.csv"))


def the(outputs, piece):
    [found] = [said for source, said in outputs if piece in source]
    return found


def test_with_every_row_nothing_is_left_to_measure(monkeypatch, everything):
    outputs, space = run(monkeypatch, lambda task: everything / f"{task}.jsonl")
    waiting = [
        said
        for source, said in outputs
        if "a medir" in said.replace("Ainda a medir: nada", "").replace("Ainda a medir, quanto se esquece: nada", "")
    ]
    assert waiting == []
    assert not any("nan" in said.lower().split() or "não é um número" in said for _, said in outputs)
    tree = the(outputs, "def branch(")
    assert tree.count("- *Hoje:*") == sum(len(row[2]) for row in space["TREE"]) and "existe" in tree
    assert "com 0," in the(outputs, "def flipped(") or "nenhum par" in the(outputs, "def flipped(")
    for found in (space["by_memory"], space["by_file"], space["learning"]):
        assert found[["cost", "value", "half"]].notna().all(axis=None)


def test_with_every_row_the_plots_have_every_technique(monkeypatch, everything):
    outputs, space = run(monkeypatch, lambda task: everything / f"{task}.jsonl")
    for found in (space["by_memory"], space["learning"]):
        ax = plots.pareto(found, results.front(found["cost"], found["value"]))
        assert {text.get_text() for text in ax.texts} == {*found.index}
    assert len(space["against"]) == len(experiments.of("aceitabilidade")) - 1


def test_with_the_present_rows_what_is_missing_is_said(monkeypatch):
    outputs, space = run(monkeypatch, PRESENT)
    for name in experiments.COMPARED:
        for title in results.waiting(name):
            assert any(title in said and "a medir" in said.lower() for _, said in outputs), title
    assert not any("não é um número" in said or "nan" in said.lower().split() for _, said in outputs)


def test_without_a_row_every_cell_says_that_it_waits(monkeypatch, tmp_path):
    outputs, space = run(monkeypatch, lambda task: tmp_path / f"{task}.jsonl")
    assert the(outputs, "def branch(").count("a medir") > 20
    for question in ("12.p1", "12.p3", "12.p4", "12.p5"):
        assert any(f"· {question}: a linha de que ela depende está a medir" in said for _, said in outputs)
    first = the(outputs, 'said = {"full"')
    assert first.count("a medir") == 6 * 3
