"""As seis falhas fazem o que dizem, e os dados publicados guardam o que o cartão promete."""

import importlib.util
import json
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

TASKS = Path(__file__).resolve().parent.parent / "data" / "tarefas"
KINDS = {"gênero", "número", "verbo", "ordem", "crase", "preposição"}
FIELDS = ["text", "label", "source", "document", "kind", "start", "end", "original"]
PARTS = [(source, part) for source in ("ajuda", "noticias") for part in ("train", "validation", "test")]
PARTS.append(("curriculo", "out_of_domain"))


def load(name):
    """Um script `constroi.py` como módulo, sem deixar rastro no caminho de importação."""
    spec = importlib.util.spec_from_file_location(f"constroi_{name}", TASKS / name / "constroi.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


constroi = load("aceitabilidade")
bncc = load("bncc_componente")
skills = load("habilidade_bncc")

MASC, FEM, PLURAL = "Gender=Masc|Number=Sing", "Gender=Fem|Number=Sing", "Gender=Masc|Number=Plur"
FINITE = "Mood=Ind|Number={}|Person=3|Tense=Pres|VerbForm=Fin"
CONLLU = f"""# newdoc id = doc/1
# text = Hoje o gato preto dorme na casa nova, tranquilo.
1\tHoje\thoje\tADV\t_\t_\t5\tadvmod\t_\t_
2\to\to\tDET\t_\t{MASC}\t3\tdet\t_\t_
3\tgato\tgato\tNOUN\t_\t{MASC}\t5\tnsubj\t_\t_
4\tpreto\tpreto\tADJ\t_\t{MASC}\t3\tamod\t_\t_
5\tdorme\tdormir\tVERB\t_\t{FINITE.format("Sing")}\t0\troot\t_\t_
6-7\tna\t_\t_\t_\t_\t_\t_\t_\t_
6\tem\tem\tADP\t_\t_\t8\tcase\t_\t_
7\ta\to\tDET\t_\t{FEM}\t8\tdet\t_\t_
8\tcasa\tcasa\tNOUN\t_\t{FEM}\t5\tobl\t_\t_
9\tnova\tnovo\tADJ\t_\t{FEM}\t8\tamod\t_\tSpaceAfter=No
10\t,\t,\tPUNCT\t_\t_\t11\tpunct\t_\t_
11\ttranquilo\ttranquilo\tADJ\t_\t{MASC}\t5\txcomp\t_\tSpaceAfter=No
12\t.\t.\tPUNCT\t_\t_\t5\tpunct\t_\t_

# text = Os gatos dormem na casa e um gato novo dorme.
1\tOs\to\tDET\t_\t{PLURAL}\t2\tdet\t_\t_
2\tgatos\tgato\tNOUN\t_\t{PLURAL}\t3\tnsubj\t_\t_
3\tdormem\tdormir\tVERB\t_\t{FINITE.format("Plur")}\t0\troot\t_\t_
4-5\tna\t_\t_\t_\t_\t_\t_\t_\t_
4\tem\tem\tADP\t_\t_\t6\tcase\t_\t_
5\ta\to\tDET\t_\t{FEM}\t6\tdet\t_\t_
6\tcasa\tcasa\tNOUN\t_\t{FEM}\t3\tobl\t_\t_
7\te\te\tCCONJ\t_\t_\t11\tcc\t_\t_
8\tum\tum\tDET\t_\t{MASC}\t9\tdet\t_\t_
9\tgato\tgato\tNOUN\t_\t{MASC}\t11\tnsubj\t_\t_
10\tnovo\tnovo\tADJ\t_\t{MASC}\t9\tamod\t_\t_
11\tdorme\tdormir\tVERB\t_\t{FINITE.format("Sing")}\t3\tconj\t_\tSpaceAfter=No
12\t.\t.\tPUNCT\t_\t_\t3\tpunct\t_\t_
"""
CONJUGATION = [
    {"verbo": "dormir", "tempo": "PI", "pessoa": "2", "forma": "dorme"},
    {"verbo": "dormir", "tempo": "PI", "pessoa": "5", "forma": "dormem"},
]


@pytest.fixture(scope="module")
def treebank():
    """(frases anotadas, léxico) de duas frases inventadas."""
    entries = [(*entry[:2], constroi.gold_words(*entry[1:])) for entry in constroi.read_conllu(CONLLU.splitlines())]
    lexicon = constroi.Lexicon((word for entry in entries for word in entry[2][0]), CONJUGATION)
    return [constroi.gold_sentence(*entry, lexicon) for entry in entries], lexicon


def results(faults, text):
    return {fault.apply(text) for fault in faults}


def test_contractions_are_one_word(treebank):
    sentence = treebank[0][0]
    assert [word.form for word in sentence.words][5:7] == ["na", "casa"]
    assert sentence.words[5].pos == "ADP+DET"
    assert all(sentence.text[word.start : word.end] == word.form for word in sentence.words)


def test_gender(treebank):
    sentence, lexicon = treebank[0][0], treebank[1]
    found = results(constroi.gender_faults(sentence, lexicon), sentence.text)
    assert "Hoje a gato preto dorme na casa nova, tranquilo." in found
    assert "Hoje o gato preto dorme no casa nova, tranquilo." in found
    assert all("gata" not in text for text in found), "o substantivo não muda de gênero"


def test_number(treebank):
    sentence, lexicon = treebank[0][0], treebank[1]
    found = results(constroi.number_faults(sentence, lexicon), sentence.text)
    assert "Hoje os gato preto dorme na casa nova, tranquilo." in found
    assert "Hoje o gatos preto dorme na casa nova, tranquilo." in found


def test_verb(treebank):
    sentence, lexicon = treebank[0][0], treebank[1]
    assert results(constroi.verb_faults(sentence, lexicon), sentence.text) == {
        "Hoje o gato preto dormem na casa nova, tranquilo."
    }


def test_order(treebank):
    sentence, lexicon = treebank[0][0], treebank[1]
    found = results(constroi.order_faults(sentence, lexicon), sentence.text)
    assert "Hoje gato o preto dorme na casa nova, tranquilo." in found
    assert all(Counter(re.findall(r"\w+", text)) == Counter(re.findall(r"\w+", sentence.text)) for text in found)


def test_crase_and_preposition_follow_usage(treebank):
    texts = ["O acesso ao gato é livre.", "O acesso aos gatos é livre."] * 5
    texts += ["O gato foi no telhado e ficou na fila, na rua, no muro, em paz."] * 20
    usage = constroi.Usage(texts)
    sentence = constroi.plain_sentence("doc", "Hoje o acesso à fila é livre.", treebank[1])
    assert results(constroi.crase_faults(sentence, usage), sentence.text) == {"Hoje o acesso a fila é livre."}
    assert results(constroi.preposition_faults(sentence, usage), sentence.text) == {"Hoje o acesso na fila é livre."}


def test_crase_is_left_alone_before_possessives(treebank):
    usage = constroi.Usage(["O acesso ao gato é livre."] * 5)
    sentence = constroi.plain_sentence("doc", "Hoje o acesso à sua casa é livre.", treebank[1])
    assert not list(constroi.crase_faults(sentence, usage))


def test_capital_letter_survives_the_change(treebank):
    sentence, lexicon = treebank[0][1], treebank[1]
    found = results(constroi.number_faults(sentence, lexicon), sentence.text)
    assert "O gatos dormem na casa e um gato novo dorme." in found


def test_collective_subjects_take_no_verb_fault(treebank):
    sentence = constroi.plain_sentence("doc", "A maioria dorme.", treebank[1])
    assert not list(constroi.verb_faults(sentence, treebank[1]))


def test_near_duplicates_are_dropped():
    texts = ["Clique em OK para abrir a janela 1.", "clique em OK para abrir a janela 2!", "Outra frase bem diferente."]
    kept = constroi.distinct(constroi.Sentence(text, "doc", []) for text in texts)
    assert [sentence.text for sentence in kept] == [texts[0], texts[2]]


def test_the_draw_depends_only_on_the_sentence():
    assert constroi.stable("label", "frase").random() == constroi.stable("label", "frase").random()
    assert constroi.stable("label", "frase").random() != constroi.stable("label", "outra").random()


@pytest.mark.parametrize("module", [constroi, bncc, skills])
def test_missing_raw_folder_is_explained(module, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        module.main([str(tmp_path / "nada")])
    message = str(stopped.value)
    assert "nada" in message and "falta" in message and "PASTA_BRUTA" in message


# --- Os dados publicados ------------------------------------------------------------------------------------------


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def rows():
    return {(source, part): read(TASKS / "aceitabilidade" / source / f"{part}.jsonl") for source, part in PARTS}


@pytest.mark.parametrize("place", PARTS, ids="/".join)
def test_rows_are_valid(rows, place):
    for row in rows[place]:
        assert list(row) == FIELDS
        assert row["source"] == place[0] and row["document"]
        whole = row["original"] or row["text"]
        assert 6 <= len(re.findall(r"\w+", whole)) <= 30
        assert "  " not in row["text"] and row["text"] == row["text"].strip()
        if row["label"]:
            assert row["kind"] is row["start"] is row["end"] is row["original"] is None
        else:
            assert row["label"] == 0 and row["kind"] in KINDS and row["original"] != row["text"]
            check_span(row)


def check_span(row):
    """Fora do trecho marcado, a frase com falha e a original são iguais; dentro, diferentes."""
    text, original, start = row["text"], row["original"], row["start"]
    tail = text[row["end"] :]
    assert 0 <= start < row["end"] <= len(text)
    fix = original[start : len(original) - len(tail)]
    assert text[:start] + fix + tail == original and fix != text[start : row["end"]]
    if row["kind"] == "ordem":
        assert fix.split() == text[start : row["end"]].split()[::-1]
    else:
        assert " " not in fix and " " not in text[start : row["end"]]
    assert fix[0].isupper() == text[start].isupper() or row["kind"] == "ordem"


@pytest.mark.parametrize("place", PARTS, ids="/".join)
def test_labels_are_balanced(rows, place):
    assert sum(row["label"] for row in rows[place]) * 2 == len(rows[place]) > 0


@pytest.mark.parametrize("source", ["ajuda", "noticias", "curriculo"])
def test_documents_and_sentences_stay_in_one_part(rows, source):
    home = {}
    for (_, part), part_rows in ((place, rows[place]) for place in PARTS if place[0] == source):
        for row in part_rows:
            assert home.setdefault(row["document"], part) == part


def test_no_sentence_twice_and_no_twins(rows):
    def key(text):
        return tuple(re.findall(r"\w+", re.sub(r"\d", "0", text.lower())))

    for source in ("ajuda", "noticias", "curriculo"):
        found = [row for place in PARTS if place[0] == source for row in rows[place]]
        wholes = Counter(key(row["original"] or row["text"]) for row in found)
        assert max(wholes.values()) == 1, wholes.most_common(1)
        assert len({row["text"] for row in found}) == len(found)


@pytest.mark.parametrize("place", PARTS, ids="/".join)
def test_every_kind_is_there(rows, place):
    assert {row["kind"] for row in rows[place]} - {None} == KINDS


def test_no_contraction_gives_the_fault_away(rows):
    """As falhas não deixam "de o" nem "em a" onde a língua contrai."""
    open_pair = re.compile(r"\b(?:de|em|por) (?:o|a|os|as)\b")
    for part_rows in rows.values():
        for row in part_rows:
            if row["label"] == 0:
                assert len(open_pair.findall(row["text"])) <= len(open_pair.findall(row["original"])), row["text"]


def test_bncc_groups_stay_in_one_part():
    parts = {name: read(TASKS / "bncc_componente" / f"{name}.jsonl") for name in ("train", "validation", "test")}
    groups = [{row["group"] for row in part} for part in parts.values()]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    names = {(row["label"], row["componente"]) for part in parts.values() for row in part}
    assert sorted(label for label, _ in names) == list(range(9))
    assert all({row["label"] for row in part} == set(range(9)) for part in parts.values())
    texts = [row["text"] for part in parts.values() for row in part]
    assert len(texts) == 1304


def skill(text, subjects, component="Arte", years="1"):
    row = {"texto": text, "objetos_de_conhecimento": subjects, "componente": component}
    return row | {"anos": years, "codigo": text[:4]}


def test_skills_with_a_subject_in_common_share_a_group_and_so_do_near_duplicates():
    rows = [
        skill("Somar frações em casa.", "Frações"), skill("Desenhar um gato na rua.", "frações|Desenho"),
        skill("Cantar muitas músicas antigas.", "Canto", "Música"), skill("Cantar muitas músicas antigas.", "Coro"),
        skill("Medir a altura de uma porta.", "Frações", "Matemática"),
    ]  # fmt: skip
    groups = [*skills.groups_of(rows)]
    assert groups[0] == groups[1] and groups[2] == groups[3] and len(set(groups)) == 3


@pytest.mark.parametrize(
    "numbers, written",
    [("5", "5º ano"), ("8/9", "8º e 9º anos"), ("6/7/8/9", "6º ao 9º ano"), ("1/2/3/4/5", "1º ao 5º ano")],
)
def test_the_years_are_written_out(numbers, written):
    assert skills.years(numbers) == written


@pytest.mark.parametrize("words, subject_words, kept", [(80, 30, True), (81, 3, False), (3, 31, False)])
def test_a_skill_too_long_for_the_model_stays_out(words, subject_words, kept):
    assert skills.fits(skill("a " * words, "b " * subject_words)) is kept


def test_bncc_near_duplicates_share_a_group():
    texts = ["Ler e compreender textos curtos em sala.", "Ler e compreender textos longos em sala.", "Somar frações."]
    groups = bncc.groups_of(texts)
    assert groups[0] == groups[1] != groups[2]
