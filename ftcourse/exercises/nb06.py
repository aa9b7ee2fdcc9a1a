"""Caderno 06: a tabela da normal com qualquer número de bits, os códigos de volta ao peso, a perda antes de medi-la."""

import math
import re
from functools import partial
from statistics import NormalDist

import torch

from ftcourse.exercises import Wrong, called, recognise, returned
from ftcourse.nf4 import TABLE

quantile = NormalDist().inv_cdf


def halves(above, below, delta):
    """Os quantis de δ a ½, `above` para cima e `below` para baixo, e o zero, sem dividir pelo maior."""
    up = [quantile(p) for p in torch.linspace(delta, 0.5, above + 1)[:-1].tolist()]
    down = [-quantile(p) for p in torch.linspace(delta, 0.5, below + 1)[:-1].tolist()]
    return torch.tensor(sorted([*down, 0.0, *up]))


def offset(n):
    """O δ de uma tabela de n valores."""
    return 1 - (1 / (2 * (n - 1)) + 1 / (2 * n)) / 2


def unit(table):
    return table / table.abs().max()


def exercise_1(normal_table):
    """`normal_table(bits)` → os 2**bits valores da construção de NF4, em ordem, de −1 a 1, com o zero."""
    for bits in (4, 3, 5):
        n = 2**bits
        given = torch.as_tensor(returned(normal_table, bits)).float().flatten()
        right = unit(halves(n // 2, n // 2 - 1, offset(n)))
        same = partial(close, atol=2e-5)  # δ escrito com mais ou menos algarismos
        if same(given, right):
            continue
        if not given.isfinite().all():
            raise Wrong("há um infinito: o quantil de 1, ou de 0. O maior que entra é o de δ, um pouco abaixo de 1.")
        if (zeros := int((given == 0).sum())) > 1 and len(given) != n:
            raise Wrong(
                f"o zero aparece {zeros} vezes: o quantil de ½ já é zero. Tire-o do fim de cada fila, com [:-1], e "
                "ponha um só."
            )
        if len(given) == n + 1:
            raise Wrong(f"são {n + 1} valores, e com {bits} bits cabem {n}: o zero tira um lugar do lado de baixo.")
        if len(given) == n - 1:
            raise Wrong(
                f"são {n - 1} valores, e com {bits} bits cabem {n}: um código ficaria sem uso. Com o zero, há "
                f"{n // 2} para cima e {n // 2 - 1} para baixo."
            )
        if len(given) != n:
            raise Wrong(f"são {len(given)} valores, e com {bits} bits cabem {n}.")
        bare = halves(n // 2, n // 2 - 1, offset(n))
        twice = torch.cat([halves(n // 2 - 1, n // 2 - 1, offset(n)), torch.zeros(1)]).sort().values
        mistakes = {
            "essa é a tabela das fatias, Φ⁻¹((i + ½)/n): circula como NF4, mas não tem zero.": unit(
                torch.tensor([quantile((i + 0.5) / n) for i in range(n)])
            ),
            "quantis igualmente espaçados de 1 − δ a δ: a tabela fica simétrica e sem zero.": unit(
                torch.tensor([quantile(p) for p in torch.linspace(1 - offset(n), offset(n), n).tolist()])
            ),
            "valores igualmente espaçados: isso é int4 com outro nome, e não olha onde os pesos estão.": torch.linspace(
                -1, 1, n
            ),
            "inteiros sobre n/2, de −1 a quase 1: isso é int4 com outro nome.": torch.arange(-n // 2, n // 2) * 2 / n,
            "falta dividir pelo maior: a tabela vai de −1 a 1, senão o peso absmax não volta a ser ele.": bare,
            "está virada: NF4 tem um valor a mais do lado de cima.": -right.flip(0),
            "o zero aparece duas vezes, e um código fica sem uso.": unit(twice),
            f"δ ficou com o valor de 4 bits. Com {bits}, no lugar de 15 e 16 entram {n - 1} e {n}.": unit(
                halves(n // 2, n // 2 - 1, offset(16))
            ),
        }
        ordered = given.sort().values
        if same(ordered, right):
            raise Wrong("os valores estão certos e fora de ordem: o código é a posição, em ordem crescente.")
        recognise(ordered, mistakes, same)
        raise Wrong(
            f"com {bits} bits, algum valor difere do esperado em {(ordered - right).abs().max():.3f}.",
            "de δ até ½, n/2 quantis para cima e n/2 − 1 para baixo, sem o ½; junte o zero e divida pelo maior.",
        )
    return "com 4 bits é a tabela de NF4; com 3 e 5, a mesma construção. O zero custa um lugar do lado de baixo."


def close(given, answer, atol):
    return given.shape == answer.shape and torch.allclose(given, answer, atol=atol)


def refused(error, blocks):
    """A dica para o que torch disse ao recusar a conta."""
    said = str(error)
    if outside := re.search(r"index (\d+) is out of bounds", said):
        if int(outside[1]) % 16 == 0:
            return "byte & 240 separa os 4 bits altos e não os traz para baixo: o código é byte >> 4, de 0 a 15."
        return f"{outside[1]} não é um código: um byte inteiro guarda dois. O primeiro é byte >> 4, o outro byte & 15."
    if "mask" in said or "too many indices" in said:
        return "um tensor uint8 como índice é lido como máscara de sim e não: converta os códigos com .int()."
    if "must match the size" in said:
        return f"absmax veio em fila, ({blocks},), e não se encaixa: para dar um a cada linha, absmax[:, None]."
    return f"a sua resposta levantou {type(error).__name__}: {said}"


def exercise_2(unpack):
    """`unpack(packed, absmax, block_size)` → o peso em fila, (2·len(packed),), da tabela de NF4."""
    generator = torch.Generator().manual_seed(0)
    for block, blocks in ((64, 6), (32, 4)):
        codes = torch.randint(16, (block * blocks,), generator=generator)
        first, second = codes.view(-1, 2).unbind(1)
        packed, absmax = (first << 4 | second).to(torch.uint8), torch.rand(blocks, generator=generator) + 0.5
        try:
            given = returned(unpack, packed.clone(), absmax.clone(), block)
        except (IndexError, RuntimeError) as error:
            raise Wrong(refused(error, blocks)) from None
        if not isinstance(given, torch.Tensor):
            raise Wrong(f"a resposta é {type(given).__name__}, e devia ser um tensor de torch.")
        if given.numel() != len(codes):
            raise Wrong(f"voltaram {given.numel()} pesos de {len(packed)} bytes: cada byte guarda dois códigos.")
        values, scale = TABLE[codes], absmax.repeat_interleave(block)
        crossed, apart = torch.stack([second, first], 1).flatten(), torch.cat([first, second])
        in_bytes = absmax.repeat_interleave(2 * block)[: len(codes)]
        is_int4 = "isso lê os códigos como int4. NF4 é uma busca na tabela."
        mistakes = {
            "os pares estão trocados: o primeiro código está nos 4 bits altos, byte >> 4.": TABLE[crossed] * scale,
            "vieram todos os primeiros códigos e depois os segundos: eles se alternam.": TABLE[apart] * scale,
            "falta multiplicar pelo absmax: isso são os valores da tabela.": values,
            "o maior absmax foi para todos: cada bloco tem o seu.": values * absmax.max(),
            "o bloco se conta em pesos, e você o contou em bytes: cada absmax serviu a dois blocos.": values * in_bytes,
            f"código menos 8, sobre 8: {is_int4}": (codes - 8) / 8 * scale,
            f"código menos 8, sobre 7: {is_int4}": (codes - 8) / 7 * scale,
            f"código menos 7, sobre 7: {is_int4}": (codes - 7) / 7 * scale,
            f"valores igualmente espaçados de −1 a 1: {is_int4}": (codes / 7.5 - 1) * scale,
            "dividiu pelo absmax: quem quantiza divide, quem volta multiplica.": values / scale,
        }
        right, given = values * scale, given.float().flatten()
        if close(given, right, 1e-6):
            continue
        recognise(given, mistakes, partial(close, atol=1e-5))
        raise Wrong(
            f"com blocos de {block}, difere do peso guardado em até {(given - right).abs().max():.2f}.",
            "três passos: dois códigos por byte, na ordem; nf4.TABLE[códigos]; vezes o absmax do bloco de cada peso.",
        )
    return "código, tabela, absmax do bloco: é toda a conta que QLoRA faz a cada ida, com o peso que não treina."


def exercise_3(expected_rise):
    """`expected_rise(base, plus, minus, error, new_error)` → a subida que se espera com outro formato, de new_error."""
    for base, plus, minus, error, new in ((3.2, 3.235, 3.26, 0.09, 0.12), (2.0, 2.05, 2.01, 0.1, 0.2)):
        given = called(expected_rise, base, plus, minus, error, new)
        odd, even, by = (plus - minus) / 2, (plus + minus) / 2 - base, (new / error) ** 2
        if math.isclose(given, even * by, rel_tol=1e-3):
            continue
        rise, times = plus - base, new / error
        mistakes = {
            "você levou a subida inteira, sorte incluída: a parte ímpar é deste E, e outro tem outra.": rise * by,
            "é a subida que este E deu: falta tirar a parte ímpar e corrigir pelo tamanho.": rise,
            "é a subida inteira, em proporção ao erro: falta tirar a parte ímpar, e falta o quadrado.": rise * times,
            "as duas partes crescem assim se o outro erro aponta para onde E aponta, e não se sabe. Em média a ímpar é "
            "zero.": odd * times + even * by,
            "a ímpar é do E que você mediu; a do outro formato ninguém sabe, e em média é zero.": odd + even * by,
            "você usou W − E como se fosse W + E: cada uma traz uma parte ímpar. A par é a média das duas.": (
                (minus - base) * by
            ),
            "você usou a parte ímpar, a que troca de sinal com E. A que não troca é a par.": odd * by,
            "a ímpar cresce com o erro, mas o sinal dela no outro formato não se sabe: em média é zero.": odd * times,
            "a parte par cresce com o quadrado do erro, não com ele.": even * times,
            "o quadrado é um só: par vezes (new_error / error) ao quadrado.": even * by**2,
            "falta corrigir pelo tamanho: o outro formato erra mais ou menos do que este.": even,
            "a razão dos erros está invertida: o formato que erra mais custa mais.": even / by,
            "essa é a constante do modelo, par / erro²: falta multiplicar pelo quadrado do erro novo.": even / error**2,
            "falta dividir pelo quadrado do erro que você mediu: a constante do modelo é par / erro².": even * new**2,
            "falta dividir por 2: L(W + E) e L(W − E) trazem a parte par uma vez cada um.": 2 * even * by,
            "você dividiu por 2 a mais: a média das duas perdas, menos L(W), já é a parte par.": even / 2 * by,
            "isso é a perda, e a pergunta é quanto ela sobe: tire L(W).": base + even * by,
            "esqueceu L(W): a parte par é o que a média das duas perdas tem a mais que ela.": (even + base) * by,
        }
        recognise(given, mistakes, partial(math.isclose, rel_tol=1e-3))
        raise Wrong(
            f"com L(W) = {base}, L(W + E) = {plus}, L(W − E) = {minus} e erro de {error} para {new} veio {given:.4f}.",
            "a parte par é a média de L(W + E) e L(W − E), menos L(W); ela vai com o quadrado do erro.",
        )
    return "a parte par, vezes o quadrado da razão dos erros. A sorte do outro formato ninguém sabe: dê uma faixa."
