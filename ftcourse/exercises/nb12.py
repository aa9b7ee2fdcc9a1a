"""Caderno 12: quantas frases mostram uma diferença, quem está na fronteira de Pareto, a escolha com uma restrição."""

from functools import partial

from ftcourse.exercises import Wrong, compare, kind, returned, shown


def exercise_1(sentences):
    """`sentences(a, b, apart)` → quantas frases pôr no teste, pareado, para a diferença valer dois erros-padrão."""

    def count(a, b, apart, errors=2.0, own=False):
        gap = a - b
        variance = a * (1 - a) + b * (1 - b) if own else apart - gap**2
        return errors**2 * variance / gap**2

    mistakes = {
        "essa é a conta de dois testes separados, cada um com as suas frases. Aqui elas são as mesmas.": partial(
            count, own=True
        ),
        "essa é a variância de um modelo só. O que varia de frase para frase aqui é a diferença entre os dois.": (
            lambda a, b, apart: 4 * a * (1 - a) / (a - b) ** 2
        ),
        "essa é a variância do outro modelo, sozinho. O que varia aqui é a diferença entre os dois.": (
            lambda a, b, apart: 4 * b * (1 - b) / (a - b) ** 2
        ),
        "com essas frases a diferença vale um erro-padrão, e se pedem dois.": partial(count, errors=1.0),
        "o erro-padrão entrou na conta como se caísse com n: ele cai com a raiz de n.": (
            lambda a, b, apart: 2 * (apart - (a - b) ** 2) ** 0.5 / abs(a - b)
        ),
        "o número de frases cresce com o inverso do quadrado da diferença, e na sua conta falta o quadrado.": (
            lambda a, b, apart: 4 * (apart - (a - b) ** 2) / abs(a - b)
        ),
        "a variância de um número que vale +1, 0 ou −1 é a média do quadrado menos o quadrado da média: falta "
        "a segunda parte.": (lambda a, b, apart: 4 * apart / (a - b) ** 2),
        "você trocou a fração em que discordam por p(1 − p): a diferença não vale só 0 ou 1.": (
            lambda a, b, apart: 4 * apart * (1 - apart) / (a - b) ** 2
        ),
        "a diferença entrou em pontos, e as frações vão de 0 a 1.": (
            lambda a, b, apart: 4 * (apart - (a - b) ** 2) / (100 * (a - b)) ** 2
        ),
    }
    compare(
        sentences,
        ((0.8, 0.7, 0.3), (0.784, 0.773, 0.12), (0.62, 0.9, 0.4), (0.55, 0.5, 0.5)),
        count,
        mistakes,
        "em cada frase a diferença vale +1, 0 ou −1. Escreva a variância dela, divida por n, tire a raiz e iguale duas "
        "vezes isso à diferença das acurácias.",
    )
    return "sem parear seriam quase três vezes mais no segundo caso. E metade da diferença pede quatro vezes as frases."


CASES = (  # {técnica: (memória, acurácia)}
    {"a": (10, 0.60), "b": (20, 0.55), "c": (30, 0.80), "d": (40, 0.79), "e": (50, 0.85)},
    {"a": (40, 0.82), "b": (25, 0.70), "c": (25, 0.75), "d": (90, 0.82), "e": (12, 0.50), "f": (60, 0.81)},
    {"a": (5, 0.9), "b": (6, 0.8), "c": (7, 0.7)},
    {
        "a": (10, 0.5),
        "b": (20, 0.52),
        "c": (30, 0.8),
        "d": (40, 0.6),
    },  # b está na fronteira, abaixo da reta entre a e c
)


