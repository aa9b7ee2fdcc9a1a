"""Caderno 04: a camada com LoRA, α quando r muda, a taxa de LoRA em SGD."""

import math
import re
from functools import partial

import torch

from ftcourse.exercises import UNKNOWN, Wrong, called, compare, numbers, returned, shown, tensor


def layer(scale=lambda alpha, A, B: alpha / len(A), base=1.0, change=lambda x, A, B: x @ A.T @ B.T):
    """A camada com LoRA de quem usa outra escala, outra base ou outra mudança."""
    return lambda x, W, A, B, alpha: base * x @ W.T + scale(alpha, A, B) * change(x, A, B)


def exercise_1(lora):
    """`lora(x, W, A, B, alpha)` → Wx + (α/r)·BAx para cada linha de x, (n, d_out), com r tirado de A."""
    generator = torch.Generator().manual_seed(0)
    cases = [
        (*(torch.randn(s, generator=generator) for s in ((n, d_in), (d_out, d_in), (r, d_in), (d_out, r))), alpha)
        for n, d_in, d_out, r, alpha in ((5, 7, 4, 3, 12), (2, 6, 6, 2, 5), (3, 4, 9, 1, 2.5))
    ]

    def answer(function, x, W, A, B, alpha):
        try:
            came = returned(function, x, W, A, B, alpha)
        except Wrong as wrong:
            if not re.search("multiplied|must match", str(wrong.__cause__)):
                raise
            raise Wrong(
                f"{wrong.hints[0]} Cada x entra como linha, e as matrizes são (saída, entrada): quem precisa ser "
                "transposta? Quem o x encontra antes, A ou B?"
            ) from None
        return tensor(came, (len(x), len(W)), ", uma linha por exemplo e uma coluna por saída")

    mistakes = {
        "α inteiro, sem dividir por r: a escala é α/r. Com r = 1 ninguém notaria.": layer(lambda alpha, A, B: alpha),
        "falta a escala: BAx é multiplicado por α/r.": layer(lambda alpha, A, B: 1),
        "falta α na escala: você só dividiu por r.": layer(lambda alpha, A, B: 1 / len(A)),
        "falta Wx: LoRA soma à camada, não a substitui.": layer(base=0),
        "a escala vale só para BAx. Wx é a resposta da base e não muda de tamanho.": lambda x, W, A, B, alpha: (
            alpha / len(A) * layer(lambda alpha, A, B: 1)(x, W, A, B, alpha)
        ),
        "você dividiu por √r, que é a variante rsLoRA. Aqui a escala é α/r.": layer(
            lambda alpha, A, B: alpha / len(A) ** 0.5
        ),
        "r não é d_in: o posto é o número de linhas de A.": layer(lambda alpha, A, B: alpha / A.shape[1]),
        "r não é d_out: o posto é o número de linhas de A.": layer(lambda alpha, A, B: alpha / len(B)),
        "a escala está virada: é α sobre r.": layer(lambda alpha, A, B: len(A) / alpha),
        "// joga fora o resto da divisão de α por r.": layer(lambda alpha, A, B: alpha // len(A)),
        "você multiplicou por r em vez de dividir.": layer(lambda alpha, A, B: alpha * len(A)),
        "falta BAx: isso é a camada sem LoRA.": layer(lambda alpha, A, B: 0),
        "você subtraiu BAx; LoRA soma.": layer(lambda alpha, A, B: -alpha / len(A)),
    }
    compare(
        lora,
        cases,
        layer(),
        mistakes,
        "são duas parcelas. Calcule cada uma sozinha e compare: a da base, sem A nem B, e a de LoRA, com W = 0.",
        value=answer,
        same=partial(torch.allclose, atol=1e-4, rtol=1e-4),
        differs=lambda case, came, right: (
            f"com r = {len(case[2])}, d_in = {case[2].shape[1]}, d_out = {len(case[3])} e α = {shown(case[4])}, a "
            f"resposta difere da camada em até {shown((came - right).abs().max())}. Confira Wx, depois BAx, depois a "
            "escala."
        ),
    )
    return "Wx + (α/r)·BAx, com r tirado da forma de A. É a camada que o curso, e peft, põem no lugar da linear."


def exercise_2(answer):
    """(α que conserva a norma, α que conserva a parte contra G) ao ir de r = 4, α = 8 para r = 64, com escala α/r."""
    alphas = numbers(
        answer,
        ("o α da norma", "o α da parte contra o gradiente"),
        "responda com dois números, como em verifica('04.2', (alpha_norm, alpha_useful)).",
    )
    norm, useful = alphas
    if (norm, useful) == (8, 32):
        raise Wrong("os dois números estão trocados: qual coluna da tabela já ficava igual com α fixo?")
    if 128 in alphas:
        raise Wrong(
            "128 mantém a razão α/r em 2: é usar α sozinho como escala, a primeira linha da tabela. Nela crescem, de "
            "r = 4 para r = 64, as duas colunas."
        )
    if 2 in alphas:
        raise Wrong("2 é o caminho inverso: com r maior e α fixo a norma já encolhe. α menor a encolhe mais.")
    if 0.5 in alphas:
        raise Wrong("0,5 divide α por tanto quanto r cresceu: é o caminho inverso, e o passo inteiro encolhe.")
    if norm == 8:
        raise Wrong(
            "com α = 8 a norma cai: compare, na linha α/r da tabela, r = 4 com r = 64.",
            "tudo é proporcional a α. Se a norma se dividiu por um tanto, por quanto α se multiplica?",
        )
    if useful == 32:
        raise Wrong("esse conserva a norma. Na linha α/r da tabela, quanto muda a parte contra o gradiente?")
    if (norm, useful) != (32, 8) and math.isclose(norm, 32, rel_tol=0.15) and math.isclose(useful, 8, rel_tol=0.15):
        raise Wrong("lido da tabela, está certo: falta arredondar cada α para a potência de dois mais próxima.")
    if norm != 32:
        raise Wrong(
            f"{UNKNOWN} α = {shown(norm)} não conserva a norma: veja por quanto ela se divide na linha α/r, de r = 4 "
            "para r = 64.",
            "tudo é proporcional a α. Se a norma se dividiu por um tanto, por quanto α se multiplica?",
        )
    if useful != 8:
        raise Wrong(
            f"{UNKNOWN} α = {shown(useful)} muda a parte contra o gradiente: veja o que acontece com ela na linha α/r, "
            "de r = 4 para r = 64, e lembre que tudo é proporcional a α."
        )
    return "α/√r conserva a norma; a parte contra o gradiente só depende de α. Não há um α que conserve as duas."


def exercise_3(rate_multiple):
    """`rate_multiple(r, alpha, d_in)` → quantas vezes a taxa do ajuste completo LoRA pede em SGD, no primeiro passo."""

    def multiple(r, alpha, d_in):
        return 3 * d_in * r / alpha**2

    mistakes = {
        "é o inverso: o passo de LoRA é menor, então a taxa dela é que precisa ser maior.": lambda r, a, d: (
            1 / multiple(r, a, d)
        ),
        "você usou 1/d_in como variância de A: esse é o quadrado do extremo do sorteio, e nem todo sorteio cai nele.": (
            lambda r, a, d: multiple(r, a, d) / 3
        ),
        "1/12 é a variância de um sorteio de largura 1. O de A vai de −1/√d_in a 1/√d_in: tem o dobro da largura.": (
            lambda r, a, d: 4 * multiple(r, a, d)
        ),
        "o que entra é a variância de A, e você usou o desvio.": lambda r, a, d: (3 * d) ** 0.5 * r / a**2,
        "α/r entra duas vezes: uma em ∂L/∂B, outra em ΔW = (α/r)·BA. Você a contou uma vez.": lambda r, a, d: 3 * d / a,
        "falta o r: AᵀA soma r linhas de A, e cada uma contribui com a variância.": lambda r, a, d: 3 * d * r**2 / a**2,
        "r entrou ao contrário: as r linhas de A aumentam o passo.": lambda r, a, d: 3 * d * r**3 / a**2,
        "falta a escala α/r, que entra ao quadrado.": lambda r, a, d: 3 * d / r,
        "a escala é α/r, e não α.": lambda r, a, d: 3 * d / (r * a**2),
        "essa é a conta com rsLoRA, α/√r. Aqui a escala é α/r.": lambda r, a, d: 3 * d / a**2,
        "a escala está virada: é α sobre r.": lambda r, a, d: 3 * d * a**2 / r**3,
        "falta d_in: a variância de A depende da largura.": lambda r, a, d: 3 * r / a**2,
    }
    compare(
        rate_multiple,
        ((8, 16, 256), (4, 16, 256), (8, 8, 1024), (3, 5, 48)),
        multiple,
        mistakes,
        "três perguntas: quantas vezes a escala entra no primeiro ΔW? Quantas linhas de A se somam em AᵀA? Que "
        "variância tem um elemento de A?",
        value=called,
    )
    return "3·d_in·r/α²: dezenas de vezes. Em SGD a taxa depende de r e da largura; Adam esconde isso."
