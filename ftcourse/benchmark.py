"""A bancada: roda as experiências que faltam e grava uma linha por execução em data/resultados.

    make bancada                         # mostra o plano e o tempo, roda o que falta e refaz as tabelas
    make bancada TAREFA=aceitabilidade   # só uma tarefa
    make bancada TUDO=tudo               # e os treinos que separam explicações, do caderno 04
    make bancada IMPORTA=pasta           # acrescenta as linhas que a mesma bancada mediu em outra máquina

Cada execução ocupa um núcleo e vira uma linha de JSON, com as previsões, as métricas, o tempo, o ambiente e o resumo
dos dados e dos pesos. Interrompida a qualquer momento, continua do que está gravado.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from ftcourse import (
    baselines,
    costs,
    environment,
    evaluation,
    experiments,
    forgetting,
    methods,
    models,
    modules,
    qlora,
    results,
    tasks,
    training,
)
from ftcourse.experiments import PROBE_STEPS, Experiment
from ftcourse.files import choose, write_jsonl
from ftcourse.text_tasks import TextTask

# ---------------------------------------------------------------- uma execução


def run(job: dict) -> dict:
    """Roda um trabalho num núcleo e devolve a linha de resultado."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    task, experiment = tasks.load(job["task"]), experiments.get(job["task"], job["variant"])
    known = results.evaluated(task, job["split"])
    model, tokenizer, history = trained(task, experiment, job) if experiment.technique else (None, None, None)
    if experiment.variant == "zero_shot":
        model, tokenizer = models.load(experiment.family, task, profile="embutido")
    answers, metrics, general = None, {}, None
    if model and experiment.pretrained and job["split"] == "test":
        general = round(forgetting.general_loss(model, tokenizer, "embutido"), 4)
    if model is None:
        answers = baseline(task, known, experiment.variant)
    elif not isinstance(task, TextTask):
        answers = evaluation.predict(model, tokenizer, task, known).argmax(-1).tolist()
    else:
        metrics = losses(model, tokenizer, task, known)
        if job["split"] == "test":  # na validação, que só escolhe a taxa, nada se escreve: levaria mais que treinar
            answers = evaluation.generate(model, tokenizer, task, known)
    if answers is not None:
        metrics = {source: metrics.get(source, {}) | m for source, m in measure(task, known, answers).items()}
    return {
        **job,
        "metrics": {s: {k: round(v, 4) for k, v in m.items()} for s, m in metrics.items()},
        "general_loss": general,
        "train_loss": history and tenths(history.loss),
        "seconds": round(time.perf_counter() - started),
        "predictions": "".join(map(str, answers)) if answers and task.labels else answers,
        **results.origins(task.name)[experiment.variant],
        "environment": environment.describe(),
    }


def tenths(losses: list[float]) -> list[float]:
    """A perda média em cada décimo de um treino: a curva dele, em dez números ou menos."""
    return [round(float(part.mean()), 4) for part in np.array_split(losses, min(10, len(losses)))]


def trained(task: tasks.Task, experiment: Experiment, job: dict) -> tuple:
    """(modelo, tokenizador, histórico) de uma experiência, já treinada."""
    model, tokenizer = models.load(
        experiment.family, task, profile="embutido", pretrained=experiment.pretrained, seed=job["seed"]
    )
    if experiment.quantized:
        qlora.quantize_model(model)
    methods.apply(model, experiment.technique, seed=job["seed"], **experiment.settings)
    settings = {name: job[name] for name in ("lr", "steps", "batch_size", "seed")}
    if job["head_lr"]:
        settings["multipliers"] = dict.fromkeys(modules.head_parameters(model), job["head_lr"] / job["lr"])
    return model, tokenizer, training.train(model, tokenizer, task, **settings)


def baseline(task: tasks.Task, known: datasets.Dataset, variant: str) -> list:
    """O que uma linha de base responde a cada linha: rótulos ou textos."""
    if variant == "without_labels":
        return without_labels(task, known)
    return list(getattr(baselines, variant)(task, known))


