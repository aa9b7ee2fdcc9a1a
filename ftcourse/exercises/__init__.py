"""As verificações dos exercícios: um arquivo por caderno (`nb00.py`, …), uma função por exercício (`exercise_1`, …).

A função recebe a resposta e devolve a frase de acerto; se a resposta está errada, levanta `Wrong` com uma dica que
nomeia o engano, seguida, se houver, de dicas que só aparecem nas tentativas seguintes. Nenhuma diz a solução.
"""

import copy
import importlib
import inspect
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from ftcourse.console import say
from ftcourse.formats import number as written
from ftcourse.formats import scalar

if TYPE_CHECKING:
    import torch

UNKNOWN = "não sei que engano é este."  # o que se diz de um valor que nenhum engano conhecido dá; nunca a solução
CONSTANT = "a função responde o mesmo a perguntas diferentes: faça a conta com o que ela recebe."
ROUNDED = "é essa conta, arredondada ou truncada: devolva todas as casas, sem round, int nem //."

# O que Python e torch dizem, e o que isso quer dizer.
ERRORS = {
    r"size of tensor a \((\d+)\) must match the size of tensor b \((\d+)\)": "dois tensores, um com {} números num "
    "eixo e o outro com {}, não se combinam. Imprima o .shape de cada um: falta ou sobra um eixo",
    r"cannot be multiplied \((\w+) and (\w+)\)|size mismatch, got .*mat \((\w+)\), vec \((\w+)": "as formas {} e "
    "{} não se multiplicam: as colunas da primeira têm de ser tantas quantas as linhas da segunda",
    r"shape '(.+?)' is invalid for input of size (\d+)": "a forma {} não serve para {} números",
    r"Sizes of tensors must match|equal size|inconsistent tensor size": "os tensores que se juntam "
    "têm tamanhos diferentes. Imprima o .shape de cada um",
    r"Dimension out of range|too many indices|dimension specified as": "a conta pede um eixo que o tensor não tem. "
    "Imprima o .shape dele",
    r"expected (?:m1 and m2|scalar type|both)|same dtype|can't be cast": "os números dos tensores são de tipos "
    "diferentes, como inteiros e reais. Imprima o .dtype de cada um",
    r"(min|max)\(\) (?:arg is an empty|iterable argument is empty)": "{} recebeu uma lista vazia: não sobrou nada para "
    "escolher. O que responder nesse caso, ou quem saiu da lista sem dever",
    r"Boolean value of Tensor|truth value of an array": "um if recebeu vários números de uma vez, e precisa de um só",
    r"only (?:one element|integer)|elements cannot be converted|only 0-dimensional|only length-1": "vários números "
    "estão onde cabe um só",
    r"must be Tensor, not (\w+)": "uma função de torch esperava um tensor e recebeu um {}",
    r"out of (?:range|bounds)": "um índice passou do fim",
    r"division by zero": "há uma divisão por zero",
    r"math domain error|range 0.0 < p < 1.0": "uma função recebeu um número que ela não aceita, como a raiz de um "
    "negativo ou o quantil de 0 ou de 1, que é infinito",
    r"name '(\w+)' is not defined": "o nome {} não existe: falta um import, ou ele se escreve de outro jeito",
    r"variable '(\w+)'": "a variável {} foi usada antes de receber um valor",
    r"No module named '([\w.]+)'": "não há um módulo {}",
    r"'?([\w.]+)'? (?:object )?has no attribute '(\w+)'": "{} não tem .{}",
    r"unsupported operand type\(s\) for (.+?): '([\w.]+)' and '([\w.]+)'": "a conta {} não se faz entre {} e {}",
    r"'([\w.]+)' object is not callable": "há parênteses depois de algo que não é função, e sim {}",
    r"'([\w.]+)' object is not (?:iterable|subscriptable)|an iterable, not (\w+)": "um {} foi usado como se "
    "tivesse vários valores dentro",
    r"(?:not enough|too many) values to unpack": "há mais nomes do que valores antes do =, ou menos",
    r"(\w+)>?\(\) (?:missing|takes|got)": "{} foi chamada com argumentos que ela não aceita",
    r"maximum recursion depth": "a função chama a si mesma sem parar",
}

KINDS: dict[type[Exception], str] = {  # dos outros
    TypeError: "uma conta recebeu um valor de um tipo que ela não aceita",
    ValueError: "uma conta recebeu um valor que ela não aceita",
    LookupError: "um índice ou uma chave não existe",
    NameError: "um nome não existe",
    AttributeError: "falta um atributo",
    ArithmeticError: "um número passou do limite",
    RuntimeError: "torch recusou uma conta",
}

_attempts: Counter[str] = Counter()


class Wrong(Exception):
    """Resposta errada; `hints`: da mais curta à mais explícita, uma por tentativa."""

    def __init__(self, *hints: str):
        super().__init__(hints[0])
        self.hints = hints


class Unanswered(Exception):
    """A função que o exercício pede ainda devolve `...`."""


