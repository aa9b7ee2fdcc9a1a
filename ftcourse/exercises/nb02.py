"""Caderno 02: o cronograma de Trainer, os bytes de um ajuste, a parada antecipada."""

from functools import partial

import numpy as np

from ftcourse.exercises import Wrong, called, compare, equal, numbers, returned, shown


def schedule(steps, warmup_steps, peak, rising=None, falling=None):
    """As taxas de um treino inteiro; rising e falling: as frações de quem se engana num dos trechos."""
    at = np.arange(steps)
    rising = at / max(1, warmup_steps) if rising is None else rising
    falling = (steps - at) / (steps - warmup_steps) if falling is None else falling
    return peak * np.where(at < warmup_steps, rising, falling)


def exercise_1(rate):
    """`rate(step, steps, warmup_steps, peak)` → a taxa que Trainer usa no passo `step`, que começa em 0."""
    close = partial(np.allclose, rtol=1e-5, atol=0)

    def rates(function, steps, warmup, peak):
        try:
            return np.array([called(function, step, steps, warmup, peak) for step in range(steps)])
        except Wrong as wrong:
            if warmup == 0 and isinstance(wrong.__cause__, ZeroDivisionError):
                raise Wrong(
                    f"com steps = {steps} e warmup_steps = 0 houve uma divisão por zero: sem subida, o passo 0 já está "
                    "na descida."
                ) from None
            raise

    mistakes = {
        "falta multiplicar pela taxa do pico: você devolveu a fração.": lambda n, w, p: schedule(n, w, 1),
        "esse é o cronograma do curso, que começa acima de zero. O de Trainer tem taxa 0 no passo 0.": (
            lambda n, w, p: schedule(n, w, p, rising=(np.arange(n) + 1) / max(1, w))
        ),
        "falta a descida: depois da subida a taxa fica no pico.": lambda n, w, p: schedule(n, w, p, falling=1),
        "falta a descida: depois da subida a taxa fica no pico; e, sem subida, o passo 0 fica em zero.": (
            lambda n, w, p: schedule(n, w, p, falling=np.minimum(1, np.arange(n) / max(1, w)))
        ),
        "falta a subida: os primeiros passos têm de começar em 0.": lambda n, w, p: schedule(n, 0, p),
        "a taxa não muda: faltam a subida e a descida.": lambda n, w, p: np.full(n, p),
        "a descida conta os passos desde o começo do treino, e por isso a taxa salta no fim da subida: conte os que a "
        "descida tem.": lambda n, w, p: schedule(n, w, p, falling=(n - np.arange(n)) / n),
        "a sua descida chega a zero no último passo, que fica sem efeito. Ela chegaria a zero no passo seguinte "
        "a ele, o de número steps.": lambda n, w, p: schedule(
            n, w, p, falling=(n - 1 - np.arange(n)) / max(1, n - 1 - w)
        ),
        "depois da subida a sua taxa cai a zero e sobe outra vez: conte os passos que faltam, e não os que já "
        "passaram.": lambda n, w, p: schedule(n, w, p, falling=(np.arange(n) - w) / (n - w)),
        "isso desce em cosseno. A descida daqui é uma linha reta.": lambda n, w, p: schedule(
            n, w, p, falling=(1 + np.cos(np.pi * (np.arange(n) - w) / (n - w))) / 2
        ),
    }

    def differs(case, came, right):
        step, (steps, warmup, peak) = int(np.argmax(~np.isclose(came, right, rtol=1e-5, atol=0))), case
        stretch = "na subida" if step < warmup else "na descida"
        return (
            f"no passo {step} de {steps}, {stretch}, com warmup_steps = {warmup} e peak = {shown(peak)}, veio "
            f"{shown(came[step])}."
        )

    compare(
        rate,
        ((10, 4, 2e-3), (30, 6, 3e-4), (8, 0, 5.0)),
        schedule,
        mistakes,
        "desenhe a taxa passo a passo: onde ela vale 0, onde vale peak? Em cada um dos dois trechos, que fração do "
        "caminho já se andou, ou falta andar?",
        value=rates,
        same=close,
        differs=differs,
    )
    return "sobe de 0, desce até quase 0. O primeiro passo de Trainer, quando há warm-up, não move peso nenhum."


