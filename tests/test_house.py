"""A casa: o que pyproject.toml declara vale nos outros arquivos, o make faz o que promete e a wheel leva os dados."""

import ast
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import unicodedata
import venv
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

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
NAMES = {"sklearn": "scikit-learn", "yaml": "pyyaml", "xdist": "pytest-xdist"}  # o nome no import → o nome no PyPI


def text(name):
    return (ROOT / name).read_text("utf-8")


# ---------------------------------------------------------------- o que se instala


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_a_dependency_has_a_floor_no_ceiling_and_a_tested_version(requirement):
    assert [s.operator for s in requirement.specifier] == [">="]
    assert PINS[canonicalize_name(requirement.name)] in requirement.specifier


def code(path):
    """O código de um arquivo de Python, ou das células de um caderno, sem as linhas que são do IPython."""
    if path.suffix == ".py":
        return path.read_text("utf-8")
    cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    return re.sub(r"^(\s*)[%!].*$", r"\1pass", "\n".join("".join(cell["source"]) for cell in cells), flags=re.M)


def imported(paths):
    """O que se importa de fora do repositório e da biblioteca padrão, pelo nome no PyPI."""
    names = set()
    for node in (node for path in paths for node in ast.walk(ast.parse(code(path)))):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom(level=0):
                names.add(node.module)
            case ast.Call(
                func=ast.Attribute(attr="import_module" | "importorskip"), args=[ast.Constant(str(name)), *_]
            ):
                names.add(name)
    ours = {"ftcourse", *(path.stem for path in SOURCES)}  # bert.py e toys.py são vizinhos de quem os importa
    names = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"google"} - ours
    return {canonicalize_name(NAMES.get(name, name)) for name in names}


SOURCES = [path for folder in ("ftcourse", "data", "tests", "slides") for path in ROOT.glob(f"{folder}/**/*.py")]
SOURCES = [path for path in SOURCES if "fixtures" not in path.parts]  # os que rodam num ambiente à parte
SOURCES += [ROOT / "conftest.py", *ROOT.glob("notebooks/*.ipynb")]
# O que ninguém importa e alguém usa: a biblioteca, e o que no código a pede.
NEEDED = {
    "accelerate": r"import .*\bTrainer\b",
    "pyarrow": r"\bread_parquet\(",
    "ipywidgets": r"from tqdm\.auto import",
}


def test_the_package_declares_what_it_imports_and_imports_what_it_declares():
    package = imported(path for path in SOURCES if path.parts[len(ROOT.parts)] in ("ftcourse", "data"))
    declared = {canonicalize_name(r.name) for r in DIRECT}
    assert package - declared <= {"ipython"}  # só quem está num caderno a importa
    assert declared - package == {*NEEDED, "peft"}  # os cadernos importam peft


def test_everything_declares_what_it_imports():
    assert imported(SOURCES) <= {canonicalize_name(r.name) for r in REQUIREMENTS}


@pytest.mark.parametrize("name", NEEDED)
def test_what_is_needed_without_an_import_is_declared_while_it_is_needed(name):
    assert name in {r.name for r in DIRECT}
    assert any(re.search(NEEDED[name], code(path)) for path in SOURCES)


def test_the_floor_of_accelerate_is_enough_for_trainer():
    from transformers.utils.import_utils import ACCELERATE_MIN_VERSION

    [floor] = [s.version for r in DIRECT if r.name == "accelerate" for s in r.specifier]
    assert Version(ACCELERATE_MIN_VERSION) <= Version(floor) <= Version("1.14")  # a do Colab


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


PACKAGE = [path for path in sorted(ROOT.glob("ftcourse/**/*.py")) if not path.stem.startswith("nb")]  # resposta é tudo


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: path.stem)
def test_every_public_function_says_its_types(path):
    """As de cada módulo; os métodos de uma camada são os de torch, e o que recebem está na docstring."""
    lacking = []
    for function in ast.parse(path.read_text("utf-8")).body:
        if isinstance(function, ast.FunctionDef) and not function.name.startswith("_"):
            given = function.args
            names = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
            if function.returns is None or any(name.annotation is None for name in names):
                lacking.append(function.name)
    assert not lacking


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


def test_each_term_of_the_glossary_is_there_once_in_order_and_explained():
    with (ROOT / "data" / "glossario.csv").open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["termo", "inglês", "o que é"]
    terms = [re.sub(r"[\u0300-\u036f]", "", unicodedata.normalize("NFD", row[0].casefold())) for row in rows]
    assert terms == sorted(set(terms))
    assert all(len(row) == 3 and row[1] and len(row[2].split()) >= 4 and row[2][-1] not in ".;:" for row in rows)


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
def test_both_make_teste_check_style_and_types_and_only_one_runs_the_notebooks(house):
    whole, fast = (
        make(house, "-n", "-o", ".venv/pronto", goal).stdout.splitlines() for goal in ("teste", "teste-rapido")
    )
    lint = [".venv/bin/ruff check", ".venv/bin/ruff format --check", ".venv/bin/mypy"]
    assert whole[:-1] == fast[:-1] == lint
    assert "--nbval" in whole[-1] and whole[-1].endswith(" tests notebooks")
    assert fast[-1] == ".venv/bin/pytest -n 2 --rapido tests"


def test_windows_runs_the_lines_of_make_teste():
    recipe = re.search(r"^teste: .*\n((?:\t.*\n)+)", text("Makefile"), re.M)[1]
    for line in recipe.replace("\t", "").replace("$(BIN)/", ".venv\\Scripts\\").splitlines():
        assert line in text("CONTRIBUTING.md") and line in text(".github/workflows/ci.yml")


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


@pytest.mark.slow
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
