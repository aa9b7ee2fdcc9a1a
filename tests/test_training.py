"""O laço: determinista, igual a AdamW feito à mão, exato ao retomar depois de qualquer morte, e claro ao recusar."""

import errno
import os
import pickle
import random
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.optimizers import create_loraplus_optimizer
from toys import (
    WORDS,
    finish,
    kill,
    tiny,
    tiny_batch,
    tokenizer,
    toy_model,
    toy_task,
    toy_writer,
    toy_writing,
    train_toy,
)
from transformers import DataCollatorWithPadding

from ftcourse import evaluation, files, lora, methods, models, modules, training
from ftcourse.task import IGNORED

TASK = toy_task()
fast = settings(deadline=None, max_examples=100)


def run(model, steps=6, **options):
    return training.train(model, tokenizer(), TASK, **({"lr": 2e-3, "batch_size": 8} | options), steps=steps)


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    """Os nomes cujos tensores são iguais, bit a bit."""
    return {name for name in one if torch.equal(one[name], other[name])}


# ---------------------------------------------------------------- o que o laço faz


def test_a_seed_gives_the_same_numbers_and_another_gives_others():
    (a, first), (b, again), (c, other) = ((m := toy_model(), run(m, seed=seed)) for seed in (0, 0, 1))
    assert first == again and same(a.state_dict(), b.state_dict()) == a.state_dict().keys()
    assert first.loss != other.loss and same(a.state_dict(), c.state_dict()) < a.state_dict().keys()
    assert not a.training


def test_it_learns():
    model = toy_model()
    history = run(model, steps=80, lr=5e-3, eval_every=40)
    assert np.mean(history.loss[:10]) > 0.5 and np.mean(history.loss[-10:]) < 0.1
    assert [e["step"] for e in history.evaluations] == [40, 80] and history.evaluations[-1]["accuracy"] > 0.9
    assert len(history.loss) == 80


def test_measuring_does_not_change_the_training():
    assert run(toy_model(), eval_every=2).loss == run(toy_model()).loss


def test_only_what_requires_a_gradient_is_trained():
    model = toy_model()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("classifier"))
    before = snapshot(model)
    run(model)
    assert before.keys() - same(before, model.state_dict()) == {"classifier.weight", "classifier.bias"}


def test_steps_equal_adamw_by_hand():
    """Quatro passos, em float64: aquecimento, corte do gradiente, decaimento e a virada de uma época."""
    task, lr, decay, clip = toy_task(12), 1e-2, 0.1, 0.05
    model, hand = (toy_model(hidden_dropout_prob=0, attention_probs_dropout_prob=0).double() for _ in range(2))
    history = training.train(
        model, tokenizer(), task, lr=lr, steps=4, batch_size=4, warmup=0.5, weight_decay=decay, max_grad_norm=clip
    )

    examples, collate = task.encode(tokenizer(), task.train), DataCollatorWithPadding(tokenizer())
    lengths = np.array([len(example["input_ids"]) for example in examples])
    order = [rows for epoch in (0, 1) for rows in training.batches(lengths, 4, 0, epoch)]
    parameters = list(hand.parameters())
    first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))  # os momentos
    for t, (rows, fraction) in enumerate(zip(order, [0.5, 1, 1, 0.5]), start=1):
        loss = hand(**collate([examples[i] for i in rows])).loss
        assert loss.item() == pytest.approx(history.loss[t - 1], abs=1e-9)
        gradients = torch.autograd.grad(loss, parameters)
        norm = sum(g.square().sum() for g in gradients).sqrt()
        assert norm > clip
        with torch.no_grad():
            for p, g, m, v in zip(parameters, gradients, first, second):
                g = g * clip / (norm + 1e-6)
                m += 0.1 * (g - m)
                v += 0.001 * (g * g - v)
                p -= lr * fraction * decay * (p.ndim > 1) * p  # só as matrizes encolhem
                p -= lr * fraction * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    for name, p in hand.named_parameters():
        torch.testing.assert_close(p, model.get_parameter(name), rtol=0, atol=1e-9, msg=name)


