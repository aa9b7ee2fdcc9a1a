"""Caderno 10: os vieses de K que se podem apagar, os vetores de IA³ num T5, o que V tem de seu posto em O."""

from functools import partial

import torch

from ftcourse.exercises import UNKNOWN, Wrong, compare, kind, returned, shown, tensor

MODELS = ("BERT", "GPT-2", "T5", "Qwen2", "BLOOM")  # os da tabela do exercício 1
TURNING = {"Qwen2"}  # o que faz com K uma conta que depende da posição


def exercise_1(answer):
    """Os modelos da tabela em que apagar os vieses de K não muda resposta nenhuma, em qualquer ordem."""
    if isinstance(answer, str) or not isinstance(answer, (list, tuple, set, frozenset)):
        raise Wrong(f"a resposta é uma lista de nomes da tabela, e veio {kind(answer)}.")
    if strange := [name for name in answer if not isinstance(name, str) or name not in MODELS]:
        raise Wrong(f"{shown(strange[0])} não está na tabela. Os nomes dela são {', '.join(MODELS)}.")
    given, right = {*answer}, {*MODELS} - TURNING
    if given == right:
        return "o que decide é se a parcela q·b é a mesma para todos os tokens que se comparam, e só o giro a desfaz."
    if not given:
        raise Wrong("a lista está vazia: em pelo menos um deles você já mediu que os vieses de K não mudam nada.")
    if given == {*MODELS}:
        raise Wrong("todos não: em qual deles o que se faz com a posição acontece depois que o viés entrou em K?")
    if given == TURNING:
        raise Wrong("está ao contrário: a pergunta é onde o viés se apaga, e não onde ele conta.")
    if "BERT" not in given:
        raise Wrong("a seção 3 mediu o BERT: some-se o que for aos vieses de K dele, as respostas são as mesmas.")
    if "T5" not in given:
        raise Wrong("a seção 3 mediu o T5 com vieses novos. Quanto as respostas dele mudaram?")
    if given >= TURNING:
        raise Wrong("num dos que você pôs, K gira de um ângulo que depende da posição, e o viés gira junto.")
    if "GPT-2" not in given:
        raise Wrong("um vetor de posição somado à entrada muda k. Muda b? A parcela q·b depende de qual token é?")
    raise Wrong(
        f"{UNKNOWN} O que se soma à nota por causa da distância, com ou sem viés, é o mesmo. A pergunta é só de q·b: "
        "ela muda de um token comparado para outro?"
    )


def exercise_2(ia3_vectors):
    """`ia3_vectors(layers, heads, d_kv, d_ff)` → quantos números IA³ treina num T5 de tantos blocos de cada lado."""

    def count(layers, heads, d_kv, d_ff, encoder=1, decoder=1, attentions=3, vectors=2, down=2):
        inner = heads * d_kv
        return layers * (attentions * vectors * inner + down * d_ff)

    mistakes = {
        "faltou a atenção cruzada: cada bloco do decodificador tem duas atenções.": partial(count, attentions=2),
        "esse é só o codificador.": partial(count, attentions=1, down=1),
        "esse é só o decodificador.": partial(count, attentions=2, down=1),
        "a atenção cruzada tem as chaves e os valores dela, e não tem um feed-forward dela.": partial(count, down=3),
        "faltou o vetor do feed-forward de cada bloco.": partial(count, down=0),
        "faltou o feed-forward de um dos lados.": partial(count, down=1),
        "cada atenção tem dois vetores, um em K e um em V.": partial(count, vectors=1),
        "na atenção são K e V: a consulta e a volta ficam sem vetor.": partial(count, vectors=4),
        "a consulta não tem vetor.": partial(count, vectors=3),
        "a largura de K é a das cabeças juntas, e não a de uma cabeça.": lambda n, a, k, f: n * (6 * k + 2 * f),
        "cada cabeça tem d_kv números: o número de cabeças sozinho não é uma largura.": lambda n, a, k, f: (
            n * (6 * a + 2 * f)
        ),
        "faltou multiplicar pelos blocos.": lambda n, a, k, f: 6 * a * k + 2 * f,
        "o feed-forward também se repete em cada bloco.": lambda n, a, k, f: 6 * n * a * k + 2 * f,
        "o vetor do feed-forward está na entrada da volta, que tem d_ff números. Na saída ela tem outra largura.": (
            lambda n, a, k, f: 8 * n * a * k
        ),
    }
    compare(
        ia3_vectors,
        ((4, 4, 64, 672), (6, 8, 64, 2048), (2, 3, 16, 40), (24, 16, 128, 16384)),
        count,
        mistakes,
        "faça a conta de um bloco do codificador, depois a de um do decodificador: quantas atenções tem cada um, e que "
        "largura têm K e V?",
    )
    return "dois por atenção, um por feed-forward. É a conta que dá a fração de 0,01 % que o artigo de IA³ promete."


def exercise_3(absorb):
    """`absorb(W_o, b_o, b_v, l_v)` → (peso, viés) da camada O que responde o mesmo sem o viés e sem o vetor de V."""
    generator = torch.Generator().manual_seed(0)
    cases = [
        tuple(torch.randn(size, generator=generator) for size in ((n, m), (n,), (m,), (m,)))
        for n, m in ((5, 3), (4, 4), (2, 6))
    ]

    def pair(function, W_o, b_o, b_v, l_v):
        came = returned(function, W_o, b_o, b_v, l_v)
        if not isinstance(came, (tuple, list)) or len(came) != 2:
            raise Wrong(f"a resposta são dois tensores, o peso e o viés da camada O, e veio {kind(came)}.")
        return tensor(came[0], W_o.shape, ", a de W_o"), tensor(came[1], b_o.shape, ", a de b_o")

    def right(W_o, b_o, b_v, l_v):
        return W_o * l_v, b_o + W_o @ (l_v * b_v)

    def alike(one, other):
        return all(torch.allclose(a, b, atol=1e-4, rtol=1e-4) for a, b in zip(one, other))

    mistakes = {
        "o vetor multiplica também o viés de V, e no seu b_o ele entrou sem isso.": lambda W, b, v, s: (
            W * s,
            b + W @ v,
        ),
        "no seu b_o o vetor entrou duas vezes: o peso que o levou ao novo viés já estava multiplicado.": (
            lambda W, b, v, s: (W * s, b + (W * s) @ (s * v))
        ),
        "falta somar o viés que O já tinha.": lambda W, b, v, s: (W * s, W @ (s * v)),
        "o peso ficou como era: falta pôr nele o vetor.": lambda W, b, v, s: (W, b + W @ (s * v)),
        "o viés de O ficou como era: falta levar até ele o de V.": lambda W, b, v, s: (W * s, b),
        "você dividiu pelo vetor: quem o absorve multiplica.": lambda W, b, v, s: (W / s, b + W @ (s * v)),
    }
    compare(
        absorb,
        cases,
        right,
        mistakes,
        "escreva o que O recebe, a média dos l_v ⊙ (v + b_v), e separe o que multiplica v do que não tem v.",
        value=pair,
        same=alike,
        differs=lambda case, came, expected: (
            f"com W_o de {case[0].shape[0]} × {case[0].shape[1]}, "
            + (
                "o peso está certo, e o viés difere em até " + shown((came[1] - expected[1]).abs().max())
                if alike(came[:1], expected[:1])
                else "o peso difere em até " + shown((came[0] - expected[0]).abs().max())
            )
            + "."
        ),
    )
    return "o peso de O leva o vetor nas colunas, e o viés leva o de V. Na camada V não resta viés nem vetor."
