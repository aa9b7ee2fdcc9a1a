"""As execuções que viram resultado: o que se compara, com que taxa, em quantas sementes, e a tabela que sai disso.

    python -m ftcourse.benchmark            # mostra o plano, roda o que falta e grava em data/resultados

Cada execução ocupa um núcleo e vira uma linha de JSON, com as previsões, as métricas, o tempo e o ambiente.
Interrompida, a bancada continua do que já está gravado.
"""

import hashlib
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed

import datasets
import numpy as np
import pandas as pd
import scipy.stats
import torch
from tqdm.auto import tqdm

from ftcourse import environment, models, tasks, training
from ftcourse.files import DATA, write_jsonl

STEPS = {"aceitabilidade": 1_350, "bncc_componente": 300}  # umas três épocas e umas dez
BATCH = 32
SEEDS = range(5)
RATES = {  # a taxa sai da validação, com a semente 0 e todos os passos: a melhor de um treino curto é alta demais
    "full": (2e-4, 5e-4, 1e-3, 2e-3),
    "random": (2e-5, 1e-4),
    "head": (3e-4, 1e-3, 3e-3),
}
BASELINES = {"aceitabilidade": ("majority", "tfidf", "without_labels"), "bncc_componente": ("majority", "tfidf")}
NAMES = {
    "majority": "classe majoritária",
    "tfidf": "TF-IDF e regressão logística",
    "random": "ajuste completo, pesos sorteados",
    "head": "só a cabeça, modelo congelado",
    "without_labels": "excesso de espanto, só o corte usa rótulos",
    "full": "ajuste completo do mini-BERT-pt",
}
SOURCES = {
    "aceitabilidade": {"ajuda": "ajuda", "noticias": "notícias", "curriculo": "currículo, fora do domínio"},
    "bncc_componente": {"bncc": "componente da BNCC"},
}


def path(task):
    """O arquivo em que ficam os resultados de uma tarefa."""
    return DATA / "resultados" / f"{task}.jsonl"


def rows(task, split):
    """As linhas avaliadas numa divisão; em "test" entram também as da fonte que o treino não viu."""
    if split == "test" and task.out_of_domain:
        return datasets.concatenate_datasets([task.test, task.out_of_domain])
    return getattr(task, split)


def sources_of(task, known):
    """A fonte de cada linha: (n,). Uma tarefa de fonte única não a repete em cada linha."""
    return np.array(known["source"] if "source" in known.column_names else [*SOURCES[task.name]] * len(known))


def predictions(task, split, variant, lr, steps, seed):
    """O que uma variante responde numa divisão: (n,) rótulos."""
    known = rows(task, split)
    if variant == "majority":
        return tasks.majority(task, known)
    if variant == "tfidf":
        return tasks.tfidf(task, known)
    if variant == "without_labels":
        return without_labels(task, known)
    model, tokenizer = models.load("bert", task, pretrained=variant != "random", seed=seed)
    if variant == "head":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(models.FAMILIES["bert"].head))
    training.train(model, tokenizer, task, lr=lr, steps=steps, batch_size=BATCH, seed=seed)
    return training.predict(model, tokenizer, task, known).argmax(-1).numpy()


def without_labels(task, known, calibration=600):
    """A nota sem rótulos vira resposta com um corte só, o que mais acerta em `calibration` frases da validação."""
    model, tokenizer = models.load("bert")
    sample = task.validation.shuffle(seed=0).select(range(min(calibration, len(task.validation))))
    scores, labels = tasks.without_labels(model, tokenizer, sample["text"]), np.array(sample["label"])
    cut = max(scores, key=lambda c: ((scores >= c) == labels).mean())
    return (tasks.without_labels(model, tokenizer, known["text"]) >= cut).astype(int)


