"""O pré-treino: as peças contra contas feitas de outro modo e, pela linha de comando, um brinquedo morto que retoma."""

import argparse
import json
import lzma
import os
import random
import shutil
import subprocess
import sys
from types import SimpleNamespace

import bert
import corpus as clean
import llama
import numpy as np
import pretreina
import pytest
import t5
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from muon import Muon, orthogonalize
from ngrama import KneserNey
from toys import MODEL, SCRIPT, finish, kill, run_script, toy_corpus

from ftcourse import files

fast = settings(deadline=None, max_examples=100)

# ---------------------------------------------------------------- o corpus

word = st.text("abcdefghijlmnopqrstuvxzáâãçéêíóôõú", min_size=1, max_size=8)
others = st.lists(st.text("kwy", min_size=1, max_size=4), max_size=6)  # letras que `word` não tem
mark = st.sampled_from([" ", ", ", " — ", "; ", "... ", '" ', " (", ") ", "! ", "\t"])
case = st.sampled_from([str.lower, str.upper, str.title])


@fast
@given(st.lists(word, min_size=5, max_size=12), others, others, st.data())
def test_a_sentence_is_found_whatever_its_case_and_punctuation(sentence, before, after, data):
    disguised = "".join(data.draw(case)(w) + data.draw(mark) for w in [*before, *sentence, *after])
    assert disguised in clean.Contamination([" ".join(sentence) + "."])


@fast
@given(st.lists(word, min_size=5, max_size=12), others, others, st.data())
def test_one_changed_word_is_another_sentence(sentence, before, after, data):
    changed = list(sentence)
    changed[data.draw(st.integers(0, len(sentence) - 1))] = "kw"
    assert " ".join([*before, *changed, *after]) not in clean.Contamination([" ".join(sentence)])


def test_sentences_of_four_words_do_not_count():
    assert "clique no botão ok" not in clean.Contamination(["Clique no botão OK."])


def test_task_sentences_come_from_every_file(tmp_path):
    (tmp_path / "tarefa" / "fonte").mkdir(parents=True)
    row = {"text": "a frase com falha", "original": "a frase certa", "label": 0}
    (tmp_path / "tarefa" / "fonte" / "train.jsonl").write_text(json.dumps(row) + "\n" + '{"text": "só ela"}\n', "utf-8")
    (tmp_path / "outras.txt").write_text("linha um\n\nlinha dois\n", "utf-8")
    found = clean.task_sentences([tmp_path / "tarefa", tmp_path / "outras.txt"])
    assert list(found) == ["a frase com falha", "a frase certa", "só ela", "linha um", "linha dois"]


def test_the_held_out_part_never_changes():
    """O resumo de um parágrafo decide: se a conta mudar, o treino passa a ver o que o cartão diz que não viu."""
    paragraphs = toy_corpus(2000)
    held_out = [p for p in paragraphs if clean.is_held_out(p)]
    assert clean.digest("Era uma vez.") == "4b85f950e5239bbd"
    assert all(int(clean.digest(p), 16) % 50 == 0 for p in held_out) and 20 <= len(held_out) <= 60
    assert not any(clean.is_held_out(" ".join(p.split()[:29])) for p in paragraphs)


def test_every_text_of_the_folder_is_read(tmp_path):
    (tmp_path / "livro.1.txt").write_text("um\n\num\ndois\n", "utf-8")
    (tmp_path / "livro.2.txt").write_text("três\n", "utf-8")
    with lzma.open(tmp_path / "ajuda.txt.xz", "wt", encoding="utf-8") as file:
        file.write("ção\n")
    (tmp_path / "nota.md").write_text("isto não\n", "utf-8")
    read = clean.read_corpus(tmp_path)
    assert sorted(read.values()) == [["três"], ["um", "dois"], ["ção"]] and "ajuda" in read


# ---------------------------------------------------------------- os lotes


