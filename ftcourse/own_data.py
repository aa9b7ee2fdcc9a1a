"""Os dados de quem lê: um CSV, JSONL ou Parquet, uma pasta com as divisões, ou um conjunto do Hub, como uma tarefa.

    task = tasks.load("avaliacoes.csv", text="frase", label="classe")
    task = tasks.load("minha-pasta")                  # train.csv e test.csv, e validation.csv se houver
    task = tasks.load("org/conjunto@revisão")         # do Hub

O que estraga uma medida sem que se note é recusado, com a linha e a coluna: texto vazio, letras trocadas por uma
codificação errada, rótulo que falta, uma classe só, a mesma frase com dois rótulos. A frase repetida fica uma vez só, e
nunca no treino e no teste ao mesmo tempo. Rótulos, colunas e frases que só diferem em espaços, no que não se vê ou no
modo de escrever um acento são o mesmo.
"""

import csv
import io
import json
import random
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import datasets
import huggingface_hub
import pandas
from huggingface_hub import constants

from ftcourse import hub
from ftcourse.files import choose
from ftcourse.user_text import decode, flaw, tidy

SPLITS = ("train", "validation", "test", "out_of_domain")
HELD_OUT = 0.15  # a fração de cada uma das divisões de validação e de teste que se fazem aqui


class Row(NamedTuple):
    """Uma linha: onde ela está, para dizer em que arquivo e em que linha dele, e o que traz."""

    where: str
    text: str
    label: str


def is_source(name: str | Path) -> bool:
    """Se `name` é um arquivo ou uma pasta, ou tem a forma de um conjunto do Hub."""
    path = Path(str(name)).expanduser()
    return path.exists() or path.suffix.lower() in READERS or bool(hub.NAME.fullmatch(str(name)))


def read_source(
    source: str | Path, text: str = "text", label: str = "label", *, seed: int = 0, encoding: str = "utf-8"
) -> tuple[str, tuple[str, ...], dict[str, datasets.Dataset]]:
    """(nome, rótulos, {divisão: datasets.Dataset}) de um arquivo, de uma pasta ou de um conjunto do Hub.

    text, label: os nomes das colunas. A validação e o teste que não vierem saem do treino, 15 % das linhas de cada
    classe para cada um, sorteadas com `seed`. encoding: a codificação do CSV ou do JSONL.

    Levanta FileNotFoundError, OSError ou ValueError, sempre com o arquivo, a linha ou a coluna e o que fazer; avisa,
    com `warnings`, as linhas repetidas que deixou de fora e os rótulos que tomou por um só.
    """
    path = Path(str(source)).expanduser()
    columns = {"text": text, "label": label}
    if path.is_dir():
        name, splits = path.resolve().name, read_folder(path, columns, encoding)
    elif path.is_file() or path.suffix.lower() in READERS:
        name, splits = path.stem, {"train": read(path, columns, encoding)}
    else:
        name, splits = str(source), read_hub(str(source), columns)
    splits = one_spelling({split: splits[split] for split in SPLITS if splits.get(split)})
    check_labels(splits)
    splits = without_repeats(splits)
    check_classes(splits, "Sem as linhas repetidas: ")  # a classe que só elas tinham já não está no treino
    labels = sorted({row.label for row in splits["train"]}, key=natural)
    if missing := [split for split in ("validation", "test") if split not in splits]:
        splits |= divide(splits["train"], seed, missing)
    return name, tuple(labels), {split: dataset(rows, labels) for split, rows in splits.items()}


def dataset(rows: Sequence[Row], labels: Sequence[str]) -> datasets.Dataset:
    number = {label: i for i, label in enumerate(labels)}
    return datasets.Dataset.from_dict({"text": [r.text for r in rows], "label": [number[r.label] for r in rows]})


def natural(label: str) -> tuple[bool, float, str]:
    """Rótulos que são números vêm na ordem deles; os outros, depois, em ordem alfabética. "1" e "01" nunca empatam."""
    number = re.fullmatch(r"-?\d+(\.\d+)?", label)
    return (not number, float(label) if number else 0, label)


# ---------------------------------------------------------------- ler


