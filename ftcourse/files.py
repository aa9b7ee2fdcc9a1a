"""Arquivos do curso: onde ficam os dados, como gravar sem deixar nada pela metade, como conferir o que foi lido."""

import difflib
import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

PACKAGE = Path(__file__).parent
DATA = next(p for p in (PACKAGE.parent / "data", PACKAGE / "data") if (p / "modelos").is_dir())  # no clone, na wheel

Name = TypeVar("Name")

WAY_OUT = {
    errno.ENOSPC: "o disco está cheio. Libere espaço ou escolha uma pasta em outro disco",
    errno.EDQUOT: "sua cota de disco acabou. Libere espaço ou escolha outra pasta",
    errno.EFBIG: "o arquivo passa do tamanho permitido. Escolha uma pasta em outro disco",
    errno.EROFS: "a pasta só permite leitura. Escolha outra, como ~/minhas-execucoes",
    errno.EACCES: "você não tem permissão de escrita na pasta. Escolha outra, como ~/minhas-execucoes",
    errno.EEXIST: "uma parte do caminho é um arquivo, não uma pasta. Confira o caminho",
    errno.ENOTDIR: "uma parte do caminho é um arquivo, não uma pasta. Confira o caminho",
}


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Abre um arquivo binário provisório e, só depois de tudo gravado, o põe no lugar de `path`.

    Quem ler `path` a qualquer momento, mesmo depois de uma queda de energia, encontra a versão antiga inteira ou a
    nova inteira. Levanta OSError, com o motivo e a saída em português, se a gravação falhar; `path` fica como estava.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.parcial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        reason = WAY_OUT.get(error.errno or 0, f"{error.strerror or error}. Confira o caminho ou escolha outra pasta")
        raise OSError(error.errno, f"Não consegui gravar {path}: {reason}. Nada foi alterado") from error
    finally:
        try:
            partial.unlink(missing_ok=True)
        except OSError:  # a pasta que não aceitou a gravação também pode não aceitar a limpeza
            pass


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> None:
    """Grava dicionários em JSON Lines, um por linha, o arquivo inteiro ou nada."""
    with atomic_write(path) as file:
        file.writelines((json.dumps(row, ensure_ascii=False) + "\n").encode() for row in rows)


def sha256(path: str | Path) -> str:
    """O resumo sha256 de um arquivo, em hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sums(folder: Path) -> None:
    """Confere todos os arquivos de uma pasta com o sha256 publicado nela, em `sha256sums.txt`.

    Levanta FileNotFoundError se falta algum e OSError se algum foi truncado ou alterado.
    """
    restore = f"Recupere a pasta com git checkout -- data/modelos/{folder.name} ou reinstale o ftcourse"
    sums = folder / "sha256sums.txt"
    if not sums.exists():
        raise FileNotFoundError(f"Não encontrei {sums}, a lista dos arquivos do modelo. {restore}.")
    listed = [line.split() for line in sums.read_text(encoding="utf-8").splitlines()]
    if any(len(entry) != 2 for entry in listed) or "model.safetensors" not in [name for _, name in listed]:
        raise OSError(f"{sums} está diferente do publicado: foi cortado ou alterado. {restore}.")
    for published, name in listed:
        if not (folder / name).exists():
            raise FileNotFoundError(f"Em {folder} falta {name}. {restore}.")
        if sha256(folder / name) != published:
            raise OSError(f"{folder / name} está diferente do publicado: foi cortado ou alterado. {restore}.")


def choose(what: str, given: Name, known: Iterable[Name]) -> Name:
    """Devolve `given` se estiver entre os nomes conhecidos; senão, ValueError com o que existe e o mais parecido."""
    known = [*known]
    if given in known:  # também o que não serve de chave, como uma lista, merece a resposta abaixo
        return given
    close = difflib.get_close_matches(str(given), map(str, known), n=1)
    hint = f" Você quis dizer {close[0]!r}?" if close else ""
    raise ValueError(f"Não conheço {what} {given!r}. Existe: {', '.join(map(repr, known))}.{hint}")
