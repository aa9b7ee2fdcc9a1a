"""O planejador: quanta memória um treino vai pedir, antes de haver pesos, dados ou placa.

    plan = memory.plan("llama-7b", "qlora", batch=1, length=512)     # ou uma pasta, um config.json, um objeto config
    plan.peak, plan.weights, plan.activations                        # bytes
    plan.table()                                                     # uma tabela, em GB
    plan.plot()                                                      # uma barra empilhada
    memory.advise(plan, memory.card("16GB"))                         # se cabe na placa e, se não, o que caberia

    M = pesos + gradientes + otimizador + ativações                  o pico não é a soma: os gradientes chegam
                                                                     enquanto as ativações se soltam

Planejar é ensaiar o passo: o modelo é feito da configuração com tensores de mentira, que têm forma e tipo e não têm
números (`FakeTensorMode`), recebe a técnica de verdade, e o medidor (`meter`) conta o passo que não aloca nada. Os
bytes são os que o mesmo passo pediria numa CPU, um a um; por isso qualquer arquitetura de transformers e qualquer
técnica de `methods.METHODS` se planejam, também uma que ainda não existe. O que cada bloco guarda, em fórmula, está em
`kept`.

Os blocos de uma pilha são iguais: ensaiam-se dois e três, e os outros saem da diferença, exata. Numa GPU mudam os
núcleos da atenção e da soma, e somam-se o que o CUDA reserva para si e o que o alocador desperdiça: isto não foi medido
em GPU nenhuma. O que muda com mais de uma placa é só conta.
"""

import copy
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
import transformers
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from transformers.initialization import no_init_weights

from ftcourse import formats, meter, methods, model_folder, modules, qlora
from ftcourse.files import DATA, choose
from ftcourse.lora import LoraConfig

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

CONFIGS = DATA / "configs"
TECHNIQUES = (*methods.METHODS, "qlora")
PRECISIONS = {  # nome: (o tipo em que os pesos ficam, o das contas)
    "float32": ("float32", "float32"),
    "autocast": ("float32", "bfloat16"),  # bf16=True num Trainer
    "bfloat16": ("bfloat16", "bfloat16"),
}
CARDS = {"T4": 16, "RTX 4090": 24, "A100 40 GB": 40, "L40S": 48, "A100 80 GB": 80, "H200": 141}  # GiB
GIB = 2**30
# transformers olharia os números das posições, à procura de textos colados um no outro; os de um ensaio não estão.
NOT_PACKED = mock.patch("transformers.masking_utils.find_packed_sequence_indices", return_value=None, create=True)
LEVELS = {"ddp": 0, "zero1": 1, "zero2": 2, "zero3": 3, "fsdp": 3}  # divide-se nada, o otimizador, gradientes, pesos
COUNTED = {"batch": "O lote", "length": "O comprimento", "target": "A resposta", "devices": "O número de placas",
           "labels": "O número de classes"}  # fmt: skip
DEPTHS = {False: ("num_hidden_layers",), True: ("num_layers", "num_decoder_layers")}
SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "d_model", "d_ff",
    "d_kv", "num_layers", "num_heads",
)  # fmt: skip
CAVEAT = "A conta não inclui o que o CUDA reserva para si (centenas de MB) nem o que o alocador desperdiça."


