"""Os dados de quem lê: um CSV, JSONL ou Parquet, uma pasta com as divisões, ou um conjunto do Hub, como uma tarefa.

    task = tasks.load("avaliacoes.csv", text="frase", label="classe")
    task = tasks.load("minha-pasta")                  # train.csv e test.csv, e validation.csv se houver
    task = tasks.load("org/conjunto@revisão")         # do Hub

O que estraga uma medida sem que se note é recusado, com a linha e a coluna: texto vazio, rótulo que falta, uma classe
só, a mesma frase com dois rótulos. A frase repetida fica uma vez só, e nunca no treino e no teste ao mesmo tempo.
"""

import csv
import io
import json
import random
import unicodedata
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import datasets
import huggingface_hub
import pandas
from huggingface_hub import constants

from ftcourse import hub
from ftcourse.files import choose

SPLITS = ("train", "validation", "test", "out_of_domain")
HELD_OUT = 0.15  # a fração de cada uma das divisões de validação e de teste que se fazem aqui


class Row(NamedTuple):
    """Uma linha: onde ela está, para dizer em que arquivo e em que linha dele, e o que traz."""

    where: str
    text: str
    label: str


def is_source(name):
    """Se `name` é um arquivo ou uma pasta, ou tem a forma de um conjunto do Hub."""
    return (
        Path(str(name)).expanduser().exists()
        or Path(str(name)).suffix in READERS
        or bool(hub.NAME.fullmatch(str(name)))
    )


def read_source(source, text="text", label="label", *, seed=0, encoding="utf-8"):
    """(nome, rótulos, {divisão: datasets.Dataset}) de um arquivo, de uma pasta ou de um conjunto do Hub.

    text, label: os nomes das colunas. A validação e o teste que não vierem saem do treino, 15 % das linhas de cada
    classe para cada um, sorteadas com `seed`. encoding: a codificação do CSV ou do JSONL.

    Levanta FileNotFoundError, OSError ou ValueError, sempre com o arquivo, a linha ou a coluna e o que fazer; avisa,
    com `warnings`, as linhas repetidas que deixou de fora.
    """
    path = Path(str(source)).expanduser()
    columns = {"text": text, "label": label}
    if path.is_dir():
        name, splits = path.resolve().name, read_folder(path, columns, encoding)
    elif path.is_file() or path.suffix in READERS:
        name, splits = path.stem, {"train": read(path, columns, encoding)}
    else:
        name, splits = source, read_hub(source, columns)
    splits = {split: splits[split] for split in SPLITS if splits.get(split)}
    check_labels(splits)
    splits = without_repeats(splits)
    labels = sorted({row.label for row in splits["train"]}, key=natural)
    if missing := [split for split in ("validation", "test") if split not in splits]:
        splits |= divide(splits["train"], seed, missing)
    return name, tuple(labels), {split: dataset(rows, labels) for split, rows in splits.items()}


def dataset(rows, labels):
    number = {label: i for i, label in enumerate(labels)}
    return datasets.Dataset.from_dict({"text": [r.text for r in rows], "label": [number[r.label] for r in rows]})


def natural(label):
    """Rótulos que são números vêm na ordem deles; os outros, depois, em ordem alfabética."""
    return (0, int(label), "") if label.isdecimal() else (1, 0, label)


# ---------------------------------------------------------------- ler


def read_folder(folder, columns, encoding):
    """{divisão: linhas} dos arquivos train.*, validation.*, test.* e out_of_domain.* de uma pasta."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.stem in SPLITS and path.suffix in READERS:
            if path.stem in found:
                raise ValueError(f"Em {folder} há dois arquivos para {path.stem}. Deixe um só.")
            found[path.stem] = path
    if "train" not in found:
        raise FileNotFoundError(
            f"Em {folder} não há train{', train'.join(READERS)}. Uma pasta de dados tem train, test e, se houver, "
            "validation, em arquivos com esses nomes."
        )
    return {split: read(path, columns, encoding) for split, path in found.items()}


def read(path, columns, encoding):
    """As linhas de um arquivo. Levanta FileNotFoundError se ele não existe e ValueError se não se lê."""
    if not path.is_file():
        raise FileNotFoundError(f"Não encontrei {path}. Confira o caminho: ele parte da pasta {Path.cwd()}.")
    reader = READERS[choose("o formato", path.suffix, READERS)]
    rows = list(reader(path, columns, encoding))
    if not rows:
        raise ValueError(f"{path} não tem nenhuma linha de dados.")
    return rows


def decode(path, encoding):
    """O texto de um arquivo. Levanta ValueError com a primeira linha que não está na codificação esperada."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig" if encoding.lower().replace("-", "") == "utf8" else encoding)
    except LookupError as error:
        raise ValueError(f"Não conheço a codificação {encoding!r}. As comuns são 'utf-8' e 'latin-1'.") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        guess = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1"
        raise ValueError(
            f"{path}, linha {line}: o byte {content[error.start]:#04x} não é {encoding}. O arquivo parece {guess}: "
            f'passe encoding="{guess}", ou grave-o em UTF-8.'
        ) from error


