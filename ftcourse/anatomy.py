"""Abrir um modelo: de que parte é cada peso, o que entra e sai de cada módulo, o desenho de um bloco, a lente.

names = anatomy.weighted(bert, "bert.encoder.layer.0")     # os módulos do bloco que têm pesos seus
heard = anatomy.listen(bert, names, inputs)                # {nome: (input, output)}, na ordem em que agem
anatomy.draw({"BERT": (bert, heard)})                      # o bloco, como uma pilha de caixas
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
import transformers
from matplotlib.axes import Axes
from torch import nn

from ftcourse import modules, plots

PARTS = {  # a parte de um peso: a primeira cujo padrão aparece no nome dele
    "normalizações": "norm", "embeddings e saída": "embed|shared|lm_head|cls", "atenção": "att", "feed-forward": "",
}  # fmt: skip
COLUMNS = ("atenção", "feed-forward", "normalizações", "embeddings e saída")
TINTS = dict(zip(COLUMNS, plots.COLORS))


class Heard(NamedTuple):
    """O que entrou num módulo e o que saiu dele, o primeiro tensor de cada lado; None se não entrou um sem nome."""

    input: torch.Tensor | None
    output: torch.Tensor


def part_of(name: str) -> str:
    """A parte do modelo a que pertence o parâmetro, ou o módulo, que tem esse nome."""
    return next(part for part, pattern in PARTS.items() if re.search(pattern, name, re.IGNORECASE))


def published() -> dict[str, transformers.PreTrainedModel]:
    """BERT-base, LLaMA-7B e T5-11B com as formas publicadas e sem os números: não ocupam memória nem se baixam."""
    wide = transformers.T5Config(d_model=1024, d_kv=128, d_ff=65536, num_layers=24, num_heads=128)
    with torch.device("meta"):
        return {
            "BERT-base": transformers.BertForMaskedLM(transformers.BertConfig()),
            "LLaMA-7B": transformers.LlamaForCausalLM(transformers.LlamaConfig()),
            "T5-11B": transformers.T5ForConditionalGeneration(wide),
        }


def weighted(model: nn.Module, block: str) -> list[str]:
    """Os nomes dos módulos de um bloco que têm pesos seus, e não só nos que há dentro deles."""
    inside = model.get_submodule(block).named_modules(prefix=block)
    return [name for name, module in inside if any(True for _ in module.parameters(recurse=False))]


def listen(model: nn.Module, names: Iterable[str], inputs: Mapping[str, Any]) -> dict[str, Heard]:
    """O que entra e sai de cada um desses módulos quando o modelo lê `inputs`: {nome: Heard}, na ordem em que agem."""
    heard: dict[str, Heard] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, given: tuple, answer: Any) -> None:
            heard[name] = Heard((*given, None)[0], answer[0] if isinstance(answer, tuple) else answer)

        return hook

    hooks = [model.get_submodule(name).register_forward_hook(note(name)) for name in names]
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return heard


def layers(model: nn.Module, inputs: Mapping[str, Any]) -> list[torch.Tensor]:
    """O vetor de cada posição ao entrar no primeiro bloco e ao sair de cada um: (B, T, d). No T5, do decodificador.

    Não é `output_hidden_states`, que no LLaMA e no T5 já traz o último vetor normalizado.
    """
    stack = modules.stacks(model)[-1]
    names = {id(module): name for name, module in model.named_modules(remove_duplicate=False)}
    first = getattr(stack, "embeddings", None) or stack.embed_tokens
    blocks = stack.encoder.layer if hasattr(stack, "encoder") else getattr(stack, "block", None) or stack.layers
    heard = listen(model, [names[id(module)] for module in (first, *blocks)], inputs)
    return [vectors for _, vectors in heard.values()]


@torch.no_grad()
def speak(model: nn.Module, vectors: torch.Tensor) -> torch.Tensor:
    """Os logits que o modelo daria se a última camada tivesse respondido esses vetores: (…, d) → (…, vocabulário)."""
    if hasattr(model, "cls"):
        return model.cls(vectors)
    stack = modules.stacks(model)[-1]
    vectors = (stack.norm if hasattr(stack, "norm") else stack.final_layer_norm)(vectors)
    if getattr(model.config, "scale_decoder_outputs", False):  # o T5 divide por √d antes da saída
        vectors = vectors * model.config.d_model**-0.5
    return model.lm_head(vectors)


def draw(blocks: Mapping[str, tuple[nn.Module, Iterable[str]]]) -> Axes:
    """Um bloco por coluna, da entrada, embaixo, à saída: cada módulo, a forma do peso e a sua parte no bloco.

    blocks: {título: (modelo, nomes dos módulos na ordem em que agem)}. A força da cor é a parte do módulo no bloco.
    """
    most = max(len([*names]) for _, names in blocks.values())
    ax = plots.axes(figsize=(3.1 * len(blocks), 0.58 * most + 0.9))
    for left, (title, (model, names)) in enumerate(blocks.items()):
        weights = {name: model.get_submodule(name).weight.shape for name in names}
        sizes = {name: sum(p.numel() for p in model.get_submodule(name).parameters()) for name in names}
        total = sum(sizes.values())
        for height, (name, shape) in enumerate(weights.items()):
            share = sizes[name] / total
            box = {"xy": (left, height), "width": 0.96, "height": 0.88, "color": TINTS[part_of(name)]}
            ax.add_patch(plt.Rectangle(**box, alpha=min(1, 2.5 * share), linewidth=0))
            ax.add_patch(plt.Rectangle(**box, fill=False, linewidth=1))
            label = f"{name.split('.')[-1]}\n{' × '.join(map(str, shape))} · {100 * share:.0f} %"
            ink = "white" if share > 0.25 else "black"
            ax.text(left + 0.48, height + 0.43, label, ha="center", va="center", fontsize=11, color=ink)
        counted = f"{total:,}".replace(",", ".")
        ax.text(left + 0.48, len(weights) + 0.1, f"{title}\n{counted} parâmetros", ha="center", fontsize=12)
    ax.set(xlim=(0, len(blocks)), ylim=(-0.1, most + 1.1))
    ax.axis("off")
    return ax
