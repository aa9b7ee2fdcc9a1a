"""Medir: cada linha de um lote recebe o que receberia sozinha, nan não vira resultado, e o que se escreveu é texto."""

import copy
import random
from dataclasses import replace
from functools import cache

import datasets
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import WORDS, shake, tokenizer, toy_model, toy_task, toy_writer, toy_writing, writer_tokenizer
from transformers import DataCollatorWithPadding

from ftcourse import baselines, evaluation, methods, models, tasks, text_tasks, training
from ftcourse.task import IGNORED, tokenize

TASK, WRITING = toy_task(), toy_writing()
SEQ2SEQ = pytest.mark.parametrize("seq2seq", [True, False], ids=["t5", "llama"])
fast = settings(deadline=None, max_examples=40)


# ---------------------------------------------------------------- cada linha, o que teria sozinha


def toy_classifier(family):
    """(model, tokenizer) minúsculos e sorteados, com a cabeça de duas classes."""
    if family == "bert":
        return toy_model(), tokenizer()
    writer, words = toy_writer(seq2seq=family == "t5")
    words = copy.deepcopy(words)
    if family == "t5":  # a cabeça de T5 lê a ficha de fim
        end = (words.eos_token, words.eos_token_id)
        words.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"$A {end[0]}", special_tokens=[end]
        )
    kinds = {"llama": transformers.LlamaForSequenceClassification, "t5": transformers.T5ForSequenceClassification}
    writer.config.num_labels = 2
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kinds[family](writer.config).eval(), words


