"""Os dados de quem lê: o que vira tarefa, e a linha e a coluna que cada recusa nomeia."""

import csv
import json
import re
import warnings
from collections import Counter

import datasets
import pandas
import pytest
from fake_hub import Repository, serve
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import tokenizer, toy_model

from ftcourse import evaluation, methods, own_data, tasks, training, user_text
from ftcourse.files import DATA

SPLITS = ("train", "validation", "test")
ROWS = [(f"a frase de número {i} é {'boa' if i % 4 else 'ruim'}", "sim" if i % 4 else "não") for i in range(40)]


def write(path, rows=ROWS, text="text", label="label", separator=",", encoding="utf-8"):
    """Um arquivo com as linhas, no formato que o nome pede. Devolve o caminho."""
    table = pandas.DataFrame(rows, columns=[text, label])
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in table.to_dict("records")), encoding)
    else:
        table.to_csv(path, sep=separator, index=False, encoding=encoding)
    return path


def everything(task):
    return sorted((row["text"], task.labels[row["label"]]) for split in SPLITS for row in getattr(task, split))


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


# ---------------------------------------------------------------- o que se lê


@pytest.mark.parametrize(
    "name, options",
    [("a.csv", {}), ("a.csv", {"separator": ";"}), ("a.tsv", {"separator": "\t"}), ("a.csv", {"encoding": "utf-8-sig"}),
     ("a.jsonl", {}), ("a.parquet", {})],
    ids=["csv", "ponto e vírgula", "tabulação", "marca de Excel", "jsonl", "parquet"],
)  # fmt: skip
def test_every_format_gives_the_same_task(tmp_path, name, options):
    task = tasks.load(str(write(tmp_path / name, **options)))
    assert task.name == "a" and task.labels == ("não", "sim") and everything(task) == sorted(ROWS)


def test_other_columns_and_another_encoding(tmp_path):
    path = write(tmp_path / "a.csv", text="frase", label="classe", encoding="latin-1")
    task = tasks.load(path, text="frase", label="classe", encoding="latin-1")
    assert everything(task) == sorted(ROWS)


def test_a_text_may_hold_separators_quotes_and_lines(tmp_path):
    rows = [(f'ela disse: "{i}, e\nbasta"', str(i % 2)) for i in range(20)]
    task = tasks.load(write(tmp_path / "a.csv", rows))
    assert everything(task) == sorted(rows)


def test_numbers_are_labels_in_their_own_order(tmp_path):
    rows = [(f"frase {i}", i % 3 * 5) for i in range(30)]
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        assert tasks.load(write(tmp_path / name, rows)).labels == ("0", "5", "10")


def test_a_folder_keeps_its_splits(tmp_path):
    for i, split in enumerate(SPLITS):
        write(tmp_path / f"{split}.jsonl", [(f"{split}: {text}", label) for text, label in ROWS[: 12 + 4 * i]])
    task = tasks.load(tmp_path)
    assert task.name == tmp_path.name and [len(getattr(task, split)) for split in SPLITS] == [12, 16, 20]
    (tmp_path / "validation.jsonl").unlink()
    task = tasks.load(tmp_path)
    assert len(task.test) == 20 and len(task.train) + len(task.validation) == 12 and len(task.validation) == 2


def test_it_trains_like_any_other(tmp_path):
    task = tasks.load(write(tmp_path / "a.csv"))
    model = methods.apply(toy_model(), "lora")
    training.train(model, tokenizer(), task, lr=1e-3, steps=2, batch_size=4)
    assert evaluation.evaluate(model, tokenizer(), task)["n"] == len(task.test)


# ---------------------------------------------------------------- a divisão


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(3, 60), min_size=2, max_size=5), seed=st.integers(0, 3))
def test_the_split_keeps_every_row_once_and_every_class_everywhere(counts, seed):
    rows = [own_data.Row(f"linha {i}", f"{label} {i}", str(label)) for label, n in enumerate(counts) for i in range(n)]
    split = own_data.divide(rows, seed, ("validation", "test"))
    assert sorted(row for part in split.values() for row in part) == sorted(rows)
    for part in ("validation", "test"):
        found = Counter(row.label for row in split[part])
        assert all(found[str(label)] == max(1, round(0.15 * n)) for label, n in enumerate(counts))
    assert split == own_data.divide(rows, seed, ("validation", "test"))
    if sum(counts) > 50:
        other = own_data.divide(rows, seed + 1, ("validation", "test"))  # outras linhas, e não só noutra ordem
        assert all({*split[part]} != {*other[part]} for part in split)


