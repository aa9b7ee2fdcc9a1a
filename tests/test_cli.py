"""A linha de comando: a cópia do aluno nunca passa por cima do que ele escreveu."""

import subprocess
import sys

import pytest

from ftcourse import cli


def test_the_students_copy_is_never_overwritten(tmp_path, capsys):
    folder = tmp_path / "meus"
    cli.student(folder)
    first = folder / "00_comece_aqui.ipynb"
    assert first.read_bytes() == (cli.PACKAGE.parent / "notebooks" / first.name).read_bytes()
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
