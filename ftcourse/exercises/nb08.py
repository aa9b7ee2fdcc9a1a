"""Caderno 08: o gargalo que cabe no orçamento de LoRA, o adaptador linear dobrado, o que uma reta guarda de ReLU."""

import math
import re
from functools import partial
from statistics import NormalDist

import torch

from ftcourse.exercises import Wrong, called, compare, kind, returned, shown, tensor

phi, density = NormalDist().cdf, NormalDist().pdf


def budget(lora=lambda d, f, r: r * (10 * d + 2 * f), fixed=lambda d: 2 * d, each=lambda d: 2 * (2 * d + 1)):
    """O m de quem conta assim: o que LoRA treina no bloco, o que não depende de m, o que cada unidade custa."""
    return lambda d, d_ff, r: (lora(d, d_ff, r) - fixed(d)) // each(d)


def exercise_1(width):
    """`width(d, d_ff, r)` → o maior m com que os dois gargalos de um bloco não treinam mais que LoRA nas suas seis."""

    def unfloored(d, f, r):
        return (r * (10 * d + 2 * f) - 2 * d) / (2 * (2 * d + 1))

    mistakes = {
        "faltam os vieses do gargalo: são d + m em cada um.": budget(fixed=lambda d: 0, each=lambda d: 4 * d),
        "ou falta o viés de W_up, de d números em cada gargalo, ou você arredondou ao mais próximo: dão o mesmo, e o m "
        "que sai às vezes passa do orçamento.": budget(fixed=lambda d: 0),
        "falta o viés de W_down: ele tem m números em cada gargalo.": budget(each=lambda d: 4 * d),
        "você contou um gargalo por bloco, como em Pfeiffer. Houlsby põe dois.": budget(
            fixed=lambda d: d, each=lambda d: 2 * d + 1
        ),
        "o gargalo tem duas matrizes, a que desce e a que sobe, e você contou uma.": budget(each=lambda d: 2 * (d + 1)),
        "você contou LoRA só em duas camadas da atenção. Aqui ela está nas seis do bloco.": budget(
            lora=lambda d, f, r: 4 * d * r
        ),
        "você contou LoRA só na atenção. Faltam as duas camadas do feed-forward.": budget(
            lora=lambda d, f, r: 8 * d * r
        ),
        "você contou LoRA só no feed-forward. Faltam as quatro camadas da atenção.": budget(
            lora=lambda d, f, r: 2 * r * (d + f)
        ),
        "no feed-forward uma das pontas tem d_ff números, e você usou d em todas.": budget(
            lora=lambda d, f, r: 12 * d * r
        ),
        "você contou três matrizes na atenção: q, k e v. A da saída também recebe LoRA.": budget(
            lora=lambda d, f, r: r * (8 * d + 2 * f)
        ),
        "cada camada com LoRA tem duas matrizes, A e B, e você contou uma.": budget(
            lora=lambda d, f, r: r * (5 * d + f)
        ),
        "você contou o que o bloco inteiro tem, e não o que LoRA treina nele.": budget(
            lora=lambda d, f, r: 4 * d * d + 2 * d * f
        ),
        "m tem de ser inteiro e não pode passar do orçamento: falta arredondar para baixo.": unfloored,
        "arredondado para cima, o gargalo passa do orçamento por pouco.": lambda d, f, r: math.ceil(unfloored(d, f, r)),
        "isso é quantas vezes o gargalo é mais estreito que o modelo. O que se pede é m.": lambda d, f, r: (
            d / budget()(d, f, r)
        ),
    }
    compare(
        width,
        ((256, 1024, 8), (4, 218, 3), (192, 768, 16), (100, 300, 3), (512, 1024, 4)),
        budget(),
        mistakes,
        "escreva as duas contagens em linhas separadas, a de LoRA e a de Houlsby, e confira cada uma com a tabela da "
        "seção 2: d = 256, d_ff = 1.024, r = 8 e m = 16. Só depois isole m.",
    )
    return "no mini-BERT, LoRA com r = 8 em tudo custa o mesmo que um gargalo de 35. Compare orçamentos, e não r com m."