# ---------------------------------------------------------------- o que se recusa


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.csv", "frase,classe\na,b\n", r"a\.csv: Não conheço a coluna 'text'.*'frase', 'classe'.*text= e label="),
        ("a.csv", "text,labels\na,b\n", r"a coluna 'label'.*quis dizer 'labels'"),
        ("a.csv", "text,label\num,a\n ,b\n", r"a\.csv, linha 3, coluna 'text': o texto está vazio"),
        ("a.csv", "text,label\num,a\ndois,\n", r"a\.csv, linha 3, coluna 'label': o rótulo é ''"),
        ("a.csv", "text,label\num,a\ndois, e três,b\n", r"a\.csv, linha 3: 3 campos, e o cabeçalho tem 2.*entre aspas"),
        ("a.csv", 'text,label\n"um\n\n",a\n"dois,b\n', r"a\.csv, linha 5: as aspas não fecham"),
        ("a.csv", "text,label\n", r"a\.csv não tem nenhuma linha"),
        ("a.csv", "", r"a\.csv está vazio"),
        ("a.csv", "\n \n\n", r"a\.csv está vazio"),
        ("a.csv", "text,label\n" + "".join(f"{i},a\n" for i in range(9)), r"o mesmo rótulo, 'a'.*Confira label="),
        (
            "a.csv",
            "text,label\n" + "".join(f"{i},{i / 7}\n" for i in range(9)),
            r"9 linhas e 9 rótulos.*Confira label=",
        ),
        (
            "a.csv",
            "text,label\n" + "".join(f"{i},{'ab'[i > 7]}\n" for i in range(9)),
            r"classe 'b' tem 1 linha, e são precisas 3, uma para cada divisão \(train, validation, test\)",
        ),
        ("a.csv", "text,label\num,a\ndois,b\ndois ,a\n" + "x,a\ny,b\n", r"linha 4: este texto.*linha 3.*'a' e 'b'"),
        ("a.jsonl", '{"text": "um", "label": 1}\n\n{"text": \n', r"a\.jsonl, linha 3: não é JSON"),
        ("a.jsonl", '{"text": "um", "label": 1}\n[1]\n', r"a\.jsonl, linha 2: é list, e cada linha deve ser um objeto"),
        (
            "a.jsonl",
            '{"text": "um", "label": 1}\n{"txt": "dois", "label": 1}\n',
            r"linha 2: Não conheço a coluna 'text'",
        ),
        ("a.jsonl", '{"text": 5, "label": 1}\n', r"linha 1, coluna 'text': é 5, e deveria ser um texto"),
        ("a.jsonl", '{"text": "a", "label": [1]}\n', r"linha 1, coluna 'label': o rótulo é \[1\]"),
        ("a.jsonl", '{"text": "a", "label": {"b": 1}}\n', r"linha 1, coluna 'label': o rótulo é \{'b': 1\}"),
        ("a.jsonl", '{"text": "a", "label": null}\n', r"linha 1, coluna 'label': o rótulo é None"),
        ("a.jsonl", '{"text": "a", "label": 1.5}\n', r"linha 1, coluna 'label': o rótulo é 1\.5"),
        ("a.jsonl", '{"text": "a", "label": NaN}\n', r"linha 1, coluna 'label': o rótulo é nan"),
        ("a.jsonl", '{"text": "a", "label": 1, "label": 2}\n', r"linha 1: .*'label' vem mais de uma vez"),
        (
            "a.jsonl",
            '{"text": "a\\ud83d", "label": 1}\n',
            r"linha 1, coluna 'text': tem '\\ud83d', que é meio caractere",
        ),
        ("a.jsonl", "[" * 200_000, r"linha 1: não é JSON"),
        ("a.csv", "text,label,text \na,b,c\n", r"a\.csv: há mais de uma coluna 'text'"),
        ("a.csv", "text,label\n\u200b\xa0,b\n", r"linha 2, coluna 'text': o texto está vazio"),
        ("a.csv", "text,label\na,\u200b\n", r"linha 2, coluna 'label': o rótulo é "),
        ("a.csv", "text,label\na\0,b\n", r"linha 2: lido como utf-8, sai '.*a\\x00,b'.*bytes nulos"),
        ("a.parquet", "PAR1 nada", r"a\.parquet não é Parquet, está cortado"),
        ("a.xlsx", "nada", r"o formato '\.xlsx'.*'\.csv'"),
    ],
)
def test_the_row_and_the_column_are_named(tmp_path, name, content, words):
    (tmp_path / name).write_text(content, "utf-8")
    with pytest.raises(ValueError, match=rf"(?s){words}"):
        tasks.load(tmp_path / name)


