"""A bancada de velocidade: o que conta é exato, o que mede se grava inteiro, e a tabela diz o que os números dizem."""

import itertools
import json

import bnb
import numpy as np
import pytest
import torch
import velocidade
from bnb import needs_bnb
from toys import GENERATE, tiny, toy_model
from transformers import BertForMaskedLM

from ftcourse import costs, environment, models, nf4, results

FAMILIES = ("bert mlm", *GENERATE)
PAGE = results.DATA / "resultados" / "README.md"
PLACE = {"device": "cpu", "threads": 1}
HERE = {"commit": "a", "processor": "Pentium", "cores": 2, "gpu": None}


@pytest.fixture
def toys(monkeypatch):
    """As famílias minúsculas no lugar das embutidas."""
    monkeypatch.setattr(models, "load", lambda family: (tiny(family), None))


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "path", lambda name: tmp_path / f"{name}.jsonl")
    return results.path("velocidade")


def step(family):
    return {"what": "step", "family": family, "batch": [3, 7], "dtype": "float32", **PLACE}


def row(ours="hand", theirs="bitsandbytes", ratio=(0.5, 0.4, 0.55), what="quantize", **others):
    median, low, high = ratio
    sides = {"ours": {"name": ours}, "theirs": {"name": theirs}}
    group = {"what": what, **PLACE} | ({"family": "bert"} if what == "step" else {"shape": [8, 8]})
    return {**group, **sides, "n": 25, "ratio": {"median": median, "low": low, "high": high},
            "environment": HERE, **others}  # fmt: skip


# ---------------------------------------------------------------- as contas


def test_the_interval_holds_the_true_median_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [velocidade.interval(0.8 * rng.lognormal(0, 0.3, 25)) for _ in range(400)]
    assert 0.93 <= np.mean([f["low"] <= 0.8 <= f["high"] for f in found]) <= 1
    assert np.mean([f["high"] - f["low"] for f in found]) < 0.35
    ratios = np.arange(1.0, 26)
    assert velocidade.interval(ratios) == {
        "median": 13,
        "low": 8,
        "high": 18,
    }  # da 8.ª à 18.ª de 25: tabela do binomial


def test_the_peak_is_what_is_held_at_once_not_what_was_asked_for():
    kept = torch.empty(10_000)

    def action():
        one = torch.empty(1000)
        other = torch.empty(2000)
        del one
        again = torch.empty(500)
        return kept.add_(1), other, again

    assert velocidade.peak(action) == 4 * 3000
    assert velocidade.peak(lambda: None) == 0


@pytest.mark.parametrize("seed", range(3))
def test_the_binary_search_is_the_same_function(seed):
    weight = torch.randn(32, 96, generator=torch.Generator().manual_seed(seed))
    weight[0, :64] = 0
    weight[2, :64] = torch.cat(
        [nf4.middles(nf4.TABLE), torch.ones(49)]
    )  # um bloco com absmax 1: valores nas fronteiras
    for one, other in zip(velocidade.fused(weight), nf4.quantize(weight)):
        assert torch.equal(one, other) and one.dtype == other.dtype


@pytest.mark.parametrize("place", [{"shape": [128, 384]}, *({"family": family} for family in models.FAMILIES)], ids=str)
def test_a_4_bit_layer_takes_the_bytes_of_the_formula_and_one_constant(place, monkeypatch):
    setting = {"what": "bytes", **place, **PLACE}
    [exact] = velocidade.measure(setting, [("hand", "formula")])
    assert exact["ratio"]["median"] == 1 and velocidade.verdict(exact) == "cumpre"
    if "shape" in place:
        assert exact["ours"]["bytes"] == 128 * 384 * (4 + 8 / 64 + 32 / 16384) / 8 + 4
    if bnb.bitsandbytes:
        assert velocidade.measure(setting, [("hand", "bitsandbytes")])[0]["ratio"]["median"] == 1
    plain = nf4.NF4Weight
    monkeypatch.setattr(nf4, "NF4Weight", lambda weight: plain(weight, double_quant=False))
    assert velocidade.verdict(velocidade.measure(setting, [("hand", "formula")])[0]) == "não cumpre"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_operations_are_those_of_the_shapes(family):
    model = tiny(family)
    given, linear, attention = velocidade.batch_for(model, (3, 7)), [], []

    def seen(module, inputs, output):
        linear.append(2 * output.numel() * module.in_features)

    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(seen)
    product = torch.matmul
    torch.matmul = lambda a, b: (attention.append(2 * a.shape[-1] * (out := product(a, b)).numel()), out)[1]
    try:
        with velocidade.sdpa_kernel(velocidade.SDPBackend.MATH):
            model(**given)
    finally:
        torch.matmul = product
    plain = velocidade.arithmetic(tiny(family), given)
    projections = sum(linear)
    scores = plain["forward"] - projections  # QKᵀ e a soma de V: sem peso, dois produtos na volta para cada um da ida
    assert plain["backward_weight"] == projections and plain["backward_input"] == projections + 2 * scores
    layers, width = attention_shapes(model)
    assert scores == layers * 2 * 2 * 3 * 7 * 7 * width
    full = 3 * projections + 3 * scores
    assert 2 * projections + 3 * scores < plain["lora"] and velocidade.predicted(plain) == plain["lora"] / full


