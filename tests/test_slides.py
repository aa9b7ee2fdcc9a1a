"""Os slides: nenhum número digitado, nenhuma letra miúda, nenhuma chamada à rede; a aula cabe no tempo que diz."""

import csv
import html
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from test_notebooks import BANNED, prose, spelling

from ftcourse import costs, experiments, models, plots, results, tasks

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "slides"
TEMPLATE = (FOLDER / "lora.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
THEME = re.sub(r"/\*.*?\*/", "", (FOLDER / "tema.css").read_text("utf-8"), flags=re.S)
LESSON, PLAN, SMALLEST, MOST_WORDS = 50, 35, 24, 45  # o que não é plano é das perguntas
NAN = float("nan")


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


ferramentas = load("ferramentas")
constroi = load("constroi")


# ---------------------------------------------------------------- as regras

# O que parece medido: decimais, milhares, porcentagens e inteiros com unidade.
NUMBER = re.compile(
    r"(?<![\w.,])(\d{1,3}(?:\.\d{3})+(?:,\d+)?|\d+[.,]\d+|"
    r"\d+(?=\s*(?:%|‰|[kMGT]i?B\b|m?s\b|bytes\b|por cento|pontos?\b|vez(?:es)?\b|×)))(?!\d|[.,]\d)"
)


def visible(markdown):
    """O texto sem blocos de código, endereços, números de seção nem as marcas entre um número e a sua unidade."""
    text = re.sub(r"```.*?```|\]\([^)]*\)|https?://\S+|§ ?\d+(\.\d+)*", " ", markdown, flags=re.S)
    return re.sub(r"[*`$]|</?\w[^>]*>", "", text.replace("{,}", ",").replace("&nbsp;", " "))


def typed(template):
    """Números de medida digitados no modelo, fora dos lugares em que o script os põe."""
    body = template.partition("---\n")[2].partition("\n---\n")[2]  # o cabeçalho do Marp não aparece
    body = re.sub(r"\{%.*?%\}|\{#.*?#\}", " ", body, flags=re.S)
    body = re.sub(r"\{\{.*?\}\}", "□", body, flags=re.S)
    return NUMBER.findall(visible(body))


def leaves(values):
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, dict | list):
            yield from leaves(value)
        else:
            yield str(value)


def orphans(markdown, values):
    """Números que o leitor vê e que nenhum resultado, conta ou artigo tem."""
    known = set(leaves(values))
    body = markdown.partition("---\n")[2].partition("\n---\n")[2]
    return [number for number in NUMBER.findall(visible(body)) if number not in known]


def words(text):
    """As palavras que se leem num slide: sem código, fórmulas, imagens, marcas nem a fonte no pé da página."""
    unread = r"<small>.*?</small>|```.*?```|\$\$.*?\$\$|\$[^$\n]+\$|!\[[^\]]*\]\([^)]*\)|\]\([^)]*\)|<[^>]+>"
    return re.findall(r"[^\W\d_][\w-]*", re.sub(unread, " ", text, flags=re.S))


def rules(css):
    """{seletor: {propriedade: valor}} do tema, com as variáveis resolvidas."""
    names = dict(re.findall(r"(--\w+):\s*([^;]+);", css))
    css = re.sub(r"var\((--\w+)\)", lambda m: names[m[1]], css)
    found = {}
    for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", css):
        found.setdefault(" ".join(selector.split()), {}).update(re.findall(r"([\w-]+):\s*([^;]+);", body))
    return found


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear))


