"""Caderno 05: o posto que cabe no mesmo orçamento, a taxa ao trocar de escala, dois adaptadores num só."""

import torch

from ftcourse.exercises import UNKNOWN, Wrong, compare, kind, number, returned, shown, tensor

RATES = {  # {taxa: a dica}, para o exercício 2
    1e-3: "essa é a taxa de antes. O α é o mesmo, mas a escala passou de 16/8 para 16/√64: o passo útil mudou.",
    1e-3 / 8**0.5: "essa conserva a norma do passo. A parte que aponta contra o gradiente cresce com escala vezes r.",
    8e-3: "está ao contrário: com a escala e o r novos o passo útil fica maior, e a taxa tem de descer.",
    1e-3 / 64: "você contou o r duas vezes, ou esqueceu a divisão por √64. Compare escala vezes r, antes e depois.",
}


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
    """A taxa que conserva o passo útil, de LoRA com r = 8 a rsLoRA com r = 64, com α = 16 nas duas."""
    rate = number(answer, "a taxa")
    if abs(rate - 1.25e-4) < 2e-6:
        return "a parte útil vai com escala vezes r, que passa de 16 a 128. A taxa desce oito vezes."
    if not rate > 0:
        raise Wrong("a taxa é um número maior que zero.")
    for wrong, hint in RATES.items():
        if abs(rate / wrong - 1) < 0.03:
            raise Wrong(hint)
    raise Wrong(
        f"{UNKNOWN} Veio {shown(rate)}. Escreva a escala de cada uma, multiplique cada escala pelo seu r, e compare."
    )


def exercise_3(combine):
    """`combine(first, second)` → um par (A, B), o de (A, B, escala, peso) e outro, que soma exatamente."""
    generator = torch.Generator().manual_seed(0)

    def pair(r, d_in, d_out, scaling, weight):
        A = torch.randn(r, d_in, generator=generator)
        return A, torch.randn(d_out, r, generator=generator), scaling, weight

    cases = [
        (pair(2, 7, 5, 2.0, 1.0), pair(3, 7, 5, 0.5, 0.7)),
        (pair(2, 4, 6, 3.0, 0.5), pair(2, 4, 6, 1.5, -2.0)),
        (pair(1, 6, 6, 0.25, 1.0), pair(4, 6, 6, 2.0, 3.0)),
    ]

    def product(function, one, other):
        came = returned(function, one, other)
        if not isinstance(came, (tuple, list)) or len(came) != 2:
            raise Wrong(f"a resposta são dois tensores, A e B, e veio {kind(came)}.")
        r = one[0].shape[0] + other[0].shape[0]
        A = tensor(came[0], (r, one[0].shape[1]), ": A empilha as linhas das duas")
        B = tensor(came[1], (one[1].shape[0], r), ": B põe as colunas das duas lado a lado")
        return B @ A

    def delta(W, power_of_scaling=1, power_of_weight=1):
        A, B, scaling, weight = W
        return (B @ A) * scaling**power_of_scaling * weight**power_of_weight

    def total(**options):
        return lambda one, other: delta(one, **options) + delta(other, **options)

    mistakes = {
        "faltam as escalas: o adaptador novo tem escala 1, e as dos dois têm de entrar no par.": total(
            power_of_scaling=0
        ),
        "faltam os pesos da combinação.": total(power_of_weight=0),
        "faltam as escalas e os pesos.": total(power_of_scaling=0, power_of_weight=0),
        "o peso entrou em A e em B, e no produto ele aparece ao quadrado.": total(power_of_weight=2),
        "a escala entrou em A e em B, e no produto ela aparece ao quadrado.": total(power_of_scaling=2),
        "a escala e o peso entraram em A e em B, e no produto aparecem ao quadrado.": total(
            power_of_scaling=2, power_of_weight=2
        ),
        "um peso negativo tem de continuar negativo: no seu par o sinal se perdeu.": lambda one, other: (
            delta((*one[:3], abs(one[3]))) + delta((*other[:3], abs(other[3])))
        ),
        "a primeira metade de A está com a segunda de B: a ordem tem de ser a mesma nas duas.": lambda one, other: (
            crossed(one, other)
        ),
    }

    def crossed(one, other):
        A = torch.cat([one[0] * one[2] * one[3], other[0] * other[2] * other[3]])
        return torch.cat([other[1], one[1]], dim=1) @ A

    compare(
        combine,
        cases,
        total(),
        mistakes,
        "escreva o produto das duas matrizes empilhadas: ele tem uma parcela para cada adaptador, e nada cruzado.",
        value=product,
        same=lambda one, other: one.shape == other.shape and torch.allclose(one, other, atol=1e-4, rtol=1e-4),
        differs=lambda case, came, expected: (
            f"com postos {case[0][0].shape[0]} e {case[1][0].shape[0]}, BA difere da soma em até "
            f"{shown((came - expected).abs().max())}."
        ),
    )
    return "empilhar dá a soma exata, sem termo cruzado, e o preço é um posto que é a soma dos dois."
