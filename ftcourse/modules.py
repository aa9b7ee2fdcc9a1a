"""As partes de um modelo: achá-las pelo nome ou pelo papel, contar o que treina, resumir os pesos.

    modules.find(model, "all-linear")      # {"bert.encoder.layer.0.attention.self.query": Linear(…), …}
    modules.head(model)                    # ("classifier", "bert.pooler")
    modules.count_parameters(model)        # (os que treinam, todos)

Os nomes são os que `model.named_modules()` daria sem adaptador nenhum, e os módulos, os da base: ver `layers.walk`.
"""

import difflib
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn

from ftcourse.layers import bare, chain, walk, wrapped

HEADS = ("classifier", "score", "classification_head", "qa_outputs")  # como transformers chama a cabeça de uma tarefa
# O papel de uma camada linear, pelo final do nome que o BERT, o LLaMA e o T5 (o de 2020 e os de depois) lhe dão.
ROLES = {
    "key": r".*\.(key|k_proj|k)",
    "value": r".*\.(value|v_proj|v)",
    "output": r".*(attention\.output\.dense|\.o_proj|Attention\.o)",  # a volta da atenção, também a da cruzada
    "down": r".*(?<!attention)\.(output\.dense|down_proj|wo)",  # a volta do feed-forward; no BERT a atenção tem outra
}


class UnsuitableModel(ValueError):
    """O modelo não tem aquilo que a técnica treina; a mensagem diz a saída."""


def named(model: nn.Module) -> dict[str, nn.Module]:
    """Os módulos de um modelo pelo nome, sem envoltório nenhum: {nome: módulo}."""
    return {name: bare(module) for name, module in walk(model)}


def named_linear(model: nn.Module) -> dict[str, nn.Module]:
    """As camadas lineares entre eles: as que têm `in_features` e `out_features`, também as de 4 bits."""
    return {n: m for n, m in named(model).items() if hasattr(m, "in_features") and hasattr(m, "out_features")}


def within(model: nn.Module, names: Iterable[str]) -> set[nn.Module]:
    """Os módulos que estão nos que têm esses nomes, eles também."""
    return {bare(module) for name in names for _, module in walk(model.get_submodule(name))}


def body(model: nn.Module) -> set[nn.Module]:
    """Os módulos do modelo pré-treinado, sem a cabeça da tarefa e sem a saída que prevê tokens."""
    inner = {bare(module) for _, module in walk(model.base_model)} - within(model, head(model))
    return inner - {bare(model.get_output_embeddings())}


def stacks(model: nn.Module) -> tuple[nn.Module, ...]:
    """As pilhas de camadas do modelo: uma ou, no T5, a do codificador e a do decodificador."""
    base = model.base_model
    return (base.encoder, base.decoder) if model.config.is_encoder_decoder else (base,)


def head(model: nn.Module) -> tuple[str, ...]:
    """Os nomes do que a tarefa acrescenta ao modelo pré-treinado: a cabeça e, no BERT, o *pooler* que a alimenta.

    Vazio quando o modelo tem a saída do pré-treino, que prevê tokens.
    """
    outer = tuple(name for name in HEADS if hasattr(model, name))
    prefix = getattr(model, "base_model_prefix", "")
    pooled = outer and getattr(getattr(model, prefix, None), "pooler", None) is not None
    return (*outer, f"{prefix}.pooler") if pooled else outer


def head_parameters(model: nn.Module) -> list[str]:
    """Os nomes dos parâmetros da cabeça que treinam, como `named_parameters` os dá."""
    inside = tuple(f"{name}." for name in head(model))
    return [name for name, p in model.named_parameters() if p.requires_grad and name.startswith(inside)]


