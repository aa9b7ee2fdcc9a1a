"""O que mais de um teste usa: modelo, tarefa e corpus de brinquedo, e processos que são mortos no meio do trabalho."""

import importlib.util
import itertools
import json
import multiprocessing
import os
import random
import runpy
import signal
import sys
import time
from functools import cache
from pathlib import Path

import datasets
import safetensors.torch
import tokenizers
import torch
import transformers

import conftest  # noqa: F401 (os processos que se matam somam na ordem deste e, como ele, não falam com a rede)
from ftcourse import interchange, layers, methods, modules, tasks, text_tasks, training
from ftcourse.files import DATA

ROOT = Path(__file__).resolve().parent.parent
MODEL = DATA / "modelos" / "mini-bert-pt"
SCRIPT = ROOT / "data" / "modelos" / "pretreina.py"
WORDS = "a casa do gato preto e o livro da menina na rua velha com chuva sob o céu azul de maio".split()
torch.set_num_threads(1)  # em tensores tão pequenos, dois núcleos se esperam mais do que trabalham


def load_script(path):
    """Um arquivo .py qualquer como módulo."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(MODEL)


def toy_model(seed=0, kind=transformers.BertForSequenceClassification, **settings):
    """Um BERT minúsculo, sorteado, de uma camada."""
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "initializer_range": 0.2,
    }
    config = transformers.BertConfig(vocab_size=8000, max_position_embeddings=128, **(sizes | settings))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(config).eval()


def toy_task(n=64, name="brinquedo"):
    """Frases de tamanhos variados; a resposta é se falam do dia ou da noite."""

    def rows(n, seed):
        rng = random.Random(seed)
        texts = [rng.choices(WORDS, k=rng.randint(2, 14)) for _ in range(n)]
        for i, text in enumerate(texts):
            text.insert(rng.randint(0, len(text)), ("noite", "dia")[i % 2])
        return datasets.Dataset.from_dict({"text": [" ".join(t) for t in texts], "label": [i % 2 for i in range(n)]})

    return tasks.Task(name, ("noite", "dia"), rows(n, 0), rows(n // 2, 1), rows(n // 2, 2))


@cache
def writer_tokenizer(seq2seq):
    """Um tokenizador minúsculo: BPE de bytes, com uma ficha de fim só, ou Unigram, como o de T5."""
    end, texts = ("</s>" if seq2seq else "<|fim|>"), [*toy_writing().train["input"], *WORDS]
    special = ["<pad>", end, "<unk>"]
    if seq2seq:
        pieces = {f"▁{word}" for text in texts for word in text.split()} | set("▁".join(texts))
        scores = [(piece, -1.0 - (len(piece) == 1)) for piece in (*special, *sorted(pieces))]
        core = tokenizers.Tokenizer(tokenizers.models.Unigram(scores, unk_id=2))
        core.pre_tokenizer, core.decoder = tokenizers.pre_tokenizers.Metaspace(), tokenizers.decoders.Metaspace()
        core.add_special_tokens([text_tasks.BLANK, text_tasks.NEXT])
    else:
        core = tokenizers.Tokenizer(tokenizers.models.BPE())
        core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = tokenizers.decoders.ByteLevel()
        alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=320, initial_alphabet=alphabet, special_tokens=special, show_progress=False
        )
        core.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=end, pad_token="<pad>", unk_token="<unk>", model_max_length=64
    )


def toy_writer(seq2seq, seed=0):
    """(model, tokenizer) de um T5 ou de um LLaMA minúsculos, sorteados, que sabem as letras de toy_writing."""
    tokenizer = writer_tokenizer(seq2seq)
    common = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    common |= {"eos_token_id": tokenizer.eos_token_id}
    if seq2seq:
        kind, sizes = transformers.T5ForConditionalGeneration, {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_heads": 2}
        config = transformers.T5Config(num_layers=1, decoder_start_token_id=0, dropout_rate=0.1, **sizes, **common)
    else:
        kind, sizes = transformers.LlamaForCausalLM, {"hidden_size": 32, "intermediate_size": 64}
        config = transformers.LlamaConfig(
            num_attention_heads=2, num_hidden_layers=1, initializer_range=0.2, max_position_embeddings=64,
            attention_dropout=0.1, **sizes, **common,
        )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(config).eval(), tokenizer


@cache
def toy_writing(n=64):
    """Uma tarefa de escrever: de uma a quatro palavras, e a resposta é a primeira metade delas."""

    def rows(n, seed):
        rng = random.Random(seed)
        given = [" ".join(rng.choices(WORDS, k=rng.randint(1, 4))) for _ in range(n)]
        table = {"input": [f"metade: {text}" for text in given], "given": given}
        halves = [" ".join(text.split()[: (len(text.split()) + 1) // 2]) for text in given]
        return datasets.Dataset.from_dict(table | {"target": halves})

    return text_tasks.TextTask("escrita", (), rows(n, 0), rows(n // 2, 1), rows(n // 2, 2))


def toy_corpus(n, seed=0):
    """`n` parágrafos de 30 a 45 palavras inventadas, com cara de português, umas bem mais frequentes que outras."""
    rng = random.Random(seed)
    syllables = "ba ca da fa ga la ma na pa ra ta ve te se le me ri di li ni to do lo mo ro cu tu ção nha".split()
    lexicon = ["".join(rng.choices(syllables, k=rng.randint(1, 3))) for _ in range(300)]
    weights = [1 / (rank + 3) for rank in range(300)]
    return [" ".join(rng.choices(lexicon, weights, k=rng.randint(30, 45))).capitalize() + "." for _ in range(n)]


# ---------------------------------------------------------------- as três famílias, minúsculas


def bert_config(rng, heads, width):
    return transformers.BertConfig(
        hidden_size=heads * width, num_attention_heads=heads, num_hidden_layers=rng.randint(1, 2),
        intermediate_size=rng.randint(12, 40), max_position_embeddings=32,
    )  # fmt: skip


def llama_config(rng, heads, width):
    return transformers.LlamaConfig(
        hidden_size=heads * width, num_attention_heads=heads, num_hidden_layers=rng.randint(1, 2),
        intermediate_size=rng.randint(12, 40), num_key_value_heads=rng.choice([1, 2]), max_position_embeddings=32,
        attention_dropout=0.1,
    )  # fmt: skip


def t5_config(rng, heads, width, feed_forward="gated-gelu"):
    return transformers.T5Config(
        d_model=2 * rng.randint(5, 16), num_heads=heads, d_kv=width, num_layers=rng.randint(1, 2),
        d_ff=rng.randint(12, 40), feed_forward_proj=feed_forward, decoder_start_token_id=0,
    )  # fmt: skip


TINY = {
    "bert": (transformers.BertForSequenceClassification, bert_config),
    "llama": (transformers.LlamaForSequenceClassification, llama_config),
    "t5": (transformers.T5ForSequenceClassification, t5_config),
    "bert mlm": (transformers.BertForMaskedLM, bert_config),
    "llama lm": (transformers.LlamaForCausalLM, llama_config),
    "t5 lm": (transformers.T5ForConditionalGeneration, t5_config),
    "t5 relu lm": (transformers.T5ForConditionalGeneration, lambda *args: t5_config(*args, feed_forward="relu")),
}
WITH_HEAD, GENERATE = ("bert", "llama", "t5"), ("llama lm", "t5 lm", "t5 relu lm")
PAD, EOS, VOCABULARY = 0, 1, 50


def tiny(family, seed=0, dtype=torch.float32):
    """Um modelo minúsculo de TINY: o tamanho e os pesos saem de `seed`, sem mexer no gerador global."""
    kind, configure = TINY[family]
    rng = random.Random(seed)
    config = configure(rng, rng.choice([2, 4]), rng.choice([4, 6]))
    config.update({"vocab_size": VOCABULARY, "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": 2})
    config.num_labels = 3
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(config)
        for parameter in model.parameters():  # com os desvios do pré-treino, tão pequenos, tudo seria quase zero
            torch.nn.init.normal_(parameter, std=0.3)
    return model.to(dtype).eval()


def tiny_batch(model, seed=0):
    """Três frases de tamanhos diferentes, com o que o modelo precisa para dar a perda."""
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (3, 7), generator=rng)
    for row, end in enumerate((6, 4, 2)):
        ids[row, end], ids[row, end + 1 :] = EOS, PAD
    if any(hasattr(model, name) for name in modules.HEADS):
        labels = torch.randint(3, (3,), generator=rng)
    else:
        labels = torch.randint(3, VOCABULARY, (3, 7), generator=rng)
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": labels}


@torch.no_grad()
def logits(model, seed=0):
    """Os logits da mesma frase de sempre; o modelo não muda de modo."""
    return model(**tiny_batch(model, seed)).logits


def shake(model, seed=1):
    """Muda ao acaso tudo o que treina, como um treino faria: com B = 0, muito erro passaria por acerto."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=rng))
    return model


