"""As execuções que viram resultado: o que se compara, com que taxa, em quantas sementes, e a tabela que sai disso.

    make bancada            # mostra o plano e o tempo de cada tarefa, roda o que falta e grava em data/resultados
    make bancada TUDO=tudo  # e mais 20 para as execuções da seção 9 do caderno 04

Cada execução ocupa um núcleo e vira uma linha de JSON, com as previsões, as métricas, o tempo e o ambiente.
Interrompida, a bancada continua do que já está gravado. O custo de cada técnica se mede à parte, com a máquina livre.
"""

import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import scipy.stats
import torch
from tqdm.auto import tqdm

from ftcourse import baselines, environment, evaluation, methods, models, modules, tasks, training
from ftcourse.files import DATA, write_jsonl

FAMILY = {
    "aceitabilidade": "bert", "habilidade_bncc": "llama", "complete": "t5", "corrija": "t5", "acentue": "t5",
}  # fmt: skip
STEPS = {  # por execução: umas três épocas, seis, uma e meia; nas outras duas tarefas, o que cabe em seis minutos
    "aceitabilidade": 1_350, "habilidade_bncc": 150, "complete": 262, "corrija": 220, "acentue": 220,
}  # fmt: skip
BATCH = 32
SEEDS = {"aceitabilidade": range(5)} | {name: range(3) for name in tasks.WRITTEN}
TECHNIQUES = {  # a técnica e os seus ajustes
    "full": ("full", {}),
    "head": ("head", {}),
    "lora": ("lora", {"r": 8, "lora_alpha": 16}),
    "lora_r1": ("lora", {"r": 1, "lora_alpha": 2}),
    "lora_r1_a16": ("lora", {"r": 1, "lora_alpha": 16}),
    "lora_r64": ("lora", {"r": 64, "lora_alpha": 16}),
    "lora_r64_a128": ("lora", {"r": 64, "lora_alpha": 128}),
    "random": ("full", {}),  # a partir de pesos sorteados
}
# A taxa sai da validação, com a semente 0 e todos os passos: a melhor de um treino curto é alta demais. Onde há uma só,
# não houve busca.
RATES = {
    "aceitabilidade": {
        "full": (2e-4, 5e-4, 1e-3, 2e-3),
        "head": (3e-4, 1e-3, 3e-3),
        "lora": (5e-4, 1e-3, 2e-3, 5e-3),
        "random": (2e-5, 1e-4),
    },
    "habilidade_bncc": {"full": (5e-4, 1e-3), "lora": (2e-3, 5e-3), "random": (1e-3,)},
    "complete": {"full": (3e-4, 1e-3), "lora": (2e-3, 5e-3), "random": (3e-4, 1e-3)},
    "corrija": {"full": (1e-3,)},
    "acentue": {"full": (1e-3,)},
}
SAME_RATE = {"lora_r1": "lora"}  # não teve busca própria, e a tabela o diz
PROBES = (("full", 2), ("lora", 2), ("lora_r64", 1), ("lora_r64_a128", 1), ("lora_r1", 1), ("lora_r1_a16", 1))
BASELINES = {"aceitabilidade": ("majority", "tfidf", "without_labels")} | {
    name: (*(baseline.__name__ for baseline in known), "zero_shot") for name, known in baselines.BASELINES.items()
}
MEASURES = {  # as duas da tabela; a primeira é a da figura
    "aceitabilidade": ("accuracy", "mcc"), "habilidade_bncc": ("chrf", "loss"), "corrija": ("exact", "mended"),
    "acentue": ("exact", "accented"), "complete": ("exact", "loss"),
}  # fmt: skip
NAMES = {
    "majority": "classe majoritária",
    "tfidf": "TF-IDF e regressão logística",
    **baselines.NAMES,
    "zero_shot": "o modelo pré-treinado, sem ajuste",
    "random": "ajuste completo, pesos sorteados",
    "head": "só a cabeça, modelo congelado",
    "without_labels": "excesso de espanto, só o corte usa rótulos",
    "lora_r1": "LoRA, r = 1, na taxa de r = 8",
    "lora": "LoRA, r = 8",
    "full": "ajuste completo",
}
SOURCES = {"aceitabilidade": {"ajuda": "ajuda", "noticias": "notícias", "curriculo": "currículo, fora do domínio"}}
SOURCES |= dict.fromkeys(("complete", "corrija", "acentue"), SOURCES["aceitabilidade"])
SOURCES |= {"habilidade_bncc": {"bncc": "BNCC"}}
COSTS = DATA / "resultados" / "custo.jsonl"
FALSE_ALARM = "alarme falso"


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


