"""As tarefas: o que se lê, como vira tokens, as métricas contra contas feitas à mão e as linhas de base."""

import hashlib
import itertools
import json
import math
import os
import subprocess
import sys
import unicodedata
from dataclasses import replace

import datasets
import numpy as np
import pytest
import sacrebleu
import tokenizers
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import load_script, tokenizer, toy_model, toy_task, toy_writing, writer_tokenizer

from ftcourse import baselines, evaluation, models, tasks, text_tasks
from ftcourse.files import DATA
from ftcourse.task import IGNORED

SPLITS = ("train", "validation", "test", "out_of_domain")
FOLDERS = {name: name for name in tasks.LABELS} | {name: folder for name, (folder, _) in tasks.WRITTEN.items()}
fast = settings(deadline=None, max_examples=100)


@pytest.fixture(scope="module")
def loaded():
    return {name: tasks.load(name) for name in tasks.TASKS}


@pytest.mark.parametrize("name", tasks.TASKS)
def test_every_row_of_the_files_is_loaded(loaded, name):
    task = loaded[name]
    for split in SPLITS:
        found = (DATA / "tarefas" / FOLDERS[name]).rglob(f"{split}.jsonl")
        lines = [json.loads(line) for p in found for line in p.read_text("utf-8").splitlines()]
        rows = getattr(task, split)
        assert (len(rows) if rows else 0) == sum(map(bool, map(getattr(task, "row", dict), lines)))
        if rows and not task.labels:
            assert all(rows["input"]) and all(rows["target"])
        elif rows:
            assert set(rows["label"]) == set(range(len(task.labels))) and all(rows["text"])
    assert task.name == name and len(task.train) > len(task.test) > 100


def test_an_unknown_task_is_told_with_those_that_exist():
    with pytest.raises(ValueError, match=r"a tarefa 'aceitabildade'.*'aceitabilidade', 'bncc_componente'.*quis dizer"):
        tasks.load("aceitabildade")


