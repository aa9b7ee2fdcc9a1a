"""mini-BERT-pt: um codificador que adivinha os tokens escondidos (Devlin et al., 2019)."""

import math

import tokenizers
import torch
import torch.nn.functional as F
import transformers

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNK, CLS, SEP, MASK = range(len(SPECIALS))
IGNORED = -100  # o rótulo que cross_entropy pula
BEGIN, END = (), (SEP,)  # o que fica em volta de cada parágrafo na fila
WINDOW, LONG_WINDOW = 62, 126  # tokens de texto; [CLS] e [SEP] vão por fora
RATES = {}
DEFAULTS = {"passos": 12_000, "lote": 96, "camadas": 4}
EXAMPLES = """Ela abriu a [MASK] e saiu.
Bentinho olhou para os [MASK] de Capitu.
Clique no botão [MASK] para salvar o arquivo.
O usuário deve informar a [MASK] para entrar.
As meninas estão [MASK].
Os meninos foram [MASK] pela professora.
Ele não quis [MASK] nada.
Se eu [MASK] tempo, leria mais.
A função devolve um [MASK] inteiro.
Para instalar o programa, execute o [MASK] abaixo.
Naquela noite, o velho [MASK] não dormiu.
Era uma vez um [MASK] que vivia sozinho.
Fui à [MASK] comprar pão.
Obrigado pela sua [MASK].
Choveu muito, por [MASK] ficamos em casa.
A capital do Brasil é [MASK].
Dois mais dois são [MASK].
O contrário de quente é [MASK].
Machado de Assis escreveu [MASK] Casmurro.
O gato subiu no telhado e o cachorro ficou no [MASK].""".splitlines()


def train_tokenizer(paragraphs, vocab_size):
    """WordPiece com maiúsculas e acentos (Schuster e Nakajima, 2012), no formato que o BERT espera."""
    core = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    core.normalizer = tokenizers.normalizers.BertNormalizer(
        lowercase=False, strip_accents=False, handle_chinese_chars=False
    )
    core.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    core.decoder = tokenizers.decoders.WordPiece()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=SPECIALS, limit_alphabet=200, show_progress=False
    )
    core.train_from_iterator(paragraphs, trainer)
    core.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIALS))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=LONG_WINDOW + 2, **names)


def new_model(layers, width, vocab_size):
    """Um BERT sem dropout. Em janelas curtas, numa CPU, a atenção "eager" leva 2/3 do tempo da SDPA."""
    config = transformers.BertConfig(
        vocab_size=vocab_size, hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64), intermediate_size=4 * width,
        max_position_embeddings=LONG_WINDOW + 2, pad_token_id=PAD,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        initializer_range=1 / math.sqrt(width),  # o 0,02 do BERT foi escolhido para 768
    )  # fmt: skip
    return transformers.BertForMaskedLM._from_config(config, attn_implementation="eager")


@torch.no_grad()
def start(model, vectors, frequencies):
    """Entrada por PPMI, viés da saída pelo logaritmo das frequências; o que nunca coocorre fica com o sorteio."""
    seen = vectors.abs().sum(1) > 0
    model.get_input_embeddings().weight[seen] = vectors[seen]  # a mesma matriz da saída
    model.cls.predictions.decoder.bias.copy_(frequencies.log())


def framed(text):
    """[CLS] … [SEP] em volta de cada janela. text: (B, T); devolve (B, T + 2)."""
    edge = torch.ones(len(text), 1, dtype=torch.long)
    return torch.cat([CLS * edge, text, SEP * edge], dim=1)


def mask_tokens(ids, rate, vocab_size, generator):
    """Escolhe `rate` dos tokens; 80 % viram [MASK], 10 % um qualquer, 10 % ficam (Devlin et al., 2019, §3.1).

    ids: (B, T). Devolve (entrada, rótulos), ambos (B, T); os rótulos são IGNORED onde não se pergunta nada.
    """
    chance = torch.rand(ids.shape, generator=generator).masked_fill(ids < len(SPECIALS), 2.0)
    chosen = chance < rate
    corrupted = ids.masked_fill(chance < 0.8 * rate, MASK)
    random_ids = torch.randint(len(SPECIALS), vocab_size, ids.shape, generator=generator)
    corrupted = torch.where((chance >= 0.8 * rate) & (chance < 0.9 * rate), random_ids, corrupted)
    return corrupted, ids.masked_fill(~chosen, IGNORED)


def batch(text, done, vocab_size, generator):
    """(entrada, rótulos) de um passo. text: (B, T); done: a fração do treino que já passou.

    Muitas perguntas no começo, tantas quantas as do BERT no fim (Ankner et al., 2023).
    """
    return mask_tokens(framed(text), 0.30 - 0.15 * done, vocab_size, generator)


def loss(model, ids, labels, reduction="mean"):
    """Entropia cruzada em nats, com a camada de saída calculada só onde há pergunta. ids, labels: (B, T)."""
    hidden = model.bert(input_ids=ids).last_hidden_state  # (B, T, d)
    asked = labels != IGNORED
    return F.cross_entropy(model.cls(hidden[asked]).float(), labels[asked], reduction=reduction)


@torch.no_grad()
def held_out_loss(model, text, vocab_size, rate=0.15, seed=0):
    """Perda média em nats por token perguntado, máscara de `rate` e sorteio fixo. text: (n, T)."""
    masked, labels = mask_tokens(framed(text), rate, vocab_size, torch.Generator().manual_seed(seed))
    device = model.device
    total = sum(
        loss(model, a.to(device), b.to(device), "sum").item() for a, b in zip(masked.split(64), labels.split(64))
    )
    return total / (labels != IGNORED).sum().item()


def embedding_std(width):
    """O desvio das representações no começo: o mesmo dos outros pesos."""
    return 1 / math.sqrt(width)


def compare(model, tokenizer, arrays, sources):
    """As linhas de base do cartão, além da perda: nenhuma, num modelo de máscara."""
    return {}


def examples(model, tokenizer):
    """Uma linha de tabela Markdown por frase de EXAMPLES: os cinco tokens mais prováveis, sem escolher nem corrigir."""
    for sentence in EXAMPLES:
        ids = tokenizer(sentence, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            top = model(ids).logits[0, ids[0] == MASK].softmax(-1)[0].topk(5)
        guesses = [
            f"{tokenizer.decode([i])} {p:.2f}".replace(".", ",")
            for p, i in zip(top.values.tolist(), top.indices.tolist())
        ]
        yield f"| {sentence} | {' · '.join(guesses)} |"
