"""As verificações dos exercícios: um arquivo por caderno (`nb00.py`, …), uma função por exercício (`exercise_1`, …).

A função recebe a resposta e devolve a frase de acerto; se a resposta está errada, levanta `Wrong` com uma dica que
nomeia o engano, seguida, se houver, de dicas que só aparecem nas tentativas seguintes.
"""

import copy
import importlib
import inspect
import os
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from ftcourse.console import say
from ftcourse.formats import scalar

UNKNOWN = "não sei que engano é este."  # o que se diz de um valor que nenhum engano conhecido dá; nunca a solução

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


def number(answer: object, what: str = "a resposta") -> float:
    """O número que uma resposta é, de Python, numpy ou torch. Levanta Wrong se não é um; "0.8", um texto, não é."""
    if (value := scalar(answer)) is None:
        raise Wrong(f"{what} é um número, e veio {shortened(answer)}.")
    return value


def returned(function: Callable, *arguments: object) -> Any:
    """O que a função do aluno devolve.

    Levanta Wrong se não é uma função, se não aceita os argumentos do exercício, se muda algum deles ou nada devolve;
    Unanswered se devolve `...`.
    """
    if not callable(function):
        raise Wrong("responda com a função, sem parênteses: verifica(número, função).")
    with suppress(ValueError):  # de uma função escrita em C não se sabe
        try:
            inspect.signature(function).bind(*arguments)
        except TypeError:
            raise Wrong(
                f"a sua função recebe {parameters(function)}, e o exercício lhe passa {len(arguments)} "
                f"{'valores' if len(arguments) > 1 else 'valor'}, sem nome."
            ) from None
    before = copy.deepcopy(arguments)
    value = function(*arguments)
    if not all(map(same, arguments, before)):
        raise Wrong("a sua função mudou o que recebeu: faça a conta num valor novo e devolva-o.")
    if value is ...:
        raise Unanswered
    if value is None:
        raise Wrong("a sua função não devolveu nada: falta o return.")
    return value


def called(function: Callable, *arguments: object) -> float:
    """O número que a função do aluno devolve. Ver `returned` e `number`."""
    return number(returned(function, *arguments), "o que a função devolve")


def parameters(function: Callable) -> str:
    names = [*inspect.signature(function).parameters]
    return ", ".join(names) if names else "nada"


def same(one: Any, other: Any) -> bool:
    """Se dois argumentos são iguais, também tensores, vetores e o que há em listas e dicionários."""
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if hasattr(one, "shape") and hasattr(other, "shape"):
        return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())
    return type(one).__eq__ is object.__eq__ or bool(one == other)  # um modelo, por exemplo, só é igual a si mesmo


def shortened(answer: object) -> str:
    """A resposta como se escreve, num pedaço que se lê."""
    text = " ".join(repr(answer).split())
    return text if len(text) <= 60 else f"{text[:57]}…"


def recognise(given: object, mistakes: Mapping[str, object], same: Callable[..., bool]) -> None:
    """Levanta Wrong com a dica do engano que dá a mesma resposta. mistakes: {dica: resposta}; same: a comparação."""
    for hint, answer in mistakes.items():
        if same(given, answer):
            raise Wrong(hint)


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
    except Exception as error:  # a resposta é código do aluno: o erro dele vira dica, não derruba o caderno
        return False, f"a sua resposta levantou {type(error).__name__}: {error}"
