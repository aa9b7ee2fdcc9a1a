"""Quanto tempo leva o que se escreve à mão, ao lado das bibliotecas que fazem o mesmo: razões, nunca segundos sozinhos.

    make bancada-velocidade    # uns cinco minutos com a máquina livre; interrompida, continua

Os dois lados de uma comparação rodam no mesmo processo, em rodízio, e de cada volta sai uma razão; publica-se a mediana
com um intervalo de 95 % que não supõe a forma da distribuição. Cada linha de data/resultados/velocidade.jsonl guarda
também a diferença entre os resultados dos dois lados, as versões e a máquina, e dois sinais de que ela estava ocupada:
a carga antes de começar (`load`) e quantos núcleos o processo de fato teve, em média (`cpu_share`). As comparações com
uma biblioteca que falta são puladas. A linha de um modelo traz o resumo dos pesos dele ("model") e deixa de valer se
eles mudam; a que é de antes de haver esse resumo fica na tabela, que o diz, até que a bancada rode outra vez.
"""

import copy
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import math
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # o medidor de memória anuncia cada vez que liga e desliga

import bnb
import numpy as np
import scipy.stats
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from ftcourse import costs, environment, meter, methods, models, modules, nf4, qlora, results
from ftcourse.files import write_jsonl

logging.getLogger("torchao").setLevel(logging.ERROR)  # peft também a importa, e ela avisa das extensões que não achou

REPEATS = 25
SHAPE, BLOCK = (2048, 2048), 64
BATCH = (32, 32)  # frases × tokens
LORA = {"r": 8, "lora_alpha": 16}
# {o que se compara: {(o lado de cima da razão, o de baixo): a maior razão que se aceita, ou None}}
GOALS = {
    "quantize": {
        ("hand", "bitsandbytes"): 0.6,
        ("compiled", "bitsandbytes"): None,
        ("hand", "torchao"): None,
        ("compiled", "torchao"): None,
        ("hand", "copy"): None,
    },
    "dequantize": {("hand", "bitsandbytes"): 2.2, ("hand", "torchao"): None, ("hand", "copy"): None},
    "step": {
        ("lora", "peft"): 1.0,
        ("qlora", "bitsandbytes + peft"): 1.15,
        ("lora", "full"): None,  # ao lado do que prevê a conta das operações
        ("qlora", "lora"): None,
    },
    "bytes": {("hand", "formula"): 1.0, ("hand", "bitsandbytes"): None},
}
NAMES = {
    "quantize": "quantizar", "dequantize": "dequantizar", "step": "passo de treino", "bytes": "bytes em 4 bits",
    "hand": "à mão", "compiled": "busca binária compilada", "copy": "cópia", "lora": "LoRA à mão",
    "qlora": "QLoRA à mão", "full": "ajuste completo", "formula": "fórmula",
}  # fmt: skip
UNMEASURED = "*Ainda sem medida nesta versão: `make bancada-velocidade`.*"


@dataclass
class Side:
    """Um lado de uma comparação: o que se cronometra e o tensor que se confere com o do outro lado."""

    action: Callable
    result: Callable | None = None
    moved: int | None = None  # os bytes que é preciso ler e escrever, seja qual for o método
    extra: Callable = dict  # o que mais a linha guarda


# ---------------------------------------------------------------- o que se compara


def fused(weight):
    """`nf4.quantize` sem as conferências e com uma busca binária, que torch.compile funde numa passada só.

    Sem compilar, é mais lenta que as quinze comparações; e as quinze, compiladas, levam minutos para compilar.
    """
    blocks = nf4.in_blocks(weight, BLOCK)
    absmax = blocks.abs().amax(1)
    values = blocks * (1 / absmax.clamp(min=nf4.TINY))[:, None]
    codes, edges = torch.zeros_like(values, dtype=torch.int32), nf4.middles(nf4.TABLE.to(weight.device))
    for half in (8, 4, 2, 1):
        codes = codes + half * (values > edges[codes + (half - 1)])
    first, second = codes.view(-1, 2).unbind(1)
    return (first << 4 | second).to(torch.uint8), absmax


