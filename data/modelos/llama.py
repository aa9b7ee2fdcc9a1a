"""mini-LLaMA-pt: um decodificador que prevê o próximo token (Touvron et al., 2023)."""

import math

import numpy as np
import tokenizers
import torch
import torch.nn.functional as F
import transformers
from corpus import windows
from ngrama import KneserNey

SPECIALS = ["<unk>", "<s>", "</s>", "<pad>"]
UNK, BOS, EOS, PAD = range(len(SPECIALS))
BEGIN, END = (BOS,), (EOS,)  # o que fica em volta de cada parágrafo na fila
WINDOW, LONG_WINDOW = 128, 256
RATES = {}
DEFAULTS = {"passos": 4_000, "lote": 32, "camadas": 6}
PROMPTS = """Era uma vez
Capitu olhou para
O Brasil é
Para instalar o programa,
Clique em
A função retorna
Naquela manhã, o velho
— Não sei, disse ela
Se você quiser
O banco de dados""".splitlines()


def train_tokenizer(paragraphs, vocab_size):
    """BPE de bytes (Radford et al., 2019), com <s> no começo como no LLaMA: nenhum texto fica sem token."""
    core = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIALS, show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    core.train_from_iterator(paragraphs, trainer)
    core.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", BOS)]
    )
    names = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), SPECIALS))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=LONG_WINDOW, **names)


def new_model(layers, width, vocab_size):
    """RMSNorm, RoPE e SwiGLU, sem vieses; a matriz de entrada é também a de saída."""
    config = transformers.LlamaConfig(
        vocab_size=vocab_size, hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64), intermediate_size=width * 8 // 3 // 32 * 32,
        max_position_embeddings=LONG_WINDOW, tie_word_embeddings=True, initializer_range=1 / math.sqrt(width),
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
    )  # fmt: skip
    return transformers.LlamaForCausalLM._from_config(config, attn_implementation="eager")


def embedding_std(width):
    """O desvio das representações no começo: o mesmo dos outros pesos."""
    return 1 / math.sqrt(width)


@torch.no_grad()
def start(model, vectors, frequencies):
    """Entrada, e com ela a saída, por PPMI; o que nunca coocorre fica com o sorteio."""
    seen = vectors.abs().sum(1) > 0
    model.get_input_embeddings().weight[seen] = vectors[seen]


def batch(text, done, vocab_size, generator):
    """A janela de um passo, (B, T): cada token é a resposta dos anteriores."""
    return (text,)


def loss(model, ids, reduction="mean"):
    """Entropia cruzada do próximo token, em nats; o <s> que abre um parágrafo não se pergunta. ids: (B, T)."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]  # (B, T − 1, d)
    logits = model.lm_head(hidden.flatten(0, 1)).float()
    return F.cross_entropy(logits, ids[:, 1:].flatten(), ignore_index=BOS, reduction=reduction)


@torch.no_grad()
def held_out_loss(model, text, vocab_size):
    """Perda média em nats por token. text: (n, T)."""
    total = sum(loss(model, ids.to(model.device), "sum").item() for ids in text.split(32))
    return total / (text[:, 1:] != BOS).sum().item()


def compare(model, tokenizer, arrays, sources):
    """Bits por caractere do modelo e de um 4-grama de Kneser e Ney, nos mesmos tokens dos parágrafos reservados."""
    streams = [arrays[f"held_out_{name}"] for name in sources]
    text = torch.cat([windows(stream, WINDOW) for stream in streams])
    asked = text[:, 1:].numpy() != BOS
    characters = sum(len(piece) for piece in tokenizer.batch_decode(text, skip_special_tokens=True))
    per_character = asked.sum() / characters / math.log(2)
    ngram = KneserNey(arrays["stream"], len(tokenizer))
    surprise = -np.log(np.concatenate([ngram.probabilities(row)[None] for row in text.numpy()])[:, 1:])
    nats = held_out_loss(model, text, len(tokenizer))
    return {
        "bits_per_character": nats * per_character,
        "ngram_nats": surprise[asked].mean(),
        "ngram_bits_per_character": surprise[asked].mean() * per_character,
    }


def examples(model, tokenizer):
    """Um parágrafo Markdown por começo de PROMPTS, sorteado com semente fixa, sem escolher nem corrigir."""
    for seed, prompt in enumerate(PROMPTS):
        torch.manual_seed(seed)
        ids = tokenizer(prompt, return_tensors="pt")
        written = model.generate(
            **ids, do_sample=True, temperature=0.8, top_p=0.95, max_new_tokens=60, pad_token_id=PAD
        )[0]
        rest = tokenizer.decode(written[ids["input_ids"].shape[1] :], skip_special_tokens=True)
        yield f"- **{prompt}**{' '.join(rest.splitlines())}"
