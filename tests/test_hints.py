"""Cada engano típico recebe a dica que é dele, e não outra; nenhuma dica diz a solução."""

import ast
import functools
import importlib
import math
import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from notebook_tools import NOTEBOOKS, code_cells, read, solution, tags
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from ftcourse import exercises
from ftcourse.exercises import CONSTANT, ROUNDED, UNKNOWN, nb02
from ftcourse.nf4 import TABLE

phi, quantile = NormalDist().cdf, NormalDist().inv_cdf


def normal_table(bits, delta=None, below=None, zeros=(0.0,), half=False, divide=True):
    """A solução de 06.1, com os seus enganos; half: se o quantil de ½ fica no fim de cada fila."""
    n = 2**bits
    delta, below, end = delta or 1 - (1 / (2 * (n - 1)) + 1 / (2 * n)) / 2, below or n // 2 - 1, None if half else -1
    up = [quantile(p) for p in torch.linspace(delta, 0.5, n // 2 + 1)[:end].tolist()]
    down = [-quantile(p) for p in torch.linspace(delta, 0.5, below + 1)[:end].tolist()]
    table = torch.tensor(sorted([*down, *zeros, *up]))
    return table / table.max() if divide else table


def slices(bits):
    table = torch.tensor([quantile((i + 0.5) / 2**bits) for i in range(2**bits)])
    return table / table.max()


def pairs(packed):
    return torch.stack([packed >> 4, packed & 15], 1).int().flatten()


def blocks(absmax, size):
    return absmax.repeat_interleave(size)


def even(base, plus, minus):
    return (plus + minus) / 2 - base


@functools.cache
def size(kind, config, **sizes):
    """Os parâmetros de um modelo que transformers monta, sem pesos."""
    with torch.device("meta"):
        return sum(p.numel() for p in kind(config(**sizes)).parameters())


def bert_block(d, f):
    kind = transformers.models.bert.modeling_bert.BertLayer
    return size(kind, transformers.BertConfig, hidden_size=d, intermediate_size=f, num_attention_heads=1)


def llama(vocab, d, layers, heads, kv, f, tied):
    return size(
        transformers.LlamaForCausalLM, transformers.LlamaConfig, vocab_size=vocab, hidden_size=d,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv, intermediate_size=f,
        tie_word_embeddings=tied,
    )  # fmt: skip


def spin(x, positions, power=1.0, pair=True):
    """O giro de transformers; power: o do expoente; pair=False: pares de vizinhos."""
    heads, _, d = x.shape
    rotary = LlamaRotaryEmbedding(transformers.LlamaConfig(hidden_size=heads * d, num_attention_heads=heads))
    rotary.inv_freq = rotary.inv_freq**power
    cos, sin = rotary(x[None], positions[None])
    if not pair:
        x = x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
    turned = apply_rotary_pos_emb(x[None], x[None], cos, sin)[0][0]
    return turned if pair else turned.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)


def linear(step, steps, warmup, peak):
    return peak * (step / warmup if step < warmup else (steps - step) / (steps - warmup))


def patient(losses, patience):
    for i in range(1, len(losses) + 1):
        best = min(range(i), key=losses.__getitem__)
        if i - 1 - best == patience:
            break
    return i, best + 1


def overwriting(x, p):
    """O giro em que a primeira metade, já girada, entra na segunda."""
    half = x.shape[-1] // 2
    angle = p[:, None] / 10000 ** (torch.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    a = a * angle.cos() - b * angle.sin()
    return torch.cat([a, b * angle.cos() + a * angle.sin()], -1)


def without_axis(x, p):
    half = x.shape[-1] // 2
    return x[..., :half] * (p / 10000 ** (torch.arange(half) / half)).cos()


def undefined(*_):
    return tamanho  # noqa: F821


def recursive(*_):
    return recursive(*_)


# {exercício: [(resposta, o que a dica diz, o que ela não diz…)]}
TYPICAL = {
    "00.1": [
        (lambda s, h: -s.sum(), "tamanho"),
        (lambda s, h: -(s.sum() - h.mean()), "tamanho"),
        (lambda s, h: -(s / h).sum(), "tamanho"),
        (lambda s, h: -(s - h).logsumexp(0), "tamanho"),
        (lambda s, h: -s.max(), "só palavra rara"),
        (lambda s, h: -s.mean(), "só palavra rara"),
        (lambda s, h: -(s.max() - s.mean()), "só palavra rara"),
        (lambda s, h: -(s.max() - h.mean()), "em outro lugar|esconde a falha", "tamanho"),
        (lambda s, h: -(s.max() - h.max()), "esconde a falha"),
        (lambda s, h: -(s.max() - h[s.argmax()]), "esconde a falha"),
        (lambda s, h: -(s.topk(3).values - h.topk(3).values).mean(), "esconde a falha"),
        (lambda s, h: -(s - h).abs().mean(), "mais fácil do que o esperado"),
        (lambda s, h: -((s - h) ** 2).mean(), "mais fácil do que o esperado"),
        (lambda s, h: -(s / h).max(), "razão"),
        (lambda s, h: -(s / h).mean(), "razão"),
        (lambda s, h: -s.sum() / h.sum(), "razão"),
        (lambda s, h: (h / s).min(), "razão"),
        (lambda s, h: (s - h).max(), "sinal"),
        (lambda s, h: (s - h).mean(), "sinal"),
        (lambda s, h: -(s - h).min(), "não muda"),
        (lambda s, h: -(s - h)[0], "no começo e no fim"),
        (lambda s, h: -(s - h)[-1], "no começo e no fim"),
        (lambda s, h: 1.0, "não muda"),
        (lambda s, h: -(s - h), "um número, e veio um Tensor de forma (8,)"),
        (lambda s, h: f"{-(s - h).max():.2f}", "um texto"),
        (lambda s, h: "boa", "um texto"),
        (lambda s, h: bool((s - h).max() < 3), "bool"),
        (lambda s, h: -(s.sub_(h)).max(), "mudou o que recebeu"),
        (lambda s: -s.max(), "a sua função recebe s, e o exercício lhe passa 2 valores"),
        (lambda s, h, k: -(s - h).max(), "recebe s, h, k"),
        (lambda s, h: math.nan, "nan"),
        (3.0, "sem parênteses"),
        ("score", "sem parênteses"),
    ],
    "00.2": [
        ((0.5, 0), "80 certas"),
        ((80, 0), "0 a 1"),
        ((20, 0), "0 a 1"),
        ((0.2, 0), "com falha"),
        ((1.0, 0), "todas"),
        ((0, 0), "acerta alguma coisa"),
        ((0, 0.8), "trocados"),
        ((0.68, 0), "sorteia"),
        ((8 / 9, 0), "F1"),
        ((0.7, 0), UNKNOWN),
        ((0.8, 0.8), "associação"),
        ((0.8, 1), "acerta tudo"),
        ((0.8, -1), "erra tudo"),
        ((0.8, 0.5), "moeda"),
        ((0.8, 0.3), UNKNOWN),
        ((0.8, math.nan), "nan não entra"),
        (("0.8", "0"), "um texto"),
        ((0.8, "0"), "um texto"),
        ((0.8, False), "bool"),
        ((True, 0), "bool"),
        ({0.8, 0}, "dois números"),
        (0.8, "dois números"),
        ((0.8, 0, 1), "dois números"),
        (np.array([0.8]), "dois números"),
        ((np.array([0.8, 0.8]), 0), "um número"),
    ],
    "00.3": [
        (lambda d, s: phi(d / s), "centro de uma das classes. O que erra menos"),
        (lambda d, s: 1 - phi(d / s), "fração de erros de um corte no centro"),
        (lambda d, s: phi(d / (math.sqrt(2) * s)), "AUC"),
        (lambda d, s: 1 - phi(d / (2 * s)), "essa é a fração de erros;"),
        (lambda d, s: 2 * phi(d / (2 * s)) - 1, "tirou os erros"),
        (lambda d, s: d / s, "entre os centros"),
        (lambda d, s: d / (2 * s), "falta a função Φ"),
        (lambda d, s: phi(d / 2), "falta o desvio"),
        (lambda d, s: phi(d / (2 * s**2)), "variância"),
        (lambda d, s: phi(s / (2 * d)), "trocados"),
        (lambda d, s: NormalDist().pdf(d / (2 * s)), "altura da curva"),
        (lambda d, s: 100 * phi(d / (2 * s)), "porcentagens"),
        (lambda d, s: round(phi(d / (2 * s)), 2), ROUNDED),
        (lambda d, s: 0.6157, CONSTANT),
        (lambda d, s: phi(d / (3 * s)), UNKNOWN),
        (
            lambda d, s: phi(d / 34),
            UNKNOWN + " Veio 0,511.*, com delta = 1 e sigma = 1. Está certa com delta = 10 e sigma = 17",
        ),
        (lambda d, s: 1 / 0, "divisão por zero"),
        (lambda d, s: NormalDist().cdf(d, 2 * s), "chamada com argumentos que ela não aceita"),
        (lambda d, s: str(phi(d / (2 * s))), "um texto"),
        (lambda d: d, "a sua função recebe d"),
        (undefined, "o nome tamanho não existe"),
        (recursive, "chama a si mesma"),
        ((0.6,), "sem parênteses"),
    ],
    "01.1": [
        (lambda d, f: 4 * d * d + 2 * d * f, "só as matrizes"),
        (lambda d, f: 4 * d * d + 2 * d * f + 2 * d, "nenhum"),
        (lambda d, f: 4 * d * d + 2 * d * f + 4 * d, "camadas lineares: um por saída"),
        (lambda d, f: 4 * d * d + 2 * d * f + f + d + 4 * d, "quatro vieses da atenção"),
        (lambda d, f: bert_block(d, f) - f - d, "d_ff na ida"),
        (lambda d, f: bert_block(d, f) - f + d, "o tamanho da saída dela"),
        (lambda d, f: bert_block(d, f) - 2 * d, "uma das duas normalizações"),
        (lambda d, f: bert_block(d, f) - 4 * d, "as duas normalizações"),
        (lambda d, f: bert_block(d, f) - d * d - d, "quatro matrizes"),
        (lambda d, f: bert_block(d, f) - d * d - 4 * d, "todas com viés"),
        (lambda d, f: bert_block(d, f) - d * f - d, "a que estreita"),
        (lambda d, f: bert_block(d, f) + d * f, "três matrizes"),
        (lambda d, f: bert_block(d, f) + d * f + f, "três camadas"),
        (lambda d, f: bert_block(f, d), "trocados"),
        (lambda d, f: bert_block(d, 4 * d), "no lugar de d_ff"),
        (lambda d, f: 4 * d * d + 4 * d, "só a atenção"),
        (lambda d, f: bert_block(d, f) + 1, UNKNOWN),
        (lambda d, f: bert_block(d, f) / 1e6, UNKNOWN),
        (lambda d, f: bert_block(d, f) / (4 * d * d), UNKNOWN),
        (lambda d, f: bert_block(d, f) + (d == 48), "Está certa com d = 256 e d_ff = 1.024: o que muda"),
        (lambda d, f: d, UNKNOWN + " Veio 256, com d = 256 e d_ff = 1.024."),
        (lambda d, f: 789_760, CONSTANT),
        (lambda d, f: f"{bert_block(d, f)}", "um texto"),
        (lambda d: 12 * d * d, "a sua função recebe d, e"),
        (789_760, "sem parênteses"),
    ],
    "01.2": [
        (lambda v, d, n, h, k, f, t: llama(v, d, n, h, k, f, False), "conte-a uma vez"),
        (lambda v, d, n, h, k, f, t: llama(v, d, n, h, k, f, True), "há duas tabelas"),
        (lambda v, d, n, h, k, f, t: llama(v, d, n, h, k, f, not t), "tied está ao contrário"),
        (lambda v, d, n, h, k, f, t: llama(v, d, n, h, h, f, t), "menos cabeças"),
        (lambda v, d, n, h, k, f, t: llama(v, d, n, h, 1, f, t), "uma cabeça só"),
        (lambda v, d, n, h, k, f, t: llama(v, d, n, h, k, f, t) - n * d * (d - d // h * k), "continua d × d"),
        (lambda v, d, n, h, k, f, t: llama(v, d, n, h, k, f, t) - n * d * d, "quatro matrizes"),
        (lambda v, d, n, h, k, f, t: llama(v, d, n, h, k, f, t) - n * d * f, "três matrizes, e não duas"),
        (lambda v, d, n, h, k, f, t: llama(v, d, n, h, k, f, t) - n * 2 * d, "normalizações de cada bloco"),
        (lambda v, d, n, h, k, f, t: llama(v, d, n, h, k, f, t) - n * d, "uma normalização por bloco"),
        (lambda v, d, n, h, k, f, t: llama(v, d, n, h, k, f, t) - d, "falta a normalização final"),
        (lambda v, d, n, h, k, f, t: llama(v, d, n, h, k, f, t) - n * 2 * d - d, "todas as normalizações"),
        (lambda v, d, n, h, k, f, t: llama(v, d, n, h, k, f, t) + n * 2 * d + d, "não tem viés"),
        (
            lambda v, d, n, h, k, f, t: llama(v, d, n, h, k, f, t) + n * (3 * d + 2 * (d // h * k) + 2 * f),
            "não tem vieses",
        ),
        (lambda v, d, n, h, k, f, t: llama(v, d, 1, h, k, f, t), "um bloco só"),
        (lambda v, d, n, h, k, f, t: llama(0, d, n, h, k, f, t), "faltam as tabelas"),
        (lambda v, d, n, h, k, f, t: v, UNKNOWN + " Veio 8.000, com vocab = 8.000, d = 256, layers = 6"),
        (lambda v, d, n, h, k, f, t: llama(v, d, n, h, k, f, t) + 1, UNKNOWN),
        (lambda v, d, n, h, k, f, t: 8_030_261_248, CONSTANT),
        (lambda v, d, n, h, k, f: v, "recebe v, d, n, h, k, f, e o exercício lhe passa 7"),
        (6_738_415_616, "sem parênteses"),
    ],
    "01.3": [
        (lambda x, p: spin(x, p, pair=False), "vizinhos (x₀"),
        (lambda x, p: spin(x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2), p), "devolveu em metades"),
        (lambda x, p: spin(x, -p), "ao contrário"),
        (lambda x, p: spin(x, p, power=0.5), "2i/d, e não"),
        (lambda x, p: spin(x, p, power=-1), "sinal do expoente"),
        (lambda x, p: spin(x, p, power=0), "o mesmo ângulo"),
        (lambda x, p: spin(x, torch.arange(x.shape[1])), "e não positions"),
        (lambda x, p: x, "nada girou"),
        (lambda x, p: (spin(x, p) + spin(x, -p)) / 2, "falta o seno"),
        (lambda x, p: spin(x, p).roll(x.shape[-1] // 2, -1), "trocadas"),
        (overwriting, "já girada"),
        (without_axis, "positions tem 5 números e há 4 pares.*falta um eixo", "[:, None]", "size of tensor"),
        (lambda x, p: 2 * spin(x, p), UNKNOWN),
        (lambda x, p: spin(x, p)[0], "a forma"),
        (lambda x, p: spin(x, p).flatten(), "a forma"),
        (lambda x, p: spin(x, p).numpy(), "um ndarray"),
        (lambda x, p: spin(x, p).tolist(), "list"),
        (lambda x, p: spin(x, p) * 1j, "complex64"),
        (lambda x, p: spin(x, p) / 0, "um infinito"),
        (lambda x, p: x.mul_(2), "mudou o que recebeu"),
        (lambda x, p: p.add_(1) and x, "if recebeu vários|mudou o que recebeu"),
        (lambda x, p: x.giro(p), "Tensor não tem .giro"),
        (lambda x: x, "recebe x, e"),
        (3.0, "sem parênteses"),
    ],
    "02.1": [
        (lambda i, n, w, p: linear(i, n, w, 1), "a fração"),
        (lambda i, n, w, p: p * min((i + 1) / max(1, w), (n - i) / (n - w)), "o cronograma do curso"),
        (lambda i, n, w, p: p * min(1, i / max(1, w)), "falta a descida"),
        (lambda i, n, w, p: p * (i / w if i < w else 1), "falta a descida"),
        (lambda i, n, w, p: p * (n - i) / n, "falta a subida"),
        (lambda i, n, w, p: p * (i / w if i < w else (n - i) / n), "salta no fim"),
        (lambda i, n, w, p: p * (i / w if i < w else (n - 1 - i) / (n - 1 - w)), "no último passo"),
        (lambda i, n, w, p: p * (i / w if i < w else (i - w) / (n - w)), "sobe outra vez"),
        (
            lambda i, n, w, p: p * (i / w if i < w else (1 + math.cos(math.pi * (i - w) / (n - w))) / 2),
            "cosseno",
        ),
        (lambda i, n, w, p: p * min(i / w, (n - i) / (n - w)), "sem subida, o passo 0"),
        (lambda i, n, w, p: p, "a taxa não muda"),
        (lambda i, n, w, p: linear(i, n, w, p) / 2, UNKNOWN + " No passo 1 de 10, na subida"),
        (lambda i, n, w, p: linear(i, n, 4 if n == 30 else w, p), "Está certa com"),
        (lambda i, n, w, p: math.nan, "nan"),
        (lambda i, n, w, p: None, "falta o return"),
        (lambda i, n, w, p: torch.ones(n), "um número, e veio um Tensor de forma"),
        (lambda i, n, w, p: f"{p}", "um texto"),
        (lambda i, n, w: i, "recebe i, n, w"),
        (3e-4, "sem parênteses"),
    ],
    "02.2": [
        (lambda n, t: 16 * t, "congelados também"),
        (lambda n, t: 16 * n, "só o peso"),
        (lambda n, t: 4 * n, "só os pesos: faltam"),
        (lambda n, t: 4 * t, "só os pesos do que treina"),
        (lambda n, t: 12 * t, "faltam os pesos", "contou números", "só o peso."),
        (lambda n, t: 12 * n, "e onde estão os pesos"),
        (lambda n, t: 4 * (n - t) + 12 * t, "Qual ficou de fora"),
        (lambda n, t: 4 * n + 8 * t, "Qual ficou de fora"),
        (lambda n, t: 4 * n + 4 * t, "dois números"),
        (lambda n, t: 4 * n + 16 * t, "duas vezes"),
        (lambda n, t: 12 * n + 4 * t, "trocados"),
        (lambda n, t: n + 3 * t, "contou números"),
        (lambda n, t: 32 * n + 96 * t, "bits"),
        (lambda n, t: 2 * n + 6 * t, "meia precisão"),
        (lambda n, t: (4 * n + 12 * t) / 1e6, "MB"),
        (lambda n, t: 2 * n + 12 * t, UNKNOWN),
        (lambda n, t: 4 * n + 12 * t + 1, UNKNOWN),
        (lambda n, t: t / n, UNKNOWN),
        (lambda n, t: 84_914_208, CONSTANT),
        (lambda n, t: None, "falta o return"),
        (lambda n, t: f"{4 * n + 12 * t} bytes", "um texto"),
        (16, "sem parênteses"),
    ],
    "02.3": [
        (lambda losses, p: tuple(k - 1 for k in patient(losses, p)), "contou as épocas de 0"),
        (lambda losses, p: (patient(losses, p)[0] - 1, patient(losses, p)[1]), "em que se para saiu contada de 0"),
        (lambda losses, p: (patient(losses, p)[0], patient(losses, p)[1] - 1), "que se guarda saiu contada de 0"),
        (lambda losses, p: patient(losses, p)[::-1], "trocadas"),
        (lambda losses, p: (patient(losses, p)[0],) * 2, "guardou a última"),
        (lambda losses, p: patient(losses, 1), "primeira vez"),
        (lambda losses, p: patient(losses, p + 1), "uma época a mais"),
        (lambda losses, p: nb02.stop(losses, p, lambda x, i, best: x[i] >= x[i - 1]), "com a anterior"),
        (lambda losses, p: nb02.stop(losses, p, lambda x, i, best: x[i] > x[best]), "empate não é melhora"),
        (lambda losses, p: nb02.stop(losses, p, consecutive=False), "volta a zero"),
        (lambda losses, p: (patient(losses, p)[0], losses.index(min(losses)) + 1), "lista inteira"),
        (lambda losses, p: (len(losses), losses.index(min(losses)) + 1), "nunca para"),
        (lambda losses, p: None, "falta o return"),
        (lambda losses, p: patient(losses, p)[0], "dois números"),
        (lambda losses, p: "62", "dois números"),
        (lambda losses, p: ("6", "2"), "um texto"),
        (lambda losses, p: (True, 2), "bool"),
        (lambda losses, p: set(patient(losses, p)), "dois números"),
        (lambda losses, p: (patient(losses, p)[0], math.nan), UNKNOWN),
        (lambda losses, p: (*patient(losses, p), 0.6), "dois números"),
        (lambda losses, p: (losses.sort(), patient(losses, p))[1], "mudou o que recebeu"),
        (lambda losses, p: losses[9], "um índice passou do fim"),
        (lambda losses, p: (1, 1), CONSTANT),
        (lambda losses, p: (len(losses), 1), UNKNOWN + " Para [0.9, 0.7, 0.8, 0.75"),
        ((4, 2), "sem parênteses"),
    ],
    "04.1": [
        (lambda x, W, A, B, a: x @ W.T + a * (x @ A.T) @ B.T, "sem dividir por r"),
        (lambda x, W, A, B, a: x @ W.T + (x @ A.T) @ B.T, "falta a escala"),
        (lambda x, W, A, B, a: x @ W.T + (x @ A.T) @ B.T / len(A), "falta α"),
        (lambda x, W, A, B, a: a / len(A) * (x @ A.T) @ B.T, "falta Wx"),
        (lambda x, W, A, B, a: a / len(A) * (x @ W.T + (x @ A.T) @ B.T), "só para BAx"),
        (lambda x, W, A, B, a: x @ W.T + a / len(A) ** 0.5 * (x @ A.T) @ B.T, "rsLoRA"),
        (lambda x, W, A, B, a: x @ W.T + a / A.shape[1] * (x @ A.T) @ B.T, "não é d_in"),
        (lambda x, W, A, B, a: x @ W.T + a / len(B) * (x @ A.T) @ B.T, "não é d_out"),
        (lambda x, W, A, B, a: x @ W.T + len(A) / a * (x @ A.T) @ B.T, "virada"),
        (lambda x, W, A, B, a: x @ W.T + a // len(A) * (x @ A.T) @ B.T, "joga fora o resto"),
        (lambda x, W, A, B, a: x @ W.T - a / len(A) * (x @ A.T) @ B.T, "subtraiu"),
        (lambda x, W, A, B, a: x @ W.T, "sem LoRA"),
        (lambda x, W, A, B, a: x @ W.T - (x @ A.T) @ B.T, UNKNOWN),
        (lambda x, W, A, B, a: x @ W.T + 4 * (x @ A.T) @ B.T, "Está certa com"),
        (
            lambda x, W, A, B, a: x @ W.T + a / len(A) * (x @ B.T) @ A.T,
            "não se multiplicam.*Quem o x encontra antes",
            "cannot be multiplied",
        ),
        (lambda x, W, A, B, a: x @ W, "as formas 5x7 e 4x7 não se multiplicam", "mat1"),
        (lambda x, W, A, B, a: (x @ W.T).T, "a forma"),
        (lambda x, W, A, B, a: (x @ W.T)[0], "a forma"),
        (lambda x, W, A, B, a: x @ W.add_(a / len(A) * B @ A).T, "mudou o que recebeu"),
        (lambda x, W, A, B, a: (x @ W.T).numpy(), "um ndarray"),
        (lambda x, W, A, B, a: (x @ W.T).half(), "float16"),
        (lambda x, W, A, B: x @ W.T, "recebe x, W, A, B, e"),
        (3.0, "sem parênteses"),
    ],
    "04.2": [
        ((8, 8), "a norma cai"),
        ((128, 128), "primeira linha"),
        ((32, 128), "primeira linha"),
        ((8, 32), "trocados"),
        ((2, 8), "inverso"),
        ((0.5, 8), "inverso"),
        ((32, 32), "esse conserva a norma"),
        ((29.7, 8.6), "arredondar", UNKNOWN),
        ((32, 8.6), "arredondar", UNKNOWN),
        ((29.7, 8), "arredondar", UNKNOWN),
        ((32.3, 8), "arredondar"),
        ((20, 8), UNKNOWN + " α = 20 não conserva"),
        ((0, 0), UNKNOWN),
        ((32, 64), UNKNOWN + " α = 64 muda"),
        ((math.nan, 8), UNKNOWN),
        (("32", "8"), "um texto"),
        ((True, 8), "bool"),
        ({32, 8}, "dois números"),
        ("32", "dois números"),
        (32, "dois números"),
    ],
    "04.3": [
        (lambda r, a, d: a**2 / (3 * d * r), "inverso"),
        (lambda r, a, d: d * r / a**2, "1/d_in como variância"),
        (lambda r, a, d: 12 * d * r / a**2, "o dobro da largura", "uma vez"),
        (lambda r, a, d: 6 * d * r / a**2, UNKNOWN, "uma vez"),
        (lambda r, a, d: 3 * d / a, "uma vez"),
        (lambda r, a, d: 3 * d * r**2 / a**2, "soma r linhas"),
        (lambda r, a, d: 3 * d / r, "ao quadrado"),
        (lambda r, a, d: 3 * d / a**2, "rsLoRA"),
        (lambda r, a, d: 3 * d / (r * a**2), "e não α"),
        (lambda r, a, d: (3 * d) ** 0.5 * r / a**2, "desvio"),
        (lambda r, a, d: 3 * r / a**2, "falta d_in"),
        (lambda r, a, d: 3 * d * a**2 / r**3, "virada"),
        (lambda r, a, d: round(3 * d * r / a**2), ROUNDED),
        (lambda r, a, d: 3 * d * r // a**2, ROUNDED),
        (lambda r, a, d: 3 * 256 * r / a**2, "Está certa com"),
        (lambda r, a, d: 24, CONSTANT),
        (lambda r, a, d: 7 * r, UNKNOWN),
        (lambda r, a, d: "24", "um texto"),
        (lambda r, a: 24, "recebe r, a, e"),
        (24, "sem parênteses"),
    ],
    "06.1": [
        (slices, "circula como NF4"),
        (
            lambda b: unit_of([quantile(p) for p in torch.linspace(1 - delta(b), delta(b), 2**b).tolist()]),
            "simétrica e sem zero",
        ),
        (lambda b: torch.linspace(-1, 1, 2**b), "int4 com outro nome, e não olha"),
        (lambda b: torch.arange(-(2 ** (b - 1)), 2 ** (b - 1)) / 2 ** (b - 1), "inteiros sobre n/2"),
        (lambda b: torch.arange(-7, 8) / 7, "um código ficaria sem uso"),
        (lambda b: normal_table(b, delta=delta(4)), "valor de 4 bits"),
        (lambda b: normal_table(b, delta=0.98), UNKNOWN + ".*confira o δ", "cabem"),
        (lambda b: normal_table(b, delta=1 - 1 / 2 ** (b + 1)), "só o de n fatias", "cabem"),
        (lambda b: normal_table(b, delta=1 - 1 / (2 * (2**b - 1))), "só o de n − 1", "cabem"),
        (lambda b: normal_table(b, delta=2 * delta(b) - 1), "é o dobro do que devia", "cabem"),
        (lambda b: normal_table(b, divide=False), "dividir pelo maior"),
        (lambda b: -normal_table(b).flip(0), "virada"),
        (lambda b: normal_table(b).flip(0), "fora de ordem"),
        (lambda b: normal_table(b)[torch.randperm(2**b)], "fora de ordem"),
        (lambda b: normal_table(b, below=2 ** (b - 1)), "tira um lugar"),
        (lambda b: normal_table(b, half=True, zeros=()), "o zero aparece 2 vezes"),
        (lambda b: normal_table(b, half=True), "o zero aparece 3 vezes"),
        (lambda b: None, "falta o return"),
        (lambda b: torch.tensor([-math.inf, *normal_table(b)[1:]]), "infinito"),
        (lambda b: normal_table(b, delta=1.0), "infinito", "StatisticsError"),
        (lambda b: normal_table(b)[:4], "são 4 valores"),
        (lambda b: normal_table(4), "são 16 valores, e com 3 bits cabem 8"),
        (lambda b: normal_table(b) ** 3, UNKNOWN),
        (lambda b: normal_table(b)[None], "em fila"),
        (lambda b: normal_table(b).view(-1, 2), "em fila"),
        (lambda b: normal_table(b).tolist(), "um tensor de torch"),
        (lambda b: normal_table(b).numpy(), "um ndarray"),
        (lambda: TABLE, "recebe nada"),
        (TABLE, "sem parênteses"),
    ],
    "06.2": [
        (lambda p, a, b: TABLE[torch.stack([p & 15, p >> 4], 1).int().flatten()] * blocks(a, b), "trocados"),
        (lambda p, a, b: TABLE[torch.cat([p >> 4, p & 15]).int()] * blocks(a, b), "se alternam"),
        (lambda p, a, b: TABLE[pairs(p)], "falta multiplicar"),
        (lambda p, a, b: TABLE[pairs(p)] * a.max(), "cada bloco tem o seu"),
        (lambda p, a, b: TABLE[pairs(p)] * a[0], "cada bloco tem o seu"),
        (lambda p, a, b: TABLE[pairs(p)] * blocks(a, 2 * b)[: 2 * len(p)], "em bytes"),
        (lambda p, a, b: TABLE[pairs(p)] * a.repeat(b), "a fila inteira", "eixo"),
        (lambda p, a, b: TABLE[pairs(p)] * blocks(a, b // 2), "os absmax repetidos são 192", "eixo", "size of"),
        (lambda p, a, b: TABLE[pairs(p)] * blocks(a, 2 * b), "os absmax repetidos são 768", "eixo", "size of"),
        (lambda p, a, b: TABLE[pairs(p)] * blocks(a, 64), "os absmax repetidos são 256", "eixo", "size of"),
        (lambda p, a, b: TABLE[pairs(p)] * a, "cada um serve aos pesos de um bloco", "eixo", "size of"),
        (lambda p, a, b: (TABLE[pairs(p)].view(-1, 64) * a[:, None]).flatten(), "vieram em 2 linhas", "eixo"),
        (lambda p, a, b: (pairs(p) - 8) / 8 * blocks(a, b), "menos 8, sobre 8"),
        (lambda p, a, b: (pairs(p) - 8) / 7 * blocks(a, b), "menos 8, sobre 7"),
        (lambda p, a, b: (pairs(p) - 7) / 7 * blocks(a, b), "menos 7, sobre 7"),
        (lambda p, a, b: (pairs(p) / 7.5 - 1) * blocks(a, b), "igualmente espaçados"),
        (lambda p, a, b: pairs(p) * blocks(a, b), "multiplicou o código"),
        (lambda p, a, b: TABLE[pairs(p)] / blocks(a, b), "dividiu"),
        (lambda p, a, b: TABLE[p.int()], "um byte inteiro guarda dois"),
        (lambda p, a, b: TABLE[torch.stack([p & 240, p & 15], 1).int()], "não os traz para baixo"),
        (lambda p, a, b: TABLE[torch.stack([p >> 4, p & 15], 1)], "máscara"),
        (lambda p, a, b: TABLE[p >> 4], "máscara"),
        (lambda p, a, b: TABLE[pairs(p)].view(-1, b) * a, "falta um eixo", "[:, None]"),
        (lambda p, a, b: TABLE[pairs(p)].view(-1, b + 1), "a forma [-1, 65] não serve para 384"),
        (lambda p, a, b: None, "falta o return"),
        (lambda p, a, b: TABLE[(p >> 4).int()], "dois códigos"),
        (lambda p, a, b: TABLE[pairs(p)].view(-1, b) * a[:, None], "a forma (6, 64), e devia ter (384,)"),
        (lambda p, a, b: (TABLE[pairs(p)] * blocks(a, b))[None], "a forma (1, 384)"),
        (lambda p, a, b: TABLE[pairs(p)] * blocks(a.mul_(2), b) / 2, "mudou o que recebeu"),
        (lambda p, a, b: (TABLE[pairs(p)] * blocks(a, b), p.zero_())[0], "mudou o que recebeu"),
        (lambda p, a, b: slices(4)[pairs(p)] * blocks(a, b), UNKNOWN),
        (lambda p, a, b: (TABLE[pairs(p)] * blocks(a, b)).tolist(), "list"),
        (lambda p, a, b: (TABLE[pairs(p)] * blocks(a, b)).numpy(), "um ndarray"),
        (lambda p, a: p, "recebe p, a, e"),
        (3.0, "sem parênteses"),
    ],
    "06.3": [
        (lambda w, p, m, e, n: (p - w) * (n / e) ** 2, "sorte incluída"),
        (lambda w, p, m, e, n: p - w, "a subida que este E deu"),
        (lambda w, p, m, e, n: (p - m) / 2 * n / e + even(w, p, m) * (n / e) ** 2, "as duas partes crescem"),
        (lambda w, p, m, e, n: (p - m) / 2 + even(w, p, m) * (n / e) ** 2, "do E que você mediu"),
        (lambda w, p, m, e, n: (m - w) * (n / e) ** 2, "W − E como se fosse W + E"),
        (lambda w, p, m, e, n: (p - m) / 2 * (n / e) ** 2, "usou a parte ímpar"),
        (lambda w, p, m, e, n: (p - m) / 2 * n / e, "ímpar cresce com o erro"),
        (lambda w, p, m, e, n: even(w, p, m) * (n / e) ** 4, "não cresce tão depressa"),
        (lambda w, p, m, e, n: even(w, p, m) / e**2, "essa é a constante"),
        (lambda w, p, m, e, n: even(w, p, m) * n**2, "falta o erro que você mediu"),
        (lambda w, p, m, e, n: None, "falta o return"),
        (lambda w, p, m, e, n: even(w, p, m) * n / e, "mais depressa que o erro"),
        (lambda w, p, m, e, n: (p - w) * n / e, "em proporção ao erro"),
        (lambda w, p, m, e, n: even(w, p, m), "pelo tamanho"),
        (lambda w, p, m, e, n: even(w, p, m) * (e / n) ** 2, "invertida"),
        (lambda w, p, m, e, n: (p + m - 2 * w) * (n / e) ** 2, "falta dividir por 2"),
        (lambda w, p, m, e, n: even(w, p, m) / 2 * (n / e) ** 2, "por 2 a mais"),
        (lambda w, p, m, e, n: w + even(w, p, m) * (n / e) ** 2, "isso é a perda"),
        (lambda w, p, m, e, n: (p + m) / 2 * (n / e) ** 2, "esqueceu L(W)"),
        (lambda w, p, m, e, n: -even(w, p, m) * (n / e) ** 2, "o sinal está trocado"),
        (lambda w, p, m, e, n: round(even(w, p, m) * (n / e) ** 2, 3), ROUNDED),
        (lambda w, p, m, e, n: even(w, p, m) * (n / e) ** 3, UNKNOWN),
        (lambda w, p, m, e, n: 0.5, CONSTANT),
        (lambda w, p, m, e, n: "0.08", "um texto"),
        (lambda w, p, m, e: w, "recebe w, p, m, e, e"),
        (0.08, "sem parênteses"),
    ],
}


def unit_of(values):
    return torch.tensor(values) / max(values)


def delta(bits):
    return 1 - (1 / (2 * (2**bits - 1)) + 1 / 2 ** (bits + 1)) / 2


def angles(x, p):
    half = x.shape[-1] // 2
    return p[:, None] / 10000 ** (torch.arange(half) / half)


def complex_spin(x, p):
    """O mesmo giro, com números complexos."""
    a, b = x.chunk(2, -1)
    turned = torch.complex(a, b) * torch.polar(torch.ones_like(angles(x, p)), angles(x, p))
    return torch.cat([turned.real, turned.imag], -1)


# A mesma conta de outros jeitos, em números de Python, de numpy e de torch.
RIGHT = {
    "00.1": [
        lambda s, h: -(s - h).max(),
        lambda s, h: float(-(s - h).max()),
        lambda s, h: (h - s).numpy().min(),
        lambda s, h: -(s - h).mean(),
        lambda s, h: -(s - h).sum(),
        lambda s, h: -(s - h).topk(3).values.mean(),
        lambda s, h: np.float32(-max(s.numpy() - h.numpy())),
        lambda s, h: -(s.mean() - h.mean()),
        lambda s, h: -(s - h).clamp(min=0).sum(),
    ],
    "00.2": [
        (0.8, 0),
        [0.8, 0.0],
        (torch.tensor(0.8), torch.tensor(0)),
        (np.float32(0.8), np.int64(0)),
        (Fraction(4, 5), 0),
        (Decimal("0.8"), Decimal(0)),
        np.array([0.8, 0.0]),
        torch.tensor([0.8, 0.0]),
        (torch.tensor(0.8, dtype=torch.float16), -0.0),
        (np.array([0.8]), torch.zeros(1)),
    ],
    "00.3": [
        lambda d, s: phi(d / (2 * s)),
        lambda d, s: np.float64(phi(d / (2 * s))),
        lambda d, s: torch.special.ndtr(torch.tensor(d / (2 * s))),
        lambda d, s: NormalDist(0, s).cdf(d / 2),
        lambda d, s, scale=2: (1 + math.erf(d / (scale * s) / math.sqrt(2))) / 2,
    ],
    "01.1": [
        bert_block,
        lambda d, f: float(bert_block(d, f)),
        lambda d, f: np.int64(bert_block(d, f)),
        lambda d, f: torch.tensor(bert_block(d, f)),
    ],
    "01.2": [
        llama,
        lambda *sizes: float(llama(*sizes)),
        lambda *sizes: np.float32(llama(*sizes)),
        lambda *sizes: torch.tensor([llama(*sizes)]),
    ],
    "01.3": [spin, complex_spin, lambda x, p: spin(x, p).double(), lambda x, p: torch.nn.Parameter(spin(x, p))],
    "02.1": [
        linear,
        lambda i, n, w, p: torch.tensor(linear(i, n, w, p)),
        lambda i, n, w, p: np.float32(linear(i, n, w, p)),
        lambda i, n, w, p: p * min(i / w if w else 1, (n - i) / (n - w)),
    ],
    "02.2": [
        lambda n, t: 4 * n + 12 * t,
        lambda n, t: 16.0 * t + 4.0 * (n - t),
        lambda n, t: np.int64(4) * n + 12 * t,
        lambda n, t: torch.tensor(4 * n + 12 * t),
    ],
    "02.3": [
        patient,
        lambda losses, p: list(patient(losses, p)),
        lambda losses, p: np.array(patient(losses, p)),
        lambda losses, p: torch.tensor(patient(losses, p)),
        lambda losses, p: tuple(map(float, patient(losses, p))),
    ],
    "04.1": [
        lambda x, W, A, B, a: x @ W.T + a / len(A) * x @ A.T @ B.T,
        lambda x, W, A, B, a: x @ (W + a / A.shape[0] * B @ A).T,
        lambda x, W, A, B, a: torch.nn.functional.linear(x.double(), W.double() + a / len(A) * (B @ A).double()),
        lambda x, W, A, B, a: torch.stack([W @ row + a / len(A) * (B @ (A @ row)) for row in x]),
    ],
    "04.2": [
        (32, 8),
        [32.0, 8.0],
        (np.int64(32), torch.tensor(8)),
        np.array([32, 8]),
        (Fraction(32), Decimal(8)),
    ],
    "04.3": [
        lambda r, a, d: 3 * d * r / a**2,
        lambda r, a, d: torch.tensor(3.0 * d * r / a**2),
        lambda r, a, d: np.float32(1) / ((a / r) ** 2 * r / (3 * d)),
        lambda r, a, d: Fraction(3 * d * r, a**2),
    ],
    "06.1": [normal_table, lambda b: normal_table(b).double(), lambda b: torch.nn.Parameter(normal_table(b))],
    "06.2": [
        lambda p, a, b: (TABLE[pairs(p)].view(-1, b) * a[:, None]).flatten(),
        lambda p, a, b: TABLE[pairs(p)] * blocks(a, b),
        lambda p, a, b: (TABLE[pairs(p)] * blocks(a, b)).double(),
    ],
    "06.3": [
        lambda w, p, m, e, n: even(w, p, m) * (n / e) ** 2,
        lambda w, p, m, e, n: torch.tensor(even(w, p, m) * (n / e) ** 2),
        lambda w, p, m, e, n: np.float32(even(w, p, m) * (n / e) ** 2),
        lambda w, p, m, e, n: np.array([even(w, p, m) / e**2 * n**2]),
    ],
}
for path in sorted(Path(__file__).parent.glob("test_hints_*.py")):  # os dos outros cadernos, um arquivo para cada um
    other = importlib.import_module(path.stem)
    TYPICAL |= other.TYPICAL
    RIGHT |= other.RIGHT
CASES = [(exercise, *case) for exercise, cases in TYPICAL.items() for case in cases]
FUNCTIONS = [exercise for exercise, cases in RIGHT.items() if callable(cases[0])]


@pytest.fixture(autouse=True)
def first_attempt():
    exercises._attempts.clear()


def hints(exercise, answer, attempts=3):
    """O que se diz da mesma resposta errada, de uma tentativa a outra."""
    exercises._attempts.clear()
    return [text for right, text in (exercises.judge(exercise, answer) for _ in range(attempts)) if right is False]


@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")  # um dos enganos é esse
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[2]}")
def test_a_typical_mistake_gets_its_own_hint(case):
    exercise, answer, must, *never = case
    right, text = exercises.judge(exercise, answer)
    assert right is False and (must in text or re.search(must, text)), text
    assert not any(words in text for words in never), text


@pytest.mark.parametrize("exercise", RIGHT)
def test_the_right_answer_is_right_in_whatever_numbers(exercise):
    for answer in RIGHT[exercise]:
        assert exercises.judge(exercise, answer)[0] is True


def known(exercise):
    """Os enganos que uma verificação conhece: o que ela passa a `compare`."""
    notebook, _, number = exercise.partition(".")
    module, said = importlib.import_module(f"ftcourse.exercises.nb{notebook}"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "compare", lambda function, cases, right, mistakes, *rest, **how: said.append(mistakes))
        getattr(module, f"exercise_{number}")(RIGHT[exercise][0])
    return said[0]


@pytest.mark.parametrize("exercise", [exercise for exercise in FUNCTIONS if exercise != "00.1"])
def test_no_two_known_mistakes_are_taken_for_one_another(exercise):
    for hint, wrong in known(exercise).items():
        if exercise == "02.1":  # o engano diz o treino inteiro, e o aluno, um passo
            wrong = functools.partial(lambda wrong, i, *training: wrong(*training)[i], wrong)
        assert exercises.judge(exercise, wrong) == (False, hint)
        exercises._attempts.clear()


def test_two_mistakes_that_give_the_same_in_every_case_are_not_told():
    same = {"um engano.": lambda n: n + 1, "outro.": lambda n: n + 1}
    with pytest.raises(exercises.Wrong, match=re.escape(UNKNOWN)):
        exercises.compare(lambda n: n + 1, ((1,), (2,)), lambda n: n, same, "dica")


# ---------------------------------------------------------------- nenhuma dica diz a solução

STUBS = [(book, cell) for book in map(read, NOTEBOOKS) for cell in code_cells(book) if "exercicio" in tags(cell)]
SOLUTIONS = {re.search(r'verifica\("(.+?)"', cell.source)[1]: ast.parse(solution(book, cell)) for book, cell in STUBS}
LETTERS = {"alpha": "α", "delta": "δ", "sigma": "σ", "**2": "²", "*": "·", "×": "·", "−": "-"}


def plain(text):
    """Uma conta sem espaços nem parênteses, em letras de fórmula: em código ou em prosa, é a mesma."""
    for code, letter in LETTERS.items():
        text = text.replace(code, letter)
    return re.sub(r"[\s()]", "", text)


def expressions(tree):
    """As contas de uma solução: o que a função devolve e o que ela guarda num nome, com mais de um termo."""
    found = [node.value for node in ast.walk(tree) if isinstance(node, (ast.Return, ast.Assign))]
    found = [plain(ast.unparse(e)) for e in found if isinstance(e, (ast.BinOp, ast.UnaryOp, ast.Call))]
    return [e for e in found if len(e) > 6]


def values(exercise):
    """Os números que resolvem um exercício de número. Zero se escreve por outros motivos."""
    return [v for v in RIGHT[exercise][0] if v] if exercise not in FUNCTIONS else []


def gives_away(exercise, text, answer=None):
    written = re.findall(r"\d+(?:[.,]\d+)?", text)
    mine = [float(n) for n in re.findall(r"\d+(?:\.\d+)?", repr(answer))]  # o que o aluno escreveu se repete
    told = [v for v in values(exercise) if v not in mine and any(float(w.replace(",", ".")) == v for w in written)]
    return told or [e for e in expressions(SOLUTIONS[exercise]) if e in plain(text)]


def test_every_exercise_is_tried():
    assert set(SOLUTIONS) == set(TYPICAL) == set(RIGHT)
    assert all(len(cases) >= 10 for cases in TYPICAL.values()) and all(len(cases) >= 3 for cases in RIGHT.values())


@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")
@pytest.mark.parametrize("exercise", TYPICAL)
def test_no_hint_gives_the_solution_away(exercise):
    for answer, *_ in TYPICAL[exercise]:
        for text in hints(exercise, answer):
            assert not gives_away(exercise, text, answer), text


@pytest.mark.parametrize("wrong", [0.8, 1, -1, 0.5, 0.3, math.nan])
def test_the_value_of_the_mcc_is_not_told(wrong):
    assert not any(re.search(r"(?<![\d,])0(?![\d,])|zero|nula", text) for text in hints("00.2", (0.8, wrong)))


# ---------------------------------------------------------------- qualquer coisa

NUMBERS = st.one_of(
    st.floats(), st.integers(), st.booleans(), st.decimals(), st.fractions(), st.complex_numbers(),
    st.floats(width=32).map(np.float32), st.integers(-99, 99).map(torch.tensor), st.floats(width=16).map(np.float16),
)  # fmt: skip
ARRAYS = st.lists(st.floats(width=32), max_size=5).flatmap(
    lambda x: st.sampled_from([x, tuple(x), np.array(x), torch.tensor(x), torch.tensor([x]), {*x}, np.array(x) > 0])
)
ANY = st.one_of(NUMBERS, ARRAYS, st.text(max_size=5), st.binary(max_size=3), st.none(), st.just(object()), st.just({}))


@st.composite
def answers(draw):
    """Uma coisa qualquer, ou uma função, de qualquer número de argumentos, que a devolve ou nela se perde."""
    thing, arity = draw(ANY), draw(st.integers(0, 8))
    names = ", ".join("abcdefgh"[:arity])
    return draw(
        st.sampled_from([
            thing,
            (thing, thing),
            eval(f"lambda {names}: thing", {"thing": thing}),
            lambda *arguments: thing,
            lambda *arguments: (thing, thing),
            lambda *arguments: arguments[0],
            lambda *arguments: arguments[0] * thing,
            lambda *arguments: thing[arguments[-1]],
            lambda *arguments: arguments[0].add_(1),
            max, str, dict, object,
        ])
    )  # fmt: skip


@pytest.mark.parametrize("exercise", RIGHT)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(answer=answers(), attempts=st.integers(0, 3))
def test_whatever_is_answered_is_refused_in_one_sentence_that_gives_nothing_away(exercise, answer, attempts):
    exercises._attempts[exercise] = attempts
    right, text = exercises.judge(exercise, answer)
    assert right is False and text and "\n" not in text
    assert "num erro" not in text or not re.search(r"\b(size|invalid|cannot|must|not)\b", text.split(": ")[-1])
    assert not [e for e in expressions(SOLUTIONS[exercise]) if e in plain(text)]


@pytest.mark.parametrize(
    ("exercise", "answer"),
    [
        ("00.1", ...),
        ("00.1", lambda s, h: ...),
        ("00.2", (..., 0)),
        ("02.3", lambda losses, p: ...),
        ("02.3", lambda losses, p: (..., ...)),
        ("04.2", [..., 8]),
    ],
)
def test_no_answer_is_not_a_wrong_answer(exercise, answer):
    assert exercises.judge(exercise, answer)[0] is None


def test_the_second_attempt_gets_a_clearer_hint():
    first, second, third = hints("00.2", (0.8, 0.3))
    assert first != second == third and "sem olhar a frase" in second