def verifica(exercise: str, answer: object) -> None:
    """Confere a resposta de um exercício, como em verifica("00.1", resposta), e imprime ✓ ou ✗ com uma dica.

    Nunca levanta exceção, a não ser que FTCOURSE_RIGOR=1 (é como os testes do curso rodam): aí AssertionError.
    """
    right, text = judge(exercise, answer)
    say(f"{'✓' if right else '✗' if right is False else '·'} {exercise}: {text}")
    if os.environ.get("FTCOURSE_RIGOR") == "1" and not right:
        raise AssertionError(f"{exercise}: {text}")


# ---------------------------------------------------------------- o que o aluno respondeu


def number(answer: object, what: str = "a resposta") -> float:
    """O número que uma resposta é, de Python, numpy ou torch. Levanta Wrong se não é um; "0.8", um texto, não é."""
    if (value := scalar(answer)) is None:
        raise Wrong(f"{what} é um número, e veio {kind(answer)}.")
    return value


def numbers(answer: object, names: Sequence[str], otherwise: str) -> tuple[float, ...]:
    """Os números de uma resposta com vários, uma tupla, lista ou vetor. otherwise: a dica se não vieram tantos."""
    if hasattr(answer, "tolist"):  # um vetor
        answer = answer.tolist()
    if not isinstance(answer, (tuple, list)) or len(answer) != len(names):
        raise Wrong(otherwise)
    return tuple(map(number, answer, names))


def tensor(answer: object, shape: Sequence[int], layout: str = "") -> "torch.Tensor":
    """O tensor que uma resposta é, em float32. Levanta Wrong se não é um, ou não tem a forma. layout: o que ela diz."""
    import torch

    if not isinstance(answer, torch.Tensor):
        raise Wrong(f"a resposta é um tensor de torch, e veio {kind(answer)}.")
    if answer.is_complex() or answer.dtype == torch.bool or answer.dtype.itemsize == 2:
        raise Wrong(f"a resposta veio em {answer.dtype}, e esta conta se devolve em torch.float32.")
    if answer.shape != torch.Size(shape):
        raise Wrong(f"a resposta tem a forma {tuple(answer.shape)}, e devia ter {tuple(shape)}{layout}.")
    if not answer.isfinite().all():
        raise Wrong("há um infinito ou um nan na resposta: alguma conta dividiu por zero ou passou do limite.")
    return answer.detach().float()


def returned(function: Callable, *arguments: object) -> Any:
    """O que a função do aluno devolve.

    Levanta Wrong se não é uma função, se não aceita os argumentos do exercício, se para num erro, que fica em
    `__cause__`, se muda algum argumento ou nada devolve; Unanswered se devolve `...`.
    """
    if not callable(function):
        raise Wrong("responda com a função, sem parênteses: verifica(número, função).")
    with suppress(ValueError):  # de uma função escrita em C não se sabe
        signature = inspect.signature(function)
        try:
            signature.bind(*arguments)
        except TypeError:
            raise Wrong(
                f"a sua função recebe {', '.join(signature.parameters) or 'nada'}, e o exercício lhe passa "
                f"{len(arguments)} {'valores' if len(arguments) > 1 else 'valor'}, sem nome."
            ) from None
    before = copy.deepcopy(arguments)
    try:
        value = function(*arguments)
    except Exception as error:
        raise Wrong(f"a sua função parou num erro{described(function, before)}: {explained(error)}.") from error
    if not all(map(same, arguments, before)):
        raise Wrong("a sua função mudou o que recebeu: faça a conta num valor novo e devolva-o.")
    if value is ... or (isinstance(value, (tuple, list)) and any(part is ... for part in value)):
        raise Unanswered
    if value is None:
        raise Wrong("a sua função não devolveu nada: falta o return.")
    return value


def called(function: Callable, *arguments: object) -> float:
    """O número que a função do aluno devolve. Ver `returned` e `number`."""
    value = number(returned(function, *arguments), "o que a função devolve")
    if not math.isfinite(value):
        raise Wrong(f"a sua função devolveu {value}{described(function, arguments)}: alguma conta passou do limite.")
    return value


def same(one: Any, other: Any) -> bool:
    """Se dois argumentos são iguais, também tensores, vetores e o que há em listas e dicionários."""
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if hasattr(one, "shape") and hasattr(other, "shape"):
        return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())
    return type(one).__eq__ is object.__eq__ or bool(one == other)  # um modelo, por exemplo, só é igual a si mesmo


# ---------------------------------------------------------------- que engano é


near = partial(math.isclose, rel_tol=1e-4, abs_tol=1e-9)
equal = partial(math.isclose, rel_tol=1e-7)  # uma contagem, também a de quem a fez em float32


