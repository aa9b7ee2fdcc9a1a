"""A leitura dos resultados: que linhas valem, que taxa venceu, a tabela com os intervalos, as diferenças.

    results.summary("aceitabilidade")                   # uma linha por experiência e fonte
    results.difference("aceitabilidade", "lora", "full")
    Markdown(results.markdown("aceitabilidade"))

Só vale a linha medida nos dados e nos pesos de hoje: o resumo de uns e de outros está nela. O que falta rodar aparece
na tabela como falta.
"""

import functools
import itertools
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
from sacrebleu.metrics import CHRF

from ftcourse import experiments, models, tasks
from ftcourse.experiments import MEASURES, SOURCES, Experiment
from ftcourse.files import DATA
from ftcourse.formats import number

FALSE_ALARM = "alarme falso"
DRAWS = 2_000
LADDER = tuple(float(f"{digit}e{power}") for power in range(-6, 1) for digit in (1, 2, 5))  # as taxas que se tentam
JOB = (
    "task", "family", "variant", "technique", "settings", "pretrained", "quantized", "head_lr", "split", "lr", "steps",
    "batch_size", "seed",
)  # fmt: skip


# ---------------------------------------------------------------- as linhas


def path(task: str) -> Path:
    """O arquivo em que ficam os resultados de uma tarefa."""
    return DATA / "resultados" / f"{task}.jsonl"


def read(task: str) -> list[dict]:
    """As linhas gravadas de uma tarefa."""
    return parsed(path(task))


def parsed(file: Path) -> list[dict]:
    """As linhas inteiras de um arquivo, um dicionário por linha: sem as cortadas, e nenhuma se o arquivo não existe."""
    rows: list = []
    if not file.exists():
        return rows
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        with suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def key(row: dict) -> str:
    """O que identifica uma execução, gravada ou por fazer: mudar r, α ou o lote faz dela outra."""
    return json.dumps([row.get(name) for name in JOB], sort_keys=True)


@functools.cache
def origins(task: str) -> dict[str, dict]:
    """De onde parte hoje cada experiência: {variante: {"data": resumo, "model": resumo}}; sem modelo, None."""
    data, model = tasks.load(task).digest(), models.digest(experiments.FAMILY[task])
    known = [e for e in experiments.EXPERIMENTS if e.task == task]
    return {e.variant: {"data": data, "model": model if e.uses_model else None} for e in known}


def current(task: str, rows: list[dict] | None = None) -> list[dict]:
    """As linhas que valem, das gravadas ou de `rows`: as medidas nos dados e nos pesos de hoje. A repetida, uma vez."""
    today = origins(task)
    found: dict[str, dict] = {}
    for row in read(task) if rows is None else rows:
        if (known := today.get(row.get("variant", ""))) and known.items() <= row.items():
            found.setdefault(key(row), row)
    return list(found.values())


def evaluated(task: tasks.Task, split: str) -> datasets.Dataset:
    """As linhas avaliadas numa divisão; em "test" entram também as da fonte que o treino não viu."""
    if split == "test" and task.out_of_domain:
        return datasets.concatenate_datasets([task.test, task.out_of_domain])
    return getattr(task, split)


def sources_of(task: tasks.Task, known: datasets.Dataset) -> np.ndarray:
    """A fonte de cada linha: (n,). Uma tarefa de fonte única não a repete em cada linha."""
    return np.array(known["source"][:] if "source" in known.column_names else [*SOURCES[task.name]] * len(known))


# ---------------------------------------------------------------- a taxa


def swept(task: str) -> pd.DataFrame:
    """O que cada taxa deu na validação: variante, taxa e a medida que escolhe, média entre as fontes.

    Escolhe a acurácia, ou a perda na resposta onde se escreve.
    """
    name, rows = ("loss" if task in tasks.WRITTEN else "accuracy"), {key(r): r for r in current(task)}
    table = []
    for experiment in experiments.of(task):
        for lr in LADDER:
            if experiment.rates and (row := rows.get(key(experiment.job("validation", lr, seed=0)))):
                mean = float(np.mean([metrics[name] for metrics in row["metrics"].values()]))
                table.append({"variant": experiment.variant, "lr": lr, name: mean})
    return pd.DataFrame(table, columns=["variant", "lr", name]).sort_values(["variant", "lr"], ignore_index=True)


