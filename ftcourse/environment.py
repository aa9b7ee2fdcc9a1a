"""O ambiente: o que falta para instalar, o que está instalado e em que máquina um resultado foi medido.

`python3 ftcourse/environment.py [PASTA]` confere, só com a biblioteca padrão, se a instalação pode começar. Por isso
este arquivo não importa nada do pacote e precisa ser lido até por um Python antigo.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys

PYTHON = (3, 11)
DISK_GB = 4
LIBRARIES = ("torch", "transformers", "peft", "datasets", "numpy")


def check_python(version: "tuple" = sys.version_info[:3]) -> "str | None":
    """Uma frase com o problema, ou None. `version`: (maior, menor, …)."""
    if tuple(version[:2]) < PYTHON:
        return "Este é o Python {}.{} e o curso pede o 3.11 ou mais novo. Tente make aula PYTHON=python3.12.".format(
            *version
        )
    return None


def check_venv() -> "str | None":
    """Uma frase, se o Python não tiver com que criar um ambiente virtual; senão, None."""
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        return "Falta o módulo que cria ambientes virtuais. No Debian e no Ubuntu: sudo apt install python3-venv."
    return None


def check_disk(folder: str = ".", free: "int | None" = None) -> "str | None":
    """Uma frase, se sobrar menos que o necessário no disco da pasta; senão, None. `free`: bytes livres."""
    free = shutil.disk_usage(folder).free if free is None else free
    if free < DISK_GB * 10**9:
        return "Sobram {:.1f} GB neste disco e a instalação pede {}: libere espaço ou clone em outro.".format(
            free / 1e9, DISK_GB
        )
    return None


def describe() -> dict:
    """Onde uma medida foi feita: versões, máquina e commit, para ir ao lado de cada resultado."""
    from importlib.metadata import version

    return {
        **code(),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "system": "{} {}".format(platform.system(), platform.machine()),
        "processor": processor(),
        "cores": usable_cores(),
        "gpu": gpu(),
    }


def report() -> str:
    """O ambiente em texto, para colar numa pergunta: versões, máquina, dados do curso e, no fim, o veredito."""
    from importlib.metadata import PackageNotFoundError

    from ftcourse import __version__
    from ftcourse.console import writable
    from ftcourse.files import DATA, check_sums

    lines, problems = ["{:<13}{}".format("ftcourse", __version__)], []
    try:
        lines += ["{:<13}{}".format(name, value) for name, value in describe().items() if value]
    except PackageNotFoundError as error:
        problems += ["falta instalar {}: rode make aula de novo.".format(error.name)]
    for folder in sorted(DATA.glob("modelos/*-pt")):  # ao lado pode haver um treino em andamento, mini-bert-pt.treino
        try:
            check_sums(folder)
            lines += ["{:<13}{}".format("modelo", folder.name + ", conferido")]
        except OSError as error:
            problems += [str(error)]
    if os.environ.get("FTCOURSE_PERFIL") and not problems:
        from ftcourse import models

        try:
            lines += ["{:<13}{}, de FTCOURSE_PERFIL".format("perfil", models.known_profile())]
        except ValueError as error:
            problems += [str(error)]
    verdict = "VEREDITO: " + (" ".join(problems) or "tudo pronto, o curso roda aqui.")
    return writable("\n".join([*lines, verdict]))


def code() -> dict:
    """De que código saiu uma medida: {"commit", "clean"}. Os dois são None fora de um clone do curso.

    clean: se nada do que muda um resultado (o pacote, os dados, os modelos) tinha mudanças por gravar. O que a própria
    bancada escreve, em data/resultados, não conta.
    """
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

    def git(*arguments):
        ran = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, timeout=10)
        return ran.stdout.strip() if ran.returncode == 0 else None

    try:
        top = git("rev-parse", "--show-toplevel")
        if top is None or not os.path.samefile(top, root):  # o pacote instalado dentro do repositório de outro projeto
            return {"commit": None, "clean": None}
        changed = git("status", "--porcelain", "--", "ftcourse", "data", ":(exclude)data/resultados")
        return {"commit": git("rev-parse", "--short=12", "HEAD"), "clean": not changed}
    except (OSError, subprocess.TimeoutExpired):
        return {"commit": None, "clean": None}


def processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Núcleos que este processo pode usar; num contêiner, menos que os da máquina."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu() -> "str | None":
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def main() -> None:
    folder = sys.argv[1] if len(sys.argv) > 1 else "."
    problems = [problem for problem in (check_python(), check_venv(), check_disk(folder)) if problem]
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
