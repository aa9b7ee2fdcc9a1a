"""Sem rede: o Python que começa com esta pasta em PYTHONPATH só fala com a própria máquina. Ver conftest.py."""

import errno
import functools
import importlib.machinery
import importlib.util
import ipaddress
import os
import socket
import sys


def check(host):
    """Levanta OSError se `host` não é esta máquina."""
    host = host.decode() if isinstance(host, bytes) else host
    if not host or host in ("localhost", socket.gethostname()):
        return
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
        local = address.is_loopback or address.is_unspecified
    except ValueError:
        local = False
    if not local:
        raise OSError(errno.ENETUNREACH, f"Sem rede nos testes: {host} foi recusado, só 127.0.0.1 e ::1 respondem")


def guard_socket(original):
    @functools.wraps(original)
    def guarded(self, *args):  # o endereço é o último argumento; os de AF_UNIX são arquivos
        if self.family in (socket.AF_INET, socket.AF_INET6):
            check(args[-1][0])
        return original(self, *args)

    return guarded


def guard_lookup(original):
    @functools.wraps(original)
    def guarded(host, *args, **options):
        check(host)
        return original(host, *args, **options)

    return guarded


for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, guard_socket(getattr(socket.socket, name)))
for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
    setattr(socket, name, guard_lookup(getattr(socket, name)))

if __name__ == "sitecustomize":  # o do sistema, que este encobre, também roda
    here = os.path.dirname(os.path.abspath(__file__))
    rest = [folder for folder in sys.path if os.path.abspath(folder) != here]
    shadowed = importlib.machinery.PathFinder.find_spec("sitecustomize", rest)
    if shadowed:
        shadowed.loader.exec_module(importlib.util.module_from_spec(shadowed))
