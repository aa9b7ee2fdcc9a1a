"""Monta a aula de LoRA: preenche lora.md com números de data/resultados, desenha as figuras e chama o Marp.

    python slides/constroi.py [DESTINO]        # sem DESTINO, em slides/pronto

Grava lora.html, lora.pdf e lora.notas.txt.

Nenhum número medido é digitado em lora.md. Cada um vem de um destes lugares:

- `data/resultados`: a bancada da aceitabilidade, os custos de cada técnica e o tempo de um passo;
- as contas de `arithmetic`, com as medidas do mini-BERT-pt;
- `publicados.csv`: o que está em artigos, com a seção ou a tabela.

É preciso ter Node.js, npm e Chromium; na primeira vez, rede, para o npm trazer o Marp. O HTML é um arquivo só, com
figuras e letras dentro.
"""

import base64
import csv
import inspect
import json
import math
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import jinja2
import matplotlib.pyplot as plt
import numpy as np
from ferramentas import chromium, missing, node

from ftcourse import benchmark, costs, experiments, plots, results, tasks
from ftcourse.files import DATA, atomic_write

HERE = Path(__file__).resolve().parent
MODULES = HERE / "node_modules"
TASK = "aceitabilidade"
R, ALPHA = experiments.get("aceitabilidade", "lora").settings.values()
LARGE = 4096  # a largura das camadas de um modelo de 7 bilhões de parâmetros
COPIES = 10  # as tarefas que dividem uma base
NAMES = {  # os da bancada, mais curtos: aqui cada letra tem 24 px
    "majority": "classe majoritária",
    "tfidf": "TF-IDF e regressão",
    "random": "completo, pesos sorteados",
    "head": "só a cabeça",
    "without_labels": "espanto, sem ajuste",
    "lora_r1": "LoRA, r = 1",
    "lora": f"LoRA, r = {R}",
    "full": "ajuste completo",
}
OPTIONAL = {"random", "lora_r1"}  # enquanto não rodam, a aula se monta sem elas
COMPARED = {variant: NAMES[variant] for variant in ("full", "lora")}
COSTS = ("full", "lora")
LESSON = 50  # minutos: o plano e, no que sobra, as perguntas


class Shown(float):
    """Um número que sabe como se escreve em português, com as casas que se mostram."""

    def __new__(cls, value, digits=0):
        shown = super().__new__(cls, value)
        shown.digits = digits
        return shown

    def __str__(self):
        return f"{float(self):,.{self.digits}f}".translate(str.maketrans(",.", ".,")).replace("-", "−")


def trimmed(value):
    """Uma taxa de aprendizado, ou a razão entre duas, sem zeros à direita."""
    return Shown(value, next(d for d in range(12) if math.isclose(round(value, d), value)))


# ---------------------------------------------------------------- de onde vêm os números


def measured():
    """{variante: {fonte: acurácia e metade do intervalo}}, e o sentido da comparação entre LoRA e ajuste completo.

    As que ainda não rodaram ficam de fora; sem as que não estão em OPTIONAL, não há aula.
    """
    table = results.summary(TASK)
    ran = [variant for variant in NAMES if variant in set(table["variant"])]
    demand([variant for variant in NAMES if variant not in OPTIONAL and variant not in ran], results.path(TASK))
    rows = table.set_index(["variant", "source"])
    values = {
        variant: {
            source: {"accuracy": Shown(row.accuracy, 3), "half": Shown(row.accuracy_half, 3)}
            for source, row in rows.loc[variant].iterrows()
        }
        for variant in ran
    }
    values["diferenca"] = {
        source: {
            "pontos": Shown(100 * abs(row.difference), 1),
            "metade": Shown(100 * row.half, 1),
            "sentido": direction(row.difference, row.half),
        }
        for source, row in results.difference(TASK, "lora", "full").iterrows()
    }
    values["bases"] = [NAMES[variant] for variant in ran if not variant.startswith("lora") and variant != "full"]
    values["sementes"] = Shown(rows.loc["full", "seeds"].min())
    values["confianca"] = Shown(95)  # o intervalo que results.half_width calcula
    return values


def demand(lacking, file):
    """Para com uma frase se falta uma execução sem a qual a aula não se monta."""
    if lacking:
        raise SystemExit(
            f"Em {file} faltam as execuções de {', '.join(lacking)}: rode make bancada, que completa o que falta, e "
            "monte os slides de novo."
        )


def direction(gap, half):
    """ "acima" ou "abaixo", se o intervalo da diferença não contém o zero; senão, "empate"."""
    if not abs(gap) > half:
        return "empate"
    return "acima" if gap > 0 else "abaixo"


