"""As técnicas pelo nome: aplicar, trocar de adaptador, desligar, fundir, gravar e ler.

    methods.apply(model, "lora", r=8, lora_alpha=16)     # ou methods.apply(model, LoraConfig(r=8))
    training.train(model, tokenizer, task, lr=2e-3, steps=200)
    methods.save(model, "minha-lora/")

Um modelo pode ter vários adaptadores, cada um com um nome; age um por vez. Uma técnica nova é um arquivo como lora.py
e uma linha em METHODS.
"""

import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ftcourse import interchange, layers, modules
from ftcourse.bitfit import BitFitConfig
from ftcourse.bottleneck import HoulsbyConfig, PfeifferConfig
from ftcourse.dora import DoraConfig
from ftcourse.files import choose
from ftcourse.ia3 import IA3Config
from ftcourse.lora import LoraConfig
from ftcourse.pissa import PissaConfig
from ftcourse.prefix import PrefixTuningConfig
from ftcourse.prompts import PromptTuningConfig


@dataclasses.dataclass(frozen=True)
class FullConfig:
    """Ajuste completo: todos os parâmetros treinam, e a base muda com eles."""

    peft_type: ClassVar[str] = "FULL"
    modules_to_save: tuple[str, ...] = ()

    def inject(self, model: nn.Module, name: str) -> None:
        """Nada a envolver: o que treina já está no modelo. Levanta ValueError se a base está em 4 bits."""
        if modules.quantized(model):
            raise ValueError("Os pesos desta base estão em 4 bits, que não treinam: carregue-a sem quantizar.")


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """Só a cabeça: o modelo pré-treinado fica congelado, e treina inteiro o que a tarefa acrescentou a ele."""

    peft_type: ClassVar[str] = "HEAD"
    modules_to_save: tuple[str, ...] | None = None

    def inject(self, model: nn.Module, name: str) -> None:
        """Nada a envolver além da cabeça. Levanta ValueError se o modelo não tem uma."""
        if not self.modules_to_save:
            raise modules.UnsuitableModel("Este modelo não tem uma cabeça para treinar: carregue-o com a tarefa.")


METHODS = {
    "full": FullConfig,
    "head": HeadConfig,
    "lora": LoraConfig,
    "dora": DoraConfig,
    "pissa": PissaConfig,
    "ia3": IA3Config,
    "bitfit": BitFitConfig,
    "houlsby": HoulsbyConfig,
    "pfeiffer": PfeifferConfig,
    "prompt": PromptTuningConfig,
    "prefix": PrefixTuningConfig,
}
RESERVED = {*dir(nn.ModuleDict()), *dir(nn.ParameterDict())}  # nomes como "keys", que torch recusa como chave


def configure(method: Any, **settings: Any) -> Any:
    """Os ajustes de uma técnica: de um nome de METHODS, ou de um objeto pronto. Levanta ValueError se não a conhece."""
    ready = isinstance(method, tuple(METHODS.values()))
    kind = type(method) if ready else METHODS[choose("a técnica", method, METHODS)]
    for setting in settings:
        choose(f"o ajuste de {kind.__name__} chamado", setting, [field.name for field in dataclasses.fields(kind)])
    return dataclasses.replace(method, **settings) if ready else kind(**settings)


def apply(model: nn.Module, method: Any, name: str = "default", *, seed: int = 0, **settings: Any) -> nn.Module:
    """Congela a base, acrescenta o que a técnica treina e devolve o mesmo modelo, com o adaptador `name` ativo.

    method: um nome de METHODS, com os ajustes como argumentos, ou um objeto como LoraConfig. O mesmo `name` de novo
    recomeça o adaptador; outro nome acrescenta mais um. seed: de onde saem os números sorteados, sem mexer no gerador
    global. Com "full" a própria base treina: para recomeçar, carregue o modelo outra vez.

    Levanta ValueError se não conhece a técnica ou um ajuste, ou se o modelo não tem o que eles pedem. Nesse caso, o
    modelo fica como estava.
    """
    config = configure(method, **settings)
    if not isinstance(name, str) or not name.isidentifier() or name in RESERVED:
        raise ValueError(
            f"O nome de um adaptador é uma palavra só, de letras, números e _, que torch não use; veio {name!r}."
        )
    others = {other: kind for other, kind in adapters(model).items() if other != name}
    if others and FullConfig in map(type, (config, *others.values())):
        raise ValueError(
            "O ajuste completo muda a base e não convive com outro adaptador, e o modelo tem "
            f"{', '.join(map(repr, others))}. Carregue o modelo outra vez."
        )
    config = dataclasses.replace(config, modules_to_save=modules.whole(model, config.modules_to_save))
    merged = [layer for _, layer in layers.wrapped(model) if layer.unmerged is not None]
    for layer in merged:
        layer.unmerge()
    old = [entry for _, layer in layers.wrapped(model) for entry in layer.remove(name)]  # recomeça sem nada do anterior
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            config.inject(model, name)
        except BaseException:
            for values, value in old:
                values[name] = value
            for layer in merged:
                layer.merge()
            raise
    train_whole(model, config.modules_to_save, name)
    layers.unwrap(model)
    model.adapters = {**adapters(model), name: config}
    return activate(model, name)


