"""O envoltório: uma camada do modelo, que fica como está, e em volta dela o que cada adaptador treina.

    layers.wrap(model, "bert.pooler.dense", LoraLayer)   # o módulo passa a ser LoraLayer(Linear(…))
    layers.wrapped(model)                                # [("bert.pooler.dense", LoraLayer(…)), …]

    classifier   →   LoraLayer ( TrainedCopy ( Linear ) )
                     de "um"     de "dois"     a base

Em volta de um módulo, os envoltórios formam uma corrente, um para cada tipo de adaptador. Nenhum muda o nome de nada:
`walk` anda pelo modelo como se não estivessem ali, também quando um deles envolve um bloco inteiro.
"""

import copy
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import nn


class AdapterLayer(nn.Module):
    """Um módulo em volta de `base_layer`, que continua a ser o mesmo, com o que cada adaptador treina.

    Cada subclasse guarda os seus parâmetros em `nn.ParameterDict`s ou, se são módulos, em `nn.ModuleDict`s, com o nome
    do adaptador como chave; o que não treina, nos buffers de um módulo; ajustes, num dicionário. Age no máximo um
    adaptador por vez, `active`; sem nenhum, a resposta é a da base. O que se pergunta ao envoltório e ele não tem,
    como `weight` e `in_features`, é a base que responde.
    """

    in_file: ClassVar[dict[str, str]] = {}  # {nome de um ParameterDict: o que peft lhe dá num arquivo}, se diferem

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.active: str | None = None
        self.unmerged: dict | None = None  # {nome: parâmetro da base}, enquanto outros estão no seu lugar
        self.hooks: list = []  # os ganchos que a camada pôs no modelo, e que saem com o último adaptador dela

    @property
    def bare(self) -> nn.Module:
        """O módulo original, sem nenhum envoltório."""
        return bare(self.base_layer)

    @property
    def acting(self) -> str | None:
        """O nome do adaptador que entra na conta: None se nenhum está ativo, ou se o ativo já está na base."""
        return self.active if self.unmerged is None else None

    def switch(self, name: str | None) -> None:
        """Põe para agir o adaptador `name`; nenhum, se a camada não o tem."""
        self.active = name if name in self.names() else None

    def own(self) -> dict[str, nn.Module]:
        """Os dicionários em que esta camada guarda o que treina de cada adaptador: {atributo: {nome: …}}."""
        return {k: child for k, child in self.named_children() if isinstance(child, (nn.ParameterDict, nn.ModuleDict))}

    def tensors(self, name: str) -> dict[str, nn.Parameter]:
        """Os parâmetros de um adaptador, com os nomes que peft lhes dá num arquivo: {"lora_A.weight": …}.

        Os de um módulo têm os nomes que têm nele. Levanta ValueError se dois ficam com o mesmo.
        """
        found: dict[str, nn.Parameter] = {}
        for key, values in self.own().items():
            if name not in values:
                continue
            single = isinstance(values, nn.ParameterDict)
            new = {self.in_file.get(key, key): values[name]} if single else dict(values[name].named_parameters())
            if twice := found.keys() & new.keys():
                raise ValueError(
                    f"{type(self).__name__} guarda dois parâmetros com o nome {min(twice)}, e só um iria para o "
                    "arquivo. Ponha os dois módulos dentro de um só."
                )
            found |= new
        return found

    def kept(self, name: str) -> dict[str, torch.Tensor]:
        """O que mais vai com um adaptador para o arquivo: tensores congelados, ou os que treinam, com outra forma."""
        return {}

    def of_the_model(self, key: str) -> bool:
        """Se um tensor é do modelo inteiro, e o nome dele no arquivo não leva o caminho desta camada."""
        return False

    def names(self) -> list[str]:
        """Os nomes dos adaptadores que esta camada tem."""
        return list(dict.fromkeys(name for values in self.own().values() for name in values))

    def remove(self, name: str) -> list[tuple]:
        """Esquece um adaptador, se a camada o tem, e devolve o que era dele: [(dicionário, valor), …]."""
        plain = [values for key, values in vars(self).items() if isinstance(values, dict) and not key.startswith("_")]
        return [(values, values.pop(name)) for values in (*self.own().values(), *plain) if name in values]

    def merges(self) -> bool:
        """Se a camada diz como o que ela treina entra na base."""
        return type(self).merged is not AdapterLayer.merged

    @torch.no_grad()
    def merge(self) -> None:
        """Põe na base os parâmetros com o adaptador ativo dentro. Uma camada já fundida fica como está.

        Os da base não são alterados: ficam guardados, e `unmerge` os devolve bit a bit (subtrair ΔW de W + ΔW deixaria
        um arredondamento).
        """
        if self.acting and (merged := self.merged(self.acting)):
            dtype, self.unmerged = self.weight.dtype, {key: getattr(self.bare, key) for key in merged}
            for key, value in merged.items():  # um Parameter novo: outro módulo pode usar o mesmo peso
                setattr(self.bare, key, nn.Parameter(value.to(dtype), requires_grad=False))

    def unmerge(self) -> None:
        """Devolve à base os parâmetros que ela tinha."""
        for key, original in (self.unmerged or {}).items():
            setattr(self.bare, key, original)
        self.unmerged = None

    def merged(self, name: str) -> dict[str, torch.Tensor]:
        """Os parâmetros da base que um adaptador muda, já com ele: {"weight": (d_out, d_in)}; {} se não se funde."""
        return {}

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer" or name.startswith("__"):  # quem copia pergunta antes que haja uma base
                raise
            return getattr(self.base_layer, name)


