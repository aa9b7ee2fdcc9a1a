"""Pré-treina os modelos embutidos do curso a partir de uma pasta de textos.

    python data/modelos/pretreina.py bert CORPUS data/modelos/mini-bert-pt

CORPUS tem arquivos .txt ou .txt.xz, um parágrafo por linha. O que cada família tem de seu (vocabulário, modelo, lote e
perda) está em bert.py, llama.py e t5.py; o que o script faz com qualquer uma, na ordem:

1. tira do corpus os parágrafos que contêm alguma frase das tarefas (`--fora`) e os reservados para a avaliação;
2. treina o vocabulário e codifica tudo uma vez;
3. começa as representações pelas coocorrências (PPMI e SVD): sem isso um modelo pequeno passa meia hora num platô; com
   `--de`, vocabulário e pesos são os de um modelo já treinado;
4. treina; o lote de cada passo é função de (semente, passo), então retomar é só ler o último checkpoint;
5. mede, converte para bfloat16 e grava safetensors, tokenizador, configuração, curva e sha256.

Morto a qualquer momento, o mesmo comando retoma do último checkpoint e chega aos mesmos pesos.
"""

import argparse
import json
import os
import shutil
import string
import time
from pathlib import Path

import bert
import llama
import numpy as np
import t5
import torch
import transformers
from corpus import Contamination, digest, encode, is_held_out, ppmi_embeddings, read_corpus, task_sentences, windows
from muon import Muon
from safetensors.torch import load_file
from torch import nn
from tqdm.auto import tqdm

from ftcourse import environment
from ftcourse.files import DATA, atomic_write, sha256
from ftcourse.training import load_state, save_state

FAMILIES = {"bert": bert, "llama": llama, "t5": t5}


