"""As previsões de quem lê e os números em português: nada levanta, nada se perde, e o arquivo é simples."""

import csv
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ftcourse import balanco, formats, predictions, preveja, saiu


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("FTCOURSE_PREVISOES", str(tmp_path / "previsoes.csv"))
    return tmp_path / "previsoes.csv"


def test_a_number_is_put_beside_the_measure(file, capsys):
    preveja("04.3", 0.8)
    saiu("04.3", torch.tensor(0.63))
    assert "04.3: você previu 0,8; saiu 0,63." in capsys.readouterr().out
    [row] = csv.DictReader(file.open(encoding="utf-8"))
    assert row["questao"] == "04.3" and row["previsto"] == "0.8" and float(row["saiu"]) == pytest.approx(0.63)


def test_an_unwritten_prediction_says_what_to_write_and_leaves_no_file(file, capsys):
    preveja("04.1", ...)
    preveja("04.2", ..., options=["aumenta", "diminui"])
    preveja("04.3", ..., order=["a", "b"])
    saiu("04.1", 0.5)
    said = capsys.readouterr().out
    assert not file.exists()
    for words in ("um número, ou um intervalo", '"aumenta", "diminui"', 'uma lista, na sua ordem, de "a", "b"',
                  "04.1: saiu 0,5. Você não tinha previsto."):  # fmt: skip
        assert words in said


@pytest.mark.parametrize(
    "answer, options",
    [("0.8", {}), (True, {}), (None, {}), ((0.9, 0.1), {}), ((0.1,), {}), ((0.1, "b"), {}), ([0.1, 0.2, 0.3], {}),
     ("cresce", {"options": ["aumenta", "diminui"]}), (["a"], {"order": ["a", "b"]}), ("ab", {"order": ["a", "b"]}),
     (["a", "a"], {"order": ["a", "b"]}), (np.arange(3), {}), (print, {})],
)  # fmt: skip
def test_what_is_not_a_prediction_is_told_and_not_kept(file, capsys, answer, options):
    preveja("00.1", answer, **options)
    assert "não guardei. Veio" in capsys.readouterr().out and not file.exists()


def test_a_cell_that_runs_again_keeps_the_last_prediction_and_forgets_the_old_measure(file):
    preveja("00.1", 1)
    saiu("00.1", 3)
    preveja("00.2", ["b", "a"], order=["a", "b"])
    preveja("00.1", 2)
    known = predictions.read(file)
    assert known["00.1"]["previsto"] == 2 and known["00.1"]["saiu"] is None and known["00.2"]["previsto"] == ["b", "a"]


def test_the_balance_says_how_often_how_far_and_where_too_sure(file, capsys):
    for i, (predicted, measured) in enumerate([(0.5, 1.0), (2, 2), (10, 5)]):
        preveja(f"01.{i}", predicted)
        saiu(f"01.{i}", measured)
    for i, measured in enumerate([1, 3, 4]):  # o fim do intervalo está nele
        preveja(f"02.{i}", (0, 1))
        saiu(f"02.{i}", measured)
    preveja("02.9", "sim", options=["sim", "não"])
    saiu("02.9", "não")
    preveja("03.1", ["b", "a"], order=["a", "b"])
    saiu("03.1", ["b", "a"])
    preveja("03.2", 7)  # sem medida, não conta
    capsys.readouterr()
    balanco()
    said = capsys.readouterr().out
    for words in ("8 previsões", "Nos números (3), a distância do meio foi de 50 %", "Dos intervalos (3), 1 continham",
                  "mais seguro do que podia", "Das escolhas (1), 0 saíram", "Das ordens (1), 1 saíram"):  # fmt: skip
        assert words in said
    balanco("02")
    assert "4 previsões" in (said := capsys.readouterr().out) and "números" not in said
    balanco("07")
    assert "Nenhuma previsão" in capsys.readouterr().out


def test_too_sure_is_fewer_than_eight_intervals_in_ten():
    sure = []
    for held in (0, 7, 8, 10):
        known = [{"tipo": "intervalo", "previsto": [0, 1], "saiu": 0.5 if i < held else 2.0} for i in range(10)]
        sure.append("mais seguro do que podia" in predictions.told(known))
    assert sure == [True, True, False, False]