def find(model: nn.Module, target_modules: str | Sequence[str], outside: Iterable[str] = ()) -> dict[str, nn.Module]:
    """As camadas lineares que `target_modules` escolhe, como em peft, sem envoltório: {nome: módulo}.

    "all-linear": todas as do modelo pré-treinado, fora a cabeça e a saída que prevê tokens. Outro texto: uma expressão
    regular para o nome inteiro. Uma lista: nomes, ou finais de nomes a partir de um ponto, como "query". O que está
    nos módulos `outside` não entra.

    Levanta ValueError, com os nomes que existem, se um deles não escolhe nada.
    """
    if not target_modules or not names_only(target_modules):
        raise ValueError(
            f'target_modules={target_modules!r}: é "all-linear", uma expressão regular ou uma lista de nomes, como '
            '["query", "value"].'
        )
    closed = within(model, outside)
    linear = {n: m for n, m in named_linear(model).items() if m not in closed}
    if target_modules == "all-linear":
        inner = body(model)
        matches = {target_modules: [n for n, m in linear.items() if m in inner]}
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


def matching(names: Iterable[str], wanted: str | Sequence[str]) -> list[str]:
    """Dos nomes, os que uma expressão regular descreve inteiros ou que acabam num dos finais de uma lista."""
    if not isinstance(wanted, str):
        return [name for name in names if any(f".{name}".endswith(f".{ending}") for ending in wanted)]
    try:
        return [name for name in names if re.fullmatch(wanted, name)]
    except re.error as error:
        raise ValueError(f"{wanted!r} não é uma expressão regular. Para escolher por nomes, dê uma lista.") from error


def by_role(model: nn.Module, *roles: str) -> dict[str, nn.Module]:
    """As camadas lineares que têm um dos papéis de ROLES: {nome: módulo}. Levanta UnsuitableModel se falta um deles."""
    linear, chosen = named_linear(model), []
    for role in roles:
        if not (found := matching(linear, ROLES[role])):
            raise UnsuitableModel(
                f"Não sei qual camada deste modelo faz o papel de {role!r}: o curso conhece os nomes do BERT, do "
                "LLaMA e do T5. Se a técnica tem target_modules, como LoRA e IA³, diga ali as camadas."
            )
        chosen += found
    return {name: module for name, module in linear.items() if name in chosen}


def names_only(given: object) -> bool:
    """Se o que veio é um texto ou uma coleção de textos."""
    return isinstance(given, (str, list, tuple, set)) and all(isinstance(name, str) for name in given)


def is_count(value: object) -> bool:
    """Se é um inteiro a partir de 1; True, que Python conta como 1, não é."""
    return type(value) is int and value >= 1


