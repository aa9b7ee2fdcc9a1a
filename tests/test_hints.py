"""Cada engano típico recebe a dica que é dele, e não outra."""

import math
from statistics import NormalDist

import pytest
import torch
import transformers
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from ftcourse import exercises
from ftcourse.exercises import nb02
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


def size(kind, config):
    """Os parâmetros de um modelo que transformers monta, sem pesos."""
    with torch.device("meta"):
        return sum(p.numel() for p in kind(config).parameters())


def bert_block(d, f):
    kind = transformers.models.bert.modeling_bert.BertLayer
    return size(kind, transformers.BertConfig(hidden_size=d, intermediate_size=f, num_attention_heads=1))


def llama(vocab, d, layers, heads, kv, f, tied):
    config = transformers.LlamaConfig(
        vocab_size=vocab, hidden_size=d, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv,
        intermediate_size=f, tie_word_embeddings=tied,
    )  # fmt: skip
    return size(transformers.LlamaForCausalLM, config)


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
    "01.1": [
        (lambda d, f: 4 * d * d + 2 * d * f, "só as matrizes"),
        (lambda d, f: d, "com d = 256"),
        (lambda d, f: 4 * d * d + 2 * d * f + 2 * d, "nenhum"),
        (lambda d, f: 4 * d * d + 2 * d * f + 4 * d, "camadas lineares: um por saída"),
        (lambda d, f: 4 * d * d + 2 * d * f + f + d + 4 * d, "quatro vieses da atenção"),
        (lambda d, f: bert_block(d, f) - f - d, "d_ff na ida"),
        (lambda d, f: bert_block(d, f) - f + d, "o tamanho da saída dela"),
        (lambda d, f: bert_block(d, f) - 2 * d, "uma das duas normas"),
        (lambda d, f: bert_block(d, f) - 4 * d, "as duas normas"),
        (lambda d, f: bert_block(d, f) - d * d - d, "quatro matrizes"),
        (lambda d, f: bert_block(d, f) - d * d - 4 * d, "todas com viés"),
        (lambda d, f: bert_block(d, f) - d * f - d, "a que estreita"),
        (lambda d, f: bert_block(d, f) + d * f, "com porta"),
        (lambda d, f: bert_block(d, f) + d * f + f, "com porta"),
        (789_760, "sem parênteses"),
    ],
    "01.2": [
        (lambda v, d, n, h, k, f, t: llama(v, d, n, h, k, f, False), "conte-a uma vez"),
        (lambda v, d, n, h, k, f, t: llama(v, d, n, h, k, f, True), "há duas tabelas"),
        (lambda v, d, n, h, k, f, t: llama(v, d, n, h, h, f, t), "menos cabeças"),
        (lambda v, d, n, h, k, f, t: llama(v, d, n, h, k, f, t) - n * d * (d - d // h * k), "continua d × d"),
        (lambda v, d, n, h, k, f, t: llama(v, d, n, h, k, f, t) - n * d * f, "três matrizes, e não duas"),
        (lambda v, d, n, h, k, f, t: llama(v, d, n, h, k, f, t) - n * 2 * d, "normas de cada bloco"),
        (lambda v, d, n, h, k, f, t: llama(v, d, n, h, k, f, t) - n * d, "uma norma por bloco"),
        (lambda v, d, n, h, k, f, t: llama(v, d, n, h, k, f, t) - d, "norma final"),
        (lambda v, d, n, h, k, f, t: llama(v, d, n, h, k, f, t) - n * 2 * d - d, "todas as normas"),
        (lambda v, d, n, h, k, f, t: llama(v, d, n, h, k, f, t) + n * 2 * d + d, "não tem viés"),
        (
            lambda v, d, n, h, k, f, t: llama(v, d, n, h, k, f, t) + n * (3 * d + 2 * d // h * k + 2 * f),
            "não tem vieses",
        ),
        (lambda v, d, n, h, k, f, t: llama(v, d, 1, h, k, f, t), "um bloco só"),
        (lambda v, d, n, h, k, f, t: v, "com vocab = 8000"),
    ],
    "01.3": [
        (lambda x, p: spin(x, p, pair=False), "vizinhos (x₀"),
        (lambda x, p: spin(x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2), p), "devolveu em metades"),
        (lambda x, p: spin(x, -p), "ao contrário"),
        (lambda x, p: spin(x, p, power=0.5), "2i/d, e não"),
        (lambda x, p: spin(x, p, power=-1), "multiplicar"),
        (lambda x, p: spin(x, p, power=0), "o mesmo ângulo"),
        (lambda x, p: spin(x, torch.arange(x.shape[1])), "e não positions"),
        (lambda x, p: x, "nada girou"),
        (lambda x, p: (spin(x, p) + spin(x, -p)) / 2, "falta o seno"),
        (lambda x, p: spin(x, p).roll(x.shape[-1] // 2, -1), "trocadas"),
        (lambda x, p: 2 * spin(x, p), "difere do giro"),
        (lambda x, p: spin(x, p)[0], "a forma"),
        (lambda x, p: spin(x, p).numpy(), "ndarray"),
        (lambda x, p: x.mul_(2), "mudou o x"),
        (3.0, "sem parênteses"),
    ],
    "02.1": [
        (lambda i, n, w, p: linear(i, n, w, 1), "a fração"),
        (lambda i, n, w, p: p * min((i + 1) / max(1, w), (n - i) / (n - w)), "o cronograma do curso"),
        (lambda i, n, w, p: p * min(1, i / max(1, w)), "falta a descida"),
        (lambda i, n, w, p: p * (n - i) / n, "falta a subida"),
        (lambda i, n, w, p: p * (i / w if i < w else (n - i) / n), "salta no fim"),
        (lambda i, n, w, p: p * (i / w if i < w else (n - 1 - i) / (n - 1 - w)), "no último passo"),
        (lambda i, n, w, p: p * min(i / w, (n - i) / (n - w)), "divisão por zero"),
        (lambda i, n, w, p: p, "no passo 0"),
        (lambda i, n, w, p: math.nan, "no passo 0"),
        (lambda i, n, w, p: None, "falta o return"),
        (lambda i, n, w, p: torch.ones(n), "pede um número"),
        (3e-4, "sem parênteses"),
    ],
    "02.2": [
        (lambda n, t: 16 * t, "congelados também"),
        (lambda n, t: 16 * n, "só o peso"),
        (lambda n, t: 4 * n + 8 * t, "faltam 4 bytes"),
        (lambda n, t: 4 * n + 4 * t, "são duas"),
        (lambda n, t: 4 * n + 16 * t, "duas vezes"),
        (lambda n, t: n + 3 * t, "contou números. Em"),
        (lambda n, t: 32 * n + 96 * t, "devolveu bits"),
        (lambda n, t: 2 * n + 12 * t, "veio"),
        (lambda n, t: None, "falta o return"),
        (lambda n, t: f"{4 * n + 12 * t} bytes", "pede um número"),
        (16, "sem parênteses"),
    ],
    "02.3": [
        (lambda losses, p: tuple(k - 1 for k in nb02.stop(losses, p)), "contou as épocas de 0"),
        (lambda losses, p: (nb02.stop(losses, p)[0],) * 2, "guardou a última"),
        (lambda losses, p: nb02.stop(losses, 1), "primeira vez"),
        (lambda losses, p: nb02.stop(losses, p + 1), "uma época a mais"),
        (lambda losses, p: nb02.stop(losses, p, lambda x, i, best: x[i] >= x[i - 1]), "com a anterior"),
        (lambda losses, p: nb02.stop(losses, p, lambda x, i, best: x[i] > x[best]), "empate"),
        (lambda losses, p: nb02.stop(losses, p, consecutive=False), "volta a zero"),
        (lambda losses, p: (nb02.stop(losses, p)[0], losses.index(min(losses)) + 1), "lista inteira"),
        (lambda losses, p: None, "falta o return"),
        (lambda losses, p: nb02.stop(losses, p)[0], "dois números"),
        (lambda losses, p: "62", "dois números"),
        (lambda losses, p: (math.nan, 2), "dois números"),
        (lambda losses, p: (*nb02.stop(losses, p), 0.6), "dois números"),
        (lambda losses, p: (1, 1), "veio (1, 1)"),
        ((4, 2), "sem parênteses"),
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
    "06.1": [
        (slices, "circula como NF4"),
        (lambda b: torch.linspace(-1, 1, 2**b), "int4 com outro nome, e não olha"),
        (lambda b: torch.arange(-(2 ** (b - 1)), 2 ** (b - 1)) / 2 ** (b - 1), "inteiros sobre n/2"),
        (lambda b: torch.arange(-7, 8) / 7, "um código ficaria sem uso"),
        (lambda b: normal_table(b, delta=1 - (1 / 30 + 1 / 32) / 2), "valor de 4 bits"),
        (lambda b: normal_table(b, divide=False), "dividir pelo maior"),
        (lambda b: -normal_table(b).flip(0), "virada"),
        (lambda b: normal_table(b).flip(0), "fora de ordem"),
        (lambda b: normal_table(b, below=2 ** (b - 1)), "tira um lugar"),
        (lambda b: normal_table(b, half=True, zeros=()), "o zero aparece 2 vezes"),
        (lambda b: normal_table(b, half=True), "o zero aparece 3 vezes"),
        (lambda b: None, "falta o return"),
        (lambda b: torch.tensor([-math.inf, *normal_table(b)[1:]]), "infinito"),
        (lambda b: normal_table(b)[:4], "são 4 valores"),
        (lambda b: normal_table(b) ** 3, "difere do esperado"),
        (TABLE, "sem parênteses"),
    ],
    "06.2": [
        (lambda p, a, b: TABLE[torch.stack([p & 15, p >> 4], 1).int().flatten()] * blocks(a, b), "trocados"),
        (lambda p, a, b: TABLE[torch.cat([p >> 4, p & 15]).int()] * blocks(a, b), "se alternam"),
        (lambda p, a, b: TABLE[pairs(p)], "falta multiplicar"),
        (lambda p, a, b: TABLE[pairs(p)] * a.max(), "cada bloco tem o seu"),
        (lambda p, a, b: TABLE[pairs(p)] * blocks(a, 2 * b)[: 2 * len(p)], "em bytes"),
        (lambda p, a, b: (pairs(p) - 8) / 8 * blocks(a, b), "menos 8, sobre 8"),
        (lambda p, a, b: (pairs(p) - 8) / 7 * blocks(a, b), "menos 8, sobre 7"),
        (lambda p, a, b: (pairs(p) - 7) / 7 * blocks(a, b), "menos 7, sobre 7"),
        (lambda p, a, b: (pairs(p) / 7.5 - 1) * blocks(a, b), "igualmente espaçados"),
        (lambda p, a, b: TABLE[pairs(p)] / blocks(a, b), "dividiu"),
        (lambda p, a, b: TABLE[p.int()], "um byte inteiro guarda dois"),
        (lambda p, a, b: TABLE[torch.stack([p & 240, p & 15], 1).int()], "não os traz para baixo"),
        (lambda p, a, b: TABLE[torch.stack([p >> 4, p & 15], 1)], "máscara"),
        (lambda p, a, b: TABLE[p >> 4], "máscara"),
        (lambda p, a, b: TABLE[pairs(p)].view(-1, b) * a, "absmax[:, None]"),
        (lambda p, a, b: TABLE[pairs(p)].view(-1, b + 1), "levantou RuntimeError"),
        (lambda p, a, b: None, "falta o return"),
        (lambda p, a, b: TABLE[(p >> 4).int()], "dois códigos"),
        (lambda p, a, b: slices(4)[pairs(p)] * blocks(a, b), "difere do peso"),
        (lambda p, a, b: (TABLE[pairs(p)] * blocks(a, b)).tolist(), "list"),
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
        (lambda w, p, m, e, n: even(w, p, m) * (n / e) ** 4, "o quadrado é um só"),
        (lambda w, p, m, e, n: even(w, p, m) / e**2, "essa é a constante"),
        (lambda w, p, m, e, n: even(w, p, m) * n**2, "dividir pelo quadrado do erro que você mediu"),
        (lambda w, p, m, e, n: None, "falta o return"),
        (lambda w, p, m, e, n: even(w, p, m) * n / e, "quadrado do erro, não com ele"),
        (lambda w, p, m, e, n: (p - w) * n / e, "em proporção ao erro"),
        (lambda w, p, m, e, n: even(w, p, m), "pelo tamanho"),
        (lambda w, p, m, e, n: even(w, p, m) * (e / n) ** 2, "invertida"),
        (lambda w, p, m, e, n: (p + m - 2 * w) * (n / e) ** 2, "falta dividir por 2"),
        (lambda w, p, m, e, n: even(w, p, m) / 2 * (n / e) ** 2, "por 2 a mais"),
        (lambda w, p, m, e, n: w + even(w, p, m) * (n / e) ** 2, "isso é a perda"),
        (lambda w, p, m, e, n: (p + m) / 2 * (n / e) ** 2, "esqueceu L(W)"),
        (lambda w, p, m, e, n: 0.5, "veio 0.5"),
        (0.08, "sem parênteses"),
    ],
}
RIGHT = {
    "00.1": lambda s, h: -(s - h).max(),
    "00.2": (0.8, 0),
    "00.3": lambda d, s: phi(d / (2 * s)),
    "01.1": lambda d, f: bert_block(d, f),
    "01.2": lambda *sizes: llama(*sizes),
    "01.3": lambda x, p: spin(x, p),
    "02.1": lambda i, n, w, p: linear(i, n, w, p),
    "02.2": lambda n, t: 4 * n + 12 * t,
    "02.3": lambda losses, p: patient(losses, p),
    "04.1": lambda x, W, A, B, a: x @ W.T + a / len(A) * x @ A.T @ B.T,
    "04.2": (32, 8),
    "04.3": lambda r, a, d: 3 * d * r / a**2,
    "06.1": normal_table,
    "06.2": lambda p, a, b: TABLE[pairs(p)].view(-1, b) * a[:, None],
    "06.3": lambda w, p, m, e, n: even(w, p, m) * (n / e) ** 2,
}
CASES = [(exercise, answer, hint) for exercise, cases in TYPICAL.items() for answer, hint in cases]


@pytest.fixture(autouse=True)
def first_attempt(monkeypatch):
    monkeypatch.setattr(exercises, "_attempts", type(exercises._attempts)())


@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")  # um dos enganos é esse
@pytest.mark.parametrize(("exercise", "answer", "hint"), CASES)
def test_a_typical_mistake_gets_its_own_hint(exercise, answer, hint):
    right, text = exercises.judge(exercise, answer)
    assert right is False and hint in text


@pytest.mark.parametrize("exercise", RIGHT)
def test_the_right_answer_is_right(exercise):
    assert exercises.judge(exercise, RIGHT[exercise])[0] is True


@pytest.mark.parametrize(
    ("exercise", "answer"),
    [
        ("00.1", ...),
        ("00.1", lambda s, h: ...),
        ("00.2", (..., 0)),
        ("02.3", lambda losses, p: ...),
        ("04.2", [..., 8]),
    ],
)
def test_no_answer_is_not_a_wrong_answer(exercise, answer):
    assert exercises.judge(exercise, answer)[0] is None


def test_the_second_attempt_gets_a_clearer_hint():
    first, second = (exercises.judge("00.2", (0.8, 0.8))[1] for _ in range(2))
    assert first != second and "sem olhar a frase" in second