def rows_of_all_sizes(seed=0, n=24, longest=40):
    """De uma palavra às que mal cabem no modelo, em qualquer ordem."""
    rng = random.Random(seed)
    sizes = [1, 1, 2, longest, longest - 1, longest - 2, *(rng.randint(1, longest) for _ in range(n - 6))]
    rng.shuffle(sizes)
    texts = [" ".join(rng.choices(["a", "e", "o", "da"], k=size))[: longest + 4] for size in sizes]
    return datasets.Dataset.from_dict(
        {"text": texts, "input": texts, "target": texts[::-1], "label": [0, 1] * (n // 2)}
    )


ADAPTED = pytest.mark.parametrize("method", ["full", "lora", "prefix", "prompt"])


def adapted(model, method):
    options = {"num_virtual_tokens": 3} if method in ("prefix", "prompt") else {}
    return shake(methods.apply(shake(model), method, **options)).double()  # em float64 nenhum empate se desfaz no lote


@ADAPTED
@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_a_prediction_does_not_depend_on_the_batch(family, method):
    model, words = toy_classifier(family)
    model, rows = adapted(model, method), rows_of_all_sizes()
    alone = torch.cat([evaluation.predict(model, words, TASK, rows.select([i])) for i in range(len(rows))])
    for batch_size, order in ((len(rows), range(len(rows))), (5, np.random.default_rng(1).permutation(len(rows)))):
        together = evaluation.predict(model, words, TASK, rows.select(order), batch_size)
        torch.testing.assert_close(together, alone[[*order]], rtol=0, atol=1e-5)
    assert alone.std(0).min() > 1e-3 and len({len(ids) for ids in tokenize(words, rows["text"])}) > 10


@ADAPTED
@SEQ2SEQ
def test_a_loss_and_what_is_written_do_not_depend_on_the_batch(seq2seq, method):
    model, words = toy_writer(seq2seq)
    model, rows = adapted(model, method), rows_of_all_sizes()
    one = [rows.select([i]) for i in range(len(rows))]
    losses = [evaluation.token_losses(model, words, WRITING, row)[0] for row in one]
    written = [evaluation.generate(model, words, WRITING, row, max_new_tokens=30)[0] for row in one]
    for batch_size, order in ((len(rows), range(len(rows))), (5, np.random.default_rng(1).permutation(len(rows)))):
        mixed = rows.select(order)
        for i, loss in zip(order, evaluation.token_losses(model, words, WRITING, mixed, batch_size), strict=True):
            torch.testing.assert_close(loss, losses[i], rtol=0, atol=1e-5)
        answers = evaluation.generate(model, words, WRITING, mixed, max_new_tokens=30, batch_size=batch_size)
        assert answers == [written[i] for i in order]
    assert len({*written}) > 1


def insistent(monkeypatch, model, token):
    """O modelo só quer escrever uma ficha."""
    plain = model.forward
    monkeypatch.setattr(model, "forward", lambda **given: insist(plain(**given), token))


@pytest.mark.parametrize("rope", ["default", "dynamic"])
def test_the_room_of_a_row_is_its_own_and_nobody_goes_beyond_what_the_model_reads(monkeypatch, rope):
    """Com RoPE dinâmica, uma linha que passasse do tamanho do modelo mudaria as contas de todas."""
    model, words = toy_writer(seq2seq=False)
    model.config.rope_parameters = {"rope_type": rope, "rope_theta": 1e4, "factor": 2.0}
    model = transformers.LlamaForCausalLM(model.config).eval()
    insistent(monkeypatch, model, words.convert_tokens_to_ids("a"))
    rows, longest = {"input": ["o", "a" * 50, "o", "a" * 55, "a" * 50]}, []
    reads = model.model.rotary_emb.register_forward_pre_hook(
        lambda _, given, named: longest.append(int((*given, *named.values())[-1].max())), with_kwargs=True
    )
    answers = evaluation.generate(model, words, WRITING, rows, max_new_tokens=40)
    reads.remove()
    prompts = WRITING.prompts(words, rows["input"])
    assert list(map(len, answers)) == [min(40, 64 - len(prompt)) for prompt in prompts] and max(longest) < 64
    assert len({*map(len, answers)}) == 3


def test_a_tokenizer_that_gives_no_limit_and_a_split_without_rows_are_measured_too():
    model, words = toy_writer(seq2seq=False)
    unlimited = copy.deepcopy(words)
    unlimited.model_max_length = int(1e30)  # o que transformers põe onde nada está dito
    one, other = (evaluation.generate(model, w, WRITING, WRITING.test, max_new_tokens=4) for w in (words, unlimited))
    assert one == other and evaluation.generate(model, words, WRITING, {"input": []}) == []
    assert evaluation.predict(toy_model(), tokenizer(), TASK, {"text": [], "label": []}).shape == (0, 2)


@pytest.mark.parametrize("no_repeat", [1, 2, 4])
def test_the_filling_forbids_nothing(monkeypatch, no_repeat):
    """A ficha de preenchimento é a de fim, como em muitos modelos: as da esquerda não contam como escritas."""
    model, words = toy_writer(seq2seq=False)
    words = copy.deepcopy(words)
    words.pad_token = words.eos_token
    monkeypatch.setattr(type(WRITING), "no_repeat", no_repeat)
    rows = {"input": ["", "a casa do gato preto", "o", "a a a a", "a casa"]}
    written = set()
    for token in (words.eos_token, "a", "Ġ"):
        with monkeypatch.context() as patch:
            insistent(patch, model, words.convert_tokens_to_ids(token))
            alone = [
                evaluation.generate(model, words, WRITING, {"input": [text]}, max_new_tokens=9)[0]
                for text in rows["input"]
            ]
            assert evaluation.generate(model, words, WRITING, rows, max_new_tokens=9) == alone
            written |= {*alone}
    assert len(written) > 3


def test_the_surprise_of_a_sentence_does_not_depend_on_the_others():
    model = toy_model(kind=transformers.BertForMaskedLM).train()
    sentences = rows_of_all_sizes()["text"]
    alone = [baselines.without_labels(model, tokenizer(), [sentence])[0] for sentence in sentences]
    assert baselines.without_labels(model, tokenizer(), sentences[::-1]).tolist() == alone[::-1] and model.training


# ---------------------------------------------------------------- as medidas


def test_a_split_that_the_task_does_not_have_is_told_with_those_that_it_has():
    for split in ("out_of_domain", "teste"):
        with pytest.raises(ValueError, match=rf"a divisão '{split}'. Existe: 'train', 'validation', 'test'"):
            evaluation.evaluate(toy_model(), tokenizer(), TASK, split)


def test_predictions_keep_the_order_of_the_rows():
    model = toy_model().train()
    together = evaluation.predict(model, tokenizer(), TASK, TASK.test, batch_size=5)
    assert model.training  # como estava
    model.eval()
    alone = [evaluation.predict(model, tokenizer(), TASK, TASK.test.select([i])) for i in range(len(TASK.test))]
    torch.testing.assert_close(together, torch.cat(alone))
    assert len(set(map(len, TASK.test["text"]))) > 5 and together.shape == (len(TASK.test), 2)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_evaluate_measures_the_split(split):
    model, rows = toy_model(), getattr(TASK, split)
    answers = evaluation.predict(model, tokenizer(), TASK, rows).argmax(-1).numpy()
    measured = evaluation.evaluate(model, tokenizer(), TASK, split)
    assert measured == TASK.metrics(answers, rows["label"]) and measured.keys() == {"accuracy", "mcc", "f1", "n"}
    assert measured["n"] == len(rows)


def test_a_batch_is_the_one_of_transformers():
    examples = TASK.encode(tokenizer(), TASK.train.select(range(7)))
    ours, theirs = evaluation.collate(tokenizer(), examples), DataCollatorWithPadding(tokenizer())(examples)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@SEQ2SEQ
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_is_filled_up_to_the_longest_and_the_filling_is_never_asked(seq2seq, side):
    _, tokenizer = toy_writer(seq2seq)
    examples = WRITING.encode(tokenizer, WRITING.train.select(range(9)), seq2seq)
    batch = evaluation.collate(tokenizer, examples, side=side)
    for name, fill in (("input_ids", tokenizer.pad_token_id), ("attention_mask", 0), ("labels", IGNORED)):
        longest = max(len(example[name]) for example in examples)
        for example, row in zip(examples, batch[name].tolist(), strict=True):
            filling = [fill] * (longest - len(example[name]))
            assert row == ([*example[name], *filling] if side == "right" else [*filling, *example[name]])
            assert name != "input_ids" or len(set(map(len, WRITING.train["input"]))) > 3


@SEQ2SEQ
def test_the_loss_of_each_answer_is_the_one_of_the_model_alone(seq2seq):
    model, tokenizer = toy_writer(seq2seq)
    model.train()
    losses = evaluation.token_losses(model, tokenizer, WRITING, WRITING.test, batch_size=5)
    assert model.training
    model.eval()
    examples = WRITING.encode(tokenizer, WRITING.test, seq2seq)
    for example, loss in zip(examples, losses, strict=True):
        assert len(loss) == sum(label != IGNORED for label in example["labels"])
        alone = model(**{name: torch.tensor([ids]) for name, ids in example.items()}).loss
        assert loss.mean().item() == pytest.approx(alone.item(), rel=1e-5)
    assert len({len(loss) for loss in losses}) > 1
    measured = evaluation.evaluate(model, tokenizer, WRITING)
    assert measured["loss"] == pytest.approx(torch.cat(losses).mean().item())
    assert measured.keys() == {"loss", "perplexity", "bits", "n"}


@torch.no_grad()
def by_hand(model, tokenizer, prompt, seq2seq, most):
    """A geração gulosa, uma ficha por vez, sem cache nem lote."""
    written = []
    while len(written) < most and (not written or written[-1] != tokenizer.eos_token_id):
        if seq2seq:
            start = [model.config.decoder_start_token_id, *written]
            logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([start])).logits
        else:
            logits = model(input_ids=torch.tensor([[*prompt, *written]])).logits
        written.append(logits[0, -1].argmax().item())
    return tokenizer.decode(written, skip_special_tokens=True).strip()


@SEQ2SEQ
def test_what_is_written_in_batches_is_what_is_written_one_token_at_a_time(seq2seq):
    model, tokenizer = toy_writer(seq2seq)
    shake(model)  # sem isso, a resposta seria quase a mesma para todos
    answers = evaluation.generate(model, tokenizer, WRITING, WRITING.test, max_new_tokens=6, batch_size=5)
    prompts = WRITING.prompts(tokenizer, WRITING.test["input"], seq2seq)
    assert answers == [by_hand(model, tokenizer, prompt, seq2seq, 6) for prompt in prompts]
    assert len(set(map(len, prompts))) > 3 and len(set(answers)) > 3


@SEQ2SEQ
@pytest.mark.parametrize(
    "advice",
    [{"repetition_penalty": 1.5}, {"cache_implementation": "static"}, {"return_dict_in_generate": True}],
    ids=lambda advice: next(iter(advice)),
)
def test_what_the_maker_of_a_model_advises_does_not_change_what_is_written(seq2seq, advice):
    model, tokenizer = toy_writer(seq2seq)
    shake(methods.apply(model, "prefix", num_virtual_tokens=3))
    expected = evaluation.generate(model, tokenizer, WRITING, WRITING.test, max_new_tokens=6)
    model.generation_config.update(**advice)
    before = model.generation_config.to_dict()
    assert evaluation.generate(model, tokenizer, WRITING, WRITING.test, max_new_tokens=6) == expected
    assert model.generation_config.to_dict() == before


@SEQ2SEQ
def test_a_task_may_forbid_what_repeats(monkeypatch, seq2seq):
    """Um modelo que só quer escrever "a": com no_repeat = 2, o par "a a" sai uma vez e não volta."""
    model, tokenizer = toy_writer(seq2seq)
    letter, rows = tokenizer.convert_tokens_to_ids("a"), {"input": ["b"]}
    plain = model.forward
    monkeypatch.setattr(model, "forward", lambda **given: insist(plain(**given), letter))
    (looping,) = evaluation.generate(model, tokenizer, WRITING, rows, max_new_tokens=8)
    monkeypatch.setattr(type(WRITING), "no_repeat", 2)
    (free,) = evaluation.generate(model, tokenizer, WRITING, rows, max_new_tokens=8)
    assert looping == 8 * "a" and free.startswith("aa") and "aaa" not in free


def insist(output, token):
    output.logits[..., token] += 100
    return output


def test_it_stops_where_the_model_stops_reading(caplog):
    model, tokenizer = toy_writer(seq2seq=False)
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] = 0
        model.lm_head.weight[tokenizer.convert_tokens_to_ids("a")] += 5 * model.model.norm.weight
    model.generation_config.eos_token_id = None
    rows = {"input": ["a" * 40, "a"]}
    long, short = evaluation.generate(model, tokenizer, WRITING, rows, max_new_tokens=500)
    assert len(tokenizer(rows["input"][0])["input_ids"]) + 1 + len(tokenizer(long)["input_ids"]) <= 64
    assert short and not caplog.records