def quantize(setting):
    """Um peso em NF4, sem a dupla quantização; torchao sempre a faz, e o seu tempo a inclui."""
    weight, room = normal(setting), torch.empty(setting["shape"], device=setting["device"])

    def ours(function):
        return Side(lambda: function(weight), lambda: nf4.dequantize(*function(weight), BLOCK, weight.shape), moved)

    def torchao():
        to_nf4 = importlib.import_module("torchao.quantization").to_nf4
        return Side(lambda: to_nf4(weight), lambda: to_nf4(weight).get_original_weight(), moved)

    def copied():
        return Side(lambda: room.copy_(weight), moved=2 * weight.nbytes)

    moved = moved_bytes(weight)
    return {
        "hand": lambda: ours(nf4.quantize),
        "compiled": lambda: ours(torch.compile(fused)),
        "bitsandbytes": lambda: Side(
            lambda: bnb.quantize(weight, BLOCK), lambda: bnb.dequantize(*bnb.quantize(weight, BLOCK)), moved
        ),
        "torchao": torchao,
        "copy": copied,
    }


def dequantize(setting):
    """O peso de volta. À mão, a saída é reusada; as bibliotecas, numa CPU, não têm como."""
    weight, room = normal(setting), torch.empty(setting["shape"], device=setting["device"])
    moved = moved_bytes(weight)

    def side(function):
        return Side(function, function, moved)

    def hand():
        codes, absmax = nf4.quantize(weight, BLOCK)
        return side(lambda: nf4.dequantize(codes, absmax, BLOCK, weight.shape, room))

    def bitsandbytes():
        packed = bnb.quantize(weight, BLOCK)
        return side(lambda: bnb.bitsandbytes.functional.dequantize_4bit(*packed))

    def torchao():
        return side(importlib.import_module("torchao.quantization").to_nf4(weight).get_original_weight)

    def copied():
        other = torch.empty_like(weight)
        return Side(lambda: other.copy_(weight), moved=2 * weight.nbytes)

    return {"hand": hand, "bitsandbytes": bitsandbytes, "torchao": torchao, "copy": copied}


def step(setting):
    """Um passo de treino inteiro, com a cabeça do pré-treino, que toda família tem: ida, volta e AdamW."""
    base = models.load(setting["family"])[0].to(setting["device"])
    given = batch_for(base, setting["batch"])

    def lora(model):
        return methods.apply(model, "lora", **LORA)

    def in_peft(model):
        peft = importlib.import_module("peft")
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft ainda usa um nome que transformers vai tirar
            methods.save(lora(copy.deepcopy(base)), folder)  # pelo arquivo, os dois lados começam do mesmo A
            return peft.PeftModel.from_pretrained(model, folder, is_trainable=True, torch_device=setting["device"])

    made = {
        "full": lambda model: methods.apply(model, "full"),
        "lora": lora,
        "peft": in_peft,
        "qlora": lambda model: lora(qlora.quantize_model(model, quantizable(model))),
        "bitsandbytes + peft": lambda model: in_peft(in_bitsandbytes(model)),
    }

    def side(name):
        advance = stepper(made[name](copy.deepcopy(base)).train(), given)
        extra = {"full": lambda: {"flops": arithmetic(base, given)}}
        return Side(advance, advance, extra=extra.get(name, dict))

    return {name: lambda name=name: side(name) for name in made}


