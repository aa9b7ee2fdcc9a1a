"""Vale para tests/ e para os cadernos: o que o pytest roda, e os processos e kernels que abre, não fala com a rede."""

import importlib.util
import os
import platform
import re
import sys
from pathlib import Path

import pytest

BLOCK = Path(__file__).parent / "tests" / "sem_rede"

# Os processos filhos herdam a pasta e, com ela, o bloqueio.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(BLOCK), os.environ.get("PYTHONPATH"))))
os.environ["TQDM_DISABLE"] = "1"
os.environ["QT_API"] = "nenhuma"  # sem isto tqdm abre uma barra de caderno, que não lê TQDM_DISABLE e conta como saída
os.environ.setdefault("OMP_NUM_THREADS", "1")  # um núcleo por processo: dois processos não disputam os dois

import torch  # noqa: E402 (só depois de OMP_NUM_THREADS)

# Só em processadores da Intel com AVX512 se mediu que MKL soma sempre na mesma ordem. Nos da AMD, com AVX512 ou sem, a
# ordem depende do endereço dos tensores, e duas contas iguais diferem no último bit.
CPU = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else platform.processor()
INTEL_AVX512 = "GenuineIntel" in CPU and torch.backends.cpu.get_cpu_capability() == "AVX512"
if not INTEL_AVX512:
    os.environ["MKL_CBWR"] = "COMPATIBLE"
    torch.ones(64, 64) @ torch.ones(64, 64)  # é na primeira conta que MKL a lê
    del os.environ["MKL_CBWR"]  # os cadernos correm com tudo que o processador tem

spec = importlib.util.spec_from_file_location("sem_rede", BLOCK / "sitecustomize.py")
spec.loader.exec_module(importlib.util.module_from_spec(spec))  # e neste processo, que já começou


CASES = 2  # quantos casos de cada teste ficam com --rapido


def pytest_addoption(parser):
    parser.addoption("--rapido", action="store_true", help="de cada teste com muitos casos, só alguns, e nenhum lento")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: roda um caderno inteiro ou mata muitos processos; para pular, --rapido")


def pytest_collection_modifyitems(config, items):
    """Com --rapido, todo teste roda, com os seus casos espalhados: o primeiro e o do meio. Os lentos ficam de fora."""
    if not config.getoption("--rapido"):
        return
    cases, kept = {}, set()
    for item in items:
        if not item.get_closest_marker("slow"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for found in cases.values():
        kept |= {*found[:: max(1, -(-len(found) // CASES))]}
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Em paralelo, as células de um caderno ficam num processo só, em ordem, e o ensaio dele se faz uma vez."""
    from xdist.scheduler import LoadScopeScheduling

    class ByNotebook(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file, _, test = nodeid.partition("::")
            rehearsed = re.search(r"\[(.*-)?(\d\d_\w+)\]", test)
            return file if file.endswith(".ipynb") else rehearsed[2] if rehearsed else nodeid

    return ByNotebook(config, log)
