"""IA³: três vetores por bloco, que aumentam ou diminuem o que já passa por ele (Liu et al., 2022).

    atenção                                           feed-forward

      Q     l_K ⊙ K     l_V ⊙ V                          γ(W₁ x)
      │        │           │                                │
      └── softmax(Q (l_K ⊙ K)ᵀ / √d) (l_V ⊙ V)            l_ff ⊙          (d_ff)
                                                            │
                                                           W₂

    na saída de K e V:    h = l ⊙ (W x + b)               l: (d_out)      §3.3
    na entrada de W₂:     h = W (l ⊙ x) + b               l: (d_in)

Cada l começa em 1: no começo, nada muda. Treinam d_out + d_out + d_ff números por bloco. Depois do treino, l multiplica
as linhas do peso e o viés (K e V) ou só as colunas do peso (W₂), e não resta conta a mais.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn

from ftcourse import modules
from ftcourse.layers import AdapterLayer, wrap, wrapped


@dataclass(frozen=True)
class IA3Config:
    """Os ajustes de IA³, com os nomes de peft.

    target_modules: ver `modules.find`; None é o K, o V e a volta do feed-forward de cada bloco, também os da atenção
    cruzada do T5. feedforward_modules: das escolhidas, aquelas cujo vetor multiplica a entrada, por finais de nomes ou
    por uma expressão regular; None são as voltas de feed-forward. modules_to_save: o que mais treina, inteiro; None é a
    cabeça da tarefa.
    """

    peft_type: ClassVar[str] = "IA3"

    target_modules: str | tuple[str, ...] | None = None
    feedforward_modules: str | tuple[str, ...] | None = None
    modules_to_save: tuple[str, ...] | None = None

    def __post_init__(self):
        if self.feedforward_modules is not None and not modules.names_only(self.feedforward_modules):
            raise ValueError(
                f"feedforward_modules={self.feedforward_modules!r}: é uma expressão regular ou uma lista de nomes."
            )

    def inject(self, model: nn.Module, name: str) -> None:
        """Envolve as camadas escolhidas e dá a cada uma o seu vetor."""
        if self.target_modules is None:
            chosen = modules.by_role(model, "key", "value", "down")
        else:
            chosen = modules.find(model, self.target_modules, outside=self.modules_to_save or ())
        on_input = self.on_input(chosen)
        for target in chosen:
            wrap(model, target, IA3Layer).add(name, target in on_input)

    def on_input(self, chosen: Iterable[str]) -> list[str]:
        """Das camadas escolhidas, as que têm o vetor na entrada."""
        if (given := self.feedforward_modules) is None:
            return modules.matching(chosen, modules.ROLES["down"])
        if not all(modules.matching(chosen, wanted) for wanted in ([given] if isinstance(given, str) else zip(given))):
            raise ValueError(f"feedforward_modules={given!r}: cada nome é o de uma das camadas de target_modules.")
        return modules.matching(chosen, given)

    def export(self, model: nn.Module, name: str, tensors: dict) -> tuple["IA3Config", dict]:
        """Os ajustes e os tensores que vão para o arquivo: as camadas de feedforward_modules, por extenso."""
        found = [n for n, layer in wrapped(model) if isinstance(layer, IA3Layer) and layer.on_input.get(name)]
        return replace(self, feedforward_modules=tuple(found)), tensors


class IA3Layer(AdapterLayer):
    """Uma camada linear com um vetor que multiplica a sua entrada ou a sua saída."""

    def __init__(self, base_layer):
        super().__init__(base_layer)
        self.ia3_l = nn.ParameterDict()  # {nome: (d_in) na entrada, (d_out) na saída}
        self.on_input = {}  # {nome: se o vetor está na entrada}

    def add(self, name: str, on_input: bool) -> "IA3Layer":
        """Um vetor novo, de uns, em float32. Devolve a camada."""
        size = self.in_features if on_input else self.out_features
        self.ia3_l[name] = nn.Parameter(torch.ones(size, device=self.weight.device))
        self.on_input[name] = on_input
        return self

    def kept(self, name: str) -> dict[str, torch.Tensor]:
        """O vetor com a forma que peft lhe dá: (1, d_in) na entrada, (d_out, 1) na saída."""
        return {"ia3_l": self.ia3_l[name][None] if self.on_input[name] else self.ia3_l[name][:, None]}

    def forward(self, x):
        if (name := self.acting) is None:
            return self.base_layer(x)
        scale = self.ia3_l[name]
        if self.on_input[name]:
            return self.base_layer((x * scale).to(x.dtype))
        h = self.base_layer(x)  # (…, d_out)
        return (h * scale).to(h.dtype)

    def merged(self, name):
        merged = {"weight": self.weight * self.kept(name)["ia3_l"]}  # as linhas, na saída; as colunas, na entrada
        if not self.on_input[name] and self.bias is not None:
            merged["bias"] = self.bias * self.ia3_l[name]
        return merged
