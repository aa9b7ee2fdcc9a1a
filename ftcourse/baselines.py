"""As linhas de base, que todo resultado precisa vencer: o que se consegue sem ajuste algum, com o mesmo treino.

Quase toda função recebe a tarefa e as linhas e devolve uma resposta por linha: um rótulo, (n,), se a tarefa é de
classificar; um texto, como `evaluation.generate`, se é de escrever. O espanto precisa de um modelo pré-treinado.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

import datasets
import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from tqdm.auto import tqdm
from transformers import BertForMaskedLM, PreTrainedTokenizerBase

from ftcourse import text_tasks
from ftcourse.evaluation import measuring, why_not_finite
from ftcourse.task import Task, tokenize

TOKEN = re.compile(r"\w+|[^\w\s]")
EDGE = "\n"  # o que cerca uma frase; em nenhuma delas há quebra de linha


# ---------------------------------------------------------------- de classificar


def majority(task: Task, rows: datasets.Dataset) -> np.ndarray:
    """Responder sempre a classe mais comum do treino, o piso de qualquer tabela: (n,)."""
    return np.full(len(rows), np.bincount(task.train["label"]).argmax())


def tfidf(task: Task, rows: datasets.Dataset) -> np.ndarray:
    """Palavras e pares com TF-IDF e regressão logística: o que se consegue sem pré-treino e quase sem ordem. (n,)"""
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
    )
    return model.fit(task.train["text"][:], task.train["label"][:]).predict(rows["text"][:])


def surprise(
    model: BertForMaskedLM, tokenizer: PreTrainedTokenizerBase, sentence: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """O espanto do modelo com cada token da frase, quando escondido, e a incerteza do modelo ali; ambos (T,), em nats.

    A soma do espanto é menos a pseudo-log-verossimilhança (Salazar et al., 2020, eq. 1): uma máscara por posição,
    todas num lote só. A incerteza é a entropia da distribuição prevista. Levanta ValueError se a frase não tem token
    algum e FloatingPointError se o espanto não é um número.
    """
    ids = torch.tensor(tokenize(tokenizer, [sentence], truncation=True), device=model.device)  # (1, T + 2)
    if ids.shape[1] < 3:
        raise ValueError(f"A frase {sentence!r} não tem token algum que se possa esconder. Tire-a.")
    inner = torch.arange(1, ids.shape[1] - 1, device=ids.device)
    batch = ids.repeat(len(inner), 1)  # (T, T + 2)
    batch[torch.arange(len(inner)), inner] = tokenizer.mask_token_id
    with measuring(model):
        hidden = model.base_model(batch).last_hidden_state[torch.arange(len(inner)), inner]  # (T, d)
        log_p = model.cls(hidden).float().log_softmax(-1)  # (T, V)
    surprise, entropy = -log_p.gather(1, ids[0, inner, None])[:, 0], -(log_p.exp() * log_p).sum(-1)
    if not (surprise.isfinite() & entropy.isfinite()).all():
        raise FloatingPointError(f"O espanto de {sentence[:40]!r} não é um número. {why_not_finite(model)}")
    return surprise, entropy


def without_labels(model: BertForMaskedLM, tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]) -> np.ndarray:
    """Uma nota por frase sem ter visto um rótulo: menos o maior excesso de espanto, espanto − incerteza. (n,)"""
    bar = tqdm(sentences, desc="lendo com uma máscara por vez", unit="frase", delay=2, leave=False)
    return np.array(
        [-max(s - h for s, h in zip(*map(torch.Tensor.tolist, surprise(model, tokenizer, t)))) for t in bar]
    )


# ---------------------------------------------------------------- de escrever


def echo(task: Task, rows: datasets.Dataset) -> list[str]:
    """Devolver o que foi dado."""
    return list(rows["given"])


def retrieval(task: Task, rows: datasets.Dataset) -> list[str]:
    """A resposta do pedido do treino mais parecido: cosseno de TF-IDF de palavras e pares."""
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    known = vectorizer.fit_transform(task.train["input"])  # (treino, termos)
    nearest = (vectorizer.transform(rows["input"]) @ known.T).toarray().argmax(1)
    return [task.train[int(i)]["target"] for i in nearest]


def dictionary(task: Task, rows: datasets.Dataset) -> list[str]:
    """Cada palavra sem acento vira a sua forma mais comum no treino; a que o treino não tem fica como está.

    A forma se procura com as maiúsculas que a palavra tem e, se assim não existe, em minúsculas.
    """
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for target in task.train["target"]:
        for word in text_tasks.words(target):
            for form in {word, word.lower()}:
                counts[text_tasks.without_accents(form)][form] += 1
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
        """log P de um pedaço, do segundo token em diante."""
        return sum(self.log_p(a, b) for a, b in pairwise(tokens))


def mends(task: Task) -> tuple[dict[str, dict[str, float]], float]:
    """As trocas de palavra que corrigem as falhas do treino, com o custo de cada uma, e o de trocar duas vizinhas.

    {palavra: {forma: log P(falha)}}, log P(troca de vizinhas): o lado do canal, no canal ruidoso.
    """
    fixes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    seen: Counter[str] = Counter()
    swaps = 1
    for given, target in zip(task.train["given"], task.train["target"]):
        old, new = TOKEN.findall(given), TOKEN.findall(target)
        seen.update(old)
        different = [pair for pair in zip(old, new) if pair[0] != pair[1]]
        swaps += len(different) == 2
        if len(old) == len(new) and len(different) == 1:
            fixes[different[0][0]][different[0][1]] += 1
    costs = {word: {form: math.log(n / seen[word]) for form, n in forms.items()} for word, forms in fixes.items()}
    return costs, math.log(swaps / seen.total())


def best_mend(sentence: str, model: Bigrams, costs: dict[str, dict[str, float]], swap_cost: float) -> tuple[float, str]:
    """(ganho em nats, frase corrigida): a correção que mais melhora a frase no modelo, descontado o seu custo."""
    found = list(TOKEN.finditer(sentence))
    tokens = [EDGE, *(match[0] for match in found), EDGE]
    options = [(-math.inf, sentence)]
    for i, match in enumerate(found, start=1):
        before, word, after = tokens[i - 1 : i + 2]
        for form, cost in costs.get(word, {}).items():
            gain = model.score([before, form, after]) - model.score([before, word, after])
            options.append((gain + cost, sentence[: match.start()] + form + sentence[match.end() :]))
        if word.isalpha() and after.isalpha():
            gain = model.score([before, after, word, tokens[i + 2]]) - model.score(tokens[i - 1 : i + 3])
            swapped = sentence[: match.start()] + after + sentence[match.end() : found[i].start()] + word
            options.append((gain + swap_cost, swapped + sentence[found[i].end() :]))
    return max(options)


def bigrams(task: Task, rows: datasets.Dataset) -> list[str]:
    """Um corretor de canal ruidoso: em cada frase a melhor das correções do treino, se o ganho passa de um corte.

    O corte é o que deixa mais frases certas na validação.
    """
    model, channel = Bigrams(map(TOKEN.findall, task.train["target"])), mends(task)
    tried = []  # (ganho, o que a correção acrescenta às frases certas: 1, 0 ou −1)
    for given, target in zip(task.validation["given"], task.validation["target"]):
        gain, mended = best_mend(given, model, *channel)
        tried.append((gain, (mended == target) - (given == target)))
    tried.sort(reverse=True)
    best = int(np.argmax(np.cumsum([change for _, change in tried])))
    answers = [best_mend(given, model, *channel) for given in rows["given"]]
    return [mended if gain >= tried[best][0] else given for (gain, mended), given in zip(answers, rows["given"])]


def frequent(task: Task, rows: datasets.Dataset) -> list[str]:
    """A palavra que mais falta no treino, sempre."""
    return [Counter(task.train["target"]).most_common(1)[0][0]] * len(rows)


def neighbours(task: Task, rows: datasets.Dataset) -> list[str]:
    """Das palavras que faltam no treino, a que melhor liga a anterior à seguinte, num modelo de bigramas do treino."""
    train = zip(task.train["given"], task.train["target"])
    model = Bigrams(TOKEN.findall(given.replace(text_tasks.BLANK, target)) for given, target in train)
    candidates, answers = list(dict.fromkeys(task.train["target"])), []
    for given in rows["given"]:
        before, after = (TOKEN.findall(side) for side in given.split(text_tasks.BLANK))
        left, right = [EDGE, *before][-1], [*after, EDGE][0]
        answers.append(max(candidates, key=lambda word: model.score([left, word, right])))
    return answers


BASELINES = {
    "habilidade_bncc": (echo, retrieval), "corrija": (echo, bigrams), "acentue": (echo, dictionary),
    "complete": (frequent, neighbours),
}  # fmt: skip
NAMES = {
    "echo": "devolver o que foi dado", "retrieval": "o pedido mais parecido do treino",
    "bigrams": "bigramas e canal ruidoso", "dictionary": "a forma mais comum no treino",
    "frequent": "a palavra mais comum no treino", "neighbours": "bigramas com as duas vizinhas",
}  # fmt: skip
MEASURES = {
    "exact": "iguais à esperada", "chrf": "chrF", "mended": "falhas corrigidas", "kept": "certas inteiras",
    "accented": "palavras com acento", "spoilt": "sem acento, estragadas",
}  # fmt: skip


def markdown(task: Task) -> str:
    """A tabela do cartão: o que cada linha de base da tarefa tem no teste."""
    measured = {b.__name__: task.metrics(b(task, task.test), task.test) for b in BASELINES[task.name]}
    columns = [name for name in next(iter(measured.values())) if name != "n"]
    heads = [MEASURES.get(name, name.partition("_")[2]) for name in columns]
    lines = [f"| no teste | {' | '.join(heads)} |", "|---|" + "---:|" * len(columns)]
    for name, metrics in measured.items():
        cells = [f"{metrics[c]:.{1 if c == 'chrf' else 3}f}".replace(".", ",") for c in columns]
        lines.append(f"| {NAMES[name]} | {' | '.join(cells)} |")
    return "\n".join(lines)
