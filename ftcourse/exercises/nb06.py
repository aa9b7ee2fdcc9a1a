"""Caderno 06: a tabela da normal com qualquer número de bits, os códigos de volta ao peso, a perda antes de medi-la."""

import re
from functools import partial
from statistics import NormalDist, StatisticsError

import torch

from ftcourse.exercises import Wrong, compare, kind, returned, shown, tensor
from ftcourse.nf4 import TABLE

quantile = NormalDist().inv_cdf


def offset(bits):
    """O δ de uma tabela de tantos bits."""
    n = 2**bits
    return 1 - (1 / (2 * (n - 1)) + 1 / (2 * n)) / 2


def halves(bits, delta=None, above=None, below=None):
    """Os quantis de δ a ½, `above` para cima e `below` para baixo, e o zero, sem dividir pelo maior."""
    delta, n = delta or offset(bits), 2**bits
    above, below = n // 2 if above is None else above, n // 2 - 1 if below is None else below
    up = [quantile(p) for p in torch.linspace(delta, 0.5, above + 1)[:-1].tolist()]
    down = [-quantile(p) for p in torch.linspace(delta, 0.5, below + 1)[:-1].tolist()]
    return torch.tensor(sorted([*down, 0.0, *up]))


def unit(table):
    return table / table.abs().max()


def normal(bits, **changes):
    return unit(halves(bits, **changes))


