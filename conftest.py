"""Vale para tests/ e para os cadernos: o que o pytest roda, e os processos e kernels que abre, não fala com a rede."""

import importlib.util
import os
from pathlib import Path

BLOCK = Path(__file__).parent / "tests" / "sem_rede"

# Os processos filhos herdam a pasta e, com ela, o bloqueio.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(BLOCK), os.environ.get("PYTHONPATH"))))
os.environ["TQDM_DISABLE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")

spec = importlib.util.spec_from_file_location("sem_rede", BLOCK / "sitecustomize.py")
spec.loader.exec_module(importlib.util.module_from_spec(spec))  # e neste processo, que já começou


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: roda um caderno inteiro; para pular, -m 'not slow'")
