"""O estilo único das figuras do curso e os gráficos que ele usa. Toda função recebe `ax=` ou cria a sua figura."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.scale import LinearScale, register_scale
from matplotlib.ticker import ScalarFormatter

from ftcourse.formats import number

# Okabe e Ito (2008), sem o laranja e o azul-claro, que sobre branco ficam abaixo do contraste 3:1
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")
DASHES = ("-", "--", "-.", ":")
STYLE = {
    "figure.figsize": (7.5, 4.2), "figure.dpi": 110, "figure.facecolor": "white", "figure.constrained_layout.use": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "axes.axisbelow": True,
    "axes.titlelocation": "left", "axes.titlesize": 14, "font.size": 14, "legend.frameon": False,
    "lines.linewidth": 2, "lines.markersize": 7, "svg.hashsalt": "ftcourse",
    "axes.prop_cycle": plt.cycler(color=COLORS[:4], linestyle=DASHES),
}  # fmt: skip


class Comma(ScalarFormatter):
    """Os números de um eixo, com a vírgula do curso: a do sistema só existe onde o português está instalado."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return super().__call__(x, pos).replace(".", ",")

    def get_offset(self) -> str:
        return super().get_offset().replace(".", ",")


class Linear(LinearScale):
    """A escala de todo eixo que não pede outra, também o segundo de uma figura e o de uma barra de cores."""

    def __init__(self, *before: Axis) -> None:  # até matplotlib 3.10 o eixo vem aqui; depois, não
        super().__init__(*before)

    def set_default_locators_and_formatters(self, axis: Axis) -> None:
        super().set_default_locators_and_formatters(axis)
        axis.set_major_formatter(Comma())


def axes(rows: int = 1, columns: int = 1, **options: Any) -> Any:
    """O eixo, ou a matriz de eixos, de uma figura nova no estilo do curso."""
    plt.rcParams.update(STYLE)
    register_scale(Linear)
    return plt.subplots(rows, columns, **options)[1]


def smooth(values: Sequence[float], width: int = 20) -> np.ndarray:
    """Média móvel dos últimos `width` valores, do mesmo tamanho que a entrada."""
    total = np.cumsum([0.0, *values])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(0, end - width)
    return (total[end] - total[start]) / (end - start)


def history(history: Any, ax: Axes | None = None, label: str | None = None) -> Axes:
    """A perda por passo, suavizada; se houve avaliações, em pontos, a perda ou, num segundo eixo, a acurácia nelas."""
    ax = axes() if ax is None else ax
    (line,) = ax.plot(range(1, len(history.loss) + 1), smooth(history.loss), label=label)
    ax.set(xlabel="passo", ylabel="perda no treino (nats)")
    steps = [e["step"] for e in history.evaluations]
    if steps and "accuracy" not in history.evaluations[0]:
        ax.plot(steps, [e["loss"] for e in history.evaluations], "o:", color=line.get_color(), alpha=0.7)
        ax.set(ylabel="perda no treino e, em pontos, na validação (nats)")
    elif steps:
        twin = ax.twinx()
        twin.plot(steps, [e["accuracy"] for e in history.evaluations], "o:", color=line.get_color(), alpha=0.7)
        twin.set(ylabel="acurácia na validação", ylim=(0.4, 1))
        twin.grid(False)
    return ax


def bars(
    labels: Sequence[str], values: Sequence[float], ax: Axes | None = None, unit: str = "", digits: int = 2
) -> Axes:
    """Barras deitadas com o valor escrito na ponta, a primeira em cima."""
    ax = axes(figsize=(7, 0.42 * len(labels) + 0.8)) if ax is None else ax
    drawn = ax.barh(labels, values, color=COLORS[0])
    ax.bar_label(drawn, [number(v, digits) + unit for v in values], padding=3)
    ax.invert_yaxis()
    ax.grid(False)
    ax.margins(x=0.15)
    return ax


