"""As verificações dos exercícios: um arquivo por caderno (`nb00.py`, …), uma função por exercício (`exercise_1`, …).

A função recebe a resposta e devolve a frase de acerto; se a resposta está errada, levanta `Wrong` com uma dica que
nomeia o engano, seguida, se houver, de dicas que só aparecem nas tentativas seguintes.
"""

import importlib
import os
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from ftcourse.console import say

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


def returned(function: Callable, *arguments: object) -> Any:
    """O que a função do aluno devolve. Levanta Wrong se não é uma função ou nada devolve, Unanswered se é `...`."""
    if not callable(function):
        raise Wrong("responda com a função, sem parênteses: verifica(número, função).")
    value = function(*arguments)
    if value is ...:
        raise Unanswered
    if value is None:
        raise Wrong("a sua função não devolveu nada: falta o return.")
    return value


def called(function: Callable, *arguments: object) -> float:
    """O número que a função do aluno devolve; um tensor ou um vetor de um número só também serve. Ver `returned`."""
    value = returned(function, *arguments)
    try:
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError):  # um tensor de vários números levanta RuntimeError
        raise Wrong(f"a sua função devolveu {value!r}, e o exercício pede um número.") from None


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
