"""Os enganos típicos do caderno 09, e o que passa: test_hints.py os junta aos dos outros e os experimenta."""

import functools

import numpy as np
import torch
import transformers

from ftcourse import methods, modules
from ftcourse.exercises import CONSTANT, ROUNDED, UNKNOWN
from ftcourse.training import schedule


def total(steps, start=0):
    return sum(schedule(step, steps, 0.1) for step in range(start, start + steps))


def peak(size, times, steps):
    return size * times / total(steps)


@functools.cache
def prefix(p, layers, heads, kv, d, two):
    """Os números que o pacote treina num modelo que transformers monta, sem pesos."""
    if two and kv != heads:  # o T5 não tem menos cabeças de chave: a conta é a de um que só tem kv
        heads = kv
    with torch.device("meta"):
        if two:
            config = transformers.T5Config(
                num_layers=layers, num_heads=heads, d_kv=d, d_model=8, d_ff=8, vocab_size=8, decoder_start_token_id=0
            )
            model = transformers.T5ForConditionalGeneration(config)
        else:
            config = transformers.LlamaConfig(
                num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv, head_dim=d,
                hidden_size=heads * d, intermediate_size=8, vocab_size=8,
            )  # fmt: skip
            model = transformers.LlamaForCausalLM(config)
        return modules.count_parameters(methods.apply(model, "prefix", num_virtual_tokens=p))[0]


def count(p, layers, kv, d, two, rows=2, attentions=3):
    return rows * p * layers * kv * d * (attentions if two else 1)


def whole(prefix, prefix_score, text, text_score):
    """Das duas partes, um softmax só: com as notas em logaritmos, é o das duas notas."""
    share = torch.stack([prefix_score, text_score]).softmax(0)[:, :, None]
    return share[0] * prefix + share[1] * text


def mixed(share, keep=None):
    def attend(prefix, p, text, t):
        part = share(p, t)[:, None]
        return part * prefix + (1 - part if keep is None else keep) * text

    return attend


def part(p, t):
    return torch.sigmoid(p - t)


def in_place(prefix, p, text, t):
    prefix *= part(p, t)[:, None]
    return prefix + (1 - part(p, t))[:, None] * text


