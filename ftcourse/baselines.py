"""As linhas de base das tarefas de escrever: o que se consegue sem rede neural alguma, com o mesmo treino.

Toda função recebe a tarefa e as linhas e devolve uma lista de respostas, uma por linha, como `training.generate`.
As das tarefas de classificação estão em tasks.
"""

import math
import re
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from ftcourse import tasks

TOKEN = re.compile(r"\w+|[^\w\s]")
EDGE = "\n"  # o que cerca uma frase; em nenhuma delas há quebra de linha


def echo(task, rows):
    """Devolver o que foi dado."""
    return list(rows["given"])


def retrieval(task, rows):
    """A resposta do pedido do treino mais parecido: cosseno de TF-IDF de palavras e pares."""
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    known = vectorizer.fit_transform(task.train["input"])  # (treino, termos)
    nearest = (vectorizer.transform(rows["input"]) @ known.T).toarray().argmax(1)
    return [task.train[int(i)]["target"] for i in nearest]


def dictionary(task, rows):
    """Cada palavra sem acento vira a sua forma mais comum no treino; a que o treino não tem fica como está.

    A forma se procura com as maiúsculas que a palavra tem e, se assim não existe, em minúsculas.
    """
    counts = defaultdict(Counter)
    for target in task.train["target"]:
        for word in tasks.words(target):
            for form in {word, word.lower()}:
                counts[tasks.without_accents(form)][form] += 1
    best = {bare: forms.most_common(1)[0][0] for bare, forms in counts.items()}

    def restore(match):
        word = match[0]
        form = best.get(word) or best.get(word.lower()) or word
        return "".join(c.upper() if old.isupper() else c for c, old in zip(form, word))

    return [re.sub(r"\w+", restore, given) for given in rows["given"]]


class Bigrams:
    """Um modelo de bigramas com desconto absoluto, interpolado com a continuação (Kneser e Ney, 1995)."""

    def __init__(self, sentences, discount=0.75):
        self.discount = discount
        self.pairs = Counter(pair for tokens in sentences for pair in pairwise([EDGE, *tokens, EDGE]))
        self.starts, self.followers, self.before = Counter(), Counter(), Counter()
        for (first, second), count in self.pairs.items():
            self.starts[first] += count
            self.followers[first] += 1
            self.before[second] += 1

    def log_p(self, first, second):
        """log P(second | first), em nats."""
        unseen = 1 / (2 * len(self.before))  # um pouco para o que nunca se viu
        continuation = (self.before[second] + unseen) / (len(self.pairs) + 0.5)
        if not (total := self.starts[first]):
            return math.log(continuation)
        kept = max(self.pairs[first, second] - self.discount, 0)
        return math.log((kept + self.discount * self.followers[first] * continuation) / total)

    def score(self, tokens):
        """log P de um pedaço, da segunda ficha em diante."""
        return sum(self.log_p(a, b) for a, b in pairwise(tokens))


def bigrams(task, rows):
    """Um corretor de canal ruidoso: das mendas possíveis, a que mais melhora o modelo de bigramas, se melhora bastante.

    As mendas são as do treino, palavra por palavra, com o seu custo (quão rara é a falha naquela palavra), e a troca de
    vizinhas. O que é "bastante" é o corte que deixa mais frases certas na validação.
    """
    model = Bigrams(map(TOKEN.findall, task.train["target"]))
    fixes, seen, swaps = defaultdict(Counter), Counter(), 0
    for given, target in zip(task.train["given"], task.train["target"]):
        old, new = TOKEN.findall(given), TOKEN.findall(target)
        seen.update(old)
        different = [i for i, (a, b) in enumerate(zip(old, new)) if a != b]
        swaps += len(different) == 2
        if len(old) == len(new) and len(different) == 1:
            fixes[old[different[0]]][new[different[0]]] += 1
    total = sum(seen.values())

    def best(given):
        """(ganho, frase mendada) da melhor menda de uma frase."""
        found = list(TOKEN.finditer(given))
        tokens = [EDGE, *(match[0] for match in found), EDGE]
        options = [(-math.inf, given)]
        for i, match in enumerate(found, start=1):
            for form, count in fixes[match[0]].items():
                gain = model.score([tokens[i - 1], form, tokens[i + 1]]) - model.score(tokens[i - 1 : i + 2])
                options.append(
                    (gain + math.log(count / seen[match[0]]), given[: match.start()] + form + given[match.end() :])
                )
            if i < len(found) and match[0].isalpha() and tokens[i + 1].isalpha():
                following = found[i]
                window = [tokens[i - 1], tokens[i + 1], tokens[i], tokens[i + 2]]
                swapped = following[0] + given[match.end() : following.start()] + match[0]
                gain = model.score(window) - model.score(tokens[i - 1 : i + 3])
                options.append(
                    (gain + math.log(swaps / total), given[: match.start()] + swapped + given[following.end() :])
                )
        return max(options)

    tried = [best(given) for given in task.validation["given"]]
    targets = task.validation["target"]
    order = sorted(range(len(tried)), key=lambda i: -tried[i][0])
    # mendar as k de maior ganho: +1 se a menda acerta, −1 se estraga uma frase certa
    change = [(tried[i][1] == targets[i]) - (task.validation[i]["given"] == targets[i]) for i in order]
    k = int(np.argmax(np.cumsum([0, *change])))
    cut = math.inf if k == 0 else tried[order[k - 1]][0]
    answers = []
    for given in rows["given"]:
        gain, mended = best(given)
        answers.append(mended if gain >= cut else given)
    return answers
