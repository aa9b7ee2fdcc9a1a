"""DoRA: o tamanho de cada linha do peso treina à parte da direção dela, que LoRA muda (Liu et al., 2024).

              V = W + s·BA                    (d_out, d_in): W congelado, s = α/r, A e B como em LoRA
              ‖V‖                             (d_out): a norma de cada linha, tratada como constante      §4.3
              h = (m/‖V‖) ⊙ (V x) + b         m: (d_out), treina; começa em ‖W‖                           eq. 5

No começo B = 0, m/‖V‖ = 1, e nada muda. Treinam d_out números a mais que em LoRA. Cada linha de `nn.Linear` é a coluna
de que o artigo fala: lá, x multiplica do outro lado. Depois do treino, (m/‖V‖) ⊙ V é um peso como qualquer outro.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from ftcourse import modules
from ftcourse.layers import wrap
from ftcourse.lora import LoraConfig, LoraLayer


@dataclass(frozen=True)
class DoraConfig(LoraConfig):
    """Os ajustes de DoRA: os de LoRA. No arquivo de peft é LoRA com use_dora."""

    variant: ClassVar[dict] = {"use_dora": True}

    def inject(self, model: nn.Module, name: str) -> None:
        """Envolve as camadas escolhidas e dá a cada uma o A, o B e o m do adaptador `name`.

        Levanta ValueError se o peso de uma delas não se lê.
        """
        for target in modules.readable(self.choose(model)):
            wrap(model, target, DoraLayer).add(name, self)


class DoraLayer(LoraLayer):
    """Uma camada linear com a sua soma de posto baixo e o tamanho de cada linha."""

    def __init__(self, base_layer):
        super().__init__(base_layer)
        self.lora_magnitude_vector = nn.ParameterDict()  # {nome: (d_out)}

    def add(self, name: str, config: LoraConfig) -> "DoraLayer":
        """Um adaptador novo: A e B como em LoRA e m = ‖W‖, em float32. Devolve a camada."""
        super().add(name, config)
        self.lora_magnitude_vector[name] = nn.Parameter(self.norm(name))
        return self

    @torch.no_grad()
    def norm(self, name: str) -> torch.Tensor:
        """‖W + s·BA‖, linha a linha: (d_out)."""
        return torch.linalg.norm(self.weight + self.delta_weight(name), dim=1)

    def ratio(self, name: str) -> torch.Tensor:
        """m/‖V‖, linha a linha: (d_out). Uma linha de zeros não tem direção, e a razão é 1: nada muda, e B treina."""
        norm = self.norm(name)
        return torch.where(norm == 0, 1, self.lora_magnitude_vector[name] / norm.masked_fill(norm == 0, 1))

    def forward(self, x):
        h = self.base_layer(x)  # W x + b: (…, d_out)
        if (name := self.acting) is None:
            return h
        A, B, config = self.lora_A[name], self.lora_B[name], self.configs[name]
        ratio = self.ratio(name)
        Wx = h if self.bias is None else h - self.bias
        x = x.to(A.dtype)
        if self.training and config.lora_dropout:  # como em peft, o que se zera para BA também falta no W x que muda
            x = F.dropout(x, config.lora_dropout)
            Wx = F.linear(x, self.weight.to(x.dtype))
        change = (ratio - 1) * Wx + ratio * F.linear(F.linear(x, A), B) * config.scaling
        return (h + change).to(h.dtype)

    def merged(self, name):
        return {"weight": self.ratio(name)[:, None] * (self.weight + self.delta_weight(name))}