def trained(task, variant, lr, steps, seed):
    """(modelo, tokenizador) de uma variante, já treinado; "zero_shot" é o que sai do pré-treino."""
    model, tokenizer = models.load(FAMILY[task.name], task, pretrained=variant != "random", seed=seed or 0)
    if variant != "zero_shot":
        technique, settings = TECHNIQUES[variant]
        methods.apply(model, technique, seed=seed, **settings)
        training.train(model, tokenizer, task, lr=lr, steps=steps, batch_size=BATCH, seed=seed)
    return model, tokenizer


def predictions(task, split, variant, lr, steps, seed):
    """O que uma variante responde numa divisão: (n,) rótulos."""
    known = rows(task, split)
    if variant == "without_labels":
        return without_labels(task, known)
    if variant in BASELINES[task.name]:
        return getattr(baselines, variant)(task, known)
    return evaluation.predict(*trained(task, variant, lr, steps, seed), task, known).argmax(-1).numpy()


def written(task, split, variant, lr, steps, seed):
    """O que uma variante escreve numa divisão e o que o modelo perde nela: (respostas, {fonte: medidas da perda}).

    Na validação, que só escolhe a taxa, nada se escreve: gerar levaria mais que treinar. Num modelo que continua textos
    mede-se também a perda no texto geral, que diz o que o ajuste fez esquecer.
    """
    known = rows(task, split)
    if variant in baselines.NAMES:
        return getattr(baselines, variant)(task, known), {}
    model, tokenizer = trained(task, variant, lr, steps, seed)
    losses, sources = evaluation.token_losses(model, tokenizer, task, known), sources_of(task, known)
    measured, general = {}, {}
    if not model.config.is_encoder_decoder:
        general = {"general_loss": evaluation.evaluate(model, tokenizer, tasks.general_text())["loss"]}
    for source in dict.fromkeys(sources.tolist()):
        places = np.flatnonzero(sources == source)
        measured[source] = task.loss_metrics([losses[i] for i in places], tokenizer, known.select(places)) | general
    return evaluation.generate(model, tokenizer, task, known) if split == "test" else None, measured


def without_labels(task, known, calibration=600):
    """A nota sem rótulos vira resposta com um corte só, o que mais acerta em `calibration` frases da validação."""
    model, tokenizer = models.load("bert")
    sample = task.validation.shuffle(seed=0).select(range(min(calibration, len(task.validation))))
    scores, labels = baselines.without_labels(model, tokenizer, sample["text"]), np.array(sample["label"])
    cut = max(scores, key=lambda c: ((scores >= c) == labels).mean())
    return (baselines.without_labels(model, tokenizer, known["text"]) >= cut).astype(int)


