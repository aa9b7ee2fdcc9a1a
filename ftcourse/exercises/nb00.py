"""Caderno 00: uma nota sem rótulos, a linha de base numa amostra desigual, o corte único."""

import math
from functools import partial
from statistics import NormalDist

import torch

from ftcourse.exercises import Wrong, called, recognise


def exercise_1(score):
    """Uma função `score(surprise, uncertainty)`, de dois (T,) em nats para a nota: maior na frase bem escrita."""

    def of(surprise, uncertainty):
        return called(score, torch.tensor(surprise), torch.tensor(uncertainty))

    calm, fault = of([2.0] * 8, [3.0] * 8), of([2.0] * 7 + [9.0], [3.0] * 8)
    if fault == calm:
        raise Wrong("a nota não muda quando uma ficha destoa. Ela precisa olhar o espanto de cada uma.")
    if fault > calm:
        raise Wrong("a sua nota sobe com a falha. A frase bem escrita é que deve ter a nota maior: troque o sinal.")
    if not math.isclose(of([2.0] * 16, [3.0] * 16), calm, rel_tol=1e-4):
        raise Wrong(
            "duas frases sem nada de estranho, uma com o dobro do tamanho, têm notas diferentes: isso mede tamanho.",
            "a soma cresce com a frase. Procure uma conta sobre as fichas que não cresça com o número delas.",
        )
    if math.isclose(of([7.0, 2.0, 2.0], [7.0, 3.0, 3.0]), of([7.0, 2.0, 2.0], [0.5, 3.0, 3.0]), rel_tol=1e-4):
        raise Wrong(
            "a nota é a mesma se o modelo não fazia ideia ou tinha certeza: espanto alto pode ser só palavra rara.",
            "desconte do espanto a incerteza que havia naquela posição, antes de juntar as fichas.",
        )
    if of([2.0] * 19 + [9.0], [3.0] * 20) > fault + 0.1:
        raise Wrong(
            "a mesma falha pesou menos na frase mais longa: a média a dilui.",
            "uma frase está errada se tem um lugar errado. Que conta olha só o pior lugar?",
        )
    hidden, moved = of([7.0, 5.0, 2.0], [7.0, 0.5, 3.0]), of([7.0, 5.0, 2.0], [0.5, 7.0, 3.0])
    if math.isclose(hidden, moved, rel_tol=1e-4) or hidden >= of([7.0, 2.0, 2.0], [7.0, 3.0, 3.0]) - 0.1:
        raise Wrong(
            "o desconto se faz em cada posição, antes de escolher a pior: uma palavra rara pode esconder a falha."
        )
    return "o pior lugar da frase, descontada a incerteza dali: não mede comprimento nem palavra rara."


def exercise_2(answer):
    """(acurácia, MCC) de quem responde sempre "bem escrita" onde 80 de cada 100 frases estão bem escritas."""
    try:
        accuracy, mcc = map(float, answer)
    except (TypeError, ValueError):
        raise Wrong("responda com dois números, como em verifica('00.2', (acuracia, mcc)).") from None
    if math.isclose(accuracy, 0.5):
        raise Wrong(
            "0,5 vale nesta tarefa, que tem metade de cada. A pergunta é sobre uma amostra com 80 certas em 100."
        )
    if math.isclose(accuracy, 80) or math.isclose(accuracy, 20):
        raise Wrong("as métricas do curso vão de 0 a 1: escreva 0.8, e não 80.")
    if math.isclose(accuracy, 0.2):
        raise Wrong("0,2 é a fração das frases com falha; essas ele erra. Conte as que acerta.")
    if not math.isclose(accuracy, 0.8):
        raise Wrong("ele acerta as frases bem escritas e erra as outras: que fração é essa?")
    if not math.isclose(mcc, 0, abs_tol=1e-9):
        raise Wrong(
            "o MCC mede a associação entre a resposta e o rótulo. Uma resposta que nunca muda se associa a quê?",
            "o MCC vale 1 para quem acerta tudo, −1 para quem erra tudo e 0 para quem responde sem olhar a frase.",
        )
    return "0,8 de acurácia sem ler nada, e MCC 0. É por isso que as duas aparecem juntas nas tabelas do curso."


def exercise_3(accuracy):
    """`accuracy(delta, sigma)` → acerto do melhor corte único entre N(0, σ²) e N(δ, σ²), metade das frases em cada."""
    phi = NormalDist().cdf
    for delta, sigma in ((10.0, 17.0), (1.0, 1.0), (6.0, 2.0), (0.5, 4.0)):
        given, z = called(accuracy, delta, sigma), delta / sigma
        if math.isclose(given, phi(z / 2), abs_tol=1e-3):
            continue
        mistakes = {
            "você pôs o corte no meio de uma das classes. O que erra menos fica entre as duas, a δ/2 de cada.": phi(z),
            "Φ(δ/(√2·σ)) é a chance de ordenar um par sorteado, a AUC. Com um corte, cada frase está sozinha.": phi(
                z / math.sqrt(2)
            ),
            "essa é a fração de erros; a pergunta é pela de acertos.": 1 - phi(z / 2),
        }
        recognise(given, mistakes, partial(math.isclose, abs_tol=1e-3))
        raise Wrong(
            f"para δ = {delta:g} e σ = {sigma:g} veio {given:.3f}. Ponha o corte no meio e conte os dois lados certos.",
            "a parte de N(0, σ²) abaixo de δ/2 é Φ((δ/2)/σ), com Φ = NormalDist().cdf. A outra classe é simétrica.",
        )
    return "Φ(δ/2σ). O modelo sente a falha; o que ele não tem é uma régua comum a todas as frases."