def intervals(table: pd.DataFrame, names: dict[str, str], sources: dict[str, str], ax: Axes | None = None) -> Axes:
    """Um ponto por variante e fonte, com o intervalo de 95 %; pontilhada, a classe majoritária.

    table: o que benchmark.summary devolve. names e sources: {variante: nome} e {fonte: nome}, na ordem da figura.
    """
    names = {variant: name for variant, name in names.items() if variant in set(table["variant"])}
    ax = axes(figsize=(7.5, 0.5 * len(names) + 1.2)) if ax is None else ax
    for i, (source, label) in enumerate(sources.items()):
        rows = table[table["source"] == source].set_index("variant").loc[list(names)]
        heights = np.arange(len(names)) + 0.22 * (i - (len(sources) - 1) / 2)
        half = rows["accuracy_half"].fillna(0)
        ax.errorbar(rows["accuracy"], heights, xerr=half, fmt="os^"[i], color=COLORS[i], capsize=3, label=label)
    chance = table.loc[table["variant"] == "majority", "accuracy"].iloc[0]
    ax.axvline(chance, color="black", linewidth=1, linestyle=":")
    ax.set(yticks=range(len(names)), yticklabels=names.values(), xlabel="acurácia no teste")
    comma(ax.xaxis, 2)
    ax.invert_yaxis()
    if len(sources) > 1:
        ax.legend(loc="upper right")
    return ax


