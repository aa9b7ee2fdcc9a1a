"""As figuras do curso: a vírgula em todo eixo, e as marcas que se pedem."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from ftcourse import plots


@pytest.fixture(autouse=True)
def screenless():
    with matplotlib.rc_context({"backend": "agg"}):
        yield
    plt.close("all")


def labels(axis):
    axis.axes.figure.canvas.draw()
    return [label.get_text() for label in axis.get_ticklabels(which="both") if label.get_text()]


def colour_bar(ax):
    return ax.figure.colorbar(ax.imshow([[0.1, 0.2], [0.3, 0.4]])).ax.yaxis


def tiny(ax):
    ax.plot([0, 2.5e-9], [0, 1])
    return ax.xaxis


@pytest.mark.parametrize(
    "axis",
    [
        lambda ax: ax.xaxis,
        lambda ax: ax.yaxis,
        lambda ax: ax.twinx().yaxis,
        colour_bar,
        tiny,
        lambda ax: ax.inset_axes([0, 0, 1, 1]).xaxis,
    ],
    ids=["x", "y", "segundo eixo", "barra de cores", "com potência", "eixo dentro do eixo"],
)
def test_every_axis_has_the_comma(axis):
    written = labels(axis(plots.axes()))
    assert any("," in text for text in written) and not any("." in text for text in written)


def test_the_power_beside_an_axis_has_the_comma_too():
    ax = plots.axes()
    ax.plot([1000.0001, 1000.0002], [0, 1])
    labels(ax.xaxis)
    offset = ax.xaxis.get_major_formatter().get_offset()
    assert offset and "." not in offset


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_marks_are_the_values_and_only_they(scale):
    ax = plots.axes()
    ax.plot([0.0002, 1500], [0, 1])
    ax.set(xscale=scale)
    plots.marks(ax.xaxis, [0.0005, 0.25, 1000])
    assert labels(ax.xaxis) == ["0,0005", "0,25", "1.000"]


def test_the_axis_of_rates_shows_the_rates():
    swept = pd.DataFrame({"variant": ["a"] * 3 + ["b"], "lr": [3e-5, 1e-4, 3e-4, 7.0], "accuracy": [0.5, 0.7, 0.6, 1]})
    assert labels(plots.rates(swept, {"a": "A"}).xaxis) == ["0,00003", "0,0001", "0,0003"]


def test_bars_write_numbers_as_the_course_does():
    ax = plots.bars(["um", "dois"], np.array([0.25, -1234.5]), unit=" s", digits=1)
    assert [text.get_text() for text in ax.texts] == ["0,2 s", "−1.234,5 s"]


def test_the_front_is_a_staircase_and_what_was_not_measured_is_a_line():
    table = pd.DataFrame(
        {"cost": [30, 100, 120, 170, np.nan], "value": [0.5, 0.8, 0.7, np.nan, 0.9], "half": [0.01] * 5},
        index=["a", "b", "c", "d", "e"],
    )
    ax = plots.pareto(table, ["a", "b"])
    assert [text.get_text() for text in ax.texts] == ["b", "c", "a"]
    assert [170, 170] in [list(line.get_xdata()) for line in ax.lines]
    [front] = [line for line in ax.lines if line.get_drawstyle() == "steps-post"]
    assert list(front.get_xdata()) == [30, 100]
    assert all("." not in text for text in labels(ax.yaxis))


def test_without_a_measure_the_front_says_that_it_waits():
    ax = plots.pareto(pd.DataFrame({"cost": [30.0], "value": [np.nan], "half": [np.nan]}, index=["a"]), [])
    assert [text.get_text() for text in ax.texts] == ["ainda a medir"] and labels(ax.yaxis) == []
