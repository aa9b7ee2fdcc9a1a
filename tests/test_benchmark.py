"""A bancada: o que já foi medido não se mede de novo, e o que está publicado se refaz a partir das previsões."""

import copy
import json
import multiprocessing
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from toys import tokenizer, toy_model, toy_task, toy_writer

from ftcourse import benchmark, environment, experiments, modules, results, tasks, training
from ftcourse.files import DATA

PAGES = (DATA.parent / "README.md", DATA / "resultados" / "README.md")
TASK = "aceitabilidade"
each_task = pytest.mark.parametrize("name", experiments.FAMILY)


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Um arquivo de resultados vazio no lugar do publicado."""
    monkeypatch.setattr(results, "path", lambda task: tmp_path / f"{task}.jsonl")
    return results.path(TASK)


def done(job, **changes):
    """A linha que um trabalho deixaria, com a acurácia maior perto da taxa 5e-4."""
    lr = job["lr"] or 1
    accuracy = 0.9 - abs(np.log10(lr / 5e-4)) / 10 + (job["seed"] or 0) / 1000
    metrics = {source: {"accuracy": accuracy, "mcc": 0.5, "f1": 0.7, "n": 10} for source in experiments.SOURCES[TASK]}
    origin = results.origins(job["task"])[job["variant"]]
    known = {"metrics": metrics, "seconds": 240, "predictions": None, "environment": {"clean": True}}
    return job | known | origin | changes


# ---------------------------------------------------------------- as peças


def append_many(path, letter):
    for i in range(200):
        benchmark.append(path, {"letter": letter * 2_000, "i": i})


def test_two_processes_do_not_mix_their_lines(tmp_path):
    path = tmp_path / "linhas.jsonl"
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    writers = [context.Process(target=append_many, args=(path, letter)) for letter in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    rows = results.parsed(path)  # entre duas pode sobrar uma linha vazia, que não é de ninguém
    assert Counter((row["letter"][0], row["i"]) for row in rows) == Counter((x, i) for x in "ab" for i in range(200))


def test_a_line_cut_in_the_middle_does_not_spoil_the_next(file):
    first, second = (done(experiments.get(TASK, "full").job("test", 5e-4, seed=seed)) for seed in range(2))
    file.write_text(json.dumps(first) + "\n" + json.dumps(second)[:80], "utf-8")
    benchmark.append(file, second)
    assert results.read(TASK) == [first, second]


@pytest.fixture
def bench(file, monkeypatch):
    """A bancada sem treino: cada trabalho vira a linha de `done`. Devolve os trabalhos que rodaram.

    Com umas poucas experiências de cada feitio: o plano se refaz a cada linha, e com todas levaria meio minuto.
    """
    ran, few = [], ("majority", "without_labels", "random", "head", "lora", "full", "lora_r64")
    results.origins(TASK)  # fica guardada: a de todas, e não só a destas
    monkeypatch.setattr(experiments, "EXPERIMENTS", tuple(e for e in experiments.EXPERIMENTS if e.variant in few))

    def run(job):
        ran.append(job)
        return done(job)

    monkeypatch.setattr(benchmark, "run", run)
    monkeypatch.setattr(benchmark, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    monkeypatch.setattr(environment, "usable_cores", lambda: 2)
    return ran


def test_the_bench_searches_tests_and_runs_nothing_twice(bench, capsys):
    benchmark.execute(TASK)
    assert len(bench) == len(set(map(results.key, bench))) == len(results.current(TASK))
    best = results.best_rates(TASK)
    assert best == {e.variant: 5e-4 for e in experiments.of(TASK) if e.rates}  # onde quer que a busca comece
    for e in experiments.of(TASK):
        tested = [job["seed"] for job in bench if (job["variant"], job["split"]) == (e.variant, "test")]
        assert sorted(tested, key=str) == [*e.seeds]
    assert len(results.tested(TASK)) == sum(len(e.seeds) for e in experiments.of(TASK))
    benchmark.execute(TASK)
    said = capsys.readouterr().out.splitlines()
    assert len(set(map(results.key, bench))) == len(bench) and "faltam 0: nada" in said[-1]
    benchmark.execute(TASK, everything=True)
    assert len(results.explained(TASK)) == 2 + len(experiments.EXPLANATIONS)


def test_what_ran_before_a_failure_is_kept_and_only_the_rest_runs_again(bench, monkeypatch):
    run, fails = benchmark.run, {"variant": "lora"}

    def flaky(job):
        if job["variant"] == fails["variant"]:
            raise RuntimeError("faltou luz")
        return run(job)

    monkeypatch.setattr(benchmark, "run", flaky)
    with pytest.raises(RuntimeError, match="faltou luz"):
        benchmark.execute(TASK)
    before = len(bench)
    assert before == len(results.read(TASK)) > 20 and "lora" not in {r["variant"] for r in results.read(TASK)}
    fails["variant"] = None
    benchmark.execute(TASK)
    assert {job["variant"] for job in bench[before:]} == {"lora"}


def test_a_row_of_other_weights_runs_again(bench, file):
    benchmark.execute(TASK)
    rows = results.read(TASK)
    file.write_text("".join(json.dumps(r | ({"model": "x"} if r["model"] else {})) + "\n" for r in rows), "utf-8")
    bench.clear()
    benchmark.execute(TASK)
    assert {job["variant"] for job in bench} == {e.variant for e in experiments.of(TASK) if e.uses_model}


def test_the_plan_says_what_is_missing_and_how_long_it_takes(file, monkeypatch):
    monkeypatch.setattr(environment, "usable_cores", lambda: 2)
    jobs = [experiments.get(TASK, "full").job("test", 5e-4, seed=seed) for seed in range(4)]
    benchmark.append(file, done(jobs[0]))
    missing, sentence = benchmark.plan(TASK, jobs)
    assert missing == jobs[1:] and sentence == "4 execuções, faltam 3: 3 de full; uns 6 min"
    others = [experiments.get(TASK, "lora").job("test", 5e-4, seed=seed) for seed in range(4)]
    assert benchmark.plan(TASK, jobs + others)[1].endswith("3 de full, 4 de lora; uns 6 min, sem contar lora")


def test_rows_of_another_machine_are_taken_in_only_if_they_can_be_traced(bench, file, tmp_path, capsys):
    jobs = [experiments.get(TASK, "full").job("test", 5e-4, seed=seed) for seed in range(5)]
    benchmark.append(file, done(jobs[0]))
    folder = tmp_path / "fora"
    folder.mkdir()
    good = done(jobs[4])
    rows = [done(jobs[0]), done(jobs[1], model="x"), done(jobs[2], data="x"), done(jobs[3], environment={}), good, good]
    text = "".join(json.dumps(r) + "\n" for r in rows) + json.dumps(done(jobs[3]))[:50]
    (folder / f"{TASK}.jsonl").write_text(text, "utf-8")
    (folder / "outra.jsonl").write_text("{}\n", "utf-8")
    benchmark.take_in(folder)
    assert results.read(TASK) == [done(jobs[0]), good]
    said = capsys.readouterr().out
    for words in ("1 acrescentadas", "2 de outros dados", "1 de um código com mudanças", "2 já estavam"):
        assert words in said


@pytest.mark.parametrize("variant", ["ia3", "qlora"])
def test_a_run_has_the_rate_of_its_head_and_the_base_of_its_experiment(monkeypatch, variant):
    """O que se acrescenta treina na taxa procurada, a cabeça na dela; em NF4, a base de LoRA."""
    experiment, seen = experiments.get(TASK, variant), {}
    monkeypatch.setattr(benchmark.models, "load", lambda *_, **__: (toy_model(), tokenizer()))
    monkeypatch.setattr(training, "train", lambda model, _, __, **given: seen.update(given, model=model))
    benchmark.trained(toy_task(), experiment, experiment.job("test", 1e-2, seed=0))
    trained = {n for n, p in seen["model"].named_parameters() if p.requires_grad}
    head = {n for n in trained if "classifier" in n or "pooler" in n}
    rates = {n: seen["lr"] * seen.get("multipliers", {}).get(n, 1) for n in trained}
    assert head < trained and {rates[n] for n in trained - head} == {1e-2}
    assert [rates[n] for n in head] == pytest.approx([experiment.head_lr or 1e-2] * len(head))
    assert bool(modules.quantized(seen["model"])) == (variant == "qlora")


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

    def tiny(family, task, profile, pretrained=True, seed=0):
        assert profile == "embutido"
        model, tokenizer = toy_writer(family == "t5", seed=seed + 10 * pretrained)
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.model_max_length = 512
        return model, tokenizer

    general = tasks.general_text()
    monkeypatch.setattr(tasks, "load", cut)
    monkeypatch.setattr(tasks, "general_text", lambda: replace(general, test=general.test.select(range(3))))
    monkeypatch.setattr(benchmark.models, "load", tiny)
    monkeypatch.setattr(experiments, "STEPS", dict.fromkeys(experiments.STEPS, 2))
    monkeypatch.setattr(experiments, "BATCH", 4)
    results.origins.cache_clear()  # os dados cortados têm outro resumo
    yield
    results.origins.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("name", tasks.WRITTEN)
def test_the_plan_of_a_written_task_runs_and_gives_its_table(file, small, name):
    """O plano, em dois passos e com a primeira semente: a taxa sai da perda na validação, e a tabela tem de tudo."""
    first, _ = experiments.MEASURES[name]
    while missing := [job for job in benchmark.plan(name, benchmark.next_jobs(name))[0] if not job["seed"]]:
        for job in missing:
            benchmark.append(results.path(name), benchmark.run(job))
    rows = results.read(name)
    assert rows == results.current(name)
    sweep = [r for r in rows if r["split"] == "validation"]
    assert all(r["predictions"] is None and first not in r["metrics"][s] for r in sweep for s in r["metrics"])
    assert all(len(r["train_loss"]) == min(10, r["steps"]) for r in rows if r["lr"])
    losses = {(r["variant"], r["lr"]): np.mean([m["loss"] for m in r["metrics"].values()]) for r in sweep}
    for variant, rate in results.best_rates(name).items():
        tried = [lr for v, lr in losses if v == variant and len(experiments.get(name, variant).rates) > 1]
        assert rate == min(tried, key=lambda lr: losses[variant, lr], default=rate)

    tested = {r["variant"]: r["metrics"] for r in rows if r["split"] == "test"}
    assert tested.keys() == experiments.names(name).keys()
    assert {first, "n"} <= set.intersection(*(set(m) for metrics in tested.values() for m in metrics.values()))
    general = {r["variant"] for r in rows if r["general_loss"]}
    assert general == {e.variant for e in experiments.of(name) if e.uses_model and e.pretrained}
    table = results.summary(name)
    assert set(table["variant"]) == set(tested) and set(table["source"]) == set(experiments.SOURCES[name])
    assert "Ainda a medir" not in results.markdown(name)
    task = tasks.load(name)
    for r in rows:
        if r["predictions"]:
            measured = benchmark.measure(task, results.evaluated(task, "test"), r["predictions"])
            stored = {(s, k): r["metrics"][s][k] for s, m in measured.items() for k in m}
            assert stored == pytest.approx({(s, k): v for s, m in measured.items() for k, v in m.items()}, abs=6e-5)


# ---------------------------------------------------------------- o que está publicado


@each_task
def test_every_published_row_can_be_traced(name):
    """Cada linha é de um trabalho do plano, nos dados e nos pesos de hoje, de um código gravado."""
    rows = results.read(name)
    assert rows == results.current(name), f"{results.path(name)} tem linhas de outros dados ou pesos: refaça-as"
    planned = set(map(results.key, benchmark.next_jobs(name, everything=True)))
    assert {results.key(r) for r in rows} <= planned
    for r in rows:
        assert r["environment"]["clean"] is True
        assert all(r["environment"][fact] for fact in ("commit", "torch", "transformers", "processor"))


@pytest.mark.slow
@pytest.mark.parametrize("task", [experiments.BERT, experiments.LLAMA, experiments.T5])
def test_a_recorded_run_gives_the_same_when_it_is_run_again(task):
    """Um treino de vinte passos: as perdas do caminho e as medidas na validação são as gravadas."""
    job = benchmark.probe(task)
    recorded = {results.key(r): r for r in results.current(task)}.get(results.key(job))
    if recorded is None:
        pytest.skip(f"o treino curto de {task} ainda não foi gravado: make bancada TAREFA={task}")
    again = benchmark.run(job)
    assert again["train_loss"] == pytest.approx(recorded["train_loss"], rel=2e-3)
    measure = "accuracy" if task == experiments.BERT else "loss"
    for source, metrics in recorded["metrics"].items():
        assert again["metrics"][source][measure] == pytest.approx(metrics[measure], rel=0.01)
    if task == experiments.BERT:
        same = [a == b for a, b in zip(again["predictions"], recorded["predictions"], strict=True)]
        assert np.mean(same) > 0.98


@each_task
def test_the_metrics_are_those_of_the_predictions(name):
    task = tasks.load(name)
    for r in results.read(name):
        known = results.evaluated(task, r["split"])
        if r["predictions"] is None:  # na validação nada se escreve: só se mede a perda
            assert r["split"] == "validation" and not task.labels
            continue
        measured = benchmark.measure(task, known, [*map(int, r["predictions"])] if task.labels else r["predictions"])
        assert r["metrics"].keys() == measured.keys() == set(results.sources_of(task, known))
        for source, known_metrics in measured.items():
            stored = {name: r["metrics"][source][name] for name in known_metrics}
            assert stored == pytest.approx(known_metrics, abs=6e-5), results.key(r)


def complete(task):
    """Pula o teste enquanto a tabela da tarefa tem o que medir: o cartão fala de uma tabela inteira."""
    if "Ainda a medir" in results.markdown(task) or "sementes)" in results.markdown(task):
        pytest.skip(f"a tabela de {task} ainda tem o que medir")


def test_what_the_card_says_of_the_written_skills():
    """Semente a semente: quem ganha na perda e no esquecimento, e o que a chrF não separa."""
    complete("habilidade_bncc")
    runs = {}
    for r in results.tested("habilidade_bncc"):
        runs.setdefault(r["variant"], []).append(r["metrics"]["bncc"])
    measured = {v: {k: np.array([m[k] for m in rows]) for k in rows[0]} for v, rows in runs.items()}
    full, lora, random, zero_shot = (measured[v] for v in ("full", "lora", "random", "zero_shot"))
    assert full["loss"].max() < lora["loss"].min()
    assert lora["loss"].max() < zero_shot["loss"] < random["loss"].min()
    general = measured_general("habilidade_bncc")
    assert general["zero_shot"].max() < general["full"].min() <= general["full"].max() < general["lora"].min()
    trained = np.concatenate([full["chrf"], lora["chrf"], random["chrf"]])
    echo, retrieval = (measured[v]["chrf"].item() for v in ("echo", "retrieval"))
    assert zero_shot["chrf"] < echo < np.mean(lora["chrf"]) and trained.max() < retrieval
    assert abs(np.mean(full["chrf"]) - np.mean(random["chrf"])) < 1.5 > abs(np.mean(lora["chrf"] - random["chrf"]))


def measured_general(task):
    """{variante: a perda no texto geral em cada semente do teste}"""
    found = {}
    for r in results.tested(task):
        found.setdefault(r["variant"], []).append(r.get("general_loss") or np.nan)
    return {variant: np.array(values) for variant, values in found.items()}


def measured(task, measure="exact"):
    """{(variante, fonte): o que cada semente do teste tem}"""
    found = {}
    for r in results.tested(task):
        for source, metrics in r["metrics"].items():
            found.setdefault((r["variant"], source), []).append(metrics.get(measure, np.nan))
    return {place: np.array(values) for place, values in found.items()}


def test_what_the_card_says_of_the_filled_gaps():
    """Semente a semente: quem passa dos bigramas e do modelo sem ajuste, e o que os pesos sorteados aprendem."""
    complete("complete")
    exact, loss = measured("complete"), measured("complete", "loss")
    for source in experiments.SOURCES["complete"]:
        lines = [exact[name, source].item() for name in ("frequent", "neighbours", "zero_shot")]
        assert min(exact["full", source].min(), exact["lora", source].min()) > max(lines)
        assert loss["full", source].max() < loss["lora", source].min() < loss["random", source].min()
    for source in ("ajuda", "noticias"):
        assert exact["zero_shot", source].item() < exact["neighbours", source].item()
        assert abs(exact["full", source].mean() - exact["lora", source].mean()) < 0.01
    assert exact["full", "curriculo"].min() > exact["lora", "curriculo"].max()
    assert exact["zero_shot", "ajuda"].item() == pytest.approx(0.4, abs=0.01)
    assert exact["zero_shot", "noticias"].item() == pytest.approx(0.2, abs=0.01)
    random = [r["predictions"] for r in results.tested("complete") if r["variant"] == "random"]
    assert {answer for answers in random for answer in answers} == {"a"}


@pytest.mark.parametrize("task, baseline", [("corrija", "bigrams"), ("acentue", "dictionary")])
def test_what_the_cards_say_of_what_t5_does_not_reach(task, baseline):
    complete(task)
    exact = measured(task)
    for source in experiments.SOURCES[task]:
        assert exact["full", source].max() < exact[baseline, source].item()
        assert exact["zero_shot", source].item() < 0.002
    assert exact["full", "ajuda"].min() > exact["echo", "ajuda"].item()


def test_how_much_the_cards_say_that_t5_mends_and_accents():
    for (task, measure), shares in {
        ("corrija", "mended"): {"ajuda": 3, "noticias": 7, "curriculo": 8},
        ("acentue", "accented"): {"ajuda": 10 / 6, "noticias": 3, "curriculo": 3},
    }.items():
        complete(task)
        found = measured(task, measure)
        for source, one_in in shares.items():
            assert found["full", source].mean() == pytest.approx(1 / one_in, abs=0.03)


@each_task
def test_the_published_table_is_the_measured_one(name):
    pages = [text for page in PAGES if f"<!-- tabela:{name} -->" in (text := page.read_text("utf-8"))]
    assert len(pages) == 1, f"a tabela de {name} fica numa página, entre <!-- tabela:{name} --> e <!-- fim -->"
    table, end, _ = pages[0].partition(f"<!-- tabela:{name} -->")[2].partition("<!-- fim -->")
    assert end and table.strip() == results.markdown(name)


@pytest.mark.parametrize("source", ["ajuda", "noticias"])
@pytest.mark.parametrize("baseline", ["random", "head"])
def test_full_fine_tuning_passes_its_gate(source, baseline):
    complete(TASK)
    mean = results.summary(TASK).set_index(["variant", "source"])["accuracy"]
    assert mean["full", source] >= mean[baseline, source] + 0.15