def read_csv(path, columns, encoding):
    """As linhas de um CSV, separado por vírgula, ponto e vírgula ou tabulação, com os nomes das colunas na primeira."""
    content = decode(path, encoding)
    header = content.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    lines, last = csv.reader(io.StringIO(content, newline=""), delimiter=separator, strict=True), 1
    try:
        names = next(lines, [])
        positions = {key: names.index(column(path, name, names)) for key, name in columns.items()}
        last = lines.line_num
        for values in lines:
            first, last = last + 1, lines.line_num  # uma linha entre aspas pode ocupar várias
            if values and len(values) != len(names):
                raise ValueError(
                    f"{path}, linha {first}: {len(values)} campos, e o cabeçalho tem {len(names)}. Um texto que contém "
                    f"{separator!r} vai entre aspas."
                )
            if values:
                yield row(f"{path.name}, linha {first}", columns, {k: values[i] for k, i in positions.items()})
    except csv.Error as error:
        raise ValueError(
            f"{path}, linha {last + 1}: as aspas não fecham ou estão no lugar errado ({error}). Dentro de um texto "
            'entre aspas, aspas se escrevem duas vezes: "".'
        ) from error


def read_jsonl(path, columns, encoding):
    """As linhas de um JSON Lines: um objeto por linha."""
    for number, line in enumerate(decode(path, encoding).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"{path}, linha {number}: não é JSON ({error}). Em JSONL cada linha é um objeto inteiro, como "
                '{"text": "…", "label": "…"}.'
            ) from error
        if not isinstance(value, dict):
            raise ValueError(f"{path}, linha {number}: é {type(value).__name__}, e cada linha deve ser um objeto.")
        given = {key: value[column(f"{path}, linha {number}", name, value)] for key, name in columns.items()}
        yield row(f"{path.name}, linha {number}", columns, given)


def read_parquet(path, columns, encoding):
    """As linhas de um Parquet, numeradas a partir de 1."""
    try:
        table = pandas.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow deriva destas
        raise ValueError(f"{path} não é Parquet ou está cortado ({error}). Copie-o outra vez.") from error
    yield from from_columns(path.name, columns, {name: table[name].tolist() for name in table.columns})


READERS = {".csv": read_csv, ".tsv": read_csv, ".jsonl": read_jsonl, ".parquet": read_parquet}


def read_hub(name, columns):
    """{divisão: linhas} de um conjunto do Hub; as divisões que não são do curso ficam de fora."""
    loaded = fetch(name)
    known = {split: rows for split, rows in loaded.items() if split in SPLITS}
    if "train" not in known:
        raise ValueError(f"{name} não tem a divisão train; tem {', '.join(loaded)}. Baixe-o e faça dele uma pasta.")
    splits = {}
    for split, rows in known.items():
        values, kind = rows.to_dict(), rows.features.get(columns["label"])
        if isinstance(kind, datasets.ClassLabel):
            values[columns["label"]] = [kind.int2str(i) if i >= 0 else None for i in values[columns["label"]]]
        splits[split] = list(from_columns(f"{name}, {split}", columns, values))
    return splits


