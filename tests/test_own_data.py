"""Os dados de quem lê: o que vira tarefa, e a linha e a coluna que cada recusa nomeia."""

import json
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

from ftcourse import evaluation, methods, own_data, tasks, training

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
        assert split != own_data.divide(rows, seed + 1, ("validation", "test"))


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
        ("a.csv", "", r"a\.csv: Não conheço a coluna 'text'"),
        ("a.csv", "text,label\n" + "".join(f"{i},a\n" for i in range(9)), r"o mesmo rótulo, 'a'.*Confira label="),
        (
            "a.csv",
            "text,label\n" + "".join(f"{i},{i / 7}\n" for i in range(9)),
            r"9 linhas e 9 rótulos.*Confira label=",
        ),
        (
            "a.csv",
            "text,label\n" + "".join(f"{i},{'ab'[i > 7]}\n" for i in range(9)),
            r"classe 'b' tem 1 linhas.*são prec",
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
        ("a.parquet", "PAR1 nada", r"a\.parquet não é Parquet ou está cortado"),
        ("a.xlsx", "nada", r"o formato '\.xlsx'.*'\.csv'"),
    ],
)
def test_the_row_and_the_column_are_named(tmp_path, name, content, words):
    (tmp_path / name).write_text(content, "utf-8")
    with pytest.raises(ValueError, match=rf"(?s){words}"):
        tasks.load(tmp_path / name)


def test_the_line_of_a_wrong_encoding_is_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("text,label\nbom,1\nrazão,0\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r'a\.csv, linha 3: o byte 0xe3 não é utf-8.*encoding="latin-1"'):
        tasks.load(path)
    path.write_bytes("text,label\nrazão,0\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r'linha 1.*encoding="utf-16"'):
        tasks.load(path)
    with pytest.raises(ValueError, match="a codificação 'latim'"):
        tasks.load(path, encoding="latim")


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
