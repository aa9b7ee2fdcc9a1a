"""Nada sai da máquina: nem deste processo, nem dos que ele abre, nem dos kernels; o endereço local responde.

Os endereços de fora são o de difusão e um nome reservado: mesmo sem o bloqueio, nenhum pacote iria longe.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCK = ROOT / "tests" / "sem_rede"
OUTSIDE = ("255.255.255.255", 80)
REFUSED = "Sem rede nos testes"
ATTEMPT = f"""
import socket
try:
    socket.create_connection({OUTSIDE}, timeout=1)
    message = "conectou"
except OSError as error:
    message = str(error)
assert "{REFUSED}" in message, message
"""


@pytest.mark.parametrize(
    "attempt",
    [
        lambda tcp, udp: tcp.connect(OUTSIDE),
        lambda tcp, udp: tcp.connect_ex(OUTSIDE),
        lambda tcp, udp: udp.sendto(b"oi", OUTSIDE),
        lambda tcp, udp: udp.sendto(b"oi", 0, OUTSIDE),
        lambda tcp, udp: socket.getaddrinfo("exemplo.invalid", 80),
        lambda tcp, udp: socket.getaddrinfo(host=b"exemplo.invalid", port=80),
        lambda tcp, udp: socket.gethostbyname("exemplo.invalid"),
    ],
    ids=[
        "connect",
        "connect_ex",
        "sendto",
        "sendto com opções",
        "getaddrinfo",
        "getaddrinfo com nomes",
        "gethostbyname",
    ],
)
def test_this_process_reaches_nobody(attempt):
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.settimeout(1)
        with pytest.raises(OSError, match=REFUSED):
            attempt(tcp, udp)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_passes(host):
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection((host, server.getsockname()[1]), timeout=5) as client:
            client.sendall(b"oi")
        with server.accept()[0] as peer:
            assert peer.recv(2) == b"oi"


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="sem sockets de arquivo neste sistema")
def test_unix_sockets_pass(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # o caminho de um socket tem no máximo uns cem caracteres
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("s")
        server.listen()
        client.connect("s")


def test_a_child_process_reaches_nobody():
    child = subprocess.run([sys.executable, "-c", ATTEMPT], capture_output=True, encoding="utf-8", timeout=60)
    assert child.returncode == 0, child.stderr


def test_the_shadowed_sitecustomize_still_runs(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("print('o do sistema')")
    clean = os.environ | {"PYTHONPATH": os.pathsep.join([str(BLOCK), str(tmp_path)])}
    child = subprocess.run(
        [sys.executable, "-c", ATTEMPT], env=clean, capture_output=True, encoding="utf-8", timeout=60
    )
    assert (child.returncode, child.stdout.strip()) == (0, "o do sistema"), child.stderr


BAR = "import time\nfrom tqdm.auto import tqdm\nfor i in tqdm(range(4), delay=1):\n    time.sleep(0.5)\nprint('fim')"


@pytest.mark.slow
def test_the_kernels_of_make_teste_reach_nobody_and_show_no_bars(tmp_path):
    """A linha do Makefile que roda os cadernos, num clone em que o único bloqueio é o que conftest.py põe."""
    arguments = re.search(r"pytest (.*--nbval.*)", (ROOT / "Makefile").read_text("utf-8"))[1].split()
    for folder in ("tests/sem_rede", "notebooks"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("pyproject.toml", "conftest.py", "tests/sem_rede/sitecustomize.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    end = nbformat.v4.new_output("stream", name="stdout", text="fim\n")
    compared = {"tags": ["nbval-check-output"]}  # uma barra a mais seria uma saída diferente
    slow = nbformat.v4.new_code_cell(BAR, outputs=[end], execution_count=2, metadata=compared)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(ATTEMPT), slow])
    nbformat.write(notebook, tmp_path / "notebooks" / "rede.ipynb")
    folders = [f for f in os.environ["PYTHONPATH"].split(os.pathsep) if Path(f) != BLOCK]
    child = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments], cwd=tmp_path, timeout=120, capture_output=True, encoding="utf-8",
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders)},
    )  # fmt: skip
    assert child.returncode == 0 and "2 passed" in child.stdout, child.stdout
