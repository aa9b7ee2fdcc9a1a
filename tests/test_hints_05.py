"""Os enganos típicos do caderno 05, e o que passa: test_hints.py os junta aos dos outros e os experimenta."""

import math

import torch

from ftcourse.exercises import CONSTANT, ROUNDED, UNKNOWN

USEFUL, NORM = 1e-3 / 8, 1e-3 / 8**0.5  # as duas taxas do exercício 2


def budget(r, d, f):
    return r * (8 * d + 2 * (d + f)) / (2 * (d + f))


def stacked(one, other, a=lambda s, w: s * w, b=lambda s, w: 1.0):
    A = torch.cat([adapter[0] * a(*adapter[2:]) for adapter in (one, other)])
    return A, torch.cat([adapter[1] * b(*adapter[2:]) for adapter in (one, other)], dim=1)


def built(a=lambda s, w: s * w, b=lambda s, w: 1.0):
    return lambda one, other: stacked(one, other, a, b)


TYPICAL = {
    "05.1": [
        (lambda r, d, f: r * (4 * d + 2 * (d + f)) / (2 * (d + f)), "faltam K e O"),
        (lambda r, d, f: r * (6 * d + 2 * (d + f)) / (2 * (d + f)), "faltou uma"),
        (lambda r, d, f: 2 * budget(r, d, f), "tem duas camadas, a de ida e a de volta"),
        (lambda r, d, f: r * (9 * d + f) / (d + f), "dos dois lados da conta"),
        (lambda r, d, f: r * 8 * d / (2 * (d + f)), "com o feed-forward dentro"),
        (lambda r, d, f: r * r / budget(r, d, f), "ao contrário"),
        (lambda r, d, f: r * (4 * d * d + 2 * d * f) / (2 * d * f), "os números de W"),
        (lambda r, d, f: r, "são menos parâmetros"),
        (lambda r, d, f: round(budget(r, d, f)), ROUNDED),
        (lambda r, d, f: math.ceil(budget(r, d, f)), ROUNDED),
        (lambda r, d, f: 3 * budget(r, d, f), UNKNOWN),
        (lambda r, d, f: 14, CONSTANT),
        (lambda r, d, f: f"{r}", "um texto"),
        (lambda r, d: r, "recebe r, d"),
        (14, "sem parênteses"),
    ],
    "05.2": [
        ((NORM, USEFUL), "trocadas"),
        ((1e-3, NORM), "parte útil ficou como era"),
        ((USEFUL, 1e-3), "norma ficou como era", "parte útil"),
        ((8e-3, NORM), "parte útil está ao contrário"),
        ((USEFUL, 1e-6 / NORM), "norma está ao contrário"),
        ((NORM, NORM), "parte útil é a da outra medida"),
        ((USEFUL, USEFUL), "norma é a da outra medida"),
        ((5e-4, NORM), "entra nela pela raiz"),
        ((7e-5, NORM), UNKNOWN),
        ((0, NORM), "maior que zero"),
        ((USEFUL, -NORM), "maior que zero"),
        ((float("nan"), NORM), "maior que zero"),
        (USEFUL, "são duas taxas"),
        (("0.000125", NORM), "um texto"),
    ],
    "05.3": [
        (built(lambda s, w: w), "faltam as escalas:"),
        (built(lambda s, w: s), "faltam os pesos da"),
        (built(lambda s, w: 1.0), "faltam as escalas e os pesos"),
        (built(lambda s, w: s * w, lambda s, w: w), "o peso entrou"),
        (built(lambda s, w: s * w, lambda s, w: s), "a escala entrou"),
        (built(lambda s, w: s * w, lambda s, w: s * w), "a escala e o peso entraram"),
        (built(lambda s, w: s * abs(w)), "o sinal se perdeu"),
        (lambda one, other: (stacked(one, other)[0], torch.cat([other[1], one[1]], dim=1)), UNKNOWN),
        (built(lambda s, w: 2 * s * w), UNKNOWN + ".*difere da soma"),
        (lambda one, other: one[0], "são dois tensores"),
        (lambda one, other: (one[0], one[1]), "só o primeiro adaptador"),
        (lambda one, other: (one[0].T, one[1]), "uma coluna para cada entrada"),
        (lambda one, other: (one[0] + other[0], one[1] + other[1]), "não se combinam"),
        (lambda one, other: (stacked(one, other)[0], other[1]), "uma coluna para cada linha de A"),
        (lambda one, other: (one[0].mul_(2), one[1]), "mudou o que recebeu"),
    ],
}
RIGHT = {
    "05.1": [
        budget,
        lambda r, d, f: r + r * 4 * d / (d + f),
        lambda r, d, f: torch.tensor(budget(r, d, f), dtype=torch.float64),
    ],
    "05.2": [(USEFUL, NORM), [1.25e-4, 3.54e-4], torch.tensor([USEFUL, NORM])],
    "05.3": [
        stacked,
        built(lambda s, w: 1.0, lambda s, w: s * w),
        built(lambda s, w: w, lambda s, w: s),
        lambda one, other: (torch.eye(one[0].shape[1]), sum(s * w * B @ A for A, B, s, w in (one, other))),
    ],
}
