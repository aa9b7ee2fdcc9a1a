"""As partes de um modelo: achá-las pelo nome ou pelo papel, envolvê-las sem copiá-las, contar o que treina.

    modules.find(model, "all-linear")      # {"bert.encoder.layer.0.attention.self.query": Linear(…), …}
    modules.head(model)                    # ("classifier", "bert.pooler")
    modules.count_parameters(model)        # (os que treinam, todos)

Os nomes são os de `model.named_modules()`, com as camadas já envolvidas no lugar das originais.
"""

import copy
import difflib
import hashlib
import re
import sys
from typing import ClassVar

import torch
from torch import nn

HEADS = ("classifier", "score", "classification_head", "qa_outputs")  # como transformers chama a cabeça de uma tarefa
# O papel de uma camada linear, pelo final do nome que BERT, LLaMA e T5 (o de 2020 e os de depois) lhe dão.
ROLES = {
    "key": r".*\.(key|k_proj|k)",
    "value": r".*\.(value|v_proj|v)",
    "output": r".*(attention\.output\.dense|\.o_proj|Attention\.o)",  # a volta da atenção, também a da cruzada
    "down": r".*(?<!attention)\.(output\.dense|down_proj|wo)",  # a volta do feed-forward; em BERT a atenção tem outra
}


class UnsuitableModel(ValueError):
    """O modelo não tem aquilo que a técnica treina; a mensagem diz a saída."""


class AdapterLayer(nn.Module):
    """Uma camada em volta de `base_layer`, que continua a ser o mesmo módulo, com o que cada adaptador treina.

    Cada subclasse guarda os seus parâmetros em `nn.ParameterDict`s ou, se são módulos, em `nn.ModuleDict`s, com o nome
    do adaptador como chave; o que não treina, nos buffers de um módulo. Age no máximo um por vez, `active`; sem nenhum,
    a resposta é a da camada base.
    """

    in_file: ClassVar = {}  # {nome de um ParameterDict: o que peft lhe dá num arquivo}, quando são diferentes

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer = base_layer
        self.active = None
        self.unmerged = None  # {nome: parâmetro da base}, enquanto outros, com o adaptador dentro, estão no seu lugar

    @property
    def bare(self):
        """A camada original, sem nenhum envoltório."""
        return self.base_layer.bare if isinstance(self.base_layer, AdapterLayer) else self.base_layer

    @property
    def acting(self):
        """O nome do adaptador que entra na conta: None se nenhum está ativo, ou se o ativo já está na base."""
        return self.active if self.unmerged is None else None

    def switch(self, name):
        """Põe para agir o adaptador `name`; nenhum, se a camada não o tem."""
        self.active = name if name in self.names() else None

    def own(self):
        """Os dicionários em que esta camada guarda o que é de cada adaptador: {atributo: {nome: …}}."""
        return {k: child for k, child in self.named_children() if isinstance(child, (nn.ParameterDict, nn.ModuleDict))}

    def tensors(self, name):
        """Os parâmetros de um adaptador, com os nomes que peft lhes dá num arquivo: {"lora_A.weight": …}.

        Os de um módulo têm os nomes que têm nele. Levanta ValueError se dois ficam com o mesmo.
        """
        found = {}
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

    def kept(self, name):
        """Os tensores congelados que vão com um adaptador para o arquivo: {} se o que treina basta."""
        return {}

    def of_the_model(self, key):
        """Se um tensor é do modelo inteiro, e o nome dele no arquivo não leva o caminho desta camada."""
        return False

    def names(self):
        """Os nomes dos adaptadores que esta camada tem."""
        return list(dict.fromkeys(name for values in self.own().values() for name in values))

    def remove(self, name):
        """Esquece um adaptador, se a camada o tem."""
        for values in self.own().values():
            if name in values:
                del values[name]

    def merges(self):
        """Se a camada diz como o que ela treina entra na base."""
        return type(self).merged is not AdapterLayer.merged or type(self).merge is not AdapterLayer.merge

    @torch.no_grad()
    def merge(self):
        """Põe na base os parâmetros com o adaptador ativo dentro. Uma camada já fundida fica como está.

        Os da base não são alterados: ficam guardados, e `unmerge` os devolve bit a bit (subtrair ΔW de W + ΔW deixaria
        um arredondamento).
        """
        if self.acting and (merged := self.merged(self.acting)):
            dtype, self.unmerged = self.weight.dtype, {key: getattr(self.bare, key) for key in merged}
            for key, value in merged.items():  # um Parameter novo: outro módulo pode usar o mesmo peso
                setattr(self.bare, key, nn.Parameter(value.to(dtype), requires_grad=False))

    def unmerge(self):
        """Devolve à base os parâmetros que ela tinha."""
        for key, original in (self.unmerged or {}).items():
            setattr(self.bare, key, original)
        self.unmerged = None

    def merged(self, name):
        """Os parâmetros da base que um adaptador muda, já com ele: {"weight": (d_out, d_in)}; {} se não se funde."""
        return {}

    def __getattr__(self, name):
        if name in ("weight", "bias", "in_features", "out_features"):  # quem usa o modelo pergunta por eles à camada
            return getattr(self.base_layer, name)
        return super().__getattr__(name)


