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

RESULTS = DATA / "resultados" / "aceitabilidade.jsonl"
SEEDS = range(5)
STEPS, BATCH = 1_350, 32
RATES = {  # a taxa sai da validação, com a semente 0 e um terço dos passos
    "full": (2e-4, 5e-4, 1e-3),
    "random": (2e-4, 5e-4, 1e-3),
    "frozen": (1e-3, 3e-3, 1e-2),
}
BASELINES = ("majority", "tfidf", "without_labels")
NAMES = {
    "majority": "classe majoritária",
    "tfidf": "TF-IDF e regressão logística",
    "random": "ajuste completo, pesos sorteados",
    "frozen": "só a cabeça, modelo congelado",
    "without_labels": "excesso de espanto, sem rótulos",
    "full": "ajuste completo do mini-BERT-pt",
}
SOURCES = {"ajuda": "ajuda", "noticias": "notícias", "curriculo": "currículo, fora do domínio"}


def rows(task, split):
    """As linhas avaliadas numa divisão; em "test" entram também as da fonte que o treino não viu."""
    return datasets.concatenate_datasets([task.test, task.out_of_domain]) if split == "test" else task.validation


def predictions(task, split, variant, lr, steps, seed):
    """O que uma variante responde numa divisão: (n,) rótulos."""
    if variant in ("majority", "tfidf"):
        parts = ("test", "out_of_domain") if split == "test" else (split,)
        return np.concatenate([getattr(tasks, variant)(task, part) for part in parts])
    if variant == "without_labels":
        return without_labels(task, split)
    model, tokenizer = models.load("bert", task, pretrained=variant != "random", seed=seed)
    if variant == "frozen":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(models.FAMILIES["bert"].head))
    training.train(model, tokenizer, task, lr=lr, steps=steps, batch_size=BATCH, seed=seed)
    return training.predict(model, tokenizer, task, rows(task, split)).argmax(-1).numpy()


def without_labels(task, split, calibration=600):
    """A nota sem rótulos vira resposta com um corte só, o que mais acerta em `calibration` frases da validação."""
    model, tokenizer = models.load("bert")
    known = task.validation.shuffle(seed=0).select(range(min(calibration, len(task.validation))))
    scores, labels = tasks.without_labels(model, tokenizer, known["text"]), np.array(known["label"])
    cut = max(scores, key=lambda c: ((scores >= c) == labels).mean())
    return (tasks.without_labels(model, tokenizer, rows(task, split)["text"]) >= cut).astype(int)