def memory(plans: Sequence[Any], names: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
    """Uma barra empilhada por plano de memória: parcelas em cores, tipos de ativação em tramas; o traço é o pico.

    plans: o que memory.plan devolve. names: como chamar cada um; sem eles, o nome de cada plano.
    """
    ax = axes(figsize=(8, 0.5 * len(plans) + 2.2)) if ax is None else ax
    unit, power = ("GB", 1e9) if max(plan.peak for plan in plans) > 1e9 else ("MB", 1e6)
    parts = list(dict.fromkeys(part for plan in plans for part in plan.parts()))
    whole = [part for part in parts if not part.startswith("ativações")]
    hatches = dict(zip([part for part in parts if part not in whole], ("", "//", "..", "\\\\", "xx", "++", "oo")))
    left = np.zeros(len(plans))
    for part in parts:
        widths = np.array([plan.parts().get(part, 0) / power for plan in plans])
        color = COLORS[3] if part in hatches else COLORS[{0: 0, 1: 1, 2: 2}.get(whole.index(part), 4)]
        ax.barh(
            range(len(plans)),
            widths,
            left=left,
            height=0.6,
            label=part,
            color=color,
            hatch=hatches.get(part),
            edgecolor="white",
        )
        left += widths
    peaks = [plan.peak / power for plan in plans]
    ax.plot(peaks, range(len(plans)), "k|", markersize=24, markeredgewidth=2.5, label="pico")
    ax.set(
        yticks=range(len(plans)),
        yticklabels=names or [plan.name for plan in plans],
        xlabel=f"memória em cada placa ({unit})",
    )
    comma(ax.xaxis, 0 if max(peaks) >= 5 else 1)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    figure: Any = ax.get_figure(root=True)
    height = ax.get_position().height * figure.get_figheight()
    below = -0.9 / height  # em polegadas, o lugar dos números do eixo e do nome dele
    ax.legend(loc="upper center", bbox_to_anchor=(0.4, below), ncols=2, fontsize="small")
    return ax


# ---------------------------------------------------------------- para projetar

PROJECTED = {  # 18 pontos são 24 px: a menor letra que se lê do fundo da sala
    "font.size": 18, "axes.titlesize": 18, "lines.linewidth": 3, "lines.markersize": 11, "axes.linewidth": 1.2,
    "xtick.major.size": 6, "ytick.major.size": 0, "legend.handlelength": 1.6,
}  # fmt: skip
SANS = ("Segoe UI", "Helvetica Neue", "Noto Sans", "Liberation Sans", "Arial", "DejaVu Sans")  # as de slides/tema.css


def projected(width: float, height: float) -> Axes:
    """O eixo de uma figura de slide, com o tamanho em px: o SVG entra no slide sem ser redimensionado."""
    ax = axes()  # restaura o estilo do curso antes de aumentar as letras
    plt.close(ax.figure)
    installed = set(font_manager.get_font_names())
    plt.rcParams.update(PROJECTED | {"font.family": [name for name in SANS if name in installed]})
    return plt.subplots(figsize=(width / 96, height / 96))[1]


def comma(axis: Axis, digits: int) -> None:
    """Num eixo, números com tantas casas depois da vírgula."""
    axis.set_major_formatter(lambda value, _: number(value, digits))


def marks(axis: Axis, values: Sequence[float]) -> None:
    """Num eixo, linear ou logarítmico, só estes valores, escritos por extenso: as taxas que se mediram, os tamanhos."""
    axis.set_ticks([*values], [number(value) for value in values])
    axis.minorticks_off()


def low_rank(d: int, r: int, ax: Axes | None = None) -> Axes:
    """ΔW (d × d), B (d × r) e A (r × d), em escala; tracejado, o lugar do produto BA, ao lado de B e sob A."""
    ax = axes(figsize=(7, 2.6)) if ax is None else ax
    left, gap = 1.75 * d, 0.05 * d
    for x, y, width, height, color, alpha in (
        (0, 0, d, d, COLORS[4], 0.12), (left, 0, r, d, COLORS[0], 1), (left + r + gap, d + gap, d, r, COLORS[1], 1),
    ):  # fmt: skip
        ax.add_patch(plt.Rectangle((x, y), width, height, facecolor=color, edgecolor="none", alpha=alpha))
    ax.add_patch(plt.Rectangle((left + r + gap, 0), d, d, fill=False, linestyle="--", edgecolor="gray"))
    ax.text(d / 2, d / 2, f"ΔW\n{d} × {d}", ha="center", va="center")
    ax.text(1.25 * d, d / 2, "=", ha="center", va="center", fontsize="xx-large")
    ax.text(left - gap, d / 2, f"B\n{d} × {r}", ha="right", va="center")
    ax.text(left + r + gap + d / 2, d / 2, "BA", ha="center", va="center")
    ax.text(left + r + 2 * gap + d, d + gap, f"A, {r} × {d}", va="center")
    ax.set(xlim=(-2, left + 1.65 * d), ylim=(-2, d + r + gap + 2), aspect="equal")
    ax.axis("off")
    return ax


def bottlenecks(ax: Axes | None = None) -> Axes:
    """Um bloco do BERT, de baixo para cima, com LoRA, com Houlsby e com Pfeiffer; em laranja, o que treina."""
    ax = axes(figsize=(9, 6)) if ax is None else ax

    def box(x, y, width, height, label="", **how):
        look = {"facecolor": "white", "edgecolor": "black", "zorder": 2} | how
        ax.add_patch(plt.Rectangle((x - width / 2, y), width, height, **look))
        ax.text(x, y + height / 2, label, ha="center", va="center", fontsize=12, zorder=3)

    def hourglass(x, y):
        half = np.array([(0.75, 0), (0.2, 0.5), (0.75, 1)])
        outline = np.array([x, y]) + np.vstack([half, half[::-1] * (-1, 1)])
        ax.add_patch(plt.Polygon(outline, facecolor=COLORS[1], zorder=2))

    for column, (title, after) in enumerate({"LoRA": (), "Houlsby": (0, 1), "Pfeiffer": (1,)}.items()):
        x = 4.2 * column
        tip = {"arrowstyle": "-|>", "color": "black", "shrinkB": 0}
        ax.annotate("", (x, 10), (x, -0.2), arrowprops=tip, zorder=1)
        for i, part in enumerate(("atenção", "feed-forward")):
            y = 0.7 + 4.8 * i
            box(x, y, 2.4, 0.9, part)
            ax.plot([x, x - 1.6, x - 1.6, x], [y - 0.4, y - 0.4, y + 2.8, y + 2.8], "k-", linewidth=1, zorder=1)
            ring = {"boxstyle": "circle,pad=0.15", "facecolor": "white"}
            ax.text(x, y + 2.8, "+", ha="center", va="center", fontsize=13, bbox=ring, zorder=3)
            box(x, y + 3.4, 1.3, 0.6, "LN")
            if i in after:
                hourglass(x, y + 1.3)
            if not after:
                box(x + 1.45, y, 0.25, 0.9, facecolor=COLORS[1], edgecolor="none")
        if title != "LoRA":
            ax.text(x + 0.95, 7.3, "lê u" if title == "Houlsby" else "lê\nLN(x + u)", va="center", fontsize=12)
        ax.text(x, 10.4, title, ha="center", fontsize=14)
    ax.set(xlim=(-2, 11.2), ylim=(-0.4, 11.1), aspect="equal")
    ax.axis("off")
    return ax


def bias_and_scale(ax: Axes | None = None) -> Axes:
    """Um bloco do BERT: embaixo de cada peça o viés que BitFit treina, + b; nas setas, os três vetores de IA³, × l."""
    ax = axes(figsize=(7.5, 2.9)) if ax is None else ax
    places = [("Q", 0, 2), ("K", 0, 1), ("V", 0, 0), ("softmax", 2, 1.5), ("O", 4, 0.75),
              ("normali-\nzação", 5.4, 0.75), ("W₁", 6.8, 0.75), ("GELU", 8.1, 0.75), ("W₂", 9.9, 0.75),
              ("normali-\nzação", 11.3, 0.75)]  # fmt: skip
    arrows = [(0, 3, ""), (1, 3, "× l"), (3, 4, ""), (2, 4, "× l"), (4, 5, ""), (5, 6, ""), (6, 7, ""), (7, 8, "× l"),
              (8, 9, "")]  # fmt: skip
    for name, x, y in places:
        small = len(name) > 6
        ax.text(x, y, name, ha="center", va="center", fontsize=8 if small else 11,
                bbox={"boxstyle": "round", "facecolor": "#EEEEEE", "edgecolor": "gray"})  # fmt: skip
        if name not in ("softmax", "GELU"):
            ax.text(x, y - 0.52, "+ b", ha="center", va="center", color=COLORS[0], weight="bold")
    for start, end, mark in arrows:
        (before, x0, y0), (after, x1, y1) = places[start], places[end]
        wide = {name: 26 if len(name) > 2 else 14 for name in (before, after)}
        tip = {"arrowstyle": "->", "color": "gray", "shrinkA": wide[before], "shrinkB": wide[after]}
        ax.annotate("", (x1, y1), (x0, y0), arrowprops=tip)
        x, y = (x0 + x1) / 2 - 0.3 * (end < 5), (y0 + y1) / 2 + 0.02
        white = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        ax.text(x, y, mark, ha="center", va="center", color=COLORS[1], weight="bold", bbox=white if mark else None)
    ax.set(xlim=(-0.5, 12), ylim=(-0.8, 2.4))
    ax.axis("off")
    return ax


def rates(table: pd.DataFrame, names: dict[str, str], ax: Axes | None = None) -> Axes:
    """Acurácia contra taxa de aprendizado, uma linha por técnica; o anel marca a melhor.

    table: o que benchmark.swept devolve. names: {variante: nome}, das que se mostram.
    """
    ax = axes() if ax is None else ax
    for i, (variant, name) in enumerate(names.items()):
        curve = table[table["variant"] == variant].set_index("lr")["accuracy"]
        best = curve.idxmax()
        ax.plot(curve.index, curve, marker="os^"[i], label=name)
        ax.plot(best, curve[best], "o", markersize=24, markerfacecolor="none", color=COLORS[i], markeredgewidth=2)
    ax.set(xscale="log", xlabel="taxa de aprendizado", ylabel="acurácia na validação")
    comma(ax.yaxis, 2)
    marks(ax.xaxis, sorted(set(table.loc[table["variant"].isin(names), "lr"])))
    ax.margins(0.08, 0.2)
    ax.legend(loc="lower left")
    return ax


def pareto(table: pd.DataFrame, front: Sequence[str], ax: Axes | None = None) -> Axes:
    """Um ponto por técnica, o que rende contra o que custa, com o intervalo de 95 %; a escada é a fronteira de Pareto.

    table: uma linha por técnica, com o nome como índice e as colunas cost, value e half. Sem value, o custo é uma linha
    cinzenta, porque falta medir o que ela rende; sem cost, ela não aparece. front: os nomes da fronteira.
    """
    known = table.dropna(subset=["cost", "value"]).sort_values("value", ascending=False)
    ax = axes(figsize=(9, 0.25 * len(known) + 2.6)) if ax is None else ax
    for cost in table.loc[table["value"].isna(), "cost"].dropna():
        ax.axvline(cost, color="gray", linewidth=1, linestyle=":")
    if known.empty:
        ax.text(0.5, 0.5, "ainda a medir", ha="center", va="center", transform=ax.transAxes)
        ax.set(xticks=[], yticks=[])
        return ax
    ends = known.loc[[*front]].sort_values("cost")
    ax.step(ends["cost"], ends["value"], where="post", color=COLORS[1], linestyle="-", linewidth=1.5, zorder=1)
    slots = np.linspace(1, 0, len(known) + 2)[1:-1] if len(known) < 6 else np.linspace(1, 0, len(known))
    for (name, row), slot in zip(known.iterrows(), slots):
        color, marker = (COLORS[1], "s") if name in front else (COLORS[0], "o")
        ax.errorbar(row["cost"], row["value"], yerr=row["half"], fmt=marker, color=color, capsize=3)
        line = {"arrowstyle": "-", "color": "gray", "linewidth": 0.6}
        ax.annotate(
            str(name), (row["cost"], row["value"]), (1.03, slot), textcoords="axes fraction", va="center", fontsize=11,
            arrowprops=line,
        )  # fmt: skip
    comma(ax.yaxis, 2 if known["value"].max() <= 1 else 0)
    return ax


def found(table: pd.DataFrame, names: dict[str, str], ax: Axes | None = None) -> Axes:
    """Um ponto por tipo de falha e técnica: a fração que ela acusa. Uma linha separa a última, o alarme falso.

    table: DataFrame com os tipos nas linhas e uma coluna por variante. names: {variante: nome}.
    """
    ax = axes(figsize=(7, 0.5 * len(table) + 1)) if ax is None else ax
    heights = np.arange(len(table))
    ax.hlines(heights, table.min(axis=1), table.max(axis=1), color="black", linewidth=1.5)
    for i, (variant, name) in enumerate(names.items()):
        ax.plot(table[variant], heights, "os^"[i], color=COLORS[i], label=name)
    ax.axhline(len(table) - 1.5, color="black", linewidth=1, linestyle=":")
    ax.set(yticks=heights, yticklabels=table.index, xlim=(0, 1), xlabel="fração acusada")
    comma(ax.xaxis, 1)
    ax.invert_yaxis()
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=len(names))
    return ax


