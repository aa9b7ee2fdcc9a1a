"""Adaptadores em série: um gargalo estreito depois de um sub-bloco (Houlsby et al., 2019; Pfeiffer et al., 2021).

      x  (…, d) ─────────────┐
      │                      │
    atenção ou feed-forward  │
      │                      │
      u  (…, d) ───────┐     │       u já com o dropout do modelo
      │                │     │
      W_down  (m, d)   │     │       m = d/16: o gargalo
      σ                │     │
      W_up    (d, m)   │     │       quase zero: no começo, quase nada muda
      │                │     │
      + ───────────────┘     │       u + W_up σ(W_down u)      §2.1 de Houlsby
      │                      │
      + ─────────────────────┘       a soma que o modelo já fazia; depois dela, em BERT, a norma

    f(h) = W_up σ(W_down h + b_down) + b_up          2md + d + m números por gargalo

    Houlsby     y = LN(x + u + f(u))                 depois da atenção e do feed-forward; treinam também as normas
    Pfeiffer    y = LN(x + u + f(LN(x + u)))         só depois do feed-forward; a mesma LN, congelada, duas vezes

LLaMA e T5 normalizam antes do sub-bloco, e não depois da soma: neles, as duas linhas valem sem LN. A conta, nos três, é
a da biblioteca `adapters`, que os autores do segundo artigo fizeram.

A função σ no meio separa um adaptador de LoRA: nenhum peso da base faz a conta dele, e por isso ele não se funde.
"""

from dataclasses import dataclass
from threading import get_ident
from typing import ClassVar
from weakref import WeakValueDictionary

import torch
from torch import nn
from torch.nn import functional as F

from ftcourse import modules
from ftcourse.bitfit import BitFitConfig
from ftcourse.files import choose
from ftcourse.layers import AdapterLayer, bare, wrap

NON_LINEARITIES = {"swish": F.silu, "relu": F.relu, "gelu": F.gelu}
# Pelo final do nome da última camada linear de um sub-bloco: o módulo de onde sai u, já com o dropout, se há um; e, no
# feed-forward, o que recebe o x que se soma a u.
SURROUNDINGS = {
    "attention.output.dense": ("attention.output.dropout", None),
    "output.dense": ("output.dropout", "intermediate.dense"),
    "o_proj": ("o_proj", None),
    "mlp.down_proj": ("mlp.down_proj", "post_attention_layernorm"),
    "SelfAttention.o": ("dropout", None),
    "EncDecAttention.o": ("dropout", None),
    "DenseReluDense.wo": ("dropout", "layer_norm"),
}
CROSS = ("EncDecAttention.o", "crossattention.output.dense")


def surroundings(end: str) -> list:
    """Os nomes do módulo de onde sai u e daquele em que entra x, em volta da camada de nome `end`.

    Levanta UnsuitableModel se não os conhece.
    """
    if not (ending := next((ending for ending in SURROUNDINGS if end.endswith(f".{ending}")), None)):
        raise modules.UnsuitableModel(f"Não sei onde pôr um adaptador depois de {end}: só em BERT, LLaMA e T5.")
    return [part and end.removesuffix(ending) + part for part in SURROUNDINGS[ending]]


@dataclass(frozen=True)
class BottleneckConfig:
    """O que os dois adaptadores têm em comum. Levanta ValueError se um ajuste não faz sentido.

    reduction_factor: quantas vezes o gargalo é mais estreito que o modelo, m = d // reduction_factor, no mínimo 1.
    non_linearity: o σ, uma de NON_LINEARITIES. init_std: o desvio da normal, truncada em dois desvios, de que saem
    W_down e W_up; os vieses começam em zero. Houlsby (§3.6) usa 0,01 e vê o resultado piorar bem acima disso; a
    biblioteca `adapters` usa 0,02, sem truncar. modules_to_save: o que mais treina, inteiro; None é a cabeça da tarefa.
    """

    needed_in_file: ClassVar[tuple] = ("reduction_factor", "non_linearity")
    unmergeable: ClassVar[str] = "entre W_down e W_up há uma função que não é linear, e nenhum peso faz a conta dela"
    changes_on_arrival: ClassVar[str] = "W_down e W_up são quase zero, e não zero"

    reduction_factor: float = 16
    non_linearity: str = "swish"
    init_std: float = 0.01
    modules_to_save: tuple[str, ...] | None = None

    def __post_init__(self):
        if not modules.is_number(self.reduction_factor) or self.reduction_factor < 1:
            raise ValueError(
                f"reduction_factor={self.reduction_factor!r}: é um número a partir de 1, quantas vezes o gargalo é "
                "mais estreito que o modelo. Comece por 16."
            )
        choose("a função de um adaptador, non_linearity,", self.non_linearity, NON_LINEARITIES)
        if not modules.is_number(self.init_std) or self.init_std <= 0:
            raise ValueError(
                f"init_std={self.init_std!r}: é um número maior que zero; com W_down e W_up em zero, só um viés "
                "treinaria. Comece por 0.01."
            )