def exercise_2(static_bytes):
    """`static_bytes(total, trainable)` → os bytes de pesos, gradientes e AdamW em float32."""
    mistakes = {
        "os pesos congelados também ocupam memória, e você só contou o que treina.": lambda n, t: 16 * t,
        "um parâmetro congelado não tem gradiente nem médias de AdamW: só o peso.": lambda n, t: 16 * n,
        "isso são só os pesos: faltam o gradiente e as médias do que treina.": lambda n, t: 4 * n,
        "isso são só os pesos do que treina.": lambda n, t: 4 * t,
        "faltam os pesos, que todo parâmetro tem: isso é o gradiente e as médias do que treina.": lambda n, t: 12 * t,
        "um parâmetro congelado só tem o peso; e onde estão os pesos?": lambda n, t: 12 * n,
        "cada parâmetro que treina saiu com 12 bytes, três números, e ele tem quatro. Qual ficou de fora: o peso, o "
        "gradiente ou uma das duas médias?": lambda n, t: 4 * n + 8 * t,
        "cada parâmetro que treina saiu com 8 bytes, dois números, e ele tem quatro: confira as linhas da tabela.": (
            lambda n, t: 4 * n + 4 * t
        ),
        "você contou duas vezes o peso do que treina.": lambda n, t: 4 * n + 16 * t,
        "o que não treina saiu com o que é do que treina, e o contrário: os dois números estão trocados.": (
            lambda n, t: 4 * t + 12 * n
        ),
        "você contou números, e a pergunta é por bytes. Quantos tem um número em float32?": lambda n, t: n + 3 * t,
        "você devolveu bits, e a pergunta é por bytes.": lambda n, t: 8 * (4 * n + 12 * t),
        "2 bytes é o que ocupa um número em meia precisão. Aqui tudo está em float32.": lambda n, t: 2 * n + 6 * t,
        "8 bytes é o que ocupa um número em float64. Aqui tudo está em float32.": lambda n, t: 8 * n + 24 * t,
        "isso está em MB, e a pergunta é por bytes.": lambda n, t: (4 * n + 12 * t) / 1e6,
        "isso está em MiB, e a pergunta é por bytes.": lambda n, t: (4 * n + 12 * t) / 2**20,
    }
    compare(
        static_bytes,
        ((5_307_138, 5_307_138), (5_307_138, 66_306), (1_000, 250), (700, 0)),
        lambda total, trainable: 4 * total + 12 * trainable,
        mistakes,
        "a tabela da seção 5 tem as quatro linhas. Quais existem para um parâmetro congelado? E para um que treina?",
        same=equal,
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
        ([0.9, 0.8, 0.85, 0.7], 3),
        ([0.5, 0.6, 0.4], 1),
    )

    def epochs(function, losses, patience):
        answer = returned(function, losses, patience)
        return numbers(
            answer,
            ("a época em que se para", "a que se guarda"),
            f"para {losses} e patience = {patience} veio {shown(answer)}. Devolva dois números inteiros, também quando "
            "o treino chega ao fim sem parar antes.",
        )

    def last_best(losses, patience):
        """A época que guarda quem troca de melhor também no empate."""
        stopped, _ = stop(losses, patience)
        seen = losses[:stopped]
        return stopped, stopped - seen[::-1].index(min(seen))

    mistakes = {
        "você contou as épocas de 0; aqui a primeira é a 1.": lambda x, p: tuple(k - 1 for k in stop(x, p)),
        "a época em que se para saiu contada de 0, e a outra de 1: aqui a primeira é a 1.": lambda x, p: (
            stop(x, p)[0] - 1,
            stop(x, p)[1],
        ),
        "a época que se guarda saiu contada de 0, e a outra de 1: aqui a primeira é a 1.": lambda x, p: (
            stop(x, p)[0],
            stop(x, p)[1] - 1,
        ),
        "as duas épocas estão trocadas: primeiro a em que ele para.": lambda x, p: stop(x, p)[::-1],
        "você guardou a última época. Guarda-se a de menor perda: as seguintes só serviram para decidir parar.": (
            lambda x, p: (stop(x, p)[0],) * 2
        ),
        "você parou na primeira vez que a perda não caiu. A paciência é quantas épocas seguidas se espera.": (
            lambda x, p: stop(x, 1)
        ),
        "você esperou uma época a mais do que a paciência.": lambda x, p: stop(x, p + 1),
        "você esperou uma época a menos do que a paciência.": lambda x, p: stop(x, max(1, p - 1)),
        "você compara cada época com a anterior. Compare com a melhor até ali: uma perda que cai sem alcançá-la "
        "ainda não melhorou.": lambda x, p: stop(x, p, lambda x, i, best: x[i] >= x[i - 1]),
        "um empate não é melhora: a perda tem de ficar abaixo da melhor.": lambda x, p: stop(
            x, p, lambda x, i, best: x[i] > x[best]
        ),
        "num empate, a que se guarda é a primeira: a outra não ficou abaixo da melhor.": last_best,
        "a contagem volta a zero quando a perda melhora: a paciência é de épocas seguidas.": lambda x, p: stop(
            x, p, consecutive=False
        ),
        "você guardou a menor perda da lista inteira, com épocas que o treino, parado, nunca rodaria.": lambda x, p: (
            stop(x, p)[0],
            x.index(min(x)) + 1,
        ),
        "o seu treino nunca para antes do fim da lista.": lambda x, p: (len(x), x.index(min(x)) + 1),
    }
    compare(
        early_stop,
        cases,
        lambda losses, patience: stop(losses, patience),
        mistakes,
        "faça a primeira lista no papel: em cada época, qual é a melhor até ali, e há quantas ela não é superada?",
        value=epochs,
        same=tuple.__eq__,
        differs=lambda case, came, right: f"para {case[0]} e patience = {case[1]} veio {shown(came)}.",
    )
    return "para-se patience épocas depois da melhor, e é a melhor que se guarda."
