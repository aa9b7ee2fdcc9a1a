"""As tarefas do curso: dados reais em português, métricas e as linhas de base que todo resultado precisa vencer.

task = tasks.load("aceitabilidade")     # de um texto para um rótulo
task.train[0]                           # {"text": …, "label": …, "source": …}
tasks.tfidf(task, task.test)            # o que um saco de palavras consegue na mesma divisão
tasks.load("meus.csv", text="frase", label="classe")            # a mesma coisa, com os seus dados
task = tasks.load("corrija")            # de um texto para outro; as linhas de base destas estão em baselines
task.train[0]                           # {"input": "corrija: …", "target": …, "given": …, "kind": …, "source": …}
"""

import math
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from difflib import SequenceMatcher

import datasets
import numpy as np
import sacrebleu
import sklearn.metrics
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from tqdm.auto import tqdm

from ftcourse import own_data
from ftcourse.files import DATA, choose

LABELS = {
    "aceitabilidade": ("com falha", "bem escrita"),
    "bncc_componente": (
        "Arte", "Ciências", "Educação Física", "Ensino Religioso", "Geografia", "História",
        "Língua Inglesa", "Língua Portuguesa", "Matemática",
    ),
}  # fmt: skip
IGNORED = -100  # o rótulo que cross_entropy pula


@dataclass(frozen=True)
class Task:
    """Uma tarefa de classificação, de `text` para um de `labels`; cada divisão é um `datasets.Dataset`."""

    name: str
    labels: tuple[str, ...]
    train: datasets.Dataset
    validation: datasets.Dataset
    test: datasets.Dataset
    out_of_domain: datasets.Dataset | None = None  # frases de uma fonte que o treino não viu

    def encode(self, tokenizer, rows, seq2seq=False):
        """As linhas em fichas: uma lista de {"input_ids": …, "attention_mask": …, "labels": …}, em toda família."""
        encoded = tokenizer(list(rows["text"]), truncation=True, return_token_type_ids=False, verbose=False)
        return [
            {"input_ids": ids, "attention_mask": mask, "labels": label}
            for ids, mask, label in zip(encoded["input_ids"], encoded["attention_mask"], rows["label"], strict=True)
        ]

    def metrics(self, predictions, references):
        """Acurácia, MCC e F1 macro, de 0 a 1 (MCC: de −1 a 1), e o número de exemplos. predictions: (n,) inteiros."""
        return {
            "accuracy": float(sklearn.metrics.accuracy_score(references, predictions)),
            "mcc": float(sklearn.metrics.matthews_corrcoef(references, predictions)),
            "f1": float(sklearn.metrics.f1_score(references, predictions, average="macro")),
            "n": len(references),
        }


