"""mini-T5-pt: um codificador que lê e um decodificador que escreve (Raffel et al., 2020)."""

import tokenizers
import torch
import torch.nn.functional as F
import transformers
from corpus import windows

SENTINELS = 100
SPECIALS = ["<pad>", "</s>", "<unk>"]
PAD, EOS, UNK = range(len(SPECIALS))
BEGIN, END = (), ()
WINDOW, LONG_WINDOW = 48, 128
RATES = {"relative_attention_bias": 10}  # tem de chegar a várias unidades para que uma cabeça olhe só o token anterior
DEFAULTS = {"passos": 4_600, "lote": 64, "camadas": 4}
EXAMPLES = """O menino abriu a <extra_id_0> e saiu correndo.
Bentinho olhou para os <extra_id_0> de Capitu.
Clique no botão <extra_id_0> para <extra_id_1> o arquivo.
O usuário deve informar a <extra_id_0> para entrar no sistema.
As meninas estão <extra_id_0> na rua.
Naquela noite, o velho <extra_id_0> não dormiu.
Se eu tivesse <extra_id_0>, leria mais livros.
A função <extra_id_0> um valor inteiro.
Para instalar <extra_id_0>, execute o comando <extra_id_1>.
Fui à <extra_id_0> comprar <extra_id_1>.""".splitlines()


def train_tokenizer(paragraphs, vocab_size):
    """Unigram (Kudo, 2018), com </s> no fim e as sentinelas <extra_id_0> … <extra_id_99> nos últimos números."""
    core = tokenizers.Tokenizer(tokenizers.models.Unigram())
    core.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.NFC(), tokenizers.normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
    )
    core.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = tokenizers.decoders.Metaspace(prepend_scheme="first")
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=vocab_size - SENTINELS, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False
    )
    core.train_from_iterator(paragraphs, trainer)
    core.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", EOS)]
    )
    # O espaço antes de uma sentinela é dela, e depois nenhum se inventa: no pré-treino ela toma o lugar de tokens que
    # já traziam o seu.
    sentinels = [tokenizers.AddedToken(f"<extra_id_{i}>", lstrip=True, special=True) for i in range(SENTINELS)]
    core.add_special_tokens(sentinels[::-1])
    names = dict(zip(("pad_token", "eos_token", "unk_token"), SPECIALS))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, model_max_length=LONG_WINDOW, additional_special_tokens=sentinels, **names
    )


