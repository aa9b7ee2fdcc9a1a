"""BitFit: treinam só os vieses, e a cabeça (Ben Zaken et al., 2022).

    camada linear     h = W x + b                        W congelado, (d_out, d_in); treina b, (d_out)      §3
    LayerNorm         h = g ⊙ (x − média)/desvio + b     g congelado; treina b

Em BERT-base são 102.912 de 109,5 milhões: 0,094%. Os de K não mudam nenhuma resposta: somam o mesmo a todos os pesos de
uma linha da atenção, e o softmax não o vê.

LLaMA e T5 não têm nenhum viés, nem nas normas, e o que em T5 se chama relative_attention_bias é outra coisa: a tabela
das distâncias. Restam duas saídas: pôr nas camadas lineares um viés, que começa em zero, ou treinar as normas
(LN-tuning, Qi et al., 2022).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.func import functional_call

from ftcourse import modules
from ftcourse.files import choose
from ftcourse.modules import AdapterLayer

TRAINS = ("bias", "new_bias", "norm")


@dataclass(frozen=True)
class BitFitConfig:
    """Os ajustes de BitFit. Levanta ValueError se não conhece o que treinar.

    trains: "bias", os vieses que o modelo tem; "new_bias", também um novo, em zero, em cada camada linear sem viés;
    "norm", o que as normas têm, ganho e viés. Sempre no modelo pré-treinado: a cabeça é de modules_to_save.
    modules_to_save: o que mais treina, inteiro; None é a cabeça da tarefa.
    """

    peft_type: ClassVar[str] = "BITFIT"

    trains: str = "bias"
    modules_to_save: tuple[str, ...] | None = None

    def __post_init__(self):
        choose("o que treinar em BitFit,", self.trains, TRAINS)

    def inject(self, model, name):
        """Envolve os módulos escolhidos e dá a cada um a cópia do que treina; devolve as camadas.

        Levanta UnsuitableModel se o modelo não tem vieses.
        """
        body, closed = set(model.base_model.modules()), tuple(f"{n}." for n in self.modules_to_save or ())
        outer = {n: m for n, m in modules.named_outer(model).items() if m in body and not f"{n}.".startswith(closed)}
        if self.trains == "norm":
            chosen = {n: (*with_bias(m), "weight") for n, m in outer.items() if is_norm(m)}
        else:
            chosen = {n: ("bias",) for n, m in outer.items() if with_bias(m)}
        if self.trains == "new_bias":
            chosen |= dict.fromkeys(outer.keys() & modules.find(model, "all-linear").keys(), ("bias",))
        if not chosen:
            raise modules.UnsuitableModel(
                "Este modelo não tem vieses para treinar: LLaMA e T5 foram feitos sem eles, e o "
                'relative_attention_bias de T5 não é um. Use trains="new_bias", que põe nas camadas lineares um viés '
                'que começa em zero, ou trains="norm", que treina as normas.'
            )
        return [modules.wrap(model, n, PartlyTrained).add(name, chosen[n]) for n in outer if n in chosen]


def with_bias(module):
    """("bias",) se o módulo tem um viés que é um parâmetro; senão, ()."""
    return ("bias",) if isinstance(getattr(module, "bias", None), nn.Parameter) else ()


def is_norm(module):
    """Se o módulo é uma norma: só elas têm um peso de uma dimensão, o ganho."""
    return isinstance(weight := getattr(module, "weight", None), nn.Parameter) and weight.ndim == 1


class PartlyTrained(AdapterLayer):
    """Um módulo de que treinam alguns parâmetros: cada adaptador tem a sua cópia deles, e os originais não mudam."""

    def __init__(self, base_layer):
        super().__init__(base_layer)
        self.copies = nn.ModuleDict()  # {nome: {"bias": (d_out)}}

    def add(self, name, keys):
        """Uma cópia dos parâmetros `keys`, em float32; um viés que não havia é zero. Devolve a camada."""
        self.copies[name] = nn.ParameterDict()
        for key in keys:
            if (value := getattr(self.bare, key)) is None:
                value = torch.zeros(self.out_features, device=self.weight.device)
            self.copies[name][key] = nn.Parameter(value.detach().to(torch.float32, copy=True))
        return self

    def forward(self, x):
        if (name := self.acting) is None:
            return self.base_layer(x)
        values = {key: value.to(x.dtype) for key, value in self.tensors(name).items()}
        return functional_call(self.bare, values, x)  # a conta do próprio módulo, com estes valores no lugar dos seus

    def merged(self, name):
        return {key: value.clone() for key, value in self.tensors(name).items()}
