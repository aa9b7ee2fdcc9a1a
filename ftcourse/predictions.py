"""As previsões de quem lê: escritas antes de rodar, guardadas ao lado dos cadernos, postas junto da medida.

    preveja("04.3", 0.8)                                     # um número
    preveja("04.3", (0.6, 0.9))                              # ou um intervalo, que você espera que acerte 8 vezes em 10
    preveja("04.1", "diminui", options=["aumenta", "diminui", "fica igual"])
    preveja("03.2", ["cabeça", "LoRA", "completo"], order=["completo", "cabeça", "LoRA"])
    saiu("04.3", measured)                                   # "você previu 0,8; saiu 0,63"
    balanco("04")                                            # o caderno inteiro; balanco() é o curso

Nada aqui diz certo ou errado: é a sua própria régua. O arquivo é um CSV, `previsoes.csv`, na pasta do caderno; quem dá
aula junta os da turma com `ftcourse previsoes PASTA`.
"""

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ftcourse.console import say
from ftcourse.files import atomic_write
from ftcourse.formats import number, scalar

COLUMNS = ("questao", "tipo", "previsto", "saiu")
KINDS = {"número": "números", "intervalo": "intervalos", "escolha": "escolhas", "ordem": "ordens"}


def path() -> Path:
    """O arquivo das previsões: na pasta do caderno, ou onde FTCOURSE_PREVISOES disser."""
    return Path(os.environ.get("FTCOURSE_PREVISOES", "previsoes.csv"))


def preveja(question: str, answer: Any, *, options: Sequence[str] = (), order: Sequence[str] = ()) -> None:
    """Guarda a sua previsão. Com `...` no lugar dela, diz o que escrever; nunca levanta.

    answer: um número, um intervalo (baixo, alto), uma das `options` ou uma lista com as de `order`, na sua ordem.
    """
    if answer is ...:
        wanted = f"uma destas: {listed(options)}" if options else "um número, ou um intervalo (baixo, alto)"
        wanted = f"uma lista, na sua ordem, de {listed(order)}" if order else wanted
        say(f"· {question}: ainda sem previsão. Troque os ... por {wanted}.")
        return
    try:
        kind, predicted = understood(answer, options, order)
    except ValueError as error:
        say(f"· {question}: não guardei. {error}")
        return
    known = read(path())
    known[question] = {"questao": question, "tipo": kind, "previsto": predicted, "saiu": None}
    write(known)
    say(f"· {question}: você prevê {shown(predicted)}. Rode as próximas células.")


def saiu(question: str, measured: Any) -> None:
    """Põe a medida ao lado da sua previsão, e a guarda com ela; sem previsão, só diz a medida."""
    measured = plain(measured)
    known = read(path())
    if question not in known:
        say(f"· {question}: saiu {shown(measured)}. Você não tinha previsto.")
        return
    known[question]["saiu"] = measured
    write(known)
    say(f"· {question}: você previu {shown(known[question]['previsto'])}; saiu {shown(measured)}.")


def balanco(notebook: str = "") -> None:
    """O que as suas previsões, de um caderno ou do curso todo, dizem de você: quantas, a que distância, em quê."""
    say(told([p for name, p in read(path()).items() if name.startswith(notebook)]))


def told(predictions: Iterable[dict]) -> str:
    """O balanço de umas previsões, em frases."""
    done = [p for p in predictions if p["saiu"] is not None]
    if not done:
        return "Nenhuma previsão com medida ao lado ainda: escreva as suas nas células preveja(…) e rode o caderno."
    lines = [f"{len(done)} {'previsões' if len(done) > 1 else 'previsão'} com a medida ao lado."]
    for kind, plural in KINDS.items():
        pairs = [(p["previsto"], p["saiu"]) for p in done if p["tipo"] == kind]
        if not pairs:
            continue
        same = sum(within(*pair) if kind == "intervalo" else pair[0] == pair[1] for pair in pairs)
        if kind == "número":
            apart = sorted(abs(a - b) / max(abs(a), abs(b)) if a != b else 0.0 for a, b in pairs)
            lines.append(
                f"Nos {plural} ({len(pairs)}), a distância do meio foi de {number(100 * apart[len(apart) // 2], 0)} % "
                "do maior dos dois."
            )
        elif kind == "intervalo":
            sure = ": você esteve mais seguro do que podia" if same < 0.8 * len(pairs) else ""
            lines.append(f"Dos {plural} ({len(pairs)}), {same} continham o que saiu; você esperava 8 em 10{sure}.")
        else:
            lines.append(f"Das {plural} ({len(pairs)}), {same} saíram como você disse.")
    return "\n".join(lines)