def read_folder(folder: Path, columns: dict[str, str], encoding: str) -> dict[str, list[Row]]:
    """{divisão: linhas} dos arquivos train.*, validation.*, test.* e out_of_domain.* de uma pasta."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        split = path.stem.lower()
        if split in SPLITS and path.suffix.lower() in READERS:
            if split in found:
                raise ValueError(f"Em {folder} há dois arquivos para {split}. Deixe um só.")
            found[split] = path
    if "train" not in found:
        raise FileNotFoundError(
            f"Em {folder} não há train{', train'.join(READERS)}. Uma pasta de dados tem train, test e, se houver, "
            "validation, em arquivos com esses nomes."
        )
    return {split: read(path, columns, encoding) for split, path in found.items()}


def read(path: Path, columns: dict[str, str], encoding: str) -> list[Row]:
    """As linhas de um arquivo. Levanta FileNotFoundError se ele não existe e ValueError se não se lê."""
    if not path.is_file():
        raise FileNotFoundError(f"Não encontrei {path}. Confira o caminho: ele parte da pasta {Path.cwd()}.")
    reader = READERS[choose("o formato", path.suffix.lower(), READERS)]
    rows = list(reader(path, columns, encoding))
    if not rows:
        raise ValueError(f"{path} não tem nenhuma linha de dados.")
    return rows


def read_csv(path: Path, columns: dict[str, str], encoding: str) -> Iterator[Row]:
    """As linhas de um CSV, separado por vírgula, ponto e vírgula ou tabulação, com os nomes das colunas na primeira."""
    content = decode(path, encoding)
    separator = sniff(content, columns)
    try:
        with long_fields(len(content)):
            filled = list(csv_rows(content, separator))
    except csv.Error as error:
        raise ValueError(f"{path}, {error}") from error
    if filled and trimmed(filled[0][1], 0) == ["sep="]:
        del filled[0]
    if not filled:
        raise ValueError(f"{path} está vazio. A primeira linha de um CSV tem os nomes das colunas.")
    names = trimmed(filled.pop(0)[1], 0)  # um separador a mais no fim de cada linha é comum
    positions = {key: column(str(path), name, names) for key, name in columns.items()}
    for line, values in filled:
        values = trimmed(values, len(names))
        if len(values) != len(names):
            raise ValueError(
                f"{path}, linha {line}: {len(values)} campo{'s' * (len(values) > 1)}, e o cabeçalho tem {len(names)}. "
                f"Um texto que contém {separator!r} vai entre aspas."
            )
        yield row(f"{path.name}, linha {line}", columns, {key: values[i] for key, i in positions.items()})


def csv_rows(content: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """A linha em que começa e os campos de cada linha que não está vazia. Levanta csv.Error, numa frase."""
    lines = csv.reader(io.StringIO(content, newline=""), delimiter=separator, strict=True, skipinitialspace=True)
    first = 1
    try:
        for values in lines:
            if any(map(tidy, values)):
                yield first, values
            first = lines.line_num + 1  # uma linha entre aspas pode ocupar várias
    except csv.Error as error:
        raise csv.Error(
            f"linha {first}: as aspas não fecham ou estão no lugar errado ({error}). Dentro de um texto entre aspas, "
            'aspas se escrevem duas vezes: "".'
        ) from error


def sniff(content: str, columns: dict[str, str]) -> str:
    """O separador com que o cabeçalho, lido com as aspas, tem as colunas pedidas, ou mais colunas.

    Também o que o Excel diz numa primeira linha só dele, "sep=;".
    """
    if stated := re.match("sep=(.)[\r\n]", content):
        return stated[1]

    def fit(separator: str) -> tuple[bool, int]:
        try:
            with long_fields(len(content)):
                _, names = next(csv_rows(content, separator), (1, []))
        except csv.Error:
            return False, 0
        return {*map(tidy, columns.values())} <= {*map(tidy, names)}, len(names)

    return max(",;\t", key=fit)


@contextmanager
def long_fields(size: int) -> Iterator[None]:
    """O módulo csv para nos 131.072 caracteres, e o limite é de todo o programa: volta ao que era na saída."""
    before = csv.field_size_limit(max(size, csv.field_size_limit()))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def trimmed(values: list[str], least: int) -> list[str]:
    """Os campos sem os vazios do fim que passam de `least`."""
    while len(values) > least and not tidy(values[-1]):
        values = values[:-1]
    return values


def read_jsonl(path: Path, columns: dict[str, str], encoding: str) -> Iterator[Row]:
    """As linhas de um JSON Lines: um objeto por linha."""
    for number, line in enumerate(re.split(r"\r\n|\r|\n", decode(path, encoding)), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=unrepeated)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path}, linha {number}: não é JSON ({error}). Em JSONL cada linha é um objeto inteiro, como "
                '{"text": "…", "label": "…"}.'
            ) from error
        if not isinstance(value, dict):
            raise ValueError(f"{path}, linha {number}: é {type(value).__name__}, e cada linha deve ser um objeto.")
        names, values = [*value], [*value.values()]
        given = {key: values[column(f"{path}, linha {number}", name, names)] for key, name in columns.items()}
        yield row(f"{path.name}, linha {number}", columns, given)


def unrepeated(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Um objeto de JSON em que nenhum nome vem duas vezes: json ficaria com o último, sem dizer."""
    if twice := [name for name, n in Counter(name for name, _ in pairs).items() if n > 1]:
        raise ValueError(f"o nome {twice[0]!r} vem mais de uma vez")
    return dict(pairs)