def train_whole(model: nn.Module, names: Iterable[str], adapter: str) -> None:
    """Dá a um adaptador a sua cópia dos módulos que treinam inteiros; tabelas de um peso só continuam a ter um só."""
    tables: dict[int | None, layers.TrainedCopy] = {}
    for name, module in modules.leaves(model, names).items():
        shared = id(module.weight) if isinstance(module, nn.Embedding) else None
        layer = layers.wrap(model, name, layers.TrainedCopy).add(adapter, twin=tables.get(shared))
        if shared:
            tables[shared] = layer


def adapters(model: nn.Module) -> dict:
    """Os adaptadores de um modelo, na ordem em que chegaram: {nome: ajustes}."""
    return getattr(model, "adapters", {})


def active(model: nn.Module) -> str:
    """O nome do adaptador que age. Levanta ValueError se o modelo não tem nenhum."""
    if not adapters(model):
        raise ValueError('O modelo não tem adaptador: comece por methods.apply(model, "lora").')
    return model.active_name


def tensors(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """O que um adaptador treina, com os nomes que peft lhe dá num arquivo, sem o começo: {nome: Parameter}."""
    if isinstance(adapters(model)[choose("o adaptador", name, adapters(model))], FullConfig):
        return dict(model.named_parameters())
    return named(model, lambda layer: layer.tensors(name))


def saved(model: nn.Module, name: str) -> dict[str, torch.Tensor]:
    """O que vai para o arquivo de um adaptador: o que treina e, congelado, o que mais ele pede. {nome: tensor}

    São os próprios tensores, ou vistas deles: o que se escreve neles fica no modelo.
    """
    return tensors(model, name) | named(model, lambda layer: layer.kept(name) if name in layer.names() else {})


def named(model: nn.Module, held: Callable[[layers.AdapterLayer], dict]) -> dict[str, torch.Tensor]:
    """O que `held` diz que cada camada tem, com os nomes que peft lhe dá num arquivo, sem o começo: {nome: tensor}."""
    return {
        key if layer.of_the_model(key) else f"{path}.{key}": tensor
        for path, layer in layers.wrapped(model)
        for key, tensor in held(layer).items()
    }


def activate(model: nn.Module, name: str) -> nn.Module:
    """Põe um adaptador para agir e treinar, no lugar do que estava. Devolve o modelo."""
    trained = tensors(model, name).values()
    for _, layer in layers.wrapped(model):
        layer.unmerge()
        layer.switch(name)
    model.active_name = name
    model.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    return model


@contextmanager
def disabled(model: nn.Module) -> Iterator[nn.Module]:
    """Dentro do `with`, o modelo responde como a base: sem adaptador, fundido ou não, e com a cabeça que tinha."""
    name, held = active(model), [layer for _, layer in layers.wrapped(model)]
    if isinstance(adapters(model)[name], FullConfig):
        raise ValueError("O ajuste completo mudou a própria base, que não volta: carregue o modelo outra vez.")
    before = [(layer, layer.active, layer.unmerged is not None) for layer in held]
    for layer in held:
        layer.unmerge()
        layer.switch(None)
    try:
        yield model
    finally:
        for layer, was_active, was_merged in before:
            layer.switch(was_active)
            if was_merged:
                layer.merge()


def merge(model: nn.Module) -> nn.Module:
    """Soma o adaptador ativo aos pesos da base. Enquanto estiver fundido, nada treina. Devolve o modelo.

    Levanta ValueError, sem mudar nada, se a técnica não se funde, ou não diz como, ou se a base está em 4 bits.
    """
    name, held = active(model), [layer for _, layer in layers.wrapped(model)]
    if reason := getattr(adapters(model)[name], "unmergeable", None):
        raise ValueError(f"Este adaptador não se funde: {reason}. Guarde-o à parte, com methods.save.")
    if silent := {type(layer).__name__ for layer in held if layer.tensors(name) and not layer.merges()}:
        raise ValueError(f"{min(silent)} não diz como se funde (merged), nem os ajustes por que não (unmergeable).")
    if any(name in layer.names() and modules.quantized(layer.bare) for layer in held):
        raise ValueError(
            "Esta base está em 4 bits: somado a ela e arredondado de novo, um ΔW pequeno quase se perde. Guarde o "
            "adaptador à parte, com methods.save, ou desfaça antes a quantização, com qlora.dequantize_model(model)."
        )
    for layer in held:
        layer.merge()
    model.requires_grad_(False)
    return model


def unmerge(model: nn.Module) -> nn.Module:
    """Desfaz `merge`: a base volta a ter os mesmos bits, e o adaptador, a treinar. Devolve o modelo."""
    return activate(model, active(model))


def merge_and_unload(model: nn.Module) -> nn.Module:
    """O modelo de transformers com o adaptador ativo já somado aos pesos, e mais nada. Devolve o mesmo objeto."""
    for _, layer in layers.wrapped(merge(model)):
        layer.unmerged = None
        for name in layer.names():
            layer.remove(name)
    layers.unwrap(model)
    del model.adapters, model.active_name
    return model


def remove(model: nn.Module, name: str) -> nn.Module:
    """Tira um adaptador do modelo; se era o ativo, o último que resta passa a agir. Devolve o modelo."""
    choose("o adaptador", name, adapters(model))
    unmerge(model)
    for _, layer in layers.wrapped(model):
        layer.remove(name)
        layer.switch(layer.active)
    layers.unwrap(model)
    model.adapters = {n: config for n, config in adapters(model).items() if n != name}
    if model.adapters and model.active_name == name:
        activate(model, list(model.adapters)[-1])
    return model


def save(model: nn.Module, folder: str | Path, name: str | None = None) -> None:
    """Grava um adaptador, o ativo se `name` não vem, em `folder`, no formato de peft: ver `interchange`.

    `target_modules` vai por extenso, porque "all-linear" de peft inclui a cabeça. Vai também um resumo da base em que o
    adaptador treinou, que `load` confere.
    """
    name = active(model) if name is None else name
    values, config = saved(model, name), adapters(model)[name]
    if hasattr(config, "target_modules"):
        config = dataclasses.replace(config, target_modules=modules.targets(model, name))
    if hasattr(config, "export"):
        config, values = config.export(model, name, values)
    base = None if isinstance(config, FullConfig) else modules.fingerprint(model)
    interchange.write(folder, config, values, base)


def load(model: nn.Module, folder: str | Path, name: str = "default") -> nn.Module:
    """Põe no modelo, com o nome `name` e já ativo, um adaptador que `save` ou peft gravou. Devolve o modelo.

    Levanta FileNotFoundError se falta um arquivo, OSError se está cortado e ValueError se não é deste modelo: nesses
    casos o modelo fica como estava. Avisa, com `warnings`, se a base não é aquela em que o adaptador treinou ou se uma
    parte sorteada da cabeça não veio no arquivo.
    """
    config, values, base = interchange.read(folder, METHODS.values())
    if hasattr(config, "restore"):
        config, values = config.restore(values)
    with torch.device("meta"):  # o mesmo modelo, sem pesos: as formas se conferem sem tocar no verdadeiro
        blank = type(model)(copy.deepcopy(model.config))
    known = [module for module, _ in layers.walk(blank, every_name=True)]
    if isinstance(listed := config.modules_to_save or (), tuple):  # peft lista também cabeças que o modelo não tem
        config = dataclasses.replace(config, modules_to_save=tuple(m for m in listed if modules.ending_in(known, m)))
    expected = saved(apply(blank, config), "default")
    values = interchange.reconcile(folder, values, expected, {n: p for n, _, p in modules.base_parameters(model)})
    interchange.check(folder, values, expected)
    apply(model, config, name)
    with torch.no_grad():
        for key, tensor in saved(model, name).items():
            tensor.copy_(values[key])
    if base and base != modules.fingerprint(model):
        warnings.warn(
            f"O adaptador de {folder} treinou sobre outros pesos. Confira se o modelo é o mesmo e se um adaptador já "
            "não foi somado a ele.",
            stacklevel=2,
        )
    if absent := [part for part in modules.head(model) if not any(key.startswith(f"{part}.") for key in values)]:
        warnings.warn(
            f"O adaptador de {folder} não traz {', '.join(absent)}. Se o pré-treino também não, essa parte "
            "está sorteada, e as respostas não são as do treino.",
            stacklevel=2,
        )
    return model