def test_the_pieces_given_to_a_loop_by_hand_are_those_of_train():
    """`lots` e `adamw`: o laço do caderno 02, por duas épocas, chega aos mesmos pesos, bit a bit."""
    task, (by_hand, ours) = toy_task(12), (toy_model(), toy_model())
    training.train(ours, tokenizer(), task, lr=1e-2, steps=5, batch_size=4, warmup=0.5, weight_decay=0.1, seed=1)
    optimizer = training.adamw(by_hand, 1e-2, weight_decay=0.1)
    for step, batch in enumerate(training.lots(by_hand, tokenizer(), task, 5, batch_size=4, seed=1)):
        torch.manual_seed(1_000_003 + step)  # a do dropout, que `train` fixa
        by_hand.train()(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * training.schedule(step, 5, 0.5)
        optimizer.step()
        optimizer.zero_grad()
    assert step == 4 and same(by_hand.state_dict(), ours.state_dict()) == ours.state_dict().keys()


DEFAULTS = {"warmup": 0.1, "weight_decay": 0.01, "max_grad_norm": 1.0, "batch_size": 32, "seed": 0}


@pytest.mark.parametrize("name, other", [("warmup", 0.2), ("weight_decay", 0.02), ("max_grad_norm", 2.0), ("seed", 1)])
def test_the_defaults_are_these_and_each_one_counts(name, other):
    """Dez passos a uma taxa alta: um de aquecimento ou dois, e o gradiente passa de 2 no começo."""

    def trained(**given):
        model = toy_model(initializer_range=0.5)
        return training.train(model, tokenizer(), TASK, lr=1e-2, steps=20, **given), snapshot(model)

    plain, told, changed = trained(), trained(**DEFAULTS), trained(**DEFAULTS | {name: other})
    assert plain[0] == told[0] and same(plain[1], told[1]) == plain[1].keys()
    assert plain[0] != changed[0] and not same(plain[1], changed[1]) & {"classifier.weight"}


@fast
@given(st.integers(1, 400), st.floats(0, 1))
def test_the_rate_rises_to_one_and_falls_in_a_straight_line(steps, warmup):
    rate = [training.schedule(step, steps, warmup) for step in range(steps)]
    peak = max(1, round(warmup * steps)) - 1
    assert min(rate) > 0 and max(rate) == rate[peak] == 1
    assert np.diff(rate[: peak + 1]) == pytest.approx(1 / (peak + 1))
    assert np.diff(rate[peak + 1 :]) == pytest.approx(-1 / max(1, steps - peak - 1))


@fast
@given(
    st.lists(st.integers(2, 128), min_size=1, max_size=300), st.integers(1, 40), st.integers(0, 9), st.integers(0, 9)
)
def test_an_epoch_is_full_batches_without_repetition(lengths, batch_size, seed, epoch):
    lengths = np.array(lengths)
    order = training.batches(lengths, batch_size, seed, epoch)
    size = min(batch_size, len(lengths))
    assert order.shape == (len(lengths) // size, size)
    assert len(set(order.ravel().tolist())) == order.size and set(order.ravel()) <= set(range(len(lengths)))
    assert np.array_equal(order, training.batches(lengths, batch_size, seed, epoch))


def test_each_epoch_has_its_order_and_a_batch_has_like_lengths():
    lengths = np.random.default_rng(0).integers(4, 100, 3000)
    order = training.batches(lengths, 32, seed=0, epoch=0)
    assert np.ptp(lengths[order], axis=1).mean() < 20  # sorteados ao acaso, uns 90
    for seed, epoch in ((0, 1), (1, 0)):
        assert (order != training.batches(lengths, 32, seed, epoch)).mean() > 0.9


# ---------------------------------------------------------------- tarefas de escrever

WRITING = toy_writing()
SEQ2SEQ = pytest.mark.parametrize("seq2seq", [True, False], ids=["t5", "llama"])


def write(model, tokenizer, steps=6, **options):
    return training.train(model, tokenizer, WRITING, **({"lr": 5e-3, "batch_size": 8} | options), steps=steps)


@SEQ2SEQ
def test_a_model_learns_to_write_and_the_measures_see_it(seq2seq):
    model, tokenizer = toy_writer(seq2seq)
    before = evaluation.evaluate(model, tokenizer, WRITING, "train", generation=True)
    history = write(model, tokenizer, steps=300, lr=1e-2, eval_every=150)
    after = evaluation.evaluate(model, tokenizer, WRITING, "train", generation=True)
    assert before["exact"] == 0 and after["exact"] > 0.3 and after["chrf"] > before["chrf"] + 20
    assert after["loss"] < before["loss"] / 3 and after["perplexity"] == pytest.approx(np.exp(after["loss"]))
    assert [e["step"] for e in history.evaluations] == [150, 300] and "exact" not in history.evaluations[0]
    assert history.plot().get_ylabel().endswith("na validação (nats)") and not model.training


@SEQ2SEQ
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_writer_interrupted_resumes_to_the_same_numbers(tmp_path, monkeypatch, seq2seq, method):
    path = tmp_path / "c.pt"

    def start(seed=0):
        model, tokenizer = toy_writer(seq2seq, seed)
        return methods.apply(model, method), tokenizer

    whole = start()
    first = write(*whole, eval_every=2)
    save = training.save_state

    def save_and_stop(state, path):
        save(state, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_state", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        write(*start(), eval_every=2, checkpoint=path, checkpoint_every=4)
    monkeypatch.undo()
    again = start()
    assert write(*again, eval_every=2, checkpoint=path) == first
    assert same(snapshot(again[0]), snapshot(whole[0])) == snapshot(whole[0]).keys()
    with pytest.raises(ValueError, match=r"difere em task, task\.train\. Apague-o"):
        other = replace(WRITING, name="outra", train=WRITING.test)
        training.train(*start(), other, lr=5e-3, batch_size=8, steps=6, eval_every=2, checkpoint=path)


# ---------------------------------------------------------------- o lote em partes


def ragged(seed=0, n=24):
    """Linhas de tamanhos bem diferentes: a média das médias das partes seria outra."""
    rng = random.Random(seed)
    texts, answers = ([" ".join(rng.choices(WORDS, k=rng.randint(1, 5))) for _ in range(n)] for _ in range(2))
    return TASK.train.from_dict({"text": texts, "input": texts, "target": answers, "label": [i % 2 for i in range(n)]})


@pytest.mark.parametrize("method", ["full", "lora", "prompt"])
@pytest.mark.parametrize("micro", [1, 3, 100])
@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_a_batch_in_parts_takes_the_step_of_the_whole_batch(family, micro, method):

    def train(size):
        model, words = (toy_model(), tokenizer()) if family == "bert" else toy_writer(family == "t5")
        options = {"num_virtual_tokens": 3} if method == "prompt" else {}
        model = without_dropout(methods.apply(model, method, **options)).double()
        task, seen = replace(TASK if family == "bert" else WRITING, train=ragged()), []
        model.register_forward_pre_hook(lambda _, __, given: seen.append(len(given["labels"])), with_kwargs=True)
        history = training.train(model, words, task, lr=1e-3, steps=4, batch_size=8, micro_batch_size=size)
        return history.loss, snapshot(model), seen

    (loss, weights, together), (in_parts, others, apart) = train(None), train(micro)
    assert together == [8] * 4 and max(apart) == min(micro, 8) and sum(apart) == 4 * 8
    np.testing.assert_allclose(in_parts, loss, rtol=1e-6 if family == "llama" else 1e-9)  # a do LLaMA é em float32
    for name in weights:
        torch.testing.assert_close(others[name], weights[name], rtol=0, atol=1e-6, msg=name)


def without_dropout(model):
    for module in model.modules():
        for name in ("p", "dropout", "attention_dropout"):  # o do T5 e o da atenção do LLaMA são números da camada
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def test_a_part_in_which_nothing_is_asked_adds_nothing():
    """Sozinha ela daria 0/0; no lote inteiro, a média é das outras."""
    rows = ragged(n=8)
    labels = [0, IGNORED, 1, IGNORED, 0, 1, IGNORED, 0]
    task = replace(TASK, train=rows.remove_columns("label").add_column("label", labels))
    losses = [
        training.train(without_dropout(toy_model()), tokenizer(), task, lr=1e-3, steps=3, batch_size=8, **parts).loss
        for parts in ({}, {"micro_batch_size": 1})
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize("name", ["batch_size", "micro_batch_size"])
@pytest.mark.parametrize("value", [0, -1, 2.0, 1.5, True, "8", np.float64(4)])
def test_a_batch_is_of_a_whole_number_of_rows(name, value):
    model = toy_model()
    before = snapshot(model)
    with pytest.raises(ValueError, match=rf"{name}=.*um inteiro a partir de 1"):
        run(model, **{name: value})
    assert same(before, snapshot(model)) == before.keys()
    assert run(toy_model(), steps=1, **{name: np.int64(8)}) == run(toy_model(), steps=1, **{name: 8})


def test_a_training_in_parts_resumes_to_the_same_numbers_and_other_parts_are_another_training(tmp_path, monkeypatch):
    path, save, whole = tmp_path / "c.pt", training.save_state, toy_model()
    expected = run(whole, micro_batch_size=3)

    def save_and_stop(state, path):
        save(state, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_state", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        run(toy_model(), micro_batch_size=3, checkpoint=path, checkpoint_every=4)
    monkeypatch.undo()
    for other in (None, 4):
        with pytest.raises(ValueError, match=r"difere em micro_batch_size\. Apague-o"):
            run(toy_model(), micro_batch_size=other, checkpoint=path)
    model = toy_model()
    assert run(model, micro_batch_size=3, checkpoint=path) == expected
    assert same(snapshot(model), snapshot(whole)) == snapshot(whole).keys()


def test_the_dropout_is_drawn_from_the_seed_too(monkeypatch):
    """Com as mesmas linhas na mesma ordem, a semente não muda mais nada."""
    monkeypatch.setattr(training, "batches", lambda *_: np.arange(8)[None])
    dropped, whole = (
        [run(change(toy_model()), steps=1, seed=seed).loss[0] for seed in (0, 1)]
        for change in (lambda model: model, without_dropout)
    )
    assert whole[0] == whole[1] and dropped[0] != dropped[1]


# ---------------------------------------------------------------- morrer e retomar


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """O estado final de um treino que ninguém interrompeu."""
    path = tmp_path_factory.mktemp("inteiro") / "c.pt"
    assert finish(train_toy, path) == 0
    return training.load_state(path)


def assert_same_state(one, other):
    """Iguais em tudo: os tensores, bit a bit, e os números."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same_state(one[key], other[key])
    else:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_the_checkpoint_of_the_last_step_is_the_result(whole):
    model = toy_model()
    history = run(model, steps=90, eval_every=30)
    assert whole["step"] == 90 and whole["history"] == {"loss": history.loss, "evaluations": history.evaluations}
    assert same(whole["trained"], model.state_dict()) == whole["trained"].keys()


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_killed_while_saving_it_resumes_to_the_same_numbers(tmp_path, whole, function):
    path = tmp_path / "c.pt"
    assert finish(train_toy, path, 4, function) not in (0, 1)  # morreu ao gravar o passo 12
    assert training.load_state(path)["step"] == 9
    assert finish(train_toy, path) == 0
    assert_same_state(training.load_state(path), whole)


@pytest.mark.slow
def test_killed_at_random_moments_it_resumes_to_the_same_numbers(tmp_path, whole):
    path, rng, saved = tmp_path / "c.pt", random.Random(), None

    def progress():
        return path.exists() and path.stat().st_mtime_ns != saved

    for _ in range(5):
        assert kill(train_toy, path, when=progress, delay=rng.uniform(0, 0.03))
        saved = path.stat().st_mtime_ns
    assert 0 < training.load_state(path)["step"] < 90
    assert finish(train_toy, path) == 0
    assert_same_state(training.load_state(path), whole)


def test_resuming_a_finished_training_changes_nothing(tmp_path):
    path, model, again = tmp_path / "c.pt", toy_model(), toy_model(seed=5)
    history = run(model, checkpoint=path)
    assert run(again, checkpoint=path) == history
    assert same(model.state_dict(), again.state_dict()) == model.state_dict().keys()


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda: run(toy_model(), checkpoint="c.pt", lr=1e-4), "difere em lr"),
        (lambda: run(toy_model(), checkpoint="c.pt", batch_size=4, seed=3), "difere em batch_size, seed"),
        (lambda: run(frozen(), checkpoint="c.pt"), "difere em base, bert."),
        (lambda: run(toy_model(hidden_size=64), checkpoint="c.pt"), "difere em bert."),
    ],
    ids=["outra taxa", "outros lotes", "outros parâmetros", "outro modelo"],
)
def test_the_checkpoint_of_another_training_is_refused(tmp_path, monkeypatch, change, words):
    monkeypatch.chdir(tmp_path)
    run(toy_model(), checkpoint="c.pt")
    before = (tmp_path / "c.pt").read_bytes()
    with pytest.raises(ValueError, match=f"c.pt é de outro treino: {words}.*Apague-o"):
        change()
    assert (tmp_path / "c.pt").read_bytes() == before


def frozen():
    """O modelo de brinquedo em que só a cabeça treina."""
    model = toy_model()
    model.bert.requires_grad_(False)
    return model


def with_lora(seed=0, **options):
    """O modelo de brinquedo com LoRA; `seed` muda só o pré-treino."""
    return methods.apply(toy_model(seed), "lora", **options)


@pytest.mark.slow
@pytest.mark.parametrize("method", [m for m in methods.METHODS if m != "full"])
def test_an_adapter_killed_while_saving_resumes_to_the_same_numbers(tmp_path, method):
    whole, path, train = tmp_path / "inteiro.pt", tmp_path / "c.pt", partial(train_toy, method=method)
    assert finish(train, whole) == 0
    assert finish(train, path, 4, "replace") not in (0, 1)
    assert training.load_state(path)["step"] == 9
    assert finish(train, path) == 0
    assert_same_state(training.load_state(path), training.load_state(whole))


def test_the_checkpoint_of_another_base_other_settings_or_other_data_is_refused(tmp_path):
    path, first = tmp_path / "c.pt", run(with_lora(), checkpoint=tmp_path / "c.pt")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"c\.pt é de outro treino: difere em base\. Apague-o"):
        run(with_lora(seed=1), checkpoint=path)
    merged = methods.merge_and_unload(with_lora())
    methods.apply(merged, "lora")
    with torch.no_grad():
        merged.bert.encoder.layer[0].output.dense.base_layer.weight.add_(0.01)  # como se um adaptador tivesse ficado
    with pytest.raises(ValueError, match="difere em base"):
        run(merged, checkpoint=path)
    with pytest.raises(ValueError, match=r"difere em method\. Apague-o"):
        run(with_lora(lora_alpha=32), checkpoint=path)
    for other in (toy_task(62), replace(TASK, train=TASK.train.select([*range(1, 64), 0]))):
        with pytest.raises(ValueError, match=r"difere em task\.train\. Apague-o"):
            training.train(with_lora(), tokenizer(), other, lr=2e-3, batch_size=8, steps=6, checkpoint=path)
    assert path.read_bytes() == before
    beside = with_lora()
    methods.activate(methods.apply(beside, "lora", "outro"), "default")
    assert run(beside, checkpoint=path) == first  # um segundo adaptador não muda a base


# ---------------------------------------------------------------- uma taxa para cada grupo: LoRA+


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_lora_plus_trains_B_at_its_own_rate_and_all_the_rest_as_before(method):
    model = methods.apply(toy_model(), method)
    before, rate = snapshot(model), {}
    history = run(model, steps=1, multipliers=lora.plus(model, 16), weight_decay=0)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:  # no primeiro passo, Adam move cada número em ±taxa
            rate[name] = (parameter.detach() - before[name]).abs().max().item()
    assert history == run(methods.apply(toy_model(), method), steps=1, weight_decay=0)
    of_B = [r for name, r in rate.items() if "lora_B" in name]
    rest = [r for name, r in rate.items() if "lora_A" not in name and "lora_B" not in name]  # A: B = 0, gradiente zero
    assert of_B and rest and min(of_B) == pytest.approx(16 * 2e-3, rel=1e-2)
    assert max(rest) == pytest.approx(2e-3, rel=1e-2)


def test_without_multipliers_or_with_ones_the_numbers_are_the_same():
    model = with_lora()
    names = lora.plus(model, 1)
    assert run(model, steps=4, multipliers=names) == run(with_lora(), steps=4)


def test_lora_plus_resumes_to_the_same_numbers_and_another_ratio_is_refused(tmp_path, monkeypatch):
    model, whole = with_lora(), with_lora()
    first, path = run(whole, steps=6, multipliers=lora.plus(whole)), tmp_path / "c.pt"
    save = training.save_state

    def save_and_stop(state, path):
        save(state, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_state", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        run(model, steps=6, multipliers=lora.plus(model, np.float64(16)), checkpoint=path, checkpoint_every=4)
    monkeypatch.undo()
    again = with_lora()
    for other in (None, lora.plus(again, 4)):
        with pytest.raises(ValueError, match=r"difere em multipliers\. Apague-o"):
            run(again, steps=6, multipliers=other, checkpoint=path)
    assert run(again, steps=6, multipliers=lora.plus(again, np.float64(16)), checkpoint=path) == first
    assert same(snapshot(again), snapshot(whole)) == snapshot(whole).keys()


def test_lora_plus_steps_are_those_of_peft():
    """Numa base sem cabeça: em peft, tudo o que tem uma dimensão, o viés da cabeça também, treina com a taxa de B."""
    ours, theirs = methods.apply(tiny("llama lm"), "lora", r=3, lora_alpha=5), tiny("llama lm")
    targets = [*modules.targets(ours, "default")]
    theirs = peft.get_peft_model(theirs, peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets))
    others = {
        n.split("model.", 2)[-1].replace(".weight", ""): p for n, p in theirs.named_parameters() if p.requires_grad
    }
    mine = {n.removeprefix("model."): p for n, p in ours.named_parameters() if p.requires_grad}
    assert mine.keys() == {n.removeprefix("model.") for n in others}
    with torch.no_grad():
        for name, parameter in others.items():
            parameter.copy_(mine[name.removeprefix("model.")])
    by_peft = create_loraplus_optimizer(
        theirs, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16, loraplus_weight_decay=0.01, weight_decay=0.01
    )
    trained = {n: p for n, p in ours.named_parameters() if p.requires_grad}
    groups = training.by_rate(trained, lora.plus(ours, 16), 0.01)
    by_hand = torch.optim.AdamW([g | {"lr": 1e-3 * g["multiplier"]} for g in groups])
    for model, optimizer in ((ours, by_hand), (theirs, by_peft)):
        for _ in range(3):
            model(**tiny_batch(model)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert all(torch.equal(mine[name.removeprefix("model.")], p) for name, p in others.items())


@pytest.mark.parametrize(
    "multipliers, words",
    [({"lora_B": 16}, r"'lora_B' não é um parâmetro que treina"), ("ratio", r"ratio=0: .*maior que zero")],
)
def test_a_bad_rate_is_told_before_any_step(multipliers, words):
    model = with_lora()
    before = snapshot(model)
    with pytest.raises(ValueError, match=words):
        run(model, multipliers=lora.plus(model, 0) if multipliers == "ratio" else multipliers)
    assert same(before, snapshot(model)) == before.keys()
    with pytest.raises(ValueError, match="Nenhum B treina"):
        lora.plus(toy_model())


def test_a_model_in_which_nothing_trains_is_told(tmp_path):
    model = methods.merge(with_lora())
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"nada treina: comece por methods\.apply.*fundido.*methods\.unmerge"):
        run(model, checkpoint=tmp_path / "c.pt")
    assert same(before, model.state_dict()) == before.keys() and not [*tmp_path.iterdir()]
    run(methods.unmerge(model), steps=1)


def torch_file(content):
    def write(path):
        torch.save(content, path)

    return write


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1000]),
        lambda path: path.write_text("isto não é um checkpoint"),
        lambda path: path.write_bytes(pickle.dumps(print)),
        torch_file({"pesos": torch.zeros(2)}),
        torch_file(torch.zeros(2)),
    ],
    ids=["vazio", "cortado", "texto", "pickle", "de outro programa", "um tensor só"],
)
def test_what_is_not_a_checkpoint_is_refused(tmp_path, damage):
    path = tmp_path / "c.pt"
    run(toy_model(), steps=1, checkpoint=path)
    damage(path)
    with pytest.raises(OSError, match=r"c\.pt está cortado ou não é um checkpoint. Apague-o"):
        run(toy_model(), steps=1, checkpoint=path)


def test_a_loss_that_is_not_a_number_stops_the_training(tmp_path):
    path, model, sound = tmp_path / "c.pt", toy_model(), toy_model()
    forward, calls = model.forward, []

    def broken(**batch):
        calls.append(batch)
        return forward(**batch) if len(calls) < 5 else SimpleNamespace(loss=torch.tensor(float("nan")))

    model.forward = broken
    with pytest.raises(
        FloatingPointError, match=r"nan no passo 5, com lr=0\.002\. Comece por uma taxa dez vezes menor"
    ):
        run(model, checkpoint=path, checkpoint_every=2)
    assert training.load_state(path)["step"] == 4
    resumed = toy_model()
    assert run(resumed, checkpoint=path) == run(sound)
    assert same(resumed.state_dict(), sound.state_dict()) == sound.state_dict().keys()


def test_at_the_first_step_the_rate_is_not_to_blame_and_the_weight_or_the_rows_are_named(tmp_path):
    model = toy_model()
    with torch.no_grad():
        model.bert.embeddings.LayerNorm.weight[3] = float("nan")
    words = r"nan no passo 1, antes que a taxa agisse: .* O peso bert\.embeddings\.LayerNorm\.weight já não"
    with pytest.raises(FloatingPointError, match=words) as failure:
        run(model, checkpoint=tmp_path / "c.pt")
    assert "lr" not in str(failure.value) and not [*tmp_path.iterdir()]

    model, task = toy_model(), replace(TASK, train=TASK.train.select(range(8)))
    with torch.no_grad():
        model.classifier.weight.mul_(torch.finfo(torch.float32).max)
    with pytest.raises(FloatingPointError, match=r"o maior é de classifier\.weight, .*eram 0, 1, 2, 3, 4, 5, 6, 7 "):
        training.train(model, tokenizer(), task, lr=1e-3, steps=1, batch_size=8)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_after_the_first_step_the_rate_is_to_blame_and_in_float16_the_precision_too(precision):
    model = with_profile(precision)
    forward, calls = model.forward, []

    def broken(**batch):
        calls.append(batch)
        return forward(**batch) if len(calls) < 5 else SimpleNamespace(loss=torch.tensor(float("nan")))

    model.forward = broken
    way_out = "se continuar, faça as contas em bfloat16" if precision == "float16" else "há de diferente nas linhas"
    with pytest.raises(FloatingPointError, match=rf"nan no passo 5, com lr=0\.002\. .*dez vezes menor; .*{way_out}"):
        run(model)


def test_what_a_training_that_stopped_left_behind_does_not_enter_the_next():
    model, hook = toy_model(), None
    hook = model.classifier.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(FloatingPointError):
        run(model)
    hook.remove()
    assert run(model) == run(toy_model())


# ---------------------------------------------------------------- gravar onde não dá


@pytest.fixture
def old(tmp_path):
    """Um checkpoint que já estava lá."""
    training.save_state({"step": 1}, tmp_path / "c.pt")
    return tmp_path / "c.pt"


def assert_untouched(path):
    assert training.load_state(path) == {"step": 1} and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("function", ["open", "fsync", "replace"])
@pytest.mark.parametrize(
    "code, words",
    [
        (errno.ENOSPC, "o disco está cheio. Libere espaço"),
        (errno.EROFS, "a pasta só permite leitura. Escolha outra"),
        (errno.EACCES, "não tem permissão de escrita na pasta. Escolha outra"),
        (errno.EIO, "Confira o caminho ou escolha outra pasta"),
    ],
    ids=["disco cheio", "só leitura", "sem permissão", "outro erro"],
)
def test_a_failed_save_leaves_the_old_file_and_says_the_way_out(old, monkeypatch, function, code, words):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files if function == "open" else files.os, function, refuse, raising=False)
    with pytest.raises(OSError, match=rf"Não consegui gravar .*c\.pt: .*{words}") as failure:
        training.save_state({"step": 2}, old)
    assert failure.value.errno == code
    monkeypatch.undo()
    assert_untouched(old)


def test_a_file_that_does_not_fit_leaves_the_old_one(old):
    resource = pytest.importorskip("resource", reason="sem limites de arquivo neste sistema")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # o disco acaba no meio da gravação
    try:
        with pytest.raises(OSError, match=r"c\.pt: o arquivo passa do tamanho permitido. Escolha"):
            training.save_state({"step": 2, "tensor": torch.zeros(100_000)}, old)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_untouched(old)


@pytest.mark.parametrize("path", ["c.pt/d.pt", "c.pt/pasta/d.pt"])
def test_a_folder_that_is_a_file_is_told(old, path):
    with pytest.raises(OSError, match=r"uma parte do caminho é um arquivo, não uma pasta. Confira"):
        run(toy_model(), steps=1, checkpoint=old.parent / path)
    assert_untouched(old)


def test_the_folder_of_the_checkpoint_is_made(tmp_path):
    run(toy_model(), steps=1, checkpoint=tmp_path / "a" / "b" / "c.pt")
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["c.pt"]


def test_a_gradient_that_is_not_a_number_leaves_the_weights_alone():
    model = toy_model()
    before = snapshot(model)
    model.classifier.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(
        FloatingPointError, match=r"O gradiente virou inf no passo 1, antes que a taxa agisse: .*ficaram"
    ):
        run(model)
    assert same(before, model.state_dict()) == before.keys()


def test_a_rate_that_came_from_numpy_can_be_resumed(tmp_path):
    path, lr = tmp_path / "c.pt", np.logspace(-4, -2, 3)[1]
    first = run(toy_model(), lr=lr, checkpoint=path)
    assert run(toy_model(), lr=lr, checkpoint=path) == first


# ---------------------------------------------------------------- o lote e a precisão do perfil


def with_profile(precision, method="lora", batch_size=8):
    model = methods.apply(toy_model(), method)
    model.profile = models.Profile(batch_size=batch_size, precision=precision)
    return model


def test_the_batch_is_that_of_the_profile_unless_told():
    losses = [run(with_profile("float32", batch_size=n), batch_size=given).loss for n, given in ((8, None), (4, 8))]
    assert losses[0] == losses[1] != run(with_profile("float32", batch_size=4), batch_size=None).loss


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("method", ["full", "lora", "dora", "pissa", "ia3", "bitfit"])
def test_the_precision_is_that_of_the_profile_and_what_trains_stays_float32(precision, method):
    seen = set()
    model = with_profile(precision, method)
    model.bert.encoder.layer[0].output.dense.register_forward_hook(lambda _, x, y: seen.add(y.dtype))
    low, full = run(model, steps=12).loss, run(with_profile("float32", method), steps=12).loss
    assert seen == {getattr(torch, precision)} and low != full
    np.testing.assert_allclose(low, full, rtol=0.03)  # bfloat16 guarda 8 bits da fração; float16, 11
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert evaluation.evaluate(model, tokenizer(), TASK)["n"] == len(TASK.test)


def test_in_float16_a_gradient_that_overflows_skips_the_step_and_the_training_goes_on(monkeypatch):
    made = []

    def scaler(*arguments, **options):
        made.append(torch.amp.GradScaler(*arguments, init_scale=2.0**40, **options))
        return made[0]

    monkeypatch.setattr(training, "GradScaler", scaler)
    model = with_profile("float16")
    history = run(model, steps=40, lr=5e-3)
    assert 1 < made[0].get_scale() < 2**40 and all(p.isfinite().all() for p in model.parameters())
    assert np.mean(history.loss[-10:]) < np.mean(history.loss[:10])


def test_in_float16_the_gradient_is_divided_back_before_it_is_cut(monkeypatch):
    norms, cut = [], torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *args: norms.append(cut(*args)) or norms[-1])
    for precision in ("float16", "float32"):
        run(with_profile(precision), steps=1)
    assert norms[0].item() == pytest.approx(norms[1].item(), rel=0.01)


def test_in_float16_it_resumes_to_the_same_numbers(tmp_path, monkeypatch):
    """O multiplicador começa alto demais e desce por uns vinte passos: retomado do começo, desceria de novo."""
    monkeypatch.setattr(training, "GradScaler", partial(torch.amp.GradScaler, init_scale=2.0**40))
    whole, save = with_profile("float16"), training.save_state
    expected = run(whole, steps=40)

    def save_once(state, path):
        save(state, path)
        raise KeyboardInterrupt

    options = {"steps": 40, "checkpoint": tmp_path / "c.pt", "checkpoint_every": 30}
    monkeypatch.setattr(training, "save_state", save_once)
    with pytest.raises(KeyboardInterrupt):
        run(with_profile("float16"), **options)
    monkeypatch.setattr(training, "save_state", save)
    with pytest.raises(ValueError, match="difere em precision"):
        run(with_profile("bfloat16"), **options)
    model = with_profile("float16")
    assert run(model, **options) == expected
    assert same(model.state_dict(), whole.state_dict()) == whole.state_dict().keys()