def search(experiment: Experiment, table: pd.DataFrame) -> tuple[float | None, tuple[float, ...]]:
    """(a melhor taxa até aqui, as que faltam tentar). A busca acaba quando a melhor tem uma pior de cada lado.

    table: o que `swept` devolve.
    """
    if len(experiment.rates) == 1:
        return experiment.rates[0], ()
    known = table[table["variant"] == experiment.variant].set_index("lr")
    if missing := tuple(lr for lr in experiment.rates if lr not in known.index):
        return None, missing
    best = known["accuracy"].idxmax() if "accuracy" in known else known["loss"].idxmin()
    place = LADDER.index(best)
    around = LADDER[max(0, place - 1) : place + 2]
    return best, tuple(lr for lr in around if lr not in known.index)


def best_rates(task: str) -> dict[str, float]:
    """A taxa de cada experiência que treina, das buscas que já acabaram."""
    table, found = swept(task), {}
    for experiment in experiments.of(task):
        if experiment.rates:
            best, missing = search(experiment, table)
            if best is not None and not missing:
                found[experiment.variant] = best
    return found


def chosen(task: str) -> pd.DataFrame:
    """A taxa que a validação escolheu e quanto a segunda melhor ficou dela: uma linha por variante.

    `gap` está na medida que escolheu, acurácia ou perda na resposta, e é a diferença para a taxa que vem depois.
    """
    table, best, rows = swept(task), best_rates(task), {}
    measure = table.columns[-1]
    for variant, lr in best.items():
        values = table[table["variant"] == variant].set_index("lr")[measure]
        if lr in values:  # uma taxa só não se procura
            others = values.drop(lr)
            rows[variant] = {"lr": lr, measure: values[lr], "gap": float((others - values[lr]).abs().min())}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["lr", measure, "gap"])


def forgotten(task: str) -> pd.Series:
    """Quanto a perda no texto geral subiu com cada ajuste, em nats por token, média entre as sementes do teste.

    Conta-se a partir do modelo em que nada mudou: o sem ajuste ou, no BERT, o que só treina a cabeça. Vazia se ele
    ainda não foi medido.
    """
    rows = pd.DataFrame([(r["variant"], r.get("general_loss")) for r in tested(task)], columns=["variant", "loss"])
    losses = rows.dropna().astype({"loss": float}).groupby("variant", sort=False)["loss"].mean()
    start = losses.get("head" if experiments.FAMILY[task] == "bert" else "zero_shot")
    return losses[:0] if start is None else losses - start


def tested(task: str) -> list[dict]:
    """As linhas do teste que a tabela usa: as de cada semente, na melhor taxa."""
    rows, best = {key(r): r for r in current(task)}, best_rates(task)
    jobs = [
        e.job("test", best.get(e.variant), seed=seed)
        for e in experiments.of(task)
        if not e.rates or e.variant in best
        for seed in e.seeds
    ]
    return [rows[key(job)] for job in jobs if key(job) in rows]


def explained(task: str) -> pd.DataFrame:
    """A acurácia na validação, por fonte, dos treinos que separam explicações: uma linha por (variante, passos)."""
    rows, best = {key(r): r for r in current(task)}, best_rates(task)
    runs = [(name, name, 1) for name in ("full", "lora")] + [*experiments.EXPLANATIONS]
    jobs = [explanation(task, best, *run) for run in runs if run[1] in best]
    found = {(job["variant"], job["steps"]): rows[key(job)]["metrics"] for job in jobs if key(job) in rows}
    table = [{"variant": v, "steps": n} | {s: m["accuracy"] for s, m in f.items()} for (v, n), f in found.items()]
    columns = ["variant", "steps", "ajuda", "noticias"]
    return pd.DataFrame(table, columns=columns).set_index(["variant", "steps"]).sort_index()


