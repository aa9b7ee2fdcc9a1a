"""Um modelo de n-gramas de Kneser e Ney interpolado: o que se consegue contando, sem rede neural."""

import numpy as np


class KneserNey:
    """Probabilidade de cada token, dados os `order` − 1 anteriores (Chen e Goodman, 1998, §2.7 e §4.1.6).

    A ordem mais alta conta ocorrências; as outras, de quantos tokens diferentes o trecho foi precedido. O desconto de
    cada ordem é n₁ / (n₁ + 2 n₂). stream: (N,) tokens de treino; um n-grama é um inteiro de n × 13 bits, e V ≤ 8192.
    """

    def __init__(self, stream, vocab_size, order=4, bits=13):
        self.vocab_size, self.bits, self.tables = vocab_size, bits, []
        for n in range(1, order + 1):
            grams = self.pack(stream, n)
            if (
                n < order
            ):  # cada (n + 1)-grama distinto, sem o primeiro token: repete-se uma vez por token que o precede
                grams = np.unique(self.pack(stream, n + 1)) & ((1 << (bits * n)) - 1)
            keys, counts = np.unique(grams, return_counts=True)
            discount = (counts == 1).sum() / max(1, (counts == 1).sum() + 2 * (counts == 2).sum())
            contexts, first = np.unique(keys >> bits, return_index=True)
            totals, kinds = np.add.reduceat(counts, first), np.diff([*first, len(keys)])
            self.tables.append((keys, counts, contexts, totals, kinds, discount))

    def pack(self, stream, n):
        """Os n-gramas de uma fila, cada um num inteiro, o último token nos bits baixos: (N − n + 1,)."""
        packed = np.zeros(len(stream) - n + 1, dtype=np.int64)
        for i in range(n):
            packed = (packed << self.bits) | stream[i : len(stream) - n + 1 + i].astype(np.int64)
        return packed

    def probabilities(self, stream):
        """A probabilidade de cada token da fila, com o contexto que há antes dela: (N,)."""
        p = np.full(len(stream), 1 / self.vocab_size)
        for n, (keys, counts, contexts, totals, kinds, discount) in enumerate(self.tables, start=1):
            if len(stream) < n:
                break
            wanted = self.pack(stream, n)
            count, total, kind = (
                lookup(keys, counts, wanted),
                *(lookup(contexts, values, wanted >> self.bits) for values in (totals, kinds)),
            )
            known, lower = total > 0, p[n - 1 :]
            mixed = (np.maximum(count - discount, 0) + discount * kind * lower) / np.maximum(total, 1)
            p[n - 1 :] = np.where(known, mixed, lower)
        return p


def lookup(keys, values, wanted):
    """O valor de cada chave procurada, 0 se ela não existe. keys: em ordem."""
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