SIZES = ((4, 6, 2), (5, 5, 3), (7, 4, 2))  # d_in, d_out, m: com d_in = d_out, muito engano não dá erro


def drawn():
    """Camadas lineares e gargalos sorteados: [(W, b, D, b_down, U, b_up), …]."""
    rng, cases = torch.Generator().manual_seed(0), []
    for d_in, d_out, m in SIZES:
        shapes = (d_out, d_in), (d_out,), (m, d_out), (m,), (d_out, m), (d_out,)
        cases.append(tuple(torch.randn(shape, generator=rng) for shape in shapes))
    return cases


def folded(function, *case):
    """O par (W, b) que a função do aluno devolve, conferido."""
    W, b = case[:2]
    try:
        came = returned(function, *case)
    except Wrong as wrong:
        if not re.search("multiplied|must match|mat and vec|size mismatch", str(wrong.__cause__)):
            raise
        raise Wrong(
            f"{wrong.hints[0]} Aqui W é {tuple(W.shape)}, D é {tuple(case[2].shape)} e U é {tuple(case[4].shape)}: "
            "siga um vetor desde a entrada de W. A última matriz que ele encontra fica mais à esquerda."
        ) from None
    if not isinstance(came, (tuple, list)) or len(came) != 2:
        raise Wrong(f"a resposta são dois tensores, o peso novo e o viés novo, e veio {kind(came)}.")
    return tensor(came[0], W.shape, " como W"), tensor(came[1], b.shape, " como b")


def fused(W, b, D, b_down, U, b_up):
    """O peso e o viés de uma linear que faz a conta da linear e do gargalo sem σ."""
    return W + U @ D @ W, b + U @ (D @ b + b_down) + b_up


def exercise_2(fold):
    """`fold(W, b, D, b_down, U, b_up)` → (W, b) de uma linear só que faz a conta da linear e do gargalo sem σ."""
    weights = {
        "no peso, falta W: o gargalo soma à resposta da camada, não a substitui.": lambda W, D, U: U @ D @ W,
        "no peso, W entrou duas vezes: o que o gargalo soma já tem W dentro, e o atalho é um só.": lambda W, D, U: (
            2 * W + U @ D @ W
        ),
        "no peso, falta o que o gargalo soma.": lambda W, D, U: W,
        "no peso, o sinal está trocado: o gargalo soma.": lambda W, D, U: W - U @ D @ W,
    }
    biases = {
        "no viés, falta o de W, que também passa pelo gargalo.": lambda b, D, bd, U, bu: b + U @ bd + bu,
        "no viés, o de W passou pelo gargalo, e falta o próprio: o atalho também o leva.": lambda b, D, bd, U, bu: (
            U @ (D @ b + bd) + bu
        ),
        "no viés, falta b_down, que passa por U.": lambda b, D, bd, U, bu: b + U @ D @ b + bu,
        "no viés, falta b_up.": lambda b, D, bd, U, bu: b + U @ (D @ b + bd),
        "no viés, faltam b_down e b_up.": lambda b, D, bd, U, bu: b + U @ D @ b,
        "no viés, ficou só o da camada: os do gargalo faltam, e este também passa por ele.": lambda b, D, bd, U, bu: b,
        "no viés, você somou os do gargalo, e faltou o que a camada já tinha.": lambda b, D, bd, U, bu: U @ bd + bu,
        "no viés, ficou só b_up.": lambda b, D, bd, U, bu: bu,
        "no viés, só se somaram b e b_up: b e b_down ainda passam pelo gargalo.": lambda b, D, bd, U, bu: b + bu,
        "no viés, o de W entrou duas vezes pelo atalho.": lambda b, D, bd, U, bu: 2 * b + U @ (D @ b + bd) + bu,
    }

    def check(i, name, mistakes, hint):
        compare(
            fold,
            drawn(),
            fused,
            mistakes,
            hint,
            value=folded,
            same=lambda one, other: torch.allclose(one[i], other[i], atol=1e-4, rtol=1e-4),
            differs=lambda case, came, right: (
                f"com W de forma {tuple(case[0].shape)} e m = {len(case[2])}, o {name} difere em até "
                f"{shown((came[i] - right[i]).abs().max())}."
            ),
        )

    check(
        0,
        "peso",
        {
            hint: lambda W, b, D, bd, U, bu, rule=rule: (rule(W, D, U), fused(W, b, D, bd, U, bu)[1])
            for hint, rule in weights.items()
        },
        "para o peso, ponha zero em todos os vieses: o que a camada e o gargalo respondem a x é uma matriz vezes x.",
    )
    check(
        1,
        "viés",
        {
            hint: lambda W, b, D, bd, U, bu, rule=rule: (fused(W, b, D, bd, U, bu)[0], rule(b, D, bd, U, bu))
            for hint, rule in biases.items()
        },
        "para o viés, ponha x = 0: o que a camada e o gargalo respondem é o viés da linear nova.",
    )
    return "uma linear só, sem um passo a mais na inferência. Com σ no meio, nenhuma escolha de W e b faz isso."