def without_labels(task: tasks.Task, known: datasets.Dataset, calibration: int = 600) -> list[int]:
    """A nota sem rótulos vira resposta com um corte só, o que mais acerta em `calibration` frases da validação."""
    model, tokenizer = models.load("bert", profile="embutido")
    sample = task.validation.shuffle(seed=0).select(range(min(calibration, len(task.validation))))
    scores, labels = baselines.without_labels(model, tokenizer, sample["text"]), np.array(sample["label"])
    cut = max(scores, key=lambda c: ((scores >= c) == labels).mean())
    return (baselines.without_labels(model, tokenizer, known["text"]) >= cut).astype(int).tolist()


def losses(model: Any, tokenizer: Any, task: TextTask, known: datasets.Dataset) -> dict[str, dict[str, float]]:
    """O que o modelo perde nas respostas, por fonte: {fonte: medidas}."""
    found, sources = evaluation.token_losses(model, tokenizer, task, known), results.sources_of(task, known)
    measured = {}
    for source in dict.fromkeys(sources.tolist()):
        places = np.flatnonzero(sources == source)
        measured[source] = task.loss_metrics([found[i] for i in places], tokenizer, known.select(places))
    return measured


def measure(task: tasks.Task, known: datasets.Dataset, answers: list) -> dict[str, dict[str, float]]:
    """As métricas de umas respostas às linhas `known`, por fonte: {fonte: {medida: valor}}."""
    sources, measured = results.sources_of(task, known), {}
    labels = np.array(known["label"]) if task.labels else None
    for source in dict.fromkeys(sources.tolist()):
        places = np.flatnonzero(sources == source)
        wanted = known.select(places) if labels is None else labels[places]
        measured[source] = task.metrics([answers[i] for i in places], wanted)
    return measured


# ---------------------------------------------------------------- o que falta


def probe(task: str) -> dict:
    """Um treino de poucos passos, medido na validação: barato o bastante para um teste o repetir e comparar."""
    experiment = experiments.get(task, "full")
    return experiment.job("validation", experiment.rates[0], PROBE_STEPS, seed=0)


def next_jobs(task: str, everything: bool = False) -> list[dict]:
    """Os trabalhos que já se podem rodar, gravados ou não: as linhas de base, a busca da taxa e, onde acabou, o teste.

    A busca se estende enquanto a melhor taxa está na borda das tentadas, e por isso o plano cresce com as medidas.
    everything: também os treinos que separam explicações.
    """
    table, best = results.swept(task), results.best_rates(task)
    jobs = [e.job("test") for e in experiments.of(task) if not e.rates] + [probe(task)]
    for e in reversed(experiments.of(task)):  # primeiro o que fecha a tabela
        if len(e.rates) > 1:
            tried = table.loc[table["variant"] == e.variant, "lr"]
            jobs += [e.job("validation", lr, seed=0) for lr in (*tried, *results.search(e, table)[1])]
        if e.variant in best:
            jobs += [e.job("test", best[e.variant], seed=seed) for seed in e.seeds]
    if everything and task == experiments.BERT:
        ready = [run for run in experiments.EXPLANATIONS if run[1] in best]
        jobs += [results.explanation(task, best, *run) for run in ready]
    return jobs


def plan(task: str, jobs: list[dict]) -> tuple[list[dict], str]:
    """O que falta rodar, dito antes de começar: (os trabalhos, uma frase com quantos e o tempo que devem levar).

    O tempo sai das execuções gravadas: o que ainda não rodou não se conta.
    """
    done = results.current(task)
    known = set(map(results.key, done))
    missing = [job for job in jobs if results.key(job) not in known]
    pace: dict[str, list[float]] = {}  # {variante: segundos por passo, nas execuções gravadas}
    for r in done:
        pace.setdefault(r["variant"], []).append(r["seconds"] / (r["steps"] or 1))
    seconds = sum(np.median(pace[job["variant"]]) * (job["steps"] or 1) for job in missing if job["variant"] in pace)
    count = Counter(job["variant"] for job in missing)
    listed = ", ".join(f"{n} de {variant}" for variant, n in count.items()) or "nada"
    unknown = ", ".join(variant for variant in count if variant not in pace)
    minutes = f"uns {seconds / 60 / environment.usable_cores():.0f} min" + (unknown and f", sem contar {unknown}")
    return missing, f"{len(jobs)} execuções, faltam {len(missing)}: {listed}; {minutes}"