# ---------------------------------------------------------------- o que não é número


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_a_weight_that_is_not_a_number_is_named_and_gives_no_result(family, value):
    (model, words), writer = toy_classifier(family), family != "bert"
    name = {"bert": "classifier.weight", "llama": "score.weight", "t5": "classification_head.out_proj.weight"}[family]
    with torch.no_grad():
        model.get_parameter(name)[0, 3] = value
    for measure in (evaluation.evaluate, lambda *given: evaluation.predict(*given, TASK.test)):
        with pytest.raises(FloatingPointError, match=rf"A resposta de rows\[\d+\].* O peso {name} já não"):
            measure(model, words, TASK)
    if writer:
        model, words = toy_writer(family == "t5")
        with torch.no_grad():
            model.get_parameter("lm_head.weight" if family == "llama" else "shared.weight")[1:] = value
        with pytest.raises(
            FloatingPointError, match=r"A perda de rows\[\d+\], rows.* e de outras 29 não .*O peso \S+ já"
        ):
            evaluation.evaluate(model, words, WRITING)
        with pytest.raises(FloatingPointError, match=r"A escrita de rows\[\d+\].*O peso \S+ já não"):
            evaluation.generate(model, words, WRITING, WRITING.test)


def test_the_row_that_gives_no_number_is_named_and_the_others_are_not():
    model = toy_model()
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[tokenizer().convert_tokens_to_ids("livro")] = float("nan")
    rows = {"text": ["casa", "o livro azul", "a rua da casa", "livro"], "label": [0] * 4}
    with pytest.raises(FloatingPointError, match=r"A resposta de rows\[1\], rows\[3\] não é um número"):
        evaluation.predict(model, tokenizer(), TASK, rows)
    assert evaluation.predict(model, tokenizer(), TASK, {"text": rows["text"][::2], "label": [0, 0]}).isfinite().all()
    reader = toy_model(kind=transformers.BertForMaskedLM)
    with torch.no_grad():
        reader.cls.predictions.bias[5] = float("nan")
    with pytest.raises(FloatingPointError, match=r"O espanto de 'a casa' não é um número. O peso cls\."):
        baselines.without_labels(reader, tokenizer(), ["a casa"])
    with pytest.raises(ValueError, match="A frase '' não tem ficha alguma"):
        baselines.without_labels(reader, tokenizer(), [""])