@dataclass(frozen=True)
class Plan:
    """Os bytes de um passo de treino, em cada placa. O que se pediu está nos primeiros campos, como `plan` o recebeu.

    parameters, trainable: quantos números o modelo tem, já com a técnica, e quantos treinam. activations: {tipo, um de
    meter.KINDS: bytes}. exchange: o que várias placas seguram a mais para se falar. peak: o máximo de uma vez.
    """

    model: str
    technique: Any
    precision: str
    optimizer_name: str
    batch: int
    length: int
    target: int | None
    padding: bool
    checkpointing: bool
    devices: int
    sharding: str
    labels: int | None
    settings: dict[str, Any]
    config: transformers.PreTrainedConfig = field(repr=False)
    parameters: int
    trainable: int
    weights: int
    gradients: int
    optimizer: int
    activations: dict[str, int]
    exchange: int
    peak: int

    @property
    def saved(self) -> int:
        """Todas as ativações."""
        return sum(self.activations.values())

    @property
    def logits(self) -> int:
        """As ativações da cabeça: logits e perda."""
        return self.activations.get(meter.HEAD, 0)

    @property
    def name(self) -> str:
        """O plano numa linha, para o eixo de um gráfico."""
        extras = [f"lote {self.batch} × {self.length}", self.precision]
        extras += ["checkpointing"] * self.checkpointing
        extras += [f"{self.devices} placas, {self.sharding}"] * (self.devices > 1)
        return f"{self.model}, {self.technique}, {', '.join(extras)}"

    def parts(self) -> dict[str, int]:
        """As parcelas, em bytes: {nome em português: bytes}."""
        parts = {"pesos": self.weights, "gradientes": self.gradients, "otimizador": self.optimizer}
        parts |= {f"ativações: {kind}": nbytes for kind, nbytes in self.activations.items()}
        return parts | ({"troca entre placas": self.exchange} if self.exchange else {})

    def table(self) -> "pd.DataFrame":
        """Uma linha por parcela, a soma e o pico, em GB (10⁹ bytes)."""
        import pandas as pd

        parts = self.parts()
        rows = parts | {"soma": sum(parts.values()), "pico": self.peak}
        return pd.DataFrame({"GB": {name: nbytes / 1e9 for name, nbytes in rows.items()}}).rename_axis("parcela")

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Uma barra empilhada com as parcelas e o pico."""
        from ftcourse import plots

        return plots.memory([self], ax=ax)


def compare(plans: Iterable[Plan]) -> "pd.DataFrame":
    """Uma linha por plano, em GB: pesos, gradientes, otimizador, ativações, logits, pico."""
    import pandas as pd

    rows = [
        {
            "plano": plan.name, "parâmetros": plan.parameters, "treinam": plan.trainable,
            "pesos, GB": plan.weights / 1e9,
            "gradientes, GB": plan.gradients / 1e9, "otimizador, GB": plan.optimizer / 1e9,
            "ativações, GB": plan.saved / 1e9, "das quais logits, GB": plan.logits / 1e9, "pico, GB": plan.peak / 1e9,
        }
        for plan in plans
    ]  # fmt: skip
    return pd.DataFrame(rows).set_index("plano")


# ---------------------------------------------------------------- o que se pede


def plan(
    model: str | Path | transformers.PreTrainedConfig, technique: Any = "lora", *, precision: str = "bfloat16",
    optimizer: str = "adamw", batch: int = 1, length: int = 512, target: int | None = None, padding: bool = False,
    checkpointing: bool = False, devices: int = 1, sharding: str = "ddp", labels: int | None = None, **settings: Any,
) -> Plan:  # fmt: skip
    """Quanta memória pede um passo de treino.

    model: um nome de `known()`, uma pasta, um config.json ou um config de transformers. technique: um nome de
    TECHNIQUES, com os ajustes em `settings`, ou um objeto como LoraConfig; "qlora" é LoRA sobre uma base em NF4.
    precision: um nome de PRECISIONS; em "bfloat16" os pesos ficam em 16 bits, e o que uma técnica acrescenta, em
    float32. optimizer: um nome de meter.OPTIMIZERS. batch, length: as linhas e os tokens de cada uma, por placa.
    target: os tokens da resposta, no T5; sem eles, tantos quanto os da pergunta. padding: se há preenchimento, e
    portanto máscara. checkpointing: se cada bloco refaz na volta o que guardaria. devices, sharding: as placas e o que
    se divide entre elas: "ddp", nada; "zero1", o otimizador; "zero2", também os gradientes; "zero3" ou "fsdp", também
    os pesos. labels: quantas classes tem a cabeça; sem elas, o BERT tem duas, e o LLaMA e o T5 escrevem texto.

    Levanta ValueError se não conhece um nome, se um número não faz sentido ou se a configuração não basta.
    """
    choose("a precisão", precision, PRECISIONS)
    choose("o otimizador", optimizer, meter.OPTIMIZERS)
    choose("a divisão entre placas", sharding, LEVELS)
    counts = {"batch": batch, "length": length, "target": target, "devices": devices, "labels": labels}
    for name, value in counts.items():
        if (value is not None or name not in ("target", "labels")) and not modules.is_count(value):
            raise ValueError(f"{COUNTED[name]} ({name}) é um inteiro a partir de 1; veio {value!r}.")
    if isinstance(technique, str):
        choose("a técnica", technique, TECHNIQUES)
    name, config = read(model)
    if (limit := positions(config)) and length > limit:
        raise ValueError(
            f"length={length}: as posições deste modelo vão até {limit}. Peça textos de até {limit} tokens."
        )
    asked = (technique, precision, optimizer, batch, length, target, padding, checkpointing, labels)
    try:
        trial = extrapolate(config, asked, settings)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise ValueError(
            f"Não dá para ensaiar {name} assim: ele faz contas que dependem dos números, como a cabeça de classificar "
            "do T5, que procura o fim de cada texto, e um ensaio não os tem. Sem labels, o T5 se planeja; com eles, "
            "meça com meter.measure."
        ) from error
    whole = Plan(
        name, technique, precision, optimizer, batch, length, target, padding, checkpointing, devices, sharding, labels,
        settings, config, trial["parameters"], trial["trainable"], trial["weights"], trial["gradients"],
        trial["optimizer"], {kind: trial[kind] for kind in meter.KINDS if trial.get(kind)}, 0, 0,
    )  # fmt: skip
    return divide(whole, trial)


def known() -> list[str]:
    """Os modelos de que o curso traz a configuração."""
    return sorted(path.stem for path in CONFIGS.glob("*.json"))


def read(model: str | Path | transformers.PreTrainedConfig) -> tuple[str, transformers.PreTrainedConfig]:
    """(nome, configuração) de um modelo. Levanta ValueError se não o conhece ou se a configuração não serve."""
    if isinstance(model, transformers.PreTrainedConfig):
        return model.name_or_path or model.model_type, copy.deepcopy(model)
    path = Path(str(model)).expanduser()
    path = path / "config.json" if path.is_dir() else path
    name = path.parent.name if path.name == "config.json" else path.stem
    if not path.is_file():
        name = choose("o modelo", str(model), known())
        path = CONFIGS / f"{name}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} não é um JSON inteiro: confira se o arquivo não foi cortado.") from error
    kind = str(content.get("model_type")) if isinstance(content, dict) else "nada"
    if kind not in transformers.CONFIG_MAPPING:
        raise ValueError(
            f'A configuração de {name} não diz um model_type que transformers conheça ("bert", "llama", "t5"…); veio '
            f"{kind!r}."
        )
    default = transformers.CONFIG_MAPPING[kind]().to_dict()
    if lost := [size for size in SIZES if size in default and content.get(size) is None]:
        raise ValueError(
            f"À configuração de {name} falta {', '.join(lost)}: sem isso transformers usaria o tamanho de outro "
            "modelo. Copie o config.json inteiro."
        )
    return name, transformers.CONFIG_MAPPING[kind].from_dict(content | {"_name_or_path": name})


def positions(config: transformers.PreTrainedConfig) -> int | None:
    """Quantas posições o modelo tem numa tabela; None se ele as calcula."""
    return getattr(config, "max_position_embeddings", None) if config.model_type in ("bert", "roberta") else None


# ---------------------------------------------------------------- o ensaio


def extrapolate(config: transformers.PreTrainedConfig, asked: tuple, settings: dict) -> dict[str, int]:
    """O ensaio do modelo inteiro: de duas e de três camadas em cada pilha, e a conta das outras.

    Com poucas camadas, ou com ajustes que as escolhem pelo número, ensaia-se o modelo todo.
    """
    depths = {key: getattr(config, key) for key in DEPTHS[config.is_encoder_decoder] if hasattr(config, key)}
    hashable = tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in sorted(settings.items()))
    content = json.dumps(config.to_dict(), sort_keys=True, default=str)
    by_number = re.search(r"\.\d|\d\.", repr((settings, asked[0])))
    if not depths or by_number or min(depths.values()) <= 3:
        return rehearse(content, tuple(depths.items()), asked, hashable)
    shallow = dict.fromkeys(depths, 2)
    total = base = rehearse(content, tuple(shallow.items()), asked, hashable)
    for key, depth in depths.items():
        deeper = rehearse(content, tuple((shallow | {key: 3}).items()), asked, hashable)
        total = {part: value + (depth - 2) * (deeper[part] - base[part]) for part, value in total.items()}
    return total


@lru_cache(maxsize=256)
def rehearse(content: str, depths: tuple, asked: tuple, settings: tuple) -> dict[str, int]:
    """Um passo de mentira: {parcela, tipo de ativação ou momento: bytes}. content: a configuração, em JSON.

    Sem dropout: com ele, cada máscara somaria um byte por número, e a atenção de uma CPU guardaria o seu mapa inteiro.
    """
    technique, precision, optimizer, batch, length, target, padding, checkpointing, labels = asked
    stored, computed = PRECISIONS[precision]
    with FakeTensorMode(allow_non_fake_inputs=True), model_folder.quiet(), torch.random.fork_rng(), NOT_PACKED:
        model = blank(json.loads(content), dict(depths), labels, stored)
        if technique == "qlora":
            qlora.quantize_model(model)
        with no_init_weights():  # sortear o que não tem números seria perguntar por eles
            methods.apply(model, configured(technique, **dict(settings))).train()
        if checkpointing:
            qlora.checkpoint(model)
        ids = torch.ones(batch, length, dtype=torch.long)
        answers = ids.new_ones(batch, target) if target and model.config.is_encoder_decoder else ids
        inputs = {"input_ids": ids, "labels": ids[:, 0] % 2 if modules.head(model) else answers}
        if padding:
            inputs["attention_mask"] = torch.ones_like(ids)
        measured = meter.measure(model, inputs, optimizer, computed)
        trainable, parameters = modules.count_parameters(model)
        unit = max(meter.size(part.parameters()) for part in units(model))
        part_trained = max(meter.size(p for p in part.parameters() if p.requires_grad) for part in units(model))
    found = {"parameters": parameters, "trainable": trainable, "weights": measured.weights,
             "gradients": measured.gradients, "optimizer": measured.optimizer,
             "unit": 2 * unit + part_trained}  # fmt: skip
    found |= dict.fromkeys(meter.KINDS, 0) | measured.activations
    for moment, (alive, gradients) in measured.moments.items():
        if not moment.endswith(meter.MIDDLE):  # entre o fundo e o alto de uma pilha, a memória muda em linha reta
            found |= {f"vivos: {moment}": alive, f"gradientes: {moment}": gradients}
    return found


def blank(content: dict, depths: dict[str, int], labels: int | None, stored: str) -> transformers.PreTrainedModel:
    """O modelo de uma configuração, com `depths` camadas em cada pilha e a cabeça que `labels` pede, sem dropout."""
    config = transformers.CONFIG_MAPPING[content["model_type"]].from_dict(content)
    for key, value in content.items():
        if "dropout" in key and isinstance(value, float):
            setattr(config, key, 0.0)
    for key, depth in depths.items():
        setattr(config, key, depth)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    for token in ("pad_token_id", "decoder_start_token_id"):  # qualquer um serve: aqui não há textos
        setattr(config, token, getattr(config, token, None) or 0)
    if labels or (type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING and not config.is_encoder_decoder):
        config.num_labels, kind = labels or 2, transformers.AutoModelForSequenceClassification
    else:
        kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    return kind.from_config(config, dtype=getattr(torch, stored))


def units(model: nn.Module) -> list[nn.Module]:
    """O que o FSDP junta de cada vez: cada bloco, e o que fica fora deles."""
    held = [block for stack in meter.blocks(model) for block in stack]
    inside = {id(p) for block in held for p in block.parameters()}
    return [*held, nn.ParameterList([p for p in model.parameters() if id(p) not in inside])]


# ---------------------------------------------------------------- as placas


def divide(plan: Plan, trial: dict[str, int]) -> Plan:
    """O plano com o pico, e com o que cada placa guarda quando são várias.

    Com "ddp" e "zero1", os gradientes ficam também nos baldes da troca; com "zero3" e "fsdp" juntam-se, de cada vez, os
    pesos de dois blocos e os gradientes de um.
    """
    level, n = LEVELS[plan.sharding], plan.devices
    weights, gradients, optimizer = (
        -(-whole // (n if level >= needed else 1))
        for whole, needed in ((plan.weights, 3), (plan.gradients, 2), (plan.optimizer, 1))
    )
    exchange = 0 if n == 1 else trial["unit"] if level == 3 else plan.gradients if level < 2 else 0
    spared = plan.weights - weights + plan.optimizer - optimizer - exchange
    kept = gradients / plan.gradients if plan.gradients else 1
    moments = [key.removeprefix("vivos: ") for key in trial if key.startswith("vivos: ")]
    peak = max(trial[f"vivos: {m}"] - spared - round((1 - kept) * trial[f"gradientes: {m}"]) for m in moments)
    return replace(plan, weights=weights, gradients=gradients, optimizer=optimizer, exchange=exchange, peak=peak)


def again(given: Plan, **changes: Any) -> Plan:
    """O mesmo plano, com outra coisa no lugar do que `changes` diz.

    Entre LoRA e as parentes dela, os ajustes passam de uma à outra; outra técnica perde os da que havia.
    """
    fields = (
        "technique",
        "precision",
        "batch",
        "length",
        "target",
        "padding",
        "checkpointing",
        "devices",
        "sharding",
        "labels",
    )
    asked = {name: getattr(given, name) for name in fields} | {"optimizer": given.optimizer_name}
    settings = given.settings
    if "technique" in changes:
        before, after = configured(given.technique, **settings), configured(changes["technique"])
        settings = vars(before) if isinstance(before, LoraConfig) and isinstance(after, LoraConfig) else {}
    return plan(given.config, **(asked | settings | changes))


def configured(technique: Any, **settings: Any) -> Any:
    """Os ajustes de uma técnica de TECHNIQUES: os de "qlora" são os de LoRA, sobre uma base em NF4."""
    return methods.configure("lora" if technique == "qlora" else technique, **settings)


def card(text: str) -> int:
    """Os bytes de uma placa: "16GB", "24 GiB", ou um nome de CARDS. Os fabricantes dizem GB e contam em GiB, 2³⁰ bytes.

    Levanta ValueError se não é um tamanho.
    """
    found = re.fullmatch(r"\s*(\d+(?:[.,]\d+)?)\s*(?:GB|GiB|G)?\s*", text, re.IGNORECASE)
    given = float(found[1].replace(",", ".")) if found else CARDS.get(text, 0)
    if not given:
        raise ValueError(
            f"{text!r} não é o tamanho de uma placa: escreva como 16GB, ou um destes nomes: {', '.join(CARDS)}."
        )
    return round(given * GIB)


def ways_out(given: Plan, capacity: int) -> dict[str, Plan]:
    """Os planos que caberiam em `capacity` bytes, do que menos muda ao que mais muda: {o que mudar: plano}."""
    cheap = {"technique": "qlora", "precision": "bfloat16", "checkpointing": True, "batch": 1}
    options: dict[str, dict] = {"ligar o checkpointing": {"checkpointing": True}}
    if given.batch > 1:
        options |= {"lote de 1 linha, somando os gradientes de várias": {"batch": 1}}
        options |= {"lote de 1 linha e checkpointing": {"batch": 1, "checkpointing": True}}
    options |= {"pesos em bfloat16": {"precision": "bfloat16"}} if given.precision != "bfloat16" else {}
    for technique in ("lora", "qlora"):
        if given.technique != technique:
            options[f"{technique}, com pesos em bfloat16"] = {"technique": technique, "precision": "bfloat16"}
    options["qlora, bfloat16, checkpointing e lote de 1 linha"] = cheap
    options |= {f"{n} placas como essa, com fsdp": {"devices": n, "sharding": "fsdp"} for n in (2, 4, 8)}
    found: dict[str, Plan] = {}
    for what, changes in options.items():
        if (other := again(given, **changes)).peak <= capacity:
            found[what] = other
    return found


def advise(given: Plan, capacity: int) -> str:
    """Se o plano cabe em `capacity` bytes e, se não, o que caberia, em frases."""
    asked, has = gigabytes(given.peak), f"{formats.number(capacity / GIB)} GiB, {gigabytes(capacity)}"
    if given.peak <= capacity:
        left = gigabytes(capacity - given.peak)
        return f"Cabe: o pico é de {asked}, a placa tem {has}, e sobram {left}. {CAVEAT}"
    lines = [f"Não cabe: o pico é de {asked}, e a placa tem {has}."]
    if ways := ways_out(given, capacity):
        lines += ["Caberia com uma destas mudanças:"]
        lines += [f"  {what}: {gigabytes(plan.peak)}" for what, plan in ways.items()]
    larger = [name for name, size in CARDS.items() if size * GIB >= given.peak and size * GIB > capacity]
    lines += [f"Sem mudar nada, cabe numa {larger[0]}, de {CARDS[larger[0]]} GiB."] if larger else []
    if len(lines) == 1:
        lines += ["Nem com QLoRA, checkpointing e lote de 1 linha caberia: encurte os textos ou use um modelo menor."]
    return "\n".join([*lines, CAVEAT])


def gigabytes(nbytes: int) -> str:
    """Em GB, de 10⁹ bytes."""
    return f"{formats.number(nbytes / 1e9)} GB"
