"""Caderno 01: os parâmetros de um bloco do BERT, os de um LLaMA inteiro, a posição rotatória."""

import math
import re
from functools import partial

import torch

from ftcourse.exercises import Wrong, compare, equal, returned, tensor


def bert(d, d_ff):
    return 4 * (d * d + d) + 2 * d * d_ff + d_ff + d + 4 * d


def exercise_1(bert_block):
    """`bert_block(d, d_ff)` → quantos parâmetros tem um bloco do BERT."""
    mistakes = {
        "isso são só as matrizes: faltam os vieses delas e as duas normalizações.": lambda d, f: bert(d, f) - 9 * d - f,
        "faltam os vieses, os das camadas lineares e os das normalizações: isso é um bloco sem nenhum.": (
            lambda d, f: bert(d, f) - 7 * d - f
        ),
        "faltam os vieses das camadas lineares: um por saída, em todas as seis.": lambda d, f: bert(d, f) - 5 * d - f,
        "faltam 4·d: ou os quatro vieses da atenção, ou as duas normalizações, que têm ganho e viés.": (
            lambda d, f: bert(d, f) - 4 * d
        ),
        "a atenção tem quatro camadas, todas com viés: Q, K, V e a saída.": lambda d, f: bert(d, f) - d * d - 4 * d,
        "faltam os vieses do feed-forward: d_ff na ida e d na volta.": lambda d, f: bert(d, f) - f - d,
        "o viés da ida do feed-forward tem o tamanho da saída dela, d_ff, e não d.": lambda d, f: bert(d, f) - f + d,
        "faltam 2·d: ou uma das duas normalizações, ou os vieses das duas, ou dois vieses de camadas.": (
            lambda d, f: bert(d, f) - 2 * d
        ),
        "a atenção tem quatro matrizes: além de Q, K e V, a saída, que junta as cabeças.": (
            lambda d, f: bert(d, f) - d * d - d
        ),
        "o feed-forward são duas matrizes, a que alarga e a que estreita; você contou uma.": (
            lambda d, f: bert(d, f) - d * f - d
        ),
        "três matrizes no feed-forward é o do LLaMA, com porta. O do BERT tem duas.": lambda d, f: bert(d, f) + d * f,
        "três camadas no feed-forward é o do LLaMA, com porta. O do BERT tem duas.": (
            lambda d, f: bert(d, f) + d * f + f
        ),
        "d e d_ff estão trocados.": lambda d, f: bert(f, d),
        "você escreveu 4·d no lugar de d_ff. Ele é assim no mini-BERT, e não em todo modelo.": (
            lambda d, f: bert(d, 4 * d)
        ),
        "isso é só a atenção: faltam o feed-forward e as duas normalizações.": lambda d, f: 4 * (d * d + d),
        "falta a atenção inteira: Q, K, V e a saída.": lambda d, f: bert(d, f) - 4 * (d * d + d),
    }
    compare(
        bert_block,
        ((256, 1024), (48, 100), (5, 64)),
        bert,
        mistakes,
        "o desenho da seção 2 tem oito módulos. Conte um por vez, primeiro os pesos, depois os vieses, e procure o que "
        "falta ou sobra na sua conta.",
        same=equal,
    )
    return "matrizes, vieses e normalizações: oito módulos, e mais de 99 % está nas seis matrizes."


def llama(vocab, d, layers, heads, kv_heads, d_ff, tied):
    narrow = d // heads * kv_heads  # a saída de K e de V
    block = 2 * d * d + 2 * d * narrow + 3 * d * d_ff + 2 * d
    return (1 if tied else 2) * vocab * d + layers * block + d


