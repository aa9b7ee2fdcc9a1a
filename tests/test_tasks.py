"""As tarefas: o que se lê, como vira fichas, as métricas contra contas feitas à mão e as linhas de base."""

import numpy as np
import pytest
import torch
import transformers
from toys import tokenizer, toy_model, toy_task

from ftcourse import models, tasks
from ftcourse.files import DATA

SPLITS = ("train", "validation", "test", "out_of_domain")


@pytest.fixture(scope="module")
def loaded():
    return {name: tasks.load(name) for name in tasks.TASKS}


@pytest.mark.parametrize("name", tasks.TASKS)
def test_every_row_of_the_files_is_loaded(loaded, name):
    task = loaded[name]
    for split in SPLITS:
        lines = sum(p.read_text("utf-8").count("\n") for p in (DATA / "tarefas" / name).rglob(f"{split}.jsonl"))
        rows = getattr(task, split)
        assert (len(rows) if rows else 0) == lines
        if rows:
            assert set(rows["label"]) == set(range(len(task.labels))) and all(rows["text"])
    assert task.name == name and len(task.train) > len(task.test) > 100


def test_an_unknown_task_is_told_with_those_that_exist():
    with pytest.raises(ValueError, match=r"a tarefa 'aceitabildade'.*'aceitabilidade', 'bncc_componente'.*quis dizer"):
        tasks.load("aceitabildade")


def test_encode_cuts_at_what_the_model_reads():
    task = toy_task()
    rows = {"text": ["casa " * 500, "o gato"], "label": [1, 0]}
    long, short = task.encode(tokenizer(), rows)
    assert len(long["input_ids"]) == len(long["attention_mask"]) == 128
    assert tokenizer().convert_ids_to_tokens(short["input_ids"]) == ["[CLS]", *tokenizer().tokenize("o gato"), "[SEP]"]
    assert long["input_ids"][-1] == tokenizer().sep_token_id
    assert (long["labels"], short["labels"]) == (1, 0) and short.keys() == {"input_ids", "attention_mask", "labels"}


def test_metrics_are_the_ones_on_paper():
    """Quatro exemplos: 2 positivos certos, 1 falso positivo, 1 negativo certo."""
    metrics = toy_task().metrics(np.array([1, 1, 0, 1]), [1, 0, 0, 1])
    assert metrics == pytest.approx({"accuracy": 3 / 4, "mcc": 2 / 12**0.5, "f1": (4 / 5 + 2 / 3) / 2, "n": 4})
    assert toy_task().metrics(np.array([1, 1]), [1, 0])["mcc"] == 0  # responder sempre o mesmo não vale nada


def test_the_majority_is_that_of_the_training_rows(loaded):
    task = loaded["bncc_componente"]
    counts = [list(task.train["label"]).count(label) for label in range(len(task.labels))]
    assert max(counts) > sorted(counts)[-2]
    for split in ("validation", "test"):
        rows = getattr(task, split)
        answers = tasks.majority(task, rows)
        assert set(answers) == {counts.index(max(counts))} and len(answers) == len(rows)


def test_a_bag_of_words_solves_the_counterexample(loaded):
    task = loaded["bncc_componente"]
    labels = np.array(task.test["label"])
    accuracy = [np.mean(baseline(task, task.test) == labels) for baseline in (tasks.majority, tasks.tfidf)]
    assert accuracy[1] > 0.75 and accuracy[1] > accuracy[0] + 0.4


def test_a_bag_of_words_finds_no_artefact_in_the_faults(loaded):
    """Perto do acaso em cada fonte: se subir, a construção das falhas deixou um rastro que não é gramática."""
    task = loaded["aceitabilidade"]
    right = tasks.tfidf(task, task.test) == np.array(task.test["label"])
    sources = np.array(task.test["source"])
    accuracy = {source: right[sources == source].mean() for source in ("ajuda", "noticias")}
    assert max(accuracy.values()) < 0.62, accuracy


# ---------------------------------------------------------------- o espanto


@torch.no_grad()
def one_by_one(model, sentence):
    """(espanto, incerteza) ficha a ficha, com uma máscara e um modelo inteiro por vez."""
    ids = tokenizer()(sentence)["input_ids"]
    for i in range(1, len(ids) - 1):
        masked = torch.tensor([[*ids[:i], tokenizer().mask_token_id, *ids[i + 1 :]]])
        p = model(masked).logits[0, i].double().softmax(-1)
        yield -p[ids[i]].log().item(), -(p * p.log()).sum().item()


def test_surprise_equals_one_mask_at_a_time():
    model = toy_model(kind=transformers.BertForMaskedLM)
    sentences = ["O gato da menina subiu no livro.", "Chuva."]
    expected = [torch.tensor(list(one_by_one(model, s))).T for s in sentences]
    for sentence, (surprise, uncertainty) in zip(sentences, expected):
        got = tasks.surprise(model, tokenizer(), sentence)
        torch.testing.assert_close(got[0], surprise.float())
        torch.testing.assert_close(got[1], uncertainty.float())
    scores = [-(surprise - uncertainty).max().item() for surprise, uncertainty in expected]
    assert tasks.without_labels(model, tokenizer(), sentences) == pytest.approx(scores, abs=1e-4)


def test_the_unexpected_word_lowers_the_score():
    model = toy_model(kind=transformers.BertForMaskedLM)
    with torch.no_grad():
        model.cls.predictions.decoder.bias[tokenizer().convert_tokens_to_ids("casa")] += 9
    expected, surprising = tasks.without_labels(model, tokenizer(), ["casa casa casa", "casa livro casa"])
    assert expected > surprising


def test_the_published_model_prefers_the_sentence_without_the_fault(loaded):
    """Em 40 pares mínimos da ajuda, pela soma do espanto; o acaso acertaria 20."""
    faulty = [row for row in loaded["aceitabilidade"].validation if row["source"] == "ajuda" and not row["label"]][:40]
    model, tokenizer = models.load("bert")
    total = [[tasks.surprise(model, tokenizer, row[key])[0].sum() for key in ("original", "text")] for row in faulty]
    assert len(total) == 40 and sum(right < wrong for right, wrong in total) >= 36