class TextTask(Task):
    """Uma tarefa de escrever: de `input`, o pedido inteiro, para `target`. `given` é o texto que o pedido traz.

    `labels` é vazio. O que muda de uma para outra é a linha que sai de um arquivo e o que se mede além do comum.
    """

    separator = " "  # entre o pedido e a resposta, quando os dois vão em fila
    opening = ""  # o que abre a resposta num codificador-decodificador
    stop = ()  # que fichas, além da de fim, fecham a resposta
    # Ao escrever, quantas fichas seguidas não se repetem; 0: nenhuma proibição. Em quem continua o pedido, valem também
    # as dele.
    no_repeat = 0

    def prompts(self, tokenizer, texts, seq2seq=False):
        """O que o modelo lê antes de escrever, em fichas: uma lista para cada pedido.

        Num codificador-decodificador (seq2seq) o pedido termina na ficha de fim. Nos outros vem depois da de começo,
        ou da de fim do texto anterior onde aquela não existe.

        Levanta ValueError se um pedido não deixa lugar para a resposta.
        """
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        limit, ids = tokenizer.model_max_length, tokenizer(list(texts), add_special_tokens=False, verbose=False)
        if seq2seq:
            return [[*i[: limit - 1], tokenizer.eos_token_id] for i in ids["input_ids"]]
        if (longest := 1 + max(map(len, ids["input_ids"]))) >= limit:
            raise ValueError(
                f"Um pedido de {self.name} tem {longest} fichas e o modelo lê {limit}, resposta incluída: encurte-o."
            )
        return [[start, *i] for i in ids["input_ids"]]

    def encode(self, tokenizer, rows, seq2seq=False):
        """As linhas em fichas: uma lista de {"input_ids": …, "attention_mask": …, "labels": …}.

        Os rótulos são as fichas da resposta e a de fim. Em fila com o pedido (sem seq2seq), as do pedido levam IGNORED:
        a perda é só da resposta. O que passa do tamanho do modelo é cortado.
        """
        limit, end = tokenizer.model_max_length, tokenizer.eos_token_id
        prompts = self.prompts(tokenizer, rows["input"], seq2seq)
        targets = [(self.opening if seq2seq else self.separator) + target for target in rows["target"]]
        answers = [[*i, end] for i in tokenizer(targets, add_special_tokens=False, verbose=False)["input_ids"]]
        examples = []
        for prompt, answer in zip(prompts, answers, strict=True):
            ids = prompt if seq2seq else (prompt + answer)[:limit]
            labels = answer[:limit] if seq2seq else ([IGNORED] * len(prompt) + answer)[:limit]
            examples.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
        return examples

    def metrics(self, predictions, rows):
        """Respostas iguais à esperada, de 0 a 1, chrF (Popović, 2015; de 0 a 100) e o número de exemplos."""
        same = [prediction == target for prediction, target in zip(predictions, rows["target"], strict=True)]
        chrf = sacrebleu.corpus_chrf(list(predictions), [list(rows["target"])]).score
        return {"exact": float(np.mean(same)), "chrf": chrf, "n": len(same)}

    def loss_metrics(self, losses, tokenizer, rows):
        """O que se tira da perda de cada ficha da resposta: média em nats, perplexidade, bits por caractere.

        losses: uma lista de (fichas,), como a de `training.token_losses`.
        """
        total, tokens = sum(loss.sum().item() for loss in losses), sum(map(len, losses))
        characters = sum(map(len, rows["target"]))
        mean = total / tokens
        return {"loss": mean, "perplexity": math.exp(mean), "bits": total / math.log(2) / characters, "n": len(losses)}


BLANK, NEXT = "<extra_id_0>", "<extra_id_1>"  # as primeiras sentinelas de T5, que marcam no pré-treino o que falta
PROMPT = "Escreva uma habilidade da BNCC.\nComponente: {componente}\nAno: {ano}\nObjeto: {objeto}\nHabilidade:"


class Skill(TextTask):
    """Escrever uma habilidade da BNCC a partir de componente, ano e objeto de conhecimento."""

    no_repeat = 4  # sempre na ficha mais provável, um modelo pequeno entra em laço e não sai

    @staticmethod
    def row(row):
        return {"input": PROMPT.format(**row), "target": row["text"], "given": row["objeto"]}


class Correction(TextTask):
    """Escrever sem a falha a frase que talvez tenha uma. `kind` é o tipo da falha, None na frase certa."""

    @staticmethod
    def row(row):
        given, target = composed(row["text"]), composed(row["original"] or row["text"])
        fields = {"kind": row["kind"], "source": row["source"]}
        return {"input": f"corrija: {given}", "target": target, "given": given, **fields}

    def metrics(self, predictions, rows):
        """E, de 0 a 1: falhas mendadas, frases certas deixadas como estavam, falhas mendadas de cada tipo."""
        right = defaultdict(list)
        for kind, prediction, target in zip(rows["kind"], predictions, rows["target"], strict=True):
            for group in (f"mended_{kind}", "mended") if kind else ("kept",):
                right[group].append(prediction == target)
        return super().metrics(predictions, rows) | {group: float(np.mean(right[group])) for group in sorted(right)}

    def loss_metrics(self, losses, tokenizer, rows):
        """E a perda média só nas fichas em que copiar erraria."""
        changed = [loss[mask[: len(loss)]] for loss, mask in zip(losses, self.changed(tokenizer, rows))]
        return super().loss_metrics(losses, tokenizer, rows) | {"loss_changed": torch.cat(changed).mean().item()}

    def changed(self, tokenizer, rows):
        """Em que fichas da resposta copiar o que foi dado erraria: uma lista de (fichas,), a de fim incluída."""
        columns = [[self.separator + text for text in rows[column]] for column in ("given", "target")]
        given, target = (tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] for texts in columns)
        masks = []
        for old, new in zip(given, target, strict=True):
            masks.append(torch.zeros(len(new) + 1, dtype=torch.bool))
            for tag, _, _, first, last in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
                if tag != "equal":
                    masks[-1][first : max(last, first + 1)] = True  # onde algo some, quem copia erra na ficha seguinte
        return masks


