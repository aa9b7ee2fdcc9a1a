"""Os enganos típicos do caderno 07, e o que passa: test_hints.py os junta aos dos outros e os experimenta."""

import numpy as np
import torch

from ftcourse.exercises import CONSTANT, UNKNOWN


def count(n, k, t, *, bits=4.127, kept=4, trained=16):
    return bits / 8 * n + kept * k + trained * t


def back(grad, W, A, B, s):
    return grad @ W + s * (grad @ B) @ A


def by_autograd(grad, W, A, B, s):
    x = torch.zeros(len(grad), W.shape[1], requires_grad=True)
    (x @ W.T + s * (x @ A.T) @ B.T).backward(grad)
    return x.grad


def around(table, code):
    return [abs(float(table[code] - table[n])) for n in (code - 1, code + 1) if 0 <= n < len(table)]


def push(table, code, absmax):
    return min(around(table, code)) / 2 * absmax


def pushed(table, code, absmax):
    """O mesmo, procurado: o menor δ, de um lado ou do outro, que alcança uma fronteira."""
    edges = (table[1:] + table[:-1]) / 2
    return float((edges - table[code]).abs().min()) * absmax


TYPICAL = {
    "07.1": [
        (lambda n, k, t: count(n, k, t, bits=4), "constantes dos blocos"),
        (lambda n, k, t: count(n, k, t, bits=4.5), "sem a dupla quantização"),
        (lambda n, k, t: count(n, k, t, bits=8 * 4.127), "em bits"),
        (lambda n, k, t: count(n, k, t, bits=16), "antes dos 4 bits"),
        (lambda n, k, t: count(n, k, t, bits=32), "em float32: elas"),
        (lambda n, k, t: count(n, k, t, kept=0), "faltou o que fica fora"),
        (lambda n, k, t: count(n, k, t, kept=2), "depois de prepare_model"),
        (lambda n, k, t: count(n, k, t, kept=16), "fora dos 4 bits está congelado"),
        (lambda n, k, t: count(n, k, t, bits=4.127 + 96), "as matrizes em 4 bits estão congeladas"),
        (lambda n, k, t: count(n, k, t, trained=4), "só entraram os números"),
        (lambda n, k, t: count(n, k, t, trained=8), "o otimizador do adaptador"),
        (lambda n, k, t: count(n, k, t, trained=12), "o gradiente do adaptador"),
        (lambda n, k, t: count(n, k, t, trained=10), "AdamW guarda duas médias"),
        (lambda n, k, t: count(n, k, t, trained=0), "faltou o adaptador"),
        (lambda n, k, t: 2 * count(n, k, t), UNKNOWN),
        (lambda n, k, t: 5e9, CONSTANT),
        (lambda n, k, t: str(n), "um texto"),
        (lambda n, k: n, "recebe n, k"),
        (4.9e9, "sem parênteses"),
    ],
    "07.2": [
        (lambda g, W, A, B, s: g @ W, "falta o caminho de LoRA"),
        (lambda g, W, A, B, s: s * (g @ B) @ A, "falta o caminho da base"),
        (lambda g, W, A, B, s: g @ W + g @ B @ A, "falta a escala"),
        (lambda g, W, A, B, s: s * (g @ W + g @ B @ A), "só do caminho de LoRA"),
        (lambda g, W, A, B, s: g @ W + g @ B @ A / s, "você dividiu"),
        (lambda g, W, A, B, s: g @ W + s * s * g @ B @ A, "duas vezes"),
        (lambda g, W, A, B, s: g @ W - s * g @ B @ A, "você subtraiu"),
        (lambda g, W, A, B, s: g @ W + 3 * s * g @ B @ A, UNKNOWN),
        (lambda g, W, A, B, s: g @ W.T, "não se multiplicam"),
        (lambda g, W, A, B, s: (g @ W).sum(0), "a de x"),
        (lambda g, W, A, B, s: g.mul_(s) @ W, "mudou o que recebeu"),
        (lambda g, W, A, B, s: None, "não devolveu nada"),
        (lambda g, W, A, B, s: 1.0, "é um tensor"),
    ],
    "07.3": [
        (lambda t, c, m: min(around(t, c)) * m, "a fronteira fica antes"),
        (lambda t, c, m: min(around(t, c)) / 2, "faltou o absmax"),
        (lambda t, c, m: min(around(t, c)) / 2 / m, "dividiu pelo absmax"),
        (lambda t, c, m: max(around(t, c)) / 2 * m, "o lado mais difícil"),
        (lambda t, c, m: sum(around(t, c)) / len(around(t, c)) / 2 * m, "a média dos dois lados"),
        (lambda t, c, m: float(t[min(c + 1, 15)] - t[c]) / 2 * m, "só o vizinho de cima"),
        (lambda t, c, m: float(t[c] - t[max(c - 1, 0)]) / 2 * m, "só o vizinho de baixo"),
        (lambda t, c, m: m / 15, "igualmente espaçada"),
        (lambda t, c, m: float(min(t[c] - t[c - 1], t[(c + 1) % 16] - t[c])) / 2 * m, "o índice −1"),
        (lambda t, c, m: 3 * push(t, c, m), UNKNOWN),
        (lambda t, c, m: float(t[c + 1] - t[c]) / 2 * m, "um índice passou do fim"),
        (lambda t, c, m: 0.5, CONSTANT),
        (lambda t, c, m: t * m, "é um número"),
        (0.04, "sem parênteses"),
    ],
}
RIGHT = {
    "07.1": [
        count,
        lambda n, k, t: np.float64(count(n, k, t)),
        lambda n, k, t: torch.tensor(count(n, k, t), dtype=torch.float64),
    ],
    "07.2": [back, by_autograd, lambda g, W, A, B, s: (g @ (W + s * B @ A)).double()],
    "07.3": [push, pushed, lambda t, c, m: torch.tensor(push(t, c, m))],
}