def best_rates():
    """A melhor taxa de cada técnica, as que a validação não separa dela, e quantas vezes uma é a outra."""
    best, table = results.best_rates(TASK), results.swept(TASK)
    tried = {v: table.loc[table["variant"] == v, "lr"].tolist() for v in COMPARED}
    level = {v: tied(v, best[v], tried[v]) for v in COMPARED}
    least, most = min(level["lora"]) / max(level["full"]), max(level["lora"]) / min(level["full"])
    return {v: trimmed(best[v]) for v in COMPARED} | {
        "empatadas": {v: [*map(trimmed, level[v])] for v in COMPARED},
        "vezes": [trimmed(least), trimmed(most)],
        "borda": [name for v, name in COMPARED.items() if best[v] in (min(tried[v]), max(tried[v]))],
    }


def tied(variant, best, tried):
    """As taxas que as frases da validação não separam da melhor: o intervalo da diferença contém o zero.

    O sorteio das frases é o mesmo para as duas taxas; o das sementes não entra, porque a busca tem uma só.
    """
    task, experiment = tasks.load(TASK), experiments.get(TASK, variant)
    known, rows = results.evaluated(task, "validation"), {results.key(row): row for row in results.current(TASK)}
    drawn = {}
    for lr in tried:
        row = rows[results.key(experiment.job("validation", lr, seed=0))]
        right = [source for source in results.statistics(task, known, [row]).values() if source.size]
        drawn[lr] = np.mean([results.resampled(source) for source in right], axis=0)
    return [lr for lr in tried if np.percentile(drawn[best] - drawn[lr], 2.5) <= 0]


def ranks():
    """{variante: {fonte: acurácia}} na validação, dos treinos que mudam r ou α com a taxa de outra; os que rodaram."""
    table = results.explained(TASK)
    return {
        variant: {source: Shown(accuracy, 3) for source, accuracy in row.items()}
        for (variant, steps), row in table.iterrows()
        if steps == experiments.STEPS[TASK]
    }


def accused():
    """Um DataFrame, tipo de falha por variante: a fração acusada em todas as fontes; no fim, o alarme falso."""
    table = results.accused(*COMPARED).groupby("kind")[list(COMPARED)].mean()
    return table.loc[[*table["full"].drop(results.FALSE_ALARM).sort_values(ascending=False).index, results.FALSE_ALARM]]


def widest(table):
    """O tipo em que as duas técnicas mais diferem, com a porcentagem de cada uma."""
    kinds = table.drop(results.FALSE_ALARM)
    kind = (kinds["lora"] - kinds["full"]).abs().idxmax()
    return {"nome": kind} | {variant: Shown(100 * table.loc[kind, variant]) for variant in COMPARED}


def shared(table, seeds):
    """De cem falhas, quantas só uma das técnicas acha, e em quantas duas sementes da mesma técnica discordam.

    Sorteia-se uma semente de cada técnica. A discordância entre sementes é a régua: se as técnicas não discordam mais
    que isso, trocar de técnica muda tanto quanto trocar de semente.

    table: o que results.accused devolve. seeds: {variante: sementes}; com uma só não há régua, e ela é None.
    """
    faults = table[table["kind"] != results.FALSE_ALARM]
    only = {v: (faults[v] * (1 - faults[other])).mean() for v, other in (("full", "lora"), ("lora", "full"))}
    alone = {v: 2 * (faults[v] * (1 - faults[v])).mean() for v in COMPARED}
    return {
        "so": {v: Shown(100 * share) for v, share in only.items()},
        "uma": Shown(100 * sum(only.values())),
        "sementes": {
            v: Shown(100 * share * seeds[v] / (seeds[v] - 1)) if seeds[v] > 1 else None for v, share in alone.items()
        },
    }


def spent():
    """O que cada técnica treina, guarda e demora, como costs.measure o mediu."""
    if not costs.COSTS.exists():
        raise SystemExit(f"Não encontrei {costs.COSTS}, os custos de cada técnica: rode make bancada.")
    stored, shown = costs.measured().to_dict("index"), {}
    demand([variant for variant in COSTS if variant not in stored], costs.COSTS)
    for variant in COSTS:
        cost = stored[variant]
        shown[variant] = {
            "treina": Shown(cost["trainable"]),
            "fracao": Shown(100 * cost["trainable"] / cost["total"], 1),
            "estado": Shown((cost["gradient_bytes"] + cost["optimizer_bytes"]) / 1e6, 1),
            "arquivo": Shown(cost["file_bytes"] / 1e6, 1),
            "passo": Shown(cost["step_ratio"]["median"], 2),
        }
    shown["copias"] = Shown(COPIES * stored["full"]["file_bytes"] / 1e6)
    shown["uma_base"] = Shown((stored["full"]["file_bytes"] + COPIES * stored["lora"]["file_bytes"]) / 1e6)
    return shown