class Accents(TextTask):
    """Devolver os acentos e as cedilhas de uma frase que os perdeu."""

    @staticmethod
    def row(row):
        target = composed(row["original"] or row["text"])
        given = without_accents(target)
        return {"input": f"acentue: {given}", "target": target, "given": given, "source": row["source"]}

    def metrics(self, predictions, rows):
        """E, de 0 a 1: palavras com acento que saíram certas, palavras sem acento que saíram outras."""
        right = {True: [], False: []}  # se a palavra esperada tem acento
        for prediction, target in zip(predictions, rows["target"], strict=True):
            expected, got = words(target), words(prediction)
            plain = [[without_accents(word) for word in found] for found in (got, expected)]
            same = np.zeros(len(expected), bool)
            for i, j, size in SequenceMatcher(None, *plain, autojunk=False).get_matching_blocks():
                same[j : j + size] = [a == b for a, b in zip(got[i : i + size], expected[j : j + size])]
            for word, bare, ok in zip(expected, plain[1], same):
                right[word != bare].append(ok)
        accented = {"accented": float(np.mean(right[True])), "spoilt": 1 - float(np.mean(right[False]))}
        return super().metrics(predictions, rows) | accented


class Cloze(TextTask):
    """Escrever a palavra que falta: a da frase certa no lugar em que `aceitabilidade` fez a falha, de tipo `kind`.

    Como no pré-treino de T5, a resposta começa pela sentinela da lacuna e acaba onde viria a da seguinte.
    """

    opening, stop = f"{BLANK} ", (NEXT,)

    @staticmethod
    def row(row):
        if not (word := row["original"] and changed_word(row)):
            return None
        sentence = composed(row["original"])
        given = f"{sentence[: word.start()]}{BLANK}{sentence[word.end() :]}"
        fields = {"kind": row["kind"], "source": row["source"]}
        return {"input": f"complete: {given}", "target": word[0], "given": given, **fields}

    def prompts(self, tokenizer, texts, seq2seq=False):
        if not (seq2seq and {BLANK, NEXT} <= tokenizer.get_vocab().keys()):
            raise ValueError(
                f"A tarefa {self.name} mostra a lacuna com a ficha {BLANK}, que este modelo não tem: use um T5."
            )
        return super().prompts(tokenizer, texts, seq2seq)

    def metrics(self, predictions, rows):
        """Respostas iguais à esperada, de 0 a 1, no todo e em cada tipo, e o número de exemplos."""
        right = defaultdict(list)
        for kind, prediction, target in zip(rows["kind"], predictions, rows["target"], strict=True):
            for group in ("exact", f"filled_{kind}"):
                right[group].append(prediction == target)
        return {group: float(np.mean(right[group])) for group in sorted(right)} | {"n": len(predictions)}


def changed_word(row):
    """A palavra em que a frase certa difere da que tem a falha, como um re.Match; None se não é uma só."""
    faulty, right = (list(re.finditer(r"\w+", composed(row[column]))) for column in ("text", "original"))
    changed = [new for old, new in zip(faulty, right) if old[0] != new[0]]
    return changed[0] if len(faulty) == len(right) and len(changed) == 1 else None


class Paragraphs(TextTask):
    """Parágrafos que nenhum pré-treino do curso viu: mede-se neles o que um ajuste fez esquecer."""

    separator = ""

    @staticmethod
    def row(row):
        return {"input": "", "target": row["paragraph"], "given": "", "source": row["source"]}

    def encode(self, tokenizer, rows, seq2seq=False):
        if seq2seq:
            raise ValueError(
                "Só um modelo que continua textos, como LLaMA, dá a perda de um parágrafo; este o reescreve."
            )
        return super().encode(tokenizer, rows)


WRITTEN = {  # o que se escreve: de que pasta vêm as linhas, e a classe que faz de cada uma um pedido e uma resposta
    "habilidade_bncc": ("habilidade_bncc", Skill),
    "corrija": ("aceitabilidade", Correction),
    "acentue": ("aceitabilidade", Accents),
    "complete": ("aceitabilidade", Cloze),
}
TASKS = (*LABELS, *WRITTEN)


