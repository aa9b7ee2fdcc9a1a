"""A forma dos cadernos. Cada regra diz os problemas que vê; um caderno inventado prova que ela os vê."""

import functools
import re
import statistics
import tomllib

import nbformat
import pytest
import spylls.hunspell
from notebook_tools import (
    NOTEBOOKS,
    ROOT,
    code_cells,
    execute,
    failed,
    fingerprint,
    read,
    rehearse,
    sections,
    seen,
    shortened,
    solution,
    tags,
    text,
)  # fmt: skip

from ftcourse import claims

REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]["Repository"]
COLAB = (
    REPOSITORY.replace("https://", "https://colab.research.google.com/").replace(
        "google.com/github.com", "google.com/github"
    )
    + "/blob/main/notebooks/"
)

# O que o curso não escreve. Quem achar aqui uma frase boa, mude a frase: quase sempre ela serviria a qualquer curso.
BANNED = re.compile(
    r"neste (notebook|caderno|capítulo|tutorial),? (vamos|iremos|você vai)|vamos (mergulhar|explorar|embarcar)"
    r"|é importante (notar|ressaltar|destacar|lembrar)|vale (ressaltar|destacar|a pena notar)|\bpoderos[oa]s?\b"
    r"|\bcruci(al|ais)\b|revolucion|de forma eficiente|\brobust[oa]s?\b|\balavanc|\bperforma(r|ndo|m)\b"
    r"|endereça(r|ndo) (um|o|esse|este) problema|no final do dia|\beventualmente\b|\bassum(a|e|imos|indo|ir) que\b"
    r"|\brealiz(ar|amos|e) que\b|\bdeletar\b|\bsuporta(r|m)? (o|a|os|as|um|uma)\b|\bsuportad[oa]s? (por|pel)"
    r"|em resumo,? podemos|parabéns|\bsimplesmente\b|\bbasicamente\b"
    r"|[\U0001F300-\U0001FAFF\u2600-\u26FF\u2705\u274C\u2728]"
    r"|(?<![!\\\[=<>(`])!(?=\s|$)(?!\[)",
    re.I,
)


def prose(source):
    """O Markdown sem o que não é prosa: código, fórmulas, etiquetas, endereços."""
    return re.sub(
        r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$\n]*\$|<[^>]+>|\]\([^)]*\)|https?://\S+", " ", source, flags=re.S
    )