TYPICAL = {
    "09.1": [
        (lambda s, k, n: s * k / n, "todo passo tem a taxa do pico"),
        (lambda s, k, n: s * k / (n / 2), "triângulo perfeito"),
        (lambda s, k, n: s * k, "num passo só"),
        (lambda s, k, n: s / total(n), "falta times"),
        (lambda s, k, n: k / total(n), "falta size"),
        (lambda s, k, n: s / (k * total(n)), "você dividiu por times"),
        (lambda s, k, n: k / (s * total(n)), "você dividiu por size"),
        (lambda s, k, n: total(n) / (s * k), "de cabeça para baixo"),
        (lambda s, k, n: s * k * total(n), "você multiplicou pela soma"),
        (lambda s, k, n: s * k / total(n, 1), "o último, steps − 1"),
        (lambda s, k, n: s * k / np.mean([schedule(i, n, 0.1) for i in range(n)]), "a média do cronograma"),
        (lambda s, k, n: (s + k) / total(n), "Você os somou"),
        (lambda s, k, n: round(peak(s, k, n), 3), ROUNDED),
        (lambda s, k, n: 0.0186, CONSTANT),
        (lambda s, k, n: peak(s, k, n) + 0.01, UNKNOWN, "triângulo"),
        (lambda s, k, n: f"{peak(s, k, n)}", "um texto"),
        (lambda s, k, n: None, "falta o return"),
        (lambda s, k: s * k, "a sua função recebe s, k"),
        (0.0186, "sem parênteses"),
    ],
    "09.2": [
        (lambda p, n, h, kv, d, two: count(p, n, kv, d, two, rows=1), "faltam os valores"),
        (lambda p, n, h, kv, d, two: count(p, n, h, d, two), "cabeças de consulta"),
        (lambda p, n, h, kv, d, two: count(p, n, kv, d, two, attentions=2), "falta a atenção cruzada"),
        (lambda p, n, h, kv, d, two: count(p, n, kv, d, False), "isso é o que peft põe"),
        (lambda p, n, h, kv, d, two: count(p, n, kv, d, True), "uma pilha só"),
        (lambda p, n, h, kv, d, two: count(1, n, kv, d, two), "falta p"),
        (lambda p, n, h, kv, d, two: count(p, 1, kv, d, two), "pelas camadas"),
        (lambda p, n, h, kv, d, two: count(p, n, kv, 1, two), "falta head_dim"),
        (lambda p, n, h, kv, d, two: count(p, n, 1, d, two), "uma cabeça só"),
        (lambda p, n, h, kv, d, two: p * h * d, "isso é o que um prompt treina"),
        (lambda p, n, h, kv, d, two: count(p, n, kv, d, two, rows=3), "As consultas são do texto"),
        (lambda p, n, h, kv, d, two: 122880, CONSTANT),
        (lambda p, n, h, kv, d, two: count(p, n, kv, d, two) + p, UNKNOWN, "falta"),
        (lambda p, n, h, kv, d, two: str(count(p, n, kv, d, two)), "um texto"),
        (lambda p, n, h, kv, d: 2 * p * n * kv * d, "a sua função recebe p, n, h, kv, d"),
        (122880, "sem parênteses"),
    ],
    "09.3": [
        (lambda a, p, b, t: whole(b, t, a, p) * 0 + whole(a, t, b, p), "as partes estão trocadas"),
        (lambda a, p, b, t: (a + b) / 2, "meio a meio"),
        (mixed(lambda p, t: p / (p + t)), "passe-as por exp"),
        (lambda a, p, b, t: a + b, "você somou as duas saídas"),
        (lambda a, p, b, t: whole(a, p.mean().expand(len(p)), b, t.mean().expand(len(t))), "o mesmo λ a todos"),
        (lambda a, p, b, t: p.softmax(0)[:, None] * a + t.softmax(0)[:, None] * b, "ao longo dos tokens"),
        (lambda a, p, b, t: torch.where((p > t)[:, None], a, b), "A atenção mistura"),
        (lambda a, p, b, t: b.clone(), "falta a do prefixo"),
        (lambda a, p, b, t: a.clone(), "falta a do texto"),
        (mixed(part, keep=1), "o que resta, 1 − λ"),
        (lambda a, p, b, t: a + (1 - part(p, t))[:, None] * b, "o prefixo foi somado"),
        (lambda a, p, b, t: (p.exp()[:, None] * a + t.exp()[:, None] * b) / (p.exp() + t.exp())[:, None], "infinito"),
        (lambda a, p, b, t: part(p, t) * a + (1 - part(p, t)) * b, "não se combinam"),
        (lambda a, p, b, t: whole(a, p, b, t)[0], "a resposta tem a forma"),
        (lambda a, p, b, t: whole(a, p, b, t).tolist(), "um tensor de torch"),
        (lambda a, p, b, t: whole(a, p, b, t) + 0.1, UNKNOWN),
        (in_place, "mudou o que recebeu"),
    ],
}
RIGHT = {
    "09.1": [
        peak,
        lambda s, k, n: torch.tensor(peak(s, k, n)),
        lambda s, k, n: np.float32(peak(s, k, n)),
        lambda s, k, n: 2 * s * k / (n + 2),  # a soma, em fórmula fechada
    ],
    "09.2": [
        lambda p, n, h, kv, d, two: count(p, n, kv, d, two),
        prefix,
        lambda p, n, h, kv, d, two: torch.tensor(float(count(p, n, kv, d, two))),
        lambda p, n, h, kv, d, two: np.int64(2) * p * kv * d * (n + 2 * n * two),
    ],
    "09.3": [
        whole,
        lambda a, p, b, t: b + torch.sigmoid(p - t)[:, None] * (a - b),
        lambda a, p, b, t: whole(a.double(), p.double(), b.double(), t.double()),
        lambda a, p, b, t: torch.stack([
            torch.lerp(text, prefix, 1 / (1 + (y - x).exp())) for prefix, x, text, y in zip(a, p, b, t)
        ]),
    ],
}  # fmt: skip