def new_model(layers, width, vocab_size):
    """Como o T5 v1.1: feed-forward com porta, sem vieses nem dropout, posições relativas; entrada e saída, uma só."""
    config = transformers.T5Config(
        vocab_size=vocab_size, d_model=width, d_kv=min(64, width), d_ff=width * 8 // 3 // 32 * 32, num_layers=layers,
        num_decoder_layers=layers, num_heads=max(1, width // 64), feed_forward_proj="gated-gelu", dropout_rate=0.0,
        pad_token_id=PAD, eos_token_id=EOS, decoder_start_token_id=PAD,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration._from_config(config, attn_implementation="eager")


def embedding_std(width):
    """O desvio das representações no começo: o T5 as quer de desvio 1, e divide a saída por √d."""
    return 1.0


@torch.no_grad()
def start(model, vectors, frequencies):
    """Entrada, e com ela a saída, por PPMI; o que nunca coocorre, como as sentinelas, fica com o sorteio."""
    seen = vectors.abs().sum(1) > 0
    model.get_input_embeddings().weight[seen] = vectors[seen]


def lengths(total, parts, rows, generator):
    """Corta `total` tokens em `parts` trechos não vazios, ao acaso: (rows, parts), cada linha soma `total`."""
    cuts = torch.rand(rows, total - 1, generator=generator).argsort(1)[:, : parts - 1].sort(1).values + 1
    edges = torch.cat([torch.zeros(rows, 1), cuts, torch.full((rows, 1), total)], dim=1).long()
    return edges.diff(dim=1)


def corrupt_spans(text, vocab_size, generator, rate=0.15, mean_length=3):
    """Troca trechos por sentinelas; a resposta são as sentinelas com os seus trechos (Raffel et al., 2020, §3.1.4).

    text: (B, T). Devolve (entrada, resposta), ambas fechadas por </s> e do mesmo tamanho em toda linha.
    """
    rows, width = text.shape
    noisy = max(1, round(rate * width))
    spans = max(1, round(noisy / mean_length))
    kept, hidden = (lengths(n, spans, rows, generator) for n in (width - noisy, noisy))
    both = torch.stack([kept, hidden], dim=2).flatten()  # fica, some, fica, some…
    part = torch.arange(2 * spans).repeat(rows).repeat_interleave(both).view(rows, width)
    gone = part % 2 == 1
    first = gone & (part != F.pad(part, (1, 0))[:, :-1])
    sentinel = vocab_size - 1 - part // 2
    end = torch.full((rows, 1), EOS)
    source = torch.where(first, sentinel, text)[first | ~gone].view(rows, -1)
    target = torch.stack([sentinel, text], dim=2)[torch.stack([first, gone], dim=2)].view(rows, -1)
    return torch.cat([source, end], 1), torch.cat([target, end], 1)


def restore(text, vocab_size, generator, rate=0.15):
    """Apaga tokens soltos; a resposta é o texto inteiro. A última sentinela, na frente, diz que o pedido é este."""
    rows, width = text.shape
    order = torch.rand(rows, width, generator=generator).argsort(1)
    kept = order[:, : width - max(1, round(rate * width))].sort(1).values
    asked, end = torch.full((rows, 1), vocab_size - SENTINELS), torch.full((rows, 1), EOS)
    return torch.cat([asked, text.gather(1, kept), end], 1), torch.cat([text, end], 1)


def batch(text, done, vocab_size, generator):
    """(entrada, resposta) de um passo: trechos escondidos ou, de metade das vezes a uma em dez, o texto de volta.

    Só com os trechos, um modelo deste tamanho aprende a ignorar o codificador.
    """
    task = restore if torch.rand((), generator=generator) < 0.5 - 0.4 * done else corrupt_spans
    return task(text, vocab_size, generator)


def loss(model, ids, labels, reduction="mean"):
    """Entropia cruzada da resposta, em nats. ids: (B, T); labels: (B, T')."""
    shifted = F.pad(labels, (1, 0), value=PAD)[:, :-1]  # com labels, o modelo calcularia a perda uma vez a mais
    logits = model(input_ids=ids, decoder_input_ids=shifted, use_cache=False).logits.float()
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction=reduction)


@torch.no_grad()
def held_out_loss(model, text, vocab_size, swapped=False):
    """Perda média em nats por token da resposta, sorteio fixo; swapped: com a entrada de outro texto. text: (n, T)."""
    source, target = corrupt_spans(text, vocab_size, torch.Generator().manual_seed(0))
    if swapped:
        source = source.roll(1, 0)
    pairs = zip(source.split(64), target.split(64))
    return sum(loss(model, a.to(model.device), b.to(model.device), "sum").item() for a, b in pairs) / target.numel()


def compare(model, tokenizer, arrays, sources):
    """A perda com a entrada de outro texto: quanto o decodificador usa o que o codificador leu."""
    text = torch.cat([windows(arrays[f"held_out_{name}"], WINDOW) for name in sources])
    return {"other_text": held_out_loss(model, text, len(tokenizer), swapped=True)}


def examples(model, tokenizer):
    """Uma linha de tabela Markdown por frase de EXAMPLES: a resposta mais provável, sem escolher nem corrigir."""
    for sentence in EXAMPLES:
        ids = tokenizer(sentence, return_tensors="pt")
        written = model.generate(**ids, max_new_tokens=24)[0]
        answer = tokenizer.decode(written, skip_special_tokens=False)
        shown = answer.removeprefix("<pad>").split("</s>")[0].strip()
        yield f"| `{sentence}` | `{shown}` |"