def markdown(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


# ---------------------------------------------------------------- as regras


def valid(notebook, name):
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        yield str(error)
    if "widgets" in notebook.metadata:
        yield "metadata.widgets: o GitHub não mostra o caderno"


def title(notebook, name):
    first = notebook.cells[0]
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "a primeira célula não é o título"


def colab(notebook, name):
    if not any(f"]({COLAB}{name})" in source or f'href="{COLAB}{name}"' in source for source in markdown(notebook)):
        yield f"falta o link {COLAB}{name}"


def headings(notebook, name):
    plain = re.sub(r"^```.*?^```", "", "\n\n".join(markdown(notebook)), flags=re.S | re.M)
    found = re.findall(r"^(#+) (.*)", plain, re.M)
    levels = [len(marks) for marks, _ in found]
    if levels.count(1) != 1:
        yield f"{levels.count(1)} títulos de nível 1"
    yield from (f"título no meio da linha: {line[-60:]}" for line in re.findall(r"^.*[^\s#]#{2,4} .*", plain, re.M))
    for before, after, (_, heading) in zip(levels, levels[1:], found[1:]):
        if after > before + 1:
            yield f"{heading}: salta do nível {before} ao {after}"


def figures(notebook, name):
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            if re.search(r"!\[\s*\]\(", cell.source) or re.search(r"<img(?![^>]*alt=\"[^\"])", cell.source):
                yield f"imagem sem texto alternativo: {cell.source[:60]}"
        elif any(kind.startswith("image/") for output in cell.get("outputs", []) for kind in output.get("data", {})):
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            if not re.fullmatch(r"[A-ZÀ-Ý]\S*( \S+){4,}\.", alt.strip()):
                yield f"figura sem uma frase que a descreva, em metadata.mystnb.image.alt: {cell.source[:60]}"


ENGLISH = set("variant source head lr accuracy loss name value family model curriculo mean std count".split())


def tables(notebook, name):
    """Nas tabelas que aparecem: nomes de coluna e de linha em português, e vírgula decimal (formats.table)."""
    for cell in code_cells(notebook):
        html = " ".join(o.data["text/html"] for o in cell.outputs if "text/html" in o.get("data", {}))
        for heading in re.findall(r"<th[^>]*>([^<]*)</th>", html):
            if found := ENGLISH & set(re.findall(r"\w+", heading)):
                yield f"{', '.join(sorted(found))}: {cell.source[:60]}"
        if found := re.search(r">\s*[^\s<a-z]*\d\.\d{1,2}\b[^<]*<|>\s*[-−+]?0\.\d[^<]*<", html):
            yield f"ponto decimal, {found[0]}: {cell.source[:60]}"


def times(notebook, name):
    """No alto, quanto demora a execução, em segundos ou minutos."""
    head = "\n\n".join(markdown(notebook)).partition("\n## ")[0]
    long = r"\d+ (?:s\b|segundos|minutos?)|(?:um|dois) minutos?"
    if not re.search(rf"(?:execu|rod)[^.|]*?(?:{long})|(?:{long})[^.|]*(?:execu|rod)", head):
        yield "o alto não diz quanto demora a execução"


def clean(notebook, name):
    for cell in code_cells(notebook):
        if "raises-exception" not in tags(cell) and failed(cell):
            yield f"erro gravado: {cell.source[:60]}"
        if any(output.get("name") == "stderr" for output in cell.outputs):
            yield f"aviso ou barra de progresso gravados: {text(cell)[:120]}"


def executed(notebook, name):
    cells = code_cells(notebook)
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        yield "não foi executado de uma vez, do começo"
    for cell in cells:
        checked = {"nbval-check-output", "exercicio"} & set(tags(cell)) or re.search(r"^print\(", cell.source, re.M)
        if checked and not cell.outputs:
            yield f"sem saída: {cell.source[:60]}"
        if "exercicio" in tags(cell) and "ainda sem resposta" not in text(cell):
            yield f"o exercício foi gravado com uma resposta: {cell.source[:60]}"


def fresh(notebook, name):
    for cell in code_cells(notebook):
        if cell.metadata.get("ftcourse_sha") != fingerprint(cell):
            yield f"mudou depois de executada (python tests/notebook_tools.py notebooks/{name}): {cell.source[:60]}"


def short(notebook, name):
    sizes = sorted(len(cell.source.splitlines()) for cell in code_cells(notebook))
    ninth = sizes[-(-9 * len(sizes) // 10) - 1]
    if statistics.median(sizes) > 6 or ninth > 20:
        yield f"células longas: mediana {statistics.median(sizes)}, percentil 90 {ninth}"


def solved(notebook, name):
    for cell in code_cells(notebook):
        if "exercicio" in tags(cell):
            try:
                solution(notebook, cell)
            except ValueError as error:
                yield str(error)


def voice(notebook, name):
    for source in markdown(notebook):
        text = prose(source)
        for m in BANNED.finditer(text):
            yield f"…{' '.join(text[max(0, m.start() - 40) : m.end() + 40].split())}…"


@functools.cache
def dictionary():
    try:
        return spylls.hunspell.Dictionary.from_system("pt_BR")
    except LookupError:
        pytest.skip("sem dicionário de português: no Debian e no Ubuntu, apt install hunspell-pt-br")


@functools.cache
def own_words():
    """As palavras do curso que o dicionário não tem: as do glossário e as de tests/palavras.txt."""
    glossary = ROOT / "data" / "glossario.csv"
    files = [ROOT / "tests" / "palavras.txt", *([glossary] if glossary.exists() else [])]
    return {word.casefold() for path in files for word in re.findall(r"[^\W\d_]+", path.read_text("utf-8"))}


def spelling(notebook, name):
    """Palavras desconhecidas. O itálico é de termos em inglês; o que tem maiúscula no meio é nome ou sigla;
    o que tem índice ou expoente, fórmula."""

    def known(word):
        return word.casefold() in own_words() or dictionary().lookup(word)

    text = re.sub(r"(?<!\*)\*[^*\n]+\*(?!\*)", " ", "\n\n".join(map(prose, markdown(notebook))))
    for word in sorted(set(re.findall(r"(?<![\w.])[^\W\d_]+(?:-[^\W\d_]+)*(?!\w)", text))):
        if not re.search(r".[A-ZÀ-Ýᵀᵢ²₀-₉]", word) and not known(word) and not all(map(known, word.split("-"))):
            yield word


def links(notebook, name):
    """Arquivos e pastas que o texto aponta ou cita entre crases e que não existem."""
    for source in markdown(notebook):
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", source):
            if not re.match(r"https?://", target) and not (ROOT / "notebooks" / target).exists():
                yield target
        for target in re.findall(r"`((?:data|ftcourse|tests|slides|notebooks)/[\w./-]+)`", source):
            if not (ROOT / target).exists():
                yield target


def cited(notebook, name):
    """Afirmações do texto de que o curso partiu, citadas pelo número, que não estão em `data/afirmacoes.csv`."""
    for source in markdown(notebook):
        for numbers in re.findall(r"\bafirmaç(?:ão|ões)((?:(?:,|\s+e)?\s+\d+)+)", prose(source), re.I):
            for number in re.findall(r"\d+", numbers):
                if int(number) not in claims.load().index:
                    yield f"afirmação {number}"


RULES = [
    valid,
    title,
    colab,
    headings,
    figures,
    tables,
    times,
    clean,
    executed,
    fresh,
    short,
    solved,
    voice,
    links,
    cited,
    spelling,
]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_form(path, rule):
    assert not list(rule(read(path), path.name))


def stopped(path, *roles):
    """As células do ensaio que levantaram num destes papéis."""
    return [
        f"{cell.metadata['papel']} [{cell.metadata['original']}]: {cell.source}\n{text(cell)}"
        for cell in rehearse(path)
        if cell.metadata["papel"] in roles and failed(cell) and "raises-exception" not in tags(cell)
    ]


def changed(path, role):
    """As células que neste papel responderam outra coisa. As que medem tempo, de marca `tempo`, podem."""
    first = {c.metadata["original"]: c for c in rehearse(path) if c.metadata["papel"] in ("célula", "solução")}
    again = [cell for cell in rehearse(path) if cell.metadata["papel"] == role and "tempo" not in tags(cell)]
    return [
        f"[{cell.metadata['original']}] {cell.source}\n{text(first[cell.metadata['original']])}\n---\n{text(cell)}"
        for cell in again
        if seen(cell) != seen(first[cell.metadata["original"]])
    ]


rehearsed = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.mark.slow
@rehearsed
def test_no_cell_takes_a_size_for_granted(path):
    """Com modelos sorteados, mais estreitos, de outra profundidade e com outras cabeças."""
    assert stopped(path, "reinício", "célula", "esboço", "solução") == []


@pytest.mark.slow
@rehearsed
def test_every_cell_may_run_again_after_the_whole_notebook(path):
    """Um nome que duas seções usam para coisas diferentes quebra a primeira, ou lhe muda a resposta."""
    assert stopped(path, "no fim") == []
    assert changed(path, "no fim") == []


@pytest.mark.slow
@rehearsed
def test_each_section_may_be_entered_after_the_set_up_cells(path):
    """Depois de reiniciar, bastam as células de marca `preparo` que a seção tem antes de si."""
    assert stopped(path, "reinício", "entrada") == []
    assert changed(path, "entrada") == []


def test_the_readme_sounds_like_the_course():
    readme = prose((ROOT / "README.md").read_text("utf-8"))
    assert not [m.group() for m in BANNED.finditer(readme)]


# ---------------------------------------------------------------- as regras veem o que dizem ver

STUB = 'answer = ...\nfrom ftcourse import verifica\nverifica("00.1", answer)'
PIXEL = (
    "import base64\nfrom IPython.display import Image, display\n"
    'display(Image(base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")))'
)  # fmt: skip


def invent():
    """Um caderno pequeno que segue as regras, ainda não executado."""
    new = nbformat.v4
    cells = [
        new.new_markdown_cell(
            f"# Título\n\nA execução leva 5 segundos.\n\n[![Abrir no Colab](https://x.org/selo.svg)]({COLAB}x.ipynb)"
        ),
        new.new_code_cell("x = 1\nprint(x)"),
        new.new_markdown_cell("## Uma pergunta?"),
        new.new_code_cell(PIXEL, metadata={"mystnb": {"image": {"alt": "Um ponto vermelho numa folha em branco."}}}),
        new.new_markdown_cell(
            "Um ponto vermelho, e o *pooler* do BERT.\n\n### Exercício\n\n```python\n# não é título\n```"
        ),
        new.new_code_cell(STUB.replace("from ftcourse import verifica\n", CHECKER), metadata={"tags": ["exercicio"]}),
        new.new_markdown_cell(
            "<details><summary>Dica</summary>\n\nO dobro de 21.\n\n```python\n21 * 2\n```\n\n</details>"
        ),
        new.new_markdown_cell(
            "<details><summary>Solução</summary>\n\n```python\nfrom ftcourse import verifica\nverifica('00.1', 42)\n"
            "```\n\n</details>"
        ),
    ]
    return new.new_notebook(cells=cells)


# Faz as vezes de um exercício do curso: a resposta certa é 42.
CHECKER = """import sys, types
module = types.ModuleType("ftcourse.exercises.nb00")
module.exercise_1 = lambda answer: {42: "isso."}[answer]
sys.modules[module.__name__] = module
from ftcourse import verifica
"""


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """O caderno inventado, executado no lugar pela ferramenta."""
    path = tmp_path_factory.mktemp("cadernos") / "x.ipynb"
    nbformat.write(invent(), path)
    execute(path)
    return path


def test_a_good_notebook_has_no_problem(sample):
    assert [(rule.__name__, *rule(read(sample), "x.ipynb")) for rule in RULES if rule is not spelling] == [
        (rule.__name__,) for rule in RULES if rule is not spelling
    ]


def html(source):
    return nbformat.v4.new_output("display_data", data={"text/html": source})


def test_a_table_may_group_thousands():
    cell = nbformat.v4.new_code_cell(outputs=[html("<th>parâmetros</th><td>21.238.156</td><td>1.024</td>")])
    assert not list(tables(nbformat.v4.new_notebook(cells=[cell]), "x.ipynb"))


def error_output():
    return nbformat.v4.new_output("error", ename="E", evalue="e", traceback=[])


@pytest.mark.parametrize(
    "rule, cell, change",
    [
        (valid, None, lambda nb: nb.metadata.update(widgets={})),
        (valid, 1, lambda cell: cell.pop("source")),
        (title, 0, lambda cell: cell.update(source="## Título")),
        (colab, 0, lambda cell: cell.update(source=cell.source.replace("x.ipynb", "y.ipynb"))),
        (colab, 0, lambda cell: cell.update(source=cell.source.replace("/github/", "/github/outro"))),
        (headings, 2, lambda cell: cell.update(source="### Uma pergunta?")),
        (headings, 2, lambda cell: cell.update(source="# Outro título")),
        (headings, 2, lambda cell: cell.update(source="Uma frase.### Uma pergunta?")),
        (figures, 3, lambda cell: cell.metadata.pop("mystnb")),
        (figures, 3, lambda cell: cell.metadata.mystnb.image.update(alt="figura 1.")),
        (tables, 1, lambda cell: cell.outputs.append(html("<th>head</th><td>0,5</td>"))),
        (tables, 1, lambda cell: cell.outputs.append(html("<th>taxa</th><td>0.512</td>"))),
        (tables, 1, lambda cell: cell.outputs.append(html("<th>taxa</th><td>+12.5 ± 0,1</td>"))),
        (times, 0, lambda cell: cell.update(source="# Título\n\nA execução leva pouco.")),
        (figures, 2, lambda cell: cell.update(source="![](figura.png)")),
        (clean, 1, lambda cell: cell.outputs.append(error_output())),
        (clean, 1, lambda cell: cell.outputs.append(nbformat.v4.new_output("stream", name="stderr", text="aviso"))),
        (executed, 1, lambda cell: cell.update(execution_count=None)),
        (executed, 3, lambda cell: cell.update(execution_count=7)),
        (executed, 1, lambda cell: cell.update(outputs=[])),
        (executed, 5, lambda cell: cell.outputs[0].update(text="✓ 00.1: isso.")),
        (fresh, 1, lambda cell: cell.update(source="x = 2\nprint(x)")),
        (fresh, 1, lambda cell: cell.metadata.pop("ftcourse_sha")),
        (short, 1, lambda cell: cell.update(source="x = 1\n" * 21)),
        (solved, 7, lambda cell: cell.update(source="sem solução")),
        (solved, 7, lambda cell: cell.update(source=cell.source + "\n" + cell.source)),
        (voice, 4, lambda cell: cell.update(source="Vamos mergulhar.")),
        (voice, 4, lambda cell: cell.update(source="Funciona!")),
        (links, 4, lambda cell: cell.update(source="[o cartão](../data/nao_existe.md)")),
        (links, 4, lambda cell: cell.update(source="Está em `ftcourse/nao_existe.py`.")),
        (cited, 4, lambda cell: cell.update(source="É o que diz a afirmação 58.")),
        (cited, 4, lambda cell: cell.update(source="Contra as afirmações 1, 2\ne 99, que não valem aqui.")),
    ],
)
def test_a_rule_sees_its_problem(sample, rule, cell, change):
    notebook = read(sample)
    change(notebook if cell is None else notebook.cells[cell])
    assert list(rule(notebook, "x.ipynb"))


def test_spelling_sees_what_is_not_a_word(sample):
    dictionary()
    notebook = read(sample)
    notebook.cells[
        2
    ].source = "## Uma perguntta?\n\nO `kernell`, o $mathh$, o *pooler*, o PyTorch e o pré-treino estão bem-escritos."
    assert list(spelling(notebook, "x.ipynb")) == ["perguntta"]


def test_the_tool_stores_what_it_ran(sample):
    notebook = read(sample)
    assert [cell.metadata["ftcourse_sha"] for cell in code_cells(notebook)] == list(
        map(fingerprint, code_cells(notebook))
    )
    assert text(notebook.cells[1]) == "1\n" and notebook.metadata.language_info == {"name": "python"}
    assert not any("execution" in cell.metadata for cell in notebook.cells)


def test_an_error_leaves_the_notebook_as_it_was(tmp_path):
    path = tmp_path / "x.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")]), path)
    before = path.read_bytes()
    with pytest.raises(Exception, match="division by zero"):
        execute(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_the_rehearsal_runs_each_cell_in_its_roles(sample):
    cells = rehearse(sample)
    once, end, entrance = (
        [("reinício", None, False), ("célula", 1, False), ("célula", 3, False),
         ("esboço", 5, False), ("rigor", 5, True), ("solução", 5, False)],
        [("no fim", 5, False), ("no fim", 3, False), ("no fim", 1, False)],
        [("reinício", None, False), ("entrada", 3, False), ("entrada", 5, False)],
    )  # fmt: skip
    assert [(c.metadata["papel"], c.metadata.get("original"), failed(c)) for c in cells] == [*once, *end, *entrance]
    assert [text(cell).split(":")[0].strip() for cell in cells[3:7]] == ["· 00.1"] * 2 + ["✓ 00.1"] * 2


def test_the_rehearsal_shortens_what_takes_long():
    pairs = {
        "train(steps=300, batch_size=32)": "train(steps=20, batch_size=4)",
        "rows.select(range(384))": "rows.select(range(40))",
        "for seed in tqdm(range(20), desc='x'): draw(seed)": "for seed in tqdm(range(3), desc='x'): draw(seed)",
        "measure(repeats=15)": "measure(repeats=2)",
        "Probe(family, windows=48)": "Probe(family, windows=4)",
        "train(steps=80, eval_steps=800)": "train(steps=4, eval_steps=800)",  # eval_steps é outra coisa
        "train(steps=8)": "train(steps=8)",
    }
    assert {source: shortened(source) for source in pairs} == pairs


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """Um caderno com uma célula que falha em cada papel do ensaio."""
    cells = [
        "# Título",
        "from ftcourse import models  # preparo",
        "b = open('x.ipynb').read(1)",
        "## A",
        "x = [1]",
        "x.pop()\ny = x",  # só roda uma vez
        "names = [1]",
        "print(names)",  # outra seção usa o nome
        "## B\n\n```python\n## não é título\n```",
        "names = 'outra coisa'",
        "print(names)",
        "print(b)",  # não está no preparo
        "## C",
        "model, tokenizer = models.load('t5')\nassert tokenizer('sim') and model.config.d_model == 192",
        "assert [models.load(family)[0].config.hidden_size for family in models.FAMILIES] == [256] * 3",
    ]
    new = nbformat.v4
    path = tmp_path_factory.mktemp("com-falhas") / "x.ipynb"
    made = [
        new.new_markdown_cell(source)
        if source.startswith("#")
        else new.new_code_cell(source, metadata={"tags": ["preparo"] * source.endswith("# preparo")})
        for source in cells
    ]
    nbformat.write(new.new_notebook(cells=made), path)
    return path


def test_sections_are_those_of_the_second_level(faulty):
    assert sections(read(faulty)) == {1: 0, 2: 0, **dict.fromkeys((4, 5, 6, 7), 1), 9: 2, 10: 2, 11: 2, 13: 3, 14: 3}


@pytest.mark.parametrize(
    "fault, role, where",
    [
        (stopped, "célula", [14]),
        (stopped, "no fim", [14, 5]),
        (changed, "no fim", [7, 5]),
        (stopped, "entrada", [11, 14]),
        (changed, "entrada", [11]),
    ],
)
def test_the_rehearsal_sees_what_fails(faulty, fault, role, where):
    assert [int(re.search(r"\[(\d+)\]", found)[1]) for found in fault(faulty, role)] == where
