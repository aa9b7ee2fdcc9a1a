"""O que um passo custa: o rodízio, as razões, e os custos publicados, que o código de hoje tem de dar."""

import numpy as np
import pandas as pd
import torch
from torch import nn

from ftcourse import costs, models


def test_the_clock_goes_round_and_the_ratio_is_of_each_round():
    calls = []
    seconds = costs.interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3)
    assert calls == ["a", "b"] * 4 and {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}
    slow = {"a": np.array([2.0, 4.0, 9.0]), "b": np.array([1.0, 2.0, 3.0])}
    assert costs.ratio(slow, "a", "b") == {"median": 2, "low": 2, "high": 2.5}


def test_the_costs_are_those_of_todays_code_and_weights():
    stored = costs.measured()
    assert list(stored.index) == ["full", "head", "lora", "lora_r1"]
    assert set(stored["model"]) == {models.digest("bert")}
    assert all(described["clean"] is True and described["commit"] for described in stored["environment"])
    measured = pd.DataFrame(costs.measure(repeats=1, length=4)).set_index("variant")
    for column in ("trainable", "total", "gradient_bytes", "optimizer_bytes", "file_bytes"):
        assert measured[column].to_dict() == stored[column].to_dict(), column
    assert all(row["median"] > 0 and row["low"] <= row["median"] <= row["high"] for row in stored["step_ratio"])


def test_the_activations_are_the_inputs_of_what_trains_and_not_the_weights():
    first, second = nn.Linear(8, 6), nn.Linear(6, 2)
    model, batch = nn.Sequential(first, second), {"input": torch.randn(4, 8)}
    assert costs.activations(model, batch) == 4 * 4 * (8 + 6)
    first.requires_grad_(False)
    assert costs.activations(model, batch) == 4 * 4 * 6
    second.requires_grad_(False)
    assert costs.activations(model, batch) == 0