def step():
    """Um passo de LoRA dividido pelo do ajuste completo, como data/resultados/README.md o mostra: conta e relógio."""
    file = results.path("velocidade")
    rows = [
        row
        for row in costs.current(results.parsed(file))
        if (row["what"], row.get("family"), row["device"]) == ("step", "bert", "cpu")
        and (row["ours"]["name"], row["theirs"]["name"]) == ("lora", "full")
    ]
    if not rows:
        raise SystemExit(f"Em {file} falta o passo de LoRA e o do ajuste completo: rode make bancada-velocidade.")
    latest = {(row["environment"]["processor"], row["threads"]): row for row in rows}  # medida de novo, vale a última
    counted = rows[-1]["flops"]
    full = counted["forward"] + counted["backward_input"] + counted["backward_weight"]
    return {
        "ida": Shown(1, 2),
        "entradas": Shown(counted["backward_input"] / counted["forward"], 2),
        "pesos": Shown(counted["backward_weight"] / counted["forward"], 2),
        "conta": Shown(counted["lora"] / full, 3),
        "relogio": [Shown(median, 3) for median in sorted(row["ratio"]["median"] for row in latest.values())],
        "nucleos": [Shown(threads) for threads in sorted({threads for _, threads in latest})],
        "lote": [*map(Shown, rows[-1]["batch"])],
    }


def arithmetic():
    """O que sai de uma conta com as medidas do mini-BERT-pt, sem treino nenhum."""
    config = json.loads((DATA / "modelos" / "mini-bert-pt" / "config.json").read_text(encoding="utf-8"))
    d, f, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    linears = [(d, d)] * 4 + [(d, f), (f, d)]  # q, k, v, saída; sobe, desce
    weights = layers * sum(rows * columns for rows, columns in linears)
    trained = layers * sum(R * (rows + columns) for rows, columns in linears)
    return {
        "r": Shown(R), "alfa": Shown(ALPHA), "alfa_r": Shown(ALPHA / R), "d": Shown(d), "grande": Shown(LARGE),
        "d2": Shown(d * d), "grande2": Shown(LARGE**2), "rd2": Shown(2 * R * d), "grande_rd2": Shown(2 * R * LARGE),
        "fracao": Shown(100 * 2 * R / d, 2), "grande_fracao": Shown(100 * 2 * R / LARGE, 2),
        "bert": Shown(trained), "bert_linear": Shown(weights), "bert_fracao": Shown(100 * trained / weights, 1),
        "lineares": Shown(layers * len(linears)),
        "tarefas": Shown(COPIES), "aula": Shown(LESSON),
        "calibracao": Shown(inspect.signature(benchmark.without_labels).parameters["calibration"].default),
    }  # fmt: skip


def published():
    """{chave: {valor, fonte}} de publicados.csv; o valor é mostrado com as casas do arquivo."""
    with (HERE / "publicados.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        row["chave"]: {"fonte": row["fonte"]}
        | ({"valor": Shown(row["valor"], len(row["valor"].partition(".")[2]))} if row["valor"] else {})
        for row in rows
    }


def context():
    """Tudo que lora.md pode mostrar."""
    values, seeds = measured(), Counter(row["variant"] for row in results.tested(TASK))
    return values | {
        "taxa": best_rates(), "posto": ranks(), "tipo": widest(accused()), "custo": spent(), "passo": step(),
        "falhas": shared(results.accused(*COMPARED), seeds), "conta": arithmetic(),
        "publicado": published(),
    }  # fmt: skip


# ---------------------------------------------------------------- o que se grava