@fast
@given(st.integers(0, 500), st.sampled_from([8, 62, 126]))
def test_windows_keep_the_text_in_order(n, width):
    stream = np.arange(5, 5 + n, dtype=np.uint16)
    cut = clean.windows(stream, width)
    assert cut.shape == (n // width, width) and cut.flatten().tolist() == stream[: len(cut) * width].tolist()
    framed = bert.framed(cut)
    assert (framed[:, 0] == bert.CLS).all() and (framed[:, -1] == bert.SEP).all()
    assert torch.equal(framed[:, 1:-1], cut)


@pytest.mark.parametrize("rate", [0.15, 0.30])
def test_masks_follow_the_recipe(rate):
    ids = torch.randint(0, 1000, (400, 64), generator=torch.Generator().manual_seed(1))
    masked, labels = bert.mask_tokens(ids, rate, 1000, torch.Generator().manual_seed(0))
    asked, special = labels != bert.IGNORED, ids < len(bert.SPECIALS)
    assert special.any() and not (asked & special).any()
    assert torch.equal(labels[asked], ids[asked]) and torch.equal(masked[~asked], ids[~asked])
    assert (asked.sum() / (~special).sum()).item() == pytest.approx(rate, abs=0.01)
    hidden, kept = (masked == bert.MASK)[asked], (masked == ids)[asked]
    assert hidden.float().mean().item() == pytest.approx(0.8, abs=0.02)
    assert kept.float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert (masked[asked][~hidden] >= len(bert.SPECIALS)).all()
    assert torch.equal(masked, bert.mask_tokens(ids, rate, 1000, torch.Generator().manual_seed(0))[0])


def arguments(**changes):
    return argparse.Namespace(**({"lote": 4, "semente": 0, "passos": 100, "largura": 64, "camadas": 1} | changes))


def test_a_batch_depends_only_on_the_seed_and_the_step():
    rng = np.random.default_rng(0)
    bounds = np.cumsum([0, *rng.integers(20, 60, 60)])
    stream = rng.integers(5, 300, bounds[-1]).astype(np.uint16)
    batches = pretreina.Batches(bert, stream, bounds, arguments(), 300)
    per_epoch = len(stream) // (4 * 62)
    in_order = [batches[step] for step in range(2 * per_epoch)]
    for step in (per_epoch + 1, 3, 0):
        alone = pretreina.Batches(bert, stream, bounds, arguments(), 300)[step]
        assert all(torch.equal(a, b) for a, b in zip(alone, in_order[step]))
    assert in_order[6][0].shape == (4, 64) and in_order[7][0].shape == (4 * 62 // 126, 128)
    assert not torch.equal(in_order[0][0], in_order[per_epoch][0])
    later = pretreina.Batches(bert, stream, bounds, arguments(), 300, before=per_epoch - 2)  # de quem já treinou
    assert all(torch.equal(a, b) for step in range(4) for a, b in zip(later[step], in_order[per_epoch - 2 + step]))
    done = SimpleNamespace(WINDOW=62, LONG_WINDOW=126, batch=lambda text, done, *_: done)
    assert pretreina.Batches(done, stream, bounds, arguments(), 300, before=100)[50] == 150 / 200
    assert not torch.equal(in_order[0][0], pretreina.Batches(bert, stream, bounds, arguments(semente=1), 300)[0][0])


def test_a_corpus_smaller_than_a_batch_is_refused():
    with pytest.raises(SystemExit, match=r"O corpus tem 100 tokens e um lote pede 248: junte mais texto ou use --lote"):
        pretreina.Batches(bert, np.zeros(100, np.uint16), [0, 100], arguments(), 300)


def test_the_rate_rises_stays_and_falls():
    rate = [pretreina.learning_rate(step, 1000, peak=2.0) for step in range(1000)]
    assert np.diff(rate[:200]) == pytest.approx(2 / 200) and rate[199:601] == [2.0] * 402
    assert np.diff(rate[600:]) == pytest.approx(-2 / 400) and rate[-1] > 0
    assert [pretreina.learning_rate(step, 2000, peak=2.0) for step in range(600)] == rate[:600]


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (7, 7)])
def test_muon_takes_the_steps_of_torch(shape):
    """Em bfloat16, a única precisão de torch, os pesos são os mesmos, bit a bit."""
    start, generator = torch.randn(shape), torch.Generator().manual_seed(0)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    known = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    by_hand = Muon([ours], lr=0.01, dtype=torch.bfloat16)
    for _ in range(3):
        gradient = torch.randn(shape, generator=generator)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        by_hand.step()
        known.step()
        assert torch.equal(ours, theirs) and torch.equal(ours.grad, gradient)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_step_of_muon_points_in_every_direction_alike(dtype):
    torch.manual_seed(0)
    matrix = torch.randn(24, 16) @ torch.diag(torch.logspace(0, -2, 16))  # valores singulares de duas ordens
    found = orthogonalize(matrix, dtype).float()
    assert found.shape == matrix.shape and (torch.linalg.svdvals(found) > 0.6).all()
    assert (torch.linalg.svdvals(found) < 1.25).all()
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert ((u.T @ found @ v.T).diagonal() > 0.6).all()


