"""Caderno 01: os parâmetros de um bloco de BERT, os de um LLaMA inteiro, a posição rotatória."""

from functools import partial
from operator import eq

import torch

from ftcourse.exercises import Wrong, called, recognise, returned


def exercise_1(bert_block):
    """`bert_block(d, d_ff)` → quantos parâmetros tem um bloco de BERT."""
    for d, f in ((256, 1024), (48, 100)):
        given = called(bert_block, d, f)
        right = 4 * (d * d + d) + 2 * d * f + f + d + 4 * d
        if given == right:
            continue
        mistakes = {
            "isso são só as matrizes: faltam os vieses delas e as duas normas.": right - 9 * d - f,
            "faltam os vieses, os das camadas lineares e os das normas: isso é um bloco sem nenhum.": right - 7 * d - f,
            "faltam os vieses das camadas lineares: um por saída, em todas as seis.": right - 5 * d - f,
            "faltam 4·d: ou os quatro vieses da atenção, ou as duas normas, que têm ganho e viés.": right - 4 * d,
            "a atenção tem quatro camadas, todas com viés: Q, K, V e a saída.": right - d * d - 4 * d,
            "faltam os vieses do feed-forward: d_ff na ida e d na volta.": right - f - d,
            "o viés da ida do feed-forward tem o tamanho da saída dela, d_ff, e não d.": right - f + d,
            "faltam 2·d: uma das duas normas, ou os vieses delas. LayerNorm tem ganho e viés.": right - 2 * d,
            "a atenção tem quatro matrizes: além de Q, K e V, a saída, que junta as cabeças.": right - d * d - d,
            "o feed-forward são duas matrizes, a que alarga e a que estreita; você contou uma.": right - d * f - d,
            "três matrizes no feed-forward é o de LLaMA, com porta. BERT tem duas.": right + d * f,
            "três camadas no feed-forward é o de LLaMA, com porta. BERT tem duas.": right + d * f + f,
        }
        recognise(given, mistakes, eq)
        raise Wrong(
            f"com d = {d} e d_ff = {f} veio {given:.0f}. Confira com o desenho da seção 2 as peças uma a uma.",
            "são quatro camadas d → d, uma d → d_ff, uma d_ff → d e duas normas, cada peça com o seu viés.",
        )
    return "matrizes, vieses e normas: oito módulos, e mais de 99 % está nas seis matrizes."


def exercise_2(llama_parameters):
    """`llama_parameters(vocab, d, layers, heads, kv_heads, d_ff, tied)` → os parâmetros de um LLaMA inteiro."""
    for vocab, d, layers, heads, kv, f, tied in (
        (8_000, 256, 6, 4, 4, 672, True),  # o mini-LLaMA do curso
        (32_000, 4_096, 32, 32, 32, 11_008, False),  # LLaMA-7B
        (128_256, 4_096, 32, 32, 8, 14_336, False),  # LLaMA-3-8B
        (1_000, 96, 3, 6, 2, 200, True),
    ):
        given, table, narrow = (
            called(llama_parameters, vocab, d, layers, heads, kv, f, tied),
            vocab * d,
            d // heads * kv,
        )
        right = (1 if tied else 2) * table + layers * (2 * d * d + 2 * d * narrow + 3 * d * f + 2 * d) + d
        if given == right:
            continue
        mistakes = {
            "com tied a entrada e a saída são a mesma matriz: conte-a uma vez.": right + table if tied else None,
            "sem tied há duas tabelas, a da entrada e a da saída.": None if tied else right - table,
            "K e V têm menos cabeças que Q: a saída deles é kv_heads × (d / heads), e não d.": right
            + layers * 2 * d * (d - narrow),
            "só K e V dividem cabeças. A matriz de saída da atenção continua d × d.": right - layers * d * (d - narrow),
            "o feed-forward de LLaMA tem porta: três matrizes, e não duas.": right - layers * d * f,
            "faltam as duas normas de cada bloco, d números cada.": right - layers * 2 * d,
            "falta uma norma por bloco: há uma antes da atenção e outra antes do feed-forward.": right - layers * d,
            "falta a norma final, depois do último bloco: d números.": right - d,
            "faltam todas as normas: duas por bloco e a final, d números cada.": right - layers * 2 * d - d,
            "RMSNorm não tem viés: são d números por norma, e não 2·d.": right + layers * 2 * d + d,
            "LLaMA não tem vieses nas camadas lineares.": right + layers * (3 * d + 2 * narrow + 2 * f),
            "você contou um bloco só: são `layers` deles.": right
            - (layers - 1) * (2 * d * d + 2 * d * narrow + 3 * d * f + 2 * d),
        }
        recognise(given, mistakes, eq)
        raise Wrong(
            f"com vocab = {vocab}, d = {d}, {layers} blocos, {heads} cabeças ({kv} de K e V), d_ff = {f} e "
            f"tied = {tied} veio {given:.0f}.",
            "tabela(s) + blocos + norma final. Um bloco: Q e saída, d × d; K e V, d × (kv_heads·d/heads); três "
            "matrizes d × d_ff; duas normas de d.",
        )
    return "tabela, blocos e norma final: o mini-LLaMA, o de 7 bilhões e o de 8, que divide as cabeças de K e V."