def read_parquet(path: Path, columns: dict[str, str], encoding: str) -> Iterator[Row]:
    """As linhas de um Parquet, numeradas a partir de 1."""
    try:
        table = pandas.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow deriva destas
        raise ValueError(
            f"{path} não é Parquet, está cortado ou tem duas colunas de mesmo nome ({error}). Copie-o outra vez."
        ) from error
    yield from from_columns(path.name, columns, {name: table[name].tolist() for name in table.columns})


READERS = {".csv": read_csv, ".tsv": read_csv, ".jsonl": read_jsonl, ".parquet": read_parquet}


def read_hub(name: str, columns: dict[str, str]) -> dict[str, list[Row]]:
    """{divisão: linhas} de um conjunto do Hub; as divisões que não são do curso ficam de fora."""
    loaded = fetch(name)
    known = {split: rows for split, rows in loaded.items() if split in SPLITS}
    if "train" not in known:
        raise ValueError(f"{name} não tem a divisão train; tem {', '.join(loaded)}. Baixe-o e faça dele uma pasta.")
    splits = {}
    for split, rows in known.items():
        values = rows.to_dict()
        for named, kind in rows.features.items():
            if isinstance(kind, datasets.ClassLabel):
                values[named] = [kind.int2str(i) if i is not None and i >= 0 else None for i in values[named]]
        splits[split] = list(from_columns(f"{name}, {split}", columns, values))
    return splits


def fetch(name: str) -> datasets.DatasetDict:
    """As divisões de um conjunto do Hub, {nome: datasets.Dataset}. Levanta o que `hub.fetch` levanta."""
    repo, revision = hub.parts(name)
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


def from_columns(where: str, columns: dict[str, str], values: Mapping[str, Sequence]) -> Iterator[Row]:
    """Linhas de uma tabela por colunas: {nome: valores}."""
    names = [*values]
    picked = {key: values[names[column(where, name, names)]] for key, name in columns.items()}
    for number, given in enumerate(zip(*picked.values()), start=1):
        yield row(f"{where}, linha {number}", columns, dict(zip(picked, given)))


def column(where: str, name: str, names: Sequence[str]) -> int:
    """A posição de uma coluna. Levanta ValueError, com as que existem, se não há uma só com esse nome."""
    known = [tidy(str(other)) for other in names]
    if broken := next(filter(None, map(flaw, known)), None):
        raise ValueError(f"{where}: um nome de coluna {broken}. Grave o arquivo outra vez, em UTF-8, de onde veio.")
    try:
        choose("a coluna", tidy(str(name)), known)
    except ValueError as error:
        raise ValueError(f"{where}: {error} Diga quais são em text= e label=.") from None
    if known.count(tidy(str(name))) > 1:
        raise ValueError(f"{where}: há mais de uma coluna {name!r}. Mude o nome de uma delas.")
    return known.index(tidy(str(name)))


def row(where: str, columns: dict[str, str], given: Mapping[str, object]) -> Row:
    """Uma Row, conferida. Levanta ValueError se o texto está vazio, quebrado ou não é texto, ou se falta o rótulo."""
    text, label = given["text"], given["label"]
    if not isinstance(text, str):
        raise ValueError(f"{where}, coluna {columns['text']!r}: é {text!r}, e deveria ser um texto.")
    if not tidy(text):
        raise ValueError(f"{where}, coluna {columns['text']!r}: o texto está vazio. Preencha-o ou tire a linha.")
    if isinstance(label, float) and label.is_integer():
        label = int(label)  # uma coluna de inteiros em que falta algum vem como 1.0
    if not isinstance(label, (str, int)) or not tidy(str(label)):
        raise ValueError(
            f"{where}, coluna {columns['label']!r}: o rótulo é {label!r}, e deveria ser o nome ou o número de uma "
            "classe. Preencha-o ou tire a linha."
        )
    for key, value in (("text", text), ("label", str(label))):
        if broken := flaw(value):
            raise ValueError(
                f"{where}, coluna {columns[key]!r}: {broken}. O arquivo já foi gravado assim: corrija a linha, ou "
                "grave-o outra vez, em UTF-8, de onde veio. A biblioteca ftfy desfaz muitas dessas trocas."
            )
    return Row(where, text, str(label).strip())