@SEQ2SEQ
def test_in_float16_what_overflows_is_told_with_the_way_out_and_the_way_out_works(seq2seq):
    model, words = toy_writer(seq2seq)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("wo.weight", "down_proj.weight", "wi.weight", "up_proj.weight")):
                parameter.mul_(3e4)
    model.profile = models.Profile(precision="float16")
    measures = [
        lambda: evaluation.evaluate(model, words, WRITING),
        lambda: evaluation.generate(model, words, WRITING, WRITING.test, max_new_tokens=4),
        lambda: training.train(model, words, WRITING, lr=1e-3, steps=1, batch_size=4),
    ]
    for measure in measures:
        with pytest.raises(FloatingPointError, match=r"em float16 nenhuma conta passa de 65\.504.*float32: model"):
            measure()
    model.float()
    model.profile = models.Profile(precision="float32")
    for measure in measures[:2]:
        measure()


def test_a_row_that_has_ended_is_no_longer_watched(monkeypatch):
    """Sozinha ela pararia antes: o que o modelo daria depois do fim não lhe diz respeito."""
    model, words = toy_writer(seq2seq=False)
    plain, steps = model.forward, []

    def forward(**given):
        output = plain(**given)
        steps.append(len(output.logits))
        output.logits[:] = 0
        output.logits[0, :, words.eos_token_id if len(steps) == 1 else 9] = float("nan") if len(steps) == 3 else 5
        output.logits[1:, :, words.convert_tokens_to_ids("a")] = 5
        return output

    monkeypatch.setattr(model, "forward", forward)
    assert evaluation.generate(model, words, WRITING, {"input": ["a", "casa"]}, max_new_tokens=5) == ["", "aaaaa"]