def render(template, values):
    """O Markdown preenchido. Um nome que não existe é um erro, não um espaço em branco."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(values)


def slides(markdown):
    """Os slides de um Markdown de Marp: título, texto, minutos e notas de cada um."""
    _, _, body = markdown.partition("---\n")[2].partition("\n---\n")
    found = []
    for source in re.split(r"^---$", body, flags=re.M):
        title = re.search(r"^#+ (.+)$", source, re.M)
        timed = re.search(r"<!--\s*\[(\d+) min\]\s*(.*?)-->", source, re.S)
        found.append(
            {
                "title": title[1] if title else "",
                "text": re.sub(r"<!--.*?-->", "", source, flags=re.S).strip(),
                "minutes": int(timed[1]) if timed else 0,
                "notes": timed[2].strip() if timed else "",
            }
        )
    return found


def handout(deck):
    """As notas de quem apresenta, para imprimir: cada slide com o minuto em que começa."""
    pages, clock = [], 0
    for number, slide in enumerate(deck, 1):
        notes = "\n\n".join(textwrap.fill(" ".join(part.split()), 88) for part in slide["notes"].split("\n\n"))
        pages.append(f"{number}. {slide['title']}\n[{clock}–{clock + slide['minutes']} min]\n\n{notes}\n")
        clock += slide["minutes"]
    pages.append(f"Perguntas\n[{clock}–{LESSON} min]\n")
    return ("\n" + "-" * 88 + "\n\n").join(pages)


def figures(values, folder):
    """Desenha as figuras da aula, uma por arquivo SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    cost = values["custo"]
    draw = {
        "aposta": lambda: plots.low_rank(int(values["conta"]["d"]), R, plots.projected(1160, 350)),
        "acuracia": lambda: plots.intervals(
            results.summary(TASK), NAMES, experiments.SOURCES[TASK], plots.projected(1160, 390)
        ),
        "taxas": lambda: plots.rates(results.swept(TASK), COMPARED, plots.projected(1160, 370)).set(
            xticks=results.swept(TASK).query("variant in @COMPARED")["lr"].unique()
        ),
        "tipos": lambda: plots.found(accused(), COMPARED, plots.projected(1160, 400)),
        "tarefas": lambda: plots.bars(
            [f"{COPIES} cópias", f"1 base e {COPIES} adaptadores"],
            [cost["copias"], cost["uma_base"]],
            plots.projected(1160, 220),
            unit=" MB",
            digits=0,
        ).set(xticks=[]),
    }
    with plt.rc_context():
        for name, figure in draw.items():
            figure()
            plt.gcf().savefig(folder / f"{name}.svg", metadata={"Date": None})
            plt.close()


def marp(source, *options):
    """Chama o Marp sobre um Markdown; o que ele diz só aparece se falhar."""
    command = [node(), MODULES / "@marp-team" / "marp-cli" / "marp-cli.js", source, *options]
    command += ["--config-file", HERE / "marp.config.mjs", "--theme-set", HERE / "tema.css"]
    variables = {"CHROME_PATH": chromium()}
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        variables["CHROME_NO_SANDBOX"] = "1"  # o Chromium não se isola quando quem o roda é o administrador
    said = subprocess.run(command, env=os.environ | variables, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if said.returncode:
        raise SystemExit(f"O Marp parou:\n{said.stderr}")


def embed(page, folder):
    """O HTML com as letras das fórmulas e as figuras dentro dele."""

    def data(match):
        kind = {".woff2": "font/woff2", ".svg": "image/svg+xml"}[Path(match[0]).suffix]
        return f"data:{kind};base64,{base64.b64encode((folder / match[0]).read_bytes()).decode()}"

    page = re.sub(r",url\([^)]*\.(?:woff|ttf)[\"']?\) ?format\([^)]*\)", "", page)  # basta o formato mais novo
    return re.sub(r"(?:katex|figuras)/[\w-]+\.(?:woff2|svg)", data, page)


def install():
    """Traz o Marp e o KaTeX nas versões de package-lock.json, se não estão aqui."""
    if not (MODULES / ".package-lock.json").exists():
        print("Trazendo o Marp do npm: um minuto, só desta vez.", flush=True)
        variables = os.environ | {"PUPPETEER_SKIP_DOWNLOAD": "1"}
        command = [shutil.which("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        if subprocess.run(command, cwd=HERE, env=variables).returncode:
            raise SystemExit("O npm não trouxe o Marp: confira a rede e rode make slides de novo.")


def main(destination=HERE / "pronto"):
    if missing():
        raise SystemExit(missing())
    destination = Path(destination)
    values = context()  # antes do npm: se falta um resultado, não adianta esperar
    install()
    markdown = render((HERE / "lora.md").read_text(encoding="utf-8"), values)
    figures(values, destination / "figuras")
    shutil.copytree(
        MODULES / "katex" / "dist" / "fonts", destination / "katex", dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("*.ttf", "*.woff"),
    )  # fmt: skip
    source = destination / "lora.md"
    source.write_text(markdown, encoding="utf-8")
    marp(source, "--output", destination / "lora.pdf", "--pdf-outlines", "--pdf-outlines.pages=false")
    marp(source, "--output", destination / "lora.html")
    with atomic_write(destination / "lora.notas.txt") as file:
        file.write(handout(slides(markdown)).encode())
    page = (destination / "lora.html").read_text(encoding="utf-8")
    with atomic_write(destination / "lora.html") as file:
        file.write(embed(page, destination).encode())
    print(f"Prontos em {destination}: lora.html, lora.pdf e lora.notas.txt")


if __name__ == "__main__":
    main(*sys.argv[1:])