# ---------------------------------------------------------------- conferir e dividir


def one_spelling(splits: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """As divisões com cada rótulo escrito de um só modo. Avisa os que eram escritos de mais de um."""
    written: dict[str, dict[str, str]] = defaultdict(
        dict
    )  # rótulo → cada modo de escrevê-lo, e a primeira linha em que está
    for row in (row for rows in splits.values() for row in rows):
        whole = re.fullmatch(r"(-?\d+)\.0", row.label)  # "1.0": a coluna de inteiros em que faltava algum, já gravada
        written[whole[1] if whole else tidy(row.label)].setdefault(row.label, row.where)
    for label, spellings in written.items():
        if len(spellings) > 1:
            some = ", ".join(f"{spelling!a} ({where})" for spelling, where in spellings.items())
            warnings.warn(f"Tomei por um só rótulo, {label!r}, os que se escrevem {some}.", stacklevel=4)
    label_of = {spelling: label for label, spellings in written.items() for spelling in spellings}
    return {split: [row._replace(label=label_of[row.label]) for row in rows] for split, rows in splits.items()}


def check_labels(splits: dict[str, list[Row]]) -> None:
    """Levanta ValueError se os rótulos não parecem classes, ou se não se pode aprender algum deles."""
    check_classes(splits)
    counts = Counter(row.label for row in splits["train"])
    if len(counts) > len(splits["train"]) / 2:
        some = ", ".join(map(repr, list(counts)[:3]))
        raise ValueError(
            f"O treino tem {len(splits['train'])} linhas e {len(counts)} rótulos diferentes, como {some}: parecem "
            "textos ou números, não classes. Confira label=."
        )


def check_classes(splits: dict[str, list[Row]], since: str = "") -> None:
    """Levanta ValueError se o treino tem uma classe só, ou se outra divisão tem uma que ele não tem."""
    known = {row.label for row in splits["train"]}
    if len(known) == 1:
        raise ValueError(
            f"{since}Todas as linhas de treino têm o mesmo rótulo, {next(iter(known))!r}: não há o que distinguir. "
            "Confira label=."
        )
    for split, rows in splits.items():
        if strange := next((row for row in rows if row.label not in known), None):
            raise ValueError(
                f"{since}{strange.where}: o rótulo {strange.label!r} aparece em {split} e nunca no treino. Traga "
                "exemplos dele para o treino, ou tire-o dali."
            )


def without_repeats(splits: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """As divisões com cada texto uma vez só: fica a do teste, depois a da validação, por fim a do treino.

    Avisa o que saiu. Levanta ValueError se o mesmo texto tem dois rótulos.
    """
    seen: dict[str, Row] = {}
    gone, kept = [], defaultdict(list)
    for split in sorted(splits, key=("test", "validation", "out_of_domain", "train").index):
        for row in splits[split]:
            same = seen.setdefault(tidy(row.text), row)
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


def divide(rows: Iterable[Row], seed: int, parts: Sequence[str]) -> dict[str, list[Row]]:
    """As linhas em "train" e nas divisões de `parts`, com HELD_OUT das linhas de cada classe, e ao menos uma."""
    rng = random.Random(seed)
    by_label: dict[str, list[Row]] = defaultdict(list)
    split: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_label[row.label].append(row)
    for label, group in sorted(by_label.items()):
        if len(group) < len(parts) + 1:
            raise ValueError(
                f"A classe {label!r} tem {len(group)} linha{'s' * (len(group) > 1)}, e são precisas "
                f"{len(parts) + 1}, uma para cada divisão ({', '.join(('train', *parts))}). Junte-a a outra ou traga "
                "mais exemplos."
            )
        rng.shuffle(group)
        each = max(1, round(HELD_OUT * len(group)))
        for part in parts:
            split[part] += [group.pop() for _ in range(each)]
        split["train"] += group
    for group in split.values():
        rng.shuffle(group)
    return dict(split)
