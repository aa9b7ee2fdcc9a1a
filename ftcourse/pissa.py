"""PiSSA: treina a parte principal do próprio peso, e não uma que começa em zero (Meng et al., 2024).

    W = U Σ Vᵀ                                       a SVD; U: (d_out, k), Σ: (k), V: (d_in, k)
    A₀ = √(Σ_r/s) V_rᵀ     B₀ = U_r √(Σ_r/s)         os r maiores valores singulares: (r, d_in), (d_out, r)   eq. 2 e 3
    h = (W − s·B₀A₀) x + b + s·BA x                  A e B começam em A₀ e B₀, e treinam; s = α/r              eq. 4 e 5

No começo BA = B₀A₀, e nada muda. O artigo e peft põem o resíduo W − s·B₀A₀ no lugar de W. Aqui W fica, e a parcela que
sai dele se subtrai na conta: h = W x + b + s·(BA − B₀A₀) x. É o mesmo a menos de arredondamento, o original não se
perde e não há duas cópias dele. Lida assim, PiSSA é um LoRA de posto 2r, [B, −B₀] vezes [A; A₀]: ver `to_lora`.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from ftcourse import modules
from ftcourse.layers import unwrap, wrap, wrapped
from ftcourse.lora import LoraConfig, LoraLayer


@dataclass(frozen=True)
class PissaConfig(LoraConfig):
    """Os ajustes de PiSSA: os de LoRA. No arquivo de peft é LoRA com init_lora_weights="pissa": quem lê refaz a SVD."""

    variant: ClassVar[dict] = {"init_lora_weights": "pissa"}

    def inject(self, model: nn.Module, name: str) -> None:
        """Envolve as camadas escolhidas e dá a cada uma o A e o B que saem do seu peso.

        Levanta ValueError se o peso de uma delas não se lê.
        """
        for target in modules.readable(self.choose(model)):
            wrap(model, target, PissaLayer).add(name, self)


class PissaLayer(LoraLayer):
    """Uma camada linear cuja parte principal treina."""

    def __init__(self, base_layer):
        super().__init__(base_layer)
        self.initial = nn.ModuleDict()  # {nome: A₀ e B₀, que não treinam}

    @torch.no_grad()
    def add(self, name: str, config: LoraConfig) -> "PissaLayer":
        """Um adaptador novo: A e B da SVD do peso, em float32. Devolve a camada."""
        super().add(name, config)
        U, S, Vt = torch.linalg.svd(self.weight.float(), full_matrices=False)
        root = (S[: config.r] / config.scaling).sqrt()
        self.lora_A[name].copy_(root[:, None] * Vt[: config.r])
        self.lora_B[name].copy_(U[:, : config.r] * root)
        self.initial[name] = nn.Module()
        self.initial[name].register_buffer("A", self.lora_A[name].detach().clone())
        self.initial[name].register_buffer("B", self.lora_B[name].detach().clone())
        return self

    def forward(self, x):
        h = self.base_layer(x)  # (…, d_out)
        if (name := self.acting) is None:
            return h
        A, B, config = self.lora_A[name], self.lora_B[name], self.configs[name]
        start, x = self.initial[name], x.to(A.dtype)
        dropped = F.dropout(x, config.lora_dropout, self.training)
        change = F.linear(F.linear(dropped, A), B) - F.linear(F.linear(x, start.A), start.B)
        return (h + change * config.scaling).to(h.dtype)

    @torch.no_grad()
    def delta_weight(self, name):
        """ΔW = s·(BA − B₀A₀): (d_out, d_in)."""
        start = self.initial[name]
        return (self.lora_B[name] @ self.lora_A[name] - start.B @ start.A) * self.configs[name].scaling


@torch.no_grad()
def to_lora(model: nn.Module, name: str = "default") -> nn.Module:
    """Faz de um adaptador PiSSA um LoRA de posto 2r sobre o W original, que se lê sem refazer a SVD. Devolve o modelo.

    Responde o mesmo, a menos de arredondamento; no treino, o dropout passa a valer também para A₀. Levanta ValueError
    se o adaptador não é PiSSA ou se 2r não cabe numa camada.
    """
    config = getattr(model, "adapters", {}).get(name)
    if not isinstance(config, PissaConfig):
        raise ValueError(f'Este modelo não tem um adaptador PiSSA chamado {name!r}: methods.apply(model, "pissa").')
    alpha = config.lora_alpha * (math.sqrt(2) if config.use_rslora else 2)
    targets, whole = modules.targets(model, name), config.modules_to_save
    lora = LoraConfig(2 * config.r, alpha, config.lora_dropout, config.use_rslora, targets, whole)
    lora.choose(model)
    for target, layer in wrapped(model):
        layer.unmerge()
        if isinstance(layer, PissaLayer) and name in layer.lora_A:
            start, trains = layer.initial[name], layer.lora_A[name].requires_grad
            new = wrap(model, target, LoraLayer).add(name, lora)
            new.lora_A[name].copy_(torch.cat([layer.lora_A[name], start.A])).requires_grad_(trains)
            new.lora_B[name].copy_(torch.cat([layer.lora_B[name], -start.B], dim=1)).requires_grad_(trains)
            if layer.active == name:
                new.active, layer.active = name, None
            layer.remove(name)
    unwrap(model)
    model.adapters = {**model.adapters, name: lora}
    return model
