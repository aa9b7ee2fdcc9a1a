"""As tarefas de escrever, de um texto para outro: o pedido, a resposta e o que se mede em cada uma.

task = tasks.load("corrija")            # as linhas de base destas, como as outras, estão em baselines
task.train[0]                           # {"input": "corrija: …", "target": …, "given": …, "kind": …, "source": …}
"""

import copy
import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import ClassVar

import numpy as np
import sacrebleu
import torch
from transformers import AddedToken, PreTrainedTokenizerBase

from ftcourse.task import IGNORED, Task, tokenize, where


class TextTask(Task):
    """Uma tarefa de escrever: de `input`, o pedido inteiro, para `target`. `given` é o texto que o pedido traz.

    `labels` é vazio. O que muda de uma para outra é a linha que sai de um arquivo e o que se mede além do comum.
    """

    separator = " "  # entre o pedido e a resposta, quando os dois vão em fila
    opening: ClassVar[tuple[str, ...]] = ()  # que tokens abrem a resposta num codificador-decodificador
    stop: ClassVar[tuple[str, ...]] = ()  # que tokens, além do de fim, fecham a resposta
    # Ao escrever, quantos tokens seguidos não se repetem; 0: nenhuma proibição. Em quem continua o pedido, valem também
    # os dele.
    no_repeat = 0

    def prompts(self, tokenizer, texts, seq2seq=False):
        """O que o modelo lê antes de escrever, em tokens: uma lista para cada pedido.

        Num codificador-decodificador (seq2seq) o pedido termina no token de fim. Nos outros vem depois do de começo,
        ou do de fim do texto anterior onde aquele não existe.

        Levanta ValueError se um pedido não deixa lugar para a resposta.
        """
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        limit, read = tokenizer.model_max_length, self.read(tokenizer, texts)
        if seq2seq:
            return [[*ids[: limit - 1], tokenizer.eos_token_id] for ids in read]
        if (longest := 1 + max(map(len, read), default=0)) >= limit:
            raise ValueError(
                f"Um pedido de {self.name} tem {longest} tokens e o modelo lê {limit}, resposta incluída: encurte-o."
            )
        return [[start, *ids] for ids in read]

    def read(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
        """Os tokens de cada texto, sem os que o tokenizador põe em volta."""
        return tokenize(tokenizer, texts, add_special_tokens=False)

    def encode(self, tokenizer, rows, seq2seq=False):
        """As linhas em tokens: uma lista de {"input_ids": …, "attention_mask": …, "labels": …}.

        Os rótulos são os tokens da resposta e o de fim. Em fila com o pedido (sem seq2seq), os do pedido levam IGNORED:
        a perda é só da resposta. O que passa do tamanho do modelo é cortado.
        """
        limit, end = tokenizer.model_max_length, tokenizer.eos_token_id
        prompts = self.prompts(tokenizer, rows["input"], seq2seq)
        opening = tokenizer.convert_tokens_to_ids([*self.opening]) if seq2seq else []
        targets = [("" if seq2seq else self.separator) + target for target in rows["target"]]
        answers = [[*opening, *ids, end] for ids in tokenize(tokenizer, targets, add_special_tokens=False)]
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
        """O que se tira da perda de cada token da resposta: média em nats, perplexidade, bits por caractere.

        losses: uma lista de (tokens,), como a de `evaluation.token_losses`.
        """
        total, tokens = sum(loss.sum().item() for loss in losses), sum(map(len, losses))
        characters = sum(map(len, rows["target"]))
        mean = total / tokens
        perplexity = math.exp(min(mean, 700))  # e⁷¹⁰ não cabe num float, e um treino que diverge chega lá
        return {"loss": mean, "perplexity": perplexity, "bits": total / math.log(2) / characters, "n": len(losses)}


SENTINELS = [f"<extra_id_{i}>" for i in range(100)]  # as do T5, que no pré-treino marcam o que falta
BLANK, NEXT = SENTINELS[:2]
GAP = "\ufdd0"
PROMPT = "Escreva uma habilidade da BNCC.\nComponente: {componente}\nAno: {ano}\nObjeto: {objeto}\nHabilidade:"


class Skill(TextTask):
    """Escrever uma habilidade da BNCC a partir de componente, ano e objeto de conhecimento."""

    no_repeat = 4  # sempre no token mais provável, um modelo pequeno entra em laço e não sai

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
        """E, de 0 a 1: falhas corrigidas, frases certas deixadas como estavam, falhas corrigidas de cada tipo."""
        right = defaultdict(list)
        for kind, prediction, target in zip(rows["kind"], predictions, rows["target"], strict=True):
            for group in (f"mended_{kind}", "mended") if kind else ("kept",):
                right[group].append(prediction == target)
        return super().metrics(predictions, rows) | {group: float(np.mean(right[group])) for group in sorted(right)}

    def loss_metrics(self, losses, tokenizer, rows):
        """E a perda média só nos tokens em que copiar erraria."""
        changed = [loss[mask[: len(loss)]] for loss, mask in zip(losses, self.changed(tokenizer, rows))]
        return super().loss_metrics(losses, tokenizer, rows) | {"loss_changed": torch.cat(changed).mean().item()}

    def changed(self, tokenizer, rows):
        """Em que tokens da resposta copiar o que foi dado erraria: uma lista de (tokens,), o de fim incluído."""
        columns = [[self.separator + text for text in rows[column]] for column in ("given", "target")]
        given, target = (self.read(tokenizer, texts) for texts in columns)
        masks = []
        for old, new in zip(given, target, strict=True):
            masks.append(torch.zeros(len(new) + 1, dtype=torch.bool))
            for tag, _, _, first, last in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
                if tag != "equal":
                    masks[-1][first : max(last, first + 1)] = True  # onde algo some, quem copia erra no token seguinte
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

    Como no pré-treino do T5, a resposta começa pela sentinela da lacuna e acaba onde viria a da seguinte.
    """

    opening, stop = (BLANK,), (NEXT,)

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
                f"A tarefa {self.name} mostra a lacuna com o token {BLANK}, que este modelo não tem: use um T5."
            )
        return super().prompts(tokenizer, texts, seq2seq)

    def read(self, tokenizer, texts):
        # A lacuna entra como token: no lugar dela, ao ler, vai um caractere que Unicode reserva para o que não é texto.
        reader, sentinel = copy.deepcopy(tokenizer), tokenizer.convert_tokens_to_ids(BLANK)
        reader.add_tokens([AddedToken(GAP, lstrip=True, normalized=False)])
        gap = reader.convert_tokens_to_ids(GAP)
        read = tokenize(reader, [text.replace(BLANK, GAP) for text in texts], add_special_tokens=False)
        for i, (text, ids) in enumerate(zip(texts, read)):
            if not ids.count(gap) == text.count(BLANK) == 1:
                raise ValueError(
                    f"{where(i, text)} tem {text.count(BLANK)} lacunas, e a tarefa {self.name} é de uma só: escreva "
                    f"{BLANK} uma vez, no lugar da palavra que falta."
                )
        return [[sentinel if i == gap else i for i in ids] for ids in read]

    def metrics(self, predictions, rows):
        """Respostas iguais à esperada, de 0 a 1, no todo e em cada tipo, e o número de exemplos."""
        right = defaultdict(list)
        for kind, prediction, target in zip(rows["kind"], predictions, rows["target"], strict=True):
            for group in ("exact", f"filled_{kind}"):
                right[group].append(prediction == target)
        return {group: float(np.mean(right[group])) for group in sorted(right)} | {"n": len(predictions)}


def changed_word(row: dict) -> re.Match | None:
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
        """Quem continua textos (sem seq2seq) prevê o parágrafo inteiro; o T5, os trechos que se escondem dele."""
        if not seq2seq:
            return super().encode(tokenizer, rows)
        limit, sentinels = tokenizer.model_max_length, tokenizer.convert_tokens_to_ids(SENTINELS)
        texts, examples = self.read(tokenizer, rows["target"]), []
        for start, ids in enumerate(texts):
            kept, hidden = hide_spans(ids[: limit - 1], sentinels, start)
            ids, labels = [*kept, tokenizer.eos_token_id], [*hidden, tokenizer.eos_token_id]
            examples.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
        return examples


def hide_spans(
    ids: list[int], sentinels: Sequence[int], start: int = 0, length: int = 3, every: int = 20
) -> tuple[list[int], list[int]]:
    """(o que fica, o que falta) de um texto em que se escondem `length` tokens de cada `every`, a partir de `start`.

    Como no pré-treino do T5, uma sentinela fica no lugar de cada trecho e o anuncia na resposta (Raffel et al., 2020,
    §3.1.4). Cada trecho gasta uma sentinela: o texto acaba onde elas acabam.
    """
    kept, hidden, used = [], [], -1
    for i, token in enumerate(ids):
        place = (i - start) % every
        if place >= length:
            kept.append(token)
            continue
        if place == 0 or i == 0:
            used += 1
            if used == len(sentinels):
                break
            kept.append(sentinels[used])
            hidden.append(sentinels[used])
        hidden.append(token)
    return kept, hidden


WRITTEN = {  # o que se escreve: de que pasta vêm as linhas, e a classe que faz de cada uma um pedido e uma resposta
    "habilidade_bncc": ("habilidade_bncc", Skill),
    "corrija": ("aceitabilidade", Correction),
    "acentue": ("aceitabilidade", Accents),
    "complete": ("aceitabilidade", Cloze),
}


def words(text: str) -> list[str]:
    """As palavras de um texto, na ordem, sem a pontuação."""
    return re.findall(r"\w+", text)


def composed(text: str) -> str:
    """O texto com cada letra acentuada num caractere só: umas poucas frases publicadas a têm em dois."""
    return unicodedata.normalize("NFC", text)


def without_accents(text: str) -> str:
    """O texto sem acentos nem cedilhas."""
    return composed("".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c)))