def gather(folder: Path) -> dict[str, list[dict]]:
    """As previsões de uma turma: {questão: uma por aluno}, de todos os CSV de uma pasta e das que há dentro dela."""
    found: dict[str, list[dict]] = {}
    for file in sorted(Path(folder).rglob("*.csv")):
        for question, prediction in read(file).items():
            found.setdefault(question, []).append(prediction)
    return dict(sorted(found.items()))


def histogram(predictions: Sequence[dict], width: int = 30) -> str:
    """As previsões de uma questão em barras de texto: uma por resposta ou, nos números, por faixa."""
    given = [p["previsto"] for p in predictions]
    numbers = [sum(g) / 2 if p["tipo"] == "intervalo" else g for p, g in zip(predictions, given) if is_numeric(p)]
    labels = bins(numbers) if numbers else [shown(g) for g in given]
    counts = {label: labels.count(label) for label in (dict.fromkeys(labels) if numbers else sorted(set(labels)))}
    longest, most = max(map(len, counts)), max(counts.values())
    lines = [f"  {label:<{longest}}  {'█' * max(1, round(width * n / most))} {n}" for label, n in counts.items()]
    measured = next((p["saiu"] for p in predictions if p["saiu"] is not None), None)
    return "\n".join(lines + ([f"  saiu {shown(measured)}"] if measured is not None else []))


# ---------------------------------------------------------------- as peças


def is_numeric(prediction: dict) -> bool:
    return prediction["tipo"] in ("número", "intervalo")


def bins(numbers: list[float], most: int = 8) -> list[str]:
    """A faixa de cada número, em ordem crescente: "de 0,2 a 0,3"."""
    low, high = min(numbers), max(numbers)
    step = (high - low) / most or 1
    places = sorted(min(most - 1, int((value - low) / step)) for value in numbers)
    return [f"de {number(low + i * step)} a {number(low + (i + 1) * step)}" for i in places]


def within(interval: Sequence[float], value: float) -> bool:
    return interval[0] <= value <= interval[1]


def understood(answer: Any, options: Sequence[str], order: Sequence[str]) -> tuple[str, Any]:
    """(tipo, previsão) do que se escreveu. Levanta ValueError com o que se esperava."""
    if options:
        if answer not in [*options]:
            raise ValueError(f"Veio {answer!r}, e as respostas são {listed(options)}.")
        return "escolha", answer
    if order:
        if not isinstance(answer, (list, tuple)) or sorted(map(str, answer)) != sorted(order):
            raise ValueError(f"Veio {answer!r}, e é uma lista com cada um destes uma vez: {listed(order)}.")
        return "ordem", [*answer]
    if isinstance(answer, (list, tuple)):
        ends = [end for part in answer if (end := scalar(part)) is not None]
        if not len(ends) == len(answer) == 2 or not ends[0] <= ends[1]:
            raise ValueError(f"Veio {answer!r}, e um intervalo são dois números, do menor ao maior.")
        return "intervalo", ends
    if (value := scalar(answer)) is None:
        raise ValueError(f"Veio {answer!r}, e é um número, ou um intervalo (baixo, alto).")
    return "número", value


def plain(value: Any) -> Any:
    """Um número de numpy ou de torch como número; textos e listas como são."""
    if isinstance(value, str):
        return value
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else scalar(value)


def shown(value: Any) -> str:
    """Uma previsão ou uma medida, como se escreve em português."""
    if isinstance(value, list):
        ends = all(isinstance(v, float) for v in value)
        return f"de {number(value[0])} a {number(value[1])}" if ends else " > ".join(value)
    return number(value) if isinstance(value, (int, float)) else str(value)


def listed(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def read(file: Path) -> dict[str, dict]:
    """{questão: previsão} de um arquivo; {} se não há um. A linha que não se entende fica de fora."""
    if not file.is_file():
        return {}
    found = {}
    for row in csv.DictReader(io.StringIO(file.read_text(encoding="utf-8-sig", errors="replace"))):
        try:
            kind, predicted = row["tipo"], json.loads(row["previsto"])
            if kind in KINDS:
                found[row["questao"]] = {
                    "questao": row["questao"], "tipo": kind, "previsto": predicted,
                    "saiu": json.loads(row["saiu"]) if row["saiu"] else None,
                }  # fmt: skip
        except (KeyError, TypeError, ValueError):
            continue
    return found


def write(known: dict[str, dict]) -> None:
    """Grava as previsões, o arquivo inteiro ou nada."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for prediction in known.values():
        cells = {name: json.dumps(prediction[name], ensure_ascii=False) for name in ("previsto", "saiu")}
        writer.writerow({**prediction, **cells, "saiu": "" if prediction["saiu"] is None else cells["saiu"]})
    try:
        with atomic_write(path()) as file:
            file.write(text.getvalue().encode())
    except OSError as error:
        say(f"· não consegui guardar a previsão: {error}. O caderno continua sem ela.")