def is_number(value: object) -> bool:
    """Se é um inteiro ou um float, e cabe num float; True, nan e infinito não são."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def ending_in(names: Iterable[str], ending: str) -> list[str]:
    """Os nomes que terminam em `ending`, no meio de uma palavra também, como peft procura os de modules_to_save."""
    return [name for name in names if ending and name.endswith(ending)]


def base_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    """Os pesos da base, e não os fundidos que estejam no lugar deles: (nome, módulo, parâmetro)."""
    for path, outer in walk(model):
        kept = next((layer.unmerged for layer in chain(outer) if layer.unmerged is not None), {})
        for key, parameter in bare(outer).named_parameters(recurse=False):
            if (original := kept.get(key, parameter)) is not None:  # era None se um viés novo foi fundido
                yield f"{path}.{key}", bare(outer), original


def fingerprint(model: nn.Module, frozen: bool = False) -> str | None:
    """Um resumo de todos os pesos da base, em 16 dígitos; None se há pesos quantizados.

    É o mesmo em float32 e em bfloat16, ao qual cada número é arredondado, e o mesmo com um adaptador, fundido ou não. A
    cabeça da tarefa, que é sorteada, não entra. frozen: só os que não treinam.
    """
    closed, digest, seen = within(model, head(model)), hashlib.sha256(), set()
    for _, module, parameter in base_parameters(model):
        if module in closed or (frozen and parameter.requires_grad) or parameter in seen:
            continue
        seen.add(parameter)
        if not parameter.is_floating_point():
            return None
        digest.update(parameter.detach().bfloat16().contiguous().cpu().view(torch.int16).numpy())
    return digest.hexdigest()[:16]


def targets(model: nn.Module, name: str) -> tuple[str, ...]:
    """Os nomes das camadas em que um adaptador age, sem contar as que ele treina inteiras."""
    closed = within(model, model.adapters[name].modules_to_save)
    held = [path for path, layer in wrapped(model) if name in layer.names() and layer.bare not in closed]
    return tuple(dict.fromkeys(held))


def whole(model: nn.Module, names: Sequence[str] | None) -> tuple[str, ...]:
    """Os nomes dos módulos que treinam inteiros: a cabeça da tarefa, se não vem nenhum.

    Cada um que vem escolhe, como em peft, todo módulo cujo nome termina nele. Treinam inteiras a cabeça e a saída que
    prevê tokens, ou partes delas, as tabelas de embeddings e as normas. No T5, três tabelas têm o mesmo peso: pedir uma
    é pedir as três, e o peso delas continua a ser um só. Já o da saída, se é o da tabela, não a acompanha, como em
    peft: treina um, e o outro fica.

    Levanta ValueError se um nome não escolhe nada ou se o que ele escolhe não treina inteiro.
    """
    if names is None:
        return head(model)
    if isinstance(names, str) or not names_only(names):
        raise ValueError(f'modules_to_save={names!r}: é uma lista de nomes, como ["classifier"].')
    known = [name for name, _ in walk(model, every_name=True) if name]
    for name in names:
        if not ending_in(known, name):
            raise ValueError(f"modules_to_save: este modelo não tem um módulo chamado {name!r}.")
    chosen, inner = [found for name in names for found in ending_in(known, name)], body(model)
    for name in chosen:
        if not (inside := leaves(model, [name])):
            raise ValueError(f"modules_to_save: {name} não tem o que treinar. Tire-o da lista.")
        for leaf, module in inside.items():
            if quantized(module):
                raise ValueError(f"modules_to_save: {leaf} está em 4 bits, que não treinam. Tire-o da lista.")
            if module in inner and not isinstance(module, nn.Embedding) and not is_norm(module):
                raise ValueError(
                    f"modules_to_save: {leaf} não treina inteiro. Treinam a cabeça da tarefa, as tabelas de embeddings "
                    'e as normas; para o resto, use target_modules ou methods.apply(model, "full").'
                )
    weights = [id(m.weight) for m in leaves(model, chosen).values() if isinstance(m, nn.Embedding)]
    chosen += [n for n, m in named(model).items() if isinstance(m, nn.Embedding) and id(m.weight) in weights]
    within_others = {n for name in chosen for n in leaves(model, [name]) if n != name}
    return tuple(dict.fromkeys(name for name in chosen if name not in within_others))


def leaves(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Os módulos que têm parâmetros seus, entre os que têm esses nomes e os que estão neles: {nome: módulo}."""
    inside = within(model, names)
    return {n: m for n, m in named(model).items() if m in inside and any(True for _ in m.parameters(recurse=False))}


def is_norm(module: nn.Module) -> bool:
    """Se o módulo é uma norma: só elas têm um peso de uma dimensão, o ganho."""
    return isinstance(weight := getattr(module, "weight", None), nn.Parameter) and weight.ndim == 1


def readable(chosen: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """As mesmas camadas, {nome: módulo}. Levanta ValueError se o peso de uma delas não se lê como W: (d_out, d_in)."""
    for name, layer in chosen.items():
        if not layer.weight.is_floating_point():
            raise ValueError(
                f"{name} guarda o peso em inteiros, como os 4 bits de bitsandbytes, e esta técnica precisa de W. Use "
                "LoRA, que só usa o que a camada responde, ou qlora.quantize_model, de que se lê Ŵ."
            )
    return chosen


def quantized(module: nn.Module) -> bool:
    """Se algum peso do módulo está guardado em inteiros, como os de 4 bits."""
    return any(not parameter.is_floating_point() for parameter in module.parameters())


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Quantos parâmetros treinam, e quantos há: (int, int). Pesos compartilhados contam uma vez.

    Os que estão guardados em inteiros são de 4 bits, dois por byte.
    """
    counts = [(p.numel() * (1 if p.is_floating_point() else 2), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trains in counts if trains), sum(n for n, _ in counts)