def exercise_2(front):
    """`front({nome: (memória, acurácia)})` → os nomes da fronteira de Pareto, em qualquer ordem."""

    def ahead(case, beats):
        return frozenset(n for n, mine in case.items() if not any(beats(case[o], mine) for o in case if o != n))

    def right(case):
        return ahead(case, lambda o, m: o[0] <= m[0] and o[1] >= m[1] and o != m)

    def corners(case):
        cheap, good = min(case, key=lambda n: case[n][0]), max(case, key=lambda n: case[n][1])
        return frozenset({cheap, good})

    def hull(case):  # os que estão acima de toda reta entre dois da fronteira
        names = sorted(right(case), key=lambda n: case[n])
        return frozenset(
            n
            for i, n in enumerate(names)
            if not any(below(case[n], case[p], case[q]) for p in names[:i] for q in names[i + 1 :])
        )

    mistakes = {
        "esses são os dois extremos, o mais barato e o que mais rende. Há também quem fica entre eles.": corners,
        "a reta entre dois da fronteira não é uma técnica que se possa escolher. Só um ponto bate outro ponto.": hull,
        "na sua fronteira quem empata num dos lados não é batido. Custar o mesmo e render menos é perder.": (
            lambda case: ahead(case, lambda o, m: o[0] < m[0] and o[1] > m[1])
        ),
        "esses são os batidos: a fronteira são os outros.": lambda case: frozenset(case) - right(case),
        "você procurou quem gasta mais e rende mais. Memória é custo: menos é melhor.": (
            lambda case: ahead(case, lambda o, m: o[0] >= m[0] and o[1] >= m[1] and o != m)
        ),
        "você procurou quem gasta menos e rende menos. Acurácia maior é melhor.": (
            lambda case: ahead(case, lambda o, m: o[0] <= m[0] and o[1] <= m[1] and o != m)
        ),
        "esse é só o mais barato.": lambda case: frozenset({min(case, key=lambda n: case[n][0])}),
        "esse é só o que mais rende.": lambda case: frozenset({max(case, key=lambda n: case[n][1])}),
        "vieram todas: quem gasta mais que outra e não rende mais que ela está fora.": frozenset,
    }
    compare(
        front,
        [(case,) for case in CASES],
        right,
        mistakes,
        "para cada técnica, pergunte se há outra que gasta no máximo o mesmo, rende no mínimo o mesmo e ganha num.",
        value=chosen_names,
        same=lambda one, other: one == other,
        differs=lambda case, came, expected: f"com {listed(case[0])}, veio {listed(came)}.",
    )
    return "só um ponto bate outro ponto, e empatar num lado e perder no outro é ser batido."


def below(point, first, last):
    """Se um ponto fica abaixo da reta entre dois outros."""
    (x, y), (x0, y0), (x1, y1) = point, first, last
    return x0 < x1 and y < y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def listed(names):
    return "{" + ", ".join(f"{name}" for name in sorted(names)) + "}"


def chosen_names(function, case):
    came = returned(function, case)
    if isinstance(came, (str, dict)) or not isinstance(came, (list, tuple, set, frozenset)):
        raise Wrong(f"a função devolve uma lista de nomes, e veio {kind(came)}.")
    if strange := [name for name in came if not isinstance(name, str) or name not in case]:
        raise Wrong(f"{shown(strange[0])} não é um dos nomes que a função recebeu.")
    if not came:
        raise Wrong("a fronteira nunca é vazia: o mais barato dos que mais rendem está sempre nela.")
    return frozenset(came)


GAPS = (  # (memória, arquivo, diferenças, limite)
    (
        {"full": 140, "lora": 100, "bitfit": 75, "head": 34},
        {"full": 21.2, "lora": 0.9, "bitfit": 0.3, "head": 0.27},
        {("full", "lora"): (0.02, 0.015), ("full", "bitfit"): (0.04, 0.015), ("full", "head"): (0.3, 0.02),
         ("lora", "bitfit"): (0.01, 0.02), ("lora", "head"): (0.28, 0.02), ("bitfit", "head"): (0.27, 0.02)},
        110,
    ),
    (
        {"full": 140, "lora": 100, "bitfit": 75, "head": 34},
        {"full": 21.2, "lora": 0.9, "bitfit": 0.3, "head": 0.27},
        {("full", "lora"): (0.005, 0.015), ("full", "bitfit"): (0.04, 0.015), ("full", "head"): (0.3, 0.02),
         ("lora", "bitfit"): (0.035, 0.02), ("lora", "head"): (0.28, 0.02), ("bitfit", "head"): (0.27, 0.02)},
        200,
    ),
    (
        {"qlora": 60, "houlsby": 85, "prompt": 110, "pfeiffer": 70},
        {"qlora": 0.86, "houlsby": 0.56, "prompt": 0.29, "pfeiffer": 0.4},
        {("qlora", "houlsby"): (-0.01, 0.02), ("qlora", "prompt"): (0.2, 0.02), ("qlora", "pfeiffer"): (0.03, 0.02),
         ("houlsby", "prompt"): (0.2, 0.02), ("houlsby", "pfeiffer"): (0.04, 0.02),
         ("prompt", "pfeiffer"): (-0.2, 0.02)},
        90,
    ),
    (
        {"full": 140, "lora": 100, "dora": 174},
        {"full": 21.2, "lora": 0.9, "dora": 0.904},
        {("full", "lora"): (0.03, 0.01), ("full", "dora"): (-0.02, 0.01), ("lora", "dora"): (-0.05, 0.01)},
        150,
    ),
    (
        {"a": 50, "b": 60, "c": 70},
        {"a": 3.0, "b": 2.0, "c": 1.0},
        {("a", "b"): (0.0, 0.01), ("a", "c"): (0.005, 0.01), ("b", "c"): (0.02, 0.01)},
        80,
    ),
    (
        {"a": 50, "b": 60, "c": 70},
        {"a": 1.0, "b": 2.0, "c": 3.0},
        {("a", "b"): (0.03, 0.01), ("a", "c"): (-0.05, 0.01), ("b", "c"): (-0.08, 0.01)},
        80,
    ),
    ({"a": 80, "b": 60}, {"a": 1.0, "b": 2.0}, {("a", "b"): (-0.015, 0.02)}, 80),  # no limite, e dentro do intervalo
)  # fmt: skip


