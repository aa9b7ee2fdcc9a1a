"""Números em português: a vírgula decimal e o ponto dos milhares, num texto, numa tabela e num eixo.

formats.number(0.6312)                  # "0,631"
formats.number(21238156)                # "21.238.156"
formats.table(frame, digits=3, names={"variant": "técnica"})
"""

import math
from collections.abc import Mapping
from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

SWAP = str.maketrans(",.", ".,")


def scalar(value: Any) -> float | None:
    """O número que um valor é, de Python, numpy ou torch (também um vetor de um só); None se não é um.

    Um texto como "0.8" não é um número, nem True.
    """
    if hasattr(value, "item"):
        try:
            value = value.item()
        except (TypeError, ValueError, RuntimeError):  # mais de um
            return None
    if isinstance(value, bool) or not isinstance(value, (Real, Decimal)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def number(value: float, digits: int | None = None) -> str:
    """Um número como se escreve em português. digits: as casas depois da vírgula; sem elas, três algarismos."""
    value = float(value)
    if not math.isfinite(value):
        return "não é um número" if math.isnan(value) else "infinito"
    if digits is None:
        digits = 0 if value == int(value) else max(0, 2 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{digits}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        text = f"{value:,.{digits}f}"
    return text.translate(SWAP).replace("-", "−")


def table(
    frame: "pd.DataFrame", digits: int | Mapping[str, int] | None = None, names: Mapping[str, str] | None = None
) -> "pd.DataFrame":
    """A tabela para mostrar: números com vírgula e milhares, nomes de colunas e linhas em português.

    digits: as casas de todas as colunas, ou as de cada uma. names: {nome no código: nome que se mostra}, das colunas,
    das linhas e dos nomes dos eixos. O que não é número fica como está.
    """

    def written(value: Any, column: Any) -> Any:
        if isinstance(value, str) or (plain := scalar(value)) is None:
            return value
        if math.isnan(plain):
            return ""
        return number(plain, digits.get(column) if isinstance(digits, Mapping) else digits)

    shown = frame.apply(lambda column: column.map(lambda value: written(value, column.name)))
    names = dict(names or {})
    shown = shown.rename(columns=names, index=names)
    return shown.rename_axis(index=names, columns=names)