def compare(
    function: Callable,
    cases: Sequence[tuple],
    right: Callable,
    mistakes: Mapping[str, Callable],
    hint: str,
    value: Callable = called,
    same: Callable[..., bool] = near,
    differs: Callable[..., str] | None = None,
) -> None:
    """Levanta Wrong se a função do aluno não dá o mesmo que `right` em todos os casos.

    mistakes: {dica: a função de quem se engana assim}. Um engano só se nomeia se ele, e mais nenhum, dá o que a do
    aluno deu em todos os casos: num só, dois enganos podem coincidir. De outro engano se diz que não se sabe qual é, e
    onde olhar: o caso, o número que veio e hint; ou differs(caso, o que veio, o certo) e, na segunda vez, hint.
    value: como se tira a resposta da função; same: se duas são iguais.
    """
    given = [value(function, *case) for case in cases]
    expected = [right(*case) for case in cases]
    missed = [i for i in range(len(cases)) if not same(given[i], expected[i])]
    if not missed:
        return

    def gives(answers: Sequence) -> bool:
        return all(map(same, given, answers))

    fits = [text for text, wrong in mistakes.items() if gives([wrong(*case) for case in cases])]
    if len(fits) == 1:
        raise Wrong(*fits)
    if isinstance(given[0], (float, tuple)) and len(set(given)) == 1:
        raise Wrong(CONSTANT)
    if isinstance(given[0], float) and (
        gives([*map(math.trunc, expected)])
        or gives([*map(math.ceil, expected)])
        or any(gives([round(e, k) for e in expected]) for k in range(5))
    ):
        raise Wrong(ROUNDED)
    i = missed[0]
    where = (
        differs(cases[i], given[i], expected[i]) if differs else f"veio {shown(given[i])}{described(right, cases[i])}."
    )
    said = f"{UNKNOWN} {where[0].upper()}{where[1:]}"
    if len(missed) < len(cases):
        well = next(k for k in range(len(cases)) if k not in missed)
        said += f" Está certa{described(right, cases[well])[1:]}: o que muda de um caso para o outro?"
    raise Wrong(said, hint) if differs else Wrong(f"{said} {hint[0].upper()}{hint[1:]}")


# ---------------------------------------------------------------- como se diz


def explained(error: Exception) -> str:
    """Um erro de Python ou de torch, numa frase em português, sem o ponto."""
    said = " ".join(str(error).split())
    if isinstance(error, KeyError):
        return f"a chave {said} não existe"
    for pattern, sentence in ERRORS.items():
        if found := re.search(pattern, said):
            return sentence.format(*filter(None, found.groups()))
    kind = next((text for name, text in KINDS.items() if isinstance(error, name)), "um erro que não sei traduzir")
    return f"{kind} ({type(error).__name__}). Chame-a numa célula, e o Python mostra a linha em que parou"


def described(function: Callable, arguments: Sequence[object]) -> str:
    """Os argumentos com o nome que a função lhes dá, como em ", com d = 256 e d_ff = 1.024"."""
    try:
        names = inspect.signature(function).bind(*arguments).arguments
    except (TypeError, ValueError):
        return ""
    *first, last = (f"{name} = {shown(value)}" for name, value in names.items())
    return f", com {', '.join(first)} e {last}" if first else f", com {last}"


def shown(value: Any) -> str:
    """Um argumento ou uma resposta, num pedaço que se lê: de um tensor, a forma."""
    if isinstance(value, tuple):
        return f"({', '.join(map(shown, value))})"
    if (plain := scalar(value)) is not None:
        whole = math.isfinite(plain) and plain == int(plain)
        return written(plain) if whole else f"{plain:.6g}".replace(".", ",").replace("-", "−")
    if shape := getattr(value, "shape", None):
        return f"tensor de forma {tuple(shape)}"
    return shortened(value)


def kind(answer: Any) -> str:
    """O que veio no lugar do que se pedia: o tipo, e o valor se é curto."""
    if shape := getattr(answer, "shape", None):
        return f"um {type(answer).__name__} de forma {tuple(shape)}"
    if isinstance(answer, str):
        quoted = re.fullmatch(r"\s*[-+]?[\d.,]+(e[-+]?\d+)?\s*", answer)
        return f"{shortened(answer)}, um texto{': um número não leva aspas' if quoted else ''}"
    return f"{shortened(answer)}, do tipo {type(answer).__name__}"


def shortened(answer: object) -> str:
    """A resposta como se escreve, num pedaço que se lê."""
    text = " ".join(repr(answer).split())
    return text if len(text) <= 60 else f"{text[:57]}…"


def judge(exercise: str, answer: object) -> tuple[bool | None, str]:
    """(True, False ou None se ainda não há resposta; a frase que o aluno lê)."""
    notebook, _, number = str(exercise).partition(".")
    try:
        check = getattr(importlib.import_module(f"ftcourse.exercises.nb{notebook}"), f"exercise_{number}")
    except (ImportError, AttributeError):
        return (
            False,
            f"não conheço esse exercício. Os nomes são como 00.1: o caderno, um ponto e o número. Veio {exercise!r}.",
        )
    try:
        if answer is ... or (isinstance(answer, (tuple, list)) and any(part is ... for part in answer)):
            raise Unanswered
        return True, check(answer)
    except Unanswered:
        return None, "ainda sem resposta. Troque os ... e rode a célula de novo."
    except Wrong as wrong:
        hint = wrong.hints[min(_attempts[exercise], len(wrong.hints) - 1)]
        _attempts[exercise] += 1
        return False, hint
    except Exception as error:  # a resposta é do aluno: o erro dela vira dica, não derruba o caderno
        return False, f"a sua resposta levou a um erro: {explained(error)}."
