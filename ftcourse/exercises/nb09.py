"""Caderno 09: a taxa que deixa um prompt andar, os números de um prefixo, a atenção com prefixo em duas partes."""

import torch

from ftcourse.exercises import compare, returned, tensor
from ftcourse.training import schedule


def walk(steps, first=0):
    """Quantas taxas inteiras cabem num treino: a soma do cronograma, com o aquecimento do curso."""
    return sum(schedule(step, steps, 0.1) for step in range(first, first + steps))


def exercise_1(peak):
    """`peak(size, times, steps)` → a taxa do pico com que um número anda, no máximo, times × size."""
    mistakes = {
        "isso serve a um cronograma em que todo passo tem a taxa do pico. Aqui ela sobe e desce.": (
            lambda size, times, steps: size * times / steps
        ),
        "você tomou o cronograma como um triângulo perfeito. É quase isso: some o que ele vale em cada passo.": (
            lambda size, times, steps: 2 * size * times / steps
        ),
        "isso é para chegar lá num passo só.": lambda size, times, steps: size * times,
        "falta times: essa taxa deixa andar uma vez o tamanho.": lambda size, times, steps: size / walk(steps),
        "falta size: quanto se anda se mede em relação ao tamanho dos números.": (
            lambda size, times, steps: times / walk(steps)
        ),
        "você dividiu por times: quem quer ir mais longe precisa de uma taxa maior.": (
            lambda size, times, steps: size / times / walk(steps)
        ),
        "você dividiu por size: números maiores pedem uma taxa maior.": (
            lambda size, times, steps: times / size / walk(steps)
        ),
        "está de cabeça para baixo: quanto mais passos, menor a taxa de que se precisa.": (
            lambda size, times, steps: walk(steps) / (size * times)
        ),
        "você multiplicou pela soma: cada passo a mais deixa a taxa ser menor.": (
            lambda size, times, steps: size * times * walk(steps)
        ),
        "o primeiro passo é o 0 e o último, steps − 1: você somou de 1 a steps.": (
            lambda size, times, steps: size * times / walk(steps, first=1)
        ),
        "você usou a média do cronograma, e o que se anda é a soma.": (
            lambda size, times, steps: size * times / (walk(steps) / steps)
        ),
        "times multiplica size. Você os somou.": lambda size, times, steps: (size + times) / walk(steps),
    }
    compare(
        peak,
        ((0.94, 1.0, 100), (0.11, 3.0, 300), (1.5, 0.5, 40)),
        lambda size, times, steps: size * times / walk(steps),
        mistakes,
        "em cada passo se anda, no máximo, a taxa daquele passo: a do pico vezes o que o cronograma vale nele.",
    )
    return "a soma do cronograma é quase metade dos passos: é ela que diz se uma taxa tem como chegar longe."


def exercise_2(prefix_size):
    """`prefix_size(p, layers, heads, kv_heads, head_dim, encoder_decoder)` → quantos números um prefixo treina."""
    mistakes = {
        "faltam os valores: cada token virtual tem, em cada atenção, uma chave e um valor.": (
            lambda p, L, h, kv, d, two: p * L * kv * d * (3 if two else 1)
        ),
        "você contou as cabeças de consulta. Quem recebe o prefixo são as chaves e os valores, que podem ter menos.": (
            lambda p, L, h, kv, d, two: 2 * p * L * h * d * (3 if two else 1)
        ),
        "com codificador e decodificador, falta a atenção cruzada: cada bloco do decodificador tem duas atenções.": (
            lambda p, L, h, kv, d, two: 2 * p * L * kv * d * (2 if two else 1)
        ),
        "isso é o que peft põe num codificador-decodificador: uma atenção por camada. São mais.": (
            lambda p, L, h, kv, d, two: 2 * p * L * kv * d
        ),
        "você multiplicou por três também o modelo de uma pilha só, que tem uma atenção por bloco.": (
            lambda p, L, h, kv, d, two: 2 * p * L * kv * d * 3
        ),
        "falta p: isso é o que um token virtual leva.": lambda p, L, h, kv, d, two: 2 * L * kv * d * (3 if two else 1),
        "falta multiplicar pelas camadas: o prefixo está em todas.": (
            lambda p, L, h, kv, d, two: 2 * p * kv * d * (3 if two else 1)
        ),
        "falta head_dim: essa conta dá um número por cabeça.": (
            lambda p, L, h, kv, d, two: 2 * p * L * kv * (3 if two else 1)
        ),
        "falta kv_heads: essa conta é de uma cabeça só.": lambda p, L, h, kv, d, two: 2 * p * L * d * (3 if two else 1),
        "isso é o que um prompt treina, uma linha por token na entrada. O prefixo está em cada atenção.": (
            lambda p, L, h, kv, d, two: p * h * d
        ),
        "você somou consultas, chaves e valores. As consultas são do texto, e só dele.": (
            lambda p, L, h, kv, d, two: 3 * p * L * kv * d * (3 if two else 1)
        ),
    }
    compare(
        prefix_size,
        ((20, 4, 4, 4, 64, True), (5, 3, 8, 2, 16, False), (7, 2, 6, 3, 32, True)),
        lambda p, L, h, kv, d, two: 2 * p * L * kv * d * (3 if two else 1),
        mistakes,
        "conte as atenções, e depois o que um token virtual leva em cada uma.",
    )
    return "duas linhas por token em cada atenção, da largura das chaves. No mini-T5 com p = 20, são 122.880."


