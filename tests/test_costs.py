"""O que um passo custa: o rodízio, as razões, e os custos publicados, que o código de hoje tem de dar."""

import numpy as np
import pandas as pd
import pytest

from ftcourse import costs, experiments, models


def test_the_clock_goes_round_and_the_ratio_is_of_each_round():
    calls = []
    seconds = costs.interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3)
    assert calls == ["a", "b"] * 4 and {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}
    slow = {"a": np.array([2.0, 4.0, 9.0]), "b": np.array([1.0, 2.0, 3.0])}
    assert costs.ratio(slow, "a", "b") == {"median": 2, "low": 2, "high": 2.5}


@pytest.mark.parametrize("task", experiments.COMPARED)
def test_the_costs_are_those_of_todays_code_and_weights(task):
    """O que se conta é o do código de hoje: parâmetros, bytes de um passo, arquivo. O tempo é da máquina."""
    stored = costs.measured(task)
    trained = [e.variant for e in experiments.of(task) if e.rates and e.pretrained]
    assert list(stored.index) == trained
    assert set(stored["model"]) == {models.digest(experiments.FAMILY[task])}
    assert all(described["clean"] is True and described["commit"] for described in stored["environment"])
    some = ["full", "lora", *trained[::4]]
    measured = pd.DataFrame(costs.measure(dict.fromkeys(some), repeats=1, length=4, task=task)).set_index("variant")
    for column in ("trainable", "trainable_head", "total", "weight_bytes", "gradient_bytes", "optimizer_bytes",
                   "file_bytes"):  # fmt: skip
        assert measured[column].to_dict() == stored.loc[measured.index, column].to_dict(), column
    for what in ("step", "answer"):
        assert all(row["median"] > 0 and row["low"] <= row["median"] <= row["high"] for row in stored[f"{what}_ratio"])


def test_what_does_not_merge_has_no_time_merged():
    rows = {r["variant"]: r for r in costs.measure(("full", "lora", "pfeiffer", "qlora"), repeats=1, length=4)}
    assert {variant for variant, row in rows.items() if "merged_ratio" in row} == {"full", "lora"}
    assert rows["full"]["merged_ratio"]["median"] == rows["full"]["step_ratio"]["median"] == 1
    assert rows["qlora"]["weight_bytes"] < rows["lora"]["weight_bytes"]
    assert rows["lora"]["activation_bytes"] < rows["full"]["activation_bytes"] < rows["full"]["peak_bytes"]
