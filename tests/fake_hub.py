"""Um Hub de mentira, em 127.0.0.1, com o que a biblioteca do Hub pergunta; e modelos minúsculos para pôr nele."""

import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import tokenizers
import transformers
from toys import WORDS, tiny

SPECIAL = ["<pad>", "</s>", "<s>", "<unk>"]  # na ordem em que tiny os espera: PAD, EOS e BOS


class Repository:
    """Arquivos de um repositório, num só commit. `served`: o que é entregue de fato, quando não é o que se publicou."""

    def __init__(self, files, kind="models", **behaviour):
        self.files, self.kind, self.served, self.requests = dict(files), kind, {}, []
        self.commit = hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()
        self.revisions = {"main", self.commit}
        self.gated = behaviour.pop("gated", False)  # pede que se aceitem os termos
        self.status = behaviour.pop("status", None)  # responde sempre isto
        self.cut = behaviour.pop("cut", None)  # nunca passa deste byte do arquivo de pesos
        self.pull_requests = behaviour.pop("pull_requests", [])
        assert not behaviour

    def entry(self, name):
        content = self.files[name]
        entry = {"rfilename": name, "path": name, "type": "file", "size": len(content), "blobId": git_digest(content),
                 "oid": git_digest(content)}  # fmt: skip
        if is_large(name):
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"sha256": digest, "oid": digest, "size": len(content), "pointerSize": 130}
        return entry


def is_large(name):
    return name.endswith((".safetensors", ".bin", ".parquet"))


def git_digest(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer(self, value):
        self.reply(200, json.dumps(value).encode(), Content_Type="application/json")

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.server.seen.append(f"{self.command} {path}")
        if self.server.silent:
            self.server.released.wait(30)
            return
        if match := re.fullmatch(
            r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|discussions|auth-check)(?:/(.+))?)?", path
        ):
            kind, name, what, revision = match.groups()
        elif match := re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/(refs/pr/\d+|[^/]+)/(.+)", path):
            kind, name, revision, what = match.groups()
        else:
            return self.reply(404)
        if what == "tree":
            revision, _, subfolder = revision.partition("/")
            what = f"tree/{subfolder}" if subfolder else what  # os repositórios daqui não têm pastas
        repository = self.server.repositories.get(name)
        if repository is None or repository.kind != (kind or "models"):
            return self.reply(404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        if repository.status:
            return self.reply(repository.status)
        if what == "discussions":
            return self.answer(
                {"discussions": repository.pull_requests, "count": len(repository.pull_requests), "start": 0}
            )
        if repository.gated and (what == "auth-check" or not path.startswith("/api/")):
            return self.reply(403, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
        if what == "auth-check":
            return self.reply(200)
        if (revision or "main") not in repository.revisions:
            return self.reply(404, X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
        if (what or "").startswith("tree/"):
            return self.reply(404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found")
        if path.startswith("/api/"):
            entries = [repository.entry(file) for file in repository.files]
            info = {"id": name, "modelId": name, "sha": repository.commit, "private": False, "tags": [], "downloads": 0,
                    "gated": repository.gated, "siblings": entries, "likes": 0}  # fmt: skip
            return self.answer(entries if what == "tree" else info)
        if what not in repository.files:
            return self.reply(404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found")
        return self.send_file(repository, what)

    do_HEAD = do_GET

    def do_POST(self):
        """paths-info: o que o Hub sabe de alguns caminhos."""
        path = unquote(urlsplit(self.path).path)
        self.server.seen.append(f"POST {path}")
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        match = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)/paths-info/(.+)", path)
        repository = self.server.repositories[match[2]]
        self.answer([repository.entry(file) for file in body["paths"] if file in repository.files])

    def send_file(self, repository, name):
        entry, content = repository.entry(name), repository.served.get(name, repository.files[name])
        etag = entry["lfs"]["sha256"] if "lfs" in entry else entry["blobId"]
        headers = {"ETag": f'"{etag}"', "X_Repo_Commit": repository.commit, "Accept_Ranges": "bytes"}
        if "lfs" in entry:
            headers |= {"X_Linked_Etag": f'"{etag}"', "X_Linked_Size": entry["size"]}
        status, first = 200, 0
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(match[1]), int(match[2] or len(content) - 1)
            status, body = 206, content[first : last + 1]
            headers["Content_Range"] = f"bytes {first}-{first + len(body) - 1}/{len(content)}"
        else:
            body = content
        if repository.cut is not None and is_large(name) and self.command == "GET":
            self.send_response(status)
            for key, value in (headers | {"Content_Length": len(body)}).items():
                self.send_header(key.replace("_", "-"), str(value))
            self.end_headers()
            self.wfile.write(body[: max(0, repository.cut - first)])
            self.close_connection = True
            return None
        return self.reply(status, body, **headers)


@contextlib.contextmanager
def serve():
    """Um Hub vazio, em `hub.url`; ponha repositórios em `hub.repositories["org/nome"]`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.repositories, server.seen, server.silent, server.released = {}, [], False, threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()  # e não leva meio segundo a parar
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()


# ---------------------------------------------------------------- modelos de outros


def tiny_tokenizer():
    """Palavras inteiras, sem nenhum arquivo: os tokens especiais e o vocabulário dos brinquedos."""
    words = dict.fromkeys([*SPECIAL, *WORDS, "noite", "dia"])
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )


def save_tiny(folder, family="bert mlm", **options):
    """Um modelo minúsculo de toys.TINY e o seu vocabulário, gravados como os grava transformers. Devolve o modelo."""
    model = tiny(family)
    model.save_pretrained(folder, **options)
    tiny_tokenizer().save_pretrained(folder)
    return model


def contents(folder):
    """Os arquivos de uma pasta, para um Repository: {nome: bytes}."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