def explanation(task: str, best: dict[str, float], variant: str, rate_of: str, times: int) -> dict:
    """A execução que separa uma explicação: a variante, na melhor taxa de outra, com `times` vezes os passos."""
    steps = times * experiments.STEPS[task]
    return experiments.get(task, variant).job("validation", best[rate_of], steps, seed=0)


# ---------------------------------------------------------------- intervalos


@functools.cache
def draws(n: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """As repetições do *bootstrap*: quantas vezes sai cada frase, (DRAWS, n), e cada semente, (DRAWS, seeds).

    Sorteiam-se n frases com reposição e, das sementes, uma a menos do que há: é o que dá à média a variância certa
    quando são poucas (Rao e Wu, 1988, §2). São os mesmos sorteios para tudo o que tem as mesmas frases: o que se
    compara, compara-se aos pares.
    """
    rng = np.random.default_rng(n)
    phrases = rng.multinomial(n, np.full(n, 1 / n), DRAWS)
    chosen = rng.multinomial(max(1, seeds - 1), np.full(seeds, 1 / seeds), DRAWS)
    return phrases, chosen / chosen.sum(axis=1, keepdims=True)


def resampled(statistics: np.ndarray) -> np.ndarray:
    """A medida em cada repetição e semente: (DRAWS, sementes), de statistics (sementes, n, k).

    Com k = 1 a medida é a fração de acertos; se não, a chrF das contagens somadas.
    """
    phrases, _ = draws(statistics.shape[1], len(statistics))
    if statistics.shape[2] == 1:
        return phrases @ statistics[:, :, 0].T / statistics.shape[1]
    sums = [phrases @ one for one in statistics]  # (DRAWS, k) cada
    return np.array([[CHRF()._compute_f_score(row) for row in one] for one in sums]).T


def half_width(values: np.ndarray, n: int) -> float:
    """Metade do intervalo de 95 % da média entre sementes, de values (DRAWS, sementes) e n frases."""
    _, chosen = draws(n, values.shape[1])
    low, high = np.percentile((values * chosen).sum(axis=1), [2.5, 97.5])
    return float(high - low) / 2


def statistics(task: tasks.Task, known: datasets.Dataset, rows: list[dict]) -> dict[str, np.ndarray]:
    """De cada frase e semente, o que soma para dar a primeira medida da tarefa: {fonte: (sementes, n, k)}."""
    sources, found = sources_of(task, known), []
    expected = known["label" if task.labels else "target"][:]
    for row in rows:
        if task.labels:
            same = np.array([int(answer) for answer in row["predictions"]]) == np.array(expected)
            found.append(same[:, None].astype(float))
        elif MEASURES[task.name][0] == "chrf":
            counts = CHRF()._extract_corpus_statistics(row["predictions"], [expected])
            found.append(np.array(counts, float))
        else:
            same = [answer == target for answer, target in zip(row["predictions"], expected, strict=True)]
            found.append(np.array(same, float)[:, None])
    return {source: np.array(found)[:, sources == source] for source in SOURCES[task.name]}


# ---------------------------------------------------------------- tabelas


def summary(task: str) -> pd.DataFrame:
    """Uma linha por (variante, fonte): a média das duas medidas, o meio intervalo da primeira, as sementes e n.

    O intervalo, de 95 %, cobre o sorteio das sementes e o das frases.
    """
    done, (first, second), table = tested(task), MEASURES[task], []
    loaded = tasks.load(task)
    known = evaluated(loaded, "test")
    for experiment in experiments.of(task):
        if not (rows := [r for r in done if r["variant"] == experiment.variant]):
            continue
        for source, counts in statistics(loaded, known, rows).items():
            metrics = [r["metrics"][source] for r in rows]
            mean = {name: float(np.mean([m.get(name, np.nan) for m in metrics])) for name in (first, second)}
            half = half_width(resampled(counts), counts.shape[1])
            counted = {"seeds": len(rows), "n": counts.shape[1]}
            table.append({"variant": experiment.variant, "source": source, **mean, f"{first}_half": half, **counted})
    return pd.DataFrame(table, columns=["variant", "source", first, f"{first}_half", second, "seeds", "n"])


def difference(task: str, one: str, other: str) -> pd.DataFrame:
    """Quanto uma variante fica acima de outra na primeira medida, por fonte: média e meio intervalo de 95 %.

    Semente a semente e frase a frase: a mesma semente dá às duas a mesma cabeça inicial e a mesma ordem das frases, e
    cada repetição do sorteio vale para as duas. A linha de base, que não tem semente, vale para todas as da outra.
    Vazia se uma delas ainda não rodou.
    """
    mine, theirs = pair(task, one, other)
    loaded, measure, table = tasks.load(task), MEASURES[task][0], {}
    known = evaluated(loaded, "test")
    counts = [statistics(loaded, known, rows) for rows in (mine, theirs) if rows]
    for source in SOURCES[task] if mine else ():
        gaps = [a["metrics"][source][measure] - b["metrics"][source][measure] for a, b in zip(mine, theirs)]
        values = resampled(counts[0][source]) - resampled(counts[1][source])
        table[source] = (float(np.mean(gaps)), half_width(values, counts[0][source].shape[1]))
    return pd.DataFrame(table, index=["difference", "half"]).T


# ---------------------------------------------------------------- uma técnica ao lado de outra


def waiting(task: str) -> list[str]:
    """Os nomes das experiências da tabela que ainda não têm teste."""
    done = {row["variant"] for row in tested(task)}
    return [e.name for e in experiments.of(task) if e.variant not in done]


def pair(task: str, one: str, other: str) -> tuple[list[dict], list[dict]]:
    """As linhas do teste de duas variantes, semente a semente; a linha de base, que não tem semente, vale para todas.

    Duas listas vazias, se uma delas ainda não rodou.
    """
    done: dict[str, dict] = {one: {}, other: {}}
    for row in tested(task):
        if row["variant"] in done:
            done[row["variant"]][row["seed"]] = row
    for mine, theirs in ((one, other), (other, one)):
        if [*done[mine]] == [None]:
            done[mine] = dict.fromkeys(done[theirs], done[mine][None])
    seeds = [seed for seed in done[one] if seed in done[other]]
    return [done[one][seed] for seed in seeds], [done[other][seed] for seed in seeds]


def relative(task: str, reference: str = "full") -> pd.DataFrame:
    """Quanto por cento de `reference` cada variante alcança na primeira medida: variante, fonte, percent e half.

    O meio intervalo, de 95 %, é o da razão, sorteada aos pares. Vazia enquanto `reference` não roda.
    """
    loaded, measure, table = tasks.load(task), MEASURES[task][0], []
    known = evaluated(loaded, "test")
    for experiment in experiments.of(task):
        both = pair(task, experiment.variant, reference)
        if not both[0]:
            continue
        counts = [statistics(loaded, known, rows) for rows in both]
        for source in SOURCES[task]:
            mean, base = (float(np.mean([row["metrics"][source][measure] for row in rows])) for rows in both)
            drawn = [resampled(count[source]) for count in counts]
            _, chosen = draws(counts[0][source].shape[1], len(both[0]))
            ratio = (drawn[0] * chosen).sum(axis=1) / (drawn[1] * chosen).sum(axis=1)
            low, high = 100 * np.percentile(ratio, [2.5, 97.5])
            percent = {"percent": 100 * mean / base, "half": float(high - low) / 2}
            table.append({"variant": experiment.variant, "source": source, **percent})
    return pd.DataFrame(table, columns=["variant", "source", "percent", "half"])


def overall(task: str) -> pd.DataFrame:
    """A primeira medida, média entre as fontes, e o meio intervalo de 95 %: uma linha por variante que já rodou."""
    loaded, done, table = tasks.load(task), tested(task), {}
    known = evaluated(loaded, "test")
    for experiment in experiments.of(task):
        if rows := [row for row in done if row["variant"] == experiment.variant]:
            counts = statistics(loaded, known, rows)
            values = np.mean([resampled(count) for count in counts.values()], axis=0)
            half = half_width(values, len(known))
            means = [row["metrics"][source][MEASURES[task][0]] for row in rows for source in counts]
            table[experiment.variant] = {"value": float(np.mean(means)), "half": half, "seeds": len(rows)}
    return pd.DataFrame.from_dict(table, orient="index", columns=["value", "half", "seeds"])


def told(task: str, one: str, other: str) -> str:
    """A diferença entre duas variantes, por fonte, numa frase que diz se ela existe; ou que está a medir."""
    name, its = (experiments.get(task, variant).name for variant in (one, other))
    measured, digits = difference(task, one, other), 1 if MEASURES[task][0] == "chrf" else 3
    if measured.empty:
        return f"{name} menos {its}: a medir"
    parts = []
    for source, row in measured.iterrows():
        sign = "+" if row["difference"] > 0 else ""
        exists = "existe" if abs(row["difference"]) > row["half"] else "não se mostrou"
        gap = f"{sign}{number(row['difference'], digits)} ± {number(row['half'], digits)}"
        parts.append(f"{SOURCES[task][str(source)]} {gap}, {exists}")
    return f"{name} menos {its}: {'; '.join(parts)}"


def answered(task: str, one: str, other: str) -> pd.DataFrame:
    """Quem acerta o quê, por fonte: a fração das frases que as duas acertam, só uma, só a outra e nenhuma, e n.

    Média entre as sementes que as duas têm. Só onde a medida é certo ou errado; vazia se uma delas não rodou.
    """
    loaded, (mine, theirs), table = tasks.load(task), pair(task, one, other), {}
    known = evaluated(loaded, "test")
    if mine:
        counts = statistics(loaded, known, mine), statistics(loaded, known, theirs)
        for source in SOURCES[task]:
            first, second = (count[source][:, :, 0] for count in counts)
            if counts[0][source].shape[2] > 1:
                raise ValueError(f"Em {task!r} a medida é a chrF, e uma frase não está certa nem errada.")
            cells = (first * second, first * (1 - second), (1 - first) * second, (1 - first) * (1 - second))
            table[source] = [*(float(cell.mean()) for cell in cells), first.shape[1]]
    return pd.DataFrame.from_dict(table, orient="index", columns=["both", one, other, "neither", "n"])


def shared(task: str) -> pd.DataFrame:
    """O que cada variante deu na validação em cada taxa: uma linha por variante, uma coluna por taxa."""
    table = swept(task)
    found = table.pivot(index="variant", columns="lr", values=table.columns[-1])
    return found.loc[[e.variant for e in experiments.of(task) if e.variant in found.index]]


def flips(task: str) -> pd.DataFrame:
    """Os pares de variantes cuja ordem depende da taxa que se impõe às duas: em `lr_one` ganha `one`, em `lr_other`, a
    outra. São as taxas em que cada uma ganha por mais.
    """
    table, found = shared(task), []
    table = -table if task in tasks.WRITTEN else table  # a perda escolhe a menor
    for one, other in itertools.combinations(table.index, 2):
        gap = (table.loc[one] - table.loc[other]).dropna()
        if len(gap) and gap.min() < 0 < gap.max():
            found.append({"one": one, "other": other, "lr_one": gap.idxmax(), "lr_other": gap.idxmin()})
    return pd.DataFrame(found, columns=["one", "other", "lr_one", "lr_other"])


def front(cost: pd.Series, quality: pd.Series) -> list[str]:
    """A fronteira de Pareto: os nomes que nenhum outro bate, custando no máximo o mesmo e rendendo no mínimo o mesmo.

    Só contam os que têm as duas medidas. Vêm do mais barato ao mais caro; dois iguais em tudo ficam os dois.
    """
    known = pd.DataFrame({"cost": cost, "quality": quality}).dropna().sort_values("cost", kind="stable")
    kept = []
    for name, row in known.iterrows():
        better = (known["cost"] <= row["cost"]) & (known["quality"] >= row["quality"])
        strictly = (known["cost"] < row["cost"]) | (known["quality"] > row["quality"])
        if not (better & strictly).any():
            kept.append(str(name))
    return kept


def accused(*variants: str) -> pd.DataFrame:
    """As linhas do teste de aceitabilidade, com uma coluna por variante: a fração das sementes que acusa a frase.

    Nas frases bem escritas, em que acusar é um alarme falso, `kind` é FALSE_ALARM.
    """
    task = tasks.load("aceitabilidade")
    known, done = evaluated(task, "test").to_pandas().fillna({"kind": FALSE_ALARM}), tested(task.name)
    for variant in variants:
        runs = [[answer == "0" for answer in r["predictions"]] for r in done if r["variant"] == variant]
        known[variant] = np.mean(runs, axis=0)
    return known


def by_kind(variant: str = "full") -> pd.DataFrame:
    """A fração de falhas que uma variante acha, por tipo e fonte; a última linha é o alarme falso."""
    table = accused(variant).groupby(["kind", "source"])[variant].mean().unstack()[list(SOURCES["aceitabilidade"])]
    return table.loc[[*table.index.drop(FALSE_ALARM), FALSE_ALARM]]


def markdown(task: str, *variants: str) -> str:
    """A tabela dos resultados: a primeira medida, com o intervalo de 95 %, e a segunda entre parênteses.

    variants: as linhas que se querem, pelos nomes curtos, na ordem da tabela; sem elas, todas. O que não rodou vem numa
    frase, depois dela; o que rodou em parte, ou sem busca de taxa, o diz. Levanta ValueError se não há uma das linhas.
    """
    asked = [experiments.get(task, variant) for variant in variants] or experiments.of(task)
    table, sources, (first, second) = summary(task).set_index(["variant", "source"]), SOURCES[task], MEASURES[task]
    digits = 1 if first == "chrf" else 3

    def cell(variant, source):
        row = table.loc[variant, source]
        beside = "" if np.isnan(row[second]) else f" ({row[second]:.2f})"
        return f"{row[first]:.{digits}f} ± {row[f'{first}_half']:.{digits}f}{beside}".replace(".", ",")

    lines, missing = ["| | " + " | ".join(sources.values()) + " |", "|---|" + "---|" * len(sources)], []
    for experiment in (e for e in experiments.of(task) if e in asked):
        name, done = experiment.name, [int(s) for (v, _), s in table["seeds"].items() if v == experiment.variant]
        if not done:
            missing.append(name)
            continue
        if done[0] < len(experiment.seeds):
            name += f" ({done[0]} de {len(experiment.seeds)} sementes)"
        if len(experiment.rates) == 1:
            name += ", sem busca de taxa"
        lines.append(f"| {name} | {' | '.join(cell(experiment.variant, s) for s in sources)} |")
    return "\n".join(lines + (["", f"Ainda a medir: {'; '.join(missing)}."] if missing else []))


def publish(task: str) -> None:
    """Redesenha a figura dos resultados e reescreve a tabela da tarefa na página em que ela fica."""
    from ftcourse import plots

    if task not in tasks.WRITTEN:
        figure: Any = plots.intervals(summary(task), experiments.names(task), SOURCES[task]).get_figure(root=True)
        figure.savefig(path(task).with_suffix(".svg"), metadata={"Date": None})
    write_table(task, markdown(task))


def write_table(name: str, table: str) -> None:
    """Reescreve a tabela que fica entre as marcas de `name`, no README do clone ou no dos resultados."""
    for page in (DATA.parent / "README.md", DATA / "resultados" / "README.md"):
        before, mark, rest = page.read_text(encoding="utf-8").partition(f"<!-- tabela:{name} -->\n")
        if mark:
            after = rest[rest.index("<!-- fim -->") :]
            page.write_text(f"{before}{mark}{table}\n{after}", encoding="utf-8")