def refusal(method, family):
    """O que a técnica responde a uma família que não tem o que ela treina; None se a aceita."""
    try:
        methods.apply(tiny(family), method)
    except modules.UnsuitableModel as error:
        return str(error)


REFUSALS = {(method, family): refusal(method, family) for method in methods.METHODS for family in TINY}
PAIRS = [pair for pair, words in REFUSALS.items() if not words]  # o que se pode treinar: (técnica, família)


def mergeable(method):
    """Se a técnica se funde aos pesos da base."""
    return not hasattr(methods.METHODS[method], "unmergeable")


def photo(model):
    """Tudo o que uma recusa tem de deixar como estava: os bits, o que treina, os módulos, o adaptador que age."""
    bits = {name: tensor.float().numpy().tobytes() for name, tensor in model.state_dict().items()}
    parts = {name: (type(module), module.training) for name, module in model.named_modules()}
    merged = [(name, type(layer), layer.unmerged is not None) for name, layer in layers.wrapped(model)]
    trains = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    return bits, parts, merged, trains, hooks(model), methods.adapters(model), getattr(model, "active_name", None)


def rewrite(folder, **changes):
    """Muda ajustes num arquivo (None tira um) como se peft o tivesse gravado: sem o resumo que o daqui traz deles."""
    config, weights = folder / interchange.CONFIG, folder / interchange.WEIGHTS
    safetensors.torch.save_file(safetensors.torch.load_file(weights), weights)
    fields = json.loads(config.read_text()) | changes
    config.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))


