"""O corpus do pré-treino: lido de uma pasta, sem as frases das tarefas, com uma parte reservada, em tokens."""

import hashlib
import json
import lzma
import re

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
from tqdm.auto import tqdm


def read_lines(path):
    """As linhas não vazias de um arquivo de texto UTF-8, comprimido com xz ou não."""
    with (lzma.open if path.suffix == ".xz" else open)(path, "rt", encoding="utf-8") as file:
        yield from filter(None, map(str.strip, file))


def read_corpus(folder):
    """{nome da fonte: [parágrafo, …]} de todos os .txt e .txt.xz da pasta."""
    files = sorted([*folder.glob("*.txt"), *folder.glob("*.txt.xz")])
    if not files:
        raise SystemExit(
            f"Em {folder} não há nenhum .txt nem .txt.xz: aponte uma pasta com textos, um parágrafo por linha."
        )
    return {path.name.removesuffix(".xz").removesuffix(".txt"): list(dict.fromkeys(read_lines(path))) for path in files}


def words(text):
    return tuple(re.findall(r"\w+", text.casefold()))


def task_sentences(paths):
    """As frases que o corpus não pode conter: `text` e `original` dos .jsonl; as linhas dos outros arquivos."""
    for path in (file for p in paths for file in (sorted(p.rglob("*.jsonl")) if p.is_dir() else [p])):
        for line in read_lines(path):
            if path.suffix == ".jsonl":
                row = json.loads(line)
                yield from (row[key] for key in ("text", "original") if row.get(key))
            else:
                yield line


class Contamination:
    """Diz se um parágrafo contém uma das frases, sem olhar caixa nem pontuação; menos de `n` palavras não conta."""

    def __init__(self, sentences, n=5):
        self.n, self.by_start = n, {}
        for sentence in set(map(words, sentences)):
            if len(sentence) >= n:
                self.by_start.setdefault(sentence[:n], []).append(sentence)

    def __contains__(self, paragraph):
        text = words(paragraph)
        return any(
            text[i : i + len(sentence)] == sentence
            for i in range(len(text) - self.n + 1)
            for sentence in self.by_start.get(text[i : i + self.n], ())
        )


def digest(paragraph):
    return hashlib.sha256(paragraph.encode()).hexdigest()[:16]


def is_held_out(paragraph, every=50):
    """Reserva para avaliação um em cada `every` parágrafos de 30 palavras ou mais, pelo resumo do próprio texto."""
    return len(paragraph.split()) >= 30 and int(digest(paragraph), 16) % every == 0


def encode(tokenizer, paragraphs, begin, end):
    """Parágrafos em tokens, cada um entre os tokens `begin` e `end`: (todas em fila, onde cada um começa e o fim)."""
    pieces = []
    for i in tqdm(range(0, len(paragraphs), 10_000), desc="codificando", unit=" × 10 mil parágrafos"):
        batch = tokenizer(paragraphs[i : i + 10_000], add_special_tokens=False, verbose=False)["input_ids"]
        pieces += [np.array([*begin, *ids, *end], dtype=np.uint16) for ids in batch]
    return np.concatenate(pieces), np.cumsum([0, *map(len, pieces)])


def windows(stream, width):
    """Corta a fila em pedaços de `width` tokens: (n, width). A sobra do fim se perde."""
    n = len(stream) // width
    return torch.from_numpy(stream[: n * width].astype(np.int64)).view(n, width)


def ppmi_embeddings(stream, vocab_size, width, std, reach=5):
    """Representações iniciais (V, d) e frequências (V,): PPMI das coocorrências, SVD truncada (Levy e Goldberg, 2014).

    Pares a distância k ≤ `reach` pesam 1/k; a distribuição do contexto é elevada a 0,75 (Levy et al., 2015, §3.2).
    """
    counts = scipy.sparse.csr_matrix((vocab_size, vocab_size), dtype=np.float64)
    for k in range(1, reach + 1):
        pairs = (stream[:-k].astype(np.int32), stream[k:].astype(np.int32))
        counts += scipy.sparse.coo_matrix((np.full(len(stream) - k, 1 / k), pairs), shape=counts.shape).tocsr()
    counts = (counts + counts.T).tocoo()
    word = np.asarray(counts.sum(1)).ravel()
    context = word**0.75
    pmi = np.log(counts.data * context.sum() / (word[counts.row] * context[counts.col]))
    ppmi = scipy.sparse.coo_matrix((pmi.clip(min=0), (counts.row, counts.col)), shape=counts.shape).tocsr()
    u, s, _ = scipy.sparse.linalg.svds(ppmi, k=width, random_state=0)
    vectors = u * np.sqrt(s)
    frequencies = np.bincount(stream, minlength=vocab_size) + 1.0
    vectors = torch.tensor(vectors * std / vectors.std(), dtype=torch.float32)
    return vectors, torch.tensor(frequencies / frequencies.sum())