def exercise_3(rotate):
    """`rotate(x, positions)` → x girado conforme a posição, como em LLaMA: (cabeças, T, d), (T) → (cabeças, T, d)."""
    generator = torch.Generator().manual_seed(0)
    for heads, d, positions in ((2, 8, torch.arange(5)), (3, 12, torch.tensor([7, 2, 40]))):
        x = torch.randn(heads, len(positions), d, generator=generator)
        received, half = x.clone(), torch.arange(d // 2)
        given = returned(rotate, x, positions.clone())
        if not torch.equal(x, received):
            raise Wrong("a função mudou o x que recebeu. Devolva um tensor novo.")
        if not isinstance(given, torch.Tensor):
            raise Wrong(f"a resposta é {type(given).__name__}, e devia ser um tensor de torch.")
        if given.shape != x.shape:
            raise Wrong(f"a resposta tem a forma {tuple(given.shape)}, e devia ter a de x, {tuple(x.shape)}.")
        angle = positions[:, None] / 10_000 ** (2 * half / d)  # (T, d/2)
        right = turned(x, angle)
        if torch.allclose(given.to(x.dtype), right, atol=1e-4):
            continue
        paired = x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)  # x₀ x₂ …, x₁ x₃ …
        mixed = turned(paired, angle)
        mistakes = {
            "você girou os pares vizinhos (x₀, x₁), (x₂, x₃)…, como no artigo. transformers separa em duas metades: o "
            "par é (x[i], x[i + d/2]).": mixed.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2),
            "você formou os pares com os vizinhos e os devolveu em metades. O par é (x[i], x[i + d/2]).": mixed,
            "o giro está ao contrário: o seno entra com menos na primeira metade e com mais na segunda.": turned(
                x, -angle
            ),
            "o expoente é 2i/d, e não i/d: os ângulos vão de 1 até perto de 1/10.000 por posição.": turned(
                x, positions[:, None] / 10_000 ** (half / d)
            ),
            "o ângulo diminui com i: divida por 10.000^(2i/d), em vez de multiplicar.": turned(
                x, positions[:, None] * 10_000 ** (2 * half / d)
            ),
            "todos os pares giram o mesmo ângulo. Cada um tem a sua velocidade, 10.000^(−2i/d).": turned(
                x, positions[:, None] * torch.ones(d // 2)
            ),
            "você usou a ordem da ficha em x, e não positions: elas só coincidem quando a frase começa em 0.": turned(
                x, torch.arange(len(positions))[:, None] / 10_000 ** (2 * half / d)
            ),
            "nada girou: isso é x.": x,
            "falta o seno: girar mistura os dois números do par.": x * torch.cat([angle, angle], -1).cos(),
            "as duas metades saíram trocadas: a que começa por a vem primeiro.": right.roll(d // 2, -1),
        }
        recognise(given.to(x.dtype), mistakes, partial(torch.allclose, atol=1e-2))  # com ângulos enormes, float32 erra
        raise Wrong(
            f"difere do giro em até {(given - right).abs().max():.2f}.",
            "a, b são as metades de x; devolva torch.cat([a·cos − b·sen, b·cos + a·sen], dim=-1), com o ângulo "
            "positions[:, None] / 10000 ** (torch.arange(d // 2) / (d // 2)).",
        )
    return "é o giro de LLaMA. Não tem parâmetros, e q·k passa a depender só da diferença das posições."


def turned(x, angle):
    """Cada par (x[i], x[i + d/2]) girado de um ângulo. angle: (T, d/2)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)
