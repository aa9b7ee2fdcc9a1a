"""LoRA: a mudança de um peso congelado, escrita como produto de duas matrizes finas (Hu et al., 2021).

              x  (…, d_in)
              │
        ┌─────┴─────┐
        │           A  (r, d_in)     sorteada: U(±1/√d_in)
    W, congelado    │  (…, r)
    (d_out, d_in)   B  (d_out, r)    zero: no começo, nada muda
        │           │
        │         × α/r
        └─────+─────┘
              │
              h  (…, d_out)          h = W x + b + (α/r) · B A x    eq. 3 e §4.1

Treinam r·(d_in + d_out) números no lugar de d_in·d_out. Depois do treino, W + (α/r)·BA é um peso como qualquer outro.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from ftcourse import modules
from ftcourse.layers import AdapterLayer, wrap


@dataclass(frozen=True)
class LoraConfig:
    """Os ajustes de LoRA, com os nomes de peft. Levanta ValueError se um deles não faz sentido.

    r: o posto máximo de ΔW. lora_alpha: o α da escala α/r ou, com use_rslora, α/√r (Kalajdzievski, 2023, eq. 4).
    lora_dropout: a fração da entrada de A zerada no treino. target_modules: ver `modules.find`. modules_to_save: o
    que mais treina, inteiro; None é a cabeça da tarefa.
    """

    peft_type: ClassVar[str] = "LORA"
    needed_in_file: ClassVar[tuple] = ("r", "lora_alpha")  # os padrões daqui não são os de peft

    r: int = 8
    lora_alpha: float = 16
    lora_dropout: float = 0.0
    use_rslora: bool = False
    target_modules: str | tuple[str, ...] = "all-linear"
    modules_to_save: tuple[str, ...] | None = None

    def __post_init__(self):
        if not modules.is_count(self.r):
            raise ValueError(f"r={self.r!r}: o posto é um inteiro a partir de 1. Comece por 8.")
        if not modules.is_number(self.lora_alpha) or self.lora_alpha <= 0:
            raise ValueError(f"lora_alpha={self.lora_alpha!r}: α é um número maior que zero. Comece por 2·r.")
        if not modules.is_number(self.lora_dropout) or not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout={self.lora_dropout!r}: é uma fração, de 0 a menos de 1.")
        if not isinstance(self.use_rslora, bool):
            raise ValueError(f"use_rslora={self.use_rslora!r}: é True ou False.")

    @property
    def scaling(self) -> float:
        """O número que multiplica BA: α/r, ou α/√r com use_rslora."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    def inject(self, model: nn.Module, name: str) -> None:
        """Envolve as camadas escolhidas e dá a cada uma o A e o B do adaptador `name`."""
        for target in self.choose(model):
            wrap(model, target, LoraLayer).add(name, self)

    def choose(self, model: nn.Module) -> dict[str, nn.Module]:
        """As camadas que target_modules escolhe: {nome: módulo}. Levanta ValueError se r não cabe numa delas."""
        chosen = modules.find(model, self.target_modules, outside=self.modules_to_save or ())
        for target, layer in chosen.items():
            if self.r > (smaller := min(layer.in_features, layer.out_features)):
                raise ValueError(
                    f"r={self.r} não cabe em {target}, de {layer.out_features} × {layer.in_features}: com "
                    f"r={smaller} BA já pode ser qualquer matriz. Use um r menor, ou tire a camada de target_modules."
                )
        return chosen


class LoraLayer(AdapterLayer):
    """Uma camada linear com a sua soma de posto baixo."""

    in_file: ClassVar = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight"}

    def __init__(self, base_layer):
        super().__init__(base_layer)
        self.lora_A = nn.ParameterDict()  # {nome: (r, d_in)}
        self.lora_B = nn.ParameterDict()  # {nome: (d_out, r)}
        self.configs = {}  # {nome: LoraConfig}

    def add(self, name: str, config: LoraConfig) -> "LoraLayer":
        """Um adaptador novo: A sorteada como em `nn.Linear`, B em zero, os dois em float32. Devolve a camada."""
        A = torch.empty(config.r, self.in_features, device=self.weight.device)
        nn.init.kaiming_uniform_(A, a=math.sqrt(5))  # dá U(±1/√d_in)
        self.lora_A[name] = nn.Parameter(A)
        self.lora_B[name] = nn.Parameter(A.new_zeros(self.out_features, config.r))
        self.configs[name] = config
        return self

    def forward(self, x):
        h = self.base_layer(x)  # (…, d_out)
        if (name := self.acting) is None:
            return h
        A, B, config = self.lora_A[name], self.lora_B[name], self.configs[name]
        x = F.dropout(x.to(A.dtype), config.lora_dropout, self.training)
        return (h + F.linear(F.linear(x, A), B).mul_(config.scaling)).to(h.dtype)  # mul_: sem outro tensor (…, d_out)

    @torch.no_grad()
    def delta_weight(self, name):
        """ΔW = escala · BA: (d_out, d_in)."""
        return (self.lora_B[name] @ self.lora_A[name]) * self.configs[name].scaling

    def merged(self, name):
        return {"weight": self.weight + self.delta_weight(name)}


def plus(model: nn.Module, ratio: float = 16) -> dict[str, float]:
    """LoRA+: B treina com uma taxa `ratio` vezes a de A (Hayou et al., 2024, §4.2). O resto, cabeça também, com a de A.

    Devolve os multiplicadores que `training.train` recebe: {nome: ratio}, um para cada B que treina. Levanta ValueError
    se `ratio` não é um número maior que zero ou se nenhum B treina.
    """
    if not modules.is_number(ratio) or ratio <= 0:
        raise ValueError(f"ratio={ratio!r}: é um número maior que zero. O artigo sugere 16.")
    names = [name for name, p in model.named_parameters() if p.requires_grad and ".lora_B." in name]
    if not names:
        raise ValueError('Nenhum B treina neste modelo: comece por methods.apply(model, "lora").')
    return dict.fromkeys(names, ratio)