def load(name, **columns):
    """A tarefa de nome `name`, lida de data/tarefas, ou a que se faz dos dados de quem lê: ver `own_data.read_source`.

    Levanta ValueError, com as que existem, se não a conhece, e o que `own_data.read_source` levanta.
    """
    if name not in TASKS and own_data.is_source(name):
        own, labels, splits = own_data.read_source(name, **columns)
        return Task(own, labels, **splits)
    if columns:
        raise ValueError(f"{', '.join(columns)} valem para os seus dados; a tarefa {name!r} já tem as colunas dela.")
    if choose("a tarefa", name, TASKS) in LABELS:
        return Task(name, LABELS[name], **read(DATA / "tarefas" / name))
    folder, kind = WRITTEN[name]
    return kind(name, (), **read(DATA / "tarefas" / folder, kind))


def general_text():
    """Os parágrafos reservados de data/texto_geral, como uma tarefa que só tem teste: não se treina nela."""
    return Paragraphs("texto_geral", (), None, None, **read(DATA / "texto_geral", Paragraphs))


def read(folder, kind=None):
    """{divisão: datasets.Dataset} dos .jsonl de uma pasta; `kind.row` faz de cada linha outra, ou None, e ela sai."""
    files = {
        split: paths
        for split in ("train", "validation", "test", "out_of_domain")
        if (paths := sorted(map(str, folder.rglob(f"{split}.jsonl"))))
    }
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        splits = datasets.load_dataset("json", data_files=files)
        if not kind:
            return dict(splits)
        # Em memória: o cache de datasets não veria uma mudança nesta casa.
        derived = {split: [new for row in rows if (new := kind.row(row))] for split, rows in splits.items()}
        return {split: datasets.Dataset.from_list(rows) for split, rows in derived.items()}
    finally:
        if not bars:
            datasets.enable_progress_bars()


def words(text):
    """As palavras de um texto, na ordem, sem a pontuação."""
    return re.findall(r"\w+", text)


def composed(text):
    """O texto com cada letra acentuada num caractere só: umas poucas frases publicadas a têm em dois."""
    return unicodedata.normalize("NFC", text)


def without_accents(text):
    """O texto sem acentos nem cedilhas."""
    return composed("".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c)))


def majority(task, rows):
    """Responder sempre a classe mais comum do treino, o piso de qualquer tabela: (n,)."""
    return np.full(len(rows), np.bincount(task.train["label"]).argmax())


def tfidf(task, rows):
    """Palavras e pares com TF-IDF e regressão logística: o que se consegue sem pré-treino e quase sem ordem. (n,)"""
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
    )
    return model.fit(task.train["text"], task.train["label"]).predict(rows["text"])


@torch.no_grad()
def surprise(model, tokenizer, sentence):
    """O espanto do modelo com cada ficha da frase quando ela é escondida, e a incerteza dele ali; ambos (T,), em nats.

    A soma do espanto é menos a pseudo-log-verossimilhança (Salazar et al., 2020, eq. 1): uma máscara por posição,
    todas num lote só. A incerteza é a entropia da distribuição prevista.
    """
    ids = tokenizer(sentence, truncation=True, return_tensors="pt")["input_ids"].to(model.device)  # (1, T + 2)
    inner = torch.arange(1, ids.shape[1] - 1, device=ids.device)
    batch = ids.repeat(len(inner), 1)  # (T, T + 2)
    batch[torch.arange(len(inner)), inner] = tokenizer.mask_token_id
    hidden = model.base_model(batch).last_hidden_state[torch.arange(len(inner)), inner]  # (T, d)
    log_p = model.cls(hidden).log_softmax(-1)  # (T, V)
    return -log_p.gather(1, ids[0, inner, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


def without_labels(model, tokenizer, sentences):
    """Uma nota por frase sem ter visto um rótulo: menos o maior excesso de espanto, espanto − incerteza. (n,)"""
    bar = tqdm(sentences, desc="lendo com uma máscara por vez", unit="frase", delay=2, leave=False)
    return np.array(
        [-max(s - h for s, h in zip(*map(torch.Tensor.tolist, surprise(model, tokenizer, t)))) for t in bar]
    )
