"""Caderno 00: uma nota sem rótulos, a linha de base numa amostra desigual, o corte único."""

import math
from statistics import NormalDist

import torch

from ftcourse.exercises import UNKNOWN, Wrong, called, compare, numbers


def exercise_1(score):
    """Uma função `score(surprise, uncertainty)`, de dois (T,) em nats para a nota: maior na frase bem escrita.

    Qualquer conta sobre o excesso de espanto de cada posição serve: o maior, a média, a soma, os três maiores.
    """

    def of(surprise, uncertainty):
        return called(score, torch.tensor(surprise), torch.tensor(uncertainty))

    flat = [3.0] * 7  # o espanto que o modelo esperava, em todo lugar
    calm, fault, early = of([*flat, 3.0], [*flat, 3.0]), of([*flat, 9.0], [*flat, 3.0]), of([9.0, *flat], [*flat, 3.0])
    if math.isclose(fault, calm) and math.isclose(early, calm):
        raise Wrong("a nota não muda quando um token destoa. Ela precisa olhar o espanto de cada um.")
    if not math.isclose(fault, early, rel_tol=1e-4):
        raise Wrong("a mesma falha pesa diferente no começo e no fim da frase: olhe todos os tokens por igual.")
    if fault > calm:
        raise Wrong("a sua nota sobe com a falha. A frase bem escrita é que deve ter a nota maior: troque o sinal.")
    falls = calm - fault
    if abs(of(flat * 2 + [3.0] * 2, flat * 2 + [3.0] * 2) - calm) > 1e-3 * falls:
        raise Wrong(
            "duas frases sem nada de estranho, uma com o dobro do tamanho, têm notas diferentes: isso mede tamanho.",
            "o espanto somado cresce com a frase. O que, em cada token, é zero se ele não tem nada de mais?",
        )
    rare, certain = of([7.0, *flat], [7.0, *flat]), of([7.0, *flat], [1.0, *flat])
    if abs(rare - certain) <= 1e-3 * falls:
        raise Wrong(
            "a nota é a mesma se o modelo não fazia ideia ou tinha certeza: espanto alto pode ser só palavra rara.",
            "olhe também a incerteza: que espanto o modelo esperava ter naquela posição?",
        )
    hidden = of([7.0, 7.0, 7.0, 5.0, *flat[:4]], [7.0, 7.0, 7.0, 0.5, *flat[:4]])
    if abs(rare - calm) > 1e-3 * falls or calm - hidden < 0.02 * falls:
        raise Wrong(
            "uma palavra rara, de que o modelo já não tinha ideia, mexe na nota ou esconde a falha de outro lugar.",
            "compare o espanto com a incerteza em cada posição, antes de juntar os tokens.",
        )
    if of([0.5, *flat], [3.0, *flat]) < calm - 1e-3 * falls:
        raise Wrong("a nota cai quando um token é mais fácil do que o esperado. Sinal de falha é só o espanto a mais.")
    easy = of([1.0] * 8, [1.0] * 8) - of([1.0] * 7 + [7.0], [1.0] * 8)
    hard = of([6.0] * 8, [6.0] * 8) - of([6.0] * 7 + [12.0], [6.0] * 8)
    if of([0.3, *flat], [0.01, *flat]) <= fault or hard < easy / 3:
        raise Wrong(
            "isso é uma razão: onde o modelo tem quase certeza, 0,3 nat já parece enorme, e numa frase difícil uma "
            "falha de 6 nats quase some.",
            "espanto e incerteza estão na mesma unidade, nats. Que conta diz por quantos nats um passa do outro?",
        )
    if of([9.0, *[9.0] * 7], [3.0, *flat]) >= calm:
        raise Wrong(f"{UNKNOWN} Com todos os tokens destoando, a nota não cai: ela compara os tokens entre si?")
    return "é o espanto que passa da incerteza, posição por posição: não mede comprimento nem palavra rara."


