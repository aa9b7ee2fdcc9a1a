"""A linha de comando: a cópia do aluno nunca passa por cima do que ele escreveu."""

import json
import os
import subprocess
import sys

import pytest

from ftcourse import cli


def test_the_students_copy_is_never_overwritten(tmp_path, capsys):
    folder = tmp_path / "meus"
    cli.student(folder)
    first = folder / "00_comece_aqui.ipynb"
    copied, published = (
        json.loads(p.read_text("utf-8")) for p in (first, cli.PACKAGE.parent / "notebooks" / first.name)
    )
    assert [cell["source"] for cell in copied["cells"]] == [cell["source"] for cell in published["cells"]]
    assert any(cell.get("outputs") for cell in published["cells"])  # os do repositório ficam executados
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in copied["cells"])
    first.write_text("o que eu escrevi")
    cli.student(folder)
    assert first.read_text() == "o que eu escrevi"
    there = len(list(folder.iterdir()))
    assert there >= 2 and f"ficaram como estão: {there}." in capsys.readouterr().out


def test_starting_over_is_deleting_the_file(tmp_path):
    cli.student(tmp_path)
    first = tmp_path / "00_comece_aqui.ipynb"
    first.unlink()
    cli.student(tmp_path)
    assert first.exists()


def test_outside_a_clone_it_says_where_the_notebooks_come_from(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "PACKAGE", tmp_path / "ftcourse")
    with pytest.raises(FileNotFoundError, match="clone o repositório"):
        cli.student(tmp_path / "meus")


def test_a_folder_that_cannot_be_made_ends_in_a_sentence(tmp_path):
    (tmp_path / "arquivo").write_text("")
    command = [sys.executable, "-m", "ftcourse.cli", "aluno", str(tmp_path / "arquivo" / "meus")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr and "arquivo" in ended.stderr


@pytest.mark.parametrize(("text", "value"), [("0.5", 0.5), ("(1, 2)", (1, 2)), ("dois", "dois"), ("1 +", "1 +")])
def test_an_answer_is_a_python_value_or_the_text_itself(text, value):
    assert cli.answer(text) == value


# ---------------------------------------------------------------- em qualquer console


CONSOLES = ["cp1252", "ascii", "latin-1", "utf-8"]


def run(console, *arguments):
    """O que um Python escreve, e como termina, numa saída redirecionada com esta codificação."""
    clean = os.environ | {"PYTHONIOENCODING": console, "PYTHONUTF8": "0", "FTCOURSE_RIGOR": "0", "FTCOURSE_PERFIL": ""}
    ended = subprocess.run([sys.executable, *arguments], capture_output=True, env=clean, timeout=120)
    assert b"Traceback" not in ended.stderr, ended.stderr.decode(console)
    return ended.stdout.decode(console), ended.stderr.decode(console), ended.returncode


@pytest.mark.parametrize("console", CONSOLES)
def test_an_exercise_is_checked_in_any_console(console):
    code = """if True:
        from ftcourse import verifica
        verifica("00.1", "✓ 日本 \\ud83d")
        verifica("00.1", ...)
        verifica("não existe", 1)
    """
    wrong, waiting, unknown = run(console, "-c", code)[0].splitlines()
    sign = "✗" if console == "utf-8" else "[errado]"
    assert wrong.startswith(f"{sign} 00.1: ")
    assert waiting.startswith(("·", "-")) and "ainda sem resposta" in waiting
    word = "nao conheco esse exercicio" if console == "ascii" else "não conheço esse exercício"
    assert unknown.startswith(sign) and word in unknown


@pytest.mark.parametrize("console", ["cp1252", "ascii"])
@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--help"], "copia os cadernos"),
        (["verifica", "00.1", "'→'"], "[errado] 00.1"),
        (["ambiente"], "VEREDITO: tudo"),
    ],
    ids=["ajuda", "verifica", "ambiente"],
)
def test_the_commands_speak_in_any_console(console, arguments, words):
    out, _, code = run(console, "-m", "ftcourse.cli", *arguments)
    assert words in out and not code


def test_an_error_is_legible_in_any_console(tmp_path):
    (tmp_path / "arquivo").write_text("")
    _, said, code = run("ascii", "-m", "ftcourse.cli", "aluno", str(tmp_path / "arquivo" / "meus"))
    assert code and "Nao consegui gravar" in said


def test_what_is_printed_instead_is_what_looks_most_like_it():
    written = "✓ ✗ não → “é” — ½ × 日 \ud83d".encode("ascii", "legivel").decode()
    assert written == '[certo] [errado] nao -> "e" - 1/2 x ? ?'
