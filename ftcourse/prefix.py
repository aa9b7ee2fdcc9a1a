"""Prefix tuning: p chaves e p valores que treinam, na frente dos do texto, em cada atenção (Li e Liang, 2021).

           P_K (p, d)   K (T, d)          P_V (p, d)   V (T, d)
               └─────┬─────┘                  └─────┬─────┘
    softmax( Q [P_K ; K]ᵀ / √d_h )        [P_V ; V]                  §4.2

Cada atenção tem os seus: treinam 2·p·L·d números, numa tabela P (p, 2·L·d) com uma linha por ficha virtual. Em prompt
tuning, o que uma ficha virtual diz numa camada vem do que disse na anterior; aqui se aprende à parte, e só as atenções
fazem conta a mais. Treinar P é instável, e o artigo o tira de um MLP, que some depois: o arquivo leva P.        §4.3

    P' (p, d)  →  Linear(d, h)  →  tanh  →  Linear(h, 2·L·d)  →  P        prefix_projection, desligado como em peft

As posições do texto começam em p, como se o prefixo fosse texto: em BERT, as da tabela, e [CLS] muda de lugar; em
LLaMA, as da rotação, que P_K não sofre; em T5, que não divide por √d_h, as da distância. Onde há menos cabeças de K e V
que de Q, d é a largura de K. T5 tem três atenções por par de camadas (codificador, decodificador e cruzada), e o
prefixo entra nas três: L conta atenções. Onde uma só vê uma janela, como em Gemma 3, o prefixo continua à vista; em
peft, sai dela.
"""

import functools
import inspect
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from ftcourse import modules
from ftcourse.layers import wrap, wrapped
from ftcourse.virtual_tokens import VirtualTokens, VirtualTokensConfig, positions, seen


@dataclass(frozen=True)
class PrefixTuningConfig(VirtualTokensConfig):
    """Os ajustes de prefix tuning, com os nomes de peft. Levanta ValueError se um deles não faz sentido.

    prefix_projection: se P sai de um MLP, que só existe no treino. encoder_hidden_size: o h dele; None é d.
    """

    peft_type: ClassVar[str] = "PREFIX_TUNING"

    prefix_projection: bool = False
    encoder_hidden_size: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.prefix_projection, bool):
            raise ValueError(f"prefix_projection={self.prefix_projection!r}: é True ou False.")
        if (size := self.encoder_hidden_size) is not None and not modules.is_count(size):
            raise ValueError(f"encoder_hidden_size={size!r}: é um inteiro a partir de 1, ou None.")

    def inject(self, model: nn.Module, name: str) -> None:
        """Envolve a tabela de embeddings de entrada e lhe dá o P do adaptador `name`.

        Levanta UnsuitableModel se não reconhece as atenções do modelo, e ValueError se P não cabe nas posições dele.
        """
        keys = modules.by_role(model, "key")
        wrap(model, self.place(model), PrefixLayer).add(name, self, model, keys)

    def export(self, model, name, tensors):
        """P, já calculado, no lugar do MLP de que saiu."""
        [layer] = [layer for _, layer in wrapped(model) if isinstance(layer, PrefixLayer)]
        own = layer.tensors(name)
        rest = {n: value for n, value in tensors.items() if n not in own}
        config, rest = super().export(model, name, rest)
        return replace(config, prefix_projection=False), rest | {"prompt_embeddings": layer.table(name)}

    def restore(self, values):
        """O arquivo traz P, tenha saído de um MLP ou não."""
        config, values = super().restore(values)
        return replace(config, prefix_projection=False), values