def join(share, mix=lambda share, prefix, text: share * prefix + (1 - share) * text):
    """A saída de quem reparte a atenção de outro jeito; share(nota do prefixo, nota do texto) → (T, 1)."""
    return lambda prefix, prefix_score, text, text_score: mix(
        share(prefix_score[:, None], text_score[:, None]), prefix, text
    )


def exercise_3(attend):
    """`attend(prefix, prefix_score, text, text_score)` → a saída da atenção com as duas partes juntas, (T, d)."""
    generator = torch.Generator().manual_seed(0)
    cases = []
    for T, d, shift in ((4, 3, 0.0), (3, 5, 2.0), (2, 4, 120.0)):
        outputs = [torch.randn(T, d, generator=generator) for _ in range(2)]
        scores = [torch.randn(T, generator=generator) + shift for _ in range(2)]
        cases.append((outputs[0], scores[0], outputs[1], scores[1]))

    def output(function, prefix, prefix_score, text, text_score):
        came = returned(function, prefix, prefix_score, text, text_score)
        return tensor(came, prefix.shape, ", uma linha por token do texto")

    def right(p, t):
        return torch.sigmoid(p - t)

    mistakes = {
        "as partes estão trocadas: λ é a do prefixo.": join(lambda p, t: 1 - right(p, t)),
        "meio a meio: quanto vai para cada lado está nas notas.": join(lambda p, t: 0.5 + 0 * p),
        "as notas são logaritmos: antes de comparar, passe-as por exp.": join(lambda p, t: p / (p + t)),
        "você somou as duas saídas: cada uma já é uma média, e a soma dos pesos tem de dar 1.": join(
            lambda p, t: torch.ones_like(p), lambda share, prefix, text: prefix + text
        ),
        "você deu o mesmo λ a todos os tokens, e cada um olha para o prefixo quanto quer.": (
            lambda prefix, p, text, t: right(p.mean(), t.mean()) * prefix + (1 - right(p.mean(), t.mean())) * text
        ),
        "o softmax ficou ao longo dos tokens: são as duas notas de cada token que se comparam.": (
            lambda prefix, p, text, t: p.softmax(0)[:, None] * prefix + t.softmax(0)[:, None] * text
        ),
        "você escolheu, em cada token, a parte de nota maior. A atenção mistura.": join(lambda p, t: (p > t).float()),
        "só a parte do texto veio: falta a do prefixo.": join(lambda p, t: 0 * p),
        "só a parte do prefixo veio: falta a do texto.": join(lambda p, t: 1 + 0 * p),
        "λ multiplica a saída do prefixo, e falta o que resta, 1 − λ, na do texto.": join(
            right, lambda share, prefix, text: share * prefix + text
        ),
        "o prefixo foi somado, e não misturado: quem olha para ele deixa de olhar para o texto.": join(
            right, lambda share, prefix, text: prefix + (1 - share) * text
        ),
    }
    compare(
        attend,
        cases,
        join(right),
        mistakes,
        "quanto de exp(nota do prefixo) há em exp(nota do prefixo) + exp(nota do texto)? Com notas grandes a exp passa "
        "do limite, e a diferença entre as notas não.",
        value=output,
        same=lambda one, other: torch.allclose(one, other, atol=1e-5),
        differs=lambda case, came, expected: (
            f"com {len(came)} tokens, o primeiro que difere é o "
            f"{int((came - expected).abs().amax(1).gt(1e-5).int().argmax())}, contado de 0. De que notas é o λ dele?"
        ),
    )
    return "a atenção com prefixo é uma média de duas: a do texto, como era, e a do prefixo, com a parte λ."