def contrast(one, other):
    """A razão de contraste da WCAG 2, de 1 a 21."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def faint(css):
    """Pares (letra, fundo) do tema abaixo de 4,5. Qualquer letra pode cair sobre qualquer fundo."""
    found = rules(css)
    inks = {r["color"] for r in found.values() if "color" in r}
    papers = {c for r in found.values() for c in re.findall(r"#[0-9a-f]{6}\b", r.get("background", ""))} - inks
    assert len(inks) >= 3 and len(papers) >= 2  # o tema mudou de forma e esta regra já não o lê
    return [(ink, paper) for ink in inks for paper in papers if contrast(ink, paper) < 4.5]


def tiny(css):
    """Tamanhos em px do tema abaixo do menor que se lê do fundo da sala; em em, só as fórmulas, que crescem."""
    found = [(s, r["font-size"]) for s, r in rules(css).items() if "font-size" in r]
    return [
        (selector, size)
        for selector, size in found
        if not (size.endswith("px") and float(size[:-2]) >= SMALLEST)
        and not (size.endswith("em") and float(size[:-2]) >= 1 and "katex" in selector)
    ]


def remote(page):
    """O que uma página buscaria fora dela. Um endereço que se lê, ou em que se clica, não é buscado."""
    fetched = re.findall(r"""(?:\bsrc|srcset|poster|xlink:href)\s*=\s*["']?((?:https?:)?//[^"'\s>]+)""", page)
    fetched += re.findall(r"""url\(\s*["']?((?:https?:)?//[^"')\s]+)""", page)
    fetched += re.findall(r"""@import\s+["']((?:https?:)?//[^"']+)""", page)
    return fetched + re.findall(r"""<link[^>]*href\s*=\s*["']?((?:https?:)?//[^"'\s>]+)""", page)


def pages(document):
    """Quantas páginas tem um PDF, e se ele é marcado para leitores de tela e tem sumário."""
    data = document.read_bytes()
    for packed in re.findall(rb"stream\r?\n(.*?)endstream", data, re.S):
        try:
            data += zlib.decompressobj().decompress(packed)
        except zlib.error:
            pass
    return len(re.findall(rb"/Type\s*/Page\b", data)), b"/StructTreeRoot" in data and b"/Outlines" in data


# ---------------------------------------------------------------- as regras veem o que dizem ver


@pytest.mark.parametrize(
    "planted",
    "acerta 0,873;87 %;são 147.456;0.873;pesa 35 MB;10 vezes;2 pontos;**87** %;35MB;`0,99`;$0{,}87$;9 por cento".split(
        ";"
    ),
)
def test_a_number_typed_by_hand_is_seen(planted):
    assert typed(TEMPLATE + f"\n{planted}\n") and typed(TEMPLATE.replace("<!-- [2 min]", f"<!-- [2 min] {planted}"))


def test_a_number_no_result_holds_is_seen():
    values = {"a": {"b": constroi.Shown(0.8734, 3)}, "c": [constroi.Shown(147456)]}
    deck = "---\nmarp: true\n---\n# Título\n\nDe 0,873 e {}, § 4.1, com r = 8.\n"
    assert orphans(deck.format("147.456"), values) == []
    for wrong in ("0,874", "147.457", "87 %", "0.873"):
        assert orphans(deck.format(wrong), values) == [wrong.split()[0]]


def test_a_remote_address_is_seen():
    for planted in ('<img src="https://x.org/a.png">', "url('//x.org/a.woff2')", '<link rel="x" href="http://x.org">'):
        assert remote(planted)
    assert not remote('<a href="https://arxiv.org/abs/2106.09685">arxiv.org</a> xmlns="http://www.w3.org/2000/svg"')


def test_small_letters_and_faint_colours_are_seen():
    assert tiny(THEME + "small { font-size: 18px; }") and tiny(THEME + "small { font-size: 0.7em; }")
    assert faint(THEME + "small { color: #888888; }")
    assert round(contrast("#000000", "#ffffff"), 6) == 21 and round(contrast("#767676", "#ffffff"), 2) == 4.54


# ---------------------------------------------------------------- o que vale sem resultado algum


def test_no_measured_number_is_typed_in_the_template():
    assert typed(TEMPLATE) == []


def test_the_theme_is_legible_and_its_accent_is_that_of_the_figures():
    assert tiny(THEME) == [] and faint(THEME) == []
    assert rules(THEME)["strong"]["color"].upper() == plots.COLORS[0]
    drawn = re.findall(r"#\w{6}", rules(THEME)["section.capa"]["background-image"])
    assert drawn[:2] == [color.lower() for color in plots.COLORS[:2]]  # B e A, como na figura da aposta
    assert not remote(THEME) and "@font-face" not in THEME


def test_every_published_number_says_where_it_was_published():
    with (FOLDER / "publicados.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({row["chave"] for row in rows}) == len(rows)
    assert all(re.search(r"\(\d{4}\)", row["fonte"]) for row in rows)
    assert {row["chave"] for row in rows} == set(re.findall(r"publicado\.(\w+)\.", TEMPLATE))


def test_numbers_are_written_in_portuguese():
    shown = [constroi.Shown(v, d) for v, d in ((0.8734, 3), (147456, 0), (1234.5, 1), (-0.5, 1), (0.0, 0))]
    assert [*map(str, shown)] == ["0,873", "147.456", "1.234,5", "−0,5", "0"]
    assert [str(constroi.trimmed(v)) for v in (2e-4, 0.0015, 1e-5, 2.5, 0.002 / 0.0005)] == [
        "0,0002", "0,0015", "0,00001", "2,5", "4"
    ]  # fmt: skip


def test_the_arithmetic_counts_what_peft_would_train():
    count = constroi.arithmetic()
    assert str(count["bert"]) == "147.456" and count["rd2"] == 2 * 8 * 256 and count["alfa_r"] == 2


@pytest.mark.parametrize(
    "gap, half, expected",
    [(0.02, 0.01, "acima"), (-0.02, 0.01, "abaixo"), (0.009, 0.01, "empate"), (0, 0, "empate"), (0.1, NAN, "empate")],
)
def test_who_wins_depends_on_the_interval_of_the_difference(gap, half, expected):
    assert constroi.direction(gap, half) == expected


def test_the_versions_are_pinned_and_the_lock_names_no_other_registry():
    wanted = json.loads((FOLDER / "package.json").read_text("utf-8"))["dependencies"]
    lock = json.loads((FOLDER / "package-lock.json").read_text("utf-8"))["packages"]
    assert all(lock[f"node_modules/{name}"]["version"] == version for name, version in wanted.items())
    assert all("integrity" in entry for name, entry in lock.items() if name)
    hosts = {re.match(r"https://([^/]+)/", e["resolved"])[1] for e in lock.values() if "resolved" in e}
    assert hosts <= {"registry.npmjs.org"}
    katex = [name for name in lock if name.endswith("node_modules/katex")]
    assert len(katex) == 1  # as letras copiadas são as do KaTeX que escreve as fórmulas


# ---------------------------------------------------------------- a aula preenchida com o que está em data/resultados


@pytest.fixture(scope="module")
def values():
    try:
        return constroi.context()
    except SystemExit as error:  # dentro de um fixture, pararia o próprio pytest
        pytest.fail(str(error))


@pytest.fixture(scope="module")
def markdown(values):
    return constroi.render(TEMPLATE, values)


@pytest.fixture(scope="module")
def deck(markdown):
    return constroi.slides(markdown)


def test_every_number_shown_is_held_by_a_result(markdown, values):
    assert orphans(markdown, values) == []
    assert orphans(markdown + "\n0,9999\n", values) == ["0,9999"]


def test_the_lecture_fits_its_time(deck):
    assert 15 <= len(deck) <= 20
    assert all(slide["minutes"] and len(slide["notes"].split()) >= 25 for slide in deck)
    assert sum(slide["minutes"] for slide in deck) == PLAN
    for said in (deck[0]["text"], README):
        assert re.search(rf"{LESSON} minutos: {PLAN} de plano e {LESSON - PLAN} de\s+perguntas", said)


def test_one_idea_a_slide(deck):
    for slide in deck:
        assert len(re.findall(r"^##? ", re.sub(r"```.*?```", "", slide["text"], flags=re.S), re.M)) == 1, slide["title"]
        assert len(words(slide["text"])) <= MOST_WORDS, (slide["title"], len(words(slide["text"])))
    assert len({slide["title"] for slide in deck}) == len(deck)


def test_a_prediction_comes_before_each_measurement(deck):
    titles = [slide["title"] for slide in deck]
    for asked, *measured in (
        ("Preveja: quem acerta mais, e com que taxa?", "Quem acertou mais?", "A melhor taxa é a mesma?"),
        (
            "Preveja: quanto LoRA poupa?",
            "O que se poupa, e o que não?",
            "Treina menos números: o passo encurta?",
        ),
    ):
        places = [*map(titles.index, (asked, *measured))]
        assert places == [*range(places[0], places[0] + len(places))]
    assert sum(title.startswith("Preveja") for title in titles) == 2  # toda previsão tem resposta na própria aula


def test_every_figure_is_described(deck):
    figures = [found for slide in deck for found in re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", slide["text"])]
    assert len(figures) == 5 and all(len(alt.split()) >= 8 for alt, _ in figures)


def test_the_lecture_sounds_like_the_course(deck):
    for slide in deck:
        text = prose(f"{slide['title']}\n{slide['text']}\n\n{slide['notes']}")
        assert not [found.group() for found in BANNED.finditer(text)], slide["title"]


def test_the_lecture_is_well_spelt(deck):
    cells = [nbformat.v4.new_markdown_cell(slide[part]) for slide in deck for part in ("text", "notes")]
    assert list(spelling(nbformat.v4.new_notebook(cells=cells), "lora")) == []


def test_the_letters_of_the_figures_are_not_small(values, tmp_path, monkeypatch):
    sizes = {}

    def measure(figure, path, **options):
        figure.draw_without_rendering()
        assert figure.get_size_inches()[0] * 96 <= 1280 - 2 * 60  # entra no slide sem encolher
        texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
        sizes[path.stem] = min(t.get_fontsize() for t in texts) * 96 / 72

    monkeypatch.setattr(plt.Figure, "savefig", measure)
    constroi.figures(values, tmp_path)
    assert sizes.keys() == set(re.findall(r"figuras/(\w+)\.svg", TEMPLATE))
    assert min(sizes.values()) >= SMALLEST, sizes


# ---------------------------------------------------------------- o que falta medir, e o que a medida diz


def answers(right, wrong):
    """Previsões de acerto conhecido: as `wrong` primeiras frases, erradas; as outras, certas."""
    return [label if i >= wrong else 1 - label for i, label in enumerate(right)]


def invented(variants, seeds=2):
    """Linhas como as da bancada, com previsões inventadas: a busca de cada taxa e o teste na do meio."""
    task, rows = tasks.load(constroi.TASK), []
    parts = {split: results.evaluated(task, split) for split in ("validation", "test")}
    for variant in variants:
        experiment = experiments.get(constroi.TASK, variant)
        tries = [("validation", lr, 0, 30 * abs(i - 1)) for i, lr in enumerate(experiment.rates)]
        tries += [("test", (*experiment.rates, None, None)[1], seed, seed or 0) for seed in experiment.seeds[:seeds]]
        for split, lr, seed, wrong in tries:
            predictions = answers(parts[split]["label"], wrong)
            sources = results.sources_of(task, parts[split])
            right = np.array(predictions) == np.array(parts[split]["label"])
            metrics = {s: {"accuracy": float(right[sources == s].mean()), "mcc": 0.0} for s in np.unique(sources)}
            rows.append(
                experiment.job(split, lr, seed=seed)
                | results.origins(constroi.TASK)[variant]
                | {"predictions": [*map(str, predictions)], "metrics": metrics}
            )
    return rows


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Uma pasta de resultados só com o que se puser nela, e os passos medidos de verdade."""
    shutil.copy(results.path("velocidade"), tmp_path)
    monkeypatch.setattr(results, "path", lambda task: tmp_path / f"{task}.jsonl")
    return tmp_path


def write(variants):
    lines = [json.dumps(row) + "\n" for row in invented(variants)]
    results.path(constroi.TASK).write_text("".join(lines), "utf-8")


NEEDED = [variant for variant in constroi.NAMES if variant not in constroi.OPTIONAL]


@pytest.mark.parametrize("variants", [NEEDED, [*constroi.NAMES]], ids=["needed", "all"])
def test_the_lecture_needs_only_what_it_compares_and_the_baselines(folder, variants):
    write(variants)
    values = constroi.context()
    text = constroi.render(TEMPLATE, values)
    assert orphans(text, values) == []
    assert ("LoRA com r = 1," in text, "pesos sorteados" in text) == (len(variants) == len(constroi.NAMES),) * 2


@pytest.mark.parametrize("lacking", NEEDED)
def test_a_missing_variant_is_named(folder, lacking):
    write([variant for variant in NEEDED if variant != lacking])
    with pytest.raises(SystemExit, match=f"faltam as execuções de {lacking}: rode make bancada"):
        constroi.context()


def test_missing_costs_and_steps_are_named(folder, monkeypatch):
    lines = costs.COSTS.read_text("utf-8").splitlines(keepends=True)
    monkeypatch.setattr(costs, "COSTS", folder / "custo.jsonl")
    with pytest.raises(SystemExit, match=r"Não encontrei .*custo\.jsonl"):
        constroi.spent()
    costs.COSTS.write_text("".join(line for line in lines if '"lora"' not in line), "utf-8")
    with pytest.raises(SystemExit, match="faltam as execuções de lora: rode make bancada"):
        constroi.spent()
    results.path("velocidade").write_text("", "utf-8")
    with pytest.raises(SystemExit, match=r"falta o passo de LoRA .*: rode make bancada-velocidade"):
        constroi.step()


def test_the_range_of_rates_holds_those_that_the_validation_does_not_tell_apart(folder):
    """Trinta erros em duas mil frases separam duas taxas; dois, não."""
    rows = invented(["full", "lora"])
    close = next(r for r in rows if (r["variant"], r["split"], r["lr"]) == ("lora", "validation", 1e-3))
    task = tasks.load(constroi.TASK)
    close["predictions"] = [*map(str, answers(task.validation["label"], 2))]
    close["metrics"] = {source: {"accuracy": 0.999} for source in close["metrics"]}
    results.path(constroi.TASK).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    rates = constroi.best_rates()
    assert (rates["full"], rates["empatadas"]["full"]) == (5e-4, [5e-4])
    assert (rates["lora"], rates["empatadas"]["lora"]) == (2e-3, [1e-3, 2e-3])
    assert [*map(str, rates["vezes"])] == ["2", "4"]


@pytest.mark.parametrize(
    "full, lora, only, seeds",
    [
        ([1, 0], [0, 1], (50, 50), (0, 0)),  # as mesmas taxas, e nenhuma falha em comum
        ([1, 0], [1, 0], (0, 0), (0, 0)),
        ([0.5, 0.5], [0.5, 0.5], (25, 25), (100, 100)),  # de duas sementes, uma acha: discordam sempre
    ],
)
def test_equal_rates_are_not_the_same_faults(full, lora, only, seeds):
    table = pd.DataFrame({"kind": ["crase", "crase", results.FALSE_ALARM], "full": [*full, 1], "lora": [*lora, 0]})
    shown = constroi.shared(table, {"full": 2, "lora": 2})
    assert (shown["so"]["full"], shown["so"]["lora"]) == only and shown["uma"] == sum(only)
    assert (shown["sementes"]["full"], shown["sementes"]["lora"]) == seeds
    assert constroi.shared(table, {"full": 1, "lora": 2})["sementes"]["full"] is None


def test_the_step_shown_is_that_of_the_results_page():
    page, shown = (ROOT / "data" / "resultados" / "README.md").read_text("utf-8"), constroi.step()
    line = next(line for line in page.splitlines() if "mini-bert-pt: LoRA à mão ÷ ajuste completo" in line)
    assert sorted(re.findall(r"\| (\d,\d{3}) \[", line)) == [*map(str, shown["relogio"])]
    expected = f"prevê {shown['conta']}, de {shown['ida']} : {shown['entradas']} : {shown['pesos']}"
    assert line.count(expected) == len(shown["relogio"])


def test_the_config_on_the_slide_trains_what_the_slide_says():
    values = {"conta": constroi.arithmetic(), "custo": constroi.spent()}
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", TEMPLATE, re.S) if "LoraConfig" in code]
    task = tasks.load(constroi.TASK)
    place = {"model": models.load("bert", task)[0]}
    exec(constroi.render(code, values), place)
    trained = sum(p.numel() for p in place["model"].parameters() if p.requires_grad)
    assert trained == values["custo"]["lora"]["treina"]


# ---------------------------------------------------------------- o make

needs_make = pytest.mark.skipif(not shutil.which("make"), reason="sem make")


def make_slides(tmp_path, *tools, **variables):
    """`make slides` num computador que só tem `tools`, num clone em que o curso já está instalado."""
    house, tools_folder = tmp_path / "curso", tmp_path / "bin"
    shutil.copytree(FOLDER, house / "slides", ignore=shutil.ignore_patterns("node_modules", "pronto"))
    shutil.copy(ROOT / "Makefile", house)
    tools_folder.mkdir()
    for name in ("sh", "echo"):
        (tools_folder / name).symlink_to(shutil.which(name))
    (tools_folder / "python3").symlink_to(sys.executable)
    for name, script in tools:
        (tools_folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools_folder / name).chmod(0o755)
    command = [shutil.which("make"), "-o", ".venv/pronto", "slides"]
    alone = {"PATH": str(tools_folder)} | variables
    return subprocess.run(command, cwd=house, env=alone, capture_output=True, encoding="utf-8", timeout=60)


NODE = [("node", "echo v22.1.0"), ("npm", "")]


@needs_make
@pytest.mark.parametrize(
    "tools, variables, said, unsaid",
    [
        ([], {"CHROME_PATH": "/bin/sh"}, "falta o Node.js 18", "o Chromium"),
        ([("node", "echo v12.22.9"), ("npm", "")], {"CHROME_PATH": "/bin/sh"}, "falta o Node.js 18", "o Chromium"),
        ([("node", "echo v22.1.0")], {"CHROME_PATH": "/bin/sh"}, "com npm", "o Chromium"),
        (NODE, {"CHROME_PATH": "/nao/existe"}, "falta o Chromium", "Node.js"),
        ([], {"CHROME_PATH": "/nao/existe"}, "e falta o Chromium", "Traceback"),
    ],
)
def test_make_says_what_is_missing(tmp_path, tools, variables, said, unsaid):
    result = make_slides(tmp_path, *tools, **variables)
    assert result.returncode and said in result.stderr and unsaid not in result.stderr
    assert all(system in result.stderr for system in ("Debian", "Ubuntu", "macOS", "Windows"))
    assert "Para montar os slides" in result.stderr and not (tmp_path / "curso/slides/node_modules").exists()


# ---------------------------------------------------------------- a montagem

needs_tools = pytest.mark.skipif(
    bool(ferramentas.missing()) or not (FOLDER / "node_modules" / ".package-lock.json").exists(),
    reason="sem node, sem Chromium ou sem o Marp: make slides os pede ou os traz",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("slides montados")
    constroi.main(folder)
    return folder


@needs_tools
def test_the_pdf_has_every_slide_and_is_tagged(built, deck):
    assert pages(built / "lora.pdf") == (len(deck), True)


@needs_tools
def test_the_page_is_one_file_that_fetches_nothing(built, deck):
    page = (built / "lora.html").read_text("utf-8")
    assert remote(page) == [] and '<html lang="pt-BR"' in page
    assert "url(katex/" not in page and "figuras/" not in page and page.count("data:font/woff2") >= 5
    images = re.findall(r"<img[^>]*>", page)
    assert len(images) == 5 and all(re.search(r'alt="[^"]{30,}"', image) for image in images)
    assert all(html.escape(slide["title"]) in page or "$" in slide["title"] for slide in deck)


@needs_tools
def test_the_handout_follows_the_clock(built, deck):
    text = (built / "lora.notas.txt").read_text("utf-8")
    assert all(slide["title"] in text for slide in deck) and f"[{PLAN}–{LESSON} min]" in text and "<!--" not in text


@needs_tools
def test_nothing_overflows_and_nothing_is_small_once_laid_out(built, deck):
    """O navegador mede cada slide: o menor tamanho de letra visível e o que passa das margens."""
    page = built / "medida.html"
    constroi.marp(built / "lora.md", "--output", page, "--template", "bare")
    script = """<script>
    const report = [...document.querySelectorAll("section")].map(slide => {
        const box = slide.getBoundingClientRect(), scale = box.width / 1280, small = [], out = []
        const walker = document.createTreeWalker(slide, NodeFilter.SHOW_TEXT)
        while (walker.nextNode()) {
            const node = walker.currentNode, parent = node.parentElement
            if (!node.data.trim() || parent.closest(".katex-mathml, style, script")) continue
            const range = document.createRange(); range.selectNodeContents(node)
            const r = range.getBoundingClientRect()
            if (r.width < 2 || !/[\\w]/.test(node.data)) continue
            if (parseFloat(getComputedStyle(parent).fontSize) < 24) small.push(node.data.trim())
            if (r.right > box.right - 40 * scale || r.bottom > box.bottom - 20 * scale || r.top < box.top
                || r.left < box.left) out.push(node.data.trim())
        }
        const blocks = [...slide.children].filter(e => !e.querySelector("small")).map(e => e.getBoundingClientRect())
        const foot = slide.querySelector("small")
        const limit = foot ? foot.getBoundingClientRect().top : box.bottom - 60 * scale
        if (blocks.some(r => r.bottom > limit)) out.push("encosta no pé da página")
        return {small, out}
    })
    document.body.innerHTML = ""; document.title = JSON.stringify(report)
    </script>"""
    page.write_text(page.read_text("utf-8").replace("</body>", script + "</body>"), "utf-8")
    command = [ferramentas.chromium(), "--headless", "--disable-gpu", "--no-sandbox", "--virtual-time-budget=3000"]
    command += ["--window-size=1280,720", f"--user-data-dir={built / 'perfil'}", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, env=os.environ).stdout
    report = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", dom, re.S)[1]))
    assert len(report) == len(deck)
    assert [(s["title"], r) for s, r in zip(deck, report) if r["small"] or r["out"]] == []
