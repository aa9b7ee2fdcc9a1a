"""Os enganos típicos do caderno 12, e o que passa: test_hints.py os junta aos dos outros e os experimenta."""

import numpy as np
import torch

from ftcourse.exercises import CONSTANT, ROUNDED, UNKNOWN


def count(a, b, apart):
    return 4 * (apart - (a - b) ** 2) / (a - b) ** 2


def ahead(case):
    return [
        name
        for name, (cost, good) in case.items()
        if not any(x <= cost and y >= good and (x, y) != (cost, good) for x, y in case.values())
    ]


def hull(case):  # sem os que ficam abaixo do segmento entre dois da frente
    def under(point, low, high):
        return low[0] < point[0] < high[0] and point[1] < np.interp(point[0], *zip(low, high))

    front = [case[name] for name in ahead(case)]
    return [n for n in ahead(case) if not any(under(case[n], low, high) for low in front for high in front)]


def lost(gaps, among, least=0.0):
    pairs = [(pair, gap) for pair, (gap, half) in gaps.items() if {*pair} <= {*among} and abs(gap) > half * least]
    return {pair[gap > 0] for pair, gap in pairs}


def pick(memory, files, gaps, limit, *, least=1.0, everyone=False, rivals=False, by=None):
    fits = [name for name in memory if memory[name] <= limit]
    losers = lost(gaps, memory if rivals or everyone else fits, least)
    among = memory if everyone else fits
    left = [name for name in among if name not in losers] or [*among]
    return min(left, key=(by or files).get)


def cheapest(case):
    return [min(case, key=lambda name: case[name][0])]


def best(case):
    return [max(case, key=lambda name: case[name][1])]


def by_hand(memory, files, gaps, limit):
    left = {name for name in memory if memory[name] <= limit}
    fits = set(left)
    for (one, other), (gap, half) in gaps.items():
        if one in fits and other in fits and abs(gap) > half:
            left.discard(other if gap > 0 else one)
    return sorted(left, key=lambda name: files[name])[0]


TYPICAL = {
    "12.1": [
        (lambda a, b, q: 4 * (a * (1 - a) + b * (1 - b)) / (a - b) ** 2, "dois testes separados"),
        (lambda a, b, q: 4 * a * (1 - a) / (a - b) ** 2, "de um modelo só"),
        (lambda a, b, q: 4 * b * (1 - b) / (a - b) ** 2, "do outro modelo"),
        (lambda a, b, q: count(a, b, q) / 4, "um erro-padrão, e se pedem dois"),
        (lambda a, b, q: count(a, b, q) ** 0.5, "com a raiz de n"),
        (lambda a, b, q: count(a, b, q) * abs(a - b), "falta o quadrado"),
        (lambda a, b, q: 4 * q / (a - b) ** 2, "menos o quadrado da média"),
        (lambda a, b, q: 4 * q * (1 - q) / (a - b) ** 2, "p\\(1 − p\\)"),
        (lambda a, b, q: count(a, b, q) / 10_000, "em pontos"),
        (lambda a, b, q: round(count(a, b, q)), ROUNDED),
        (lambda a, b, q: count(a, b, q) * 3, UNKNOWN),
        (lambda a, b, q: 3963, CONSTANT),
        (lambda a, b, q: f"{count(a, b, q)}", "um texto"),
        (lambda a, b: 1, "recebe a, b"),
        (3963, "sem parênteses"),
    ],
    "12.2": [
        (lambda case: {*cheapest(case), *best(case)}, "dois extremos"),
        (hull, "a reta entre dois"),
        (
            lambda case: [n for n, m in case.items() if not any(x < m[0] and y > m[1] for x, y in case.values())],
            "empata",
        ),
        (lambda case: [n for n in case if n not in ahead(case)], "esses são os batidos"),
        (lambda case: ahead({n: (-m, q) for n, (m, q) in case.items()}), "Memória é custo"),
        (lambda case: ahead({n: (m, -q) for n, (m, q) in case.items()}), "Acurácia maior"),
        (cheapest, "só o mais barato"),
        (best, "só o que mais rende"),
        (lambda case: [*case], "vieram todas"),
        (lambda case: [*case][:2], UNKNOWN),
        (lambda case: "a", "uma lista de nomes"),
        (lambda case: case, "uma lista de nomes"),
        (lambda case: ["a", "z"], "não é um dos nomes"),
        (lambda case: [1], "não é um dos nomes"),
        (lambda case: [], "nunca é vazia"),
        (lambda case: [case.popitem()[0]], "mudou o que recebeu"),
        (["a", "c"], "sem parênteses"),
    ],
    "12.3": [
        (lambda m, f, g, limit: pick(m, f, g, limit, everyone=True), "não cabe no limite"),
        (lambda m, f, g, limit: pick(m, f, g, limit, rivals=True), "de quem não cabe"),
        (lambda m, f, g, limit: pick(m, f, g, limit, least=0.0), "toda diferença como se existisse"),
        (lambda m, f, g, limit: min((n for n in m if m[n] <= limit), key=f.get), "perde de outra que cabe"),
        (lambda m, f, g, limit: pick(m, f, g, limit, by=m), "você olhou a memória"),
        (lambda m, f, g, limit: pick(m, f, g, limit, by={n: -x for n, x in f.items()}), "a de maior arquivo"),
        (lambda m, f, g, limit: pick(m, f, {p: (-x, h) for p, (x, h) in g.items()}, limit), "eliminou quem ganha"),
        (lambda m, f, g, limit: max(m, key=m.get), UNKNOWN),
        (lambda m, f, g, limit: pick(m, f, g, limit - 1), UNKNOWN),
        (lambda m, f, g, limit: pick(m, f, g, limit, least=0.5), UNKNOWN),
        (lambda m, f, g, limit: [pick(m, f, g, limit)], "devolve o nome"),
        (lambda m, f, g, limit: "ninguém", "não é um dos nomes"),
        (
            lambda m, f, g, limit: pick(m, f, g, limit, by=m.pop("full", None) and f),
            "mudou o que recebeu|parou num erro",
        ),
        ("lora", "sem parênteses"),
    ],
}
RIGHT = {
    "12.1": [
        count,
        lambda a, b, q: np.float64(count(a, b, q)),
        lambda a, b, q: torch.tensor(count(a, b, q), dtype=torch.float64),
        lambda a, b, q: (2 / (a - b)) ** 2 * q - 4,
    ],
    "12.2": [ahead, lambda case: {*ahead(case)}, lambda case: tuple(reversed(ahead(case)))],
    "12.3": [pick, by_hand, lambda *case: np.str_(pick(*case))],
}
