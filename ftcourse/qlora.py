"""QLoRA: uma base congelada em 4 bits, e LoRA por cima (Dettmers et al., 2023).

              x  (…, d_in)
              │
        ┌─────┴─────┐
        │           A  (r, d_in)     float32, treina
    Ŵ, em NF4       │
    (d_out, d_in)   B  (d_out, r)    float32, treina
        │           │
        └─────+─────┘
              │
              h  (…, d_out)          h = Ŵ x + b + (α/r) · B A x    eq. 5

    qlora.quantize_model(model)             # as camadas lineares, menos a cabeça, viram NF4Linear
    qlora.prepare(model)                    # o resto em float32; ativações refeitas na volta
    methods.apply(model, "lora", r=64)      # LoRA, sem mudar uma linha

O gradiente atravessa Ŵ, que não muda. O que fica fora dos 4 bits (representações, normas, cabeça) pode ser o que mais
pesa num modelo pequeno.
"""

from collections.abc import Sequence

import torch
from torch import nn

from ftcourse import modules
from ftcourse.layers import put, wrapped
from ftcourse.nf4 import NF4Linear


def quantize_model(
    model: nn.Module, target_modules: str | Sequence[str] = "all-linear", block_size: int = 64,
    double_quant: bool = True,
) -> nn.Module:  # fmt: skip
    """Põe em NF4 os pesos das camadas que `target_modules` escolhe, nunca os da cabeça. Devolve o mesmo modelo.

    Para as escolhas, ver `modules.find`; para o resto, `nf4.NF4Weight`. O que já está em NF4 fica como está. Levanta
    ValueError, sem mudar nada, se o modelo tem adaptadores ou se um peso não se pode quantizar.
    """
    if wrapped(model):
        raise ValueError("O modelo já tem um adaptador, que treinou sobre outros pesos: quantize antes de aplicá-lo.")
    ready = {}
    for name, layer in modules.find(model, target_modules, outside=modules.head(model)).items():
        if not isinstance(layer, NF4Linear):
            try:
                ready[name] = NF4Linear(layer, block_size, double_quant)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
    for name, layer in ready.items():
        model.set_submodule(name, layer)
    return model


def prepare(model: nn.Module) -> nn.Module:
    """O que `prepare_model_for_kbit_training` de peft faz, e `methods.apply` ainda não. Devolve o mesmo modelo.

    As normas, as representações e a cabeça passam a float32, em que um passo pequeno não se perde no arredondamento; as
    ativações deixam de ser guardadas e são refeitas na volta, que fica mais lenta (*gradient checkpointing*). Num
    modelo pequeno, `model.float()` basta.
    """
    return checkpoint(model.float())


def checkpoint(model: nn.Module) -> nn.Module:
    """As ativações de cada bloco deixam de ser guardadas e são refeitas na volta. Devolve o mesmo modelo."""
    new_name = hasattr(model, "activation_checkpointing_enable")  # o antigo avisa que vai sair
    enable = model.activation_checkpointing_enable if new_name else model.gradient_checkpointing_enable
    enable({"use_reentrant": False})  # o jeito que não exige gradiente na entrada do bloco, congelada
    return model


def dequantize_model(model: nn.Module) -> nn.Module:
    """Troca cada NF4Linear, com adaptador ou sem, por uma camada linear com o mesmo Ŵ. Devolve o mesmo modelo.

    É o passo que falta para `methods.merge`: W + ΔW em 16 ou 32 bits guarda o ΔW que outra ida aos 4 bits apagaria. O
    erro da primeira ida fica: Ŵ não volta a ser W.
    """
    for layer in [*model.modules()]:
        if isinstance(layer, NF4Linear):
            with torch.device("meta"):  # nada a sortear: peso e viés já existem
                linear = nn.Linear(layer.in_features, layer.out_features, bias=False)
            linear.weight, linear.bias = nn.Parameter(layer.weight, requires_grad=False), layer.bias
            put(model, layer, linear.train(layer.training))
    return model