def kept_tokenizer(family, paragraphs, args, folder):
    """O tokenizador de `folder`: na primeira vez, o do modelo de que se parte, ou um novo, que desempata ao acaso."""
    if not folder.exists():
        partial = folder.with_name("tokenizador.parcial")
        if args.de:
            tokenizer = transformers.AutoTokenizer.from_pretrained(args.de)
        else:
            tokenizer = family.train_tokenizer(paragraphs, args.vocabulario)
        tokenizer.save_pretrained(partial)
        os.replace(partial, folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


def continued(args, workdir):
    """A curva do modelo de `--de`, [] sem ele. O tamanho do que se treina passa a ser o do modelo."""
    if not args.de:
        return []
    for name in ("treino.json", "tokenizer.json", "model.safetensors"):
        if not (args.de / name).is_file():
            raise SystemExit(
                f"Em {args.de} falta {name}: --de pede a pasta de um modelo gravado por este script, como "
                "data/modelos/mini-llama-pt."
            )
    if args.de.resolve() == args.destino.resolve():
        raise SystemExit(f"DESTINO e --de são a mesma pasta, {args.de}: o modelo de que se parte seria apagado.")
    record = json.loads((args.de / "treino.json").read_text(encoding="utf-8"))
    family = record["settings"].get("familia", "bert")  # o mini-BERT-pt é de quando só havia uma
    if family != args.familia:
        raise SystemExit(f"O modelo de {args.de} é da família {family}, e não {args.familia}.")
    kept = workdir / "tokenizador" / "tokenizer.json"
    if kept.exists() and sha256(kept) != sha256(args.de / "tokenizer.json"):
        raise SystemExit(
            f"O treino em {workdir} começou com outro vocabulário: apague essa pasta ou use outro DESTINO."
        )
    for name in ("camadas", "largura", "vocabulario"):
        setattr(args, name, record["settings"][name])
    return record["curve"]


def learning_rate(step, steps, peak, warmup=200, decay=0.4):
    """Sobe em `warmup` passos, fica no pico e desce em linha reta na última parte. O platô não depende de `steps`:
    enquanto a descida não começou, um treino pode ser retomado com outro `--passos`."""
    return peak * min((step + 1) / warmup, 1, (steps - step) / (decay * steps))


class Batches:
    """O lote de cada passo, função só de (semente, passo): os parágrafos mudam de ordem a cada época."""

    def __init__(self, family, stream, bounds, args, vocab_size, before=0):
        self.family, self.args, self.vocab_size, self.epoch = family, args, vocab_size, None
        self.before = before  # passos que o modelo já tinha
        self.stream, self.bounds = stream, bounds
        self.size = args.lote * family.WINDOW  # tokens de texto por passo
        if len(stream) < self.size:
            raise SystemExit(
                f"O corpus tem {len(stream)} tokens e um lote pede {self.size}: junte mais texto ou use --lote."
            )

    def __getitem__(self, step):
        """Os tensores que `family.loss` recebe. Um passo em cada oito usa janelas longas."""
        step += self.before
        epoch, k = divmod(step, len(self.stream) // self.size)
        if epoch != self.epoch:
            order = np.random.default_rng((self.args.semente, epoch)).permutation(len(self.bounds) - 1)
            self.shuffled = np.concatenate([self.stream[self.bounds[i] : self.bounds[i + 1]] for i in order])
            self.epoch = epoch
        text = windows(
            self.shuffled[k * self.size : (k + 1) * self.size],
            self.family.LONG_WINDOW if step % 8 == 7 else self.family.WINDOW,
        )
        generator = torch.Generator().manual_seed(self.args.semente * 1_000_003 + step)
        return self.family.batch(text, step / (self.before + self.args.passos), self.vocab_size, generator)


def native_bfloat16(device):
    """Há aritmética bfloat16 de verdade? (Emulada, ela é mais lenta que float32.)"""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()


def make_optimizers(model, peak, rates):
    """Muon nas matrizes dos blocos (Jordan et al., 2024); AdamW nas representações, nas normas e nos vieses.

    rates: {parte do nome de um parâmetro: por quanto se multiplica a taxa dele}.
    """
    output = model.get_output_embeddings()
    linear = {m.weight for m in model.base_model.modules() if isinstance(m, nn.Linear) and m is not output}
    blocks = [p for p in model.parameters() if p in linear]
    others = {1: []} | {scale: [] for scale in rates.values()}
    for name, parameter in model.named_parameters():
        if parameter not in linear:
            others[next((scale for part, scale in rates.items() if part in name), 1)].append(parameter)
    groups = [{"params": parameters, "scale": scale} for scale, parameters in others.items()]
    return (
        torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
        Muon(blocks, lr=peak, dtype=torch.bfloat16 if native_bfloat16(model.device.type) else torch.float32),
    )


def train(family, model, args, batches, held_out, vocab_size, checkpoint, curve):
    """Treina `args.passos`; a cada `args.intervalo`, mede e guarda o estado. Devolve a curva das medidas.

    curve: a do modelo de que se partiu, [] se não há um; a nova a continua.
    """
    device = model.device.type
    optimizers = make_optimizers(model.train(), args.taxa, family.RATES)
    settings = {
        name: getattr(args, name)
        for name in ("familia", "lote", "taxa", "camadas", "largura", "vocabulario", "semente")
    }
    settings["de"] = sha256(args.de / "model.safetensors") if args.de else None
    last = curve[-1] if curve else {"tokens": 0, "seconds": 0.0}
    first, curve, seconds = 0, list(curve), last["seconds"]
    if checkpoint.exists():
        state = load_state(checkpoint, device)
        if differs := [name for name in settings if settings[name] != state["settings"].get(name)]:
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
            group["lr"] = learning_rate(step, args.passos, args.taxa) * group.get("scale", 1)
        batch = [tensor.to(device) for tensor in batches[step]]
        with torch.autocast(device, torch.bfloat16, enabled=native_bfloat16(device)):
            loss = family.loss(model, *batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % args.intervalo == 0 or step + 1 == args.passos:
            seconds = time.perf_counter() - started
            measured = family.held_out_loss(model, held_out, vocab_size)
            curve.append(
                {"step": batches.before + step + 1, "tokens": last["tokens"] + (step + 1) * batches.size,
                 "seconds": round(seconds), "train": round(sum(losses) / len(losses), 4),
                 "held_out": round(measured, 4)}
            )  # fmt: skip
            losses = []
            bar.set_postfix(reservado=f"{measured:.3f}")
            state = {"settings": settings, "step": step + 1, "curve": curve, "seconds": seconds,
                     "model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}  # fmt: skip
            save_state(state, checkpoint)
    return curve


# ---------------------------------------------------------------- do começo ao fim


def read_files(args):
    """Os resumos dos arquivos do corpus e das frases de `--fora`: um treino em andamento não aceita outros."""
    return {
        "files": {path.name: sha256(path) for path in sorted(args.corpus.glob("*.txt*"))},
        "left_out": digest("\n".join(task_sentences(args.fora))),
    }


def prepare(family, args, workdir):
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
        tokenizer = kept_tokenizer(family, training, args, workdir / "tokenizador")
        edges = family.BEGIN, family.END
        stream, bounds = encode(tokenizer, training, *edges)
        arrays = {f"held_out_{name}": encode(tokenizer, texts, *edges)[0] for name, texts in held_out.items() if texts}
        reserved = [digest(p) for paragraphs in held_out.values() for p in paragraphs]
        report = {"sources": report, "tokens": len(stream), "held_out": reserved} | read_files(args)
        with atomic_write(workdir / "corpus.json") as file:
            file.write(json.dumps(report, ensure_ascii=False, indent=1).encode())
        with atomic_write(workdir / "corpus.npz") as file:
            np.savez(file, stream=stream, bounds=bounds, **arrays)
    report = json.loads((workdir / "corpus.json").read_text(encoding="utf-8"))
    # de antes de se guardar o resumo das frases, o treino segue
    if any(report.get(name, found) != found for name, found in read_files(args).items()):
        raise SystemExit(
            f"O treino em {workdir} é de outro corpus, ou de outras frases em --fora: apague essa pasta ou use outro "
            "DESTINO."
        )
    tokenizer = transformers.AutoTokenizer.from_pretrained(workdir / "tokenizador")
    with np.load(workdir / "corpus.npz", allow_pickle=False) as arrays:
        return tokenizer, dict(arrays), report


def held_out_windows(family, arrays, sources):
    """As janelas de avaliação das fontes: (n, WINDOW)."""
    return torch.cat([windows(arrays[f"held_out_{name}"], family.WINDOW) for name in sources])


def publish(family, model, tokenizer, args, report, curve, arrays, workdir):
    """Grava a pasta do modelo, inteira ou nada: pesos em bfloat16, tokenizador, curva, cartão e sha256 de tudo."""
    ready = workdir / "pronto"
    shutil.rmtree(ready, ignore_errors=True)
    model.to("cpu", torch.bfloat16).save_pretrained(ready)
    tokenizer.save_pretrained(ready)
    model = model.float().eval()  # o que se mede são os pesos publicados, já arredondados
    losses = {
        label: round(family.held_out_loss(model, held_out_windows(family, arrays, sources), len(tokenizer)), 4)
        for label, sources in [("todas", args.avaliar), *((name, [name]) for name in args.avaliar)]
    }
    settings = {name: value for name, value in vars(args).items() if name not in ("corpus", "destino", "fora", "de")}
    compared = {name: round(float(x), 4) for name, x in family.compare(model, tokenizer, arrays, args.avaliar).items()}
    record = {"held_out": losses, "compared": compared, "parameters": model.num_parameters(), "settings": settings,
              "curve": curve, "corpus": report, "environment": environment.describe()}  # fmt: skip
    if args.de:
        record["continues"] = sha256(args.de / "model.safetensors")
    (ready / "treino.json").write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    card = args.destino.with_name(args.destino.name + ".ficha.md")
    if card.exists():
        text = fill_card(card.read_text(encoding="utf-8"), record, family.examples(model, tokenizer))
        (ready / "README.md").write_text(text, encoding="utf-8")
    names = sorted(path.name for path in ready.iterdir())
    (ready / "sha256sums.txt").write_text("".join(f"{sha256(ready / n)}  {n}\n" for n in names), encoding="utf-8")
    shutil.rmtree(args.destino, ignore_errors=True)
    os.replace(ready, args.destino)
    print(f"{args.destino}: {losses['todas']:.3f} nats por token nos parágrafos reservados")


def fill_card(template, record, table):
    """O cartão do modelo: o texto escrito à mão, com todo número vindo do registro do treino."""
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
        {name: comma(x, 3) for name, x in record.get("compared", {}).items()},
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
    p.add_argument("familia", choices=FAMILIES)
    p.add_argument("corpus", type=Path, help="pasta com .txt ou .txt.xz, um parágrafo por linha")
    p.add_argument("destino", type=Path, help="pasta do modelo; o trabalho em andamento fica em DESTINO.treino")
    p.add_argument("--de", type=Path, help="pasta do modelo de que se parte: o tamanho e o vocabulário são os dele")
    p.add_argument(
        "--fora", type=Path, nargs="*", default=[DATA / "tarefas"], help="frases que o corpus não pode conter"
    )
    p.add_argument("--avaliar", nargs="*", help="fontes cujos parágrafos reservados são medidos (padrão: todas)")
    p.add_argument("--passos", type=int, help="com --de, os que se somam aos que o modelo já tem")
    p.add_argument("--lote", type=int, help="janelas curtas por passo")
    p.add_argument("--taxa", type=float, default=2e-3, help="taxa de aprendizado no pico")
    p.add_argument("--camadas", type=int)
    p.add_argument("--largura", type=int, default=256)
    p.add_argument("--vocabulario", type=int, default=8_000)
    p.add_argument("--intervalo", type=int, default=1_000, help="passos entre medidas e checkpoints")
    p.add_argument("--semente", type=int, default=0)
    args = p.parse_args()
    for name, value in FAMILIES[args.familia].DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def main():
    args = parse_arguments()
    family = FAMILIES[args.familia]
    workdir = args.destino.with_name(args.destino.name + ".treino")
    curve = continued(args, workdir)
    tokenizer, arrays, report = prepare(family, args, workdir)
    reserved = {name: arrays.get(f"held_out_{name}", ()) for name in args.avaliar or report["sources"]}
    args.avaliar = [name for name, stream in reserved.items() if len(stream) >= family.WINDOW]
    if not args.avaliar:
        raise SystemExit("Nenhum parágrafo ficou reservado para a avaliação: junte mais texto ou confira --avaliar.")
    torch.manual_seed(args.semente)
    model = family.new_model(args.camadas, args.largura, len(tokenizer))
    checkpoint = workdir / "checkpoint.pt"
    fresh = not checkpoint.exists()
    if fresh and args.de:  # o que o arquivo não tem são os outros nomes de uma matriz só
        model.load_state_dict(load_file(args.de / "model.safetensors"), strict=False)
    elif fresh:
        vectors = ppmi_embeddings(arrays["stream"], len(tokenizer), args.largura, family.embedding_std(args.largura))
        family.start(model, *vectors)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    before = curve[-1]["step"] if curve else 0
    batches = Batches(family, arrays["stream"], arrays["bounds"], args, len(tokenizer), before)
    held_out = held_out_windows(family, arrays, args.avaliar)
    curve = train(family, model, args, batches, held_out, len(tokenizer), checkpoint, curve)
    publish(family, model, tokenizer, args, report, curve, arrays, workdir)


if __name__ == "__main__":
    main()