class TrainedCopy(AdapterLayer):
    """Um módulo que treina inteiro, como a cabeça: cada adaptador tem a sua cópia, e o original fica como estava."""

    def __init__(self, base_layer):
        super().__init__(base_layer)
        self.copies = nn.ModuleDict()

    def add(self, name):
        """Uma cópia do original, sem o que outros adaptadores lhe puseram, em float32. Devolve a camada."""
        self.copies[name] = copy.deepcopy(self.bare).float()
        for layer in layers(self.copies[name]).values():
            for other in layer.names():
                layer.remove(other)
        unwrap(self.copies[name])
        return self

    def merge(self):
        """Põe a cópia do adaptador ativo no lugar do original, que fica guardado."""
        if self.acting:
            dtype = next(self.base_layer.parameters()).dtype
            self.unmerged = [self.base_layer]
            self.base_layer = copy.deepcopy(self.copies[self.active]).to(dtype)

    def unmerge(self):
        """Devolve o original ao seu lugar."""
        if self.unmerged is not None:
            [self.base_layer], self.unmerged = self.unmerged, None
            self.base_layer.train(self.training)  # guardado, não viu o modelo mudar de modo

    def forward(self, *inputs):
        if self.acting is None:
            return self.base_layer(*inputs)
        chosen = self.copies[self.acting]
        dtype = next(chosen.parameters()).dtype
        return chosen(*(x.to(dtype) if x.is_floating_point() else x for x in inputs))  # fichas continuam inteiras


def layers(model):
    """As camadas envolvidas de um modelo, por nome; a que envolve outra vem antes dela. {nome: AdapterLayer}"""
    return {name: module for name, module in model.named_modules() if isinstance(module, AdapterLayer)}


def targets(model, name):
    """Os nomes das camadas em que um adaptador age, sem contar as que ele treina inteiras."""
    held = {n: layer for n, layer in layers(model).items() if name in layer.names()}
    return tuple(n.replace(".base_layer", "") for n, layer in held.items() if not isinstance(layer, TrainedCopy))


def wrap(model, name, kind):
    """A camada de tipo `kind` em volta do módulo `name`: a que já houver, ou uma nova, posta no lugar dele."""
    module = layer = model.get_submodule(name)
    while isinstance(layer, AdapterLayer):
        if type(layer) is kind:
            return layer
        layer = layer.base_layer
    wrapped = kind(module).train(module.training)
    model.set_submodule(name, wrapped)
    return wrapped


def unwrap(model):
    """Tira os envoltórios em que não resta adaptador: cada base volta ao seu lugar."""
    for name, layer in reversed(layers(model).items()):  # de dentro para fora
        if not layer.names():
            model.set_submodule(name, layer.base_layer)


def named_outer(model):
    """Os módulos de um modelo, envolvidos ou não, sem os que estão dentro de um envoltório. {nome: módulo}"""
    inside = tuple(f"{name}." for name in layers(model))
    return {name: module for name, module in model.named_modules() if not name.startswith(inside)}


def named_linear(model):
    """As camadas lineares entre elas: as que têm `in_features` e `out_features`, também as de 4 bits."""
    outer = named_outer(model).items()
    return {n: m for n, m in outer if hasattr(m, "in_features") and hasattr(m, "out_features")}


def stacks(model):
    """As pilhas de camadas do modelo: uma ou, em T5, a do codificador e a do decodificador."""
    base = model.base_model
    return (base.encoder, base.decoder) if model.config.is_encoder_decoder else (base,)


def head(model):
    """Os nomes do que a tarefa acrescenta ao modelo pré-treinado: a cabeça e, em BERT, o *pooler* que a alimenta.

    Vazio quando o modelo tem a saída do pré-treino, que prevê fichas.
    """
    outer = tuple(name for name in HEADS if hasattr(model, name))
    prefix = getattr(model, "base_model_prefix", "")
    pooled = outer and getattr(getattr(model, prefix, None), "pooler", None) is not None
    return (*outer, f"{prefix}.pooler") if pooled else outer