def fetch(name):
    """As divisões de um conjunto do Hub, {nome: datasets.Dataset}. Levanta o que `hub.fetch` levanta."""
    repo, revision = hub.NAME.fullmatch(name).group("repo", "revision")
    if not constants.HF_HUB_OFFLINE:
        hub.reach()
    with hub.explained(name, "datasets/"):
        if not constants.HF_HUB_OFFLINE:
            api = huggingface_hub.HfApi(endpoint=constants.ENDPOINT)
            revision = api.dataset_info(repo, revision=revision, timeout=2 * hub.PATIENCE).sha
            api.auth_check(repo, repo_type="dataset")  # a recusa dos termos, datasets a troca por "não existe"
        try:
            return datasets.load_dataset(repo, revision=revision)
        except (ValueError, RuntimeError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
            if constants.HF_HUB_OFFLINE or hub.refusal(error):
                raise
            unreadable = error
    raise ValueError(
        f"Não sei ler {name}: {str(unreadable).strip().splitlines()[0]} Baixe os arquivos e faça deles uma pasta com "
        "train.csv, ou .jsonl, ou .parquet."
    ) from unreadable


def from_columns(where, columns, values):
    """Linhas de uma tabela por colunas: {nome: valores}."""
    picked = {key: values[column(where, name, values)] for key, name in columns.items()}
    for number, given in enumerate(zip(*picked.values()), start=1):
        yield row(f"{where}, linha {number}", columns, dict(zip(picked, given)))


def column(where, name, names):
    """O nome de uma coluna. Levanta ValueError com as que existem."""
    try:
        return choose("a coluna", name, [*names])
    except ValueError as error:
        raise ValueError(f"{where}: {error} Diga quais são em text= e label=.") from None


def row(where, columns, given):
    """Uma Row, conferida. Levanta ValueError se o texto está vazio ou não é texto, ou se falta o rótulo."""
    text, label = given["text"], given["label"]
    if not isinstance(text, str):
        raise ValueError(f"{where}, coluna {columns['text']!r}: é {text!r}, e deveria ser um texto.")
    if not text.strip():
        raise ValueError(f"{where}, coluna {columns['text']!r}: o texto está vazio. Preencha-o ou tire a linha.")
    if isinstance(label, float) and label.is_integer():
        label = int(label)  # uma coluna de inteiros em que falta algum vem como 1.0
    if not isinstance(label, (str, int)) or not str(label).strip():
        raise ValueError(
            f"{where}, coluna {columns['label']!r}: o rótulo é {label!r}, e deveria ser o nome ou o número de uma "
            "classe. Preencha-o ou tire a linha."
        )
    return Row(where, text, str(label).strip())


# ---------------------------------------------------------------- conferir e dividir


def check_labels(splits):
    """Levanta ValueError se os rótulos não parecem classes, ou se uma divisão tem uma classe que o treino não vê."""
    counts = Counter(row.label for row in splits["train"])
    if len(counts) == 1:
        raise ValueError(
            f"Todas as linhas de treino têm o mesmo rótulo, {next(iter(counts))!r}: não há o que distinguir. "
            "Confira label=."
        )
    if len(counts) > len(splits["train"]) / 2:
        some = ", ".join(map(repr, list(counts)[:3]))
        raise ValueError(
            f"O treino tem {len(splits['train'])} linhas e {len(counts)} rótulos diferentes, como {some}: parecem "
            "textos ou números, não classes. Confira label=."
        )
    for split, rows in splits.items():
        if strange := next((row for row in rows if row.label not in counts), None):
            raise ValueError(f"{strange.where}: o rótulo {strange.label!r} aparece em {split} e nunca no treino.")


def without_repeats(splits):
    """As divisões com cada texto uma vez só: fica a do teste, depois a da validação, por fim a do treino.

    Avisa o que saiu. Levanta ValueError se o mesmo texto tem dois rótulos.
    """
    seen, gone, kept = {}, [], defaultdict(list)
    for split in sorted(splits, key=("test", "validation", "out_of_domain", "train").index):
        for row in splits[split]:
            same = seen.setdefault(key(row.text), row)
            if same.label != row.label:
                raise ValueError(
                    f"{row.where}: este texto é o mesmo de {same.where}, e os rótulos são {row.label!r} e "
                    f"{same.label!r}. Corrija um dos dois."
                )
            if same is row:
                kept[split].append(row)
            else:
                gone.append(f"{row.where} (igual a {same.where})")
    if gone:
        more = f" e outras {len(gone) - 5}" if len(gone) > 5 else ""
        warnings.warn(f"Ficaram de fora linhas repetidas: {'; '.join(gone[:5])}{more}.", stacklevel=4)
    if empty := [split for split in splits if not kept[split]]:
        raise ValueError(f"Sem as repetidas, {empty[0]} não tem nenhuma linha.")
    return {split: kept[split] for split in splits}


def key(text):
    """O texto sem o que não muda a leitura dele: espaços repetidos e as duas maneiras de escrever um acento."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def divide(rows, seed, parts):
    """As linhas em "train" e nas divisões de `parts`, com HELD_OUT das linhas de cada classe, e ao menos uma."""
    rng, by_label, split = random.Random(seed), defaultdict(list), defaultdict(list)
    for row in rows:
        by_label[row.label].append(row)
    for label, group in sorted(by_label.items()):
        if len(group) < len(parts) + 1:
            raise ValueError(
                f"A classe {label!r} tem {len(group)} linhas, e são precisas {len(parts) + 1}, uma para cada divisão "
                f"({', '.join(('train', *parts))}). Junte-a a outra ou traga mais exemplos."
            )
        rng.shuffle(group)
        each = max(1, round(HELD_OUT * len(group)))
        for part in parts:
            split[part] += [group.pop() for _ in range(each)]
        split["train"] += group
    for group in split.values():
        rng.shuffle(group)
    return dict(split)
