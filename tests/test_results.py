"""A leitura dos resultados: que linhas valem, como a taxa se escolhe, o que o intervalo cobre, o que falta rodar."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import CHRF

from ftcourse import experiments, results, tasks
from ftcourse.experiments import SOURCES, Experiment
from ftcourse.results import LADDER

TASK = "aceitabilidade"
TODAY = {"data": "dados", "model": "pesos"}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Uma pasta de resultados de brinquedo: chamada com linhas, grava-as e devolve o arquivo."""
    monkeypatch.setattr(results, "path", lambda task: tmp_path / f"{task}.jsonl")
    origins = {e.variant: TODAY | {"model": "pesos" if e.uses_model else None} for e in experiments.EXPERIMENTS}
    monkeypatch.setattr(results, "origins", lambda task: origins)

    def write(*rows, torn=""):
        results.path(TASK).write_text("".join(json.dumps(r) + "\n" for r in rows) + torn, "utf-8")
        return results.path(TASK)

    return write


@pytest.fixture(scope="module")
def known():
    return results.evaluated(tasks.load(TASK), "test")


def row(variant="full", lr=5e-4, seed=0, split="test", accuracy=0.8, answers=None):
    """Uma linha como a bancada a grava; sem taxa, a de uma linha de base."""
    experiment = experiments.get(TASK, variant)
    job = experiment.job(split, lr if experiment.rates else None, seed=seed if experiment.rates else None)
    metrics = {source: {"accuracy": accuracy, "mcc": 0.5, "f1": 0.7, "n": 10} for source in SOURCES[TASK]}
    origin = TODAY | {"model": "pesos" if experiment.uses_model else None}
    return {**job, "metrics": metrics, "seconds": 240, "predictions": answers, **origin, "environment": {"clean": True}}


def answers(known, share, seed=0):
    """Respostas que acertam mais ou menos essa fração das frases."""
    right = np.random.default_rng(seed).random(len(known)) < share
    return "".join(str(label if ok else 1 - label) for label, ok in zip(known["label"], right))


# ---------------------------------------------------------------- que linhas valem