def find(model, target_modules, outside=()):
    """As camadas lineares que `target_modules` escolhe, como em peft: {nome: módulo}.

    "all-linear": todas as do modelo pré-treinado, fora a cabeça e a saída que prevê fichas. Outro texto: uma expressão
    regular para o nome inteiro. Uma lista: nomes, ou finais de nomes a partir de um ponto, como "query". O que está
    nos módulos `outside` não entra.

    Levanta ValueError, com os nomes que existem, se um deles não escolhe nada.
    """
    if not target_modules or not names_only(target_modules):
        raise ValueError(
            f'target_modules={target_modules!r}: é "all-linear", uma expressão regular ou uma lista de nomes, como '
            '["query", "value"].'
        )
    closed = tuple(f"{name}." for name in outside)
    linear = {n: m for n, m in named_linear(model).items() if not f"{n}.".startswith(closed)}
    if target_modules == "all-linear":
        body, closed = set(model.base_model.modules()), tuple(f"{name}." for name in head(model))
        output = model.get_output_embeddings()
        matches = {
            target_modules: [
                n for n, m in linear.items() if m in body and m is not output and not f"{n}.".startswith(closed)
            ]
        }
    elif isinstance(target_modules, str):
        matches = {target_modules: matching(linear, target_modules)}
    else:
        matches = {target: matching(linear, [target]) for target in target_modules}
    missing, regex = [target for target, names in matches.items() if not names], isinstance(target_modules, str)
    if missing:
        endings = list(dict.fromkeys(n.rsplit(".", 1)[-1] for n in linear))
        close = difflib.get_close_matches(missing[0], endings, n=1)
        raise ValueError(
            f"target_modules: nenhuma camada linear se chama {missing[0]!r}. As deste modelo se chamam "
            f'{", ".join(map(repr, endings))}; "all-linear" escolhe todas.'
            + (f" Você quis dizer {close[0]!r}?" if close and close != missing else "")
            + (" Um texto é uma expressão regular do nome inteiro; por finais de nomes, dê uma lista." * regex)
        )
    chosen = set().union(*matches.values())
    return {n: m for n, m in linear.items() if n in chosen}


def matching(names, wanted):
    """Dos nomes, os que uma expressão regular descreve inteiros ou que acabam num dos finais de uma lista."""
    if not isinstance(wanted, str):
        return [name for name in names if any(ending_in([name], ending) for ending in wanted)]
    try:
        return [name for name in names if re.fullmatch(wanted, name)]
    except re.error as error:
        raise ValueError(f"{wanted!r} não é uma expressão regular. Para escolher por nomes, dê uma lista.") from error


def by_role(model, *roles):
    """As camadas lineares que têm um dos papéis de ROLES: {nome: módulo}. Levanta UnsuitableModel se falta um deles."""
    linear, chosen = named_linear(model), []
    for role in roles:
        if not (found := matching(linear, ROLES[role])):
            raise UnsuitableModel(
                f"Não sei qual camada deste modelo faz o papel de {role!r}: o curso conhece os nomes de BERT, LLaMA e "
                "T5. Se a técnica tem target_modules, como LoRA e IA³, diga ali as camadas."
            )
        chosen += found
    return {name: module for name, module in linear.items() if name in chosen}


def names_only(given):
    """Se o que veio é um texto ou uma coleção de textos."""
    return isinstance(given, (str, list, tuple, set)) and all(isinstance(name, str) for name in given)


def is_count(value):
    """Se é um inteiro a partir de 1; True, que Python conta como 1, não é."""
    return type(value) is int and value >= 1


def is_number(value):
    """Se é um inteiro ou um float, e cabe num float; True, nan e infinito não são."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def ending_in(names, ending):
    """Os nomes que são `ending` ou terminam nele a partir de um ponto, como peft os compara."""
    return [name for name in names if f".{name}".endswith(f".{ending}")]


def fingerprint(model, frozen=False):
    """Um resumo dos pesos da base, em 16 dígitos, o mesmo em float32 e em bfloat16; None se há pesos quantizados.

    De cada peso entram oito números: basta para notar outra base, ou um adaptador já somado a esta. frozen: só os que
    não treinam.
    """
    own = {id(p) for layer in layers(model).values() for name in layer.names() for p in layer.tensors(name).values()}
    closed, digest = tuple(f"{name}." for name in head(model)), hashlib.sha256()
    for name, parameter in model.named_parameters():
        if id(parameter) in own or name.startswith(closed) or (frozen and parameter.requires_grad):
            continue
        if not parameter.is_floating_point():
            return None
        values = parameter.detach().flatten()
        digest.update(values[:: max(1, len(values) // 8)].bfloat16().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def readable(chosen):
    """As mesmas camadas, {nome: módulo}. Levanta ValueError se o peso de uma delas não se lê como W: (d_out, d_in)."""
    for name, layer in chosen.items():
        if not layer.weight.is_floating_point():
            raise ValueError(
                f"{name} guarda o peso em inteiros, como os 4 bits de bitsandbytes, e esta técnica precisa de W. Use "
                "LoRA, que só usa o que a camada responde, ou qlora.quantize_model, de que se lê Ŵ."
            )
    return chosen


def quantized(module):
    """Se algum peso do módulo está guardado em inteiros, como os de 4 bits."""
    return any(not parameter.is_floating_point() for parameter in module.parameters())


def count_parameters(model):
    """Quantos parâmetros treinam, e quantos há: (int, int). Pesos compartilhados contam uma vez.

    Os que estão guardados em inteiros são de 4 bits, dois por byte.
    """
    counts = [(p.numel() * (1 if p.is_floating_point() else 2), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trains in counts if trains), sum(n for n, _ in counts)
