"""Os enganos típicos do caderno 10, e o que passa: test_hints.py os junta aos dos outros e os experimenta."""

import functools

import numpy as np
import torch
import transformers

from ftcourse import methods, modules
from ftcourse.exercises import CONSTANT, UNKNOWN, nb10


@functools.cache
def vectors(layers, heads, d_kv, d_ff):
    """Os números que IA³ treina num T5 que transformers monta, sem pesos."""
    config = transformers.T5Config(
        num_layers=layers, num_decoder_layers=layers, num_heads=heads, d_kv=d_kv, d_ff=d_ff, d_model=8, vocab_size=8
    )
    with torch.device("meta"):
        model = transformers.T5ForConditionalGeneration(config)
        return modules.count_parameters(methods.apply(model, "ia3"))[0]


def count(n, a, k, f, *, sixth=6, down=2):
    return n * (sixth * a * k + down * f)


def solved(W, b, v, s):
    return W * s, b + W @ (s * v)


TYPICAL = {
    "10.1": [
        ("BERT", "é uma lista de nomes"),
        (3, "é uma lista de nomes"),
        (["bert"], "não está na tabela"),
        (["BERT", 1], "não está na tabela"),
        ([], "está vazia"),
        ([*nb10.MODELS], "todos não", UNKNOWN),
        (["Qwen2"], "ao contrário"),
        (["T5", "GPT-2", "BLOOM"], "a seção 3 mediu o BERT"),
        (["BERT", "GPT-2", "BLOOM"], "a seção 3 mediu o T5"),
        (["BERT", "T5", "Qwen2"], "K gira", "a seção 3"),
        ({"BERT", "GPT-2", "T5", "Qwen2"}, "K gira"),
        (["BERT", "T5"], "um vetor de posição somado à entrada"),
        (("BERT", "T5", "BLOOM"), "um vetor de posição somado à entrada"),
        (["BERT", "T5", "GPT-2"], UNKNOWN),
    ],
    "10.2": [
        (lambda n, a, k, f: count(n, a, k, f, sixth=4), "faltou a atenção cruzada"),
        (lambda n, a, k, f: count(n, a, k, f, sixth=2, down=1), "só o codificador"),
        (lambda n, a, k, f: count(n, a, k, f, sixth=4, down=1), "só o decodificador"),
        (lambda n, a, k, f: count(n, a, k, f, down=3), "não tem um feed-forward dela"),
        (lambda n, a, k, f: count(n, a, k, f, down=0), "faltou o vetor do feed-forward"),
        (lambda n, a, k, f: count(n, a, k, f, down=1), "um dos lados"),
        (lambda n, a, k, f: count(n, a, k, f, sixth=3), "dois vetores"),
        (lambda n, a, k, f: count(n, a, k, f, sixth=12), "a consulta e a volta ficam sem vetor"),
        (lambda n, a, k, f: count(n, a, k, f, sixth=9), "a consulta não tem vetor"),
        (lambda n, a, k, f: count(n, 1, k, f), "das cabeças juntas"),
        (lambda n, a, k, f: count(n, a, 1, f), "o número de cabeças sozinho"),
        (lambda n, a, k, f: count(1, a, k, f), "multiplicar pelos blocos"),
        (lambda n, a, k, f: 6 * n * a * k + 2 * f, "também se repete"),
        (lambda n, a, k, f: 8 * n * a * k, "na entrada da volta"),
        (lambda n, a, k, f: 2 * count(n, a, k, f), UNKNOWN),
        (lambda n, a, k, f: 100, CONSTANT),
        (lambda n, a, k, f: f"{n}", "um texto"),
        (lambda n, a, k: n, "recebe n, a, k"),
        (36864, "sem parênteses"),
    ],
    "10.3": [
        (lambda W, b, v, s: (W * s, b + W @ v), "multiplica também o viés de V"),
        (lambda W, b, v, s: (W * s, b + (W * s) @ (s * v)), "duas vezes"),
        (lambda W, b, v, s: (W * s, W @ (s * v)), "o viés que O já tinha"),
        (lambda W, b, v, s: (W, b + W @ (s * v)), "o peso ficou como era"),
        (lambda W, b, v, s: (W * s, b), "o viés de O ficou como era"),
        (lambda W, b, v, s: (W / s, b + W @ (s * v)), "quem o absorve multiplica"),
        (lambda W, b, v, s: (W * s, b - W @ (s * v)), UNKNOWN + ".*o peso está certo"),
        (lambda W, b, v, s: (W + s, b + W @ (s * v)), UNKNOWN + ".*o peso difere"),
        (lambda W, b, v, s: (W * s[:, None], b + W @ (s * v)), "não se combinam"),
        (lambda W, b, v, s: (W * s, b + W.T @ (s * v)), "não se multiplicam|tamanhos"),
        (lambda W, b, v, s: W * s, "são dois tensores"),
        (lambda W, b, v, s: (b + W @ (s * v), W * s), "a de W_o"),
        (lambda W, b, v, s: (W.mul_(s), b + W @ v), "mudou o que recebeu"),
        (lambda W, b, v, s: (W * s, None), "é um tensor"),
    ],
}
RIGHT = {
    "10.1": [["BERT", "GPT-2", "T5", "BLOOM"], ("BLOOM", "T5", "GPT-2", "BERT"), {"T5", "BERT", "BLOOM", "GPT-2"}],
    "10.2": [
        vectors,
        lambda n, a, k, f: float(vectors(n, a, k, f)),
        lambda n, a, k, f: np.int64(vectors(n, a, k, f)),
        lambda n, a, k, f: torch.tensor(vectors(n, a, k, f)),
    ],
    "10.3": [
        solved,
        lambda W, b, v, s: [W @ torch.diag(s), (W * s) @ v + b],
        lambda W, b, v, s: (torch.nn.Parameter(W * s), (b + W @ (s * v)).double()),
    ],
}
