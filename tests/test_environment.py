"""De que código saiu uma medida: o commit deste repositório, e não de outro, e se havia o que gravar."""

import shutil
import subprocess

import pytest
from toys import load_script

from ftcourse import environment

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="sem git")


def git(folder, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@a"]
    return subprocess.run(["git", "-C", folder, *who, *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def clone(tmp_path):
    """Um clone de brinquedo, com um commit, e a função code() do environment.py dele."""
    root = tmp_path / "curso"
    for name in ("ftcourse/a.py", "data/modelos/pesos.bin", "data/resultados/a.jsonl", "README.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("1", "utf-8")
    shutil.copy(environment.__file__, root / "ftcourse" / "environment.py")
    git(tmp_path, "init", "-q", str(root))
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "um")
    return root, load_script(root / "ftcourse" / "environment.py").code


@pytest.mark.parametrize("changed", ["ftcourse/a.py", "data/modelos/pesos.bin", "ftcourse/novo.py", "data/novo.csv"])
def test_a_change_in_the_code_or_in_the_data_is_said(clone, changed):
    root, code = clone
    assert code() == {"commit": git(root, "rev-parse", "--short=12", "HEAD").strip(), "clean": True}
    (root / changed).write_text("2", "utf-8")
    assert code()["clean"] is False
    git(root, "add", ".")
    assert code()["clean"] is False


@pytest.mark.parametrize("changed", ["data/resultados/a.jsonl", "data/resultados/novo.jsonl", "README.md"])
def test_what_the_bench_itself_writes_does_not_count(clone, changed):
    root, code = clone
    (root / changed).write_text("2", "utf-8")
    assert code()["clean"] is True


def test_inside_the_repository_of_another_project_there_is_no_commit(clone, tmp_path):
    root, _ = clone
    other = tmp_path / "outro"
    installed = other / ".venv" / "site-packages"
    shutil.copytree(root / "ftcourse", installed / "ftcourse")
    nothing = {"commit": None, "clean": None}
    assert load_script(installed / "ftcourse" / "environment.py").code() == nothing
    git(tmp_path, "init", "-q", str(other))
    git(other, "add", "-f", ".")
    git(other, "commit", "-q", "-m", "um")
    assert load_script(installed / "ftcourse" / "environment.py").code() == nothing