def test_ppmi_equals_the_dense_sum():
    """Doze palavras, contadas par a par e decompostas por inteiro."""
    stream = np.random.default_rng(0).choice(12, 300, p=np.arange(1, 13) / 78).astype(np.uint16)
    vectors, frequencies = clean.ppmi_embeddings(stream, 12, width=4, std=0.05)

    counts = np.zeros((12, 12))
    for i, one in enumerate(stream):
        for j in range(i + 1, min(i + 6, len(stream))):
            counts[one, stream[j]] += 1 / (j - i)
            counts[stream[j], one] += 1 / (j - i)
    word = counts.sum(1)
    context = word**0.75 / (word**0.75).sum()
    with np.errstate(divide="ignore"):
        ppmi = np.log(counts / (word[:, None] * context)).clip(min=0)
    u, s, _ = np.linalg.svd(ppmi)
    gram, got = (v @ v.T for v in (u[:, :4] * np.sqrt(s[:4]), vectors.numpy()))  # não depende do sinal das colunas
    np.testing.assert_allclose(got / np.linalg.norm(got), gram / np.linalg.norm(gram), atol=1e-5)
    assert vectors.std(correction=0).item() == pytest.approx(0.05, rel=1e-4)
    expected = (np.bincount(stream, minlength=12) + 1) / (300 + 12)
    np.testing.assert_allclose(frequencies, expected, rtol=1e-6)


def test_the_loss_is_asked_only_where_there_is_a_question():
    """A perda com a saída calculada só nas perguntas é a de transformers."""
    model = bert.new_model(1, 64, 300)
    ids = torch.randint(5, 300, (4, 64), generator=torch.Generator().manual_seed(0))
    masked, labels = bert.mask_tokens(ids, 0.3, 300, torch.Generator().manual_seed(0))
    torch.testing.assert_close(bert.loss(model, masked, labels), model(masked, labels=labels).loss)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@fast
@given(st.integers(8, 130), st.integers(0, 10**6))
def test_the_answer_fills_the_holes_of_the_input(width, seed):
    """Com cada sentinela trocada pelo seu trecho, a entrada volta a ser o texto."""
    text = torch.randint(3, 200, (3, width), generator=generator(seed))
    source, target = t5.corrupt_spans(text, 300, generator(seed))
    hidden = max(1, round(0.15 * width))
    for row, asked, answer in zip(text.tolist(), source.tolist(), target.tolist()):
        assert asked.pop() == answer.pop() == t5.EOS
        spans, used = {}, []
        for token in answer:
            if token >= 200:
                used.append(token)
            else:
                spans.setdefault(used[-1], []).append(token)
        assert used == list(range(299, 299 - len(used), -1)) == [token for token in asked if token >= 200]
        assert [x for token in asked for x in spans.get(token, [token])] == row
        assert sum(map(len, spans.values())) == hidden and len(used) == max(1, round(hidden / 3))
    again = t5.corrupt_spans(text, 300, generator(seed))
    assert torch.equal(again[0], source) and torch.equal(again[1], target)


