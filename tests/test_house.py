"""A casa: o que pyproject.toml declara vale nos outros arquivos, o make faz o que promete e a wheel leva os dados."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from ftcourse import environment

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [Requirement(line) for line in PROJECT["dependencies"]]
REQUIREMENTS = DIRECT + [Requirement(line) for extra in EXTRAS.values() for line in extra]
PINS = {
    canonicalize_name(name): version
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
    for name, version in [line.split("==")]
}

REPOSITORY = PROJECT["urls"]["Repository"].removeprefix("https://github.com/")
OTHERS = set()  # repositórios alheios que o texto pode citar, um a um: "dono/nome"
LINK = re.compile(r"(?:github\.com|colab\.research\.google\.com/github|raw\.githubusercontent\.com)/([\w.-]+/[\w.-]+)")
PAGES = ("README.md", "CONTRIBUTING.md", "CITATION.cff", ".github/workflows/ci.yml", "data/resultados/README.md")
LINKED = [ROOT / name for name in PAGES]
LINKED += sorted((ROOT / "notebooks").glob("*.ipynb"))
DOCUMENTS = [p for pattern in ("*.md", "data/**/*.md") for p in sorted(ROOT.glob(pattern))]
NAMES = {"sklearn": "scikit-learn", "yaml": "pyyaml", "IPython": "ipython"}  # o nome no import → o nome no PyPI


def text(name):
    return (ROOT / name).read_text("utf-8")


# ---------------------------------------------------------------- o que se instala


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_a_dependency_has_a_floor_no_ceiling_and_a_tested_version(requirement):
    assert [s.operator for s in requirement.specifier] == [">="]
    assert PINS[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_package_declares_what_it_imports_and_imports_what_it_declares():
    imported = set()
    for path in [*ROOT.glob("ftcourse/**/*.py"), *ROOT.glob("data/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    imported = {NAMES.get(n, n) for n in imported - set(sys.stdlib_module_names) - {"ftcourse", "google"}}
    imported -= {path.stem for path in ROOT.glob("data/modelos/*.py")}  # vizinhos de pretreina.py
    declared = {r.name for r in DIRECT}
    assert imported - declared <= {"ipython"}  # só quem está num caderno a importa
    assert declared - imported <= {"ipywidgets", "peft"}  # tqdm.auto usa a primeira; os cadernos, a segunda


def test_environment_yml_installs_the_same_thing():
    conda = yaml.safe_load(text("environment.yml"))
    python = next(d for d in conda["dependencies"] if isinstance(d, str) and d.startswith("python="))
    constraint, package = next(d["pip"] for d in conda["dependencies"] if isinstance(d, dict))
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python="))
    assert constraint == "-c constraints.txt"
    extras = re.fullmatch(r"-e \.\[(.+)\]", package)[1]
    assert set(extras.split(",")) <= EXTRAS.keys()
    assert f'-e ".[{extras}]"' in text("Makefile")  # conda, make e GitHub instalam os mesmos extras
    assert f'-e ".[{extras}]"' in text(".github/workflows/ci.yml")


def test_precommit_runs_the_ruff_that_was_tested():
    assert yaml.safe_load(text(".pre-commit-config.yaml"))["repos"][0]["rev"] == "v" + PINS["ruff"]


# ---------------------------------------------------------------- o que se lê


@pytest.mark.parametrize("path", [p for p in LINKED if p.exists()], ids=lambda p: p.name)
def test_links_to_a_repository_are_links_to_this_one(path):
    found = {name.removesuffix(".git").rstrip(".") for name in LINK.findall(path.read_text("utf-8"))}
    assert found - OTHERS <= {REPOSITORY}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_local_links_lead_somewhere(path):
    targets = re.findall(r'(?:\]\(|src="|href=")([^)"#\s]+)', path.read_text("utf-8"))
    missing = [t for t in targets if not re.match(r"[a-z]+:", t) and not (path.parent / t).exists()]
    assert not missing


def test_two_licences_and_a_citation_of_this_version():
    assert "Apache License" in text("LICENSE") and "Version 2.0" in text("LICENSE")
    assert "Creative Commons" in text("LICENSE-TEXTO") and "creativecommons.org/licenses/by/4.0" in text(
        "LICENSE-TEXTO"
    )
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["version"] == PROJECT["version"]
    assert citation["url"] == citation["repository-code"] == PROJECT["urls"]["Repository"]
    assert citation["license"] == ["Apache-2.0", "CC-BY-4.0"] and PROJECT["license"] == "Apache-2.0"


# ---------------------------------------------------------------- o make

needs_make = pytest.mark.skipif(not shutil.which("make"), reason="sem make; no Windows rodam as linhas da receita")


@pytest.fixture
def house(tmp_path):
    """Só o que o make lê, num clone que ainda não instalou nada."""
    (tmp_path / "ftcourse").mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "ftcourse/environment.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def make(folder, *arguments, **variables):
    clean = {k: v for k, v in os.environ.items() if k not in {"TORCH", "PYTHON", "CORPUS", "MAKEFLAGS", "MAKELEVEL"}}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=clean | variables, capture_output=True, encoding="utf-8", timeout=60
    )


@needs_make
def test_make_lists_every_command():
    targets = re.search(r"^\.PHONY: (.+)$", text("Makefile"), re.M)[1].split()
    assert set(targets) == set(re.findall(r"^([a-z-]+):", text("Makefile"), re.M))
    listed = make(ROOT).stdout
    assert all(re.search(rf"^  make {target} +\w", listed, re.M) for target in targets)


@needs_make
def test_make_aula_installs_copies_and_opens(house):
    recipe = make(house, "-n", "aula", "JUPYTER_ARGS=--port=9999").stdout
    steps = ["environment.py", "-m venv .venv", "-c constraints.txt", "ftcourse aluno", "--port=9999 meus-cadernos/00"]
    assert [recipe.index(step) for step in steps] == sorted(recipe.index(step) for step in steps)
    assert "pytorch.org" not in recipe
    assert "https://download.pytorch.org/whl/cpu" in make(house, "-n", "aula", "TORCH=cpu").stdout


@needs_make
@pytest.mark.parametrize(
    "arguments, words",
    [
        (["aula", "PYTHON=nao-existe"], "Não encontrei o comando nao-existe"),
        (["aula", "TORCH=tpu"], "TORCH=tpu não existe aqui"),
        (["-o", ".venv/pronto", "modelos"], "Diga onde estão os textos"),
    ],
)
def test_make_says_what_is_missing(house, arguments, words):
    result = make(house, *arguments)
    assert result.returncode and words in result.stderr
    assert not (house / ".venv").exists()


@needs_make
def test_an_interrupted_install_is_taken_up_again_and_a_finished_one_is_not_repeated(house):
    fake = house / "python-de-mentira"  # faz as vezes do Python, do venv e do pip; anota o que lhe pedem
    fake.write_text(
        '#!/bin/sh\necho "$@" >> registro\n'
        'case "$2" in venv) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;; pip) exit "$PIP" ;; esac\n'
    )
    fake.chmod(0o755)
    failed = make(house, ".venv/pronto", f"PYTHON={fake}", PIP="1")
    assert failed.returncode and "rode make de novo" in failed.stderr and not (house / ".venv/pronto").exists()
    assert make(house, ".venv/pronto", f"PYTHON={fake}", PIP="0").returncode == 0
    calls = (house / "registro").read_text()
    assert calls.count("-m pip install") == 2
    assert make(house, ".venv/pronto", f"PYTHON={fake}", PIP="1").returncode == 0
    assert (house / "registro").read_text() == calls


@pytest.mark.parametrize(
    "check, words",
    [
        (lambda: environment.check_python((3, 10, 2)), "Python 3.10"),
        (lambda: environment.check_disk(".", free=10**9), "1.0 GB"),
    ],
)
def test_the_preflight_says_what_is_missing(check, words):
    assert words in check()


def test_the_preflight_asks_for_venv_where_debian_split_it_off(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "apt install python3-venv" in environment.check_venv()


def test_the_preflight_lets_a_good_machine_pass_and_stops_a_bad_one(monkeypatch, tmp_path):
    assert environment.check_python((3, 11, 0)) is environment.check_python((3, 13, 1)) is None
    assert environment.check_venv() is environment.check_disk(tmp_path, free=10**12) is None
    monkeypatch.setattr(environment, "check_python", lambda: "Python velho.")
    monkeypatch.setattr(environment, "check_venv", lambda: "Sem venv.")
    monkeypatch.setattr(sys, "argv", ["environment.py"])
    with pytest.raises(SystemExit, match=r"Python velho\.\nSem venv\."):
        environment.main()


# ---------------------------------------------------------------- a wheel


def test_the_wheel_carries_model_and_task_to_any_folder(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    options = ["--no-deps", "--no-index", "--no-cache-dir"]
    subprocess.run([*pip, "wheel", *options, "--no-build-isolation", "-w", tmp_path, ROOT], check=True, timeout=120)
    [wheel] = tmp_path.glob("*.whl")

    venv.create(tmp_path / "vazio")
    scheme = {"base": str(tmp_path / "vazio"), "platbase": str(tmp_path / "vazio")}
    python = Path(sysconfig.get_path("scripts", "venv", scheme)) / Path(sys.executable).name
    packages = Path(sysconfig.get_path("purelib", "venv", scheme))
    subprocess.run([*pip, "install", *options, "--target", packages, wheel], check=True, timeout=120)
    # As dependências são as deste ambiente; o .pth que aponta para o clone, lido por uma linha de .pth, não vale.
    (packages / "dependencias.pth").write_text(sysconfig.get_path("purelib"))

    code = """if True:
        from ftcourse import files, models, tasks
        task = tasks.load("aceitabilidade")
        model, tokenizer = models.load("bert", task)
        print(files.__file__, files.DATA, len(task.test), model.num_labels, sep="\\n")
    """
    elsewhere = tmp_path / "outra pasta"
    elsewhere.mkdir()
    clean = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}} | {"PYTHONUTF8": "1"}
    run = subprocess.run(
        [python, "-c", code], cwd=elsewhere, env=clean, capture_output=True, encoding="utf-8", timeout=120
    )
    assert run.returncode == 0, run.stderr
    file, data, examples, labels = run.stdout.split("\n")[-5:-1]
    assert Path(file).is_relative_to(packages) and Path(data) == packages / "ftcourse" / "data"
    assert int(examples) > 100 and int(labels) == 2