# ---------------------------------------------------------------- o que alguém escreveu é texto


@cache
def embedded(family):
    return models.load(family)[1]


def control_of(words):
    return {*words.all_special_ids} - {words.unk_token_id}


HTML = [
    "<s>R$ 30</s>",
    "<pad>",
    "</s>",
    "[MASK]",
    "[SEP]",
    "[PAD]",
    "[CLS]",
    "<extra_id_0>",
    "<extra_id_1>",
    "<unk>",
    "[UNK]",
]
TYPED = st.lists(st.sampled_from([*HTML, *WORDS, ".", ",", "<", "</s", "s>"]), min_size=1, max_size=8)


@fast
@given(st.sampled_from(["bert", "llama", "t5"]), st.lists(TYPED, min_size=1, max_size=4), st.sampled_from(["", " "]))
def test_no_token_of_control_comes_from_a_text(family, typed, joint):
    words, texts = embedded(family), [joint.join(parts) for parts in typed]
    for text, ids in zip(texts, tokenize(words, texts, add_special_tokens=False), strict=True):
        assert not control_of(words).intersection(ids)
        assert words.decode(ids).replace(" ", "") == text.replace(" ", "")
        assert words.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")
    whole = tokenize(words, texts, truncation=True)
    around = words("")["input_ids"]
    assert all(len(control_of(words).intersection(ids)) == len(set(around)) for ids in whole)