class TrainedCopy(AdapterLayer):
    """Um módulo de que treinam os parâmetros, ou alguns deles: cada adaptador tem a sua cópia, e os originais ficam.

    Uma camada linear de que se treina o peso, como a da cabeça, faz a conta no tipo da cópia, float32. O resto (uma
    norma, uma tabela de embeddings, um viés) responde no tipo da base, que o módulo seguinte espera.
    """

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.copies = nn.ModuleDict()  # {nome: {"bias": (d_out)}}

    def add(self, name: str, keys: tuple[str, ...] | None = None, twin: "TrainedCopy | None" = None) -> "TrainedCopy":
        """Uma cópia dos parâmetros `keys`, ou de todos, em float32; um viés que não havia é zero. Devolve a camada.

        twin: outra camada, com os mesmos parâmetros na base: a cópia também é a mesma.
        """
        if twin is not None:
            self.copies[name] = twin.copies[name]
            return self
        self.copies[name] = nn.ParameterDict()
        for key in (n for n, _ in self.bare.named_parameters(recurse=False)) if keys is None else keys:
            if (value := getattr(self.bare, key)) is None:
                value = torch.zeros(self.out_features, device=self.weight.device)
            self.copies[name][key] = nn.Parameter(value.detach().to(torch.float32, copy=True))
        return self

    def forward(self, *inputs, **options):
        if (name := self.acting) is None:
            return self.base_layer(*inputs, **options)
        values, (x, *rest) = dict(self.copies[name]), inputs
        if "weight" in values and hasattr(self.bare, "in_features"):
            x = x.to(values["weight"].dtype)
        else:
            dtype = x.dtype if x.is_floating_point() else self.weight.dtype  # tokens são inteiros
            values = {key: value.to(dtype) for key, value in values.items()}
        twin = copy.copy(self.bare)  # a conta do próprio módulo; nele nada se troca, e outra conta pode estar em curso
        twin._parameters = {**self.bare._parameters, **values}
        return twin(x, *rest, **options)

    def merged(self, name: str) -> dict[str, torch.Tensor]:
        return {key: value.clone() for key, value in self.copies[name].items()}


def bare(module: nn.Module) -> nn.Module:
    """O módulo original dentro dos envoltórios; ele mesmo, se não há nenhum."""
    while isinstance(module, AdapterLayer):
        module = module.base_layer
    return module


def chain(module: nn.Module) -> Iterator[AdapterLayer]:
    """Os envoltórios de um módulo, de fora para dentro."""
    while isinstance(module, AdapterLayer):
        yield module
        module = module.base_layer


def walk(model: nn.Module, every_name: bool = False) -> Iterator[tuple[str, nn.Module]]:
    """Os módulos de um modelo, com os nomes que teriam sem adaptador nenhum: (nome, módulo), o de fora se envolvido.

    O que um adaptador treina não aparece. every_name: o módulo que está em dois lugares vem com os dois nomes.
    """
    seen: set[nn.Module] = set()

    def below(module, name):
        if module in seen and not every_name:
            return
        seen.add(module)
        yield name, module
        for key, child in bare(module)._modules.items():
            if child is not None:
                yield from below(child, f"{name}.{key}" if name else key)

    return below(model, "")


def wrapped(model: nn.Module) -> list[tuple[str, AdapterLayer]]:
    """Os envoltórios de um modelo, com o nome do que envolvem; o que está em volta de outro vem antes dele."""
    return [(name, layer) for name, module in walk(model) for layer in chain(module)]


def put(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Põe um módulo no lugar de outro, em todos os lugares em que este está."""
    for parent in [*model.modules()]:
        for key, child in parent._modules.items():
            if child is old:
                parent._modules[key] = new


def wrap(model: nn.Module, name: str, kind: type[AdapterLayer]) -> AdapterLayer:
    """A camada de tipo `kind` em volta do módulo `name`: a que já houver, ou uma nova, posta no lugar dele."""
    module = model.get_submodule(name)
    for layer in chain(module):
        if type(layer) is kind:
            return layer
    if kind is TrainedCopy:  # fica por dentro: o que outra camada do mesmo adaptador põe em volta age sobre a cópia
        module = bare(module)
    layer = kind(module).train(module.training)
    put(model, module, layer)
    return layer


def unwrap(model: nn.Module) -> None:
    """Tira os envoltórios em que não resta adaptador, e os seus ganchos: cada base volta ao seu lugar."""
    for _, layer in wrapped(model):
        if not layer.names():
            for hook in layer.hooks:
                hook.remove()
            put(model, layer, layer.base_layer)
