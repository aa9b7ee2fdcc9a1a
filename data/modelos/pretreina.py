"""Pré-treina os modelos embutidos do curso a partir de uma pasta de textos.

    python data/modelos/pretreina.py CORPUS data/modelos/mini-bert-pt --passos 12000

CORPUS tem arquivos .txt ou .txt.xz, um parágrafo por linha. O que o script faz, na ordem:

1. tira do corpus os parágrafos que contêm alguma frase das tarefas (`--fora`) e os reservados para a avaliação;
2. treina o vocabulário e codifica tudo uma vez;
3. começa as representações pelas coocorrências (PPMI e SVD): sem isso um modelo pequeno passa meia hora num platô;
4. treina; o lote de cada passo é função de (semente, passo), então retomar é só ler o último checkpoint;
5. mede, converte para bfloat16 e grava safetensors, tokenizador, configuração, curva e sha256.

Morto a qualquer momento, o mesmo comando retoma do último checkpoint e chega aos mesmos pesos.
"""

import argparse
import hashlib
import json
import lzma
import math
import os
import re
import shutil
import string
import time
from pathlib import Path

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import tokenizers
import torch
import torch.nn.functional as F
import transformers
from tqdm.auto import tqdm

from ftcourse import environment
from ftcourse.files import DATA, atomic_write, sha256
from ftcourse.training import load_state, save_state

WINDOW, LONG_WINDOW = 64, 128  # fichas, com [CLS] e [SEP]
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNK, CLS, SEP, MASK = range(len(SPECIALS))
IGNORED = -100  # o rótulo que cross_entropy pula
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


# ---------------------------------------------------------------- o corpus


def read_lines(path):
    """As linhas não vazias de um arquivo de texto UTF-8, comprimido com xz ou não."""
    with (lzma.open if path.suffix == ".xz" else open)(path, "rt", encoding="utf-8") as file:
        yield from filter(None, map(str.strip, file))


def read_corpus(folder):
    """{nome da fonte: [parágrafo, …]} de todos os .txt e .txt.xz da pasta."""
    files = sorted([*folder.glob("*.txt"), *folder.glob("*.txt.xz")])
    if not files:
        raise SystemExit(
            f"Em {folder} não há nenhum .txt nem .txt.xz: aponte uma pasta com textos, um parágrafo por linha."
        )
    return {path.name.removesuffix(".xz").removesuffix(".txt"): list(dict.fromkeys(read_lines(path))) for path in files}


def words(text):
    return tuple(re.findall(r"\w+", text.casefold()))


def task_sentences(paths):
    """As frases que o corpus não pode conter: `text` e `original` dos .jsonl; as linhas dos outros arquivos."""
    for path in (file for p in paths for file in (sorted(p.rglob("*.jsonl")) if p.is_dir() else [p])):
        for line in read_lines(path):
            if path.suffix == ".jsonl":
                row = json.loads(line)
                yield from (row[key] for key in ("text", "original") if row.get(key))
            else:
                yield line


class Contamination:
    """Diz se um parágrafo contém uma das frases, sem olhar caixa nem pontuação; menos de `n` palavras não conta."""

    def __init__(self, sentences, n=5):
        self.n, self.by_start = n, {}
        for sentence in set(map(words, sentences)):
            if len(sentence) >= n:
                self.by_start.setdefault(sentence[:n], []).append(sentence)

    def __contains__(self, paragraph):
        text = words(paragraph)
        return any(
            text[i : i + len(sentence)] == sentence
            for i in range(len(text) - self.n + 1)
            for sentence in self.by_start.get(text[i : i + self.n], ())
        )


def digest(paragraph):
    return hashlib.sha256(paragraph.encode()).hexdigest()[:16]


def is_held_out(paragraph, every=50):
    """Reserva para avaliação um em cada `every` parágrafos de 30 palavras ou mais, pelo resumo do próprio texto."""
    return len(paragraph.split()) >= 30 and int(digest(paragraph), 16) % every == 0