@dataclass(frozen=True)
class HoulsbyConfig(BottleneckConfig):
    """Os ajustes do adaptador de Houlsby: um gargalo depois da atenção e outro depois do feed-forward.

    Os de BottleneckConfig, e: train_norms: se as normas do modelo treinam também, como no artigo (§2.1).
    cross_adapter: se a atenção cruzada de T5, que o artigo não tem, também ganha um.

    O artigo não diz qual é σ: fica a da biblioteca; o código dos autores usa GELU. Para ter a DoubleSeqBnConfig dela,
    train_norms=False e cross_adapter=False.
    """

    peft_type: ClassVar[str] = "HOULSBY"

    train_norms: bool = True
    cross_adapter: bool = True

    def __post_init__(self):
        super().__post_init__()
        for setting in ("train_norms", "cross_adapter"):
            if not isinstance(given := getattr(self, setting), bool):
                raise ValueError(f"{setting}={given!r}: é True ou False.")

    def inject(self, model: nn.Module, name: str) -> None:
        """Põe um gargalo na saída de cada sub-bloco e libera as normas.

        Levanta UnsuitableModel se não reconhece os sub-blocos do modelo.
        """
        ends = modules.by_role(model, "output", "down")
        ends = {end: linear for end, linear in ends.items() if self.cross_adapter or not end.endswith(CROSS)}
        places = {surroundings(end)[0]: linear for end, linear in ends.items()}
        if self.train_norms:
            BitFitConfig("norm").inject(model, name)
        for u, linear in places.items():
            wrap(model, u, HoulsbyLayer).add(name, self, linear)


@dataclass(frozen=True)
class PfeifferConfig(BottleneckConfig):
    """Os ajustes do adaptador de Pfeiffer, os de BottleneckConfig: um gargalo por bloco, depois do feed-forward."""

    peft_type: ClassVar[str] = "PFEIFFER"

    non_linearity: str = "relu"

    def inject(self, model: nn.Module, name: str) -> None:
        """Põe um gargalo na saída de cada feed-forward, que lê também o que entra nele.

        Levanta UnsuitableModel se não reconhece os feed-forwards do modelo.
        """
        for u, x, linear in [(*surroundings(end), m) for end, m in modules.by_role(model, "down").items()]:
            entrance, block = wrap(model, x, Entrance).add(name), bare(model.get_submodule(u.rpartition(".")[0]))
            wrap(model, u, PfeifferLayer).add(name, self, linear, entrance, block)


class Bottleneck(nn.Module):
    """f(h) = W_up σ(W_down h + b_down) + b_up, em float32. linear: a camada cuja saída, de largura d, ele muda."""

    def __init__(self, config, linear):
        super().__init__()
        d, plan = linear.out_features, {"device": linear.weight.device, "dtype": torch.float32}
        m = max(1, int(d // config.reduction_factor))
        self.adapter_down, self.adapter_up = nn.Linear(d, m, **plan), nn.Linear(m, d, **plan)
        self.non_linearity = NON_LINEARITIES[config.non_linearity]
        for layer in (self.adapter_down, self.adapter_up):
            nn.init.trunc_normal_(layer.weight, std=config.init_std, a=-2 * config.init_std, b=2 * config.init_std)
            nn.init.zeros_(layer.bias)

    def forward(self, h):
        h = h.to(self.adapter_down.weight.dtype)  # (…, d)
        return self.adapter_up(self.non_linearity(self.adapter_down(h)))


class HoulsbyLayer(AdapterLayer):
    """O módulo de onde sai o u de um sub-bloco, com um gargalo depois dele: u + f(u)."""

    def __init__(self, base_layer):
        super().__init__(base_layer)
        self.bottlenecks = nn.ModuleDict()  # {nome: Bottleneck}

    def add(self, name, config, linear):
        """Um gargalo novo. Devolve a camada."""
        self.bottlenecks[name] = Bottleneck(config, linear)
        return self

    def forward(self, x):
        u = self.base_layer(x)  # (…, d)
        if (name := self.acting) is None:
            return u
        return (u + self.bottlenecks[name](self.read(u))).to(u.dtype)

    def read(self, u):
        """O que o gargalo lê: (…, d)."""
        return u


class PfeifferLayer(HoulsbyLayer):
    """O mesmo, mas o gargalo lê o que o bloco responderia sem ele: u + f(LN(x + u)), sem LN em LLaMA e T5."""

    def add(self, name, config, linear, entrance, block):
        """Um gargalo novo, que acha x em `entrance` e, em BERT, a norma em `block`. Devolve a camada."""
        self.around = entrance, block  # numa tupla, que torch não toma por partes desta camada
        return super().add(name, config, linear)

    def read(self, u):
        entrance, block = self.around
        h = u + entrance.take()
        return block.LayerNorm(h) if hasattr(block, "LayerNorm") else h


class Entrance(AdapterLayer):
    """O módulo em que entra o x que o modelo vai somar a u: deixa-o passar e diz qual foi ao gargalo que o lê.

    Duas contas podem correr ao mesmo tempo, cada uma na sua *thread*: cada uma acha aqui o seu x, que só ela mantém
    vivo. Quando acaba, ou se é interrompida, não resta nada.
    """

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.readers = nn.ModuleDict()  # {nome: nada que treine}
        self.passing: WeakValueDictionary[int, torch.Tensor] = WeakValueDictionary()  # {o número da thread: x}

    def add(self, name: str) -> "Entrance":
        """Passa a dizer x quando o adaptador `name` age. Devolve a camada."""
        self.readers[name] = nn.Identity()
        return self

    def forward(self, x):
        if self.acting is not None:
            self.passing[get_ident()] = x
        return self.base_layer(x)

    def take(self) -> torch.Tensor:
        """O x que passou nesta conta."""
        return self.passing.pop(get_ident())

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key != "passing"}  # as contas em curso não vão

    def __setstate__(self, state):
        super().__setstate__(state)
        self.passing: WeakValueDictionary[int, torch.Tensor] = WeakValueDictionary()