def test_a_torn_line_is_ignored_wherever_it_is_and_a_repeated_one_counts_once(written):
    assert results.current(TASK) == []
    whole = json.dumps(row(seed=2))
    for torn in ("", whole[: len(whole) // 2], "3", whole[: len(whole) // 2] + "\n" + json.dumps(row())):
        written(row(), row(seed=1), torn=torn)
        assert results.current(TASK) == [row(), row(seed=1)]
    written(row(), row(accuracy=0.1))  # publicada, uma medida não muda porque a mesma rodou outra vez
    assert results.current(TASK) == [row()]
    path = written(row())
    path.write_text(whole[:40] + "\n" + whole + "\n", "utf-8")
    assert results.current(TASK) == [row(seed=2)]


def test_a_stale_row_does_not_hide_the_one_that_ran_in_its_place(written):
    written(row() | {"model": "outros"}, row())
    assert results.current(TASK) == [row()]


@pytest.mark.parametrize("change", [{"model": "outros"}, {"data": "outros"}, {"model": None}, {"variant": "outra"}])
def test_a_row_of_other_data_or_other_weights_is_not_read(written, change):
    written(row(), row(seed=1) | change)
    assert results.current(TASK) == [row()]
    without = {name: value for name, value in row(seed=1).items() if name not in change}
    written(row(), without)
    assert results.current(TASK) == [row()]


@pytest.mark.parametrize(
    "name",
    ["settings", "technique", "batch_size", "steps", "lr", "head_lr", "pretrained", "quantized", "family", "seed"],
)
def test_whatever_changes_a_run_makes_of_it_another(name):
    assert results.key(row()) != results.key(row() | {name: "outro"})
    assert results.key(row()) == results.key(row(accuracy=0.1) | {"seconds": 3})


# ---------------------------------------------------------------- a taxa


def search(scores, start, loss=False):
    """As taxas que a busca pede até acabar, em ordem, de uma função da taxa."""
    experiment, tried = Experiment(TASK, "x", "x", start, "full"), []
    while True:
        name = "loss" if loss else "accuracy"
        table = {"variant": "x", "lr": tried, name: [scores(lr) for lr in tried]}
        best, missing = results.search(experiment, results.pd.DataFrame(table))
        if not missing:
            return best, tried
        assert not set(missing) & set(tried)
        tried += missing


@settings(deadline=None, max_examples=60)
@given(st.integers(0, len(LADDER) - 1), st.integers(0, len(LADDER) - 3), st.booleans())
def test_the_search_goes_on_until_the_best_rate_has_a_worse_one_on_each_side(peak, start, loss):
    def distance(lr):
        return abs(LADDER.index(lr) - peak)

    best, tried = search(lambda lr: distance(lr) if loss else -distance(lr), LADDER[start : start + 3], loss)
    assert best == LADDER[peak]
    assert set(LADDER[max(0, peak - 1) : peak + 2]) <= set(tried)


def test_the_ladder_climbs_in_steps_of_two_to_two_and_a_half():
    steps = np.array(LADDER[1:]) / np.array(LADDER[:-1])
    assert steps.min() == pytest.approx(2) and steps.max() == pytest.approx(2.5)
    assert all(lr in LADDER for e in experiments.EXPERIMENTS for lr in e.rates)


def test_the_best_rate_is_that_of_the_validation_and_only_once_the_search_is_over(written):
    tried = [row(lr=lr, split="validation", accuracy=a) for lr, a in ((2e-4, 0.7), (5e-4, 0.9), (1e-3, 0.8))]
    stray = [row(lr=1e-4, accuracy=1.0), row(lr=1e-4, split="validation", seed=1, accuracy=1.0)]
    written(*tried[:2], *stray)
    assert results.best_rates(TASK) == {}
    written(*tried, *stray)
    assert results.best_rates(TASK) == {"full": 5e-4}
    assert [*results.swept(TASK)["accuracy"]] == pytest.approx([0.7, 0.9, 0.8])
    edge = [row(lr=lr, split="validation", accuracy=a) for lr, a in ((2e-4, 0.9), (5e-4, 0.8), (1e-3, 0.7))]
    written(*edge)
    assert results.best_rates(TASK) == {}


# ---------------------------------------------------------------- intervalos


def test_equal_seeds_still_carry_the_draw_of_the_sentences():
    """Três sementes que respondem o mesmo em 367 frases: a meia largura é a da proporção, não zero."""
    right = (np.arange(367) < 194).astype(float)
    half = results.half_width(results.resampled(np.array([right] * 3)[:, :, None]), 367)
    share = 194 / 367
    assert half == pytest.approx(1.96 * np.sqrt(share * (1 - share) / 367), rel=0.05)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_variance_of_the_seeds_is_that_of_their_mean(seeds):
    """Sem sorteio de frases (todas iguais numa semente), sobra o desvio da média das sementes: s/√n."""
    rng = np.random.default_rng(seeds)
    level = rng.random(seeds)
    values = np.repeat(level[None], results.DRAWS, axis=0)
    _, chosen = results.draws(50, seeds)
    assert (values * chosen).sum(1).std() == pytest.approx(level.std(ddof=1) / np.sqrt(seeds), rel=0.1)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from([1, 3, 5]), st.integers(40, 200))
def test_the_interval_agrees_with_an_analysis_of_variance(seed, seeds, n):
    """A variância da média de um quadro sementes × frases é a soma das duas partes, a menos da interação."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=n)[None] + 0.3 * rng.normal(size=seeds)[:, None]
    half = results.half_width(results.resampled(table[:, :, None]), n)
    variance = table.mean(0).var(ddof=1) / n + (table.mean(1).var(ddof=1) / seeds if seeds > 1 else 0)
    assert half == pytest.approx(1.96 * np.sqrt(variance), rel=0.2)


def test_the_resampled_chrf_is_that_of_sacrebleu():
    hypotheses, references = ["a casa azul", "o gato", "uma rua"], ["a casa azul", "o gato preto", "a rua velha"]
    counts = np.array(CHRF()._extract_corpus_statistics(hypotheses, [references]), float)[None]
    phrases, _ = results.draws(3, 1)
    values = results.resampled(counts)
    for i in range(20):
        drawn = np.repeat(np.arange(3), phrases[i])
        wanted = CHRF().corpus_score([hypotheses[j] for j in drawn], [[references[j] for j in drawn]]).score
        assert values[i, 0] == pytest.approx(wanted)


def test_a_difference_is_paired_by_seed_and_by_sentence(written, known):
    """Duas técnicas que acertam as mesmas frases: cada uma tem o seu intervalo; a diferença delas, quase nenhum."""
    sweep = [row(v, lr, split="validation", accuracy=a) for v in ("full", "lora")
             for lr, a in ((2e-4, 0.1), (5e-4, 0.7), (1e-3, 0.9), (2e-3, 0.8), (5e-3, 0.2))]  # fmt: skip
    same = [row(v, 1e-3, s, answers=answers(known, 0.7, s)) for v in ("full", "lora") for s in range(3)]
    written(*sweep, *same, row("lora", 1e-3, 4, answers=answers(known, 1.0)))  # sem par, não entra
    table = results.difference(TASK, "lora", "full")
    assert table["difference"].tolist() == [0, 0, 0] and table["half"].max() == 0
    assert results.summary(TASK)["accuracy_half"].min() > 0.01
    other = [row("lora", 1e-3, s, answers=answers(known, 0.7, 10 + s)) for s in range(3)]
    written(*sweep, *same[:3], *other)
    assert results.difference(TASK, "lora", "full")["half"].min() > 0.01
    assert results.difference(TASK, "bitfit", "full").empty  # a que ainda não rodou


def test_the_chosen_rate_comes_with_the_distance_to_the_next(written):
    tried = [row(lr=lr, split="validation", accuracy=a) for lr, a in ((2e-4, 0.7), (5e-4, 0.9), (1e-3, 0.8))]
    written(*tried)
    [(variant, found)] = results.chosen(TASK).iterrows()
    assert variant == "full" and found.tolist() == pytest.approx([5e-4, 0.9, 0.1])


def test_what_was_forgotten_is_counted_from_the_model_in_which_nothing_changed(written):
    sweep = [row(v, lr, split="validation", accuracy=a) for v in ("full", "head")
             for lr, a in ((2e-4, 0.1), (5e-4, 0.7), (1e-3, 0.9), (2e-3, 0.8))]  # fmt: skip
    runs = [row("full", 1e-3, s) | {"general_loss": loss} for s, loss in ((0, 3.0), (1, 4.0), (2, None))]
    written(*sweep, *runs)
    assert results.forgotten(TASK).empty
    written(*sweep, *runs, row("head", 1e-3) | {"general_loss": 2.5})
    assert results.forgotten(TASK).to_dict() == pytest.approx({"head": 0, "full": 1.0})


# ---------------------------------------------------------------- uma técnica ao lado de outra

SWEEP = [row(v, lr, split="validation", accuracy=a) for v in ("full", "lora")
         for lr, a in ((2e-4, 0.1), (5e-4, 0.7), (1e-3, 0.9), (2e-3, 0.8), (5e-3, 0.2))]  # fmt: skip


def test_a_baseline_without_a_seed_stands_beside_each_seed(written, known):
    runs = [row("full", 1e-3, s, accuracy=0.8, answers=answers(known, 0.8, s)) for s in range(3)]
    written(*SWEEP, *runs, row("tfidf", accuracy=0.5, answers=answers(known, 0.5)))
    assert results.difference(TASK, "full", "tfidf")["difference"].tolist() == pytest.approx([0.3] * 3)
    table = results.relative(TASK).set_index(["variant", "source"])
    assert table.loc["tfidf", "percent"].tolist() == pytest.approx([62.5] * 3) and table.loc["tfidf", "half"].min() > 1
    assert table.loc["full", "percent"].tolist() == [100] * 3 and table.loc["full", "half"].max() == 0
    written(row("tfidf", accuracy=0.5, answers=answers(known, 0.5)))
    assert results.relative(TASK).empty  # sem o ajuste completo não há porcentagem dele


def test_a_difference_is_told_with_its_verdict(written, known):
    runs = [row(v, 1e-3, s, accuracy=a, answers=answers(known, a, s)) for v, a in (("full", 0.9), ("lora", 0.7))
            for s in range(3)]  # fmt: skip
    written(*SWEEP, *runs)
    text = results.told(TASK, "full", "lora")
    assert text.startswith("ajuste completo menos LoRA, r = 8: ajuda +0,200 ± 0,0") and text.count(", existe") == 3
    assert results.told(TASK, "full", "full").count("0,000 ± 0,000, não se mostrou") == 3
    assert results.told(TASK, "bitfit", "full") == "BitFit menos ajuste completo: a medir"


def test_who_answers_what_adds_up(written, known):
    runs = [row(v, 1e-3, s, answers=answers(known, a, s)) for v, a in (("full", 0.9), ("lora", 0.7)) for s in range(2)]
    written(*SWEEP, *runs)
    table = results.answered(TASK, "full", "lora")
    assert table[["both", "full", "lora", "neither"]].sum(axis=1).tolist() == pytest.approx([1] * 3)
    assert table["full"].min() > 0.15 and table["lora"].max() == 0 and table["n"].sum() == len(known)
    assert results.answered(TASK, "bitfit", "lora").empty
    written(*SWEEP, *runs, row("tfidf", answers=answers(known, 0.5)))
    assert results.answered(TASK, "tfidf", "full")["n"].sum() == len(known)


def test_the_mean_of_the_sources_has_an_interval(written, known):
    runs = [row("full", 1e-3, s, accuracy=0.8, answers=answers(known, 0.8, s)) for s in range(3)]
    written(*SWEEP, *runs)
    [(variant, found)] = results.overall(TASK).iterrows()
    assert variant == "full" and found["value"] == pytest.approx(0.8) and found["seeds"] == 3
    halves = results.summary(TASK)["accuracy_half"]
    assert 0 < found["half"] < halves.max()
    assert results.waiting(TASK) == [e.name for e in experiments.of(TASK) if e.variant != "full"]


def test_an_order_that_the_rate_decides_is_found(written):
    tried = {"full": {2e-4: 0.8, 5e-4: 0.9, 1e-3: 0.6}, "lora": {5e-4: 0.7, 1e-3: 0.85, 2e-3: 0.8}, "head": {1e-3: 0.5}}
    written(*(row(v, lr, split="validation", accuracy=a) for v, rates in tried.items() for lr, a in rates.items()))
    table = results.shared(TASK)
    assert [*table.index] == ["head", "lora", "full"] and np.isnan(table[2e-4]["lora"]) and table[1e-3]["lora"] == 0.85
    [flip] = results.flips(TASK).to_dict("records")
    assert flip == {"one": "lora", "other": "full", "lr_one": 1e-3, "lr_other": 5e-4}
    written()
    assert results.shared(TASK).empty and results.flips(TASK).empty


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=8))
def test_nobody_on_the_front_is_beaten_and_everybody_else_is(points):
    cost, quality = (results.pd.Series(values, dtype=float) for values in zip(*points))
    kept = {int(name) for name in results.front(cost, quality)}
    for i, (x, y) in enumerate(points):
        beaten = any(a <= x and b >= y and (a, b) != (x, y) for a, b in points)
        assert (i in kept) != beaten


def test_the_front_leaves_out_what_was_not_measured():
    cost = results.pd.Series({"a": 1.0, "b": 2.0, "c": np.nan, "d": 0.5})
    quality = results.pd.Series({"a": 0.5, "b": 0.6, "c": 0.9, "d": np.nan})
    assert results.front(cost, quality) == ["a", "b"]


# ---------------------------------------------------------------- a tabela


def test_the_table_says_what_did_not_run(written, known):
    sweep = [row(lr=lr, split="validation", accuracy=a) for lr, a in ((2e-4, 0.7), (5e-4, 0.9), (1e-3, 0.8))]
    runs = [row(seed=s, accuracy=a, answers=answers(known, 0.75, s)) for s, a in ((0, 0.7), (1, 0.8))]
    written(*sweep, *runs, row("tfidf", accuracy=0.56, answers=answers(known, 0.56)), row(lr=1e-4, seed=3, accuracy=0))
    *lines, blank, missing = results.markdown(TASK).splitlines()
    by_name = {line.split(" | ")[0].strip("| "): line for line in lines[2:]}
    assert len(by_name) == 2 and not blank
    waiting = [e.name for e in experiments.of(TASK) if e.variant not in ("full", "tfidf")]
    assert missing == f"Ainda a medir: {'; '.join(waiting)}."
    table = results.summary(TASK).set_index(["variant", "source"])
    for name, variant, mean in (("ajuste completo (2 de 5 sementes)", "full", "0,750"),
                                ("TF-IDF e regressão logística", "tfidf", "0,560")):  # fmt: skip
        for cell, source in zip(by_name[name].strip("| ").split(" | ")[1:], SOURCES[TASK]):
            half = f"{table.loc[(variant, source), 'accuracy_half']:.3f}".replace(".", ",")
            assert cell == f"{mean} ± {half} (0,50)"
    few = results.markdown(TASK, "lora", "full").splitlines()
    assert few == [*lines[:2], next(line for line in lines if "completo" in line), "", "Ainda a medir: LoRA, r = 8."]
    with pytest.raises(ValueError, match="'loira'"):
        results.markdown(TASK, "loira")


def test_the_fraction_accused_is_that_of_the_seeds(written, known):
    sweep = [row(lr=lr, split="validation", accuracy=a) for lr, a in ((2e-4, 0.7), (5e-4, 0.9), (1e-3, 0.8))]
    written(*sweep, row(answers="0" * len(known)), row(seed=1, answers="1" * len(known)))
    assert (results.accused("full")["full"] == 0.5).all()
    table = results.by_kind("full")
    assert table.index[-1] == results.FALSE_ALARM and (table == 0.5).all(axis=None)


def test_a_table_goes_between_its_marks_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "DATA", tmp_path / "data")
    readme, page = tmp_path / "README.md", tmp_path / "data" / "resultados" / "README.md"
    page.parent.mkdir(parents=True)
    page.write_text("nada aqui\n", "utf-8")
    text = "antes\n<!-- tabela:a -->\nvelha\n<!-- fim -->\n<!-- tabela:b -->\noutra\n<!-- fim -->\n"
    readme.write_text(text, "utf-8")
    results.write_table("c", "nova")
    assert readme.read_text("utf-8") == text
    results.write_table("a", "nova")
    assert readme.read_text("utf-8") == text.replace("velha", "nova") and page.read_text("utf-8") == "nada aqui\n"