def run(job):
    """Roda um trabalho num núcleo e devolve a linha de resultado."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    task = tasks.load("aceitabilidade")
    answers = predictions(task, **job)
    known = rows(task, job["split"])
    sources, labels = np.array(known["source"]), np.array(known["label"])
    metrics = {s: task.metrics(answers[sources == s], labels[sources == s]) for s in SOURCES if (sources == s).any()}
    return {
        **job,
        "metrics": {s: {k: round(v, 4) for k, v in m.items()} for s, m in metrics.items()},
        "seconds": round(time.perf_counter() - started),
        "predictions": "".join(map(str, answers)),
        "data": fingerprint(known),
        "environment": environment.describe(),
    }


def fingerprint(known):
    """Um resumo das frases avaliadas: resultados de dados diferentes não se misturam numa tabela."""
    return hashlib.sha256("\n".join(known["text"]).encode()).hexdigest()[:12]


def key(row):
    return tuple(row[k] for k in ("variant", "split", "lr", "steps", "seed"))


def load(path=RESULTS):
    """Os resultados gravados, um dicionário por linha. Uma última linha cortada por uma interrupção é ignorada."""
    if not path.exists():
        return []
    complete, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    return [json.loads(line) for line in complete.splitlines()]


def sweep():
    """Os trabalhos que escolhem a taxa de cada variante."""
    for variant, rates in RATES.items():
        for lr in rates:
            yield {"variant": variant, "split": "validation", "lr": lr, "steps": STEPS // 3, "seed": 0}


def best_rate(variant, done):
    """A taxa com a maior acurácia média entre as fontes na validação."""
    tried = [r for r in done if r["variant"] == variant and r["split"] == "validation"]
    return max(tried, key=lambda r: np.mean([m["accuracy"] for m in r["metrics"].values()]))["lr"]


def final(done):
    """Os trabalhos da tabela: cinco sementes de cada variante, e as linhas de base, que não têm semente."""
    for variant in BASELINES:
        yield {"variant": variant, "split": "test", "lr": None, "steps": None, "seed": None}
    for seed in SEEDS:
        for variant in RATES:
            yield {"variant": variant, "split": "test", "lr": best_rate(variant, done), "steps": STEPS, "seed": seed}


def execute(jobs, label, path=RESULTS):
    """Roda os trabalhos que faltam, um por núcleo, e grava cada linha assim que fica pronta."""
    done = load(path)
    write_jsonl(path, done)  # sem a linha cortada, se havia
    missing = [job for job in jobs if key(job) not in set(map(key, done))]
    print(f"{label}: {len(missing)} execuções por fazer")
    os.environ["TQDM_DISABLE"] = "1"  # nos processos filhos; a barra que interessa é a de fora
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(environment.usable_cores(), mp_context=context) as pool,
        path.open("a", encoding="utf-8") as file,
    ):
        futures = [pool.submit(run, job) for job in missing]
        for future in tqdm(as_completed(futures), total=len(futures), desc=label, unit="execução", disable=False):
            file.write(json.dumps(future.result(), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def interval(values):
    """Média e metade do intervalo de 95 % (t de Student); sem repetição, a metade é nan."""
    values = np.asarray(values, float)
    half = (
        scipy.stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
        if len(values) > 1
        else np.nan
    )
    return values.mean(), half


def summary(done=None):
    """Um DataFrame com uma linha por (variante, fonte): média e meio intervalo de acurácia e MCC, sementes e n."""
    done = [r for r in (load() if done is None else done) if r["split"] == "test"]
    table = []
    for variant in NAMES:
        runs = [r["metrics"] for r in done if r["variant"] == variant]
        for source in SOURCES if runs else ():
            accuracy, mcc = (interval([m[source][k] for m in runs]) for k in ("accuracy", "mcc"))
            table.append((variant, source, *accuracy, *mcc, len(runs), runs[0][source]["n"]))
    columns = ["variant", "source", "accuracy", "accuracy_half", "mcc", "mcc_half", "seeds", "n"]
    return pd.DataFrame(table, columns=columns)


def by_kind(done=None):
    """Um DataFrame com a fração de falhas que o ajuste completo acha, por tipo e fonte: média das sementes."""
    task = tasks.load("aceitabilidade")
    known = rows(task, "test").to_pandas()
    runs = [r for r in (load() if done is None else done) if r["variant"] == "full" and r["split"] == "test"]
    found = np.mean([[int(p) == 0 for p in r["predictions"]] for r in runs], axis=0)
    faulty = known.assign(found=found)[known["label"] == 0]
    return faulty.groupby(["kind", "source"])["found"].mean().unstack()[list(SOURCES)]


def markdown(done=None):
    """A tabela do README: acurácia e MCC por fonte, com o intervalo de 95 % das cinco sementes."""
    table = summary(done).set_index(["variant", "source"])

    def cell(variant, source):
        row = table.loc[variant, source]
        spread = "" if np.isnan(row.accuracy_half) else f" ± {row.accuracy_half:.3f}"
        return f"{row.accuracy:.3f}{spread} ({row.mcc:.2f})".replace(".", ",")

    lines = ["| | " + " | ".join(SOURCES.values()) + " |", "|---|" + "---|" * len(SOURCES)]
    variants = [v for v in NAMES if v in table.index]
    return "\n".join(lines + [f"| {NAMES[v]} | {' | '.join(cell(v, s) for s in SOURCES)} |" for v in variants])


def publish():
    """Redesenha a figura do README e reescreve a tabela entre as marcas dele."""
    from ftcourse import plots

    figure = plots.intervals(summary(), NAMES).figure
    figure.savefig(RESULTS.with_suffix(".svg"), metadata={"Date": None})
    readme = DATA.parent / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition("<!-- tabela:aceitabilidade -->\n")
    after = rest.partition("<!-- fim -->")[2]
    text = f"{before}<!-- tabela:aceitabilidade -->\n{markdown()}\n<!-- fim -->{after}"
    readme.write_text(text, encoding="utf-8")


def main():
    execute(list(sweep()), "taxas")
    execute(list(final(load())), "teste")
    publish()
    print(markdown())


if __name__ == "__main__":
    main()
