"""Caderno 03: os bytes antes da primeira frase, as camadas que a volta atravessa, o maior lote que cabe."""

from ftcourse.exercises import Wrong, called, compare, equal, shown
from ftcourse.formats import scalar


def exercise_1(static_bytes):
    """`static_bytes(n, bytes_each, trained)` → os bytes de pesos, gradientes e otimizador, em float32 o que treina."""
    compare(
        static_bytes,
        ((1_000_000, 2, 50_000), (7_000_000, 4, 30_000), (3_000_000, 0.5, 1_000)),
        lambda n, each, trained: n * each + 16 * trained,
        {
            "faltam 4 bytes por parâmetro que treina: conte o peso, o gradiente e as duas médias do AdamW.": (
                lambda n, each, t: n * each + 12 * t
            ),
            "falta o otimizador: o AdamW guarda duas médias por parâmetro que treina.": (
                lambda n, each, t: n * each + 8 * t
            ),
            "faltam os gradientes e o otimizador: você contou só os pesos.": lambda n, each, t: n * each + 4 * t,
            "a base não treina: ela não tem gradiente nem otimizador.": lambda n, each, t: (each + 12) * n + 16 * t,
            "a base está congelada e só tem pesos, de bytes_each cada um; você deu a ela os 16 de quem treina.": (
                lambda n, each, t: 16 * (n + t)
            ),
            "isso conta o que treina, e falta a base.": lambda n, each, t: 16 * t,
            "o que treina está em float32: o peso e o gradiente dele têm 4 bytes, seja qual for bytes_each.": (
                lambda n, each, t: n * each + t * (2 * each + 8)
            ),
            "você somou os parâmetros, e não os bytes deles.": lambda n, each, t: n + t,
        },
        "separe em duas contas: a base, que só tem pesos, e o que treina, que tem quatro números por parâmetro.",
        same=equal,
    )
    return "isso. A base custa o que os pesos custam, e cada parâmetro que treina, 16 bytes."


def exercise_2(layers_crossed):
    """`layers_crossed(trained, layers)` → de quantas camadas a volta precisa das ativações."""
    compare(
        layers_crossed,
        (([0], 12), ([11], 12), ([9, 3], 12), ([], 6), ([2, 5, 4], 8), (list(range(6)), 6)),
        lambda trained, layers: layers - min(trained) if trained else 0,
        {
            "você contou quantas camadas treinam. A volta atravessa também as congeladas acima da mais funda.": (
                lambda trained, layers: len(trained)
            ),
            "você parou na camada mais alta que treina. A volta desce até a mais funda.": (
                lambda trained, layers: layers - max(trained) if trained else 0
            ),
            "a camada mais funda também guarda: conte-a.": (
                lambda trained, layers: layers - min(trained) - 1 if trained else 0
            ),
            "a volta vem de cima: você contou as camadas que ficam embaixo da mais funda.": (
                lambda trained, layers: min(trained) if trained else 0
            ),
            "você contou da mais funda à mais alta que treina. A volta vem da perda: o que está acima também conta.": (
                lambda trained, layers: max(trained) - min(trained) + 1 if trained else 0
            ),
            "se nada treina, não há volta: a resposta é 0.": lambda trained, layers: layers - min(trained, default=0),
        },
        "desenhe a pilha, com a perda em cima, e risque as camadas por onde o gradiente passa até a mais funda.",
        same=equal,
    )
    return "isso. Quem decide é a mais funda; as outras não mudam nada."


class Peak:
    """O pico de cada lote: `fixed` bytes com uma frase e `each` a mais por frase, e nunca menos que `floor`."""

    def __init__(self, fixed: float, each: float, floor: float = 0) -> None:
        self.fixed, self.each, self.floor, self.asked = fixed, each, floor, 0

    def __repr__(self) -> str:
        least = f", e nunca menos que {shown(self.floor)}" if self.floor else ""
        return f"{shown(self.fixed)} bytes para uma frase, mais {shown(self.each)} por frase{least}"

    def __call__(self, batch):
        self.asked += 1
        if self.asked > 10_000:
            raise Wrong("a sua função perguntou por mais de 10.000 lotes e não parou.")
        if (size := scalar(batch)) is None or size != int(size) or size < 0:
            raise Wrong(f"um lote é um número inteiro de frases, e a sua função pediu o pico de {shown(batch)}.")
        return max(self.floor, self.fixed + self.each * max(0, size - 1))

    def __deepcopy__(self, memo):  # ter sido perguntado não é ter mudado
        return self


def exercise_3(largest_batch):
    """`largest_batch(peak, capacity)` → o maior lote cujo pico cabe, ou 0."""

    def answer(function, peak, capacity):
        peak.asked = 0
        try:
            return called(function, peak, capacity)
        except Wrong as wrong:
            raise (wrong.__cause__ if isinstance(wrong.__cause__, Wrong) else wrong) from None

    def right(peak, capacity, strict=False):
        fits = [size for size in range(1, 500) if peak(size) < capacity or (peak(size) == capacity and not strict)]
        return fits[-1] if fits else 0

    compare(
        largest_batch,
        (
            (Peak(100, 30), 1000),
            (Peak(50, 10), 60),
            (Peak(80, 5), 40),
            (Peak(0, 7), 100),
            (Peak(90, 0.5), 99),
            (Peak(100, 3, floor=1000), 1300),
        ),
        right,
        {
            "esse é o primeiro que já não cabe. O que se pede é o de antes.": lambda *case: right(*case) + 1,
            "um pico igual à capacidade ainda cabe: compare com <=.": lambda *case: right(*case, strict=True),
            "quando nem uma frase cabe, a resposta é 0.": lambda *case: max(1, right(*case)),
            "você parou um antes: pergunte também pelo lote seguinte.": lambda *case: max(0, right(*case) - 1),
        },
        "comece em 0 e ande de um em um: enquanto o lote seguinte couber, ande.",
        value=answer,
        same=equal,
        differs=lambda case, came, wanted: (
            f"com um pico de {case[0]!r}, e capacidade de {shown(case[1])}, veio {shown(came)}."
        ),
    )
    return "isso. Com memory.plan no lugar de peak, é assim que se acha o lote de uma placa."
