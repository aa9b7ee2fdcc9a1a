"""Os enganos típicos do caderno 03, e o que passa: test_hints.py os junta aos dos outros e os experimenta."""

from fractions import Fraction

import numpy as np
import torch

from ftcourse.exercises import CONSTANT, UNKNOWN


def climb(peak, capacity, first=0):
    batch = first
    while peak(batch + 1) <= capacity:
        batch = batch + 1
    return batch


def until_it_breaks(peak, capacity):
    batch = 1
    while peak(batch) <= capacity:
        batch = batch + 1
    return batch


def strictly(peak, capacity):
    batch = 0
    while peak(batch + 1) < capacity:
        batch = batch + 1
    return batch


def endless(peak, capacity):
    while True:
        peak(1)


TYPICAL = {
    "03.1": [
        (lambda n, b, t: n * b + 12 * t, "faltam 4 bytes por parâmetro"),
        (lambda n, b, t: n * b + 8 * t, "falta o otimizador"),
        (lambda n, b, t: n * b + 4 * t, "faltam os gradientes e o otimizador"),
        (lambda n, b, t: (b + 12) * n + 16 * t, "a base não treina"),
        (lambda n, b, t: 16 * (n + t), "a base está congelada"),
        (lambda n, b, t: 16 * t, "falta a base"),
        (lambda n, b, t: n * b + t * (2 * b + 8), "está em float32"),
        (lambda n, b, t: n + t, "e não os bytes"),
        (lambda n, b, t: (n * b + 16 * t) / 1e6, UNKNOWN),
        (lambda n, b, t: 3e6, CONSTANT),
        (lambda n, b, t: f"{n * b + 16 * t}", "um texto"),
        (lambda n, b, t: None, "falta o return"),
        (lambda n, b: n * b, "a sua função recebe n, b"),
        (13.8e9, "sem parênteses"),
    ],
    "03.2": [
        (lambda trained, layers: layers - min(trained), "min recebeu uma lista vazia"),
        (lambda t, n: len(t), "quantas camadas treinam"),
        (lambda t, n: n - max(t) if t else 0, "na camada mais alta"),
        (lambda t, n: n - min(t) - 1 if t else 0, "também guarda"),
        (lambda t, n: min(t) if t else 0, "embaixo da mais funda"),
        (lambda t, n: max(t) - min(t) + 1 if t else 0, "da mais funda à mais alta"),
        (lambda t, n: n - min(t, default=0), "não há volta"),
        (lambda t, n: n - min(t), "parou num erro"),
        (lambda t, n: n - t[0] if t else 0, UNKNOWN),
        (lambda t, n: (t.sort(), n - t[0] if t else 0)[1], "mudou o que recebeu"),
        (lambda t, n: n, UNKNOWN),
        (lambda t, n: 6, CONSTANT),
        (lambda t, n: [n - min(t)] if t else 0, "um número"),
    ],
    "03.3": [
        (until_it_breaks, "o primeiro que já não cabe"),
        (strictly, "compare com <="),
        (lambda peak, capacity: climb(peak, capacity, 1), "a resposta é 0"),
        (lambda peak, capacity: max(0, climb(peak, capacity) - 1), "parou um antes"),
        (lambda peak, capacity: capacity // peak(1) if peak(1) else 0, UNKNOWN),
        (lambda peak, capacity: max([b for b in range(1, 32) if peak(b) <= capacity], default=0), UNKNOWN),
        (endless, "não parou"),
        (lambda peak, capacity: peak(1.5), "número inteiro de frases"),
        (lambda peak, capacity: peak("1"), "número inteiro de frases"),
        (lambda peak, capacity: 4, CONSTANT),
        (lambda peak, capacity: None, "falta o return"),
        (lambda peak: 1, "a sua função recebe peak"),
    ],
}
RIGHT = {
    "03.1": [
        lambda n, b, t: n * b + 16 * t,
        lambda n, b, t: np.float64(n * b + 16 * t),
        lambda n, b, t: Fraction(n) * Fraction(b) + 16 * t,
        lambda n, b, t: torch.tensor(n * b + 16 * t, dtype=torch.float64),
    ],
    "03.2": [
        lambda t, n: n - min(t) if t else 0,
        lambda t, n: np.int64(n - min(t)) if t else 0,
        lambda t, n: torch.tensor(n - sorted(t)[0]) if t else 0,
        lambda t, n: sum(any(low <= layer for low in t) for layer in range(n)),
    ],
    "03.3": [
        climb,
        lambda peak, capacity: np.int64(climb(peak, capacity)),
        lambda peak, capacity: sum(peak(np.int64(b)) <= capacity for b in range(1, 999)),
        lambda peak, capacity: float(climb(peak, capacity)),
    ],
}