def run(job):
    """Roda um trabalho num núcleo e devolve a linha de resultado."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    task = tasks.load(job["task"])
    answers = predictions(task, **{k: v for k, v in job.items() if k != "task"})
    known = rows(task, job["split"])
    sources, labels = sources_of(task, known), np.array(known["label"])
    metrics = {s: task.metrics(answers[sources == s], labels[sources == s]) for s in dict.fromkeys(sources.tolist())}
    return {
        **job,
        "metrics": {s: {k: round(v, 4) for k, v in m.items()} for s, m in metrics.items()},
        "seconds": round(time.perf_counter() - started),
        "predictions": "".join(map(str, answers)),
        "data": fingerprint(known),
        "environment": environment.describe(),
    }


def fingerprint(known):
    """Um resumo das frases avaliadas, com que um teste confere se o resultado gravado é dos dados de hoje."""
    return hashlib.sha256("\n".join(known["text"]).encode()).hexdigest()[:12]


def key(row):
    return tuple(row[k] for k in ("task", "variant", "split", "lr", "steps", "seed"))


def load(task):
    """Os resultados gravados, um dicionário por linha. Uma última linha cortada por uma interrupção é ignorada."""
    if not path(task).exists():
        return []
    complete, _, _ = path(task).read_text(encoding="utf-8").rpartition("\n")
    return [json.loads(line) for line in complete.splitlines()]


def sweep(task):
    """Os trabalhos que escolhem a taxa de cada variante."""
    common = {"task": task, "split": "validation", "steps": STEPS[task], "seed": 0}
    for variant, rates in RATES.items():
        for lr in rates:
            yield {**common, "variant": variant, "lr": lr}


def best_rate(task, variant, done):
    """A taxa com a maior acurácia média entre as fontes na validação."""
    planned = set(map(key, sweep(task)))
    tried = [r for r in done if r["variant"] == variant and key(r) in planned]
    return max(tried, key=lambda r: np.mean([m["accuracy"] for m in r["metrics"].values()]))["lr"]


def final(task):
    """Os trabalhos da tabela: cinco sementes de cada variante, e as linhas de base, que não têm semente."""
    done, common = load(task), {"task": task, "split": "test"}
    for variant in BASELINES[task]:
        yield {**common, "variant": variant, "lr": None, "steps": None, "seed": None}
    for seed in SEEDS:
        for variant in RATES:
            yield {**common, "variant": variant, "lr": best_rate(task, variant, done), "steps": STEPS[task], "seed": seed}


def execute(task, jobs, label):
    """Roda os trabalhos que faltam, um por núcleo, e grava cada linha assim que fica pronta."""
    done = load(task)
    write_jsonl(path(task), done)  # sem a linha cortada, se havia
    missing = [job for job in jobs if key(job) not in set(map(key, done))]
    print(f"{task}, {label}: {len(missing)} execuções por fazer", flush=True)
    if not missing:
        return
    os.environ["TQDM_DISABLE"] = "1"  # nos processos filhos; a barra que interessa é a de fora
    context = multiprocessing.get_context("spawn")
    workers = min(environment.usable_cores(), len(missing))
    with ProcessPoolExecutor(workers, mp_context=context) as pool, path(task).open("a", encoding="utf-8") as file:
        futures = [pool.submit(run, job) for job in missing]
        failures = []
        for future in tqdm(as_completed(futures), total=len(futures), desc=label, unit="execução", disable=False):
            if future.exception():
                failures.append(future.exception())  # as outras, já prontas, são gravadas antes de a falha subir
                continue
            file.write(json.dumps(future.result(), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
    if failures:
        raise failures[0]


def interval(values):
    """Média e metade do intervalo de 95 % (t de Student); sem repetição, a metade é nan."""
    values = np.asarray(values, float)
    if len(values) < 2:
        return values.mean(), np.nan
    return values.mean(), scipy.stats.t.ppf(0.975, len(values) - 1) * scipy.stats.sem(values)


def summary(task):
    """Um DataFrame com uma linha por (variante, fonte): média e meio intervalo de acurácia e MCC, sementes e n."""
    done = [r for r in load(task) if r["split"] == "test"]
    table = []
    for variant in NAMES:
        runs = [r["metrics"] for r in done if r["variant"] == variant]
        for source in SOURCES[task] if runs else ():
            accuracy, mcc = (interval([m[source][k] for m in runs]) for k in ("accuracy", "mcc"))
            table.append((variant, source, *accuracy, *mcc, len(runs), runs[0][source]["n"]))
    columns = ["variant", "source", "accuracy", "accuracy_half", "mcc", "mcc_half", "seeds", "n"]
    return pd.DataFrame(table, columns=columns)


def by_kind():
    """Um DataFrame com a fração de falhas que o ajuste completo acha, por tipo e fonte: média das sementes.

    A última linha é o alarme falso: a fração das frases bem escritas que ele também acusa.
    """
    task = tasks.load("aceitabilidade")
    known = rows(task, "test").to_pandas().fillna({"kind": "alarme falso"})
    runs = [r for r in load(task.name) if r["variant"] == "full" and r["split"] == "test"]
    known["accused"] = np.mean([[answer == "0" for answer in r["predictions"]] for r in runs], axis=0)
    table = known.groupby(["kind", "source"])["accused"].mean().unstack()[list(SOURCES[task.name])]
    return table.loc[[*table.index.drop("alarme falso"), "alarme falso"]]


def markdown(task):
    """A tabela dos resultados: acurácia, com o intervalo de 95 % das cinco sementes, e MCC entre parênteses."""
    table, sources = summary(task).set_index(["variant", "source"]), SOURCES[task]

    def cell(variant, source):
        row = table.loc[variant, source]
        spread = "" if np.isnan(row.accuracy_half) else f" ± {row.accuracy_half:.3f}"
        return f"{row.accuracy:.3f}{spread} ({row.mcc:.2f})".replace(".", ",")

    lines = ["| | " + " | ".join(sources.values()) + " |", "|---|" + "---|" * len(sources)]
    variants = [v for v in NAMES if v in table.index]
    return "\n".join(lines + [f"| {NAMES[v]} | {' | '.join(cell(v, s) for s in sources)} |" for v in variants])


def publish(task):
    """Redesenha a figura dos resultados e, no README do clone, reescreve a tabela entre as marcas da tarefa."""
    from ftcourse import plots

    figure = plots.intervals(summary(task), NAMES, SOURCES[task]).figure
    figure.savefig(path(task).with_suffix(".svg"), metadata={"Date": None})
    readme = DATA.parent / "README.md"
    before, mark, rest = readme.read_text(encoding="utf-8").partition(f"<!-- tabela:{task} -->\n")
    if mark:
        after = rest[rest.index("<!-- fim -->") :]
        readme.write_text(f"{before}{mark}{markdown(task)}\n{after}", encoding="utf-8")


def main():
    for task in STEPS:
        execute(task, list(sweep(task)), "taxas")
        execute(task, list(final(task)), "teste")
        publish(task)
        print(markdown(task))


if __name__ == "__main__":
    main()