def test_a_sentinel_in_a_sentence_is_the_one_of_the_pretraining():
    """Com ela no lugar de umas palavras, os outros tokens ficam como estavam: nenhum espaço sobra em volta."""
    tokenizer = t5.train_tokenizer(["o menino abriu a porta, e a rua viu o menino."] * 20, 250)
    whole = tokenizer("o menino abriu a porta, e a rua viu.")["input_ids"]
    hidden = tokenizer("o menino <extra_id_0> a porta <extra_id_1>, e a rua <extra_id_2>.")["input_ids"]
    sentinels = [tokenizer.convert_tokens_to_ids(f"<extra_id_{i}>") for i in range(3)]
    pieces = [tokenizer(words, add_special_tokens=False)["input_ids"] for words in ("abriu", "viu")]
    given = iter([pieces[0], [], pieces[1]])
    assert [x for token in hidden for x in (next(given) if token in sentinels else [token])] == whole


def test_every_cut_of_the_spans_is_as_likely():
    """Cinco tokens em dois trechos: quatro cortes, um quarto das vezes cada um."""
    first = t5.lengths(5, 2, 8000, generator())[:, 0]
    assert np.bincount(first, minlength=5)[1:] / 8000 == pytest.approx(0.25, abs=0.02)


@fast
@given(st.integers(8, 130), st.integers(0, 10**6))
def test_restoring_asks_for_the_whole_text(width, seed):
    text = torch.arange(3, 3 + width).repeat(2, 1)  # em ordem: o que fica tem de continuar crescente
    source, target = t5.restore(text, 300, generator(seed))
    assert (source[:, 0] == 300 - t5.SENTINELS).all() and (source[:, -1] == t5.EOS).all()
    kept = source[:, 1:-1]
    assert kept.shape[1] == width - max(1, round(0.15 * width)) and (kept.diff(dim=1) > 0).all()
    assert torch.equal(target[:, :-1], text) and (target[:, -1] == t5.EOS).all()


def test_the_restoring_steps_become_rare():
    text = torch.randint(3, 200, (2, 40), generator=generator())
    share = [
        np.mean([t5.batch(text, done, 300, generator(seed))[0][0, 0] == 200 for seed in range(400)]) for done in (0, 1)
    ]
    assert share == pytest.approx([0.5, 0.1], abs=0.08)


def test_the_losses_of_the_others_are_those_of_transformers():
    ids = torch.randint(4, 300, (3, 20), generator=generator())
    model = llama.new_model(1, 64, 300)
    torch.testing.assert_close(llama.loss(model, ids), model(ids, labels=ids).loss)
    opened = ids.clone()
    opened[:, 7] = llama.BOS
    asked = torch.where(opened == llama.BOS, -100, opened)
    torch.testing.assert_close(llama.loss(model, opened), model(opened, labels=asked).loss)
    source, target = t5.corrupt_spans(ids, 300, generator())
    model = t5.new_model(1, 64, 300)
    torch.testing.assert_close(t5.loss(model, source, target), model(source, labels=target).loss)


@pytest.mark.parametrize("family", [llama, t5], ids=lambda family: family.__name__)
def test_the_held_out_loss_is_the_mean_over_the_answers(family):
    model, text = family.new_model(1, 64, 300), torch.randint(4, 300, (70, 24), generator=generator())
    batch = (text,) if family is llama else t5.corrupt_spans(text, 300, generator())
    whole = family.loss(model, *batch)
    assert family.held_out_loss(model, text, 300) == pytest.approx(whole.item(), rel=1e-5)


