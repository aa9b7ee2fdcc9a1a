"""As afirmações do texto de que o curso partiu: cada uma tem veredito e fonte, e a sua evidência existe."""

import json
import re

import nbformat
import pytest
from test_notebooks import BANNED, prose, spelling
from toys import ROOT

from ftcourse import claims, experiments
from ftcourse.files import DATA

KNOWN = claims.load()
PROSE = ["afirmação", "o que é certo"]
PLACES = sorted({place for row in KNOWN["evidência"] for place in claims.places(row)})


def headings(path):
    """Os títulos de um caderno ou de uma página."""
    text = path.read_text("utf-8")
    if path.suffix == ".ipynb":
        cells = nbformat.reads(text, as_version=4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return re.findall(r"^#+ (.*)", text, re.M)


def variants(path):
    """O que as linhas de um arquivo de resultados medem; na bancada de velocidade, o nome da nossa implementação."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return {row.get("variant") or row["ours"]["name"] for row in rows}


def exists(place):
    """Se um lugar da coluna `evidência` existe."""
    if test := re.fullmatch(r"(tests/test_\w+\.py)::(test_\w+)", place):
        path = ROOT / test[1]
        return path.exists() and f"\ndef {test[2]}(" in path.read_text("utf-8")
    if result := re.fullmatch(r"data/resultados/(\w+)\.jsonl#(\w+)", place):
        task, variant = result.groups()
        if task in experiments.FAMILY:
            return any((e.task, e.variant) == (task, variant) for e in experiments.EXPERIMENTS)
        path = DATA / "resultados" / f"{task}.jsonl"
        return path.exists() and variant in variants(path)
    if section := re.fullmatch(r"((?:notebooks/\d\d_\w+\.ipynb|data/resultados/README\.md))#(.+)", place):
        path = ROOT / section[1]
        return path.exists() and any(section[2] in heading for heading in headings(path))
    return False


def notebook(text):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])


def points(text):
    """Os números com ponto decimal: o ponto só separa milhares."""
    return [
        n for n in re.findall(r"(?<![\w.])(?<!§ )\d+\.\d+(?:\.\d+)*", text) if not re.fullmatch(r"\d{1,3}(\.\d{3})+", n)
    ]


def test_the_claims_are_numbered_from_1_to_57():
    assert [*KNOWN.index] == [*range(1, 58)]
    assert [*KNOWN.columns] == ["afirmação", "veredito", "o que é certo", "fonte", "evidência"]


@pytest.mark.parametrize("number", KNOWN.index)
def test_each_claim_has_a_verdict_and_a_dated_source(number):
    row = KNOWN.loc[number]
    assert row["veredito"] in claims.VERDICTS
    assert row["veredito"] != "sem fonte" or row["fonte"].startswith("nenhuma")
    assert re.search(r"\((?:19|20)\d\d\)", row["fonte"])
    assert all(row[column].endswith(".") for column in PROSE) and not row["fonte"].endswith(".")


@pytest.mark.parametrize("place", PLACES)
def test_the_evidence_exists(place):
    assert exists(place)


@pytest.mark.parametrize(
    "place",
    [
        "caderno 99",
        "tests/test_claims.py::test_that_nobody_wrote",
        "tests/test_nobody.py::test_that_nobody_wrote",
        "data/resultados/aceitabilidade.jsonl#ninguem",
        "data/resultados/custo.jsonl#ninguem",
        "data/resultados/ninguem.jsonl#full",
        "notebooks/00_comece_aqui.ipynb#Uma seção que não há",
        "notebooks/00_ninguem.ipynb#Referências",
        "caderno 04 e mais",
        "",
    ],
)
def test_an_evidence_that_does_not_exist_is_seen(place):
    assert not exists(place)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_each_notebook_says_which_claims_it_checks(path):
    said = re.search(r"este caderno confere as? afirmaç(?:ão|ões) ([\d, e]+)\.", path.read_text("utf-8"))
    checked = [number for number, row in KNOWN.iterrows() if f"notebooks/{path.name}#" in row["evidência"]]
    assert [int(number) for number in re.findall(r"\d+", said[1] if said else "")] == checked


@pytest.mark.parametrize("number", KNOWN.index)
def test_it_is_written_in_portuguese(number):
    text = " ".join(KNOWN.loc[number, PROSE])
    assert points(" ".join(KNOWN.loc[number, [*PROSE, "fonte"]])) == []
    assert [found.group() for found in BANNED.finditer(prose(text))] == []
    assert [*spelling(notebook(text), "afirmacoes.csv")] == []


def test_a_decimal_point_is_seen():
    assert points("De 0.9 a 1.234,5, § 4.1, com 1.319 e 12.5 %") == ["0.9", "12.5"]


def test_one_claim_is_read_with_its_verdict_and_its_place():
    text = claims.markdown(5)
    assert text.startswith("**5. ") and "*Refutada.*" in text and "Hu et al. (2021), § 4.1" in text
    assert "](../notebooks/04_lora_do_zero.ipynb)" in text and "`tests/test_methods.py::" in text
    assert claims.markdown(17).endswith("Onde conferir: nenhuma medida nossa.")


def test_all_of_them_are_read_with_the_count_of_the_verdicts(monkeypatch):
    monkeypatch.setattr(claims.results, "current", lambda task: [])
    text = claims.markdown()
    assert re.findall(r"^\*\*(\d+)\. ", text, re.M) == [str(number) for number in KNOWN.index]
    counts = dict(re.findall(r"^- \*\*([\w ]+)\*\* \((\d+)\)", text, re.M))
    assert counts == {name: str((KNOWN["veredito"] == name).sum()) for name in claims.VERDICTS}
    assert sum(map(int, counts.values())) == 57
    for target in set(re.findall(r"\]\(\.\./([^)]+)\)", text)):
        assert (ROOT / target).exists(), target


def test_an_experiment_is_to_be_measured_until_it_has_run(monkeypatch):
    place, rows = "data/resultados/aceitabilidade.jsonl#lora", []
    monkeypatch.setattr(claims.results, "current", lambda task: rows)
    assert claims.written(place, claims.measured(["aceitabilidade"])).endswith(": LoRA, r = 8 (a medir)")
    rows.append({"variant": "lora", "split": "validation"})  # a busca da taxa não é a medida
    assert "a medir" in claims.written(place, claims.measured(["aceitabilidade"]))
    rows.append({"variant": "lora", "split": "test"})
    assert claims.written(place, claims.measured(["aceitabilidade"])).endswith(": LoRA, r = 8")


@pytest.mark.parametrize("number", [0, 58, -1, "5"])
def test_a_number_without_a_claim_is_told(number):
    with pytest.raises(ValueError, match=rf"Não há afirmação {number!r}: elas vão de 1 a 57"):
        claims.markdown(number)