def attention_shapes(model):
    """(quantas atenções há, a soma das larguras das cabeças)."""
    config = model.config
    if config.model_type == "t5":
        return config.num_layers + 2 * config.num_decoder_layers, config.num_heads * config.d_kv
    return config.num_hidden_layers, config.hidden_size


# ---------------------------------------------------------------- os dois lados


@pytest.mark.parametrize("family", FAMILIES)
def test_any_family_takes_the_steps_and_ends_where_peft_does(family, toys):
    pairs = [("lora", "peft"), ("lora", "full"), ("qlora", "lora")]
    equal, full, quantized = velocidade.measure(step(family), pairs, repeats=2)
    assert equal["difference"] == 0 and "difference" not in full and "flops" not in equal
    assert full["flops"] == velocidade.arithmetic(tiny(family), velocidade.batch_for(tiny(family), (3, 7)))
    assert all(r["ours"]["seconds"]["median"] > 0 and r["n"] == 2 and r["cpu_share"] > 0 for r in (equal, quantized))
    json.dumps([equal, full, quantized])


@needs_bnb
def test_qlora_ends_where_bitsandbytes_and_peft_do(monkeypatch):
    sizes = {"hidden_size": 64, "intermediate_size": 128}  # larguras em que dequantize_4bit não erra: ver bnb.py
    monkeypatch.setattr(models, "load", lambda family: (toy_model(kind=BertForMaskedLM, **sizes), None))
    built = velocidade.step(step("bert"))["bitsandbytes + peft"]
    [found] = velocidade.measure(step("bert"), [("qlora", "bitsandbytes + peft")], repeats=3)
    assert 0 <= found["difference"] < 1e-4 and built().action() > 0


@needs_bnb
def test_both_sides_quantize_to_the_same_codes_and_the_row_says_how_much_they_move():
    setting = {"what": "quantize", "shape": [64, 128], "dtype": "float32", **PLACE}
    equal, copied = velocidade.measure(setting, [("hand", "bitsandbytes"), ("hand", "copy")], repeats=3)
    assert equal["difference"] == 0 and "difference" not in copied
    assert equal["ours"]["gb_per_s"] * equal["ours"]["seconds"]["median"] * 1e9 == pytest.approx(8192 * 4.5 + 8192 / 16)
    assert equal["ours"]["peak_bytes"] > 8192 * 4 and copied["theirs"]["peak_bytes"] == 0
    back = velocidade.measure(setting | {"what": "dequantize"}, [("hand", "bitsandbytes")], repeats=3)
    assert back[0]["difference"] == 0


@pytest.mark.skipif(not velocidade.installed("torchao"), reason="sem torchao")
def test_torchao_quantizes_the_same_weight():
    for what in ("quantize", "dequantize"):
        setting = {"what": what, "shape": [128, 128], "dtype": "float32", **PLACE}
        [found] = velocidade.measure(setting, [("hand", "torchao")], repeats=1)
        assert 0 < found["difference"] < 0.3 and found["theirs"]["peak_bytes"] > 0


# ---------------------------------------------------------------- o arquivo


