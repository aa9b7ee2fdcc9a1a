"""A bancada: o que já foi medido não se mede de novo, e o que está publicado se refaz a partir das previsões."""

import copy
import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from toys import toy_writer

from ftcourse import benchmark, tasks
from ftcourse.files import DATA

README = DATA.parent / "README.md"
TASK = "aceitabilidade"
HAVE_RESULTS = [task for task in benchmark.STEPS if benchmark.path(task).exists()]
each_task = pytest.mark.parametrize("name", sorted({TASK, *HAVE_RESULTS}))


STEPS = benchmark.STEPS[TASK]


def row(variant="full", lr=5e-4, seed=0, split="test", accuracy=0.8):
    metrics = {source: {"accuracy": accuracy, "mcc": 0.5, "f1": 0.7, "n": 10} for source in benchmark.SOURCES[TASK]}
    steps = STEPS if lr else None
    return {
        "task": TASK,
        "variant": variant,
        "split": split,
        "lr": lr,
        "steps": steps,
        "seed": seed,
        "metrics": metrics,
        "seconds": 240,
    }


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Uma pasta de resultados de brinquedo: chamada com linhas, grava-as e devolve o arquivo."""
    monkeypatch.setattr(benchmark, "path", lambda task: tmp_path / f"{task}.jsonl")

    def write(*rows, torn=""):
        text = "".join(json.dumps(r) + "\n" for r in rows) + torn
        benchmark.path(TASK).write_text(text, "utf-8")
        return benchmark.path(TASK)

    return write


# ---------------------------------------------------------------- as peças


def test_a_torn_last_line_is_ignored(results):
    assert benchmark.load(TASK) == []
    whole = json.dumps(row(seed=2))
    for torn in ("", whole[: len(whole) // 2], whole):  # sem a quebra de linha, não se sabe se acabou
        results(row(), row(seed=1), torn=torn)
        assert benchmark.load(TASK) == [row(), row(seed=1)]


def test_the_interval_is_that_of_scipy():
    values = [0.71, 0.74, 0.69, 0.75, 0.73]
    mean, half = benchmark.interval(values)
    low, high = scipy.stats.t.interval(0.95, df=4, loc=np.mean(values), scale=scipy.stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert half == pytest.approx(2.7764 * np.std(values, ddof=1) / 5**0.5, rel=1e-4)
    assert np.isnan(benchmark.interval([0.7])[1])


def test_what_is_done_is_not_run_again(results, monkeypatch):
    path, ran, fails = results(row(), torn='{"variant": "fu'), [], {"seed": 2}
    jobs = [{k: v for k, v in row(seed=seed).items() if k != "metrics"} for seed in range(3)]

    def run(job):
        ran.append(job["seed"])
        if job["seed"] == fails["seed"]:
            while '"seed": 1' not in path.read_text("utf-8"):
                time.sleep(0.01)
            raise RuntimeError("faltou luz")
        return row(seed=job["seed"])

    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setattr(benchmark, "run", run)
    monkeypatch.setattr(benchmark, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    with pytest.raises(RuntimeError, match="faltou luz"):
        benchmark.execute(TASK, jobs, "teste")
    fails["seed"] = None
    benchmark.execute(TASK, jobs, "teste")
    benchmark.execute(TASK, jobs, "teste")
    assert ran == [1, 2, 2]
    assert [r["seed"] for r in benchmark.load(TASK)] == [0, 1, 2]


def test_the_best_rate_is_that_of_the_validation(results, monkeypatch):
    rates = {"full": (1e-4, 5e-4, 1e-3), "lora": (5e-3, 1e-2), "random": (3e-5,)}
    monkeypatch.setattr(benchmark, "RATES", {TASK: rates})
    tried = [row(lr=lr, split="validation", accuracy=a) for lr, a in ((1e-4, 0.7), (5e-4, 0.9), (1e-3, 0.8))]
    tried += [row("lora", lr=lr, split="validation", accuracy=a) for lr, a in ((5e-3, 0.6), (1e-2, 0.95))]
    stale = [row(lr=2e-3, split="validation", accuracy=1.0), row(lr=1e-4, accuracy=1.0)]  # fora do plano
    results(*tried, *stale)
    assert benchmark.best_rates(TASK) == {"full": 5e-4, "lora": 1e-2, "lora_r1": 1e-2, "random": 3e-5}
    assert not any(job["variant"] == "random" for job in benchmark.sweep(TASK))  # taxa única não se procura
    assert [*benchmark.swept(TASK).query("variant == 'full'")["accuracy"]] == pytest.approx([0.7, 0.9, 0.8])


def test_the_plan_says_what_is_missing_and_how_long_it_takes(results, monkeypatch):
    monkeypatch.setattr("ftcourse.environment.usable_cores", lambda: 2)
    results(row())
    jobs = [{k: v for k, v in row(seed=seed).items() if k not in ("metrics", "seconds")} for seed in range(4)]
    missing, sentence = benchmark.plan(TASK, jobs)
    assert missing == jobs[1:] and sentence == "4 execuções, faltam 3: 3 de full; uns 6 min"
    others = [job | {"variant": "lora"} for job in jobs]
    assert benchmark.plan(TASK, jobs + others)[1].endswith("3 de full, 4 de lora; uns 6 min, sem contar lora")


def test_the_clock_goes_round_and_the_ratio_is_of_each_round():
    calls = []
    seconds = benchmark.interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3)
    assert calls == ["a", "b"] * 4 and {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}
    slow = {"a": np.array([2.0, 4.0, 9.0]), "b": np.array([1.0, 2.0, 3.0])}
    assert benchmark.ratio(slow, "a", "b") == {"median": 2, "low": 2, "high": 2.5}


def test_the_table_has_the_mean_and_the_interval(results):
    runs = [row(accuracy=0.7), row(seed=1, accuracy=0.8), row("tfidf", None, None, accuracy=0.56)]
    results(row(split="validation"), *runs, row(lr=1e-4, seed=3, accuracy=0))  # a última, de outro plano, não entra
    half = benchmark.interval([0.7, 0.8])[1]
    lines = benchmark.markdown(TASK).splitlines()
    cell = f"0,750 ± {half:.3f} (0.50)".replace(".", ",")
    assert lines[-1] == "| ajuste completo | " + " | ".join([cell] * 3) + " |"
    assert lines[-2] == "| TF-IDF e regressão logística | " + " | ".join(["0,560 (0,50)"] * 3) + " |"
    assert len(lines) == 4


def test_the_difference_is_taken_seed_by_seed(results):
    sweep = [row("full", split="validation"), row("lora", split="validation")]
    runs = [row(v, seed=s, accuracy=a + s / 10) for v, a in (("full", 0.5), ("lora", 0.48)) for s in range(3)]
    results(*sweep, *runs, row("lora", seed=9, accuracy=1.0))  # sem par, não entra
    table = benchmark.difference(TASK, "lora", "full")
    assert table["difference"].tolist() == pytest.approx([-0.02] * 3) and table["half"].max() < 1e-9


def test_a_table_goes_between_its_marks_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "DATA", tmp_path / "data")
    readme = tmp_path / "README.md"
    text = "antes\n<!-- tabela:a -->\nvelha\n<!-- fim -->\n<!-- tabela:b -->\noutra\n<!-- fim -->\n"
    readme.write_text(text, "utf-8")
    benchmark.write_table("c", "nova")
    assert readme.read_text("utf-8") == text
    benchmark.write_table("a", "nova")
    assert readme.read_text("utf-8") == text.replace("velha", "nova")


# ---------------------------------------------------------------- as tarefas de escrever

SAMPLE = 6  # linhas de cada ponta de uma divisão


@pytest.fixture
def small(monkeypatch):
    """As tarefas de escrever, cortadas, e os modelos de brinquedo no lugar dos publicados."""
    load = tasks.load

    def cut(name):
        task = load(name)
        splits = {part: getattr(task, part) for part in ("train", "validation", "test", "out_of_domain")}
        ends = [*range(SAMPLE), *range(-SAMPLE, 0)]  # as duas fontes, onde há duas
        return replace(task, **{part: rows and rows.select(np.mod(ends, len(rows))) for part, rows in splits.items()})

    def tiny(family, task, pretrained=True, seed=0):
        model, tokenizer = toy_writer(family == "t5", seed=seed + 10 * pretrained)
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.model_max_length = 512
        return model, tokenizer

    general = tasks.general_text()
    monkeypatch.setattr(tasks, "load", cut)
    monkeypatch.setattr(tasks, "general_text", lambda: replace(general, test=general.test.select(range(3))))
    monkeypatch.setattr(benchmark.models, "load", tiny)
    monkeypatch.setattr(benchmark, "STEPS", dict.fromkeys(benchmark.STEPS, 2))
    monkeypatch.setattr(benchmark, "BATCH", 4)


@pytest.mark.parametrize("name", tasks.WRITTEN)
def test_the_plan_of_a_written_task_runs_and_gives_its_table(results, small, name):
    """O plano inteiro, em dois passos: a taxa sai da perda na validação, e a tabela tem de tudo uma linha."""
    first, _ = benchmark.MEASURES[name]
    sweep = [benchmark.run(job) for job in benchmark.sweep(name)]
    assert all(r["predictions"] is None and first not in r["metrics"][s] for r in sweep for s in r["metrics"])
    benchmark.write_jsonl(benchmark.path(name), sweep)
    losses = {(r["variant"], r["lr"]): np.mean([m["loss"] for m in r["metrics"].values()]) for r in sweep}
    best = benchmark.best_rates(name)
    assert best.keys() == benchmark.RATES[name].keys() and benchmark.explanations(name) == []
    for variant, tried in benchmark.RATES[name].items():
        known = {lr: losses.get((variant, lr), 0) for lr in tried}
        assert best[variant] == min(known, key=known.get)

    jobs = benchmark.final(name)
    seeds = dict.fromkeys(benchmark.BASELINES[name], 1) | dict.fromkeys(best, 3)
    assert Counter(job["variant"] for job in jobs) == seeds
    done = [benchmark.run(job) for job in jobs if job["seed"] in (None, 0)]
    benchmark.write_jsonl(benchmark.path(name), sweep + done)
    assert {first, "n"} <= set.intersection(*(set(m) for r in done for m in r["metrics"].values()))
    by_variant = {r["variant"]: r["metrics"] for r in done}
    general = {v for v, metrics in by_variant.items() if any("general_loss" in m for m in metrics.values())}
    assert general == ({"zero_shot", *best} if benchmark.FAMILY[name] == "llama" else set())
    table = benchmark.summary(name)
    assert set(table["variant"]) == set(by_variant) and set(table["source"]) == set(benchmark.SOURCES[name])
    assert len(benchmark.markdown(name).splitlines()) == 2 + len(by_variant)
    task = tasks.load(name)
    for r in done:
        measured = benchmark.measure(task, benchmark.rows(task, "test"), r["predictions"])
        assert all(r["metrics"][s][k] == pytest.approx(v, abs=6e-5) for s, m in measured.items() for k, v in m.items())


# ---------------------------------------------------------------- o que está publicado


@each_task
def test_every_variant_ran_with_all_its_seeds_and_its_best_rate(name):
    done = benchmark.load(name)
    planned = benchmark.sweep(name) + benchmark.explanations(name) + benchmark.final(name)
    assert sorted(str(benchmark.key(r)) for r in done) == sorted(str(benchmark.key(job)) for job in planned)
    for variant in benchmark.best_rates(name):
        seeds = sorted(r["seed"] for r in done if (r["variant"], r["split"]) == (variant, "test"))
        assert seeds == [*benchmark.SEEDS[name]]
    assert all(r["environment"][fact] for r in done for fact in ("commit", "torch", "transformers", "processor"))


@each_task
def test_the_metrics_are_those_of_the_predictions_on_todays_data(name):
    task = tasks.load(name)
    for r in benchmark.load(name):
        known = benchmark.rows(task, r["split"])
        assert r["data"] == benchmark.fingerprint(known), (
            f"{benchmark.key(r)} mediu outros dados: apague essa linha e rode make bancada"
        )
        if r["predictions"] is None:  # na validação nada se escreve: só se mede a perda
            assert r["split"] == "validation" and not task.labels
            continue
        measured = benchmark.measure(task, known, [*map(int, r["predictions"])] if task.labels else r["predictions"])
        assert r["metrics"].keys() == measured.keys() == set(benchmark.sources_of(task, known))
        for source, known_metrics in measured.items():
            stored = {name: r["metrics"][source][name] for name in known_metrics}
            assert stored == pytest.approx(known_metrics, abs=6e-5), benchmark.key(r)


def test_what_the_card_says_of_the_written_skills():
    """Semente a semente: quem ganha na perda e no esquecimento, e o que a chrF não separa."""
    runs = {}
    for r in benchmark.tested("habilidade_bncc"):
        runs.setdefault(r["variant"], []).append(r["metrics"]["bncc"])
    measured = {v: {k: np.array([m[k] for m in rows]) for k in rows[0]} for v, rows in runs.items()}
    full, lora, random, zero_shot = (measured[v] for v in ("full", "lora", "random", "zero_shot"))
    for name in ("loss", "general_loss"):
        assert full[name].max() < lora[name].min()
    assert lora["loss"].max() < zero_shot["loss"] < random["loss"].min()
    assert zero_shot["general_loss"] < full["general_loss"].min()
    trained = np.concatenate([full["chrf"], lora["chrf"], random["chrf"]])
    echo, retrieval = (measured[v]["chrf"].item() for v in ("echo", "retrieval"))
    assert zero_shot["chrf"] < echo < np.mean(lora["chrf"]) and trained.max() < retrieval
    assert abs(np.mean(full["chrf"]) - np.mean(random["chrf"])) < 1.5 > abs(np.mean(lora["chrf"] - random["chrf"]))


def measured(task, measure="exact"):
    """{(variante, fonte): o que cada semente do teste tem}"""
    found = {}
    for r in benchmark.tested(task):
        for source, metrics in r["metrics"].items():
            found.setdefault((r["variant"], source), []).append(metrics.get(measure, np.nan))
    return {place: np.array(values) for place, values in found.items()}


def test_what_the_card_says_of_the_filled_gaps():
    """Semente a semente: quem passa dos bigramas e do modelo sem ajuste, e o que os pesos sorteados aprendem."""
    exact, loss = measured("complete"), measured("complete", "loss")
    for source in benchmark.SOURCES["complete"]:
        lines = [exact[name, source].item() for name in ("frequent", "neighbours", "zero_shot")]
        assert min(exact["full", source].min(), exact["lora", source].min()) > max(lines)
        assert loss["full", source].max() < loss["lora", source].min() < loss["random", source].min()
    for source in ("ajuda", "noticias"):
        assert exact["zero_shot", source].item() < exact["neighbours", source].item()
        assert abs(exact["full", source].mean() - exact["lora", source].mean()) < 0.01
    assert exact["full", "curriculo"].min() > exact["lora", "curriculo"].max()
    assert exact["zero_shot", "ajuda"].item() == pytest.approx(0.4, abs=0.01)
    assert exact["zero_shot", "noticias"].item() == pytest.approx(0.2, abs=0.01)
    random = [r["predictions"] for r in benchmark.tested("complete") if r["variant"] == "random"]
    assert {answer for answers in random for answer in answers} == {"a"}


@pytest.mark.parametrize("task, baseline", [("corrija", "bigrams"), ("acentue", "dictionary")])
def test_what_the_cards_say_of_what_t5_does_not_reach(task, baseline):
    exact = measured(task)
    for source in benchmark.SOURCES[task]:
        assert exact["full", source].max() < exact[baseline, source].item()
        assert exact["zero_shot", source].item() < 0.002
    assert exact["full", "ajuda"].min() > exact["echo", "ajuda"].item()


def test_how_much_the_cards_say_that_t5_mends_and_accents():
    for (task, measure), shares in {
        ("corrija", "mended"): {"ajuda": 3, "noticias": 7, "curriculo": 8},
        ("acentue", "accented"): {"ajuda": 10 / 6, "noticias": 3, "curriculo": 3},
    }.items():
        found = measured(task, measure)
        for source, one_in in shares.items():
            assert found["full", source].mean() == pytest.approx(1 / one_in, abs=0.03)


@each_task
def test_the_table_of_the_readme_is_the_measured_one(name):
    _, found, rest = README.read_text("utf-8").partition(f"<!-- tabela:{name} -->")
    table, end, _ = rest.partition("<!-- fim -->")
    assert found and end, f"o README.md não tem as marcas <!-- tabela:{name} --> e <!-- fim -->"
    assert table.strip() == benchmark.markdown(name)


@pytest.mark.parametrize("source", ["ajuda", "noticias"])
@pytest.mark.parametrize("baseline", ["random", "head"])
def test_full_fine_tuning_passes_its_gate(source, baseline):
    mean = benchmark.summary(TASK).set_index(["variant", "source"])["accuracy"]
    assert mean["full", source] >= mean[baseline, source] + 0.15


def test_the_costs_are_those_of_todays_code():
    stored = benchmark.costs()
    assert list(stored.index) == ["full", "head", "lora", "lora_r1"]
    measured = pd.DataFrame(benchmark.measure_costs(repeats=1, length=4)).set_index("variant")
    for column in ("trainable", "total", "gradient_bytes", "optimizer_bytes", "file_bytes"):
        assert measured[column].to_dict() == stored[column].to_dict(), column
    assert all(row["median"] > 0 and row["low"] <= row["median"] <= row["high"] for row in stored["step_ratio"])
