"""Os exercícios: o esboço espera, a resposta errada recebe uma dica, a solução de cada caderno passa."""

import sys
from types import ModuleType

import numpy as np
import pytest
from notebook_tools import NOTEBOOKS, code_cells, failed, read, rehearse, tags, text

from ftcourse import exercises, verifica
from ftcourse.exercises import Wrong

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

# ---------------------------------------------------------------- verifica


def exercise(answer):
    """Certo se a resposta, chamada, dá 42."""
    if callable(answer):
        answer = answer()
    if answer == 42:
        return "isso."
    raise Wrong("não é isso.", "é o dobro de 21.", "é 42.")


@pytest.fixture(autouse=True)
def notebook(monkeypatch):
    """Um caderno 99 com um exercício, e as tentativas a zero."""
    module = ModuleType("ftcourse.exercises.nb99")
    module.exercise_1 = exercise
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delenv("FTCOURSE_RIGOR", raising=False)
    exercises._attempts.clear()


def test_the_right_answer_passes_also_under_rigour(capsys, monkeypatch):
    verifica("99.1", 42)
    monkeypatch.setenv("FTCOURSE_RIGOR", "1")
    verifica("99.1", 42)
    assert capsys.readouterr().out == "✓ 99.1: isso.\n" * 2


def test_each_wrong_answer_gets_one_more_hint(capsys):
    for _ in range(4):
        verifica("99.1", 41)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"✗ 99.1: {hint}" for hint in ("não é isso.", "é o dobro de 21.", "é 42.", "é 42.")]


@pytest.mark.parametrize("answer", [..., (..., 42), (1, ...)])
def test_a_stub_waits(capsys, answer):
    verifica("99.1", answer)
    assert capsys.readouterr().out.startswith("· 99.1: ainda sem resposta")


@pytest.mark.parametrize("answer", [(np.zeros(3), 42), np.zeros(3), {"a": ...}], ids=str)
def test_any_value_may_be_an_answer(capsys, answer):
    verifica("99.1", answer)
    assert capsys.readouterr().out.startswith("✗ 99.1: ")


@pytest.mark.parametrize("name", ["99.2", "98.1", "99", "", "1.99", None, 99.1 + 1e-9])
def test_an_unknown_exercise_is_told_with_the_form_of_the_names(capsys, name):
    verifica(name, 42)
    out = capsys.readouterr().out
    assert out.startswith("✗") and "Os nomes são como 00.1" in out and repr(name) in out


def test_the_error_of_the_learner_becomes_a_hint(capsys):
    verifica("99.1", lambda: 1 / 0)
    assert capsys.readouterr().out == "✗ 99.1: a sua resposta levou a um erro: há uma divisão por zero.\n"


@pytest.mark.parametrize("name, answer", [("99.1", 41), ("99.1", ...), ("99.1", lambda: 1 / 0), ("99.2", 42)])
def test_under_rigour_whatever_is_not_right_raises(monkeypatch, name, answer):
    monkeypatch.setenv("FTCOURSE_RIGOR", "1")
    with pytest.raises(AssertionError, match=name):
        verifica(name, answer)


# ---------------------------------------------------------------- os exercícios de cada caderno


def roles(path, role):
    return [cell for cell in rehearse(path) if cell.metadata["papel"] == role]


@each
def test_a_notebook_has_exercises(path):
    assert any("exercicio" in tags(cell) for cell in code_cells(read(path)))


@pytest.mark.slow
@each
def test_a_stub_runs_as_it_stands_and_waits(path):
    for cell in roles(path, "esboço"):
        assert not failed(cell) and "ainda sem resposta" in text(cell), cell.source


@pytest.mark.slow
@each
def test_a_stub_raises_under_rigour(path):
    for cell in roles(path, "rigor"):
        assert failed(cell) and "ainda sem resposta" in text(cell), cell.source


@pytest.mark.slow
@each
def test_a_solution_passes_under_rigour(path):
    for cell in roles(path, "solução"):
        assert not failed(cell) and "✓" in text(cell), f"{cell.source}\n{text(cell)}"
