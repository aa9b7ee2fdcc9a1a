"""Escrever em qualquer console: o que ele não tem, como ✓ no cp1252 de uma saída redirecionada do Windows, se troca
pelo que mais se parece, e nunca vira uma exceção.
"""

import codecs
import sys
import unicodedata

PLAIN = {
    "✓": "[certo]", "✗": "[errado]", "·": "-", "→": "->", "−": "-", "–": "-", "—": "-", "“": '"', "”": '"', "‘": "'",
    "’": "'", "«": '"', "»": '"', "×": "x", "€": "EUR", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "α": "alfa",
    "Δ": "delta", "δ": "delta", "σ": "sigma", "∂": "d", "½": "1/2",
}  # fmt: skip


def plain(letter: str) -> str:
    """O que se escreve, em ASCII, no lugar de uma letra ou sinal: sem o acento, por extenso, ou "?"."""
    bare = "".join(part for part in unicodedata.normalize("NFKD", letter) if part.isascii())
    return PLAIN.get(letter) or bare or "?"


def replace(error: UnicodeError) -> tuple[str, int]:
    """O tratamento de erros "legivel", nos termos do módulo codecs."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(plain, error.object[error.start : error.end])), error.end


codecs.register_error("legivel", replace)


def writable(text: str) -> str:
    """O texto com o que a saída não sabe escrever trocado pelo que mais se parece."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "legivel").decode(encoding)


def say(text: str) -> None:
    """Imprime um texto como a saída o sabe escrever."""
    print(writable(text))


def never_raise() -> None:
    """O mesmo para tudo que este processo escrever, também o que argparse escreve: só para um programa inteiro."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="legivel")