def test_nothing_is_called_right_or_wrong(file, capsys):
    preveja("00.1", 0.1)
    saiu("00.1", 9)
    balanco()
    said = capsys.readouterr().out
    assert not any(word in said for word in ("✓", "✗", "cert", "errad", "acert"))


def test_a_damaged_file_loses_only_the_damaged_line(file, capsys):
    preveja("00.1", 1)
    preveja("00.2", 2)
    lines = file.read_text("utf-8").splitlines()
    file.write_text("\n".join([lines[0], "lixo", '00.3,número,"[",', lines[2][:4], lines[2]]), "utf-8")
    assert [*predictions.read(file)] == ["00.2"]
    file.write_bytes(b"\xff\xfe\x00")
    preveja("00.4", 4)
    assert [*predictions.read(file)] == ["00.4"]


def test_a_folder_that_cannot_be_written_does_not_stop_the_notebook(monkeypatch, tmp_path, capsys):
    (tmp_path / "arquivo").write_text("x", "utf-8")
    monkeypatch.setenv("FTCOURSE_PREVISOES", str(tmp_path / "arquivo" / "previsoes.csv"))
    preveja("00.1", 1)
    assert "não consegui guardar" in capsys.readouterr().out


def test_a_teacher_gathers_the_class(tmp_path, monkeypatch):
    for i, predicted in enumerate([0.1, 0.15, 0.9, (0.8, 1.0)]):
        monkeypatch.setenv("FTCOURSE_PREVISOES", str(tmp_path / f"aluno{i}" / "previsoes.csv"))
        preveja("00.1", predicted)
        preveja("00.2", "sim" if i else "não", options=["sim", "não"])
    saiu("00.1", 0.5)
    found = predictions.gather(tmp_path)
    assert [*found] == ["00.1", "00.2"] and len(found["00.1"]) == 4
    bars = predictions.histogram(found["00.1"]).splitlines()
    assert [line.rsplit(" ", 1)[1] for line in bars[:-1]] == ["2", "2"] and bars[-1] == "  saiu 0,5"
    assert predictions.histogram(found["00.2"]).splitlines() == [f"  não  {'█' * 10} 1", f"  sim  {'█' * 30} 3"]


@given(st.floats(-1e12, 1e12))
def test_a_number_has_the_comma_and_comes_back(value):
    text = formats.number(value)
    back = float(text.replace(".", "").replace(",", ".").replace("−", "-"))
    assert back == pytest.approx(value, rel=5e-3, abs=1e-300) and not text.endswith(",")


NUMBERS = [
    (21238156, None, "21.238.156"),
    (0.63, None, "0,63"),
    (0.63, 3, "0,630"),
    (-1234.5, 1, "−1.234,5"),
    (0.00012, None, "0,00012"),
    (0, None, "0"),
    (1e-9, None, "0,000000001"),
    (float("nan"), None, "não é um número"),
]


def test_how_numbers_are_written():
    """Todos de uma vez: --rapido ficaria com dois, e o sinal de menos não estaria neles."""
    assert [formats.number(value, digits) for value, digits, _ in NUMBERS] == [text for *_, text in NUMBERS]


@pytest.mark.parametrize("good", [0.8, 1, np.float32(0.8), np.array([0.8]), torch.tensor(0.8), torch.tensor([3])])
@pytest.mark.parametrize("bad", ["0.8", b"1", True, np.True_, torch.tensor(True), None, [0.8], np.arange(2), 1j])
def test_numbers_of_python_numpy_and_torch_are_numbers_and_texts_are_not(good, bad):
    assert isinstance(formats.scalar(good), float) and formats.scalar(bad) is None


def test_a_table_is_in_portuguese():
    frame = pd.DataFrame({"variant": ["lora"], "bytes": [21238156], "ratio": [0.8312], "lost": [math.nan]})
    shown = formats.table(frame, digits={"ratio": 2}, names={"variant": "técnica", "ratio": "razão", "lora": "LoRA"})
    assert shown.to_dict("records") == [{"técnica": "lora", "bytes": "21.238.156", "razão": "0,83", "lost": ""}]