@fast
@given(st.lists(st.integers(0, 5), min_size=12, max_size=60), st.integers(1, 4))
def test_kneser_ney_equals_counting_by_hand(stream, order):
    """A mesma conta, com dicionários e sem atalho; e as probabilidades de um token somam 1."""
    V = 6

    def reference(context, token, n):
        """P do token com os n − 1 anteriores."""
        if n == 0:
            return 1 / V
        grams = [tuple(stream[i : i + n]) for i in range(len(stream) - n + 1)]
        if n < order:  # de quantos tokens diferentes cada um foi precedido
            longer = {tuple(stream[i : i + n + 1]) for i in range(len(stream) - n)}
            grams = [gram[1:] for gram in longer]
        count = {gram: grams.count(gram) for gram in set(grams)}
        ones, twos = (sum(c == k for c in count.values()) for k in (1, 2))
        discount = ones / max(1, ones + 2 * twos)
        here = tuple(context[len(context) - n + 1 :])
        total = sum(c for gram, c in count.items() if gram[:-1] == here)
        lower = reference(context, token, n - 1)
        if not total:
            return lower
        kinds = sum(gram[:-1] == here for gram in count)
        return (max(count.get((*here, token), 0) - discount, 0) + discount * kinds * lower) / total

    model = KneserNey(np.array(stream, dtype=np.uint16), V, order)
    for context in ((), (0,), (1, 2), (3, 1, 0), tuple(stream[:3])):
        got = [model.probabilities(np.array([*context, token], dtype=np.uint16))[-1] for token in range(V)]
        expected = [reference(context, token, min(order, len(context) + 1)) for token in range(V)]
        assert got == pytest.approx(expected) and sum(got) == pytest.approx(1)


# ---------------------------------------------------------------- de ponta a ponta