def exercise_3(choose):
    """`choose(memory, files, gaps, limit)` → das que cabem e não perdem de outra que cabe, a de menor arquivo."""

    def losers(gaps, among, sure=True):
        lost = set()
        for (one, other), (gap, half) in gaps.items():
            if one in among and other in among and (abs(gap) > half or not sure):
                lost.add(other if gap > 0 else one)
        return lost

    def pick(memory, files, gaps, limit, among=None, rivals=None, sure=True, by=None):
        fits = {n for n in memory if memory[n] <= limit}
        among = fits if among is None else among(memory, fits)
        rivals = fits if rivals is None else rivals(memory, fits)
        left = [n for n in among if n not in losers(gaps, rivals | among, sure)]
        cost = files if by is None else by(memory, files)
        return min(left or [*among], key=lambda n: cost[n])

    def everyone(memory, fits):
        return set(memory)

    mistakes = {
        "essa não cabe no limite, ou você comparou sem olhar a memória.": partial(
            pick, among=everyone, rivals=everyone
        ),
        "você a eliminou por perder de quem não cabe: a comparação é só entre as que cabem.": partial(
            pick, rivals=everyone
        ),
        "você tratou toda diferença como se existisse: só elimina a que passa da metade do intervalo.": partial(
            pick, sure=False
        ),
        "essa é a de menor arquivo entre as que cabem, e perde de outra que cabe por uma diferença que existe.": (
            lambda memory, files, gaps, limit: min((n for n in memory if memory[n] <= limit), key=files.__getitem__)
        ),
        "o desempate é o arquivo, e você olhou a memória.": partial(pick, by=lambda memory, files: memory),
        "das que sobram, você escolheu a de maior arquivo.": partial(
            pick, by=lambda memory, files: {n: -size for n, size in files.items()}
        ),
        "você eliminou quem ganha: a diferença é a primeira do par menos a segunda.": (
            lambda memory, files, gaps, limit: pick(memory, files, {p: (-g, h) for p, (g, h) in gaps.items()}, limit)
        ),
    }
    compare(
        choose,
        GAPS,
        pick,
        mistakes,
        "primeiro fique com as que cabem. Depois tire a que perde de outra que coube por mais que o meio intervalo. Do "
        "que sobra, a de menor arquivo.",
        value=one_name,
        same=lambda one, other: one == other,
        differs=lambda case, came, expected: f"com o limite em {shown(case[3])} e {listed(case[0])}, veio {came}.",
    )
    return "a ordem importa: o limite vem antes da comparação, e quem não se distingue da melhor pode ser a escolha."


def one_name(function, *case):
    came = returned(function, *case)
    if not isinstance(came, str):
        raise Wrong(f"a função devolve o nome de uma técnica, e veio {kind(came)}.")
    if came not in case[0]:
        raise Wrong(f"{shown(came)} não é um dos nomes que a função recebeu.")
    return came