TYPED = "text,label\nsim,1\nele disse “não” — e saiu… por 5 €,0\n"  # os sinais em que cp1252 e latin-1 diferem
PLAIN = "text,label\nsim,1\nrazão e nação,0\n"


@pytest.mark.parametrize(
    "content, encoding, line, likely",
    [
        (PLAIN.encode("latin-1"), "utf-8", 3, "cp1252"),
        (TYPED.encode("cp1252"), "utf-8", 3, "cp1252"),
        (TYPED.encode("cp1252"), "latin-1", 3, "cp1252"),
        (TYPED.encode("cp1252"), "ISO-8859-1", 3, "cp1252"),
        (TYPED.replace("\n", "\r").encode("cp1252"), "utf-8", 3, "cp1252"),
        (TYPED.replace("\n", "\r\n").encode("cp1252"), "utf-8", 3, "cp1252"),
        (PLAIN.encode("mac_roman"), "utf-8", 3, "mac_roman"),
        (PLAIN.encode("mac_roman"), "latin-1", 3, "mac_roman"),
        (PLAIN.encode("cp850"), "utf-8", 3, "cp850"),
        (PLAIN.encode("utf-16"), "utf-8", 1, "utf-16"),
        (PLAIN.encode("utf-32"), "utf-8", 1, "utf-32"),
        (b"text,label\num,0\n".decode().encode("utf-16-le"), "utf-8", 1, "utf-16-le"),
        (PLAIN.encode("utf-16-be"), "cp1252", 1, "utf-16-be"),
    ],
)
def test_the_line_of_a_wrong_encoding_is_named_with_the_right_one(tmp_path, content, encoding, line, likely):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf'a\.csv, linha {line}: .*parece {likely}: passe encoding="{likely}"'):
        tasks.load(path, encoding=encoding)
    assert "\ufeff" not in (text := user_text.decode(path, likely))  # o conselho, seguido, dá o texto
    assert text.replace("\r\n", "\n").replace("\r", "\n") in (TYPED, PLAIN, "text,label\num,0\n")


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "mac_roman", "utf-16"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["sem BOM", "com BOM"])
def test_utf8_read_as_something_else_is_refused(tmp_path, encoding, mark):
    (tmp_path / "a.csv").write_text(mark + PLAIN + "x", "utf-8")
    with pytest.raises(ValueError, match=r"a\.csv, linha \d: .*O arquivo é UTF-8: tire encoding="):
        tasks.load(tmp_path / "a.csv", encoding=encoding)


def test_an_encoding_that_does_not_exist(tmp_path):
    for encoding in ("latim", None, "base64"):
        with pytest.raises(ValueError, match=rf"a codificação {encoding!r}.*'utf-8' e 'cp1252'"):
            tasks.load(write(tmp_path / "a.csv"), encoding=encoding)


def test_a_spreadsheet_or_a_half_converted_file_is_not_called_another_encoding(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"PK\x03\x04\x14\x00\x06\x00\x08\x00\x00\x00\xe3\xff" * 20)
    with pytest.raises(ValueError, match=r"linha 1: .*bytes nulos.*planilha"):
        tasks.load(path)
    path.write_bytes(PLAIN.encode() + "avó,1\n".encode("cp1252"))
    with pytest.raises(ValueError, match=r"linha 4: o byte 0xf3.*O resto do arquivo é UTF-8.*Corrija-a"):
        tasks.load(path)


@pytest.mark.parametrize("encoding, cut", [("utf-16", b"\0"), ("utf-8-sig", b"\xc3"), ("cp1252", b"\x81")])
def test_a_file_that_broke_is_not_told_to_use_the_encoding_it_uses(tmp_path, encoding, cut):
    (tmp_path / "a.csv").write_bytes(PLAIN.encode(encoding) + cut)
    words = r"a\.csv, linha 4: o byte 0x\w+ não é .*(se estragou ali|Corrija-a num editor)"
    with pytest.raises(ValueError, match=words):
        tasks.load(tmp_path / "a.csv", encoding=encoding)


