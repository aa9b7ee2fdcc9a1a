"""Caderno 05: o posto que cabe no mesmo orçamento, a taxa ao trocar de escala, dois adaptadores num só."""

import torch

from ftcourse.exercises import UNKNOWN, Wrong, compare, kind, numbers, returned, shown, tensor

RATES = (1e-3 / 8, 1e-3 / 8**0.5)  # no exercício 2: a que conserva a parte útil, a que conserva a norma


def exercise_1(rank_for_budget):
    """`rank_for_budget(r, d, f)` → o r só no feed-forward que custa o mesmo que r em todas as lineares do bloco."""

    def right(r, d, f):
        return r * (8 * d + 2 * (d + f)) / (2 * (d + f))

    mistakes = {
        "esse orçamento é o de Q, V e do feed-forward: faltam K e O.": lambda r, d, f: (
            r * (4 * d + 2 * (d + f)) / (2 * (d + f))
        ),
        "a atenção tem quatro camadas lineares: faltou uma.": lambda r, d, f: r * (6 * d + 2 * (d + f)) / (2 * (d + f)),
        "o feed-forward em que LoRA vai ficar tem duas camadas, a de ida e a de volta.": lambda r, d, f: (
            r * (8 * d + 2 * (d + f)) / (d + f)
        ),
        "você contou uma camada do feed-forward, dos dois lados da conta. Ele tem duas.": lambda r, d, f: (
            r * (8 * d + d + f) / (d + f)
        ),
        "o orçamento é o de todas as lineares do bloco, com o feed-forward dentro.": lambda r, d, f: (
            r * 8 * d / (2 * (d + f))
        ),
        "está ao contrário: em menos camadas, o mesmo orçamento dá um posto maior.": lambda r, d, f: (
            r * 2 * (d + f) / (8 * d + 2 * (d + f))
        ),
        "você contou os números de W. Os de LoRA são os de A e de B, que somam as duas larguras.": lambda r, d, f: (
            r * (4 * d * d + 2 * d * f) / (2 * d * f)
        ),
        "o mesmo r em menos camadas são menos parâmetros.": lambda r, d, f: r,
    }
    compare(
        rank_for_budget,
        ((8, 256, 672), (4, 768, 3072), (16, 10, 41), (3, 64, 100)),
        right,
        mistakes,
        "escreva primeiro quantos números custa cada unidade de r numa camada de d_in entradas e d_out saídas.",
    )
    return "o orçamento se divide pelo custo de uma unidade de r. É assim que se comparam dois lugares."


def exercise_2(answer):
    """As taxas que conservam a parte útil e a norma, de LoRA com r = 8 a rsLoRA com r = 64, com α = 16 nas duas."""
    names = "a taxa da parte útil", "a taxa da norma"
    given = numbers(answer, names, "a resposta são duas taxas, a da parte útil e a da norma, nessa ordem.")
    if all(close(rate, right) for rate, right in zip(given, RATES)):
        return "com r maior a parte útil cresce mais que a norma, e conservá-la pede uma taxa menor."
    if close(given[0], RATES[1]) and close(given[1], RATES[0]):
        raise Wrong("as duas estão trocadas: qual cresce mais depressa com r, s·r ou s·√r?")
    for rate, right, name in zip(given, RATES, names):
        if close(rate, right):
            continue
        if not 0 < rate < float("inf"):
            raise Wrong(f"{name} é um número maior que zero.")
        if close(rate, 1e-3):
            raise Wrong(f"{name} ficou como era. As duas escalas dão 2, mas o passo não é só a escala: r também mudou.")
        if close(rate, 1e-6 / right):
            raise Wrong(f"{name} está ao contrário: o passo novo é maior que o antigo, e ela tem de descer.")
        if close(rate, RATES[0]) or close(rate, RATES[1]):
            raise Wrong(f"{name} é a da outra medida. Uma vai com s·r, e a outra com s·√r.")
        if close(rate, 1e-3 / 2):
            raise Wrong(f"para {name}, a escala de rsLoRA saiu errada: o r novo entra nela pela raiz.")
        raise Wrong(
            f"{UNKNOWN} Para {name} veio {shown(rate)}. Escreva a escala antes e depois, e compare o que ela faz."
        )


def close(rate, right):
    return abs(rate / right - 1) < 0.03


def exercise_3(combine):
    """`combine(first, second)` → um par (A, B), o de (A, B, escala, peso) e outro, que soma exatamente."""
    generator = torch.Generator().manual_seed(0)

    def adapter(r, d_in, d_out, scaling, weight):
        A = torch.randn(r, d_in, generator=generator)
        return A, torch.randn(d_out, r, generator=generator), scaling, weight

    cases = [
        (adapter(2, 7, 5, 2.0, 1.5), adapter(3, 7, 5, 0.5, 0.7)),
        (adapter(2, 4, 6, 3.0, 0.5), adapter(2, 4, 6, 1.5, -2.0)),
        (adapter(1, 6, 6, 0.25, 1.0), adapter(4, 6, 6, 2.0, 3.0)),
    ]

    def pair(function, one, other):
        came = returned(function, one, other)
        if not isinstance(came, (tuple, list)) or len(came) != 2:
            raise Wrong(f"a resposta são dois tensores, A e B, e veio {kind(came)}.")
        rows = came[0].shape[0] if getattr(came[0], "ndim", 0) == 2 else 1  # o posto é de quem responde
        A = tensor(came[0], (rows, one[0].shape[1]), ": A tem uma coluna para cada entrada da camada")
        return A, tensor(came[1], (one[1].shape[0], rows), ": B tem uma coluna para cada linha de A")

    def stacked(in_A, in_B=lambda s, w: 1.0):
        def both(one, other):
            A = torch.cat([A * in_A(s, w) for A, _, s, w in (one, other)])
            return A, torch.cat([B * in_B(s, w) for _, B, s, w in (one, other)], dim=1)

        return both

    mistakes = {
        "esse par é só o primeiro adaptador.": lambda one, other: one[:2],
        "faltam as escalas: o adaptador novo tem escala 1, e as dos dois têm de entrar no par.": stacked(
            lambda s, w: w
        ),
        "faltam os pesos da combinação.": stacked(lambda s, w: s),
        "faltam as escalas e os pesos.": stacked(lambda s, w: 1.0),
        "o peso entrou em A e em B, e no produto ele aparece ao quadrado.": stacked(lambda s, w: s * w, lambda s, w: w),
        "a escala entrou em A e em B, e no produto ela aparece ao quadrado.": stacked(
            lambda s, w: s * w, lambda s, w: s
        ),
        "a escala e o peso entraram em A e em B, e no produto aparecem ao quadrado.": stacked(
            lambda s, w: s * w, lambda s, w: s * w
        ),
        "um peso negativo tem de continuar negativo: no seu par o sinal se perdeu.": stacked(lambda s, w: s * abs(w)),
    }
    compare(
        combine,
        cases,
        stacked(lambda s, w: s * w),
        mistakes,
        "escreva o produto das duas matrizes empilhadas: ele tem uma parcela para cada adaptador, e nada cruzado.",
        value=pair,
        same=lambda one, other: torch.allclose(one[1] @ one[0], other[1] @ other[0], atol=1e-4, rtol=1e-4),
        differs=lambda case, came, expected: (
            f"com postos {case[0][0].shape[0]} e {case[1][0].shape[0]}, BA difere da soma em até "
            f"{shown((came[1] @ came[0] - expected[1] @ expected[0]).abs().max())}."
        ),
    )
    return "empilhar dá a soma exata, sem termo cruzado, e o preço é um posto que é a soma dos dois."
