"""Caderno 02: o cronograma de Trainer, os bytes de um ajuste, a parada antecipada."""

import math
import operator
from functools import partial

import numpy as np

from ftcourse.exercises import Wrong, called, recognise, returned


def exercise_1(rate):
    """`rate(step, steps, warmup_steps, peak)` → a taxa que Trainer usa no passo `step`, que começa em 0."""
    for steps, warmup, peak in ((10, 4, 2e-3), (30, 6, 3e-4), (8, 0, 5.0)):
        at = np.arange(steps)
        try:
            given = np.array([called(rate, int(step), steps, warmup, peak) for step in at])
        except ZeroDivisionError:
            raise Wrong(
                f"com steps = {steps} e warmup_steps = {warmup} houve uma divisão por zero: sem subida, o passo 0 já "
                "está na descida."
            ) from None
        rising, falling = at < warmup, (steps - at) / (steps - warmup)
        up = at / max(1, warmup)
        right = peak * np.where(rising, up, falling)
        if np.allclose(given, right, rtol=1e-6, atol=0):
            continue
        mistakes = {
            "falta multiplicar pela taxa do pico: você devolveu a fração.": right / peak,
            "esse é o cronograma do curso, que começa acima de zero. O de Trainer tem taxa 0 no passo 0.": peak
            * np.where(rising, (at + 1) / max(1, warmup), falling),
            "falta a descida: depois da subida a taxa fica no pico.": peak * np.where(rising, up, 1.0),
            "falta a subida: os primeiros passos têm de começar em 0.": peak * (steps - at) / steps,
            "a descida conta os passos desde o começo, e por isso a taxa salta no fim da subida. Conte os que faltam, "
            "steps − step, sobre os que a descida tem, steps − warmup_steps.": peak
            * np.where(rising, up, (steps - at) / steps),
            "a sua descida chega a zero no último passo, que fica sem efeito. Ela chegaria a zero no passo seguinte "
            "a ele, o de número steps.": peak * np.where(rising, up, (steps - 1 - at) / max(1, steps - 1 - warmup)),
        }
        recognise(given, mistakes, partial(np.allclose, rtol=1e-6, atol=0))
        wrong = int(np.argmax(~np.isclose(given, right, rtol=1e-6, atol=0)))
        raise Wrong(
            f"no passo {wrong} de {steps}, com warmup_steps = {warmup} e pico {peak:g}, veio {given[wrong]:g}.",
            "são dois trechos: até warmup_steps, peak·step/warmup_steps; depois, peak vezes a fração dos que faltam.",
        )
    return "sobe de 0, desce até quase 0. O primeiro passo de Trainer, quando há warm-up, não move peso nenhum."


def exercise_2(static_bytes):
    """`static_bytes(total, trainable)` → os bytes de pesos, gradientes e AdamW em float32."""
    for total, trainable in ((5_307_138, 5_307_138), (5_307_138, 66_306), (1_000, 250)):
        given, right = called(static_bytes, total, trainable), 4 * total + 12 * trainable
        if math.isclose(given, right, rel_tol=1e-9):
            continue
        mistakes = {
            "os pesos congelados também ocupam memória: 4 bytes cada.": 16 * trainable,
            "um parâmetro congelado não tem gradiente nem médias de AdamW: só o peso.": 16 * total,
            "faltam 4 bytes por parâmetro que treina: ou o gradiente, ou uma das duas médias de AdamW.": 4 * total
            + 8 * trainable,
            "as médias de AdamW são duas, e falta também o gradiente.": 4 * total + 4 * trainable,
            "você contou duas vezes o peso do que treina.": 4 * total + 16 * trainable,
            "você contou números. Em float32, cada um tem 4 bytes.": total + 3 * trainable,
            "você devolveu bits: divida por 8.": 8 * right,
        }
        recognise(given, mistakes, partial(math.isclose, rel_tol=1e-9))
        raise Wrong(
            f"com {total} parâmetros, {trainable} deles treinando, veio {given:g}.",
            "a seção 6 tem as quatro linhas. Quais delas existem para um parâmetro congelado?",
        )
    return "4 bytes por peso, e mais 12 por peso que treina. As ativações vêm por cima, e o caderno 03 as conta."


def stop(losses, patience, worse=lambda losses, i, best: losses[i] >= losses[best], consecutive=True):
    """(época em que se para, época que se guarda) segundo uma regra do que é piorar; o certo é contra a melhor."""
    best, waited = 0, 0
    for i in range(1, len(losses)):
        if worse(losses, i, best):
            waited += 1
        elif consecutive:
            waited = 0
        best = i if losses[i] < losses[best] else best
        if waited == patience:
            return i + 1, best + 1
    return len(losses), best + 1


def exercise_3(early_stop):
    """`early_stop(losses, patience)` → (época em que se para, época que se guarda), contadas de 1."""
    cases = (
        ([0.9, 0.7, 0.8, 0.75, 0.72, 0.6, 0.65, 0.66, 0.67], 2),
        ([0.9, 0.95, 0.8, 0.85, 0.7, 0.75, 0.6], 2),
        ([0.8, 0.6, 0.61, 0.62, 0.63, 0.5], 3),
        ([0.9, 0.7, 0.7, 0.7, 0.7, 0.6], 2),
    )
    for losses, patience in cases:
        answer = returned(early_stop, list(losses), patience)
        try:
            given = tuple(map(operator.index, answer))
        except TypeError:
            given = ()
        if len(given) != 2:
            raise Wrong(
                f"para {losses} e patience = {patience} veio {answer!r}. Devolva dois números inteiros, também quando "
                "o treino chega ao fim sem parar antes."
            )
        stopped, kept = stop(losses, patience)
        if given == (stopped, kept):
            continue
        mistakes = {
            "você contou as épocas de 0; aqui a primeira é a 1.": (stopped - 1, kept - 1),
            "você guardou a última época. Guarda-se a de menor perda: as seguintes só serviram para decidir parar.": (
                stopped,
                stopped,
            ),
            "você parou na primeira vez que a perda não caiu. A paciência é quantas épocas seguidas se espera.": stop(
                losses, 1
            ),
            "você esperou uma época a mais do que a paciência.": stop(losses, patience + 1),
            "você compara cada época com a anterior. Compare com a melhor até ali: uma perda que cai sem alcançá-la "
            "ainda não melhorou.": stop(losses, patience, lambda losses, i, best: losses[i] >= losses[i - 1]),
            "um empate não é melhora: a perda tem de ficar abaixo da melhor.": stop(
                losses, patience, lambda losses, i, best: losses[i] > losses[best]
            ),
            "a contagem volta a zero quando a perda melhora: a paciência é de épocas seguidas.": stop(
                losses, patience, consecutive=False
            ),
            "você guardou a menor perda da lista inteira, com épocas que o treino, parado, nunca rodaria.": (
                stopped,
                losses.index(min(losses)) + 1,
            ),
        }
        recognise(given, mistakes, tuple.__eq__)
        raise Wrong(
            f"para {losses} e patience = {patience} veio {given}.",
            "guarde a melhor época até ali e conte quantas se passaram desde ela; pare quando forem patience.",
        )
    return "para-se patience épocas depois da melhor, e é a melhor que se guarda."