PIECES = [
    b'"', b";", b",", b"\t", b"\n", b"\r", b"\x00", b"\xe3", b"\xc3\xa3", b"\xef\xbb\xbf", b"\xff\xfe", b"\x93",
    b"{", b"[", b"null", b"1e999", b"\\ud83d", b"sep=;\n", b'"label"', b"\xf0\x9f\x98\x80", b"NaN", b"\x1a",
    b"\xc2\x85",
]  # fmt: skip
WHOLE = {
    ".csv": "text;label\n" + "".join(f'frase {i} “é”, "boa";{["sim", "não", "1"][i % 3]}\n' for i in range(12)),
    ".jsonl": "".join(f'{{"text": "frase {i} “é”", "label": {["1", "true"][i % 2]}}}\n' for i in range(12)),
    ".parquet": "PAR1",
}


@settings(max_examples=300, deadline=None)
@given(
    suffix=st.sampled_from([*WHOLE]),
    written=st.sampled_from(["utf-8", "utf-8-sig", "cp1252", "utf-16"]),
    read=st.sampled_from(["utf-8", "utf-8-sig", "cp1252", "latin-1", "utf-16", "utf-32", "ascii"]),
    put=st.lists(st.tuples(st.floats(0, 1), st.sampled_from(PIECES)), max_size=4),
    kept=st.floats(0.3, 1),
)
def test_whatever_the_bytes_are_the_answer_is_a_task_or_a_sentence(tmp_path_factory, suffix, written, read, put, kept):
    content = WHOLE[suffix].encode(written)
    content = content[: round(kept * len(content))]
    for where, piece in put:
        place = round(where * len(content))
        content = content[:place] + piece + content[place:]
    path = tmp_path_factory.getbasetemp() / f"a{suffix}"
    path.write_bytes(content)
    try:
        with warnings.catch_warnings(action="ignore"):
            tasks.load(path, encoding=read)
    except ValueError as error:
        assert type(error) is ValueError and re.search(rf"a\{suffix}|rótulo|classe", str(error))


def misread(text):
    """O texto em UTF-8 lido como cp1252; os cinco bytes que este não define, como o Windows os mostra."""
    return "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in text.encode())


BROKEN = [
    "não", "é", "Ação", "AÇÃO", "só isso", "SÓ ISSO", "Pé", "vou à escola", "Às", "(à parte)", "Índice", "Pícaro",
    "Aí, sim", "Já", "LIMÕES", "LÔGICA", "D’ÁGUA", "Três", "Nº 5", "1ª", "5 €", "“sim”", "‘a’", "a — b", "1–2",
    "e…", "«a»", "10 °C", "3 × 4", "a\xa0b", "BRASIL\xa0É", "FIM»", "😀", "→", "o\u0303", "ﬁm", "\ufeffa", "привет",
    "中文",
]  # fmt: skip


@pytest.mark.parametrize("text", BROKEN)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_utf8_saved_as_something_else_is_refused_with_the_line(tmp_path, name, text):
    path = write(tmp_path / name, [*ROWS, (misread(text), "sim")])
    line = len(ROWS) + 1 + (name == "a.csv")
    with pytest.raises(ValueError, match=rf"linha {line}, coluna 'text': .*UTF-8 lido como.*ftfy"):
        tasks.load(path)
    path = write(tmp_path / name, [*ROWS, ("uma frase", misread(text))])
    with pytest.raises(ValueError, match=rf"linha {line}, coluna 'label': "):
        tasks.load(path)
    assert not user_text.flaw(text)


@pytest.mark.parametrize("text", ["n\ufffdo", "\x93sim\x94", "preço em \x80"])
def test_a_letter_lost_in_a_conversion_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match="linha 42, coluna 'text': tem '"):
        tasks.load(write(tmp_path / "a.csv", [*ROWS, (text, "sim")]))