def virtual_tokens(ax: Axes | None = None, p: int = 3, T: int = 5, layers: int = 3) -> Axes:
    """Onde entram os tokens virtuais: no prompt, p vetores na entrada; no prefixo, chaves e valores em cada camada.

    Uma coluna por posição, a entrada embaixo: cheio, o que treina; claro, o que se calcula dele; cinza, o texto.
    """
    ax = axes(figsize=(8, 3.6)) if ax is None else ax
    kinds = {"treina": (COLORS[1], 1), "calculado a partir do que treina": (COLORS[1], 0.3), "texto": (COLORS[4], 0.15)}
    labels = dict(kinds)
    for panel, title in enumerate(("prompt tuning", "prefix tuning")):
        left = panel * (p + T + 2)
        for row in range(layers + 1):
            for column in range(p + T):
                kind = (
                    "texto"
                    if column >= p
                    else "treina"
                    if bool(row) == bool(panel)
                    else "calculado a partir do que treina"
                )
                if panel and not row and column < p:  # na entrada não há prefixo
                    continue
                color, alpha = kinds[kind]
                box = plt.Rectangle(
                    (left + column, row * 1.3), 0.85, 0.9, facecolor=color, alpha=alpha, edgecolor="none"
                )
                box.set_label(kind if labels.pop(kind, None) else None)
                ax.add_patch(box)
        ax.text(left, layers * 1.3 + 1.15, title)
    for row in range(layers + 1):
        ax.text(
            -0.4, row * 1.3 + 0.45, f"camada {row}" if row else "entrada", ha="right", va="center", fontsize="small"
        )
    ax.set(xlim=(-3.2, 2 * (p + T) + 2.2), ylim=(-0.3, layers * 1.3 + 1.9))
    ax.axis("off")
    ax.legend(loc="upper center", bbox_to_anchor=(0.55, 0.02), ncols=3, fontsize="small")
    return ax