# ---------------------------------------------------------------- o vocabulário


def train_tokenizer(paragraphs, vocab_size):
    """WordPiece com maiúsculas e acentos (Schuster e Nakajima, 2012), no formato que BERT espera."""
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
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=LONG_WINDOW, **names)


def kept_tokenizer(paragraphs, vocab_size, folder):
    """O tokenizador de `folder`, treinado e guardado na primeira vez: o treinador desempata ao acaso."""
    if not folder.exists():
        partial = folder.with_name("tokenizador.parcial")
        train_tokenizer(paragraphs, vocab_size).save_pretrained(partial)
        os.replace(partial, folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


def encode(tokenizer, paragraphs):
    """Parágrafos em fichas, cada um fechado por [SEP]: (todas em fila, onde cada um começa e o fim)."""
    pieces = []
    for i in tqdm(range(0, len(paragraphs), 10_000), desc="codificando", unit=" × 10 mil parágrafos"):
        batch = tokenizer(paragraphs[i : i + 10_000], add_special_tokens=False, verbose=False)["input_ids"]
        pieces += [np.array([*ids, SEP], dtype=np.uint16) for ids in batch]
    return np.concatenate(pieces), np.cumsum([0, *map(len, pieces)])


def windows(stream, width):
    """Corta a fila em janelas [CLS] … [SEP] de `width` fichas: (n, width). A sobra do fim se perde."""
    n = len(stream) // (width - 2)
    body = torch.from_numpy(stream[: n * (width - 2)].astype(np.int64)).view(n, width - 2)
    edge = torch.ones(n, 1, dtype=torch.long)
    return torch.cat([CLS * edge, body, SEP * edge], dim=1)


def held_out_windows(arrays, sources):
    """As janelas de avaliação das fontes: (n, WINDOW)."""
    return torch.cat([windows(arrays[f"held_out_{name}"], WINDOW) for name in sources])


def mask_tokens(ids, rate, vocab_size, generator):
    """Escolhe `rate` das fichas; 80 % viram [MASK], 10 % uma qualquer, 10 % ficam (Devlin et al., 2019, §3.1).

    ids: (B, T). Devolve (entrada, rótulos), ambos (B, T); os rótulos são IGNORED onde não se pergunta nada.
    """
    chance = torch.rand(ids.shape, generator=generator).masked_fill(ids < len(SPECIALS), 2.0)
    chosen = chance < rate
    corrupted = ids.masked_fill(chance < 0.8 * rate, MASK)
    random_ids = torch.randint(len(SPECIALS), vocab_size, ids.shape, generator=generator)
    corrupted = torch.where((chance >= 0.8 * rate) & (chance < 0.9 * rate), random_ids, corrupted)
    return corrupted, ids.masked_fill(~chosen, IGNORED)


# ---------------------------------------------------------------- o modelo


def ppmi_embeddings(stream, vocab_size, width, std, reach=5):
    """Representações iniciais (V, d) e frequências (V,): PPMI das coocorrências, SVD truncada (Levy e Goldberg, 2014).

    Pares a distância k ≤ `reach` pesam 1/k; a distribuição do contexto é elevada a 0,75 (Levy et al., 2015, §3.2).
    """
    counts = scipy.sparse.csr_matrix((vocab_size, vocab_size), dtype=np.float64)
    for k in range(1, reach + 1):
        pairs = (stream[:-k].astype(np.int32), stream[k:].astype(np.int32))
        counts += scipy.sparse.coo_matrix((np.full(len(stream) - k, 1 / k), pairs), shape=counts.shape).tocsr()
    counts = (counts + counts.T).tocoo()
    word = np.asarray(counts.sum(1)).ravel()
    context = word**0.75
    pmi = np.log(counts.data * context.sum() / (word[counts.row] * context[counts.col]))
    ppmi = scipy.sparse.coo_matrix((pmi.clip(min=0), (counts.row, counts.col)), shape=counts.shape).tocsr()
    u, s, _ = scipy.sparse.linalg.svds(ppmi, k=width, random_state=0)
    vectors = u * np.sqrt(s)
    frequencies = np.bincount(stream, minlength=vocab_size) + 1.0
    vectors = torch.tensor(vectors * std / vectors.std(), dtype=torch.float32)
    return vectors, torch.tensor(frequencies / frequencies.sum())


def new_model(args, vocab_size):
    """Um BERT sem dropout. Em janelas curtas, numa CPU, a atenção "eager" leva 2/3 do tempo da SDPA."""
    torch.manual_seed(args.semente)
    config = transformers.BertConfig(
        vocab_size=vocab_size, hidden_size=args.largura, num_hidden_layers=args.camadas,
        num_attention_heads=max(1, args.largura // 64), intermediate_size=4 * args.largura,
        max_position_embeddings=LONG_WINDOW, pad_token_id=PAD,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        initializer_range=1 / math.sqrt(args.largura),  # o 0,02 de BERT foi escolhido para 768
    )  # fmt: skip
    return transformers.BertForMaskedLM._from_config(config, attn_implementation="eager")


@torch.no_grad()
def start_from_cooccurrences(model, stream):
    """Entrada por PPMI, viés da saída pelo logaritmo das frequências; o que nunca coocorre fica com o sorteio."""
    embeddings = model.bert.embeddings.word_embeddings.weight  # (V, d), a mesma matriz da saída
    vectors, frequencies = ppmi_embeddings(stream, *embeddings.shape, std=model.config.initializer_range)
    seen = vectors.abs().sum(1) > 0
    embeddings[seen] = vectors[seen]
    model.cls.predictions.decoder.bias.copy_(frequencies.log())


def masked_loss(model, ids, labels, reduction="mean"):
    """Entropia cruzada em nats, com a camada de saída calculada só onde há pergunta. ids, labels: (B, T)."""
    hidden = model.bert(input_ids=ids).last_hidden_state  # (B, T, d)
    asked = labels != IGNORED
    return F.cross_entropy(model.cls(hidden[asked]).float(), labels[asked], reduction=reduction)


@torch.no_grad()
def held_out_loss(model, ids, vocab_size, rate=0.15, seed=0):
    """Perda média em nats por ficha perguntada, máscara de `rate` e sorteio fixo. ids: (n, T)."""
    masked, labels = mask_tokens(ids, rate, vocab_size, torch.Generator().manual_seed(seed))
    device = model.device
    total = sum(
        masked_loss(model, a.to(device), b.to(device), "sum").item() for a, b in zip(masked.split(64), labels.split(64))
    )
    return total / (labels != IGNORED).sum().item()


# ---------------------------------------------------------------- o treino


def learning_rate(step, steps, peak, warmup=200, decay=0.4):
    """Sobe em `warmup` passos, fica no pico e desce em linha reta na última parte. O platô não depende de `steps`:
    enquanto a descida não começou, um treino pode ser retomado com outro `--passos`."""
    return peak * min((step + 1) / warmup, 1, (steps - step) / (decay * steps))


class Batches:
    """O lote de cada passo, função só de (semente, passo): os parágrafos mudam de ordem a cada época."""

    def __init__(self, stream, bounds, args, vocab_size):
        self.stream, self.bounds, self.args, self.vocab_size, self.epoch = stream, bounds, args, vocab_size, None
        self.size = args.lote * (WINDOW - 2)  # fichas de texto por passo
        if len(stream) < self.size:
            raise SystemExit(
                f"O corpus tem {len(stream)} fichas e um lote pede {self.size}: junte mais texto ou use --lote."
            )

    def __getitem__(self, step):
        """(entrada, rótulos), ambos (B, T). Um passo em cada oito usa janelas longas."""
        epoch, k = divmod(step, len(self.stream) // self.size)
        if epoch != self.epoch:
            order = np.random.default_rng((self.args.semente, epoch)).permutation(len(self.bounds) - 1)
            self.shuffled = np.concatenate([self.stream[self.bounds[i] : self.bounds[i + 1]] for i in order])
            self.epoch = epoch
        text = self.shuffled[k * self.size : (k + 1) * self.size]
        # muitas perguntas no começo, tantas quantas as de BERT no fim (Ankner et al., 2023)
        rate = 0.30 - 0.15 * step / self.args.passos
        generator = torch.Generator().manual_seed(self.args.semente * 1_000_003 + step)
        return mask_tokens(windows(text, LONG_WINDOW if step % 8 == 7 else WINDOW), rate, self.vocab_size, generator)


def native_bfloat16(device):
    """Há aritmética bfloat16 de verdade? (Emulada, ela é mais lenta que float32.)"""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()


def make_optimizers(model, peak):
    """Muon nas matrizes dos blocos (Jordan et al., 2024); AdamW nas representações, nas normas e nos vieses."""
    blocks = [p for name, p in model.named_parameters() if p.ndim == 2 and "encoder" in name]
    others = [p for name, p in model.named_parameters() if not (p.ndim == 2 and "encoder" in name)]
    return (
        torch.optim.AdamW(others, lr=peak, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
        torch.optim.Muon(blocks, lr=peak, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    )


def train(model, args, batches, held_out, vocab_size, checkpoint):
    """Treina até `args.passos`; a cada `args.intervalo`, mede e guarda o estado. Devolve a curva das medidas."""
    device = model.device.type
    optimizers = make_optimizers(model.train(), args.taxa)
    settings = {name: getattr(args, name) for name in ("lote", "taxa", "camadas", "largura", "vocabulario", "semente")}
    first, curve, seconds = 0, [], 0.0
    if checkpoint.exists():
        state = load_state(checkpoint, device)
        if differs := [name for name in settings if settings[name] != state["settings"][name]]:
            raise SystemExit(
                f"O treino em {checkpoint.parent} começou com outros valores de {', '.join(differs)}: repita-os para "
                "retomar, ou apague a pasta para recomeçar."
            )
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first, curve, seconds = state["step"], state["curve"], state["seconds"]
        if first > args.passos:
            raise SystemExit(f"O treino em {checkpoint.parent} já fez {first} passos: peça --passos {first} ou mais.")
    started, losses = time.perf_counter() - seconds, []
    bar = tqdm(
        range(first, args.passos), initial=first, total=args.passos, desc="pré-treino", unit="passo", mininterval=5
    )
    for step in bar:
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = learning_rate(step, args.passos, args.taxa)
        ids, labels = (x.to(device) for x in batches[step])
        with torch.autocast(device, torch.bfloat16, enabled=native_bfloat16(device)):
            loss = masked_loss(model, ids, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % args.intervalo == 0 or step + 1 == args.passos:
            seconds = time.perf_counter() - started
            measured = held_out_loss(model, held_out, vocab_size)
            curve.append(
                {"step": step + 1, "tokens": (step + 1) * batches.size, "seconds": round(seconds),
                 "train": round(sum(losses) / len(losses), 4), "held_out": round(measured, 4)}
            )  # fmt: skip
            losses = []
            bar.set_postfix(reservado=f"{measured:.3f}")
            state = {"settings": settings, "step": step + 1, "curve": curve, "seconds": seconds,
                     "model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}  # fmt: skip
            save_state(state, checkpoint)
    return curve


# ---------------------------------------------------------------- do começo ao fim


def corpus_files(args):
    """O resumo de cada arquivo do corpus: um treino em andamento não aceita outro."""
    return {path.name: sha256(path) for path in sorted(args.corpus.glob("*.txt*"))}


def prepare(args, workdir):
    """Corpus limpo, dividido e codificado: feito uma vez, guardado em `workdir` e relido ao retomar."""
    if not (workdir / "corpus.npz").exists():
        sources = read_corpus(args.corpus)
        contamination = Contamination(task_sentences(args.fora))
        training, held_out, report = [], {}, {}
        for name, paragraphs in sources.items():
            clean = [p for p in tqdm(paragraphs, desc=f"limpando {name}", mininterval=5) if p not in contamination]
            held_out[name] = [p for p in clean if is_held_out(p)]
            kept = [p for p in clean if not is_held_out(p)]
            training += kept
            report[name] = {"paragraphs": len(kept), "words": sum(len(p.split()) for p in kept),
                            "held_out": len(held_out[name]), "contaminated": len(paragraphs) - len(clean)}  # fmt: skip
        tokenizer = kept_tokenizer(training, args.vocabulario, workdir / "tokenizador")
        stream, bounds = encode(tokenizer, training)
        arrays = {f"held_out_{name}": encode(tokenizer, texts)[0] for name, texts in held_out.items() if texts}
        reserved = [digest(p) for paragraphs in held_out.values() for p in paragraphs]
        report = {"sources": report, "tokens": len(stream), "held_out": reserved, "files": corpus_files(args)}
        with atomic_write(workdir / "corpus.json") as file:
            file.write(json.dumps(report, ensure_ascii=False, indent=1).encode())
        with atomic_write(workdir / "corpus.npz") as file:
            np.savez(file, stream=stream, bounds=bounds, **arrays)
    report = json.loads((workdir / "corpus.json").read_text(encoding="utf-8"))
    if report["files"] != corpus_files(args):
        raise SystemExit(f"O treino em {workdir} é de outro corpus: apague essa pasta ou use outro DESTINO.")
    tokenizer = transformers.AutoTokenizer.from_pretrained(workdir / "tokenizador")
    with np.load(workdir / "corpus.npz", allow_pickle=False) as arrays:
        return tokenizer, dict(arrays), report


def examples(model, tokenizer):
    """Uma linha de tabela Markdown por frase de EXAMPLES: as cinco fichas mais prováveis, sem escolher nem corrigir."""
    for sentence in EXAMPLES:
        ids = tokenizer(sentence, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            top = model(ids).logits[0, ids[0] == MASK].softmax(-1)[0].topk(5)
        guesses = [
            f"{tokenizer.decode([i])} {p:.2f}".replace(".", ",")
            for p, i in zip(top.values.tolist(), top.indices.tolist())
        ]
        yield f"| {sentence} | {' · '.join(guesses)} |"


def publish(model, tokenizer, args, report, curve, arrays, workdir):
    """Grava a pasta do modelo, inteira ou nada: pesos em bfloat16, tokenizador, curva, ficha e sha256 de tudo."""
    ready = workdir / "pronto"
    shutil.rmtree(ready, ignore_errors=True)
    model.to("cpu", torch.bfloat16).save_pretrained(ready)
    tokenizer.save_pretrained(ready)
    model = model.float().eval()  # o que se mede são os pesos publicados, já arredondados
    losses = {
        label: round(held_out_loss(model, held_out_windows(arrays, sources), len(tokenizer)), 4)
        for label, sources in [("todas", args.avaliar), *((name, [name]) for name in args.avaliar)]
    }
    settings = {name: value for name, value in vars(args).items() if name not in ("corpus", "destino", "fora")}
    record = {"held_out": losses, "parameters": model.num_parameters(), "settings": settings, "curve": curve,
              "corpus": report, "environment": environment.describe()}  # fmt: skip
    (ready / "treino.json").write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    card = args.destino.with_name(args.destino.name + ".ficha.md")
    if card.exists():
        text = fill_card(card.read_text(encoding="utf-8"), record, examples(model, tokenizer))
        (ready / "README.md").write_text(text, encoding="utf-8")
    names = sorted(path.name for path in ready.iterdir())
    (ready / "sha256sums.txt").write_text("".join(f"{sha256(ready / n)}  {n}\n" for n in names), encoding="utf-8")
    shutil.rmtree(args.destino, ignore_errors=True)
    os.replace(ready, args.destino)
    print(f"{args.destino}: {losses['todas']:.3f} nats por ficha nos parágrafos reservados")


def fill_card(template, record, table):
    """A ficha do modelo: o texto escrito à mão, com todo número vindo do registro do treino."""
    corpus, curve, losses = record["corpus"], record["curve"], dict(record["held_out"])
    source_rows = [
        f"| `{name}` | {thousands(s['paragraphs'])} | {thousands(s['words'])} | {s['held_out']} | {s['contaminated']} |"
        for name, s in corpus["sources"].items()
    ]
    curve_rows = [
        f"| {thousands(p['step'])} | {p['tokens'] / 1e6:.0f} | {p['seconds'] / 60:.0f} | {comma(p['held_out'])} |"
        for p in curve
    ]
    return string.Template(template).substitute(
        held_out=comma(losses.pop("todas")),
        by_source=", ".join(f"{comma(loss)} em `{name}`" for name, loss in losses.items()),
        parameters=comma(record["parameters"] / 1e6, 1),
        sources="\n".join(source_rows),
        contaminated=thousands(sum(s["contaminated"] for s in corpus["sources"].values())),
        corpus_tokens=comma(corpus["tokens"] / 1e6, 1),
        epochs=comma(curve[-1]["tokens"] / corpus["tokens"], 1),
        seen_tokens=f"{curve[-1]['tokens'] / 1e6:.0f}",
        steps=thousands(curve[-1]["step"]),
        minutes=f"{curve[-1]['seconds'] / 60:.0f}",
        curve="\n".join(curve_rows),
        examples="\n".join(table),
        environment=", ".join(f"{k} {v}" for k, v in record["environment"].items() if v),
    )


def thousands(n):
    return f"{n:,}".replace(",", ".")


def comma(x, digits=2):
    return f"{x:.{digits}f}".replace(".", ",")


def parse_arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("corpus", type=Path, help="pasta com .txt ou .txt.xz, um parágrafo por linha")
    p.add_argument("destino", type=Path, help="pasta do modelo; o trabalho em andamento fica em DESTINO.treino")
    p.add_argument(
        "--fora", type=Path, nargs="*", default=[DATA / "tarefas"], help="frases que o corpus não pode conter"
    )
    p.add_argument("--avaliar", nargs="*", help="fontes cujos parágrafos reservados são medidos (padrão: todas)")
    p.add_argument("--passos", type=int, default=12_000)
    p.add_argument("--lote", type=int, default=96, help="janelas de 64 fichas por passo")
    p.add_argument("--taxa", type=float, default=2e-3, help="taxa de aprendizado no pico")
    p.add_argument("--camadas", type=int, default=4)
    p.add_argument("--largura", type=int, default=256)
    p.add_argument("--vocabulario", type=int, default=8_000)
    p.add_argument("--intervalo", type=int, default=1_000, help="passos entre medidas e checkpoints")
    p.add_argument("--semente", type=int, default=0)
    return p.parse_args()


def main():
    args = parse_arguments()
    workdir = args.destino.with_name(args.destino.name + ".treino")
    tokenizer, arrays, report = prepare(args, workdir)
    reserved = {name: arrays.get(f"held_out_{name}", ()) for name in args.avaliar or report["sources"]}
    args.avaliar = [name for name, stream in reserved.items() if len(stream) >= WINDOW - 2]
    if not args.avaliar:
        raise SystemExit("Nenhum parágrafo ficou reservado para a avaliação: junte mais texto ou confira --avaliar.")
    model = new_model(args, len(tokenizer))
    checkpoint = workdir / "checkpoint.pt"
    if not checkpoint.exists():
        start_from_cooccurrences(model, arrays["stream"])
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    batches = Batches(arrays["stream"], arrays["bounds"], args, len(tokenizer))
    held_out = held_out_windows(arrays, args.avaliar)
    curve = train(model, args, batches, held_out, len(tokenizer), checkpoint)
    publish(model, tokenizer, args, report, curve, arrays, workdir)


if __name__ == "__main__":
    main()