def exercise_2(llama_parameters):
    """`llama_parameters(vocab, d, layers, heads, kv_heads, d_ff, tied)` → os parâmetros de um LLaMA inteiro."""
    mistakes = {
        "com tied a entrada e a saída são a mesma matriz: conte-a uma vez.": lambda *sizes: llama(*sizes[:-1], False),
        "sem tied há duas tabelas, a da entrada e a da saída.": lambda *sizes: llama(*sizes[:-1], True),
        "tied está ao contrário: é quando vale True que há uma tabela só.": lambda *sizes: llama(
            *sizes[:-1], not sizes[-1]
        ),
        "faltam as tabelas da entrada e da saída, que ficam fora dos blocos.": lambda v, *rest: llama(0, *rest),
        "K e V têm menos cabeças que Q: a saída deles é menor que d.": lambda v, d, n, h, k, f, t: llama(
            v, d, n, h, h, f, t
        ),
        "K e V saíram com uma cabeça só: são kv_heads delas.": lambda v, d, n, h, k, f, t: llama(v, d, n, h, 1, f, t),
        "só K e V dividem cabeças. A matriz de saída da atenção continua d × d.": lambda v, d, n, h, k, f, t: (
            llama(v, d, n, h, k, f, t) - n * d * (d - d // h * k)
        ),
        "a atenção tem quatro matrizes: além de Q, K e V, a saída.": lambda v, d, n, h, k, f, t: (
            llama(v, d, n, h, k, f, t) - n * d * d
        ),
        "o feed-forward do LLaMA tem porta: três matrizes, e não duas.": lambda v, d, n, h, k, f, t: (
            llama(v, d, n, h, k, f, t) - n * d * f
        ),
        "faltam as duas normalizações de cada bloco, d números cada.": lambda v, d, n, h, k, f, t: (
            llama(v, d, n, h, k, f, t) - n * 2 * d
        ),
        "falta uma normalização por bloco: há uma antes da atenção e outra antes do feed-forward.": (
            lambda v, d, n, h, k, f, t: llama(v, d, n, h, k, f, t) - n * d
        ),
        "falta a normalização final, depois do último bloco: d números.": lambda *sizes: llama(*sizes) - sizes[1],
        "faltam todas as normalizações: duas por bloco e a final, d números cada.": lambda v, d, n, h, k, f, t: (
            llama(v, d, n, h, k, f, t) - n * 2 * d - d
        ),
        "a RMSNorm não tem viés: são d números por normalização, e não 2·d.": lambda v, d, n, h, k, f, t: (
            llama(v, d, n, h, k, f, t) + n * 2 * d + d
        ),
        "o LLaMA não tem vieses nas camadas lineares.": lambda v, d, n, h, k, f, t: (
            llama(v, d, n, h, k, f, t) + n * (3 * d + 2 * (d // h * k) + 2 * f)
        ),
        "você contou um bloco só: são `layers` deles.": lambda v, d, n, h, k, f, t: llama(v, d, 1, h, k, f, t),
        "a normalização final é uma só, depois do último bloco, e não uma por bloco.": lambda v, d, n, h, k, f, t: (
            llama(v, d, n, h, k, f, t) + (n - 1) * d
        ),
    }
    compare(
        llama_parameters,
        (
            (8_000, 256, 6, 4, 4, 672, True),  # o mini-LLaMA do curso
            (32_000, 4_096, 32, 32, 32, 11_008, False),  # LLaMA-7B
            (128_256, 4_096, 32, 32, 8, 14_336, False),  # LLaMA-3-8B
            (1_000, 96, 3, 6, 2, 200, True),
            (50, 24, 2, 4, 2, 36, False),
        ),
        llama,
        mistakes,
        "vá de fora para dentro: o que há fora dos blocos, quantos são eles, quantas matrizes e de que formas um deles "
        "tem, e o que fica entre elas.",
        same=equal,
    )
    return "tabela, blocos e normalização final: o mini-LLaMA, o de 7 bilhões e o de 8, que divide as cabeças de K e V."


def turned(x, angle):
    """Cada par (x[i], x[i + d/2]) girado de um ângulo. angle: (T, d/2)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)


def angles(x, positions, power=2.0):
    """(T, d/2): o ângulo de cada par, com o expoente power·i/d."""
    d = x.shape[-1]
    return positions[:, None] / 10_000 ** (power * torch.arange(d // 2) / d)


def paired(x):
    """x₀ x₂ …, x₁ x₃ …: os vizinhos, em metades."""
    return x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)


def one_by_one(x, positions):
    """O giro de quem muda a primeira metade e usa a nova para a segunda."""
    angle, (a, b) = angles(x, positions), x.chunk(2, dim=-1)
    a = a * angle.cos() - b * angle.sin()
    return torch.cat([a, b * angle.cos() + a * angle.sin()], dim=-1)


def unsigned(x, positions):
    angle, (a, b) = angles(x, positions), x.chunk(2, dim=-1)
    return torch.cat([a * angle.cos() + b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)


def exercise_3(rotate):
    """`rotate(x, positions)` → x girado conforme a posição, como no LLaMA: (cabeças, T, d), (T) → (cabeças, T, d)."""
    generator = torch.Generator().manual_seed(0)
    cases = [  # T nunca é d/2: um eixo a menos não passa por engano
        (torch.randn(heads, len(positions), d, generator=generator), positions)
        for heads, d, positions in ((2, 8, torch.arange(5)), (3, 12, torch.tensor([3, 1, 6])))
    ]
    mistakes = {
        "você girou os pares vizinhos (x₀, x₁), (x₂, x₃)…, como no artigo. transformers separa x em duas metades.": (
            lambda x, p: turned(paired(x), angles(x, p)).unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
        ),
        "você formou os pares com os vizinhos e os devolveu em metades. O par é (x[i], x[i + d/2]).": lambda x, p: (
            turned(paired(x), angles(x, p))
        ),
        "o giro está ao contrário: confira em qual das duas metades o seno entra com menos.": lambda x, p: turned(
            x, -angles(x, p)
        ),
        "o seno entrou com mais nas duas metades, e isso não é um giro: o comprimento do par muda.": unsigned,
        "seno e cosseno estão trocados.": lambda x, p: turned(x, math.pi / 2 - angles(x, p)),
        "a segunda metade saiu da primeira já girada: guarde a de antes, com outro nome.": one_by_one,
        "o expoente é 2i/d, e não i/d: os ângulos vão de 1 até perto de 1/10.000 por posição.": lambda x, p: turned(
            x, angles(x, p, power=1)
        ),
        "o ângulo tem de diminuir com i, e o seu cresce: confira o sinal do expoente.": lambda x, p: turned(
            x, angles(x, p, power=-2)
        ),
        "todos os pares giram o mesmo ângulo. Cada um tem a sua velocidade, 10.000^(−2i/d).": lambda x, p: turned(
            x, angles(x, p, power=0)
        ),
        "você usou a ordem do token em x, e não positions: elas só coincidem quando a frase começa em 0.": (
            lambda x, p: turned(x, angles(x, torch.arange(len(p))))
        ),
        "nada girou: isso é x.": lambda x, p: x,
        "falta o seno: girar mistura os dois números do par.": lambda x, p: x * angles(x, p).repeat(1, 2).cos(),
        "as duas metades saíram trocadas: a que começa por a vem primeiro.": lambda x, p: turned(x, angles(x, p)).roll(
            x.shape[-1] // 2, -1
        ),
        "o ângulo está em graus, e cos e sin o leem em radianos.": lambda x, p: turned(x, torch.deg2rad(angles(x, p))),
    }
    compare(
        rotate,
        cases,
        lambda x, positions: turned(x, angles(x, positions)),
        mistakes,
        "confira por partes: a tabela de ângulos, uma linha por posição e uma coluna por par; as duas metades de x; o "
        "giro de cada par, como o enunciado o escreve; a ordem em que as metades se juntam.",
        value=rotation,
        same=partial(torch.allclose, atol=5e-3),
        differs=lambda case, came, right: (
            f"com x de forma {tuple(case[0].shape)} e positions = {case[1].tolist()}, a posição "
            f"{case[1][int((came - right).abs().amax((0, 2)).argmax())]} é a que mais difere do giro. Na posição 0 "
            "nada gira; veja o que a sua função faz ao primeiro par na posição 1, que gira um radiano."
        ),
    )
    return "é o giro do LLaMA. Não tem parâmetros, e q·k passa a depender só da diferença das posições."


def rotation(rotate, x, positions):
    try:
        answer = returned(rotate, x, positions)
    except Wrong as wrong:
        pairs = x.shape[-1] // 2
        if {str(len(positions)), str(pairs)} != {*re.findall(r"tensor . \((\d+)\)", str(wrong.__cause__))}:
            raise
        raise Wrong(
            f"positions tem {len(positions)} números e há {pairs} pares: cada posição gira cada par de um ângulo, e "
            "falta um eixo. Que forma tem a tabela de ângulos?"
        ) from None
    return tensor(answer, x.shape, ", a de x")
