"""Modelos de fora: o que uma pasta e um Hub, aqui de mentira, podem ter de errado, e a frase que cada falha recebe.

Nenhum destes testes fala com o Hub verdadeiro.
"""

import errno
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import warnings
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
import transformers
from fake_hub import Repository, contents, save_tiny, serve
from huggingface_hub import constants
from toys import PAIRS, tiny_batch, toy_task

from ftcourse import evaluation, hub, methods, models, training

TASK = SimpleNamespace(labels=("não", "talvez", "sim"))
NAME = "org/modelo"
CLASSES = {
    "bert": ("AutoModelForMaskedLM", "AutoModelForSequenceClassification"),
    "llama": ("AutoModelForCausalLM", "AutoModelForSequenceClassification"),
    "t5": ("AutoModelForSeq2SeqLM", "AutoModelForSequenceClassification"),
}
CHECKPOINTS = {"bert mlm": "bert", "llama lm": "llama", "t5 lm": "t5", "t5 relu lm": "t5"}  # o de toys → a família


@pytest.fixture(autouse=True)
def families(monkeypatch):
    for family, classes in CLASSES.items():
        monkeypatch.setitem(models.FAMILIES, family, models.FAMILIES.get(family, models.Family("nenhuma", *classes)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Um modelo minúsculo de cada tipo, gravado: {nome em toys: pasta}."""
    root = tmp_path_factory.mktemp("modelos")
    for family in CHECKPOINTS:
        save_tiny(root / family, family)
    return {family: root / family for family in CHECKPOINTS}


@pytest.fixture
def folder(folders, tmp_path):
    """Uma cópia da pasta do BERT minúsculo, para estragar."""
    return shutil.copytree(folders["bert mlm"], tmp_path / "meu-modelo")


@pytest.fixture
def hurry(monkeypatch):
    """A biblioteca do Hub não dorme entre uma tentativa e outra."""
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)


@pytest.fixture
def fake(tmp_path, monkeypatch, folders):
    """Um Hub de mentira que já tem o BERT minúsculo em org/modelo, e um cache vazio."""
    with serve() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        server.repositories[NAME] = Repository(contents(folders["bert mlm"]))
        yield server


def refused(error, words, *arguments, seconds=10, **options):
    """O que `models.load` recusa: a exceção, a frase, e em quanto tempo. Devolve a frase."""
    started = time.perf_counter()
    with pytest.raises(error, match=rf"(?s){words}") as caught:
        models.load(*arguments, **options)
    assert time.perf_counter() - started < seconds
    return str(caught.value)


def edit(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | fields), "utf-8")


def change_weights(folder, change):
    """Regrava os pesos depois de `change(dicionário)`."""
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    change(weights)
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})


# ---------------------------------------------------------------- o que se carrega


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_folder_gives_the_very_weights_it_holds(folders, name):
    model, tokenizer = models.load(CHECKPOINTS[name], profile=str(folders[name]))
    stored = safetensors.torch.load_file(folders[name] / "model.safetensors")
    state = model.state_dict()
    assert stored and all(torch.equal(state[key], stored[key]) for key in stored)
    assert {p.dtype for p in model.parameters()} == {torch.float32} and not model.training
    assert tokenizer.pad_token == "<pad>" and model.config.pad_token_id == tokenizer.pad_token_id


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_hub_gives_what_the_folder_gives(fake, folders, name):
    fake.repositories[NAME] = Repository(contents(folders[name]))
    here, _ = models.load(CHECKPOINTS[name], profile=folders[name])
    there, _ = models.load(CHECKPOINTS[name], profile=NAME)
    one, other = here.state_dict(), there.state_dict()
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


FEW = {method: {"num_virtual_tokens": 4} for method in ("prompt", "prefix")}  # o BERT minúsculo tem 32 posições


@pytest.mark.parametrize("method, family", [pair for pair in PAIRS if pair[1] in CLASSES])
def test_every_technique_trains_a_checkpoint_of_another_maker(folders, method, family):
    folder = next(path for name, path in folders.items() if CHECKPOINTS[name] == family)
    task = toy_task(16)
    model, tokenizer = models.load(family, task, profile=folder)
    methods.apply(model, method, **FEW.get(method, {}))
    history = training.train(model, tokenizer, task, lr=1e-3, steps=2, batch_size=4)
    assert len(history.loss) == 2 and evaluation.evaluate(model, tokenizer, task)["n"] == len(task.test)


@pytest.mark.parametrize("method", sorted({method for method, family in PAIRS if family == "t5 relu lm"} - {"head"}))
def test_every_technique_finds_its_layers_in_the_t5_of_2020(folders, method):
    model, _ = models.load("t5", profile=folders["t5 relu lm"])
    methods.apply(model, method)
    loss = model(**tiny_batch(model)).loss
    loss.backward()
    assert loss.isfinite() and any(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_several_files_of_weights_are_one_model(fake, folders, tmp_path, name):
    whole, _ = models.load(CHECKPOINTS[name], profile=folders[name])
    parts = tmp_path / "partes"
    save_tiny(parts, name, max_shard_size="4KB")
    assert len(list(parts.glob("model-*.safetensors"))) > 2
    fake.repositories[NAME] = Repository(contents(parts))
    for profile in (parts, NAME):
        split, _ = models.load(CHECKPOINTS[name], profile=profile)
        assert all(torch.equal(whole.state_dict()[key], value) for key, value in split.state_dict().items())
    next(iter(sorted(parts.glob("model-*.safetensors")))).unlink()
    refused(FileNotFoundError, r"falta model-00001-of-", CHECKPOINTS[name], profile=parts)


@pytest.mark.parametrize("tied", [True, False])
def test_the_output_of_llama_may_be_the_embedding_or_not(tmp_path, tied):
    from toys import tiny

    model = tiny("llama lm")
    model.config.tie_word_embeddings = tied
    model = type(model)(model.config)
    save_tiny(tmp_path, "llama lm")
    model.save_pretrained(tmp_path)
    assert ("lm_head.weight" in safetensors.torch.load_file(tmp_path / "model.safetensors")) is not tied
    loaded, _ = models.load("llama", profile=tmp_path)
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) is tied
    if not tied:
        change_weights(tmp_path, lambda weights: weights.pop("lm_head.weight"))
        refused(OSError, r"não têm lm_head\.weight.*com uma tarefa", "llama", profile=tmp_path)


def test_a_bert_with_only_a_list_of_words_keeps_its_capitals_and_its_limit(folder):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Casa", "casa", "água"]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / "vocab.txt").write_text("\n".join(words), "utf-8")
    _, tokenizer = models.load("bert", profile=folder)
    assert tokenizer.tokenize("Casa casa água") == ["Casa", "casa", "água"]
    assert tokenizer.model_max_length == 32  # as posições que o modelo tem
    (folder / "vocab.txt").write_text("\n".join(w.lower() if w[0] != "[" else w for w in words[:6]), "utf-8")
    _, tokenizer = models.load("bert", profile=folder)
    assert tokenizer.tokenize("Casa") == ["casa"]  # um modelo que só tem minúsculas continua a usá-las


def test_a_tokenizer_without_padding_borrows_a_token_and_says_so(folders, tmp_path):
    folder = shutil.copytree(folders["llama lm"], tmp_path / "llama")
    for name in ("tokenizer_config.json", "config.json"):
        edit(folder / name, **({"pad_token": None} if name.startswith("tok") else {"pad_token_id": None}))
    with pytest.warns(UserWarning, match=r"não tem token de preenchimento; usei '<unk>'"):
        model, tokenizer = models.load("llama", TASK, profile=folder)
    assert tokenizer.pad_token == "<unk>" and model.config.pad_token_id == tokenizer.unk_token_id
    edit(folder / "tokenizer_config.json", unk_token=None, eos_token=None)
    refused(ValueError, "não tem com que preencher", "llama", profile=folder)


def test_a_head_of_another_task_is_drawn_again_or_told(tmp_path):
    save_tiny(tmp_path, "bert")
    edit(tmp_path / "config.json", id2label={0: "a", 1: "b", 2: "c"})
    stored = safetensors.torch.load_file(tmp_path / "model.safetensors")
    with pytest.warns(UserWarning, match=r"treinada para \('a', 'b', 'c'\).*a tarefa tem \('não', 'talvez', 'sim'\)"):
        model, _ = models.load("bert", TASK, profile=tmp_path)
    assert torch.equal(model.classifier.weight, stored["classifier.weight"])
    two = SimpleNamespace(labels=("não", "sim"))
    with pytest.warns(UserWarning, match=r"responde 3 classes, e a tarefa tem 2: ela foi sorteada"):
        first, again = (models.load("bert", two, profile=tmp_path)[0].classifier.weight for _ in range(2))
    assert first.shape[0] == 2 and torch.equal(first, again) and first.std() > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models.load("bert", SimpleNamespace(labels=("a", "b", "c")), profile=tmp_path)  # a mesma tarefa: nada a dizer


def test_the_embedded_model_is_still_the_default_and_loads_in_no_time():
    seconds = []
    for _ in range(3):  # a primeira lê o disco, e numa máquina ocupada o relógio do processo também se atrasa
        started = time.process_time()
        model, _ = models.load("bert", TASK)
        seconds.append(time.process_time() - started)
    assert min(seconds) < 2
    assert model.profile == models.Profile() and model.profile.precision == "float32"


# ---------------------------------------------------------------- uma pasta com defeito

LACKS = "bert.encoder.layer.0.output.dense.weight"


@pytest.mark.parametrize(
    "damage, error, words",
    [
        (lambda f: (f / "config.json").unlink(), FileNotFoundError, r"falta config\.json.*save_pretrained"),
        (lambda f: (f / "config.json").write_text("{"), OSError, r"config\.json está cortado ou não é JSON"),
        (lambda f: (f / "config.json").write_text("[]"), OSError, r"config\.json está cortado ou não é JSON"),
        (lambda f: edit(f / "config.json", model_type="gpt2"), ValueError, r"modelo 'gpt2', e você pediu 'bert'"),
        (lambda f: edit(f / "config.json", model_type=None), ValueError, r"não diz a arquitetura.*'bert', 'llama' e"),
        (lambda f: edit(f / "config.json", quantization_config={"quant_method": "gptq"}), ValueError,
         r"já quantizados \(gptq\).*qlora\.quantize_model"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), ValueError, r"há um adaptador.*methods\.load"),
        (lambda f: (f / "model.safetensors").unlink(), FileNotFoundError, r"faltam os pesos, model\.safetensors"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            OSError,
            r"não há pesos em safetensors.*pode rodar código.*save_pretrained\(\"minha-pasta\"\)",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-100]),
            OSError,
            r"model\.safetensors está cortado ou não é um arquivo safetensors",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 100),
            OSError,
            r"model\.safetensors está cortado ou não é um arquivo safetensors",
        ),
        (lambda f: change_weights(f, lambda w: w.pop(LACKS)), OSError, r"não têm bert\.encoder\.layer\.0\.output"),
        (
            lambda f: change_weights(f, lambda w: w.update({LACKS: torch.ones(3, 5)})),
            OSError,
            r"output\.dense\.weight tem a forma \(3, 5\), e config\.json pede",
        ),
        (
            lambda f: change_weights(f, lambda w: w[LACKS].fill_(float("nan"))),
            OSError,
            r"output\.dense\.weight tem valores que não são números",
        ),
        (
            lambda f: change_weights(f, lambda w: w.update({LACKS.replace("layer.0", "layer.9"): torch.ones(3)})),
            OSError,
            r"bert\.encoder\.layer\.9, uma camada a mais",
        ),
        (lambda f: (f / "tokenizer.json").unlink(), FileNotFoundError, r"falta o vocabulário.*tokenizer\.save_pretr"),
        (lambda f: (f / "tokenizer.json").write_text("{"), OSError, r"Não consegui ler o vocabulário.*Copie-o outra"),
        (lambda f: edit(f / "config.json", vocab_size=5), OSError, r"tem a forma \(50, \d+\), e config\.json pede"),
        (lambda f: (f / "model.safetensors.index.json").write_text("{}") and (f / "model.safetensors").unlink(),
         OSError, r"index\.json está cortado ou não é um índice"),
    ],
    ids=["sem configuração", "configuração cortada", "configuração que é uma lista", "outra arquitetura",
         "sem arquitetura", "já quantizado", "com um adaptador", "sem pesos",
         "só pickle", "pesos cortados", "pesos que não são", "falta um tensor", "outra forma", "nan", "camada a mais",
         "sem vocabulário", "vocabulário cortado", "outro vocab_size", "índice vazio"],
)  # fmt: skip
def test_a_damaged_folder_is_told_with_the_way_out(folder, damage, error, words):
    damage(folder)
    refused(error, words, "bert", profile=folder)


@pytest.mark.parametrize("name", ["llama lm", "t5 lm"])
@pytest.mark.parametrize("start", [True, False], ids=["com a saída", "sem a saída"])
def test_a_bias_that_the_model_would_leave_out_is_refused(folders, tmp_path, name, start):
    """transformers deixa fora, sem dizer, um viés que config.json não tem, como o de BitFit depois de fundido."""
    folder, family = shutil.copytree(folders[name], tmp_path / "pasta"), CHECKPOINTS[name]
    model, _ = models.load(family, profile=folder)
    methods.merge_and_unload(methods.apply(model, "bitfit", trains="new_bias"))
    (model if start else model.base_model).save_pretrained(folder)
    refused(OSError, r"\.bias, um viés que config\.json não diz.*methods\.save", family, TASK, profile=folder)


def test_a_folder_of_another_kind_of_answer_trains_for_classes(folder):
    edit(folder / "config.json", problem_type="multi_label_classification")
    task = toy_task(16)
    model, tokenizer = models.load("bert", task, profile=folder)
    assert len(training.train(model, tokenizer, task, lr=1e-3, steps=1, batch_size=4).loss) == 1


def test_a_vocabulary_larger_than_the_model_is_refused(folder):
    _, tokenizer = models.load("bert", profile=folder)
    tokenizer.add_tokens([f"nova{i}" for i in range(40)])
    tokenizer.save_pretrained(folder)
    refused(ValueError, r"tem \d+ tokens, e o modelo só conhece 50", "bert", profile=folder)


def test_a_sentencepiece_vocabulary_asks_for_its_library(folder, monkeypatch):
    (folder / "tokenizer.json").unlink()
    (folder / "spiece.model").write_bytes(b"\n\x10lixo")
    edit(folder / "tokenizer_config.json", tokenizer_class="T5Tokenizer")
    monkeypatch.setattr(transformers.utils, "is_sentencepiece_available", lambda: False)
    refused(OSError, r"pip install sentencepiece protobuf", "bert", profile=folder)


def test_a_folder_that_is_not_there(tmp_path):
    words = r"o perfil '.*nada'\. Existe: 'embutido', 'colab', 'gpu'.*não há uma pasta com esse.*'org/nome@revisão'"
    refused(ValueError, words, "bert", profile=str(tmp_path / "nada"))


def test_code_in_a_folder_is_never_run(folder):
    (folder / "modeling.py").write_text("raise SystemExit('rodou')")
    edit(folder / "config.json", auto_map={"AutoModelForMaskedLM": "modeling.Outro", "AutoConfig": "modeling.Outro"})
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling.Outro", "modeling.Outro"]})
    model, _ = models.load("bert", profile=folder)
    assert type(model).__name__ == "BertForMaskedLM"


# ---------------------------------------------------------------- o Hub


def test_it_says_what_it_asks_before_it_fetches(fake, capsys):
    model, _ = models.load("bert", profile=NAME)
    said, commit = capsys.readouterr().out, fake.repositories[NAME].commit
    assert f"{NAME}, commit {commit[:7]}: 0,00 GB a baixar, 1 min a 10 MB/s" in said and "ele cabe" in said
    assert model.profile == models.Profile(batch_size=16)
    before = len(fake.seen)
    models.load("bert", profile=f"{NAME}@{commit}")  # a revisão fixa está inteira no cache: nada se pergunta
    assert len(fake.seen) == before and not capsys.readouterr().out


def test_the_sizes_are_those_of_a_real_checkpoint():
    info = SimpleNamespace(sha="0" * 40, safetensors=None)
    said = hub.plan("neuralmind/bert-base", info, 438e6, {})
    assert "0,44 GB a baixar, 1 min" in said and "pedem 0,44 GB" in said and "1,75 GB" in said  # 110 milhões, 16 bytes
    half = hub.plan("org/x", info, 438e6, {"torch_dtype": "bfloat16"})
    assert "pedem 0,88 GB" in half and "3,50 GB" in half


@pytest.mark.parametrize(
    "room, words",
    [(1e9, "a GPU tem 1,00 GB, e ele não cabe: congele a base"), (1e12, "e ele cabe."), (float("inf"), "1,75 GB.")],
)
def test_it_says_if_full_fine_tuning_fits(monkeypatch, room, words):
    monkeypatch.setattr(hub, "memory", lambda: (room, "a GPU"))
    assert hub.plan("org/x", SimpleNamespace(sha="0" * 40, safetensors=None), 438e6, {}).endswith(
        (words, words + ", como faz LoRA.")
    )


def test_what_does_not_fit_is_not_fetched(fake, monkeypatch):
    weights = f"GET /{NAME}/resolve/{fake.repositories[NAME].commit}/model.safetensors"
    monkeypatch.setattr(hub, "memory", lambda: (1e3, "a GPU"))
    refused(MemoryError, r"a GPU tem 0,00 GB\. Nada foi baixado\. Escolha um modelo menor", "bert", profile=NAME)
    monkeypatch.undo()
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(OSError, match=r"sobram 0,00 GB no disco do cache.*HF_HOME"):
        hub.plan(NAME, SimpleNamespace(sha="0" * 40, safetensors=None), 438e6, {})
    assert weights not in fake.seen


def test_another_architecture_is_refused_before_the_weights_come(fake, folders):
    fake.repositories[NAME] = Repository(contents(folders["llama lm"]))
    refused(ValueError, r"'llama', e você pediu 'bert'.*models\.load\(\"llama\"", "bert", profile=NAME)
    assert not any("safetensors" in line for line in fake.seen)


def test_a_repository_with_only_pickle_says_where_the_converted_copy_is(fake, folders):
    files = contents(folders["bert mlm"])
    files["pytorch_model.bin"] = files.pop("model.safetensors")
    fake.repositories[NAME] = Repository(files)
    assert "refs/pr" not in refused(OSError, r"não há pesos em safetensors.*save_pretrained", "bert", profile=NAME)
    discussion = {"num": 5, "title": "Adding `safetensors` variant of this model", "isPullRequest": True,
                  "status": "open", "author": {"name": "SFconvertbot"}, "createdAt": "2023-03-16T00:00:00.000Z",
                  "repo": {"name": NAME, "type": "model"}}  # fmt: skip
    fake.repositories[NAME].pull_requests = [discussion | {"author": {"name": "outra-pessoa"}, "num": 4}, discussion]
    refused(OSError, r'profile="org/modelo@refs/pr/5"', "bert", profile=NAME)
    assert not any("pytorch_model" in line for line in fake.seen)


def test_a_revision_by_its_name_comes_whole(fake, folders):
    fake.repositories[NAME].revisions.add("refs/pr/5")
    model, _ = models.load("bert", profile=f"{NAME}@refs/pr/5")
    assert type(model).__name__ == "BertForMaskedLM"
    refused(FileNotFoundError, r"org/modelo não tem a revisão 'v9'.*/commits", "bert", profile=f"{NAME}@v9")


@pytest.mark.parametrize(
    "behaviour, error, words",
    [
        ({"gated": "manual"}, PermissionError, r"aceitar os termos.*login\(\)"),
        ({"status": 401}, FileNotFoundError, r"No Hub não há org/modelo, ou ele é privado.*login\(\)"),
        ({"status": 403}, PermissionError, r"recusou o seu token.*resposta 403.*Crie outro"),
        ({"status": 429}, ConnectionError, r"respondeu 429.*Espere"),
        ({"status": 503}, ConnectionError, r"respondeu 503.*Espere"),
        ({"cut": 2000}, ConnectionError, r"caiu no meio.*rode de novo para continuar"),
    ],
    ids=["termos", "privado", "token sem permissão", "pedidos demais", "fora do ar", "conexão cortada"],
)
def test_a_refusal_of_the_hub_is_told_with_the_way_out(fake, hurry, folders, behaviour, error, words):
    fake.repositories[NAME] = Repository(contents(folders["bert mlm"]), **behaviour)
    refused(error, words, "bert", profile=NAME)


def test_a_cut_download_goes_on_from_where_it_stopped(fake, hurry):
    fake.repositories[NAME].cut = 2000
    refused(ConnectionError, "caiu no meio", "bert", profile=NAME)
    fake.repositories[NAME].cut = None
    models.load("bert", profile=NAME)


def test_a_repository_that_is_not_there(fake):
    refused(FileNotFoundError, r"No Hub não há org/nada.*não há uma pasta com esse nome", "bert", profile="org/nada")
    fake.repositories[NAME].files.pop("config.json")
    refused(FileNotFoundError, r"Em org/modelo falta config\.json", "bert", profile=NAME)
    refused(ValueError, r"'--/x' não é um nome do Hub", "bert", profile="--/x")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_byte_that_changed_on_the_way_is_caught_and_does_not_stay(fake, name):
    repository = fake.repositories[NAME]
    content = bytearray(repository.files[name])
    content[-5] ^= 1
    repository.served[name] = bytes(content)
    refused(OSError, rf"{name} não é o arquivo que o Hub publicou.*rode de novo", "bert", profile=NAME)
    repository.served.clear()
    models.load("bert", profile=NAME)


def test_what_another_program_left_incomplete_in_the_cache_is_completed(fake, tmp_path):
    models.load("bert", profile=NAME)
    for path in (tmp_path / "cache").rglob("tokenizer.json"):
        path.unlink()
    models.load("bert", profile=f"{NAME}@{fake.repositories[NAME].commit}")


def test_a_cache_that_cannot_be_written(fake, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub, "download", full)
    refused(OSError, r"guardar org/modelo no cache.*o disco está cheio.*HF_HOME", "bert", profile=NAME)


def test_a_file_that_is_broken_in_the_hub_itself(fake, folders):
    files = contents(folders["bert mlm"])
    fake.repositories[NAME] = Repository(files | {"model.safetensors": b"\xff" * 3000})
    refused(OSError, "está cortado ou não é um arquivo safetensors", "bert", profile=NAME)


def test_a_file_that_rots_in_the_cache_is_caught(fake, tmp_path):
    models.load("bert", profile=NAME)
    [blob] = {path.resolve() for path in (tmp_path / "cache").rglob("model.safetensors")}
    content = bytearray(blob.read_bytes())
    content[-5] ^= 1
    blob.write_bytes(content)
    refused(OSError, r"model\.safetensors não é o arquivo que o Hub publicou", "bert", profile=NAME)
    models.load("bert", profile=NAME)


def linked_outside(cache, away, content=b"nada disto se apaga"):
    """Troca model.safetensors, no cache, por um atalho para um arquivo de fora."""
    [link] = cache.rglob("model.safetensors")
    link.unlink()
    away.parent.mkdir(exist_ok=True)
    away.write_bytes(content)
    link.symlink_to(away)
    return link


@pytest.mark.parametrize("away", ["model.safetensors", "0" * 64, "a" * 40], ids=["um nome", "sha256", "resumo de git"])
@pytest.mark.parametrize("online", [True, False], ids=["com rede", "só o cache"])
def test_a_link_that_leads_out_of_the_cache_is_cut_and_its_target_stays(fake, tmp_path, away, online):
    models.load("bert", profile=NAME)
    away = tmp_path / "fora" / away
    link = linked_outside(tmp_path / "cache", away)
    commit = fake.repositories[NAME].commit
    words = r"model\.safetensors não é o arquivo que o Hub publicou.*fora do cache, e ali não mexi"
    refused(OSError, words, "bert", profile=NAME if online else f"{NAME}@{commit}")
    assert away.read_bytes() == b"nada disto se apaga" and not link.is_symlink()
    models.load("bert", profile=f"{NAME}@{commit}")  # e se baixa de novo


def test_a_link_to_another_disk_with_the_published_bytes_is_used(fake, tmp_path):
    models.load("bert", profile=NAME)
    content = fake.repositories[NAME].files["model.safetensors"]
    away = tmp_path / "fora" / hashlib.sha256(content).hexdigest()
    link = linked_outside(tmp_path / "cache", away, content)
    models.load("bert", profile=f"{NAME}@{fake.repositories[NAME].commit}")
    assert link.is_symlink() and away.exists()


@pytest.mark.parametrize("part", ["blobs", ""], ids=["blobs", "o repositório"])
def test_a_folder_of_the_cache_that_is_a_link_loses_nothing_outside(fake, tmp_path, part):
    """Quem guardou o cache noutro disco: o que está lá, só quem o pôs apaga."""
    models.load("bert", profile=NAME)
    [root] = (tmp_path / "cache").glob("models--*")
    shutil.move(root / part, tmp_path / "fora")
    (root / part).symlink_to(tmp_path / "fora")
    models.load("bert", profile=f"{NAME}@{fake.repositories[NAME].commit}")
    [weights] = root.glob("snapshots/*/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    before = sorted((tmp_path / "fora").rglob("*"))
    refused(OSError, "fora do cache, e ali não mexi", "bert", profile=f"{NAME}@{fake.repositories[NAME].commit}")
    assert sorted((tmp_path / "fora").rglob("*")) == before


def test_a_broken_link_and_a_folder_in_the_cache(fake, tmp_path):
    models.load("bert", profile=NAME)
    [weights] = (tmp_path / "cache").rglob("model.safetensors")
    (weights.parent / ("a" * 64)).mkdir()  # outro programa trouxe também as pastas do repositório
    [tokens] = (tmp_path / "cache").rglob("tokenizer_config.json")
    tokens.resolve().unlink()
    commit = fake.repositories[NAME].commit
    refused(OSError, r"tokenizer_config\.json não é o arquivo", "bert", profile=f"{NAME}@{commit}")
    models.load("bert", profile=f"{NAME}@{commit}")


# ---------------------------------------------------------------- sem rede


def test_offline_without_a_copy(fake, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(
        ConnectionError, r"HF_HUB_OFFLINE está ligada, e org/modelo não está inteiro", "bert", profile=NAME, seconds=2
    )
    assert not fake.seen


def test_the_variables_of_the_hub_are_obeyed_from_the_start(tmp_path):
    """HF_HUB_OFFLINE e HF_HOME são lidas quando a biblioteca é importada: só um processo novo as vê."""
    code = """if True:
        import time
        from ftcourse import models
        started = time.perf_counter()
        try:
            models.load("bert", profile="colab")
        except ConnectionError as error:
            print(error, time.perf_counter() - started < 10)
    """
    child = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}, timeout=300,
        capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    assert "HF_HUB_OFFLINE está ligada, e neuralmind/bert-base-portuguese-cased@" in child.stdout
    assert str(tmp_path) in child.stdout and child.stdout.strip().endswith("True")


def test_offline_with_a_copy(fake, monkeypatch):
    online, _ = models.load("bert", profile=NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(fake.seen)
    offline, _ = models.load("bert", profile=NAME)
    assert len(fake.seen) == before
    assert all(torch.equal(online.state_dict()[key], value) for key, value in offline.state_dict().items())


def test_offline_with_half_a_copy(fake, hurry, monkeypatch):
    fake.repositories[NAME].cut = 2000
    refused(ConnectionError, "caiu no meio", "bert", profile=NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(ConnectionError, r"não está inteiro no cache", "bert", profile=NAME, seconds=2)


def test_no_network(fake, monkeypatch, capsys):
    models.load("bert", profile=NAME)
    capsys.readouterr()
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"http://127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", closed)
    words = r"127\.0\.0\.1:\d+ não responde\. Confira a rede, ou use o modelo do curso"
    refused(ConnectionError, words, "bert", profile="org/outro", seconds=5)
    models.load("bert", profile=NAME)
    assert "não responde" in (said := capsys.readouterr().out) and "é a cópia do cache" in said


def test_a_name_that_never_resolves_does_not_hang(fake, monkeypatch):
    monkeypatch.setattr(hub, "PATIENCE", 0.2)
    monkeypatch.setattr(socket, "create_connection", lambda *_: time.sleep(60))
    refused(ConnectionError, "não responde", "bert", profile=NAME, seconds=3)


def test_a_hub_that_accepts_and_says_nothing(fake, monkeypatch):
    monkeypatch.setattr(hub, "PATIENCE", 0.2)
    fake.silent = True
    refused(ConnectionError, r"caiu no meio \(ReadTimeout\)", "bert", profile=NAME)


def test_behind_a_proxy_nothing_is_asked_of_the_hub_directly(fake, monkeypatch):
    monkeypatch.setattr(hub.urllib.request, "getproxies", lambda: {"http": "http://proxy.exemplo:3128"})
    monkeypatch.setattr(hub.urllib.request, "proxy_bypass", lambda host: False)
    monkeypatch.setattr(socket, "create_connection", lambda *_: pytest.fail("perguntou direto"))
    hub.reach()


# ---------------------------------------------------------------- perfis


@pytest.mark.parametrize("profile", ["colab", "gpu"])
@pytest.mark.parametrize("family", CLASSES)
def test_a_profile_names_a_model_and_a_fixed_revision_for_each_family(fake, monkeypatch, profile, family):
    asked = []
    monkeypatch.setattr(hub, "fetch", lambda name, family: asked.append((name, family)) or pytest.skip())
    with pytest.raises(pytest.skip.Exception):
        models.load(family, profile=profile)
    [(name, wanted)] = asked
    repo, revision = hub.NAME.fullmatch(name).groups()
    assert wanted == family and repo.count("/") == 1 and (hub.COMMIT.fullmatch(revision) or "refs/pr/" in revision)


def test_the_environment_chooses_the_profile(folder, monkeypatch):
    monkeypatch.setenv("FTCOURSE_PERFIL", str(folder))
    model, _ = models.load("bert")
    assert model.config.vocab_size == 50
    assert models.load("bert", profile="embutido")[0].config.vocab_size == 8000


@pytest.mark.parametrize(
    "cuda, truly, expected", [(False, False, "float32"), (True, False, "float16"), (True, True, "bfloat16")]
)
def test_the_precision_is_what_the_card_really_has(monkeypatch, cuda, truly, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: truly or including_emulation)
    assert models.precision() == expected
