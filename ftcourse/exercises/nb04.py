"""Caderno 04: a camada com LoRA, α quando r muda, a taxa de LoRA em SGD."""

import math
from functools import partial

import torch

from ftcourse.exercises import Wrong, called, recognise, returned


def exercise_1(lora):
    """`lora(x, W, A, B, alpha)` → Wx + (α/r)·BAx para cada linha de x, (n, d_out), com r tirado de A."""
    generator = torch.Generator().manual_seed(0)
    for n, d_in, d_out, r, alpha in ((5, 7, 4, 3, 12), (2, 6, 6, 2, 5)):  # 5 // 2 não é 5 / 2
        x, W, A, B = (torch.randn(s, generator=generator) for s in ((n, d_in), (d_out, d_in), (r, d_in), (d_out, r)))
        base, change = x @ W.T, x @ (B @ A).T
        received = [tensor.clone() for tensor in (x, W, A, B)]
        try:
            given = returned(lora, x, W, A, B, alpha)
        except RuntimeError as error:  # formas que não se multiplicam
            raise Wrong(
                f"as formas não se encaixam: {error}. Cada x entra como linha: quem multiplica por uma matriz (saída, "
                "entrada) é x @ matriz.T, e A vem antes de B.",
            ) from None
        if not all(map(torch.equal, received, (x, W, A, B))):
            raise Wrong("a função mudou um tensor que recebeu. W fica congelado: some as duas parcelas na resposta.")
        if not isinstance(given, torch.Tensor):
            raise Wrong(f"a resposta é {type(given).__name__}, e devia ser um tensor de torch.")
        given = given.to(base.dtype)
        if given.shape != base.shape:
            raise Wrong(
                f"a resposta tem a forma {tuple(given.shape)}, e devia ter {tuple(base.shape)}: "
                "uma linha por exemplo, uma coluna por saída."
            )
        mistakes = {
            "α inteiro, sem dividir por r: a escala é α/r. Com r = 1 ninguém notaria.": base + alpha * change,
            "falta a escala: BAx é multiplicado por α/r.": base + change,
            "falta Wx: LoRA soma à camada, não a substitui.": alpha / r * change,
            "a escala vale só para BAx. Wx é a resposta da base e não muda de tamanho.": alpha / r * (base + change),
            "você dividiu por √r, que é a variante rsLoRA. Aqui a escala é α/r.": base + alpha / r**0.5 * change,
            "r não é d_in: o posto é o número de linhas de A.": base + alpha / d_in * change,
            "r não é d_out: o posto é o número de linhas de A.": base + alpha / d_out * change,
            "falta BAx: isso é a camada sem LoRA.": base,
        }
        if torch.allclose(given, base + alpha / r * change, atol=1e-4):
            continue
        recognise(given, mistakes, partial(torch.allclose, atol=1e-4))
        raise Wrong(
            f"difere de Wx + (α/r)·BAx em até {(given - base - alpha / r * change).abs().max():.2f}.",
            "são duas parcelas: x @ W.T, e (alpha / r) vezes x passado por A e depois por B, com r = A.shape[0].",
        )
    return "Wx + (α/r)·BAx, com r tirado da forma de A. É a camada que o curso, e peft, põem no lugar da linear."


def exercise_2(answer):
    """(α que conserva a norma, α que conserva a parte contra G) ao ir de r = 4, α = 8 para r = 64, com escala α/r."""
    try:
        norm, useful = map(float, answer)
    except (TypeError, ValueError):
        raise Wrong("responda com dois números, como em verifica('04.2', (alpha_norm, alpha_useful)).") from None
    if (norm, useful) == (8, 32):
        raise Wrong("os dois números estão trocados: qual coluna da seção 3 já ficava igual com α fixo?")
    if 128 in (norm, useful):
        raise Wrong(
            "128 mantém a razão α/r em 2. Com a razão fixa e r dezesseis vezes maior, a norma se multiplica por "
            "4 e a parte contra o gradiente por 16: é a linha do α sozinho, na seção 3."
        )
    if 2 in (norm, useful):
        raise Wrong("2 é o caminho inverso: com r maior e α fixo a norma já encolhe. α menor a encolhe mais.")
    if norm == 8:
        raise Wrong(
            "com α = 8 a norma cai: na seção 3, de r = 4 para r = 64, ela se divide por quase 4.",
            "a norma vai com α/√r. Para r dezesseis vezes maior, α precisa crescer √16.",
        )
    if useful == 32:
        raise Wrong(
            "com α/r, a parte contra o gradiente não depende de r: veja a última linha da seção 3. O que ela pede de α?"
        )
    if not math.isclose(norm, 32, rel_tol=0.02):
        raise Wrong(
            f"α = {norm:g} não conserva a norma. Com α fixo ela vai com 1/√r, e é proporcional a α.",
            "é preciso que α/√r fique igual: 8/√4 = α/√64.",
        )
    if not math.isclose(useful, 8, rel_tol=0.02):
        raise Wrong(f"α = {useful:g} muda a parte contra o gradiente, que é proporcional a α e não depende de r.")
    return "α/√r conserva a norma; a parte contra o gradiente só depende de α. Não há um α que conserve as duas."


def exercise_3(rate_multiple):
    """`rate_multiple(r, alpha, d_in)` → quantas vezes a taxa do ajuste completo LoRA pede em SGD, no primeiro passo."""
    for r, alpha, d in ((8, 16, 256), (4, 16, 256), (8, 8, 1024), (3, 5, 48)):
        given, right = called(rate_multiple, r, alpha, d), 3 * d * r / alpha**2
        if math.isclose(given, right, rel_tol=1e-3):
            continue
        mistakes = {
            "é o inverso: o passo de LoRA é menor, então a taxa dela é que precisa ser maior.": 1 / right,
            "você usou 1/d_in como variância de A. A de U(±a) é a²/3.": right / 3,
            "α/r entra duas vezes: uma em ∂L/∂B, outra em ΔW = (α/r)·BA. Você a contou uma vez.": right * alpha / r,
            "falta o r: AᵀA soma r linhas de A, e cada uma contribui com a variância.": right * r,
            "falta a escala α/r, que entra ao quadrado.": 3 * d / r,
            "essa é a conta com rsLoRA, α/√r. Aqui a escala é α/r.": 3 * d / alpha**2,
        }
        recognise(given, mistakes, partial(math.isclose, rel_tol=1e-3))
        raise Wrong(
            f"com r = {r}, α = {alpha} e d_in = {d} veio {given:g}.",
            "ΔW = −taxa·s²·G·AᵀA, com s = α/r, e a média de AᵀA é r·Var(A)·I, com Var(A) = 1/(3·d_in).",
        )
    return "3·d_in·r/α²: dezenas de vezes. Em SGD a taxa depende de r e da largura; Adam esconde isso."