@pytest.fixture
def small(file, monkeypatch):
    """Três grupos que se medem num instante; devolve o que se pediu para medir e o que falha."""
    asked, fails = [], set()
    plan = [{"what": "quantize", "shape": [n, n], "dtype": "float32", **PLACE} for n in (1, 2, 3)]

    def measure(setting, pairs, repeats):
        if setting["shape"][0] in fails:
            raise KeyboardInterrupt
        asked.extend((setting["shape"][0], *pair) for pair in pairs)
        return [row(*pair) | setting for pair in pairs]

    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setattr(velocidade, "settings", lambda: plan)
    monkeypatch.setattr(velocidade, "measure", measure)
    monkeypatch.setattr(velocidade.importlib.metadata, "version", lambda name: "1")
    monkeypatch.setattr(velocidade, "installed", lambda name: True)
    monkeypatch.setattr(velocidade, "compiles", lambda: True)
    monkeypatch.setattr(environment, "describe", lambda: dict(HERE))
    return asked, fails


def test_interrupted_it_goes_on_from_what_is_written(small, file):
    asked, fails = small
    fails.add(2)
    with pytest.raises(KeyboardInterrupt):
        velocidade.execute()
    whole = file.read_text("utf-8")
    assert {group for group, *_ in asked} == {1} and len(whole.splitlines()) == len(velocidade.GOALS["quantize"])
    file.write_text(whole + whole[:50], "utf-8")  # uma linha cortada, como outro programa a deixaria
    fails.clear()
    done = velocidade.execute()
    assert results.parsed(results.path("velocidade")) == done == velocidade.execute()
    assert len(asked) == len({*asked}) == len(done) == 3 * len(velocidade.GOALS["quantize"])


def test_other_versions_are_another_measure_and_another_commit_is_not(small, file, monkeypatch):
    asked, _ = small
    n = len(velocidade.execute())
    monkeypatch.setattr(environment, "describe", lambda: HERE | {"commit": "b"})
    assert len(velocidade.execute()) == len(asked) == n
    monkeypatch.setattr(environment, "describe", lambda: HERE | {"torch": "9"})
    assert len(velocidade.execute()) == len(asked) == 2 * n


def test_other_weights_are_another_measure_and_the_old_one_is_refused():
    old = row("lora", "peft", what="step")
    other, today = old | {"model": "outros"}, old | {"model": models.digest("bert")}
    assert len({velocidade.key(r) for r in (old, other, today)}) == 3
    assert costs.current([row(), old, other, today]) == [row(), old, today]
    assert "não diz de que pesos" in velocidade.cell(old)
    assert "não diz de que pesos" not in velocidade.cell(today) + velocidade.cell(row())


def test_a_missing_library_is_told_and_its_rows_come_when_it_does(small, monkeypatch, capsys):
    asked, _ = small
    monkeypatch.setattr(velocidade, "installed", lambda name: name != "torchao")
    velocidade.execute()
    assert "Sem torchao" in capsys.readouterr().out and not [a for a in asked if "torchao" in a]
    before = len(asked)
    monkeypatch.setattr(velocidade, "installed", lambda name: True)
    done = velocidade.execute()
    assert "Sem" not in capsys.readouterr().out and all("torchao" in a for a in asked[before:]) and asked[before:]
    assert [r["environment"].get("torchao") for r in done] == [
        "1" if "torchao" in r["theirs"]["name"] else None for r in done
    ]


def test_without_a_compiler_only_what_is_compiled_is_skipped(small, monkeypatch, capsys):
    asked, _ = small
    monkeypatch.setattr(velocidade, "compiles", lambda: False)
    velocidade.execute()
    assert "Sem g++" in capsys.readouterr().out and asked and not [a for a in asked if "compiled" in a]


def test_without_bitsandbytes_it_still_starts(monkeypatch):
    monkeypatch.setattr(bnb, "bitsandbytes", None)
    assert not velocidade.installed("bitsandbytes") and velocidade.installed("peft")