@pytest.mark.parametrize("name", [*tasks.TASKS, "texto_geral"])
@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_the_texts_of_the_course_are_read_as_the_tokenizer_alone_reads_them(family, name):
    words, task = embedded(family), tasks.general_text() if name == "texto_geral" else tasks.load(name)
    for column in ("text",) if task.labels else ("input", "target"):
        texts = list(task.test[column])
        if (name, column) == ("complete", "input"):
            if family == "t5":
                assert task.read(words, texts) == words(texts, add_special_tokens=False)["input_ids"]
            continue
        assert tokenize(words, texts, truncation=True) == words(texts, truncation=True)["input_ids"]
        assert tokenize(words, texts, add_special_tokens=False) == words(texts, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_who_types_tokens_of_control_trains_and_measures(family):
    """Em T5 a ficha de fim a mais era um erro em inglês no meio do treino; em LLaMA, outra frase."""
    typed = [f"{text} {special}" for special in HTML for text in ("a casa", "o gato <pad> preto </s>")]
    rows = datasets.Dataset.from_dict({"text": typed, "label": [i % 2 for i in range(len(typed))]})
    task = replace(TASK, train=rows, validation=rows, test=rows)
    model, words = toy_classifier(family)
    training.train(model, words, task, lr=1e-3, steps=3, batch_size=8)
    assert evaluation.evaluate(model, words, task)["n"] == len(rows)


def test_a_text_that_a_tokenizer_only_reads_as_control_is_refused_with_its_row():
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel({"¶": 0, "?": 1, "a": 2}, unk_token="?"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words = transformers.PreTrainedTokenizerFast(tokenizer_object=core, eos_token="¶", unk_token="?")
    assert tokenize(words, ["a", "a a"]) == [[2], [2, 2]]
    with pytest.raises(
        ValueError, match=r"A linha 1 \(a primeira é a 0\), 'a ¶ a', tem '¶', que este tokenizador só lê"
    ):
        tokenize(words, ["a", "a ¶ a"])


CLOZE = text_tasks.Cloze("complete", (), None, None, None)


def test_the_gap_is_a_token_and_what_was_typed_beside_it_is_text():
    words = embedded("t5")
    texts = [
        "complete: a </s> <extra_id_0> do <extra_id_1> <pad>",
        "complete: <extra_id_0>",
        "complete: o <extra_id_0>.",
    ]
    for text, ids in zip(texts, CLOZE.prompts(words, texts, seq2seq=True)):
        assert control_of(words).intersection(ids) == {words.convert_tokens_to_ids("<extra_id_0>"), words.eos_token_id}
        assert ids.count(words.convert_tokens_to_ids("<extra_id_0>")) == ids.count(words.eos_token_id) == 1
        assert words.decode(ids[:-1]).replace(" ", "") == text.replace(" ", "")
    [example] = CLOZE.encode(words, {"input": texts[1:2], "target": ["<extra_id_0> </s>"]}, seq2seq=True)
    assert example["labels"][0] == words.convert_tokens_to_ids("<extra_id_0>")
    assert not control_of(words).intersection(example["labels"][1:-1])
    for text, gaps in ((f"a {text_tasks.BLANK} {text_tasks.BLANK}", 2), ("a rua", 0), (f"a {text_tasks.GAP}", 0)):
        with pytest.raises(ValueError, match=rf"A linha 1 .*tem {gaps} lacunas.*escreva <extra_id_0> uma vez"):
            CLOZE.prompts(words, [texts[0], text], seq2seq=True)


# ---------------------------------------------------------------- o que não tem ficha alguma


def test_a_text_without_a_token_is_refused_with_its_row_and_one_with_those_of_the_tokenizer_is_not():
    rows = {"text": ["casa", "", "rua"], "label": [0, 1, 0]}
    for words in (writer_tokenizer(True), writer_tokenizer(False)):  # não põem ficha alguma em volta
        with pytest.raises(ValueError, match=r"A linha 1 \(a primeira é a 0\), '', não dá ficha alguma.*tire a linha"):
            TASK.encode(words, rows)
    assert len(TASK.encode(tokenizer(), rows)[1]["input_ids"]) == 2
    assert evaluation.predict(toy_model(), tokenizer(), TASK, rows).isfinite().all()


def test_a_batch_is_of_whole_numbers_whatever_comes():
    examples = [{"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ids} for ids in ([], [5, 6], [])]
    batch = evaluation.collate(tokenizer(), examples)
    assert {tensor.dtype for tensor in batch.values()} == {torch.long}
    assert batch["attention_mask"].tolist() == [[0, 0], [1, 1], [0, 0]]
    assert batch["labels"].tolist() == [[IGNORED] * 2, [5, 6], [IGNORED] * 2]
