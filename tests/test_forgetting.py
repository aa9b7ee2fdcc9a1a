"""O esquecimento: a perda do pré-treino num texto que ninguém treinou, com o corpo que o ajuste deixou."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from toys import tokenizer, toy_model, toy_task
from transformers import BertForMaskedLM, DataCollatorForLanguageModeling

from ftcourse import evaluation, forgetting, methods, models, tasks, training
from ftcourse.task import IGNORED

TASK = {"bert": "aceitabilidade", "llama": "habilidade_bncc", "t5": "complete"}


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Seis parágrafos em vez de duzentos."""
    general = tasks.general_text()
    monkeypatch.setattr(tasks, "general_text", lambda: replace(general, test=general.test.select(range(6))))


def load(family, technique=None, **settings):
    model, tokenizer = models.load(family, tasks.load(TASK[family]))
    if technique:
        methods.apply(model, technique, **settings)
    return model, tokenizer


def test_the_loss_of_the_bert_is_that_of_the_masked_model():
    """A mesma máscara pelo caminho de transformers: BertForMaskedLM com rótulos."""
    language, tokenizer = models.load("bert")
    texts = list(tasks.general_text().test["target"])
    ids = tokenizer(texts, truncation=True, max_length=forgetting.LONGEST)["input_ids"]
    batch = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15, seed=0)([{"input_ids": i} for i in ids])
    assert 0.1 < (batch["labels"] != IGNORED).float().sum() / batch["attention_mask"].sum() < 0.2
    with torch.no_grad():
        wanted = language(**batch).loss.item()
    assert forgetting.general_loss(*load("bert")) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_it_is_of_the_active_adapter_and_not_of_the_head(family):
    """Um adaptador que chega sem mudar nada não esquece nada; com os pesos mexidos, esquece; desligado, volta."""
    before = forgetting.general_loss(*load(family))
    model, tokenizer = load(family, "lora", r=2)
    assert forgetting.general_loss(model, tokenizer) == pytest.approx(before, rel=1e-5)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                nn.init.normal_(p, std=0.5)
    assert forgetting.general_loss(model, tokenizer) > before + 0.3
    with methods.disabled(model):
        assert forgetting.general_loss(model, tokenizer) == pytest.approx(before, rel=1e-5)


@pytest.mark.parametrize("technique", ["prompt", "prefix"])
def test_virtual_tokens_are_not_asked_for(technique):
    before = forgetting.general_loss(*load("bert"))
    after = forgetting.general_loss(*load("bert", technique, num_virtual_tokens=20))
    assert abs(after - before) < 0.5


def test_training_the_body_forgets_and_training_the_head_does_not():
    before = forgetting.general_loss(*load("bert"))
    for technique, forgets in (("full", True), ("head", False)):
        model, tokenizer = load("bert", technique)
        training.train(model, tokenizer, toy_task(), lr=2e-3, steps=6, batch_size=8)
        assert (forgetting.general_loss(model, tokenizer) > before + 0.1) == forgets


def test_a_body_that_is_no_number_is_refused():
    model, tokenizer = load("bert")
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="não é um número"):
        forgetting.general_loss(model, tokenizer)
    assert not evaluation.in_float16(model)


# ---------------------------------------------------------------- em poucas frases, no BERT

TEXTS = toy_task().train["text"]


@pytest.fixture(scope="module")
def pretrained():
    return toy_model(kind=BertForMaskedLM)


def test_it_is_the_loss_that_the_pretraining_model_gives(pretrained):
    hidden = forgetting.hide(tokenizer(), TEXTS)
    with torch.no_grad():
        assert forgetting.loss(pretrained, pretrained, hidden) == pytest.approx(pretrained(**hidden).loss.item())


def test_only_the_body_of_the_tuned_model_counts(pretrained):
    hidden, tuned = forgetting.hide(tokenizer(), TEXTS), toy_model()
    tuned.bert.load_state_dict(pretrained.bert.state_dict(), strict=False)  # sem o pooler, que o pré-treino não tem
    same = forgetting.loss(tuned, pretrained, hidden)
    assert same == forgetting.loss(pretrained, pretrained, hidden)
    torch.nn.init.normal_(tuned.classifier.weight)
    assert forgetting.loss(tuned, pretrained, hidden) == same
    torch.nn.init.normal_(tuned.bert.encoder.layer[0].output.dense.weight)
    assert forgetting.loss(tuned, pretrained, hidden) != same


def test_what_is_hidden_depends_on_the_seed_alone():
    one, again, other = (forgetting.hide(tokenizer(), TEXTS, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["labels"], other["labels"])


def test_what_is_hidden_is_a_part_of_the_words_and_its_label_is_the_token_that_stood_there():
    hidden = forgetting.hide(tokenizer(), TEXTS)
    plain = tokenizer()(list(TEXTS), return_tensors="pt", padding=True)["input_ids"]
    chosen = hidden["labels"] != IGNORED
    words = ~torch.isin(plain, torch.tensor(tokenizer().all_special_ids))
    assert not (chosen & ~words).any() and 0.05 < (chosen.sum() / words.sum()).item() < 0.3
    assert torch.equal(hidden["labels"][chosen], plain[chosen])
    assert torch.equal(hidden["input_ids"][~chosen], plain[~chosen])
    assert (hidden["input_ids"][chosen] == tokenizer().mask_token_id).any()


def test_the_gradient_reaches_the_body_and_the_pretraining_head_stays_as_it_was(pretrained):
    tuned, hidden = toy_model(), forgetting.hide(tokenizer(), TEXTS)
    frozen = copy.deepcopy(pretrained).requires_grad_(False)
    forgetting.guessing_loss(forgetting.states(tuned, hidden), frozen, hidden).backward()
    assert tuned.bert.encoder.layer[0].output.dense.weight.grad.norm() > 0
    assert all(p.grad is None for p in frozen.parameters())