def exercise_1(normal_table):
    """`normal_table(bits)` → os 2**bits valores da construção de NF4, em ordem, de −1 a 1, com o zero."""
    infinite = "há um infinito: o quantil de 1, ou de 0. O maior que entra é o de δ, um pouco abaixo de 1."
    unsorted = []

    def table(function, bits):
        """Os valores em ordem, com a contagem certa."""
        n = 2**bits
        try:
            given = returned(function, bits)
        except Wrong as wrong:
            raise (Wrong(infinite) if isinstance(wrong.__cause__, StatisticsError) else wrong) from None
        if not isinstance(given, torch.Tensor) or given.ndim != 1:
            raise Wrong(f"a resposta é um tensor de torch com os valores em fila, e veio {kind(given)}.")
        if given.isinf().any():
            raise Wrong(infinite)
        if (zeros := int((given == 0).sum())) > 1 and len(given) != n:
            raise Wrong(
                f"o zero aparece {zeros} vezes: o quantil de ½ já é zero. Tire-o do fim de cada fila e ponha um só."
            )
        if len(given) == n + 1:
            raise Wrong(f"são {n + 1} valores, e com {bits} bits cabem {n}: o zero tira um lugar do lado de baixo.")
        if len(given) == n - 1:
            raise Wrong(
                f"são {n - 1} valores, e com {bits} bits cabem {n}: um código ficaria sem uso. Os dois lados não têm a "
                "mesma quantidade."
            )
        if len(given) != n:
            raise Wrong(f"são {len(given)} valores, e com {bits} bits cabem {n}.")
        given = tensor(given, (n,))
        unsorted.append(bool((given.diff() < 0).any()))
        return given.sort().values

    def fixed(delta):
        return lambda bits: normal(bits, delta=delta(2**bits))

    int4 = "isso é int4 com outro nome, e não olha onde os pesos estão."
    mistakes = {
        "essa é a tabela das fatias, Φ⁻¹((i + ½)/n): circula como NF4, mas não tem zero.": lambda bits: unit(
            torch.tensor([quantile((i + 0.5) / 2**bits) for i in range(2**bits)])
        ),
        "quantis igualmente espaçados de 1 − δ a δ: a tabela fica simétrica e sem zero.": lambda bits: unit(
            torch.tensor([quantile(p) for p in torch.linspace(1 - offset(bits), offset(bits), 2**bits).tolist()])
        ),
        f"valores igualmente espaçados: {int4}": lambda bits: torch.linspace(-1, 1, 2**bits),
        f"inteiros sobre n/2, de −1 a quase 1: {int4}": lambda bits: (
            torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)) / 2 ** (bits - 1)
        ),
        "falta dividir pelo maior: a tabela vai de −1 a 1, senão o peso absmax não volta a ser ele.": halves,
        "está virada: NF4 tem um valor a mais do lado de cima.": lambda bits: -normal(bits).flip(0),
        "o zero aparece duas vezes, e um código fica sem uso.": lambda bits: unit(
            torch.cat([halves(bits, above=2 ** (bits - 1) - 1), torch.zeros(1)]).sort().values
        ),
        "δ ficou com o valor de 4 bits: nele, 15 e 16 mudam com o número de valores.": fixed(lambda n: offset(4)),
        "δ é a média de dois números, e você usou só o de n fatias.": fixed(lambda n: 1 - 1 / (2 * n)),
        "δ é a média de dois números, e você usou só o de n − 1 fatias.": fixed(lambda n: 1 - 1 / (2 * (n - 1))),
        "o que o seu δ tira de 1 é o dobro do que devia: ou os denominadores ficaram sem o dobro, ou faltou tirar a "
        "média dos dois.": fixed(lambda n: 1 - (1 / (n - 1) + 1 / n) / 2),
        "os denominadores do seu δ são n e n + 1: com 16 valores, eles vêm de 15 e de 16.": fixed(
            lambda n: 1 - (1 / (2 * n) + 1 / (2 * (n + 1))) / 2
        ),
    }

    def differs(case, came, right):
        up, down, n = int((came > 0).sum()), int((came < 0).sum()), 2 ** case[0]
        text = (
            f"com {case[0]} bits há {up} valores para cima de zero, {down} para baixo e o maior é {shown(came.max())}. "
        )
        if (up, down) == (n // 2, n // 2 - 1):
            return text + "As contagens estão certas: confira o δ, e se os passos de δ a ½ são iguais."
        return text + "Quantos devem ficar de cada lado, se o zero ocupa um lugar?"

    compare(
        normal_table,
        ((4,), (3,), (5,)),
        normal,
        mistakes,
        "com 4 bits, ponha a sua tabela ao lado de nf4.TABLE e procure o primeiro valor que difere. Com mais ou menos "
        "bits, o que muda é n: no δ e em quantos quantis vão de cada lado.",
        value=table,
        same=partial(torch.allclose, atol=2e-5),  # δ escrito com mais ou menos algarismos
        differs=differs,
    )
    if any(unsorted):
        raise Wrong("os valores estão certos e fora de ordem: o código é a posição, em ordem crescente.")
    return "com 4 bits é a tabela de NF4; com 3 e 5, a mesma construção. O zero custa um lugar do lado de baixo."


def refused(wrong, packed, absmax, block):
    """A dica para o que torch disse ao recusar a conta."""
    said, blocks, weights = str(wrong.__cause__), len(absmax), 2 * len(packed)
    if outside := re.search(r"index (\d+) is out of bounds", said):
        if int(outside[1]) % 16 == 0:
            return "byte & 240 separa os 4 bits altos e não os traz para baixo: um código vai de 0 a 15."
        return f"{outside[1]} não é um código, que vai de 0 a 15: um byte inteiro guarda dois."
    if "mask" in said or "too many indices" in said:
        return "um tensor uint8 como índice é lido como máscara de sim e não: converta os códigos com .int()."
    if sizes := re.search(r"tensor a \((\d+)\) must match the size of tensor b \((\d+)\)", said):
        sizes = {int(size) for size in sizes.groups()}
        if sizes == {block, blocks}:
            return f"absmax veio em fila, ({blocks},), e cada linha precisa do seu: falta um eixo."
        if weights in sizes and len(sizes) == 2:
            (repeated,) = sizes - {weights}
            if repeated == blocks:
                return f"são {weights} pesos e {blocks} absmax: cada um serve aos pesos de um bloco inteiro."
            return (
                f"são {weights} pesos, e os absmax repetidos são {repeated}. Cada absmax serve a block_size pesos, e "
                "não bytes; e block_size muda de um caso para o outro."
            )
        if blocks in sizes and len(sizes) == 2:
            (rows,) = sizes - {blocks}
            return (
                f"com block_size = {block} há {blocks} blocos, e os seus pesos vieram em {rows} linhas: o tamanho do "
                "bloco é o que a função recebe."
            )
    return wrong.hints[0]


def lookup(
    order="pairs", scale=lambda absmax, block: absmax.repeat_interleave(block), values=lambda codes: TABLE[codes]
):
    """A volta aos pesos de quem se engana na ordem dos códigos, na escala ou na tabela."""

    def unpack(packed, absmax, block_size):
        first, second = (packed >> 4).int(), (packed & 15).int()
        codes = {
            "pairs": torch.stack([first, second], 1).flatten(),
            "crossed": torch.stack([second, first], 1).flatten(),
            "apart": torch.cat([first, second]),
        }[order]
        return values(codes) * scale(absmax, block_size)

    return unpack


def exercise_2(unpack):
    """`unpack(packed, absmax, block_size)` → o peso em fila, (2·len(packed),), da tabela de NF4."""
    generator = torch.Generator().manual_seed(0)
    cases = [
        (
            torch.randint(256, (block * blocks // 2,), generator=generator).to(torch.uint8),
            torch.rand(blocks, generator=generator) + 0.5,
            block,
        )
        for block, blocks in ((64, 6), (32, 4), (16, 10))
    ]

    def weights(function, packed, absmax, block):
        try:
            came = returned(function, packed, absmax, block)
        except Wrong as wrong:
            if not isinstance(wrong.__cause__, (IndexError, RuntimeError)):
                raise
            raise Wrong(refused(wrong, packed, absmax, block)) from None
        if isinstance(came, torch.Tensor) and came.numel() != 2 * len(packed):
            raise Wrong(f"voltaram {came.numel()} pesos de {len(packed)} bytes: cada byte guarda dois códigos.")
        return tensor(came, (2 * len(packed),), ", os pesos todos em fila")

    is_int4 = "isso lê os códigos como int4. NF4 é uma busca na tabela."
    mistakes = {
        "os pares estão trocados: o primeiro código está nos 4 bits altos do byte.": lookup("crossed"),
        "vieram todos os primeiros códigos e depois os segundos: eles se alternam.": lookup("apart"),
        "falta multiplicar pelo absmax: isso são os valores da tabela.": lookup(scale=lambda absmax, block: 1),
        "o maior absmax foi para todos: cada bloco tem o seu.": lookup(scale=lambda absmax, block: absmax.max()),
        "o primeiro absmax foi para todos: cada bloco tem o seu.": lookup(scale=lambda absmax, block: absmax[0]),
        "o bloco se conta em pesos, e você o contou em bytes: cada absmax serviu a dois blocos.": lookup(
            scale=lambda absmax, block: absmax.repeat_interleave(2 * block)[: len(absmax) * block]
        ),
        "a fila inteira de absmax se repetiu, um para cada peso vizinho. Pesos vizinhos são do mesmo bloco: o que se "
        "repete é cada absmax.": lookup(scale=lambda absmax, block: absmax.repeat(block)),
        f"código menos 8, sobre 8: {is_int4}": lookup(values=lambda codes: (codes - 8) / 8),
        f"código menos 8, sobre 7: {is_int4}": lookup(values=lambda codes: (codes - 8) / 7),
        f"código menos 7, sobre 7: {is_int4}": lookup(values=lambda codes: (codes - 7) / 7),
        f"valores igualmente espaçados de −1 a 1: {is_int4}": lookup(values=lambda codes: codes / 7.5 - 1),
        "você multiplicou o código, e não o valor que ele tem na tabela.": lookup(values=lambda codes: codes),
        "dividiu pelo absmax: quem quantiza divide, quem volta multiplica.": lookup(
            scale=lambda absmax, block: 1 / absmax.repeat_interleave(block)
        ),
    }
    compare(
        unpack,
        cases,
        lookup(),
        mistakes,
        "três passos, e cada um se confere sozinho com o W do caderno: os códigos de cada byte, na ordem; o valor de "
        "cada código; o absmax do bloco de cada peso.",
        value=weights,
        same=partial(torch.allclose, atol=1e-5),
        differs=lambda case, came, right: (
            f"com block_size = {case[2]} e {len(case[1])} blocos, o primeiro peso que difere é o "
            f"{int((came - right).abs().gt(1e-5).int().argmax())}, contado de 0. De que byte, de que metade dele e de "
            "que bloco ele é?"
        ),
    )
    return "código, tabela, absmax do bloco: é toda a conta que QLoRA faz a cada ida, com o peso que não treina."


def parts(rule):
    """A subida segundo uma regra sobre (L(W), parte ímpar, parte par, erro medido, erro novo)."""
    return lambda base, plus, minus, error, new_error: rule(
        base, (plus - minus) / 2, (plus + minus) / 2 - base, error, new_error
    )


def exercise_3(expected_rise):
    """`expected_rise(base, plus, minus, error, new_error)` → a subida que se espera com outro formato, de new_error."""
    mistakes = {
        "você levou a subida inteira, sorte incluída: a parte ímpar é deste E, e outro erro tem outra.": (
            lambda b, o, e, r, n: (e + o) * (n / r) ** 2
        ),
        "é a subida que este E deu: falta tirar a parte ímpar e corrigir pelo tamanho.": lambda b, o, e, r, n: e + o,
        "é a subida inteira, em proporção ao erro: falta tirar a parte ímpar, e a par não cresce assim.": (
            lambda b, o, e, r, n: (e + o) * n / r
        ),
        "as duas partes crescem assim se o outro erro aponta para onde E aponta, e não se sabe. Em média a ímpar é "
        "zero.": lambda b, o, e, r, n: o * n / r + e * (n / r) ** 2,
        "a ímpar é do E que você mediu; a do outro formato ninguém sabe, e em média é zero.": lambda b, o, e, r, n: (
            o + e * (n / r) ** 2
        ),
        "você usou W − E como se fosse W + E: cada uma traz uma parte ímpar. Qual é a parte que as duas têm igual?": (
            lambda b, o, e, r, n: (e - o) * (n / r) ** 2
        ),
        "você usou a parte ímpar, a que troca de sinal com E. A que não troca é a par.": lambda b, o, e, r, n: (
            o * (n / r) ** 2
        ),
        "a ímpar cresce com o erro, mas o sinal dela no outro formato não se sabe: em média é zero.": (
            lambda b, o, e, r, n: o * n / r
        ),
        "a parte par cresce mais depressa que o erro: confira a inclinação das retas da figura.": (
            lambda b, o, e, r, n: e * n / r
        ),
        "a parte par não cresce tão depressa: confira a inclinação das retas da figura.": lambda b, o, e, r, n: (
            e * (n / r) ** 4
        ),
        "falta corrigir pelo tamanho: o outro formato erra mais ou menos do que este.": lambda b, o, e, r, n: e,
        "a razão dos erros está invertida: o formato que erra mais custa mais.": lambda b, o, e, r, n: e * (r / n) ** 2,
        "essa é a constante do modelo: falta usá-la no erro novo.": lambda b, o, e, r, n: e / r**2,
        "falta o erro que você mediu: a parte par é dele, e só a constante do modelo serve a outro.": (
            lambda b, o, e, r, n: e * n**2
        ),
        "falta dividir por 2: L(W + E) e L(W − E) trazem a parte par uma vez cada um.": lambda b, o, e, r, n: (
            2 * e * (n / r) ** 2
        ),
        "você dividiu por 2 a mais: a média das duas perdas, menos L(W), já é a parte par.": lambda b, o, e, r, n: (
            e / 2 * (n / r) ** 2
        ),
        "isso é a perda, e a pergunta é quanto ela sobe: tire L(W).": lambda b, o, e, r, n: b + e * (n / r) ** 2,
        "esqueceu L(W): a parte par é o que a média das duas perdas tem a mais que ela.": lambda b, o, e, r, n: (
            (e + b) * (n / r) ** 2
        ),
        "o sinal está trocado: a perda sobe com o erro.": lambda b, o, e, r, n: -e * (n / r) ** 2,
    }
    compare(
        expected_rise,
        ((3.2, 3.235, 3.26, 0.09, 0.12), (2.0, 2.05, 2.01, 0.1, 0.2), (1.5, 1.52, 1.9, 0.3, 0.07)),
        parts(lambda b, o, e, r, n: e * (n / r) ** 2),
        {hint: parts(rule) for hint, rule in mistakes.items()},
        "duas perguntas: que parte da subida é a mesma com E e com −E? E com que potência do erro ela cresce?",
    )
    return "a parte par, vezes o quadrado da razão dos erros. A sorte do outro formato ninguém sabe: dê uma faixa."