def stepper(model, given):
    """Uma função que dá um passo de treino e devolve a perda antes dele."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def advance():
        torch.manual_seed(0)  # o mesmo dropout dos dois lados
        optimizer.zero_grad()
        loss = model(**given).loss
        loss.backward()
        optimizer.step()
        return loss.detach()

    return advance


def batch_for(model, size):
    """Um lote de tokens sorteados, (B, T), que são também os rótulos: serve a toda cabeça que prevê tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, model.config.vocab_size, size, generator=generator).to(model.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def quantizable(model):
    """As camadas que vão a 4 bits dos dois lados: as que bitsandbytes calcula direito.

    Ficam de fora `wo` do T5, como em transformers, porque ele converte a entrada dela ao tipo do peso, uint8, e a conta
    se perde; e as de entrada múltipla de 16 e não de 64, como `down_proj` do mini-LLaMA, pelo segundo defeito de `bnb`.
    """
    found = modules.find(model, "all-linear").items()
    return [n for n, layer in found if not n.endswith(".wo") and (layer.in_features % 16 or not layer.in_features % 64)]


def in_bitsandbytes(model):
    """O modelo com as mesmas camadas em 4 bits de bitsandbytes."""
    for name in quantizable(model):
        model.set_submodule(name, bnb.linear(model.get_submodule(name)))
    model.is_loaded_in_4bit = True  # o que peft olha
    return model


def stored(setting):
    """Os bytes que as camadas em 4 bits guardam: as do modelo ou uma só, de `shape`. {lado: bytes}

    A fórmula conta, além dos bits por parâmetro, uma constante por camada: a média dos absmax, em float32. As tabelas
    de bitsandbytes, as mesmas para todas as camadas, não entram.
    """
    if "family" in setting:
        layers = modules.find(models.load(setting["family"])[0], "all-linear").values()
    else:
        with torch.random.fork_rng():
            layers = [torch.nn.Linear(*setting["shape"], bias=False)]

    def hand():
        return sum(meter.size([*q.parameters(), *q.buffers()]) for q in (nf4.NF4Weight(la.weight) for la in layers))

    def bitsandbytes():
        packed = [bnb.quantize(layer.weight.detach(), BLOCK, double_quant=True) for layer in layers]
        return sum(meter.size([codes, s.absmax, s.state2.absmax, s.offset]) for codes, s in packed)

    return {
        "hand": hand,
        "formula": lambda: sum(formula(layer.weight.numel()) for layer in layers),
        "bitsandbytes": bitsandbytes,
    }


def formula(n, second=256):
    """Os bytes de n pesos: 4 + 8/64 + 32/(64·256) bits cada, em blocos inteiros, e a média dos absmax, de 4 bytes."""
    blocks = math.ceil(n / BLOCK)
    return n / 2 + blocks + 4 * math.ceil(blocks / second) + 4


def arithmetic(model, given):
    """As operações de um passo, contadas pelas formas: {"forward", "backward_input", "backward_weight", "lora"}.

    Cada produto de matrizes da ida pede dois na volta, um para a entrada e um para o peso; LoRA dispensa o do peso
    congelado e paga os de A e B ("lora": o passo inteiro). Na atenção, que não tem peso, nada se poupa.
    """
    frozen = copy.deepcopy(model).requires_grad_(False)
    frozen.enable_input_require_grads()
    forward, both = flops(copy.deepcopy(model).requires_grad_(True), given)
    through = flops(frozen, given)[1]
    adapted = flops(methods.apply(copy.deepcopy(model), "lora", **LORA), given)
    return {
        "forward": forward,
        "backward_input": through,
        "backward_weight": both - through,
        "lora": sum(adapted),
    }


def flops(model, given):
    """As operações de ponto flutuante dos produtos de matrizes: (na ida, na volta)."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # só nesta forma a atenção se conta
        loss = model(**given).loss
        forward = counter.get_total_flops()
        loss.backward()
    return forward, counter.get_total_flops() - forward


def predicted(counted):
    """A razão entre os passos de LoRA e do ajuste completo que as operações preveem."""
    return counted["lora"] / (counted["forward"] + counted["backward_input"] + counted["backward_weight"])


def normal(setting):
    """Um peso com a forma de uma normal."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(setting["shape"], generator=generator).to(setting["device"])


def moved_bytes(weight):
    """O que quantizar, ou o contrário, obriga a ler e escrever: o peso, os códigos e um absmax por bloco."""
    return weight.nbytes + weight.numel() // 2 + 4 * weight.numel() // BLOCK


# ---------------------------------------------------------------- medir


def peak(action, device="cpu"):
    """O máximo de memória que uma ação toma de uma vez, em bytes, além do que já havia."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        action()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        action()
    pending, changes = list(profile.profiler.kineto_results.experimental_event_tree()), []
    while pending:
        event = pending.pop()
        pending += event.children
        if event.tag.name == "Allocation":
            changes.append((event.start_time_ns, event.extra_fields.alloc_size))
    return int(max([0, *np.cumsum([size for _, size in sorted(changes)])]))


def interval(ratios):
    """Mediana e intervalo de 95 % da mediana, pelas estatísticas de ordem: não supõe a forma da distribuição."""
    low, high = scipy.stats.quantile_test(ratios, p=0.5).confidence_interval(0.95)
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}


def quartiles(seconds):
    return dict(zip(("low", "median", "high"), np.percentile(seconds, [25, 50, 75]).tolist()))


def load():
    """A carga da máquina no último minuto; None onde o sistema não a diz."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def measure(setting, pairs, repeats=REPEATS):
    """As linhas de um grupo de comparações, medidas juntas; `pairs`: os pares de lados."""
    if setting["what"] == "bytes":
        return [size_row(setting, *pair) for pair in pairs]
    torch.set_num_threads(setting["threads"])
    busy, makers = load(), {"quantize": quantize, "dequantize": dequantize, "step": step}[setting["what"]](setting)
    sides = {name: makers[name]() for name in dict.fromkeys(sum(pairs, ()))}

    def synchronized(action):
        def run():
            action()
            if setting["device"] != "cpu":
                torch.cuda.synchronize()

        return run

    actions = {name: synchronized(side.action) for name, side in sides.items()}
    wall, own = time.perf_counter(), time.process_time()
    seconds = costs.interleaved(actions, repeats)
    share = (time.process_time() - own) / (time.perf_counter() - wall)
    results = {name: side.result() for name, side in sides.items() if side.result}
    memory = {name: peak(side.action, setting["device"]) for name, side in sides.items() if side.moved}

    def described(name):
        found = {"name": name, "seconds": quartiles(seconds[name])}
        if moved := sides[name].moved:
            found |= {"gb_per_s": moved / found["seconds"]["median"] / 1e9, "peak_bytes": memory[name]}
        return found

    rows = []
    for ours, theirs in pairs:
        row = {**setting, "ours": described(ours), "theirs": described(theirs), "n": len(seconds[ours])}
        row["ratio"] = interval(seconds[ours] / seconds[theirs])
        if needs((ours, theirs)):
            one, other = (results[name].flatten().float() for name in (ours, theirs))
            row["difference"] = ((one - other).abs().max() / other.abs().max()).item()
        row |= sides[theirs].extra() if ours == "lora" else {}
        rows.append(row | {"load": busy, "cpu_share": round(share, 3)})
    return rows


def size_row(setting, ours, theirs):
    """A linha que compara bytes: a razão é exata."""
    makers = stored(setting)
    sizes = {name: makers[name]() for name in (ours, theirs)}
    ratio = sizes[ours] / sizes[theirs]
    described = ({"name": name, "bytes": size} for name, size in sizes.items())
    return {**setting, **dict(zip(("ours", "theirs"), described)), "n": 1,
            "ratio": {"median": ratio, "low": ratio, "high": ratio}}  # fmt: skip


# ---------------------------------------------------------------- o plano e o arquivo


def needs(pair):
    """As bibliotecas que um par usa."""
    return [name for name in ("bitsandbytes", "peft", "torchao") if any(name in side for side in pair)]


def installed(name):
    if name == "bitsandbytes":
        return bnb.bitsandbytes is not None
    return importlib.util.find_spec(name) is not None


@cache
def compiles():
    """Se torch.compile funciona aqui: ele pede um compilador de C++."""
    try:
        return torch.compile(torch.neg)(torch.ones(1)).item() == -1
    except RuntimeError:
        return False


def missing(pair):
    """O que falta para medir um par: bibliotecas, ou o compilador."""
    return [n for n in needs(pair) if not installed(n)] + ["g++"] * ("compiled" in pair and not compiles())


def settings():
    """Os grupos de comparações: cada um é medido de uma vez e vira algumas linhas."""
    cores = environment.usable_cores()
    places = [{"device": "cpu", "threads": threads} for threads in sorted({1, cores})]
    places += [{"device": "cuda", "threads": cores}] * torch.cuda.is_available()
    planned = [{"what": "bytes", "shape": [*SHAPE], **places[0]}]
    families = [{"family": family, "model": models.digest(family)} for family in models.FAMILIES]
    planned += [{"what": "bytes", **family, **places[0]} for family in families]
    for place in places:
        planned += [{"what": w, "shape": [*SHAPE], "dtype": "float32", **place} for w in ("quantize", "dequantize")]
        steps = {"what": "step", "batch": [*BATCH], "dtype": "float32", **place}
        planned += [{**steps, **family} for family in families]
    return planned


def key(row):
    """O que identifica uma linha: o grupo, com os pesos do modelo, os lados, a máquina e as versões.

    O commit fica anotado, mas não a refaz.
    """
    named = ("what", "shape", "family", "model", "batch", "dtype", "device", "threads")
    group = {k: row[k] for k in named if k in row}
    where = {k: v for k, v in row["environment"].items() if k not in ("commit", "clean")}
    return json.dumps([group, row["ours"]["name"], row["theirs"]["name"], where], sort_keys=True)


def execute(repeats=REPEATS):
    """Mede o que falta e grava o arquivo inteiro, ou nada dele, depois de cada grupo. Devolve todas as linhas."""
    path, done = results.path("velocidade"), results.parsed(results.path("velocidade"))
    here, known, skipped = environment.describe(), set(map(key, done)), set()
    for setting in tqdm(settings(), desc="velocidade", unit="grupo"):
        pairs = {}
        for pair in GOALS[setting["what"]]:
            if absent := missing(pair):
                skipped |= {*absent}
                continue
            where = here | {name: importlib.metadata.version(name) for name in needs(pair)}
            row = {**setting, "ours": {"name": pair[0]}, "theirs": {"name": pair[1]}, "environment": where}
            if key(row) not in known:
                pairs[pair] = where
        if pairs:
            rows = measure(setting, [*pairs], repeats)
            done += [row | {"environment": where} for row, where in zip(rows, pairs.values())]
            write_jsonl(path, done)
    for name in sorted(skipped):
        print(f"Sem {name}, que não achei nesta máquina: as comparações que precisam dele foram puladas.")
    return done


# ---------------------------------------------------------------- a tabela


def goal_of(row):
    return GOALS[row["what"]][row["ours"]["name"], row["theirs"]["name"]]


def verdict(row):
    """O que o intervalo diz da meta: "cumpre", "não cumpre" ou, se ela está dentro dele, "no limite"; "" sem meta.

    Com a meta de não ser mais lento, estar dentro do intervalo é cumprir; os bytes têm de ser iguais.
    """
    goal, ratio = goal_of(row), row["ratio"]
    if goal is None:
        return ""
    if row["what"] == "bytes":
        return "cumpre" if ratio["median"] == goal else "não cumpre"
    if ratio["low"] > goal:
        return "não cumpre"
    return "cumpre" if ratio["high"] <= goal or goal == 1 else "no limite"


def place(row):
    """Onde uma linha foi medida: o título da coluna dela."""
    if row["device"] != "cpu":
        return row["environment"]["gpu"]
    return f"{row['environment']['processor']}, {row['threads']} núcleo{'s' * (row['threads'] > 1)}"


def comparison(row):
    """O nome de uma comparação: o começo da linha dela."""
    ours, theirs = (NAMES.get(row[side]["name"], row[side]["name"]) for side in ("ours", "theirs"))
    where = models.FAMILIES[row["family"]].folder if "family" in row else " × ".join(map(str, row["shape"]))
    return f"{NAMES[row['what']]}, {where}: {ours} ÷ {theirs}"


def cell(row):
    ratio, words = row["ratio"], [verdict(row)]
    spread = "" if row["n"] == 1 else f" [{ratio['low']:.3f}; {ratio['high']:.3f}]"
    if "flops" in row:
        counted = row["flops"]
        parts = [counted[k] / counted["forward"] for k in ("forward", "backward_input", "backward_weight")]
        shares = " : ".join(f"{part:.2f}" for part in parts)
        words.append(f"a conta prevê {predicted(counted):.3f}, de {shares}")
    if "family" in row and "model" not in row:
        words.append("não diz de que pesos")
    return "; ".join([f"{ratio['median']:.3f}{spread}", *filter(None, words)]).replace(".", ",")


def markdown(rows):
    """A tabela: uma comparação por linha, um lugar por coluna, e em cada casa a razão com o intervalo e o veredito."""
    if not rows:
        return UNMEASURED
    latest = {(comparison(row), place(row)): row for row in rows}  # medida de novo com outras versões, vale a última
    places, goals = list(dict.fromkeys(p for _, p in latest)), {comparison(row): goal_of(row) for row in rows}
    lines = ["| tempo ÷ tempo | meta | " + " | ".join(places) + " |", "|---|---|" + "---|" * len(places)]
    for name, goal in goals.items():
        cells = [cell(latest[name, p]) if (name, p) in latest else "" for p in places]
        lines.append(f"| {name} | {f'≤ {goal}'.replace('.', ',') if goal else ''} | {' | '.join(cells)} |")
    return "\n".join(lines)


def essential(rows):
    """As linhas que vão ao README: as que têm meta e as que têm previsão."""
    return [row for row in rows if verdict(row) or "flops" in row]


def details(rows):
    """O que não cabe na tabela: tempo, GB/s e memória dos lados que leem e escrevem um peso."""
    seen = {}
    for row in rows:
        for side in (row["ours"], row["theirs"]):
            if "gb_per_s" in side:
                seen[row["what"], side["name"], place(row)] = side
    lines = ["| | ms | GB/s | pico, MiB |", "|---|---|---|---|"]
    for (what, name, where), side in seen.items():
        numbers = (1e3 * side["seconds"]["median"], side["gb_per_s"], side["peak_bytes"] / 2**20)
        cells = " | ".join(f"{n:.2f}".replace(".", ",") for n in numbers)
        lines.append(f"| {NAMES[what]}, {NAMES.get(name, name)}; {where} | {cells} |")
    return "\n".join(lines)


def crowded(rows):
    """As linhas medidas com a máquina ocupada: o processo esperou por um núcleo, ou havia mais trabalho que núcleos."""
    timed = [row for row in rows if "cpu_share" in row]
    return [row for row in timed if row["cpu_share"] < 0.95 or (row["load"] or 0) > row["environment"]["cores"] + 0.5]


def main():
    rows = costs.current(execute())
    print(markdown(rows), details(rows), sep="\n\n")
    if waited := crowded(rows):
        print(
            f"\nMedidas com a máquina ocupada (ver load e cpu_share): {len(waited)} de {len(rows)}. Para repeti-las, "
            f"apague-as de {results.path('velocidade')} e rode outra vez, com a máquina livre."
        )
    results.write_table("velocidade", markdown(essential(rows)))


if __name__ == "__main__":
    main()
