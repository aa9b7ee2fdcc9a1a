"""O texto que vem de fora: em que codificação está, o que nele se quebrou e quando dois são o mesmo.

text = user_text.decode(path, "utf-8")     # ou a frase com a linha e a codificação que o arquivo parece ter
user_text.flaw("nÃ£o")                     # "'Ã£' é 'ã', em UTF-8 lido como se fosse cp1252"
user_text.tidy("na\u0303o\u200b") == user_text.tidy("n\u00e3o")
"""

import codecs
import re
import unicodedata
from pathlib import Path

BOMS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
        codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip
PAGES = ("cp1252", "mac_roman", "cp850")  # Excel no Windows, Excel no Mac, o console do Windows
WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
ACCENTED = "áàâãéêíóôõúüç"
FAMILIAR = {*map(chr, range(32, 127)), *"\t\r\n", *ACCENTED, *ACCENTED.upper(), *"ªº°“”‘’–—…•€"}
BREAK = re.compile(rb"\r\n|\r|\n")

# Cada byte de continuação de UTF-8 (80 a BF), como latin-1 e cp1252 o mostram.
SHOWN = {chr(byte): byte for byte in range(0x80, 0xC0)}
SHOWN |= {shown: byte for byte in range(0x80, 0xA0) if (shown := bytes([byte]).decode("cp1252", "ignore"))}
MISREAD = re.compile(
    "[\u00c2-\u00df][{0}]|[\u00e0-\u00ef][{0}]{{2}}|[\u00f0-\u00f4][{0}]{{3}}".format(re.escape("".join(SHOWN)))
)
CLOSING, GLUED, MARKS = "”’›»•", "…–—·\xa0", "¹²³ªº°®©™"  # o que vem logo depois de uma palavra, no texto certo
OPENING = "“‘«‹\"'([{"
# Os que Unicode chama Default_Ignorable (espaço de largura zero, hífen opcional…), os de controle e o braile vazio.
INVISIBLE = re.compile(
    "[\x01-\x08\x0e-\x1b\x7f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


# ---------------------------------------------------------------- a codificação


def decode(path: Path, encoding: str) -> str:
    """O texto de um arquivo, sem a marca de ordem dos bytes (BOM).

    Levanta ValueError com a primeira linha que não está na codificação esperada, e a que o arquivo parece ter.
    """
    content = path.read_bytes()
    try:
        known = codecs.lookup(encoding).name.removesuffix("-sig")
        text = content.decode(known)
    except (LookupError, TypeError) as error:
        raise ValueError(
            f"Não conheço a codificação {encoding!r}. As comuns são 'utf-8' e 'cp1252', a do Excel no Windows."
        ) from error
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        raise ValueError(
            f"{path}, linha {line_of(content, start)}: o byte {content[start]:#04x} não é {encoding}. "
            + way_out(content, known)
        ) from error
    text = text.replace("\ufeff", "")
    wrong = text.find("\0")
    if wrong < 0 and known != "utf-8" and (likely := guess(content)) != known:
        if likely == "utf-8":
            right = content.decode().replace("\ufeff", "")
            wrong = next((i for i, (one, other) in enumerate(zip(text, right)) if one != other), -1)
        elif control := re.search("[\x80-\x9f]", text):
            wrong = control.start()
    if wrong >= 0:
        line, near = line_of(text[:wrong].encode("utf-8", "replace")), text[max(0, wrong - 2) : wrong + 3]
        raise ValueError(f"{path}, linha {line}: lido como {encoding}, sai {near!r}. {way_out(content, known)}")
    return text


def line_of(content: bytes, position: int | None = None) -> int:
    return len(BREAK.findall(content[:position])) + 1


def way_out(content: bytes, known: str) -> str:
    """O que fazer com um arquivo que não está na codificação que se disse."""
    likely = guess(content)
    if likely is None:
        return "O arquivo tem bytes nulos: estragou-se, ou não é texto. Se é uma planilha, grave-a em CSV UTF-8."
    if likely == known:
        return "O arquivo se estragou ali, ou foi cortado: copie-o outra vez de onde veio."
    if likely == "utf-8":
        return 'O arquivo é UTF-8: tire encoding=, ou passe encoding="utf-8".'
    shown = content.decode("utf-8", "replace")
    lost = shown.count("\ufffd")
    if likely in PAGES and sum(letter > "\x7f" for letter in shown) - lost > lost:
        return (
            "O resto do arquivo é UTF-8: esta linha foi gravada em outra codificação, ou cortada no meio de uma letra. "
            "Corrija-a num editor e grave o arquivo inteiro em UTF-8."
        )
    return f'O arquivo parece {likely}: passe encoding="{likely}", ou grave-o em UTF-8.'


def guess(content: bytes) -> str | None:
    """A codificação que um arquivo em português parece ter; None se não parece texto."""
    if marked := next((name for mark, name in BOMS.items() if content.startswith(mark)), None):
        return marked
    if b"\0" not in content:
        try:
            content.decode()
            return "utf-8"
        except UnicodeDecodeError:
            return max(PAGES, key=lambda name: familiar(content, name))
    best = max(WIDE, key=lambda name: familiar(content, name))
    return best if familiar(content, best) > 0.9 else None


def familiar(content: bytes, encoding: str) -> float:
    """A fração de letras e sinais do português no começo de um arquivo lido com uma codificação."""
    text = content[: 1 << 20].decode(encoding, "replace")
    return sum(letter in FAMILIAR for letter in text) / max(1, len(text))


# ---------------------------------------------------------------- o que se quebrou


def flaw(text: str) -> str | None:
    """O que se quebrou num texto antes de ele chegar, numa frase; None se nada se vê."""
    if "\ufffd" in text:
        return "tem '\ufffd', o sinal de que uma letra se perdeu numa conversão"
    if found := re.search("[\ud800-\udfff]", text):
        return f"tem {found[0]!r}, que é meio caractere"
    for found in MISREAD.finditer(text):
        try:
            letter = bytes([ord(found[0][0]), *(SHOWN[shown] for shown in found[0][1:])]).decode()
        except UnicodeDecodeError:
            continue
        if unicodedata.category(letter) != "Cn" and not follows_a_word(text, *found.span()):
            return f"{found[0]!r} é {letter!r}, em UTF-8 lido como se fosse cp1252"
    if found := re.search("[\0\x80-\x9f]", text):
        return f"tem {found[0]!r}, um caractere de controle: era outra letra, em cp1252 lido como se fosse latin-1"
    return None


def follows_a_word(text: str, start: int, end: int) -> bool:
    """Se o trecho pode estar certo: a última letra de uma palavra e o sinal que a segue, como em “MAÇÔ e “você…”."""
    lead, signs, after = text[start], text[start + 1 : end], text[end : end + 1]
    if lead not in "ÂÃ":
        return all(sign in CLOSING + GLUED + MARKS for sign in signs)
    word = re.search(r"[^\W\d_]*\Z", text[max(0, start - 30) : start])[0]  # type: ignore[index]
    if word and not word.isupper():
        return False
    if signs == "\xad":
        return bool(word) and after.isupper()
    if signs in MARKS:
        return lead == "Ã" and len(word) > 1 and not after.isalpha()
    if lead == "Â" and signs >= "\xa0" and signs in "»·\xa0":  # nenhuma palavra termina em Â
        word = ""
    quoted = text[max(0, start - 1) : start] in tuple(OPENING)
    return (bool(word) and signs in GLUED) or ((bool(word) or quoted) and signs in CLOSING and not after.isalpha())


# ---------------------------------------------------------------- quando dois são o mesmo


def tidy(text: str) -> str:
    """O texto sem o que não muda a leitura: espaços a mais, o que não se vê e as duas escritas de um acento."""
    return " ".join(unicodedata.normalize("NFC", INVISIBLE.sub("", text)).split())