def hooks(model):
    """Quantos ganchos há em cada módulo que os tem: {nome: quantos}."""
    counts = {name: len(m._forward_pre_hooks) + len(m._forward_hooks) for name, m in model.named_modules()}
    return {name: count for name, count in counts.items() if count}


# ---------------------------------------------------------------- processos que morrem

# Com forkserver, as bibliotecas são carregadas uma vez só, e cada processo que se mata custa milésimos.
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
context = multiprocessing.get_context(METHOD)
if METHOD == "forkserver":
    preload = "pytest ftcourse.tasks ftcourse.training transformers.models.bert.modeling_bert scipy.sparse.linalg"
    context.set_forkserver_preload(preload.split())
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)


def finish(target, *args):
    """Roda `target` num processo à parte, até o fim, e devolve o código de saída."""
    process = context.Process(target=target, args=args)
    process.start()
    process.join(120)
    process.kill()
    return process.exitcode


def kill(target, *args, when, delay=0.0):
    """Roda `target` num processo à parte e o mata `delay` segundos depois que `when()` vale. Diz se ainda vivia."""
    process = context.Process(target=target, args=args)
    process.start()
    while process.is_alive() and not when():
        time.sleep(0.001)
    process.join(delay)
    process.kill()
    process.join()
    return process.exitcode not in (0, 1)


def die_at(call, function):
    """Faz este processo se matar na chamada número `call` de os.`function`."""
    original, calls = getattr(os, function), itertools.count(1)

    def mortal(*args, **options):
        if next(calls) == call:
            os.kill(os.getpid(), KILL)
        return original(*args, **options)

    setattr(os, function, mortal)


def train_toy(checkpoint, *death, method="full"):
    """Um treino que grava a cada três passos; `death`: ver die_at."""
    if death:
        die_at(*death)
    model = methods.apply(toy_model(), method)
    training.train(
        model, tokenizer(), toy_task(), lr=2e-3, steps=90, batch_size=8, eval_every=30, checkpoint=checkpoint,
        checkpoint_every=3,
    )  # fmt: skip


def save_over(folder, *death):
    """Grava um adaptador em cima de outro, de outro α, e morre no meio; `death`: ver die_at."""
    model = shake(methods.apply(tiny("bert"), "lora", lora_alpha=64), seed=2)
    if death:
        die_at(*death)
    methods.save(model, folder)


def run_script(*arguments):
    """pretreina.py como na linha de comando."""
    sys.argv = [str(SCRIPT), *arguments]
    runpy.run_path(str(SCRIPT), run_name="__main__")
