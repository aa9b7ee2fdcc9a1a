"""Caderno 07: os bytes de um treino com QLoRA, a volta da camada inteira, quanto falta para um código mudar."""

import torch

from ftcourse.exercises import compare, returned, shown, tensor
from ftcourse.nf4 import TABLE


def exercise_1(qlora_bytes):
    """`qlora_bytes(linear, rest, adapter)` → os bytes de pesos, gradientes e AdamW, sem ativações."""

    def count(linear, rest, adapter, bits=4.127, kept=4, trained=16):
        return bits / 8 * linear + kept * rest + trained * adapter

    mistakes = {
        "faltaram as constantes dos blocos: além do código de 4 bits, cada peso paga a sua parte do absmax.": (
            lambda n, k, t: count(n, k, t, bits=4)
        ),
        "essas são as constantes sem a dupla quantização. O enunciado diz quantos bits são com ela.": (
            lambda n, k, t: count(n, k, t, bits=4.5)
        ),
        "os pesos das matrizes entraram em bits, e a conta é em bytes.": lambda n, k, t: count(n, k, t, bits=4.127 * 8),
        "as matrizes entraram com o tamanho que tinham antes dos 4 bits.": lambda n, k, t: count(n, k, t, bits=16),
        "as matrizes entraram em float32: elas estão nos 4 bits.": lambda n, k, t: count(n, k, t, bits=32),
        "faltou o que fica fora dos 4 bits.": lambda n, k, t: count(n, k, t, kept=0),
        "o que fica fora dos 4 bits está em float32 depois de prepare_model_for_kbit_training.": (
            lambda n, k, t: count(n, k, t, kept=2)
        ),
        "o que fica fora dos 4 bits está congelado: não tem gradiente nem otimizador.": (
            lambda n, k, t: count(n, k, t, kept=16)
        ),
        "as matrizes em 4 bits estão congeladas: não têm gradiente nem otimizador.": (
            lambda n, k, t: count(n, k, t, bits=4.127 + 96)
        ),
        "do adaptador só entraram os números: o que treina guarda mais coisas.": (
            lambda n, k, t: count(n, k, t, trained=4)
        ),
        "faltou o otimizador do adaptador.": lambda n, k, t: count(n, k, t, trained=8),
        "faltou o gradiente do adaptador.": lambda n, k, t: count(n, k, t, trained=12),
        "falta alguma coisa do adaptador, ou ele entrou em 16 bits: AdamW guarda duas médias por número.": (
            lambda n, k, t: count(n, k, t, trained=10)
        ),
        "faltou o adaptador.": lambda n, k, t: count(n, k, t, trained=0),
    }
    compare(
        qlora_bytes,
        ((6_476_005_376, 262_410_240, 39_976_960), (1_000, 500, 80), (64_000, 7, 1_024)),
        count,
        mistakes,
        "faça três parcelas, uma para cada argumento, e pergunte de cada uma: quantos bytes por número, e treina?",
    )
    return "no de 7 bilhões são perto de 5 GB, e no ajuste completo seriam 108. As ativações ficam por conta do lote."