def append(path: Path, row: dict) -> None:
    """Acrescenta uma linha a um arquivo, de uma vez só: dois processos que escrevem nele não misturam as suas.

    Uma linha que uma interrupção deixou pela metade fica à parte, e não estraga a nova.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        torn = b"\n" if file.read(1) not in (b"", b"\n") else b""
        file.write(torn + json.dumps(row, ensure_ascii=False).encode() + b"\n")
        os.fsync(file.fileno())


def execute(task: str, everything: bool = False) -> None:
    """Roda o que falta de uma tarefa, um trabalho por núcleo, e grava cada linha assim que fica pronta.

    Depois de cada linha o plano se refaz: é ela que diz se a busca de uma taxa acabou. Levanta, no fim, a primeira
    falha; o que rodou fica gravado.
    """
    missing, sentence = plan(task, next_jobs(task, everything))
    print(f"{task}: {sentence}", flush=True)
    if not missing:
        return
    if not environment.code()["clean"]:
        print("Há mudanças por gravar no código ou nos dados: estas linhas não servem para publicar.", flush=True)
    os.environ["TQDM_DISABLE"] = "1"  # nos processos filhos: dois treinos não dividem uma barra
    workers = environment.usable_cores()
    running: dict[Future, str] = {}
    failures: dict[str, BaseException] = {}
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            while missing or running:
                for job in missing[: workers - len(running)]:
                    running[pool.submit(run, job)] = results.key(job)
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    key = running.pop(future)
                    if error := future.exception():
                        failures[key] = error
                    else:
                        append(results.path(task), future.result())
                missing, sentence = plan(task, next_jobs(task, everything))
                print(f"{task}: {sentence}", flush=True)
                taken = {*running.values(), *failures}
                missing = [job for job in missing if results.key(job) not in taken]
        except BaseException:  # Ctrl-C: o que não começou não começa, porque ninguém o gravaria
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for error in failures.values():
        raise error


def take_in(folder: Path) -> None:
    """Acrescenta aos resultados as linhas que a mesma bancada mediu em outra máquina, e diz quantas recusou e por quê.

    Vale a linha de uma execução conhecida, dos dados e dos pesos de hoje e de um código sem mudanças por gravar.
    """
    for path in sorted(folder.glob("*.jsonl")):
        if (task := path.stem) not in experiments.FAMILY:
            continue
        done = {results.key(r) for r in results.current(task)}
        what: Counter[str] = Counter()
        for row in results.parsed(path):
            if not results.current(task, [row]):
                what["de outros dados, outros pesos ou outra experiência"] += 1
            elif not row.get("environment", {}).get("clean"):
                what["de um código com mudanças por gravar"] += 1
            elif results.key(row) in done:
                what["já estavam aqui"] += 1
            else:
                append(results.path(task), row)
                done.add(results.key(row))
                what["acrescentadas"] += 1
        print(f"{path}: " + ("; ".join(f"{n} {why}" for why, n in what.items()) or "nenhuma linha inteira") + ".")


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser("bancada", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TAREFA", help=", ".join(experiments.FAMILY))
    parser.add_argument("--tudo", action="store_true", help="também os treinos que separam explicações")
    parser.add_argument("--importa", type=Path, metavar="PASTA", help="linhas medidas em outra máquina")
    given = parser.parse_args(arguments)
    if given.importa and not given.importa.is_dir():
        sys.exit(f"Não encontrei a pasta {given.importa}, de onde viriam as linhas medidas em outra máquina.")
    chosen = [choose("a tarefa da comparação,", task, experiments.FAMILY) for task in given.tasks or experiments.FAMILY]
    if given.importa:
        take_in(given.importa)
    for task in chosen:
        if not given.importa:
            execute(task, given.tudo)
        results.publish(task)
        print(results.markdown(task))
    if not given.importa and not costs.COSTS.exists():
        print("custo de cada técnica, com a máquina livre: uns cinco minutos", flush=True)
        write_jsonl(costs.COSTS, [row for task in experiments.COMPARED for row in costs.measure(task=task)])


if __name__ == "__main__":
    main()
