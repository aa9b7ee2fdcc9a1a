"""O arquivo de um adaptador, no formato de peft: lido e escrito, conferido antes de tocar em qualquer modelo.

    minha-lora/adapter_config.json          os ajustes
    minha-lora/adapter_model.safetensors    os pesos, com nomes como base_model.model.….query.lora_A.weight

O que `PeftModel.save_pretrained` grava se lê aqui, e o que se grava aqui `PeftModel.from_pretrained` lê.

São dois arquivos, e uma gravação pode parar entre um e outro. Por isso o dos pesos leva um resumo dos ajustes: os de
uma gravação com os de outra não se leem.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from ftcourse.files import atomic_write, choose

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
# O que peft grava e não muda a conta. Qualquer outro campo preenchido é uma variante que não se sabe ler.
HARMLESS = {
    "peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode",
    "init_lora_weights", "init_ia3_weights", "megatron_core", "megatron_config", "qalora_group_size",
    "num_layers", "token_dim", "num_attention_heads", "num_transformer_submodules", "encoder_hidden_size",
    "init_weights", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs",
}  # fmt: skip


def write(folder: str | Path, config: Any, tensors: dict[str, torch.Tensor], base: str | None = None) -> None:
    """Grava os ajustes e os tensores {nome: valor} de um adaptador; base: o resumo dos pesos em que ele treinou."""
    fields = {"peft_type": config.peft_type, **variant(config), **dataclasses.asdict(config), "inference_mode": True}
    notes = {"base": base, "config": digest(config)}
    metadata = {"ftcourse": json.dumps(notes)}  # uma chave só: de duas, safetensors sorteia a ordem
    values = {in_file(config, name): value.detach().cpu().contiguous() for name, value in tensors.items()}
    places = {value.data_ptr(): name for name, value in values.items()}
    for name, value in values.items():  # o mesmo tensor com dois nomes, que safetensors não grava
        if places[value.data_ptr()] != name:
            values[name] = value.clone()
    folder = Path(folder)
    with atomic_write(folder / WEIGHTS) as file:
        file.write(safetensors.torch.save(values, metadata))
    with atomic_write(folder / CONFIG) as file:
        file.write(json.dumps(fields, ensure_ascii=False, indent=2).encode())


def digest(config: Any) -> str:
    """Um resumo dos ajustes, o mesmo antes de gravados e depois de lidos."""
    fields = {"peft_type": config.peft_type, **variant(config), **dataclasses.asdict(config)}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def variant(kind: Any) -> dict:
    """Os campos que, no arquivo, distinguem uma técnica de outra com o mesmo peft_type: {"use_dora": True}."""
    return getattr(kind, "variant", {})


def prefix(kind: Any) -> str:
    """O começo que peft dá aos nomes dos pesos de uma técnica."""
    return getattr(kind, "prefix_in_file", PREFIX)


def in_file(kind: Any, name: str) -> str:
    """O nome de um peso num arquivo: o de uma camada ganha o começo.

    O do modelo inteiro fica como a técnica o deu: prompt_embeddings, base_model.vera_A.
    """
    return name if "." not in name or name.startswith("base_model.") else prefix(kind) + name


def read(folder: str | Path, kinds: Iterable[Any]) -> tuple:
    """(ajustes, {nome: tensor}, resumo da base ou None) de uma pasta. kinds: as classes de ajustes que se conhecem.

    Levanta FileNotFoundError se falta um arquivo, OSError se está cortado ou não é o que diz ser e ValueError se os
    ajustes são de uma técnica ou variante que o curso não tem, ou se um peso não é um número.
    """
    folder = Path(folder)
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise FileNotFoundError(f"Em {folder} falta {file}. Um adaptador é uma pasta com {CONFIG} e {WEIGHTS}.")
    try:
        fields = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise OSError(f"{folder / CONFIG} está cortado ou não é JSON: {error}.") from error
    if not isinstance(fields, dict) or "peft_type" not in fields:
        raise ValueError(f"{folder / CONFIG} não diz a técnica, em peft_type: não é o arquivo de um adaptador.")
    known = dict.fromkeys(kind.peft_type for kind in kinds)
    wanted = choose(f"a técnica que {folder / CONFIG} pede,", fields["peft_type"], known)
    fitting = [k for k in kinds if k.peft_type == wanted and fields | variant(k) == fields]
    if not fitting:
        raise ValueError(f"{folder / CONFIG} é de uma variante de {wanted} que o curso não tem. Leia-o com peft.")
    kind = max(fitting, key=lambda kind: len(variant(kind)))
    names = [field.name for field in dataclasses.fields(kind)]
    if lost := [name for name in getattr(kind, "needed_in_file", ()) if fields.get(name) is None]:  # não se adivinha
        raise ValueError(f"{folder / CONFIG} não diz {', '.join(lost)}: foi cortado ou alterado. Grave-o outra vez.")
    safe = {*HARMLESS, *names, *variant(kind)}
    unknown = [f for f, v in fields.items() if f not in safe and v and v != "none"]
    other_base = str(fields.get("init_lora_weights")).lower().startswith(("pissa", "olora", "corda", "loftq"))
    if other_base and "init_lora_weights" not in variant(kind):
        unknown.append("init_lora_weights")
    if unknown:
        raise ValueError(
            f"{folder / CONFIG} usa {', '.join(f'{f}={fields[f]!r}' for f in unknown)}, que o curso não sabe ler. "
            "Leia-o com peft."
        )
    settings = {name: fields[name] for name in names if fields.get(name) is not None}
    settings |= {n: tuple(v) for n, v in settings.items() if isinstance(v, list)}
    config = kind(**settings)
    try:
        with safetensors.safe_open(folder / WEIGHTS, "pt") as file:
            notes = json.loads((file.metadata() or {}).get("ftcourse", "{}"))
            values = {name.removeprefix(prefix(kind)): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if len(values) < len(file.keys()):
                raise ValueError(f"{folder / WEIGHTS} traz o mesmo peso duas vezes, com e sem {prefix(kind)}.")
    except safetensors.SafetensorError as error:
        raise OSError(f"{folder / WEIGHTS} está cortado ou não é um arquivo safetensors.") from error
    for name, value in values.items():
        if value.is_floating_point() and not value.float().isfinite().all():  # em float32, como treina
            raise ValueError(f"Em {folder / WEIGHTS}, {name} tem valores que não são números (nan ou inf).")
    if notes.get("config", digest(config)) != digest(config):
        raise ValueError(
            f"{folder / CONFIG} não traz os ajustes com que {WEIGHTS} foi gravado: a gravação parou no meio, ou um dos "
            "dois foi trocado ou alterado. Grave o adaptador outra vez."
        )
    return config, values, notes.get("base")


def reconcile(folder: str | Path, values: dict, expected: dict, base: dict[str, torch.Tensor]) -> dict:
    """Os tensores lidos, com os nomes que o modelo espera: {nome: tensor}.

    peft grava também um peso da base, se o adaptador age na saída: sai, se é o deste modelo. E grava com um nome só o
    que aqui tem dois, como as tabelas de T5. base: os pesos do modelo. Levanta ValueError se um deles é outro.
    """
    where, found = Path(folder) / WEIGHTS, dict(values)
    for name in sorted(values.keys() - expected.keys()):
        own = base.get(plain := name.replace(".base_layer", ""))
        if own is not None and torch.equal(values[name].to(own), own):
            del found[name]
        elif own is not None:
            raise ValueError(
                f"{where} tem, a mais, {plain}, um peso da base em que o adaptador treinou, e o deste modelo é outro. "
                "Carregue o adaptador sobre a mesma base. Nada foi carregado."
            )
    first: dict[int, str] = {}
    for name, tensor in expected.items():
        if name in values:
            one = first.setdefault(id(tensor), name)
            if not torch.equal(values[one], values[name]):
                raise ValueError(
                    f"Em {where}, {one} e {name} são diferentes, e neste modelo são um peso só. Leia-o com peft. Nada "
                    "foi carregado."
                )
    twins = {name: first[id(tensor)] for name, tensor in expected.items() if id(tensor) in first}
    return found | {name: values[one] for name, one in twins.items()}


def check(folder: str | Path, values: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Levanta ValueError se os tensores lidos não são exatamente como os que o modelo espera: {nome: tensor}."""
    where = Path(folder) / WEIGHTS
    lost, extra = expected.keys() - values.keys(), values.keys() - expected.keys()
    for what, names in (("não tem", lost), ("tem, a mais,", extra)):
        if names:
            others = f" e outros {len(names) - 1}" if len(names) > 1 else ""
            raise ValueError(
                f"{where} {what} {min(names)}{others}: é de outro modelo, ou de outros ajustes. Nada foi carregado."
            )
    for name, tensor in expected.items():
        if values[name].is_floating_point() != tensor.is_floating_point():
            raise ValueError(
                f"Em {where}, {name} veio em {values[name].dtype}, e o modelo pede {tensor.dtype}: foi alterado. Nada "
                "foi carregado."
            )
        if values[name].shape != tensor.shape:
            raise ValueError(
                f"Em {where}, {name} tem a forma {tuple(values[name].shape)}, e o modelo pede {tuple(tensor.shape)}: é "
                "outro modelo, ou outros ajustes. Nada foi carregado."
            )
