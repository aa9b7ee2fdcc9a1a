"""O estilo único das figuras do curso e os gráficos que ele usa. Toda função recebe `ax=` ou cria a sua figura."""

import matplotlib.pyplot as plt
import numpy as np

# Okabe e Ito (2008), sem o laranja e o azul-claro, que sobre branco ficam abaixo do contraste 3:1
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")
DASHES = ("-", "--", "-.", ":")
STYLE = {
    "figure.figsize": (7, 3.6), "figure.dpi": 110, "figure.facecolor": "white", "figure.constrained_layout.use": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "axes.axisbelow": True,
    "axes.titlelocation": "left", "axes.titlesize": 12, "font.size": 11, "legend.frameon": False,
    "svg.hashsalt": "ftcourse",
    "axes.prop_cycle": plt.cycler(color=COLORS[:4], linestyle=DASHES),
}  # fmt: skip


def axes(rows=1, columns=1, **options):
    """O eixo, ou a matriz de eixos, de uma figura nova no estilo do curso."""
    plt.rcParams.update(STYLE)
    return plt.subplots(rows, columns, **options)[1]


def smooth(values, width=20):
    """Média móvel dos últimos `width` valores, do mesmo tamanho que a entrada."""
    total = np.cumsum([0.0, *values])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(0, end - width)
    return (total[end] - total[start]) / (end - start)


def history(history, ax=None, label=None):
    """A perda por passo, suavizada; se houve avaliações, a acurácia na validação num segundo eixo, em pontos."""
    ax = axes() if ax is None else ax
    (line,) = ax.plot(range(1, len(history.loss) + 1), smooth(history.loss), label=label)
    ax.set(xlabel="passo", ylabel="perda no treino (nats)")
    if history.evaluations:
        twin = ax.twinx()
        steps = [e["step"] for e in history.evaluations]
        twin.plot(steps, [e["accuracy"] for e in history.evaluations], "o:", color=line.get_color(), alpha=0.7)
        twin.set(ylabel="acurácia na validação", ylim=(0.4, 1))
        twin.grid(False)
    return ax


def bars(labels, values, ax=None, unit="", digits=2):
    """Barras deitadas com o valor escrito na ponta, a primeira em cima."""
    ax = axes(figsize=(7, 0.42 * len(labels) + 0.8)) if ax is None else ax
    drawn = ax.barh(labels, values, color=COLORS[0])
    ax.bar_label(drawn, [f"{v:.{digits}f}".replace(".", ",") + unit for v in values], padding=3)
    ax.invert_yaxis()
    ax.grid(False)
    ax.margins(x=0.15)
    return ax


def intervals(table, names, sources, ax=None):
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
    ax.invert_yaxis()
    if len(sources) > 1:
        ax.legend(loc="upper right")
    return ax