LEAKED = "Esta frase é de uma tarefa e não pode estar no treino"
OPTIONS = "--passos 12 --lote 4 --camadas 1 --largura 64 --intervalo 3".split()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Uma fonte em texto, com uma frase de tarefa num parágrafo, e uma em xz."""
    folder = tmp_path_factory.mktemp("corpus")
    paragraphs = toy_corpus(500)
    (folder / "livros.txt").write_text("\n".join([*paragraphs[:300], f"E eis que {LEAKED.upper()}!"]), "utf-8")
    with lzma.open(folder / "ajuda.txt.xz", "wt", encoding="utf-8") as file:
        file.write("\n".join(paragraphs[300:]))
    (folder / "fora.jsonl").write_text(json.dumps({"text": LEAKED}), "utf-8")
    return folder


def command(corpus, destination, family="bert"):
    vocabulary = {"bert": 300, "llama": 300, "t5": 420}[family]  # no T5, cem são sentinelas
    options = [*OPTIONS, "--vocabulario", str(vocabulary), "--fora", str(corpus / "fora.jsonl")]
    return [family, str(corpus), str(destination), *options]


@pytest.fixture(scope="module", params=pretreina.FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def whole(corpus, family, tmp_path_factory):
    """O modelo de um pré-treino que ninguém interrompeu."""
    destination = tmp_path_factory.mktemp("inteiro") / "mini"
    shutil.copy(MODEL.with_name(f"mini-{family}-pt.ficha.md"), destination.with_name("mini.ficha.md"))
    assert finish(run_script, *command(corpus, destination, family)) == 0
    return destination


def test_the_published_folder_is_whole(whole, family, monkeypatch):
    monkeypatch.setattr(files, "DATA", whole.parent)
    files.check_sums(whole)
    listed = [line.split("  ")[1] for line in (whole / "sha256sums.txt").read_text("utf-8").splitlines()]
    assert sorted([*listed, "sha256sums.txt"]) == sorted(path.name for path in whole.iterdir())
    [architecture] = transformers.AutoConfig.from_pretrained(whole).architectures
    model, info = getattr(transformers, architecture).from_pretrained(whole, output_loading_info=True)
    assert model.dtype == torch.bfloat16 and not info["missing_keys"] and not info["unexpected_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(whole)
    specials = pretreina.FAMILIES[family].SPECIALS
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.convert_tokens_to_ids(specials) == list(range(len(specials)))
    assert model.config.pad_token_id == tokenizer.pad_token_id and model.config.eos_token_id == tokenizer.eos_token_id
    text = toy_corpus(1)[0]
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_the_record_and_the_card_tell_the_training(whole):
    record = json.loads((whole / "treino.json").read_text("utf-8"))
    assert [point["step"] for point in record["curve"]] == [3, 6, 9, 12]
    assert record["curve"][-1]["held_out"] < record["curve"][0]["held_out"]
    assert record["held_out"]["todas"] == pytest.approx(
        record["curve"][-1]["held_out"], abs=0.02
    )  # arredondar custa pouco
    sources = record["corpus"]["sources"]
    assert {name: s["contaminated"] for name, s in sources.items()} == {"ajuda": 0, "livros": 1}
    assert sum(s["paragraphs"] + s["held_out"] for s in sources.values()) == 500
    assert sum(s["held_out"] for s in sources.values()) == len(record["corpus"]["held_out"]) > 3
    assert record["environment"]["torch"] and {"todas", "livros"} <= record["held_out"].keys() <= {"todas", *sources}
    card = (whole / "README.md").read_text("utf-8")
    assert f"Perda de {record['held_out']['todas']:.2f} nats".replace(".", ",") in card and "$" not in card


@pytest.mark.slow
def test_killed_at_any_moment_it_publishes_the_same_bytes(corpus, family, whole, tmp_path):
    destination, rng, saved = tmp_path / "mini", random.Random(), None
    shutil.copy(whole.with_name("mini.ficha.md"), destination.with_name("mini.ficha.md"))
    work = destination.with_name("mini.treino")
    checkpoint = work / "checkpoint.pt"

    def progress():
        return checkpoint.exists() and checkpoint.stat().st_mtime_ns != saved

    steps = command(corpus, destination, family)
    shutil.copytree(
        whole.with_name("mini.treino") / "tokenizador", work / "tokenizador"
    )  # o treinador dele desempata ao acaso
    assert kill(run_script, *steps, when=(work / "tokenizador").exists, delay=0.3)  # limpando e codificando o corpus
    assert kill(run_script, *steps, when=(work / "corpus.npz").exists, delay=rng.uniform(0, 0.05))
    assert kill(run_script, *steps, when=progress, delay=rng.uniform(0, 0.02))
    saved = checkpoint.stat().st_mtime_ns
    kill(run_script, *steps, when=progress, delay=rng.uniform(0, 0.05))
    kill(run_script, *steps, when=(work / "pronto").exists, delay=rng.uniform(0, 0.05))  # publicando
    assert finish(run_script, *steps) == 0
    for name in ("model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json"):
        assert (destination / name).read_bytes() == (whole / name).read_bytes(), name
    one, other = (json.loads((folder / "treino.json").read_text("utf-8")) for folder in (destination, whole))
    for record in (one, other):
        record["curve"] = [{k: v for k, v in point.items() if k != "seconds"} for point in record["curve"]]
    assert one["curve"] == other["curve"] and one["held_out"] == other["held_out"]


@pytest.mark.slow
def test_it_continues_from_a_published_model_and_resumes(corpus, family, whole, tmp_path):
    steps = ["--de", str(whole), "--passos", "7"]
    folders = [tmp_path / name / "mini" for name in ("um", "dois")]
    assert finish(run_script, *command(corpus, folders[0], family), *steps) == 0
    checkpoint = folders[1].with_name("mini.treino") / "checkpoint.pt"
    assert kill(run_script, *command(corpus, folders[1], family), *steps, when=checkpoint.exists)
    assert finish(run_script, *command(corpus, folders[1], family), *steps) == 0
    start, once, resumed = (files.sha256(folder / "model.safetensors") for folder in (whole, *folders))
    assert once == resumed != start
    record = json.loads((folders[1] / "treino.json").read_text("utf-8"))
    assert record["continues"] == start
    assert [point["step"] for point in record["curve"]] == [3, 6, 9, 12, 15, 18, 19]


def test_it_continues_where_the_published_model_stopped(corpus, family, whole, tmp_path, monkeypatch, capsys):
    """Com taxa zero saem os mesmos bytes: pesos e vocabulário são os de lá, e a curva continua a dele."""
    destination, before = tmp_path / "mini", json.loads((whole / "treino.json").read_text("utf-8"))["curve"]
    arguments = [str(SCRIPT), *command(corpus, destination, family), "--de", str(whole), "--passos", "4"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--taxa", "0"])
    pretreina.main()
    assert "nats por token" in capsys.readouterr().out
    for name in ("model.safetensors", "tokenizer.json"):
        assert (destination / name).read_bytes() == (whole / name).read_bytes(), name
    curve = json.loads((destination / "treino.json").read_text("utf-8"))["curve"]
    size = before[0]["tokens"] / before[0]["step"]
    assert curve[:4] == before and [point["step"] for point in curve[4:]] == [15, 16]
    assert [point["tokens"] for point in curve] == [point["step"] * size for point in curve]
    assert curve[-1]["seconds"] >= before[-1]["seconds"]


def test_a_folder_that_is_no_start_is_refused(corpus, tmp_path, monkeypatch):
    """Antes de limpar o corpus, e sem deixar nada que atrapalhe quem corrige o comando."""
    start, destination = MODEL.with_name("mini-llama-pt"), tmp_path / "mini"

    def refused(family, folder, destination, match):
        arguments = [str(SCRIPT), *command(corpus, destination, family), "--de", str(folder), "--passos", "1"]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit, match=match):
            pretreina.main()

    refused(
        "llama", tmp_path / "nada", destination, r"Em .*nada falta treino\.json: --de pede a pasta de um modelo gravado"
    )
    refused("bert", start, destination, r"é da família llama, e não bert")
    refused("llama", MODEL, destination, r"é da família bert, e não llama")
    copy = shutil.copytree(start, tmp_path / "cópia")
    refused("llama", copy, copy, r"DESTINO e --de são a mesma pasta")
    assert (copy / "model.safetensors").is_file() and not destination.with_name("mini.treino").exists()
    shutil.copytree(MODEL, destination.with_name("mini.treino") / "tokenizador")  # o vocabulário é de um BERT
    refused("llama", start, destination, r"mini\.treino começou com outro vocabulário: apague essa pasta")


def test_an_empty_folder_is_refused(tmp_path):
    """Pela linha de comando, como quem segue o README: o script acha sozinho os arquivos ao lado dele."""
    call = [sys.executable, SCRIPT, "bert", tmp_path, tmp_path / "mini"]
    child = subprocess.run(call, capture_output=True, encoding="utf-8", env=os.environ | {"PYTHONUTF8": "1"})
    assert child.returncode == 1 and "não há nenhum .txt nem .txt.xz: aponte uma pasta com textos" in child.stderr
    assert not (tmp_path / "mini").exists()


def test_a_source_with_almost_nothing_held_out_does_not_stop_the_end(corpus, tmp_path, monkeypatch):
    """Um parágrafo reservado, menor que uma janela: não há o que medir nele, e o modelo sai do mesmo jeito."""
    short = next(p for n in range(1000) if clean.is_held_out(p := "e " * 30 + str(n)))
    shutil.copytree(corpus, tmp_path / "corpus")
    (tmp_path / "corpus" / "bilhete.txt").write_text(short, "utf-8")
    destination = tmp_path / "mini"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *command(tmp_path / "corpus", destination), "--passos", "1"])
    pretreina.main()
    measured = json.loads((destination / "treino.json").read_text("utf-8"))["held_out"]
    assert "livros" in measured and "bilhete" not in measured


def test_a_training_in_progress_does_not_take_another_corpus(corpus, tmp_path, monkeypatch):
    shutil.copytree(corpus, tmp_path / "corpus")
    arguments = [str(SCRIPT), *command(tmp_path / "corpus", tmp_path / "mini"), "--passos", "2"]
    monkeypatch.setattr(sys, "argv", arguments)
    pretreina.main()
    monkeypatch.setattr(sys, "argv", [*arguments, "--passos", "1"])
    with pytest.raises(SystemExit, match=r"já fez 2 passos"):
        pretreina.main()
    (tmp_path / "corpus" / "outro.txt").write_text("mais um texto", "utf-8")
    with pytest.raises(SystemExit, match=r"é de outro corpus, ou de outras frases em --fora"):
        pretreina.main()
    (tmp_path / "corpus" / "outro.txt").unlink()
    monkeypatch.setattr(sys, "argv", [*arguments, "--fora", str(tmp_path / "corpus" / "livros.txt")])
    with pytest.raises(SystemExit, match=r"é de outro corpus, ou de outras frases em --fora"):
        pretreina.main()
