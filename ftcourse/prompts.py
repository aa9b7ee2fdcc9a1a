"""Prompt tuning: tokens virtuais na frente do texto, e treinam só os embeddings deles (Lester et al., 2021).

        P (p, d), treina      E(x) (T, d), congelado
        └────────┬────────────────┬─────────┘
              [ P ; E(x) ]  (p + T, d)                         §2
                      │
             o modelo, congelado, de p + T posições
                      │
               h (p + T, d)  →  as T do texto

Treinam p·d números, e cada tarefa é um arquivo de p linhas sobre a mesma base. Em troca, toda conta passa a ser sobre
p + T tokens. No artigo, P parte dos embeddings das classes ou de tokens comuns, melhor que números de U(±0,5), e só
alcança o ajuste completo no modelo de 11 bilhões de parâmetros (§3). Em peft, se nada se diz, P vem de N(0, 1).

Da pilha saem só os estados do texto: os logits são os dele, um por token, e a perda de um modelo causal não conta o
primeiro token, que em peft se prevê do último virtual. A exceção, como em peft: no BERT e no RoBERTa a classe sai da
posição 0, que passa a ser o primeiro token virtual, e não [CLS]. O que se pede à parte, `hidden_states` e `attentions`,
mostra as p + T posições. No T5, P entra no codificador.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from ftcourse import modules
from ftcourse.files import choose
from ftcourse.layers import bare, wrap
from ftcourse.virtual_tokens import VirtualTokens, VirtualTokensConfig, positions, seen


@dataclass(frozen=True)
class PromptTuningConfig(VirtualTokensConfig):
    """Os ajustes de prompt tuning, com os nomes de peft. Levanta ValueError se um deles não faz sentido.

    prompt_tuning_init: de onde P parte. "SAMPLE_VOCAB": os embeddings de p tokens sorteados do vocabulário; "RANDOM":
    N(0, 1); uma lista de tokens, como tokenizer("boa ruim").input_ids: os embeddings deles, repetidos ou cortados até
    p. num_transformer_submodules: 2 só num arquivo de peft para o T5, com 2p linhas, das quais as p primeiras agem.
    """

    peft_type: ClassVar[str] = "PROMPT_TUNING"

    prompt_tuning_init: str | tuple[int, ...] = "SAMPLE_VOCAB"
    num_transformer_submodules: int = 1

    def __post_init__(self):
        super().__post_init__()
        start = self.prompt_tuning_init
        if isinstance(start, str):
            choose("o começo de um prompt em prompt_tuning_init,", start, ("SAMPLE_VOCAB", "RANDOM", "TEXT"))
        elif not isinstance(start, (list, tuple)) or not start or not all(type(token) is int for token in start):
            raise ValueError(
                f'prompt_tuning_init={start!r}: é "SAMPLE_VOCAB", "RANDOM" ou uma lista de tokens, como '
                'tokenizer("boa ruim").input_ids.'
            )
        if self.num_transformer_submodules not in (1, 2):
            raise ValueError(
                f"num_transformer_submodules={self.num_transformer_submodules!r}: é 1, a pilha que lê o texto."
            )

    def inject(self, model: nn.Module, name: str) -> None:
        """Envolve a tabela de embeddings de entrada e lhe dá o P do adaptador `name`.

        Levanta ValueError se P não cabe nas posições do modelo ou se não há nele os tokens do começo.
        """
        P = self.initial(bare(model.get_input_embeddings()))
        wrap(model, self.place(model), PromptLayer).add(name, P, model)

    @torch.no_grad()
    def initial(self, table):
        """P no começo, em float32: (p, d). table: a que dá os embeddings dos tokens; no Gemma 3, com uma escala."""
        p, start, weight = self.num_virtual_tokens, self.prompt_tuning_init, table.weight
        if start == "RANDOM":
            return torch.randn(p, weight.shape[1], device=weight.device)
        if start == "TEXT":
            raise ValueError(
                'prompt_tuning_init="TEXT" é o nome de peft; aqui o texto vem em tokens: '
                'prompt_tuning_init=tokenizer("boa ruim").input_ids.'
            )
        if start != "SAMPLE_VOCAB" and not 0 <= min(start) <= max(start) < len(weight):
            raise ValueError(f"prompt_tuning_init={start!r}: os tokens deste modelo vão de 0 a {len(weight) - 1}.")
        ids = torch.randint(len(weight), (p,)) if start == "SAMPLE_VOCAB" else torch.tensor(start)
        ids = ids.repeat(-(-p // len(ids)))[:p]
        return table(ids.to(weight.device)).to(torch.float32, copy=True)

    def export(self, model, name, tensors):
        """Sem o começo, que o arquivo dispensa, e que peft só sabe ler como texto."""
        config, tensors = super().export(model, name, tensors)
        return replace(config, prompt_tuning_init="RANDOM", num_transformer_submodules=1), tensors

    def restore(self, values):
        """Os ajustes e os tensores como são aqui, dos que vieram num arquivo."""
        rows, p = values.get("prompt_embeddings"), self.num_virtual_tokens
        if self.num_transformer_submodules == 2 and rows is not None and rows.shape[:1] == (2 * p,):
            values = values | {"prompt_embeddings": rows[:p]}
        config, values = super().restore(values)
        return replace(config, prompt_tuning_init="RANDOM", num_transformer_submodules=1), values


def reads_first(model: nn.Module) -> bool:
    """Se a classe sai da posição 0 do que a pilha responde, como no RoBERTa; no BERT, sai do *pooler*, dentro dela."""
    return modules.head(model) == ("classifier",) and type(model).__name__.endswith("ForSequenceClassification")


class PromptLayer(VirtualTokens):
    """P e os ganchos que o põem na frente dos embeddings do texto e o tiram da saída."""

    in_the_cache = True

    def add(self, name, P, model):
        """Um adaptador novo. Devolve a camada."""
        self.prompt_embeddings[name] = nn.Parameter(P)
        if not self.hooks:
            first, *decoder = modules.stacks(model)
            self.hooks = [first.register_forward_pre_hook(self.prepend, with_kwargs=True)]
            for stack in decoder:
                self.hooks.append(stack.register_forward_pre_hook(self.widen, with_kwargs=True))
            if not decoder and not reads_first(model):
                self.hooks.append(first.register_forward_hook(self.strip, with_kwargs=True))
        return self

    def prepend(self, stack, args, kwargs):
        """Na entrada: P na frente do texto, uma vez só por geração; a máscara o vê sempre."""
        if self.acting is None:
            return None
        inputs, p, _ = self.entering(stack, args, kwargs)
        if inputs.get("attention_mask") is not None:
            inputs["attention_mask"] = F.pad(inputs["attention_mask"], (p, 0), value=1)
        if seen(inputs):
            return (), inputs
        x = inputs.get("inputs_embeds")
        x = self.base_layer(inputs["input_ids"]) if x is None else x  # (B, T, d)
        P = self.prompt_embeddings[self.acting].expand(len(x), -1, -1).to(x.dtype)  # (B, p, d)
        inputs |= {"input_ids": None, "inputs_embeds": torch.cat([P, x], dim=1)}
        if inputs.get("token_type_ids") is not None:
            inputs["token_type_ids"] = F.pad(inputs["token_type_ids"], (p, 0))
        if (after := inputs.get("position_ids")) is not None:
            before = (torch.arange(p, device=after.device) + positions(stack)[0]).expand(len(after), -1)
            inputs["position_ids"] = torch.cat([before, after], dim=1)
        return (), inputs

    def strip(self, stack, args, kwargs, output):
        """Na saída: só os estados do texto."""
        if self.acting is None or seen(kwargs) > output[0].shape[1]:  # no meio de uma geração, P já ficou para trás
            return None
        h = output[0][:, len(self.prompt_embeddings[self.acting]) :]  # (B, T, d)
        if isinstance(output, tuple):
            return (h, *output[1:])
        output.last_hidden_state = h
        return output

    def widen(self, stack, args, kwargs):
        """Na entrada do decodificador: o texto que ele consulta tem p tokens a mais."""
        if self.acting is None or kwargs.get("encoder_attention_mask") is None:
            return None
        p = len(self.prompt_embeddings[self.acting])
        return args, kwargs | {"encoder_attention_mask": F.pad(kwargs["encoder_attention_mask"], (p, 0), value=1)}