def exercise_2(grad_of_x):
    """`grad_of_x(grad, W_hat, A, B, s)` → o gradiente da entrada de uma camada com LoRA, (n, d_in)."""
    generator = torch.Generator().manual_seed(0)
    cases = [
        (*(torch.randn(size, generator=generator) for size in ((n, out), (out, into), (r, into), (out, r))), s)
        for n, out, into, r, s in ((3, 4, 5, 2, 2.0), (2, 6, 6, 6, 0.5), (5, 3, 7, 1, 4.0))
    ]

    def right(grad, W_hat, A, B, s):
        return grad @ W_hat + s * (grad @ B) @ A

    def value(function, *case):
        return tensor(returned(function, *case), (len(case[0]), case[1].shape[1]), ", a de x")

    mistakes = {
        "falta o caminho de LoRA: x passou também por A e B.": lambda g, W, A, B, s: g @ W,
        "falta o caminho da base: Ŵ não treina, mas o gradiente passa por ele.": lambda g, W, A, B, s: s * g @ B @ A,
        "falta a escala no caminho de LoRA.": lambda g, W, A, B, s: g @ W + g @ B @ A,
        "a escala é só do caminho de LoRA.": lambda g, W, A, B, s: s * (g @ W + g @ B @ A),
        "na volta também se multiplica pela escala: você dividiu.": lambda g, W, A, B, s: g @ W + g @ B @ A / s,
        "a escala entrou duas vezes: h a tem uma só.": lambda g, W, A, B, s: g @ W + s**2 * g @ B @ A,
        "os dois caminhos se somam, e você subtraiu.": lambda g, W, A, B, s: g @ W - s * g @ B @ A,
    }
    compare(
        grad_of_x,
        cases,
        right,
        mistakes,
        "faça a volta de cada caminho sozinho, com as formas ao lado, e some.",
        value=value,
        same=lambda one, other: torch.allclose(one, other, atol=1e-4, rtol=1e-4),
        differs=lambda case, came, expected: (
            f"com Ŵ de {case[1].shape[0]} × {case[1].shape[1]}, a resposta difere em até "
            f"{shown((came - expected).abs().max())}."
        ),
    )
    return "é por esse caminho, e não por um gradiente de Ŵ, que as camadas de baixo aprendem."


def exercise_3(smallest_push):
    """`smallest_push(table, code, absmax)` → o menor |δ| que leva um peso de Ŵ a uma fronteira da tabela."""

    def sides(table, code):
        values = [float(value) for value in table]
        return [abs(values[code] - values[n]) for n in (code - 1, code + 1) if 0 <= n < len(values)]

    def wrapped(table, code, absmax):  # table[-1] é o último: o vizinho de baixo do primeiro seria o de cima
        values = [float(value) for value in table]
        return min(values[code] - values[code - 1], values[(code + 1) % len(values)] - values[code]) / 2 * absmax

    def only(step):
        def push(table, code, absmax):
            values = [float(value) for value in table]
            other = min(max(code + step, 0), len(values) - 1)
            return abs(values[other] - values[code]) / 2 * absmax

        return push

    mistakes = {
        "essa é a distância até o vizinho: a fronteira fica antes dele.": lambda t, c, m: min(sides(t, c)) * m,
        "faltou o absmax: a tabela vai de −1 a 1, e o peso não.": lambda t, c, m: min(sides(t, c)) / 2,
        "você dividiu pelo absmax: δ está na unidade do peso.": lambda t, c, m: min(sides(t, c)) / 2 / m,
        "esse é o lado mais difícil: dos dois vizinhos, o mais próximo é o que muda primeiro.": (
            lambda t, c, m: max(sides(t, c)) / 2 * m
        ),
        "é a média dos dois lados: um deles é mais perto.": lambda t, c, m: sum(sides(t, c)) / len(sides(t, c)) / 2 * m,
        "só o vizinho de cima entrou: olhe também o de baixo.": only(1),
        "só o vizinho de baixo entrou: olhe também o de cima.": only(-1),
        "a tabela não é igualmente espaçada: a distância entre vizinhos depende do código.": (
            lambda t, c, m: 2 / (len(t) - 1) / 2 * m
        ),
        "num dos extremos da tabela veio um vizinho que não existe: em Python, o índice −1 é o último.": wrapped,
    }
    compare(
        smallest_push,
        tuple((TABLE.clone(), code, absmax) for code, absmax in ((7, 0.5), (0, 2.0), (15, 0.25), (3, 1.5), (12, 3.0))),
        lambda t, c, m: min(sides(t, c)) / 2 * m,
        mistakes,
        "ponha no papel os três valores, o do código e os dois vizinhos, e marque as fronteiras.",
    )
    return "um ΔW menor que isso, elemento por elemento, não muda código nenhum. Foi o que a entrega 4 mostrou."
