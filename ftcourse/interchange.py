"""O arquivo de um adaptador, no formato de peft: lido e escrito, conferido antes de tocar em qualquer modelo.

    minha-lora/adapter_config.json          os ajustes
    minha-lora/adapter_model.safetensors    os pesos, com nomes como base_model.model.….query.lora_A.weight

O que `PeftModel.save_pretrained` grava se lê aqui, e o que se grava aqui `PeftModel.from_pretrained` lê.
"""

import dataclasses
import json
from pathlib import Path

import safetensors
import safetensors.torch

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


def write(folder, config, tensors, base=None):
    """Grava os ajustes e os tensores {nome: valor} de um adaptador; base: o resumo dos pesos em que ele treinou."""
    fields = {"peft_type": config.peft_type, **variant(config), **dataclasses.asdict(config), "inference_mode": True}
    metadata = {"base": base} if base else {"format": "pt"}  # uma chave só: de duas, safetensors sorteia a ordem
    values = {in_file(config, name): value.detach().cpu().contiguous() for name, value in tensors.items()}
    folder = Path(folder)
    with atomic_write(folder / WEIGHTS) as file:
        file.write(safetensors.torch.save(values, metadata))
    with atomic_write(folder / CONFIG) as file:
        file.write(json.dumps(fields, ensure_ascii=False, indent=2).encode())


def variant(kind):
    """Os campos que, no arquivo, distinguem uma técnica de outra com o mesmo peft_type: {"use_dora": True}."""
    return getattr(kind, "variant", {})


def prefix(kind):
    """O começo que peft dá aos nomes dos pesos de uma técnica."""
    return getattr(kind, "prefix_in_file", PREFIX)


def in_file(kind, name):
    """O nome de um peso num arquivo: o de uma camada ganha o começo.

    O do modelo inteiro fica como a técnica o deu: prompt_embeddings, base_model.vera_A.
    """
    return name if "." not in name or name.startswith("base_model.") else prefix(kind) + name


def read(folder, kinds):
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
            base = (file.metadata() or {}).get("base")
            values = {name.removeprefix(prefix(kind)): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if len(values) < len(file.keys()):
                raise ValueError(f"{folder / WEIGHTS} traz o mesmo peso duas vezes, com e sem {prefix(kind)}.")
    except safetensors.SafetensorError as error:
        raise OSError(f"{folder / WEIGHTS} está cortado ou não é um arquivo safetensors.") from error
    for name, value in values.items():
        if value.is_floating_point() and not value.float().isfinite().all():  # em float32, como treina
            raise ValueError(f"Em {folder / WEIGHTS}, {name} tem valores que não são números (nan ou inf).")
    return config, values, base


def check(folder, values, expected):
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
