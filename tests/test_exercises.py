"""Os exercícios: o esboço espera, a resposta errada recebe uma dica, a solução de cada caderno passa."""

import math
import statistics
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
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


def unassigned():
    total += 1  # noqa: F821, F841


ONE, TWO, SIZE = torch.ones(5), torch.ones(2, 3), 2
BROKEN = [
    (lambda: ONE + torch.ones(4), "um com 5 números num eixo e o outro com 4"),
    (lambda: TWO @ TWO, "as formas 2x3 e 2x3 não se multiplicam"),
    (lambda: TWO @ ONE, "as formas 2x3 e 5 não se multiplicam"),
    (lambda: ONE @ torch.ones(4), "têm tamanhos diferentes"),
    (lambda: ONE.view(2, 3), "a forma [2, 3] não serve para 5 números"),
    (lambda: torch.cat([TWO, torch.ones(3, 4)]), "têm tamanhos diferentes"),
    (lambda: torch.stack([ONE, torch.ones(4)]), "têm tamanhos diferentes"),
    (lambda: ONE.sum(dim=1), "um eixo que o tensor não tem"),
    (lambda: ONE[0, 0], "um eixo que o tensor não tem"),
    (lambda: TWO @ TWO.T.long(), "são de tipos diferentes"),
    (lambda: ONE.long().mul_(0.5), "são de tipos diferentes"),
    (lambda: 1 if ONE > 0 else 0, "um if recebeu vários números"),
    (lambda: 1 if np.ones(2) > 0 else 0, "um if recebeu vários números"),
    (lambda: float(ONE), "vários números estão onde cabe um só"),
    (lambda: ONE.item(), "vários números estão onde cabe um só"),
    (lambda: float(np.ones(2)), "vários números estão onde cabe um só"),
    (lambda: torch.sqrt(2.0), "esperava um tensor e recebeu um float"),
    (lambda: ONE[9], "um índice passou do fim"),
    (lambda: [][0], "um índice passou do fim"),
    (lambda: {}["r"], "a chave 'r' não existe"),
    (lambda: 1 / 0, "uma divisão por zero"),
    (lambda: math.sqrt(-1), "a raiz de um negativo"),
    (lambda: statistics.NormalDist().inv_cdf(1), "o quantil de 0 ou de 1"),
    (lambda: d_ff, "o nome d_ff não existe"),  # noqa: F821
    (unassigned, "a variável total foi usada antes"),
    (lambda: __import__("torxh"), "não há um módulo torxh"),
    (lambda: ONE.giro(), "Tensor não tem .giro"),
    (lambda: torch.giro(), "torch não tem .giro"),
    (lambda: 1 + "1", "a conta + não se faz entre int e str"),
    (lambda: SIZE(3), "parênteses depois de algo que não é função, e sim int"),
    (lambda: SIZE[0], "um int foi usado como se tivesse vários valores"),
    (lambda: [*SIZE], "um int foi usado como se tivesse vários valores"),
    (lambda: (lambda a, b: 0)(*[1]), "argumentos que ela não aceita"),
    (lambda: len(1, 2), "len foi chamada com argumentos que ela não aceita"),
    (lambda: [0 for a, b in [(1,)]], "mais nomes do que valores"),
    (lambda: int("dois"), "um valor que ela não aceita (ValueError). Chame-a numa célula"),
    (lambda: torch.ones(-1), "torch recusou uma conta (RuntimeError)"),
]


@pytest.mark.parametrize("broken, words", BROKEN, ids=[words for _, words in BROKEN])
def test_an_error_is_told_in_portuguese(broken, words):
    with pytest.raises(Exception) as caught:
        broken()
    assert words in exercises.explained(caught.value)


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