def run(job):
    """Roda um trabalho num núcleo e devolve a linha de resultado."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    task = tasks.load(job["task"])
    settings = {k: v for k, v in job.items() if k != "task"}
    known = rows(task, job["split"])
    answers, metrics = (predictions(task, **settings), {}) if task.labels else written(task, **settings)
    if answers is not None:
        metrics = {source: metrics.get(source, {}) | m for source, m in measure(task, known, answers).items()}
    return {
        **job,
        "settings": settings_of(job["variant"]),
        "metrics": {s: {k: round(v, 4) for k, v in m.items()} for s, m in metrics.items()},
        "seconds": round(time.perf_counter() - started),
        "predictions": "".join(map(str, answers)) if task.labels else answers,
        "data": fingerprint(known),
        "environment": environment.describe(),
    }


def measure(task, known, answers):
    """As métricas de umas respostas às linhas `known`, por fonte: {fonte: {medida: valor}}."""
    sources, measured = sources_of(task, known), {}
    for source in dict.fromkeys(sources.tolist()):
        places = np.flatnonzero(sources == source)
        given, chosen = [answers[i] for i in places], known.select(places)
        measured[source] = task.metrics(given, chosen["label"] if task.labels else chosen)
    return measured


def fingerprint(known):
    """Um resumo das frases avaliadas, com que um teste confere se o resultado gravado é dos dados de hoje."""
    columns = ("text",) if "text" in known.column_names else ("input", "target")
    return hashlib.sha256("\n".join(line for c in columns for line in known[c]).encode()).hexdigest()[:12]


def settings_of(variant):
    """Os ajustes da técnica de uma variante; {} nas linhas de base."""
    return TECHNIQUES.get(variant, (None, {}))[1]


def key(row):
    """O que identifica uma execução, gravada ou por fazer: mudar r ou α em TECHNIQUES faz dela outra."""
    settings = row.get("settings", settings_of(row["variant"]))
    known = (row[k] for k in ("task", "variant", "split", "lr", "steps", "seed"))
    return (*known, json.dumps(settings, sort_keys=True))


def load(task):
    """Os resultados gravados, um dicionário por linha. Uma última linha cortada por uma interrupção é ignorada."""
    if not path(task).exists():
        return []
    complete, _, _ = path(task).read_text(encoding="utf-8").rpartition("\n")
    return [json.loads(line) for line in complete.splitlines()]


def sweep(task):
    """Os trabalhos que escolhem a taxa de cada variante, onde há mais de uma."""
    common = {"task": task, "split": "validation", "steps": STEPS[task], "seed": 0}
    searched = {variant: tried for variant, tried in RATES[task].items() if len(tried) > 1}
    return [{**common, "variant": variant, "lr": lr} for variant, tried in searched.items() for lr in tried]


def swept(task):
    """Um DataFrame com o que cada taxa deu na validação: variante, taxa e a medida que escolhe, média entre as fontes.

    Escolhe a acurácia, ou a perda na resposta onde se escreve.
    """
    name, planned = ("loss" if task in tasks.WRITTEN else "accuracy"), set(map(key, sweep(task)))
    done = [r for r in load(task) if key(r) in planned]
    mean = [np.mean([m[name] for m in r["metrics"].values()]) for r in done]
    table = {"variant": [r["variant"] for r in done], "lr": [r["lr"] for r in done], name: mean}
    return pd.DataFrame(table).sort_values(["variant", "lr"], ignore_index=True)


def best_rates(task):
    """A taxa de cada variante que treina: a única, ou a de maior acurácia, ou menor perda, na validação."""
    table = swept(task)
    score = table["accuracy"] if "accuracy" in table else -table["loss"]
    best = {variant: tried[0] for variant, tried in RATES[task].items() if len(tried) == 1}
    best |= table.loc[score.groupby(table["variant"]).idxmax()].set_index("variant")["lr"].to_dict()
    same = {} if task in tasks.WRITTEN else SAME_RATE
    return best | {variant: best[other] for variant, other in same.items() if other in best}


def explanations(task):
    """Os trabalhos que separam explicações, na validação e com a semente 0: mais passos, mais posto, outro α."""
    if task in tasks.WRITTEN:
        return []
    rates, common = best_rates(task), {"task": task, "split": "validation", "seed": 0}
    return [
        {**common, "variant": variant, "lr": rates[variant.partition("_")[0]], "steps": times * STEPS[task]}
        for variant, times in PROBES
    ]


def explained(task):
    """Um DataFrame com a acurácia na validação por fonte, uma linha por (variante, passos): as explicações."""
    rates, done = best_rates(task), {key(r): r for r in load(task)}
    jobs = [job for job in sweep(task) if job["variant"] in ("full", "lora") and job["lr"] == rates[job["variant"]]]
    rows = [done[key(job)] for job in jobs + explanations(task) if key(job) in done]
    table = [{s: m["accuracy"] for s, m in r["metrics"].items()} for r in rows]
    index = pd.MultiIndex.from_tuples([(r["variant"], r["steps"]) for r in rows], names=["variant", "steps"])
    return pd.DataFrame(table, index=index).sort_index()


def final(task):
    """Os trabalhos da tabela: as linhas de base, que não têm semente, e as sementes de cada variante na sua taxa."""
    common = {"task": task, "split": "test"}
    jobs = [{**common, "variant": variant, "lr": None, "steps": None, "seed": None} for variant in BASELINES[task]]
    for variant, lr in best_rates(task).items():
        jobs += [{**common, "variant": variant, "lr": lr, "steps": STEPS[task], "seed": seed} for seed in SEEDS[task]]
    return jobs


def tested(task):
    """As linhas do teste que a tabela usa: as planejadas. O que sobrou de outro plano fica no arquivo e não entra."""
    planned = set(map(key, final(task)))
    return [r for r in load(task) if key(r) in planned]


def plan(task, jobs):
    """O que falta rodar, dito antes de começar: (os trabalhos, uma frase com quantos e o tempo que devem levar).

    O tempo sai das execuções gravadas: o que ainda não rodou não se conta.
    """
    done = load(task)
    missing = [job for job in jobs if key(job) not in set(map(key, done))]
    pace = {}  # {variante: segundos por passo, nas execuções gravadas}
    for r in done:
        pace.setdefault(r["variant"], []).append(r["seconds"] / (r["steps"] or 1))
    seconds = sum(np.median(pace[job["variant"]]) * (job["steps"] or 1) for job in missing if job["variant"] in pace)
    count = Counter(job["variant"] for job in missing)
    listed = ", ".join(f"{n} de {variant}" for variant, n in count.items()) or "nada"
    unknown = ", ".join(variant for variant in count if variant not in pace)
    minutes = f"uns {seconds / 60 / environment.usable_cores():.0f} min" + (unknown and f", sem contar {unknown}")
    return missing, f"{len(jobs)} execuções, faltam {len(missing)}: {listed}; {minutes}"


def execute(task, jobs, label):
    """Roda os trabalhos que faltam, um por núcleo, e grava cada linha assim que fica pronta."""
    write_jsonl(path(task), load(task))  # sem a linha cortada, se havia
    missing, sentence = plan(task, jobs)
    print(f"{task}, {label}: {sentence}", flush=True)
    if not missing:
        return
    os.environ["TQDM_DISABLE"] = "1"  # nos processos filhos; a barra que interessa é a de fora
    context = multiprocessing.get_context("spawn")
    workers = min(environment.usable_cores(), len(missing))
    with (
        ProcessPoolExecutor(workers, mp_context=context) as pool,
        path(task).open("a", encoding="utf-8", newline="\n") as file,
    ):
        futures = [pool.submit(run, job) for job in missing]
        failures = []
        try:
            for future in tqdm(as_completed(futures), total=len(futures), desc=label, unit="execução", disable=False):
                if future.exception():
                    failures.append(future.exception())  # as outras, já prontas, são gravadas antes de a falha subir
                    continue
                file.write(json.dumps(future.result(), ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except BaseException:  # Ctrl-C: o que não começou não começa, porque ninguém o gravaria
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failures:
        raise failures[0]


def interval(values):
    """Média e metade do intervalo de 95 % (t de Student); sem repetição, a metade é nan."""
    values = np.asarray(values, float)
    if len(values) < 2:
        return values.mean(), np.nan
    return values.mean(), scipy.stats.t.ppf(0.975, len(values) - 1) * scipy.stats.sem(values)


def summary(task):
    """Um DataFrame com uma linha por (variante, fonte): média e meio intervalo das duas medidas, sementes e n."""
    done, table = tested(task), []
    for variant in NAMES:
        runs = [r["metrics"] for r in done if r["variant"] == variant]
        for source in SOURCES[task] if runs else ():
            row = {"variant": variant, "source": source}
            for name in MEASURES[task]:
                row[name], row[f"{name}_half"] = interval([m[source].get(name, np.nan) for m in runs])
            table.append(row | {"seeds": len(runs), "n": runs[0][source]["n"]})
    halves = [column for name in MEASURES[task] for column in (name, f"{name}_half")]
    return pd.DataFrame(table, columns=["variant", "source", *halves, "seeds", "n"])


def difference(task, one, other):
    """Quanto uma variante fica acima de outra na primeira medida, por fonte: média e meio intervalo de 95 %.

    As diferenças são semente a semente: a mesma semente dá às duas a mesma cabeça inicial e a mesma ordem das frases.
    """
    runs = {(r["variant"], r["seed"]): r["metrics"] for r in tested(task)}
    seeds = sorted(seed for variant, seed in runs if variant == one and (other, seed) in runs)
    table = {}
    for source in SOURCES[task]:
        pairs = [[runs[variant, s][source][MEASURES[task][0]] for variant in (one, other)] for s in seeds]
        table[source] = interval([a - b for a, b in pairs])
    return pd.DataFrame(table, index=["difference", "half"]).T


def accused(*variants):
    """As linhas do teste de aceitabilidade, com uma coluna por variante: a fração das sementes que acusa a frase.

    Nas frases bem escritas, em que acusar é um alarme falso, `kind` é FALSE_ALARM.
    """
    task = tasks.load("aceitabilidade")
    known, done = rows(task, "test").to_pandas().fillna({"kind": FALSE_ALARM}), tested(task.name)
    for variant in variants:
        runs = [[answer == "0" for answer in r["predictions"]] for r in done if r["variant"] == variant]
        known[variant] = np.mean(runs, axis=0)
    return known


def by_kind(variant="full"):
    """Um DataFrame com a fração de falhas que uma variante acha, por tipo e fonte; a última linha é o alarme falso."""
    table = accused(variant).groupby(["kind", "source"])[variant].mean().unstack()[list(SOURCES["aceitabilidade"])]
    return table.loc[[*table.index.drop(FALSE_ALARM), FALSE_ALARM]]


def markdown(task):
    """A tabela dos resultados: a primeira medida, com o intervalo de 95 %, e a segunda entre parênteses."""
    table, sources, (first, second) = summary(task).set_index(["variant", "source"]), SOURCES[task], MEASURES[task]
    digits = 1 if first == "chrf" else 3

    def cell(variant, source):
        row = table.loc[variant, source]
        spread = "" if np.isnan(row[f"{first}_half"]) else f" ± {row[f'{first}_half']:.{digits}f}"
        beside = "" if np.isnan(row[second]) else f" ({row[second]:.2f})"
        return f"{row[first]:.{digits}f}{spread}{beside}".replace(".", ",")

    lines = ["| | " + " | ".join(sources.values()) + " |", "|---|" + "---|" * len(sources)]
    variants = [v for v in NAMES if v in table.index]
    return "\n".join(lines + [f"| {NAMES[v]} | {' | '.join(cell(v, s) for s in sources)} |" for v in variants])


def publish(task):
    """Redesenha a figura dos resultados e, no README do clone, reescreve a tabela da tarefa."""
    from ftcourse import plots

    if task not in tasks.WRITTEN:
        figure = plots.intervals(summary(task), NAMES, SOURCES[task]).figure
        figure.savefig(path(task).with_suffix(".svg"), metadata={"Date": None})
    write_table(task, markdown(task))


def write_table(name, table):
    """Reescreve a tabela do README do clone que fica entre as marcas de `name`; sem elas, nada muda."""
    readme = DATA.parent / "README.md"
    before, mark, rest = readme.read_text(encoding="utf-8").partition(f"<!-- tabela:{name} -->\n")
    if mark:
        after = rest[rest.index("<!-- fim -->") :]
        readme.write_text(f"{before}{mark}{table}\n{after}", encoding="utf-8")


def interleaved(actions, repeats=15):
    """Os segundos de cada ação, medidas em rodízio para que a máquina pese igual em todas: {nome: (repeats,)}.

    actions: {nome: função sem argumentos}. Cada uma roda antes uma vez, sem contar.
    """
    for action in actions.values():
        action()
    seconds = {name: np.empty(repeats) for name in actions}
    for i in range(repeats):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            seconds[name][i] = time.perf_counter() - started
    return seconds


def ratio(seconds, name, reference):
    """Quantas vezes o tempo de `reference` uma ação leva: mediana e quartis das razões de cada volta do rodízio."""
    low, median, high = np.percentile(seconds[name] / seconds[reference], [25, 50, 75])
    return {"median": median, "low": low, "high": high}


def measure_costs(variants=("full", "head", "lora", "lora_r1"), repeats=25, length=32):
    """O que um passo de treino custa com cada técnica: uma linha por técnica, como em data/resultados/custo.jsonl.

    Conta os parâmetros que treinam, os bytes de gradientes e de estado do AdamW depois de um passo, os do arquivo que
    se guarda, e mede o passo inteiro, em lotes de 32 × `length` fichas, como razão do passo do ajuste completo.
    """
    task, rows, steps = tasks.load("aceitabilidade"), {}, {}
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 8000, (BATCH, length), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 2}
    for variant in variants:
        technique, settings = TECHNIQUES[variant]
        model = methods.apply(models.load("bert", task)[0], technique, **settings).train()
        optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-6)

        def step(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()

        steps[variant] = step
        step()
        trainable, total = modules.count_parameters(model)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        states = [t for state in optimizer.state.values() for t in state.values()]
        with tempfile.TemporaryDirectory() as folder:
            methods.save(model, folder)
            file = sum(f.stat().st_size for f in Path(folder).iterdir())
        rows[variant] = {"variant": variant, "trainable": trainable, "total": total, "gradient_bytes": size(gradients),
                         "optimizer_bytes": size(states), "file_bytes": file}  # fmt: skip
    seconds = interleaved(steps, repeats)
    for variant, row in rows.items():
        row["step_ratio"] = {k: round(v, 3) for k, v in ratio(seconds, variant, "full").items()}
        row["step_ms"] = round(1000 * float(np.median(seconds[variant])), 1)
    described = environment.describe()
    return [row | {"batch": [BATCH, length], "environment": described} for row in rows.values()]


def size(tensors):
    """Quantos bytes um conjunto de tensores ocupa."""
    return sum(t.numel() * t.element_size() for t in tensors)


def costs():
    """O custo medido de cada técnica, um DataFrame com a variante como índice."""
    lines = COSTS.read_text(encoding="utf-8").splitlines()
    return pd.DataFrame([json.loads(line) for line in lines]).set_index("variant")


def main():
    for task in STEPS:
        execute(task, sweep(task), "taxas, na validação")
        execute(task, final(task), f"{len(SEEDS[task])} sementes, no teste")
        publish(task)
        print(markdown(task))
        if "tudo" in sys.argv:
            execute(task, explanations(task), "mais passos, mais posto, outro α; na validação")
    if not COSTS.exists():
        print("custo do passo de cada técnica: um minuto", flush=True)
        write_jsonl(COSTS, measure_costs())


if __name__ == "__main__":
    main()
