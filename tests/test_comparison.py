"""O caderno 12 com linhas inventadas de todas as experiências, com as que há hoje e sem nenhuma: enche-se sozinho."""

import ast
import io
import json
import re
from contextlib import redirect_stdout

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from notebook_tools import NOTEBOOKS, read, sections, tags

from ftcourse import benchmark, experiments, plots, results, tasks

[PATH] = [path for path in NOTEBOOKS if path.stem.startswith("12_")]
LONG = ("training.train(", "memory.plan(")  # as seções que treinam e a da conta dos 7 bilhões
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:No artists with labels")]


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


def run(folder, predictions):
    """Roda o caderno, sem o que treina nem os exercícios: o que cada célula disse, {fonte: texto}, e os seus nomes.

    folder: a pasta das linhas; None, as de hoje.
    """
    notebook, outputs = read(PATH), {}
    space: dict = {"__name__": "caderno"}
    part = sections(notebook)
    long = {part[i] for i in part if any(piece in notebook.cells[i].source for piece in LONG)}
    with pytest.MonkeyPatch.context() as patch, matplotlib.rc_context({"backend": "agg"}):
        patch.setenv("FTCOURSE_PREVISOES", str(predictions / "previsoes.csv"))
        if folder:
            patch.setattr(results, "path", lambda task: folder / f"{task}.jsonl")
        for i in part:
            source = notebook.cells[i].source
            if part[i] not in long and "%pip" not in source and "exercicio" not in tags(notebook.cells[i]):
                outputs[source] = told(source, space)
    plt.close("all")
    return outputs, space


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """O caderno com uma linha inventada para cada execução da comparação."""
    folder = tmp_path_factory.mktemp("resultados")
    for name in experiments.COMPARED:
        lines = [json.dumps(row) + "\n" for row in invented(name)]
        (folder / f"{name}.jsonl").write_text("".join(lines), "utf-8")
    return run(folder, folder)


def the(outputs, piece):
    [found] = [said for source, said in outputs.items() if piece in source]
    return found


def test_with_every_row_nothing_is_left_to_measure(everything):
    outputs, space = everything
    said = "\n".join(text for source, text in outputs.items() if "claims.markdown()" not in source)
    assert "a medir" not in re.sub(r"Ainda a medir[^:]*: nada", "", said)
    assert "nan" not in re.split(r"\W+", said) and "não é um número" not in said and "não se tentou" in said
    tree = the(outputs, "last = ")
    assert tree.count("- *Hoje:*") == sum(len(row[2] + row[3]) for row in space["TREE"]) and "existe" in tree


def test_with_every_row_the_plots_have_every_technique(everything):
    _, space = everything
    for found in (space["by_memory"], space["by_file"], space["learning"]):
        ax = plots.pareto(found, results.front(found["cost"], found["value"]))
        assert {text.get_text() for text in ax.texts} == {*found.index}
    plt.close("all")
    assert len(space["against"]) == len(experiments.of("aceitabilidade")) - 1


def test_with_the_present_rows_what_is_missing_is_said(tmp_path):
    outputs, _ = run(None, tmp_path)
    said = "\n".join(outputs.values())
    assert "nan" not in re.split(r"\W+", said) and "não é um número" not in said
    for title in (title for name in experiments.COMPARED for title in results.waiting(name)):
        assert any(title in text and "a medir" in text.lower() for text in outputs.values()), title


def test_without_a_row_every_table_says_that_it_waits(tmp_path):
    outputs, _ = run(tmp_path, tmp_path)
    said = "\n".join(outputs.values())
    assert "nan" not in re.split(r"\W+", said) and "não é um número" not in said
    assert the(outputs, "last = ").count("a medir") > 20
    for question in ("12.p1", "12.p3", "12.p4", "12.p5"):
        assert f"· {question}: a linha de que ela depende está a medir" in said
    assert the(outputs, 'said = {"full"').count("a medir") == 6 * 3
