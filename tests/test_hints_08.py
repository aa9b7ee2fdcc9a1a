"""Os enganos típicos do caderno 08, e o que passa: test_hints.py os junta aos dos outros e os experimenta."""

import math
from fractions import Fraction

import numpy as np
import torch

from ftcourse import exercises
from ftcourse.exercises import CONSTANT, ROUNDED, UNKNOWN, nb08


def spent(d, d_ff, r):
    return r * (4 * 2 * d + 2 * (d + d_ff))


def width(d, d_ff, r):
    return (spent(d, d_ff, r) - 2 * d) // (2 * (2 * d + 1))


def fold(W, b, D, b_down, U, b_up):
    return W + U @ D @ W, b + U @ (D @ b + b_down) + b_up


def line(z):
    """A melhor reta de ReLU(z) por z: a inclinação, a constante e o R²."""
    r = z.relu()
    slope = ((z - z.mean()) * (r - r.mean())).mean() / z.var(unbiased=False)
    return slope, r.mean() - slope * z.mean(), slope**2 * z.var(unbiased=False) / r.var(unbiased=False)


def sample(mean, std, n=200_000):
    return mean + std * torch.randn(n, generator=torch.Generator().manual_seed(1))


TYPICAL = {
    "08.1": [
        (lambda d, f, r: spent(d, f, r) // (4 * d), "faltam os vieses"),
        (lambda d, f, r: spent(d, f, r) // (2 * (2 * d + 1)), "falta o viés de W_up, de d números"),
        (lambda d, f, r: (spent(d, f, r) - 2 * d) // (4 * d), "falta o viés de W_down"),
        (lambda d, f, r: (spent(d, f, r) - d) // (2 * d + 1), "um gargalo por bloco, como em Pfeiffer"),
        (lambda d, f, r: (spent(d, f, r) - 2 * d) // (2 * (d + 1)), "duas matrizes, a que desce e a que sobe"),
        (lambda d, f, r: (4 * d * r - 2 * d) // (2 * (2 * d + 1)), "duas camadas da atenção"),
        (lambda d, f, r: (8 * d * r - 2 * d) // (2 * (2 * d + 1)), "só na atenção"),
        (lambda d, f, r: (2 * (d + f) * r - 2 * d) // (2 * (2 * d + 1)), "só no feed-forward"),
        (lambda d, f, r: (12 * d * r - 2 * d) // (2 * (2 * d + 1)), "uma das pontas tem d_ff"),
        (lambda d, f, r: (r * (8 * d + 2 * f) - 2 * d) // (2 * (2 * d + 1)), "q, k e v"),
        (lambda d, f, r: (spent(d, f, r) // 2 - 2 * d) // (2 * (2 * d + 1)), "A e B, e você contou uma"),
        (lambda d, f, r: (4 * d * d + 2 * d * f - 2 * d) // (2 * (2 * d + 1)), "o bloco inteiro"),
        (lambda d, f, r: (spent(d, f, r) - 2 * d) / (2 * (2 * d + 1)), "arredondar para baixo"),
        (lambda d, f, r: math.ceil((spent(d, f, r) - 2 * d) / (2 * (2 * d + 1))), "arredondado para cima"),
        (lambda d, f, r: round((spent(d, f, r) - 2 * d) / (2 * (2 * d + 1))), "arredondou ao mais próximo"),
        (lambda d, f, r: d / width(d, f, r), "mais estreito que o modelo"),
        (lambda d, f, r: 35, CONSTANT),
        (lambda d, f, r: width(d, f, r) + 1 + (d == 256), UNKNOWN),
        (lambda d, f, r: d // 16, UNKNOWN + " Veio 16, com d = 256, d_ff = 1.024 e r = 8"),
        (lambda d, f, r: f"{width(d, f, r)}", "um texto"),
        (lambda d, f, r: None, "falta o return"),
        (lambda d, r: d, "a sua função recebe d, r"),
        (35, "sem parênteses"),
    ],
    "08.2": [
        (lambda W, b, D, bd, U, bu: (U @ D @ W, b), "no peso, falta W"),
        (lambda W, b, D, bd, U, bu: (2 * W + U @ D @ W, b), "no peso, W entrou duas vezes"),
        (lambda W, b, D, bd, U, bu: (W, b), "no peso, falta o que o gargalo soma"),
        (lambda W, b, D, bd, U, bu: (W - U @ D @ W, b), "no peso, o sinal"),
        (lambda W, b, D, bd, U, bu: (W + U @ D, b), "A última matriz que ele encontra", "size of tensor"),
        (lambda W, b, D, bd, U, bu: (W + W @ U @ D, b), "não se multiplicam", "cannot be"),
        (lambda W, b, D, bd, U, bu: (W + D @ U @ W, b), "não se multiplicam|não se combinam"),
        (lambda W, b, D, bd, U, bu: (W + D.T @ U.T @ W, b), UNKNOWN + " Com W de forma"),
        (lambda W, b, D, bd, U, bu: (fold(W, b, D, bd, U, bu)[0], b + U @ bd + bu), "falta o de W, que também passa"),
        (lambda W, b, D, bd, U, bu: (W + U @ D @ W, U @ (D @ b + bd) + bu), "o atalho também o leva"),
        (lambda W, b, D, bd, U, bu: (W + U @ D @ W, b + U @ D @ b + bu), "no viés, falta b_down"),
        (lambda W, b, D, bd, U, bu: (W + U @ D @ W, b + U @ (D @ b + bd)), "no viés, falta b_up"),
        (lambda W, b, D, bd, U, bu: (W + U @ D @ W, b + U @ D @ b), "faltam b_down e b_up"),
        (lambda W, b, D, bd, U, bu: (W + U @ D @ W, b), "ficou só o da camada"),
        (lambda W, b, D, bd, U, bu: (W + U @ D @ W, b + bu), "só se somaram"),
        (lambda W, b, D, bd, U, bu: (W + U @ D @ W, 2 * b + U @ (D @ b + bd) + bu), "duas vezes pelo atalho"),
        (lambda W, b, D, bd, U, bu: (W + U @ D @ W, b + bd), "não se combinam"),
        (lambda W, b, D, bd, U, bu: (W + U @ D @ W, b + U @ (D @ b + bd) - bu), UNKNOWN),
        (lambda W, b, D, bd, U, bu: W + U @ D @ W, "dois tensores"),
        (lambda W, b, D, bd, U, bu: fold(W, b, D, bd, U, bu)[::-1], "a forma"),
        (lambda W, b, D, bd, U, bu: (W.add_(U @ D @ W), b), "mudou o que recebeu"),
        (lambda W, b, D, bd, U, bu: [t.tolist() for t in fold(W, b, D, bd, U, bu)], "um tensor de torch"),
        (lambda W, b, D, bd, U, bu: None, "falta o return"),
        (lambda W, D, U: W + U @ D @ W, "a sua função recebe W, D, U"),
        (3.0, "sem parênteses"),
    ],
    "08.3": [
        (lambda m, s: line(sample(m, s))[0], "é a inclinação da reta"),
        (lambda m, s: (sample(m, s) > 0).float().mean(), "em que a unidade está acesa"),
        (lambda m, s: line(sample(m, s))[0] ** 2, "inclinação ao quadrado"),
        (lambda m, s: line(sample(m, s))[0] ** 2 * s**2, "falta dividir pela de ReLU"),
        (lambda m, s: line(sample(m, s))[2] ** 0.5, "isso é a correlação"),
        (lambda m, s: 1 - line(sample(m, s))[2], "o que a reta perde"),
        (lambda m, s: line(sample(m, s))[0] ** 2 * s**2 / sample(m, s).relu().square().mean(), "média dos quadrados"),
        (lambda m, s: sample(m, s).relu().square().mean() / sample(m, s).square().mean(), "passa pela origem"),
        (lambda m, s: line(sample(-m, s))[2], "sinal trocado"),
        (lambda m, s: line(sample(m, 1))[2], "falta o desvio"),
        (lambda m, s: line(sample(m, s**0.5))[2], "usou como variância"),
        (lambda m, s: 100 * line(sample(m, s))[2], "porcentagens"),
        (lambda m, s: round(float(line(sample(m, s))[2]), 1), ROUNDED + "|" + UNKNOWN),
        (lambda m, s: 0.734, CONSTANT),
        (lambda m, s: line(sample(m, s))[2] + 0.1, UNKNOWN),
        (lambda m, s: line(sample(m, s)), "um número"),
        (lambda m, s: math.nan, "nan"),
        (lambda m, s: f"{line(sample(m, s))[2]:.3f}", "um texto"),
        (lambda m: m, "a sua função recebe m, e"),
        (0.734, "sem parênteses"),
    ],
}
RIGHT = {
    "08.1": [
        width,
        lambda d, f, r: torch.tensor(width(d, f, r)),
        lambda d, f, r: np.float64(width(d, f, r)),
        lambda d, f, r: math.floor(Fraction(spent(d, f, r) - 2 * d, 4 * d + 2)),
    ],
    "08.2": [
        fold,
        lambda *case: [*fold(*case)],
        lambda *case: tuple(t.double() for t in fold(*case)),
        lambda W, b, D, bd, U, bu: ((torch.eye(len(b)) + U @ D) @ W, (torch.eye(len(b)) + U @ D) @ b + U @ bd + bu),
    ],
    "08.3": [
        lambda m, s: line(sample(m, s))[2],
        lambda m, s: float(line(sample(m, s, 400_000))[2]),
        lambda m, s: np.corrcoef(*(lambda z: (z, z.clip(0)))(sample(m, s).numpy()))[0, 1] ** 2,
    ],
}


def test_the_closed_form_of_the_line_is_what_a_sample_gives():
    for mean, std in ((0.0, 1.0), (-1.5, 0.7), (2.0, 3.0)):
        z = sample(mean, std)
        on, first, variance = nb08.moments(mean, std)
        assert math.isclose(on, line(z)[0], rel_tol=0.02)
        assert math.isclose(first, z.relu().mean(), rel_tol=0.02)
        assert math.isclose(variance, z.relu().var(), rel_tol=0.02)


def test_a_bottleneck_of_that_width_fits_the_budget_and_one_unit_more_does_not():
    for d, f, r in ((256, 1024, 8), (100, 300, 3)):
        m = width(d, f, r)
        assert 2 * (2 * m * d + d + m) <= spent(d, f, r) < 2 * (2 * (m + 1) * d + d + m + 1)


def test_the_folded_layer_is_the_two_in_a_row():
    for W, b, D, b_down, U, b_up in nb08.drawn():
        x = torch.randn(3, W.shape[1])
        u = x @ W.T + b
        new, bias = fold(W, b, D, b_down, U, b_up)
        torch.testing.assert_close(x @ new.T + bias, u + (u @ D.T + b_down) @ U.T + b_up, rtol=1e-4, atol=1e-4)


def test_the_wrong_order_in_a_square_layer_is_told_without_an_error():
    """Com todas as camadas quadradas, A = D não dá erro de forma; a verificação tem outras."""
    shapes = [case[0].shape for case in nb08.drawn()]
    assert any(rows == columns for rows, columns in shapes) and any(rows != columns for rows, columns in shapes)
    assert exercises.judge("08.2", lambda W, b, D, bd, U, bu: (W + U @ D, b))[0] is False