class PrefixLayer(VirtualTokens):
    """P e os ganchos que levam a cada atenção as suas chaves e os seus valores."""

    def __init__(self, base_layer):
        super().__init__(base_layer)
        self.reparametrization = nn.ModuleDict()  # {nome: o MLP}
        self.sizes = []  # quantas colunas de P são de cada atenção: as das chaves e as dos valores

    def add(self, name, config, model, keys):
        """Um adaptador novo: P, ou P' e o MLP, sorteados como `nn.Embedding` e `nn.Linear`. Devolve a camada."""
        self.sizes = [2 * key.out_features for key in keys.values()]
        p, width, total, device = config.num_virtual_tokens, self.sizes[0] // 2, sum(self.sizes), self.weight.device
        columns = width if config.prefix_projection else total
        self.prompt_embeddings[name] = nn.Parameter(torch.randn(p, columns, device=device))
        if config.prefix_projection:
            hidden = config.encoder_hidden_size or width
            mlp = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, total)).to(device)
            self.reparametrization[name] = nn.ModuleDict({"transform": mlp})
        if not self.hooks:
            stacks = [stack.register_forward_pre_hook(self.start, with_kwargs=True) for stack in modules.stacks(model)]
            attentions = [model.get_submodule(key.rpartition(".")[0]) for key in keys]
            self.hooks = stacks + [
                attention.register_forward_pre_hook(functools.partial(self.attend, i), with_kwargs=True)
                for i, attention in enumerate(attentions)
            ]
        return self

    def table(self, name):
        """P: (p, as colunas de todas as atenções)."""
        P = self.prompt_embeddings[name]
        return self.reparametrization[name]["transform"](P) if name in self.reparametrization else P

    def start(self, stack, args, kwargs):
        """Na entrada de uma pilha: P, uma vez, que as camadas repassam às atenções; o texto começa na posição p."""
        if self.acting is None:
            return None
        inputs, p, length = self.entering(stack, args, kwargs)
        if inputs.get("position_ids") is None and "position_ids" in inspect.signature(stack.forward).parameters:
            first = positions(stack)[0] + p + seen(inputs)
            inputs["position_ids"] = torch.arange(first, first + length, device=self.weight.device)[None]
        return (), inputs | {"prefix": self.table(self.acting).split(self.sizes, dim=1)}

    def attend(self, i, attention, args, kwargs):
        """Na entrada de uma atenção: o prefixo vem antes do que o cache guarda, e a máscara o deixa ver."""
        kwargs = dict(kwargs)
        if (prefix := kwargs.pop("prefix", None)) is None:
            return None
        rows, x = prefix[i], args[0] if args else kwargs["hidden_states"]  # (p, 2·d), (B, T, …)
        cache = "cache" if "cache" in kwargs else "past_key_values"
        mask = "mask" if "mask" in kwargs else "attention_mask"
        past, layer = kwargs.get(cache), attention.layer_idx
        if kwargs.get("key_value_states") is None or past is None:
            kwargs[cache] = Prefixed(rows, getattr(past, "self_attention_cache", past))
        elif not past.is_updated.get(layer):  # a atenção cruzada guarda o texto uma vez só, e o prefixo vai antes
            past.cross_attention_cache.update(*as_heads(rows, len(x), attention.n_heads, x.dtype), layer)
        kwargs[mask] = widened(kwargs.get(mask), len(rows), x, attention.is_causal)
        return args, kwargs


def widened(mask: torch.Tensor | None, p: int, x: torch.Tensor, is_causal: bool) -> torch.Tensor | None:
    """A máscara com p chaves a mais, que todos veem; somada às notas (floats), ver é 0."""
    if mask is not None:
        return F.pad(mask, (p, 0), value=0.0 if mask.is_floating_point() else 1)
    if not is_causal or (T := x.shape[1]) == 1:
        return None
    # Sem máscara, SDPA poria a sua, que conta do começo das chaves, e o começo é do prefixo.
    return torch.ones(T, p + T, dtype=torch.bool, device=x.device).tril(p)[None, None]


def as_heads(rows: torch.Tensor, batch: int, heads: int, dtype: torch.dtype) -> torch.Tensor:
    """K e V do prefixo, das suas linhas (p, 2·heads·d_h): (2, batch, heads, p, d_h)."""
    rows = rows.reshape(len(rows), 2, heads, -1).permute(1, 2, 0, 3)
    return rows[:, None].expand(-1, batch, -1, -1, -1).to(dtype)


class Prefixed:
    """O cache de uma atenção, com o prefixo na frente: o que se guarda é só o texto."""

    def __init__(self, rows, cache):
        self.rows, self.cache = rows, cache

    def get_seq_length(self, layer=0):
        return len(self.rows) + (0 if self.cache is None else self.cache.get_seq_length(layer))

    def update(self, K, V, layer, **options):
        """As chaves e os valores de que a atenção precisa, do prefixo e do texto: (B, heads, p + T, d_h) cada."""
        if self.cache is not None:
            K, V = self.cache.update(K, V, layer, **options)
        P_K, P_V = as_heads(self.rows, len(K), K.shape[1], K.dtype)
        return torch.cat([P_K, K], dim=2), torch.cat([P_V, V], dim=2)