GOOD = [
    "AÇÃO", "MAÇÃ", "SÃO PAULO", "à noite", "“MAÇÔ", "A MAÇÃ…", "AMANHÃ — disse", "MANHÃ–TARDE", "AMANHÃ—disse",
    "Ã, ã", "“PURA LÔ, leu", "«IRMû", "IRMñ", "IRMÃ®", "você…”", "“você…”", "está”…", "o nome é…”", "É…”", "“É”",
    "é—”", "VOCÊ»…", "o til em “Ô e “Õ”", "a letra «»", "CÂ\xadMARA", "IRMÃ\xadZINHA", "AMANHÃ\xa0às 8",
    "FÃ\xa0CLUBE", "ATÉ²", "CAFÉ”", "√2", "naïve", "¿Qué?", "Âmbar", "10 °C", "n.º 1", "R$ 5 €", "👩‍💻 ❤️",
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_right_text_that_looks_like_it_passes(tmp_path, text):
    task = tasks.load(write(tmp_path / "a.csv", [*ROWS, (text, "sim")]))
    assert (text, "sim") in everything(task)


def test_nothing_in_the_published_tasks_looks_broken():
    texts = [line for path in DATA.glob("tarefas/**/*.jsonl") for line in path.read_text("utf-8").splitlines()]
    assert len(texts) > 10_000 and not any(map(user_text.flaw, texts))
    assert not any(user_text.flaw(text.upper()) for text in texts[::4])
    assert all(user_text.flaw(misread(text)) for text in texts[::4] if not text.isascii())


# ---------------------------------------------------------------- o que é o mesmo


SAME = ["não", "na\u0303o", "n\u200bão", "não\ufe0f", "nã\xado", "\u2060não", " não\xa0", "n\u200dão", "não\u200e"]


def test_a_label_written_in_several_ways_is_one_class_and_is_told(tmp_path):
    rows = [(f"frase {i}", SAME[i % len(SAME)] if i % 2 else "muito bom") for i in range(40)]
    rows[2] = (rows[2][0], "muito \xa0bom")
    with pytest.warns(UserWarning) as told:
        task = tasks.load(write(tmp_path / "a.jsonl", rows))
    assert task.labels == ("muito bom", "não")
    words = " ".join(str(one.message) for one in told)
    assert "um só rótulo, 'não'" in words and r"'na\u0303o' (a.jsonl, linha 2)" in words
    assert "um só rótulo, 'muito bom'" in words and r"'muito \xa0bom' (a.jsonl, linha 3)" in words


def test_the_same_class_in_every_split_and_format(tmp_path):
    write(tmp_path / "train.jsonl", [(f"frase {i}", i % 2) for i in range(20)])
    write(tmp_path / "validation.csv", [(f"outra {i}", f"{i % 2}.0") for i in range(6)])
    write(tmp_path / "test.parquet", [(f"ainda {i}", float(i % 2)) for i in range(6)])
    with pytest.warns(UserWarning, match=r"um só rótulo, '[01]', os que se escrevem '[01]' \(train"):
        task = tasks.load(tmp_path)
    assert task.labels == ("0", "1") and [len(getattr(task, split)) for split in SPLITS] == [20, 6, 6]


@pytest.mark.parametrize(
    "header", ["text,label", " text , label ", '"text","label"', "te\u200bxt,la\xadbel", "\ufefftext,label"]
)
def test_a_column_is_found_in_spite_of_what_is_not_seen(tmp_path, header):
    (tmp_path / "a.csv").write_text(header + "\n" + "".join(f"{text},{label}\n" for text, label in ROWS), "utf-8")
    assert everything(tasks.load(tmp_path / "a.csv")) == sorted(ROWS)


def test_a_column_with_an_accent_written_two_ways(tmp_path):
    path = write(tmp_path / "a.jsonl", text="opinia\u0303o", label="rótulo")
    assert everything(tasks.load(path, text="opini\u00e3o", label="ro\u0301tulo")) == sorted(ROWS)


@settings(max_examples=60, deadline=None)
@given(labels=st.permutations(["1", "01", "001", "١", "²", "1.5", "-1", "10", "2", "9" * 400, "a", "á", "B", "١٠"]))
def test_the_order_of_the_labels_depends_on_nothing_else(labels):
    ordered = sorted(labels, key=own_data.natural)
    assert ordered == ["-1", "001", "01", "1", "١", "1.5", "2", "10", "١٠", "9" * 400, "B", "a", "²", "á"]


# ---------------------------------------------------------------- as formas de um CSV


@pytest.mark.parametrize(
    "change",
    [
        lambda csv: csv.replace("\n", "\r"),
        lambda csv: csv.replace("\n", "\r\n"),
        lambda csv: csv + "\n\n  \n;;\n",
        lambda csv: "\n\n" + csv,
        lambda csv: csv.replace("\n", ";\n"),
        lambda csv: csv.replace("\n", ";;\n").replace("classe;;", "classe", 1),
        lambda csv: "sep=;\n" + csv,
        lambda csv: csv.replace(";", "; "),
        lambda csv: csv.replace(";", "\t"),
        lambda csv: "\ufeff" + csv,
    ],
    ids=["CR", "CRLF", "linhas vazias no fim", "no começo", "separador no fim", "só nas linhas", "sep=", "com espaço",
         "tabulação em .csv", "BOM"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.csv", "a.CSV", "a.tsv"])
def test_a_separator_is_found_with_the_quotes_of_the_header(tmp_path, name, change):
    lines = ['"texto (original, sem cortes)";classe', *(f'"{text}, ""e"" mais";{label}' for text, label in ROWS)]
    (tmp_path / name).write_text(change("\n".join(lines) + "\n"), "utf-8", newline="")
    task = tasks.load(tmp_path / name, text="texto (original, sem cortes)", label="classe")
    assert task.name == "a" and everything(task) == sorted((f'{text}, "e" mais', label) for text, label in ROWS)


def test_a_header_without_quotes_is_read_with_the_separator_that_has_the_columns(tmp_path):
    content = "texto (original, sem cortes, nem nada);classe\n" + "".join(f"{text};{label}\n" for text, label in ROWS)
    (tmp_path / "a.csv").write_text(content, "utf-8")
    task = tasks.load(tmp_path / "a.csv", text="texto (original, sem cortes, nem nada)", label="classe")
    assert everything(task) == sorted(ROWS)


def test_a_long_text_is_read_and_the_limit_of_everyone_stays(tmp_path):
    before = csv.field_size_limit()
    rows = [*ROWS, ("uma palavra " * 15_000, "sim")]
    assert everything(tasks.load(write(tmp_path / "a.csv", rows))) == sorted(rows)
    (tmp_path / "a.csv").write_text('text,label\n"' + "a" * 200_000, "utf-8")
    with pytest.raises(ValueError, match="linha 2: as aspas não fecham"):
        tasks.load(tmp_path / "a.csv")
    assert csv.field_size_limit() == before


def test_jsonl_with_a_mark_and_lines_of_another_system(tmp_path):
    lines = [json.dumps({"text": text, "label": label == "sim"}, ensure_ascii=False) for text, label in ROWS]
    for ends in ("\r", "\r\n", "\n\ufeff"):  # o último: arquivos com BOM postos um atrás do outro
        (tmp_path / "a.jsonl").write_text("\ufeff" + ends.join(lines), "utf-8", newline="")
        assert everything(tasks.load(tmp_path / "a.jsonl")) == sorted(
            (text, str(label == "sim")) for text, label in ROWS
        )


def test_the_folder_may_have_capital_letters(tmp_path):
    write(tmp_path / "a.csv").rename(tmp_path / "Train.CSV")
    assert everything(tasks.load(tmp_path)) == sorted(ROWS)


def test_a_missing_label_in_a_table_is_named(tmp_path):
    path = write(tmp_path / "a.parquet", [("um", 1), ("dois", None), ("três", 0)])
    with pytest.raises(ValueError, match=r"a\.parquet, linha 2, coluna 'label': o rótulo é nan"):
        tasks.load(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Não encontrei .*nada\.csv.*parte da pasta"):
        tasks.load(tmp_path / "nada.csv")
    with pytest.raises(FileNotFoundError, match=r"não há train\.csv, train\.tsv, train\.jsonl, train\.parquet"):
        tasks.load(tmp_path)
    write(tmp_path / "train.csv"), write(tmp_path / "train.jsonl")
    with pytest.raises(ValueError, match="dois arquivos para train"):
        tasks.load(tmp_path)


def test_columns_are_of_your_own_data():
    with pytest.raises(ValueError, match=r"text valem para os seus dados; a tarefa 'aceitabilidade'"):
        tasks.load("aceitabilidade", text="frase")


# ---------------------------------------------------------------- repetidas


def test_a_repeated_row_stays_once_and_is_told(tmp_path):
    path = write(tmp_path / "a.csv", [*ROWS, (f"  {ROWS[2][0]} ", ROWS[2][1]), ROWS[5]])
    with pytest.warns(UserWarning, match=r"a\.csv, linha 42 \(igual a a\.csv, linha 4\); a\.csv, linha 43 \(igual"):
        task = tasks.load(path)
    assert everything(task) == sorted(ROWS)


def test_the_same_accent_written_two_ways_is_the_same_text(tmp_path):
    path = write(tmp_path / "a.csv", [*ROWS, ("o avo\u0302", "sim"), ("o av\u00f4", "sim")])
    with pytest.warns(UserWarning, match="linha 43"):
        tasks.load(path)


def test_what_is_in_the_test_leaves_the_training(tmp_path):
    write(tmp_path / "train.csv", ROWS)
    write(tmp_path / "test.csv", [*ROWS[:3], ("outra", "sim")])
    with pytest.warns(UserWarning, match=r"train\.csv, linha 2 \(igual a test\.csv, linha 2\)"):
        task = tasks.load(tmp_path)
    assert len(task.test) == 4 and not set(task.test["text"]) & {*task.train["text"], *task.validation["text"]}
    write(tmp_path / "test.csv", [("outra", "talvez")])
    with pytest.raises(ValueError, match=r"test\.csv, linha 2: o rótulo 'talvez' aparece em test e nunca no treino"):
        tasks.load(tmp_path)
    write(tmp_path / "test.csv", [("outra", "sim")]), write(tmp_path / "validation.csv", [("outra", "sim")])
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="Sem as repetidas, validation não tem"):
        tasks.load(tmp_path)


@pytest.mark.parametrize("other", ["validation", "test", "out_of_domain"])
def test_a_class_that_only_repeated_rows_had_is_told(tmp_path, other):
    """Em train e out_of_domain, a repetida sai do treino, que vem por último: a classe fica num lado só."""
    write(tmp_path / "train.csv", [*ROWS, ("a frase de c", "c")])
    write(tmp_path / f"{other}.csv", [("mais uma", "sim"), ("a frase de c", "c")])
    words = rf"Sem as linhas repetidas: {other}\.csv, linha 3: o rótulo 'c' aparece em {other} e nunca no treino"
    with pytest.warns(UserWarning, match="Ficaram de fora"), pytest.raises(ValueError, match=words):
        tasks.load(tmp_path)


def test_a_training_left_with_one_class_is_told(tmp_path):
    write(tmp_path / "train.csv", [*[row for row in ROWS if row[1] == "sim"], ("a frase de c", "c")])
    write(tmp_path / "test.csv", [("outra", "sim"), ("a frase de c", "c")])
    with (
        pytest.warns(UserWarning),
        pytest.raises(ValueError, match="Sem as linhas repetidas: Todas as linhas de treino"),
    ):
        tasks.load(tmp_path)


# ---------------------------------------------------------------- do Hub


@pytest.fixture
def fake(tmp_path, monkeypatch):
    with serve() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.url)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
        yield server


def test_a_dataset_of_the_hub_is_a_task(fake, tmp_path, monkeypatch):
    write(tmp_path / "train.parquet")
    fake.repositories["org/frases"] = Repository(
        {"train.parquet": (tmp_path / "train.parquet").read_bytes()}, kind="datasets"
    )
    task = tasks.load("org/frases")
    assert task.name == "org/frases" and everything(task) == sorted(ROWS)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert everything(tasks.load("org/frases")) == sorted(ROWS)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE está ligada, e org/outro não está"):
        tasks.load("org/outro")


@pytest.mark.parametrize(
    "name, error, words",
    [
        ("org/nada", FileNotFoundError, r"No Hub não há org/nada.*datasets/org/nada"),
        ("org/frases@v9", FileNotFoundError, r"org/frases não tem a revisão 'v9'"),
        ("org/termos", PermissionError, "aceitar os termos"),
        ("org/script", ValueError, r"Não sei ler org/script.*faça deles uma pasta com train\.csv"),
    ],
)
def test_a_dataset_that_does_not_come(fake, tmp_path, name, error, words):
    files = {"train.jsonl": write(tmp_path / "train.jsonl").read_bytes()}
    fake.repositories["org/frases"] = Repository(files, kind="datasets")
    fake.repositories["org/termos"] = Repository(files, kind="datasets", gated="auto")
    fake.repositories["org/script"] = Repository({"leia.md": b"nada"}, kind="datasets")
    with pytest.raises(error, match=rf"(?s){words}"):
        tasks.load(name)