def moments(mean, std):
    """De z normal: a fração acesa, a média e a variância de ReLU(z)."""
    t = mean / std
    on, first = phi(t), mean * phi(t) + std * density(t)
    return on, first, (mean**2 + std**2) * on + mean * std * density(t) - first**2


def exercise_3(kept):
    """`kept(mean, std)` → o R² da melhor reta por uma unidade ReLU cujo z é normal."""

    def share(mean, std):
        on, _, variance = moments(mean, std)
        return (on * std) ** 2 / variance

    def through_zero(mean, std):
        _, first, variance = moments(mean, std)
        return (variance + first**2) / (mean**2 + std**2)

    mistakes = {
        "essa é a fração do tempo em que a unidade está acesa, que é a inclinação da reta. Falta o R².": (
            lambda m, s: moments(m, s)[0]
        ),
        "essa é a inclinação ao quadrado: falta comparar variâncias, a da reta com a de ReLU(z).": lambda m, s: (
            moments(m, s)[0] ** 2
        ),
        "essa é a variância da reta: falta dividir pela de ReLU(z).": lambda m, s: (moments(m, s)[0] * s) ** 2,
        "isso é a correlação. O R² é o quadrado dela.": lambda m, s: share(m, s) ** 0.5,
        "isso é o que a reta perde. Pede-se o que ela guarda.": lambda m, s: 1 - share(m, s),
        "no denominador ficou a média dos quadrados de ReLU(z): falta tirar o quadrado da média.": lambda m, s: (
            (moments(m, s)[0] * s) ** 2 / (moments(m, s)[2] + moments(m, s)[1] ** 2)
        ),
        "a sua reta passa pela origem, e a melhor reta tem também uma constante.": through_zero,
        "a média está com o sinal trocado: uma unidade de média positiva fica acesa a maior parte do tempo.": (
            lambda m, s: share(-m, s)
        ),
        "falta o desvio: o que conta é a média medida em desvios.": lambda m, s: share(m, 1),
        "std é o desvio, e você o usou como variância.": lambda m, s: share(m, s**0.5),
        "você elevou o desvio ao quadrado: std já é o desvio que se sorteia.": lambda m, s: share(m, s**2),
        "média e desvio estão trocados.": lambda m, s: share(s, m) if m > 0 else share(s, -m) if m else 1.0,
        "em porcentagens; pede-se de 0 a 1.": lambda m, s: 100 * share(m, s),
    }
    compare(
        kept,
        ((0.0, 1.0), (-1.0, 1.0), (1.0, 2.0), (0.6, 0.5), (-1.0, 2.5)),
        share,
        mistakes,
        "três passos: sorteie z com torch.randn, faça a reta de ReLU(z) por z com as duas médias, a variância e a "
        "covariância, e compare a variância do que a reta dá com a de ReLU(z).",
        value=called,
        same=partial(math.isclose, rel_tol=0.02),
    )
    return "com média zero, quase três quartos. O que conta é só a média em desvios: quanto mais apagada, menos reta."