def test_every_group_of_the_plan_can_be_measured_and_every_family_is_in_it(monkeypatch):
    monkeypatch.setattr(models, "FAMILIES", {"bert": 0, "llama": 1})
    monkeypatch.setattr(models, "digest", lambda family: f"pesos de {family}")
    planned = velocidade.settings()
    assert all(s["model"] == f"pesos de {s['family']}" for s in planned if "family" in s)
    assert {s["what"] for s in planned} == velocidade.GOALS.keys()
    cpu = [s for s in planned if s["device"] == "cpu"]
    for what, family in itertools.product(("step", "bytes"), models.FAMILIES):
        assert [s for s in cpu if s["what"] == what and s.get("family") == family]
    assert len({json.dumps(s, sort_keys=True) for s in planned}) == len(planned)
    assert velocidade.REPEATS >= 15


# ---------------------------------------------------------------- a tabela


@pytest.mark.parametrize(
    "found, words",
    [
        (row(ratio=(0.5, 0.4, 0.6)), "cumpre"),
        (row(ratio=(0.5, 0.4, 0.7)), "no limite"),
        (row(ratio=(0.7, 0.61, 0.8)), "não cumpre"),
        (row("lora", "peft", (1.01, 0.99, 1.03), "step"), "cumpre"),
        (row("lora", "peft", (1.02, 1.01, 1.03), "step"), "não cumpre"),
        (row("hand", "formula", (0.99, 0.99, 0.99), "bytes"), "não cumpre"),
        (row("hand", "copy"), ""),
    ],
)
def test_the_verdict_is_that_of_the_interval(found, words):
    assert velocidade.verdict(found) == words


def test_the_table_has_a_place_a_column_and_the_last_measure():
    other = HERE | {"gpu": "H100"}
    rows = [row(ratio=(9, 9, 9)), row(), row(environment=other, device="cuda"), row("hand", "copy", (20, 19, 21))]
    lines = velocidade.markdown(rows).splitlines()
    cell = "0,500 [0,400; 0,550]; cumpre"
    assert lines[0].endswith("| meta | Pentium, 1 núcleo | H100 |") and len(lines) == 4
    assert lines[2] == f"| quantizar, 8 × 8: à mão ÷ bitsandbytes | ≤ 0,6 | {cell} | {cell} |"
    assert lines[3] == "| quantizar, 8 × 8: à mão ÷ cópia |  | 20,000 [19,000; 21,000] |  |"
    assert velocidade.essential(rows) == rows[:3] and velocidade.markdown([]) == velocidade.UNMEASURED


def test_beside_the_step_stands_what_the_operations_predict():
    counted = {"forward": 100, "backward_input": 102, "backward_weight": 98, "lora": 210}
    found = row("lora", "full", (0.75, 0.7, 0.8), "step", flops=counted)
    assert "0,750 [0,700; 0,800]; a conta prevê 0,700, de 1,00 : 1,02 : 0,98" in velocidade.markdown([found])
    assert velocidade.essential([found]) == [found]


def test_details_have_speed_and_memory():
    side = {"name": "hand", "seconds": {"median": 0.0125}, "gb_per_s": 1.5, "peak_bytes": 3 * 2**20}
    assert velocidade.details([row() | {"ours": side}]).endswith(
        "| quantizar, à mão; Pentium, 1 núcleo | 12,50 | 1,50 | 3,00 |"
    )


def test_a_crowded_machine_is_noticed():
    quiet, waited, loaded = (row(load=a, cpu_share=b) for a, b in ((1, 0.99), (1, 0.6), (5, 1.0)))
    assert velocidade.crowded([quiet, waited, loaded, row()]) == [waited, loaded]


# ---------------------------------------------------------------- o que está publicado


def test_the_table_of_the_readme_is_the_measured_one():
    _, found, rest = PAGE.read_text("utf-8").partition("<!-- tabela:velocidade -->")
    table, end, _ = rest.partition("<!-- fim -->")
    published = costs.current(results.parsed(results.path("velocidade")))
    assert found and end and table.strip() == velocidade.markdown(velocidade.essential(published))


def test_what_is_published_compares_equal_things_with_enough_repeats():
    for r in results.parsed(results.path("velocidade")):
        assert r["n"] >= 15 or r["what"] == "bytes", velocidade.key(r)
        if "torchao" in r["theirs"]["name"] or "difference" not in r:
            continue
        exact = r["device"] == "cpu" and "qlora" not in r["ours"]["name"]
        assert r["difference"] <= (0 if exact else 1e-3), velocidade.key(r)