def test_the_tasks_of_the_course_need_no_folder_to_write_in(tmp_path):
    """Nem o cache de datasets: onde só se lê, como num laboratório, a tarefa carrega do mesmo modo."""
    script = (
        "import datasets\n"
        "from ftcourse import tasks\n"
        "def refuse(*_, **__): raise OSError('só leitura')\n"
        "datasets.load_dataset = datasets.DatasetBuilder.__init__ = refuse\n"
        "print(*[task.digest() for task in (*map(tasks.load, tasks.TASKS), tasks.general_text())])"
    )
    home = tmp_path / "casa"
    places = {name: str(home / name) for name in ("HF_HOME", "HF_DATASETS_CACHE", "XDG_CACHE_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | places | {"HOME": str(home), "USERPROFILE": str(home)},
        capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = [task.digest() for task in (*map(tasks.load, tasks.TASKS), tasks.general_text())]
    assert done.stdout.split() == expected and len({*expected}) == len(expected)
    assert not home.exists()


@fast
@given(st.data())
def test_the_digest_changes_with_any_cell_of_any_split_with_the_order_and_with_the_labels(data):
    kinds = (toy_task(8), toy_writing(8), replace(toy_task(8), out_of_domain=toy_task(4).test))
    task = data.draw(st.sampled_from(kinds))
    split = data.draw(st.sampled_from([split for split in SPLITS if getattr(task, split)]))
    rows = getattr(task, split)
    table, column = rows.to_dict(), data.draw(st.sampled_from(rows.column_names))
    row, other = (data.draw(st.integers(0, len(rows) - 1)) for _ in range(2))
    again = replace(task, name="outra", **{split: rows.from_dict(table)})
    assert again.digest() == task.digest() and len(task.digest()) == 12 and int(task.digest(), 16)

    swapped = rows.select([other if i == row else row if i == other else i for i in range(len(rows))])
    assert (replace(task, **{split: swapped}).digest() == task.digest()) == (rows[row] == rows[other])
    cell = table[column][row]
    table[column][row] = 1 - cell if column == "label" else cell + data.draw(st.sampled_from([" ", "\n", "a"]))
    assert replace(task, **{split: rows.from_dict(table)}).digest() != task.digest()
    assert replace(task, labels=("a", "b")).digest() != task.digest()
    assert replace(task, **{split: None}).digest() != task.digest()


def test_the_digest_is_the_sha256_of_the_content():
    """Escrito por extenso: um resultado gravado há um ano confere com este número em qualquer máquina."""
    rows = datasets.Dataset.from_dict({"text": ["é", "b"], "label": [0, 1]})
    content = '[["n", "d"], {"label": [0, 1], "text": ["\\u00e9", "b"]}, null, null, null]'
    digest = tasks.Task("nome", ("n", "d"), rows, None, None).digest()
    assert digest == hashlib.sha256(content.encode()).hexdigest()[:12]


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
        answers = baselines.majority(task, rows)
        assert set(answers) == {counts.index(max(counts))} and len(answers) == len(rows)


def test_a_bag_of_words_solves_the_counterexample(loaded):
    task = loaded["bncc_componente"]
    labels = np.array(task.test["label"])
    accuracy = [np.mean(baseline(task, task.test) == labels) for baseline in (baselines.majority, baselines.tfidf)]
    assert accuracy[1] > 0.75 and accuracy[1] > accuracy[0] + 0.4


def test_a_bag_of_words_finds_no_artefact_in_the_faults(loaded):
    """Perto do acaso em cada fonte: se subir, a construção das falhas deixou um rastro que não é gramática."""
    task = loaded["aceitabilidade"]
    right = baselines.tfidf(task, task.test) == np.array(task.test["label"])
    sources = np.array(task.test["source"])
    accuracy = {source: right[sources == source].mean() for source in ("ajuda", "noticias")}
    assert max(accuracy.values()) < 0.62, accuracy


# ---------------------------------------------------------------- o espanto


@torch.no_grad()
def one_by_one(model, sentence):
    """(espanto, incerteza) token a token, com uma máscara e um modelo inteiro por vez."""
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
        got = baselines.surprise(model, tokenizer(), sentence)
        torch.testing.assert_close(got[0], surprise.float())
        torch.testing.assert_close(got[1], uncertainty.float())
    scores = [-(surprise - uncertainty).max().item() for surprise, uncertainty in expected]
    assert baselines.without_labels(model, tokenizer(), sentences) == pytest.approx(scores, abs=1e-4)


def test_the_unexpected_word_lowers_the_score():
    model = toy_model(kind=transformers.BertForMaskedLM)
    with torch.no_grad():
        model.cls.predictions.decoder.bias[tokenizer().convert_tokens_to_ids("casa")] += 9
    expected, surprising = baselines.without_labels(model, tokenizer(), ["casa casa casa", "casa livro casa"])
    assert expected > surprising


def test_the_published_model_prefers_the_sentence_without_the_fault(loaded):
    """Em 40 pares mínimos da ajuda, pela soma do espanto; o acaso acertaria 20."""
    faulty = [row for row in loaded["aceitabilidade"].validation if row["source"] == "ajuda" and not row["label"]][:40]
    model, tokenizer = models.load("bert")
    total = [
        [baselines.surprise(model, tokenizer, row[key])[0].sum() for key in ("original", "text")] for row in faulty
    ]
    assert len(total) == 40 and sum(right < wrong for right, wrong in total) >= 36


# ---------------------------------------------------------------- as tarefas de escrever


def nfc(text):
    return unicodedata.normalize("NFC", text)


def raw(name):
    """{divisão: as linhas dos arquivos}"""
    found = {}
    for split in SPLITS:
        files = sorted((DATA / "tarefas" / FOLDERS[name]).rglob(f"{split}.jsonl"))
        found[split] = [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]
    return found


def filled(row):
    return row["given"].replace(text_tasks.BLANK, row["target"])


@pytest.mark.parametrize("name", tasks.WRITTEN)
@pytest.mark.parametrize("column", ["input", "target"])
def test_no_text_is_in_two_splits(loaded, name, column):
    """O que se pede ou se espera no teste não está no treino, nem de um lado nem do outro."""
    texts = {split: set(rows[column]) for split in SPLITS if (rows := getattr(loaded[name], split))}
    if (name, column) == ("complete", "target"):  # a resposta é uma palavra: o que não se repete é a frase inteira
        texts = {split: {*map(filled, getattr(loaded[name], split))} for split in texts}
    for one, other in itertools.permutations(texts, 2):
        assert not texts[one] & texts[other]
        if name not in ("habilidade_bncc", "complete"):  # um objeto como "Números" pode ser de dois componentes
            assert not texts[one] & set(getattr(loaded[name], other)["given"])


def test_a_skill_is_where_the_classification_has_it_and_no_object_is_in_two_splits(loaded):
    rows = raw("habilidade_bncc")
    home = {row["text"]: split for split, part in raw("bncc_componente").items() for row in part}
    subjects, groups = {}, {}
    for split, part in rows.items():
        for row in part:
            assert home[row["text"]] == split
            assert groups.setdefault(row["group"], split) == split
            for subject in row["objeto"].split("; "):
                assert subjects.setdefault((row["componente"], subject.casefold()), split) == split
    assert [len(part) for part in rows.values()] == [788, 68, 160, 0]  # as do cartão


def test_the_prompt_of_a_skill_says_all_but_the_skill(loaded):
    row, task_row = raw("habilidade_bncc")["test"][0], loaded["habilidade_bncc"].test[0]
    assert task_row["input"].splitlines() == [
        "Escreva uma habilidade da BNCC.", f"Componente: {row['componente']}", f"Ano: {row['ano']}",
        f"Objeto: {row['objeto']}", "Habilidade:",
    ]  # fmt: skip
    assert task_row["target"] == row["text"] and task_row["given"] == row["objeto"]


def test_the_correction_of_a_faulty_sentence_is_the_published_one_and_a_right_one_is_left_whole(loaded):
    for split, known in raw("corrija").items():
        for row, derived in zip(known, getattr(loaded["corrija"], split), strict=True):
            row = {name: nfc(value) if isinstance(value, str) else value for name, value in row.items()}
            assert derived["input"] == "corrija: " + row["text"] and derived["given"] == row["text"]
            assert derived["kind"] == row["kind"] and (derived["target"] == derived["given"]) == bool(row["label"])
            assert derived["target"] == (row["text"] if row["label"] else row["original"])


def test_the_sentences_without_accents_have_none_and_come_from_right_sentences(loaded):
    for split, known in raw("acentue").items():
        for row, derived in zip(known, getattr(loaded["acentue"], split), strict=True):
            assert derived["target"] == nfc(row["original"] or row["text"])
            assert not any(map(unicodedata.combining, unicodedata.normalize("NFD", derived["given"])))
            assert derived["input"] == "acentue: " + derived["given"]
    assert (
        text_tasks.without_accents("não sei se você está aí, à toa; Ação 1º")
        == "nao sei se voce esta ai, a toa; Acao 1º"
    )


def test_the_gap_takes_the_place_of_the_one_word_the_fault_had_changed(loaded):
    for split, known in raw("complete").items():
        derived, left = iter(getattr(loaded["complete"], split)), []
        for row in filter(lambda row: row["kind"], known):
            faulty, right = nfc(row["text"]), nfc(row["original"])
            if len(faulty.split()) != len(right.split()) or row["kind"] == "ordem":
                left.append(row["kind"])
                continue
            found = next(derived)
            assert found["given"].count(text_tasks.BLANK) == 1 and found["input"] == "complete: " + found["given"]
            assert filled(found) == right and found["kind"] == row["kind"]
            before, after = found["given"].split(text_tasks.BLANK)
            assert faulty.startswith(before) and faulty.endswith(after) and faulty != right
        assert next(derived, None) is None and set(left) <= {"ordem"}


@pytest.mark.parametrize(
    "faulty, right, word",
    [
        ("As casa são azuis.", "As casas são azuis.", "casas"),
        ("Torná-lo fáceis, já.", "Torná-lo fácil, já.", "fácil"),
        ("o gato preto", "o gato preto", None),
        ("gato o preto", "o gato preto", None),
        ("a casa", "a casa azul", None),
    ],
)
def test_only_a_single_changed_word_makes_a_gap(faulty, right, word):
    found = text_tasks.changed_word({"text": faulty, "original": right})
    assert (found and found[0]) == word


SEQ2SEQ = pytest.mark.parametrize("seq2seq", [True, False], ids=["t5", "llama"])


@SEQ2SEQ
def test_the_loss_asks_for_the_answer_and_the_end_and_for_nothing_else(seq2seq):
    task, tokenizer = toy_writing(), writer_tokenizer(seq2seq)
    end, separator = tokenizer.eos_token_id, "" if seq2seq else " "
    for row, example in zip(task.train, task.encode(tokenizer, task.train, seq2seq), strict=True):
        answer = [*tokenizer(separator + row["target"], add_special_tokens=False)["input_ids"], end]
        prompt = tokenizer(row["input"], add_special_tokens=False)["input_ids"]
        if seq2seq:
            assert example["input_ids"] == [*prompt, end] and example["labels"] == answer
        else:
            assert example["input_ids"] == [end, *prompt, *answer]
            assert example["labels"] == [IGNORED] * (len(prompt) + 1) + answer
        assert example["attention_mask"] == [1] * len(example["input_ids"])
        asked = [i for i in example["labels"] if i != IGNORED]
        assert tokenizer.decode(asked, skip_special_tokens=True).strip() == row["target"]


def test_a_model_with_a_token_of_its_own_for_the_start_reads_it():
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=writer_tokenizer(False).backend_tokenizer, eos_token="<|fim|>", bos_token="<unk>"
    )
    [ids] = toy_writing().prompts(tokenizer, ["casa"])
    assert ids[0] == tokenizer.bos_token_id != tokenizer.eos_token_id


@SEQ2SEQ
def test_what_does_not_fit_is_cut_and_a_prompt_without_room_is_told(seq2seq):
    task, tokenizer = toy_writing(), writer_tokenizer(seq2seq)
    [example] = task.encode(tokenizer, {"input": ["casa"], "target": ["casa " * 300]}, seq2seq)
    assert len(example["labels"]) == 64
    long = {"input": ["casa " * 300], "target": ["casa"]}
    if seq2seq:
        [example] = task.encode(tokenizer, long, seq2seq)
        assert len(example["input_ids"]) == 64 and example["input_ids"][-1] == tokenizer.eos_token_id
    else:
        with pytest.raises(ValueError, match=r"pedido de escrita tem \d+ tokens e o modelo lê 64, .*encurte-o"):
            task.encode(tokenizer, long)


def test_the_metrics_of_a_written_answer_are_the_ones_on_paper():
    rows = {"target": ["o gato", "a casa", "o céu", "a rua"]}
    measured = toy_writing().metrics(["o gato", "a caso", "o céu", ""], rows)
    chrf = sacrebleu.metrics.CHRF().corpus_score(["o gato", "a caso", "o céu", ""], [rows["target"]]).score
    assert measured == {"exact": 0.5, "chrf": pytest.approx(chrf), "n": 4} and 0 < chrf < 100
    assert toy_writing().metrics(rows["target"], rows)["chrf"] == pytest.approx(100)


def test_the_loss_of_an_answer_in_nats_and_in_bits_a_character():
    losses = [torch.tensor([1.0, 2.0]), torch.tensor([3.0])]
    measured = toy_writing().loss_metrics(losses, None, {"target": ["abc", "d"]})
    assert measured == pytest.approx({"loss": 2, "perplexity": math.exp(2), "bits": 6 / math.log(2) / 4, "n": 2})


def corrections(*rows):
    """Linhas de corrija: (tipo, dada, esperada)."""
    return {"kind": [r[0] for r in rows], "given": [r[1] for r in rows], "target": [r[2] for r in rows]}


CORRECTION = text_tasks.Correction("corrija", (), None, None, None)
ACCENTS = text_tasks.Accents("acentue", (), None, None, None)
CLOZE = text_tasks.Cloze("complete", (), None, None, None)


def test_mended_and_kept_are_counted_apart_and_by_kind():
    rows = corrections(
        ("gênero", "o casa", "a casa"), ("gênero", "a gato", "o gato"), ("ordem", "preto gato o", "o gato preto"),
        (None, "a rua", "a rua"), (None, "o céu", "o céu"),
    )  # fmt: skip
    measured = CORRECTION.metrics(["a casa", "a gato", "preto o gato", "a rua", "a céu"], rows)
    assert measured.pop("chrf") > 50
    assert measured == pytest.approx(
        {"exact": 2 / 5, "n": 5, "mended": 1 / 3, "mended_gênero": 1 / 2, "mended_ordem": 0, "kept": 1 / 2}
    )


@pytest.mark.parametrize(
    "given, target, marked",
    [
        ("a gato preto", "o gato preto", ["o"]),
        ("o gato preto", "o gato preto", []),
        ("gato o preto", "o gato preto", ["o", " preto"]),  # o que entrou, e o que vem depois do que saiu
        ("o a gato", "o gato", [" gato"]),
    ],
)
def test_the_changed_tokens_are_those_that_copying_gets_wrong(given, target, marked):
    whole = transformers.PreTrainedTokenizerFast(tokenizer_object=word_level(), eos_token="fim")
    [mask] = CORRECTION.changed(whole, {"given": [given], "target": [target]})
    words = [*target.split(), "fim"]
    assert [w for w, m in zip(words, mask.tolist(), strict=True) if m] == [w.strip() for w in marked]


def word_level():
    """Um tokenizador em que cada palavra é um token."""
    vocabulary = {word: i for i, word in enumerate(["fim", "a", "o", "gato", "preto"])}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="fim"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return core


def test_the_loss_on_changed_tokens_leaves_the_copied_ones_out():
    whole = transformers.PreTrainedTokenizerFast(tokenizer_object=word_level(), eos_token="fim")
    rows = corrections(("gênero", "a gato preto", "o gato preto"), (None, "o gato", "o gato"))
    losses = [torch.tensor([5.0, 0.1, 0.1, 0.1]), torch.tensor([0.2, 0.2, 0.2])]
    measured = CORRECTION.loss_metrics(losses, whole, rows)
    assert measured["loss_changed"] == 5 and measured["loss"] == pytest.approx(5.9 / 7)


def test_an_answer_cut_by_the_size_of_the_model_is_measured_up_to_the_cut():
    whole = transformers.PreTrainedTokenizerFast(tokenizer_object=word_level(), eos_token="fim")
    rows = corrections(("gênero", "a gato preto", "o gato preto"))
    measured = CORRECTION.loss_metrics([torch.tensor([5.0, 0.1])], whole, rows)  # os dois primeiros de quatro tokens
    assert measured["loss_changed"] == 5 and measured["loss"] == pytest.approx(5.1 / 2)


WORD = st.text("aáàâãeéêiíoóôõuúücçnlb", min_size=1, max_size=6)
SENTENCE = st.lists(WORD, min_size=1, max_size=8).map(" ".join)
SENTENCES = st.lists(SENTENCE, min_size=1, max_size=5).map(lambda texts: [*texts, "é uma ação"])


@fast
@given(SENTENCES)
def test_who_gives_back_every_accent_is_right_and_who_copies_gives_back_none(targets):
    rows = {"target": targets}
    oracle = ACCENTS.metrics(targets, rows)
    assert (oracle["exact"], oracle["accented"], oracle["spoilt"]) == (1, 1, 0)
    copied = ACCENTS.metrics([text_tasks.without_accents(text) for text in targets], rows)
    assert (copied["accented"], copied["spoilt"]) == (0, 0) and copied["exact"] < 1


@fast
@given(st.lists(SENTENCE, min_size=2, max_size=6), st.data())
def test_the_more_is_mended_the_better_every_number(targets, data):
    """Consertar mais uma resposta nunca piora medida alguma."""
    rows = corrections(*[(data.draw(st.sampled_from([None, "verbo"])), "", target) for target in targets])
    some = data.draw(st.integers(0, len(targets) - 1))
    fewer, more = ([*targets[:k], *["zzz"] * (len(targets) - k)] for k in (some, some + 1))
    worse, better = (CORRECTION.metrics(answers, rows) for answers in (fewer, more))
    assert worse.keys() == better.keys() and all(worse[k] <= better[k] + 1e-9 for k in worse)
    assert better["exact"] == pytest.approx((some + 1) / len(targets)) or "zzz" in targets


def test_accents_are_counted_word_by_word_even_where_a_word_is_lost():
    rows = {"target": ["não sei se você está aí", "a mão é sua"]}
    measured = ACCENTS.metrics(["não sei sé voce está ai", "a mão sua"], rows)
    # com acento: não, você, está, aí, mão, é → certas não, está e mão; sem: sei, se, a, sua → só "se" se estragou
    assert (measured["accented"], measured["spoilt"]) == pytest.approx((3 / 6, 1 / 4))
    assert ACCENTS.metrics(["", ""], rows)["accented"] == 0


def test_a_gap_is_filled_when_the_answer_is_the_word_and_by_kind():
    rows = {"target": ["a", "das", "está", "é"], "kind": ["crase", "número", "verbo", "verbo"]}
    measured = CLOZE.metrics(["a", "das casas", "estão", "é"], rows)
    by_kind = {"filled_crase": 1, "filled_número": 0, "filled_verbo": 1 / 2}
    assert measured == pytest.approx({"exact": 2 / 4, "n": 4} | by_kind)


def test_the_answer_to_a_gap_opens_with_its_sentinel_and_ends_where_the_next_would_come():
    """O que o T5 aprendeu no pré-treino: sem ajuste algum, o primeiro token da resposta quase não lhe custa."""
    model, tokenizer = models.load("t5")
    rows = {"input": ["complete: As meninas estão <extra_id_0> rua."], "target": ["na"]}
    [example] = CLOZE.encode(tokenizer, rows, seq2seq=True)
    assert tokenizer.convert_ids_to_tokens(example["labels"]) == ["<extra_id_0>", "▁na", "</s>"]
    [losses] = evaluation.token_losses(model, tokenizer, CLOZE, rows)
    assert losses[0] < 0.1
    [answer] = evaluation.generate(model, tokenizer, CLOZE, rows)
    assert answer and "extra_id" not in answer and len(answer.split()) < 4


def test_only_a_model_with_sentinels_fills_gaps():
    for kind, seq2seq in (("llama", False), ("bert", True)):
        tokenizer = models.load(kind)[1]
        with pytest.raises(ValueError, match="<extra_id_0>, que este modelo não tem: use um T5"):
            CLOZE.prompts(tokenizer, ["a <extra_id_0>"], seq2seq)


# ---------------------------------------------------------------- as linhas de base de escrever


def measure(loaded, name, baseline):
    task = loaded[name]
    return task.metrics(baseline(task, task.test), task.test)


def test_retrieval_beats_the_echo_of_the_object(loaded):
    echo, nearest = (measure(loaded, "habilidade_bncc", b) for b in (baselines.echo, baselines.retrieval))
    assert nearest["chrf"] > echo["chrf"] + 5 and echo["exact"] == nearest["exact"] == 0


@pytest.mark.slow
def test_copying_mends_nothing_and_the_bigrams_mend_more_than_they_spoil(loaded):
    copy, bigrams = (measure(loaded, "corrija", b) for b in (baselines.echo, baselines.bigrams))
    assert (copy["exact"], copy["mended"], copy["kept"]) == (0.5, 0, 1)
    assert bigrams["exact"] > copy["exact"] + 0.1 and bigrams["mended"] > 0.3 and bigrams["kept"] > 0.8
    by_kind = [share for name, share in bigrams.items() if name.startswith("mended_")]
    assert len(by_kind) == 6 and min(by_kind) > 0.2


@pytest.mark.slow
def test_the_dictionary_gives_back_most_accents_and_spoils_almost_nothing(loaded):
    copy, dictionary = (measure(loaded, "acentue", b) for b in (baselines.echo, baselines.dictionary))
    assert copy["accented"] == copy["spoilt"] == 0
    assert dictionary["accented"] > 0.8 and dictionary["spoilt"] < 0.01 and dictionary["exact"] > copy["exact"] + 0.5


def test_the_dictionary_keeps_capitals_and_leaves_alone_what_it_does_not_know():
    task = toy_writing()
    known = {"input": [], "given": [], "target": ["A ação é à toa", "a casa", "É a ação", "Ana"]}
    known = known | {"input": known["target"], "given": known["target"]}
    other = text_tasks.Accents("acentue", (), task.train.from_dict(known), None, None)
    answers = baselines.dictionary(other, {"given": ["ACAO e Acao, ana; xicara", "a casa"]})
    assert answers == ["AÇÃO é Ação, ana; xicara", "a casa"]


def test_the_neighbours_choose_the_word_that_links_both():
    """Cada lacuna só se decide com as duas vizinhas: cada uma, sozinha, prefere outra palavra."""
    known = [("a {} azul", "casa")] * 2 + [("a {} verde", "rua")] * 3 + [("o {} azul", "céu")] * 3
    rows = {"given": [given.format(text_tasks.BLANK) for given, _ in known], "target": [word for _, word in known]}
    train = toy_writing().train.from_dict(rows)
    task, asked = (
        text_tasks.Cloze("complete", (), train, None, None),
        train.from_dict({"given": [f"a {text_tasks.BLANK} azul"]}),
    )
    model = baselines.Bigrams(baselines.TOKEN.findall(filled(row)) for row in train)
    assert max(["casa", "rua", "céu"], key=lambda word: model.log_p("a", word)) == "rua"
    assert max(["casa", "rua", "céu"], key=lambda word: model.log_p(word, "azul")) == "céu"
    assert baselines.neighbours(task, asked) == ["casa"] and baselines.frequent(task, asked) == ["rua"]


def test_the_bigrams_are_a_distribution():
    model = baselines.Bigrams([["a", "casa"], ["a", "rua"], ["o", "gato"], ["a", "casa", "a"]])
    vocabulary = [*model.before]
    for first in (baselines.EDGE, "a", "gato", "nunca vista"):
        total = sum(math.exp(model.log_p(first, second)) for second in vocabulary)
        assert 0.5 < total <= 1 + 1e-9
    assert model.log_p("a", "casa") > model.log_p("a", "rua") > model.log_p("a", "gato")
    assert math.isfinite(model.log_p("a", "jamais"))


# ---------------------------------------------------------------- o texto geral


def test_the_general_text_was_reserved_by_the_pretraining_and_holds_no_task_sentence():
    task, script = tasks.general_text(), load_script(DATA / "modelos" / "corpus.py")
    record = json.loads((DATA / "modelos" / "mini-bert-pt" / "treino.json").read_text("utf-8"))
    reserved = set(record["corpus"]["held_out"])
    contamination = script.Contamination(script.task_sentences([DATA / "tarefas"]))
    assert len(set(task.test["target"])) == len(task.test) == 200
    for paragraph in task.test["target"]:
        assert script.is_held_out(paragraph) and script.digest(paragraph) in reserved
        assert paragraph not in contamination
    assert set(task.test["source"]) == {"literatura", "documentacao"}


def test_the_general_text_asks_for_every_token_of_who_continues_it():
    task, tokenizer = tasks.general_text(), writer_tokenizer(False)
    [example] = task.encode(tokenizer, {"input": [""], "target": ["casa do gato"]})
    ids = tokenizer("casa do gato", add_special_tokens=False)["input_ids"]
    assert example["labels"] == [IGNORED, *ids, tokenizer.eos_token_id]


@given(st.integers(0, 300), st.integers(0, 400), st.integers(1, 4), st.integers(5, 30))
def test_what_is_hidden_and_what_stays_make_the_text(n, start, length, every):
    """Cada trecho que a resposta traz volta ao lugar da sua sentinela, e não falta um token."""
    ids, sentinels = list(range(1000, 1000 + n)), list(range(100))
    kept, hidden = text_tasks.hide_spans(ids, sentinels, start, length, every)
    spans, current = {}, None
    for token in hidden:
        if token < 100:
            spans[current := token] = []
        else:
            spans[current].append(token)
    assert [*spans] == [token for token in kept if token < 100] == list(range(len(spans)))
    assert [t for token in kept for t in spans.get(token, [token])] == ids
    assert all(len(span) <= length for span in spans.values())
    assert abs(sum(map(len, spans.values())) - n * length / every) <= length


def test_a_text_ends_where_the_sentinels_do():
    kept, hidden = text_tasks.hide_spans(list(range(10, 40)), [1, 2], start=0, length=1, every=10)
    assert kept == [1, *range(11, 20), 2, *range(21, 30)] and hidden == [1, 10, 2, 20]


@pytest.mark.slow
@pytest.mark.parametrize("name", tasks.WRITTEN)
def test_the_table_of_the_card_is_the_measured_one(loaded, name):
    card = (DATA / "tarefas" / name / "README.md").read_text("utf-8")
    assert baselines.markdown(loaded[name]) in card
