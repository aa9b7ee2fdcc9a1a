"""Os modelos do Hub: achar, dizer se cabem, trazer, conferir e, quando algo falha, dizer o que fazer.

    folder = hub.fetch("neuralmind/bert-base-portuguese-cased@refs/pr/5", "bert")    # uma pasta do cache, conferida

Só safetensors, e nenhum código que venha do Hub. O que chega é comparado com o resumo que o Hub publica de cada
arquivo: um byte trocado no caminho passaria por peso.
"""

import hashlib
import os
import re
import shutil
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub
import torch
from huggingface_hub import constants, errors

from ftcourse.console import say
from ftcourse.files import WAY_OUT, sha256
from ftcourse.model_folder import CONFIG, INDEX, TOKENIZER, WEIGHTS, check_family, only_pickle, weights

SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
OTHERS = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
          "merges.txt")  # fmt: skip
NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@(\S+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
PATIENCE = 3  # segundos à espera de um endereço que não responde; sozinha, a biblioteca esperaria minutos
SPEED = 10e6  # bytes por segundo de uma rede comum, para dizer quantos minutos
EMBEDDED = 'o modelo do curso, sem profile ou com profile="embutido"'


def fetch(name: str, family: str) -> Path:
    """A pasta do cache com o modelo "org/nome" ou "org/nome@revisão" do Hub, trazido e conferido.

    Antes dos pesos, confere a família, o disco e a memória, e imprime o tamanho e o tempo. Uma revisão fixa que já está
    no cache não usa a rede; sem rede, vale a cópia que houver, e isso é dito.

    Levanta ConnectionError, FileNotFoundError, PermissionError, MemoryError, ValueError ou OSError, com o que fazer.
    """
    repo, revision = parts(name)
    with explained(name):
        held = cached(repo, revision)
        if constants.HF_HUB_OFFLINE and not held:
            raise errors.OfflineModeIsEnabled
    if held and (constants.HF_HUB_OFFLINE or COMMIT.fullmatch(revision or "")):
        return verify(held)
    try:
        reach(f", ou use {EMBEDDED}")
    except ConnectionError as error:
        if not held:
            raise
        say(f"{error} Enquanto isso, {name} é a cópia do cache, do commit {held.name[:7]}.")
        return verify(held)
    api = huggingface_hub.HfApi(endpoint=constants.ENDPOINT)
    with explained(name):
        info = api.model_info(repo, revision=revision, files_metadata=True, timeout=2 * PATIENCE)
        config = download(api, info, CONFIG, revision or "main")  # pelo nome da revisão, que é como se acha sem rede
    settings = check_family(config, family)
    files, sizes = wanted(api, info), {file.rfilename: file.size for file in info.siblings}
    if not held or held.name != info.sha:
        say(plan(name, info, sum(sizes[file] for file in files), settings))
    with explained(name):
        for file in files:  # os pesos por último: se eles estão no cache, o resto está
            path = download(api, info, file)
    return verify(
        path.parent, {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id for file in info.siblings}
    )


def parts(name: str) -> tuple[str, str | None]:
    """("org/nome", revisão ou None) de um nome do Hub."""
    repo, _, revision = name.partition("@")
    return repo, revision or None


def download(
    api: huggingface_hub.HfApi, info: huggingface_hub.ModelInfo, file: str, revision: str | None = None
) -> Path:
    """O caminho, no cache, de um arquivo do Hub; o que já está lá não é trazido de novo."""
    return Path(api.hf_hub_download(info.id, file, revision=revision or info.sha, etag_timeout=2 * PATIENCE))


def cached(repo: str, revision: str | None) -> Path | None:
    """A pasta do cache em que um modelo está inteiro, ou None."""
    path = huggingface_hub.try_to_load_from_cache(repo, CONFIG, constants.HF_HUB_CACHE, revision)
    if not isinstance(path, str):
        return None
    folder = Path(path).parent
    with suppress(OSError):
        if weights(folder) and any((folder / name).is_file() for name in TOKENIZER):
            return folder
    return None


def reach(instead: str = "") -> None:
    """Levanta ConnectionError se o Hub não atende em segundos. Atrás de um *proxy* não há como perguntar antes."""
    address, proxies = urlsplit(constants.ENDPOINT), urllib.request.getproxies()
    if {address.scheme, "all"} & proxies.keys() and not urllib.request.proxy_bypass(address.hostname):
        return
    port, answered = address.port or {"http": 80}.get(address.scheme, 443), []

    def knock():
        with suppress(OSError), socket.create_connection((address.hostname, port), PATIENCE):
            answered.append(True)

    thread = threading.Thread(target=knock, daemon=True)  # achar o endereço de um nome não aceita um prazo
    thread.start()
    thread.join(PATIENCE + 1)
    if not answered:
        raise ConnectionError(f"{constants.ENDPOINT} não responde. Confira a rede{instead}.")


def wanted(api: huggingface_hub.HfApi, info: huggingface_hub.ModelInfo) -> list[str]:
    """Os arquivos a trazer, os pesos por último. Levanta OSError, com a saída, se não há pesos em safetensors."""
    names = {file.rfilename for file in info.siblings}
    parts = [WEIGHTS] if WEIGHTS in names else [INDEX, *sorted(filter(SHARD.fullmatch, names))]
    if not names.issuperset(parts):
        raise OSError(only_pickle(f"No Hub, {info.id}, no commit {info.sha[:7]},", conversion(api, info.id)))
    return [name for name in (CONFIG, *OTHERS, *TOKENIZER) if name in names] + parts


def conversion(api: huggingface_hub.HfApi, repo: str) -> str | None:
    """A revisão em que o robô do Hub pôs os mesmos pesos em safetensors, ou None."""
    with suppress(Exception):  # só ajuda a dar a saída: se a pergunta falhar, a recusa é a mesma
        for one in api.get_repo_discussions(repo, discussion_type="pull_request"):
            if one.author == "SFconvertbot" and one.title == "Adding `safetensors` variant of this model":
                return f"{repo}@refs/pr/{one.num}"
    return None


def plan(name: str, info: huggingface_hub.ModelInfo, size: float, config: dict) -> str:
    """O que será baixado e quanto isso pede, numa frase. Levanta OSError ou MemoryError se não cabe."""
    stored = getattr(torch, str(config.get("dtype") or config.get("torch_dtype") or "float32"), torch.float32)
    count = info.safetensors.total if info.safetensors else size / stored.itemsize
    loaded, full = 4 * count, 16 * count
    room, place = memory()
    free = shutil.disk_usage(existing(constants.HF_HUB_CACHE)).free
    if size > free:
        raise OSError(
            f"{name} ocupa {gigabytes(size)} e sobram {gigabytes(free)} no disco do cache, {constants.HF_HUB_CACHE}. "
            "Libere espaço ou aponte HF_HOME para outro disco."
        )
    if loaded > room:
        raise MemoryError(
            f"{name} tem {count / 1e6:.0f} milhões de parâmetros: só os pesos pedem {gigabytes(loaded)}, e {place} tem "
            f"{gigabytes(room)}. Nada foi baixado. Escolha um modelo menor, ou {EMBEDDED}."
        )
    fits = "ele cabe" if full <= room else "ele não cabe: congele a base, como faz LoRA"
    return (
        f"{name}, commit {info.sha[:7]}: {gigabytes(size)} a baixar, {max(1, round(size / SPEED / 60))} min a 10 MB/s. "
        f"Os pesos pedem {gigabytes(loaded)}, e o ajuste completo, sem contar as ativações, {gigabytes(full)}"
        + (f": {place} tem {gigabytes(room)}, e {fits}." if room < float("inf") else ".")
    )


def memory() -> tuple[float, str]:
    """(bytes, onde): a memória da GPU ou, sem GPU, a da máquina; infinita se o sistema não a diz."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory, "a GPU"
    with suppress(AttributeError, ValueError):  # o Windows não tem sysconf
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "a máquina"
    return float("inf"), "a máquina"


def existing(folder: str | Path) -> Path:
    """A própria pasta, ou a primeira acima dela que existe."""
    return next(path for path in (Path(folder).absolute(), *Path(folder).absolute().parents) if path.exists())


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB".replace(".", ",")


def verify(folder: Path, published: dict[str, str] | None = None) -> Path:
    """Compara cada arquivo de uma pasta do cache com o seu resumo e devolve a pasta. published: {nome: resumo}.

    Sem `published`, o resumo é o nome que o arquivo tem no cache. O que não confere é apagado dali, e OSError o diz; de
    um atalho que leva para fora do cache só o atalho se apaga.
    """
    root = Path(os.path.realpath(constants.HF_HUB_CACHE), folder.parent.parent.name)
    home = root / "snapshots" / folder.name
    in_cache = Path(os.path.realpath(folder)) == home  # a própria pasta pode ser um atalho
    for path in sorted(folder.iterdir()):
        stored = Path(os.path.realpath(path))
        if stored.is_dir():
            continue
        ours = in_cache and stored.parent in (root / "blobs", home)
        expected = (published or {}).get(path.name) or stored.name
        checkable = ours or len(expected) == 64 or COMMIT.fullmatch(expected)
        if stored.is_file() and checkable and found(stored, expected) == expected:
            continue
        if ours:
            stored.unlink(missing_ok=True)
        if in_cache:
            path.unlink(missing_ok=True)
        done = "Já o apaguei do cache; rode" if in_cache else f"Apague a pasta do cache, {folder}, e rode"
        aside = "" if ours else f" Ele está em {stored}, fora do cache, e ali não mexi: se o erro voltar, apague-o."
        raise OSError(
            f"{path.name} não é o arquivo que o Hub publicou: um pedaço se perdeu ou se trocou no caminho. {done} de "
            f"novo para baixá-lo.{aside}"
        )
    return folder


def found(path: Path, expected: str) -> str:
    """O resumo de um arquivo na mesma forma do esperado: sha256, o de git, ou, se não é nenhum dos dois, o esperado."""
    if len(expected) == 64:
        return sha256(path)
    if not COMMIT.fullmatch(expected):
        return expected  # num sistema sem atalhos, o cache guarda o arquivo com o próprio nome
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def explained(name: str, kind: str = "") -> Iterator[None]:
    """Troca o que a biblioteca do Hub levanta por uma frase com a saída."""
    try:
        yield
    except Exception as error:
        exception, words = reason(error, name, kind)
        raise exception(words) from error


def refusal(error: BaseException | None) -> errors.HfHubHTTPError | None:
    """A resposta do Hub que deu origem a um erro, que as bibliotecas de cima embrulham; None se não houve uma."""
    while error and not isinstance(error, errors.HfHubHTTPError):
        error = error.__cause__ or error.__context__
    return error


def reason(error: BaseException, name: str, kind: str) -> tuple[type[OSError] | type[ValueError], str]:
    """(exceção, frase) para um erro da biblioteca do Hub ao trazer `name`; kind: "" ou "datasets/"."""
    error = refusal(error) or error
    repo, revision = parts(name)
    page, tokens = f"{constants.ENDPOINT}/{kind}{repo}", f"{constants.ENDPOINT}/settings/tokens"
    status = getattr(getattr(error, "response", None), "status_code", None)
    instead = "" if kind else f", ou use {EMBEDDED}"
    if constants.HF_HUB_OFFLINE:
        return ConnectionError, (
            f"HF_HUB_OFFLINE está ligada, e {name} não está inteiro no cache, {constants.HF_HUB_CACHE}. Desligue-a uma "
            f"vez, com rede, para trazê-lo{instead}."
        )
    if isinstance(error, errors.GatedRepoError):
        return PermissionError, (
            f"{repo} só se baixa depois de aceitar os termos de quem o publicou. Entre em {page}, aceite-os, crie um "
            f"token em {tokens} e rode huggingface_hub.login()."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return FileNotFoundError, f"{repo} não tem a revisão {revision!r}. As que existem estão em {page}/commits."
    if isinstance(error, errors.RepositoryNotFoundError) or (status == 401 and not huggingface_hub.get_token()):
        return FileNotFoundError, (
            f"No Hub não há {repo}, ou ele é privado; aqui também não há uma pasta com esse nome. Confira as letras em "
            f"{page}; se ele é seu, rode antes huggingface_hub.login()."
        )
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return (
            FileNotFoundError,
            f"Em {repo} falta {CONFIG}: não é um modelo que transformers lê. Veja {page}/tree/main.",
        )
    if isinstance(error, errors.HFValidationError):
        return ValueError, f"{name!r} não é um nome do Hub. A forma é org/nome ou org/nome@revisão."
    if status in (401, 403):
        return PermissionError, (
            f"O Hub recusou o seu token para {repo} (resposta {status}). Crie outro, com leitura, em {tokens} e rode "
            "huggingface_hub.login()."
        )
    if status:
        return ConnectionError, f"O Hub respondeu {status} ao pedido de {repo}. Espere uns minutos e rode de novo."
    if why := WAY_OUT.get(getattr(error, "errno", None) or 0):
        return OSError, (
            f"Não consegui guardar {repo} no cache, {constants.HF_HUB_CACHE}: {why}. O cache muda de lugar com HF_HOME."
        )
    return ConnectionError, (
        f"A conexão com {constants.ENDPOINT} caiu no meio ({type(error).__name__}). O que veio inteiro ficou no cache: "
        f"rode de novo para continuar{instead}."
    )
