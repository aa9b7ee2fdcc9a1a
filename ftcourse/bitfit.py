"""BitFit: treinam só os vieses, e a cabeça (Ben Zaken et al., 2022).

    camada linear     h = W x + b                        W congelado, (d_out, d_in); treina b, (d_out)      §3
    LayerNorm         h = g ⊙ (x − média)/desvio + b     g congelado; treina b

No BERT-base são 102.912 de 109,5 milhões: 0,094%. Os de K não mudam nenhuma resposta: somam o mesmo a todos os pesos de
uma linha da atenção, e o softmax não o vê.

O LLaMA e o T5 não têm nenhum viés, nem nas normas, e o que no T5 se chama relative_attention_bias é outra coisa: a
tabela das distâncias. Restam duas saídas: pôr nas camadas lineares um viés, que começa em zero, ou treinar as normas
(LN-tuning, Qi et al., 2022).
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ftcourse import modules
from ftcourse.files import choose
from ftcourse.layers import TrainedCopy, wrap

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

    def inject(self, model: nn.Module, name: str) -> None:
        """Envolve os módulos escolhidos e dá a cada um a cópia do que treina.

        Levanta UnsuitableModel se o modelo não tem vieses.
        """
        pretrained = {*modules.named(model.base_model).values()}
        inner = {n: m for n, m in modules.named(model).items() if m in pretrained}
        if self.trains == "norm":
            chosen = {n: (*with_bias(m), "weight") for n, m in inner.items() if modules.is_norm(m)}
        else:
            chosen = {n: ("bias",) for n, m in inner.items() if with_bias(m)}
        if self.trains == "new_bias":
            chosen |= dict.fromkeys(modules.find(model, "all-linear"), ("bias",))
        if not chosen:
            raise modules.UnsuitableModel(
                "Este modelo não tem vieses para treinar: o LLaMA e o T5 foram feitos sem eles, e o "
                'relative_attention_bias do T5 não é um. Use trains="new_bias", que põe nas camadas lineares um viés '
                'que começa em zero, ou trains="norm", que treina as normas.'
            )
        for target in inner:
            if target in chosen:
                wrap(model, target, TrainedCopy).add(name, chosen[target])


def with_bias(module: nn.Module) -> tuple[str, ...]:
    """("bias",) se o módulo tem um viés que é um parâmetro; senão, ()."""
    return ("bias",) if isinstance(getattr(module, "bias", None), nn.Parameter) else ()