def exercise_2(answer):
    """(acurácia, MCC) de quem responde sempre "bem escrita" onde 80 de cada 100 frases estão bem escritas."""
    accuracy, mcc = numbers(
        answer, ("a acurácia", "o MCC"), "responda com dois números, como em verifica('00.2', (acuracia, mcc))."
    )

    def is_(value, other):
        return math.isclose(value, other, abs_tol=2e-3)  # também em meia precisão, ou arredondado

    if is_(accuracy, 0) and is_(mcc, 0.8):
        raise Wrong("os dois estão trocados: a acurácia vem primeiro.")
    if not 0 <= accuracy <= 1:
        raise Wrong("as métricas do curso são frações, e não porcentagens: a acurácia vai de 0 a 1.")
    known = {
        0.5: "0,5 vale nesta tarefa, que tem metade de cada. A pergunta é sobre uma amostra com 80 certas em 100.",
        0.2: "0,2 é a fração das frases com falha; essas ele erra. Conte as que acerta.",
        0.68: "0,68 é o acerto de quem sorteia a resposta na proporção da amostra. Este responde sempre o mesmo.",
        0.889: "0,889 é a F1 da classe maior. A acurácia é a fração das frases que ele acerta.",
        1.0: "ele erra as frases com falha, todas: não acerta tudo.",
        0.0: "ele acerta alguma coisa: a que frases a resposta dele serve?",
    }
    for value, hint in known.items():
        if is_(accuracy, value):
            raise Wrong(hint)
    if not is_(accuracy, 0.8):
        raise Wrong(f"{UNKNOWN} Das 100 frases, conte as que ele acerta e divida por todas.")
    if math.isnan(mcc):
        raise Wrong("a conta do MCC não dá número nenhum aqui, e nan não entra numa tabela: pense no que ele mede.")
    known = {
        0.8: "você repetiu a acurácia. O MCC mede a associação entre a resposta e o rótulo.",
        1.0: "um MCC de 1 é o de quem acerta tudo, e este erra todas as frases com falha.",
        -1.0: "um MCC de −1 é o de quem erra tudo, e este acerta todas as frases bem escritas.",
        0.5: "0,5 é a acurácia de quem chuta uma moeda. O MCC do acaso é outro: ele vai de −1 a 1.",
    }
    for value, hint in known.items():
        if is_(mcc, value):
            raise Wrong(hint, "uma resposta que nunca muda diz alguma coisa sobre o rótulo? Procure isso entre −1 e 1.")
    if not is_(mcc, 0):
        raise Wrong(
            f"{UNKNOWN} O MCC mede a associação entre a resposta e o rótulo. Uma resposta que nunca muda se associa a "
            "quê?",
            "o MCC vale 1 para quem acerta tudo e −1 para quem erra tudo. Onde fica quem responde sem olhar a frase?",
        )
    return "0,8 de acurácia sem ler nada, e MCC 0. É por isso que as duas aparecem juntas nas tabelas do curso."


def exercise_3(accuracy):
    """`accuracy(delta, sigma)` → acerto do melhor corte único entre N(0, σ²) e N(δ, σ²), metade das frases em cada."""
    phi, density = NormalDist().cdf, NormalDist().pdf
    mistakes = {
        "você pôs o corte no centro de uma das classes. O que erra menos fica entre as duas.": lambda d, s: phi(d / s),
        "essa é a chance de ordenar um par sorteado, a AUC. Com um corte, cada frase está sozinha.": lambda d, s: phi(
            d / (math.sqrt(2) * s)
        ),
        "essa é a fração de erros; a pergunta é pela de acertos.": lambda d, s: 1 - phi(d / (2 * s)),
        "essa é a fração de erros de um corte no centro de uma das classes. A pergunta é pelos acertos do melhor.": (
            lambda d, s: 1 - phi(d / s)
        ),
        "você tirou os erros dos acertos. A acurácia é só a fração de acertos.": lambda d, s: 2 * phi(d / (2 * s)) - 1,
        "falta a função Φ: isso é a distância até o corte, em desvios.": lambda d, s: d / (2 * s),
        "isso é a distância entre os centros, em desvios. Onde fica o corte, e que parte da curva ele deixa de cada "
        "lado?": lambda d, s: d / s,
        "falta o desvio: a distância até o corte se conta em σ.": lambda d, s: phi(d / 2),
        "você dividiu pela variância, σ². A distância até o corte se conta em desvios.": lambda d, s: phi(
            d / (2 * s * s)
        ),
        "δ e σ estão trocados.": lambda d, s: phi(s / (2 * d)),
        "isso é a altura da curva no corte. A fração é a área de um dos lados, a função acumulada.": (
            lambda d, s: density(d / (2 * s))
        ),
        "você multiplicou os acertos das duas classes. Cada frase é de uma só, metade de cada.": lambda d, s: (
            phi(d / (2 * s)) ** 2
        ),
        "as métricas do curso são frações, de 0 a 1, e não porcentagens.": lambda d, s: 100 * phi(d / (2 * s)),
    }
    compare(
        accuracy,
        ((10.0, 17.0), (1.0, 1.0), (6.0, 2.0), (0.5, 4.0)),
        lambda delta, sigma: phi(delta / (2 * sigma)),
        mistakes,
        "desenhe as duas curvas e o corte no meio: a que distância ele está de cada centro, em desvios? Que parte de "
        "cada curva fica do lado certo?",
    )
    return "Φ(δ/2σ). O modelo sente a falha; o que ele não tem é uma régua comum a todas as frases."
