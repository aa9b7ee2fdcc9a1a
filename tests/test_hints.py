"""Cada engano típico recebe a dica que é dele, e não outra."""

import math
from statistics import NormalDist

import pytest

from ftcourse import exercises

phi = NormalDist().cdf
TYPICAL = {
    "00.1": [
        (lambda s, h: -s.sum(), "tamanho"),
        (lambda s, h: -(s - h).sum(), "tamanho"),
        (lambda s, h: -s.max(), "palavra rara"),
        (lambda s, h: -s.mean(), "palavra rara"),
        (lambda s, h: -(s - h).mean(), "dilui"),
        (lambda s, h: -(s.max() - h.mean()), "cada posição"),
        (lambda s, h: -(s.max() - h[s.argmax()]), "cada posição"),
        (lambda s, h: (s - h).max(), "sinal"),
        (lambda s, h: 1.0, "não muda"),
        (3.0, "sem parênteses"),
    ],
    "00.2": [
        ((0.5, 0), "80 certas"),
        ((80, 0), "0 a 1"),
        ((0.2, 0), "com falha"),
        ((0.8, 0.8), "associação"),
        (0.8, "dois números"),
    ],
    "00.3": [
        (lambda d, s: phi(d / s), "meio de uma das classes"),
        (lambda d, s: phi(d / (math.sqrt(2) * s)), "AUC"),
        (lambda d, s: 1 - phi(d / (2 * s)), "erros"),
        (lambda d, s: d / s, "corte no meio"),
        (lambda d, s: 1 / 0, "ZeroDivisionError"),
    ],
    "04.1": [
        (lambda x, W, A, B, a: x @ W.T + a * (x @ A.T) @ B.T, "sem dividir por r"),
        (lambda x, W, A, B, a: x @ W.T + (x @ A.T) @ B.T, "falta a escala"),
        (lambda x, W, A, B, a: a / len(A) * (x @ A.T) @ B.T, "falta Wx"),
        (lambda x, W, A, B, a: a / len(A) * (x @ W.T + (x @ A.T) @ B.T), "só para BAx"),
        (lambda x, W, A, B, a: x @ W.T + a / len(A) ** 0.5 * (x @ A.T) @ B.T, "rsLoRA"),
        (lambda x, W, A, B, a: x @ W.T + a / A.shape[1] * (x @ A.T) @ B.T, "não é d_in"),
        (lambda x, W, A, B, a: x @ W.T + a / len(B) * (x @ A.T) @ B.T, "não é d_out"),
        (lambda x, W, A, B, a: x @ W.T, "sem LoRA"),
        (lambda x, W, A, B, a: x @ W.T + a / len(A) * (x @ B.T) @ A.T, "não se encaixam"),
        (lambda x, W, A, B, a: (x @ W.T).T, "a forma"),
        (lambda x, W, A, B, a: x @ W.T - (x @ A.T) @ B.T, "difere"),
        (lambda x, W, A, B, a: x @ W.T + a // len(A) * (x @ A.T) @ B.T, "difere"),
        (lambda x, W, A, B, a: x @ W.add_(a / len(A) * B @ A).T, "mudou um tensor"),
        (lambda x, W, A, B, a: (x @ W.T).numpy(), "ndarray"),
        (3.0, "sem parênteses"),
    ],
    "04.2": [
        ((8, 8), "a norma cai"),
        ((128, 128), "se multiplica por 4"),
        ((8, 32), "trocados"),
        ((2, 8), "inverso"),
        ((32, 32), "não depende de r"),
        ((20, 8), "não conserva"),
        ((32, 9), "proporcional a α"),
        (32, "dois números"),
    ],
    "04.3": [
        (lambda r, a, d: a**2 / (3 * d * r), "inverso"),
        (lambda r, a, d: d * r / a**2, "variância"),
        (lambda r, a, d: 3 * d / a, "uma vez"),
        (lambda r, a, d: 3 * d * r**2 / a**2, "soma r linhas"),
        (lambda r, a, d: 3 * d / r, "ao quadrado"),
        (lambda r, a, d: 3 * d / a**2, "rsLoRA"),
        (lambda r, a, d: 24, "veio 24"),
        (24, "sem parênteses"),
    ],
}
RIGHT = {
    "00.1": lambda s, h: -(s - h).max(),
    "00.2": (0.8, 0),
    "00.3": lambda d, s: phi(d / (2 * s)),
    "04.1": lambda x, W, A, B, a: x @ W.T + a / len(A) * x @ A.T @ B.T,
    "04.2": (32, 8),
    "04.3": lambda r, a, d: 3 * d * r / a**2,
}
CASES = [(exercise, answer, hint) for exercise, cases in TYPICAL.items() for answer, hint in cases]


@pytest.fixture(autouse=True)
def first_attempt(monkeypatch):
    monkeypatch.setattr(exercises, "_attempts", type(exercises._attempts)())


@pytest.mark.parametrize(("exercise", "answer", "hint"), CASES)
def test_a_typical_mistake_gets_its_own_hint(exercise, answer, hint):
    right, text = exercises.judge(exercise, answer)
    assert right is False and hint in text


@pytest.mark.parametrize("exercise", RIGHT)
def test_the_right_answer_is_right(exercise):
    assert exercises.judge(exercise, RIGHT[exercise])[0] is True


@pytest.mark.parametrize(
    ("exercise", "answer"), [("00.1", ...), ("00.1", lambda s, h: ...), ("00.2", (..., 0)), ("04.2", [..., 8])]
)
def test_no_answer_is_not_a_wrong_answer(exercise, answer):
    assert exercises.judge(exercise, answer)[0] is None


def test_the_second_attempt_gets_a_clearer_hint():
    first, second = (exercises.judge("00.2", (0.8, 0.8))[1] for _ in range(2))
    assert first != second and "sem olhar a frase" in second
