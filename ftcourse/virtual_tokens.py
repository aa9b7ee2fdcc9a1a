"""Fichas virtuais: o que prompt e prefix tuning têm em comum, dos ajustes à entrada do modelo.

    texto          x₁ … x_T  nas posições  0 … T−1
    com p fichas   x₁ … x_T  nas posições  p … p+T−1        as p primeiras são das fichas virtuais

As fichas são de um adaptador do modelo inteiro, guardado na tabela de embeddings de entrada: entram por ganchos
(*hooks*) nas pilhas de camadas, e nenhum outro módulo muda.
"""

import inspect
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import nn

from ftcourse import modules
from ftcourse.layers import AdapterLayer, walk

TASK_TYPES = {"ForTokenClassification": "TOKEN_CLS", "ForQuestionAnswering": "QUESTION_ANS"}  # as outras, SEQ_CLS


@dataclass(frozen=True)
class VirtualTokensConfig:
    """O que prompt e prefix tuning têm em comum, com os nomes de peft. Levanta ValueError se p não é um inteiro.

    num_virtual_tokens: p, quantas fichas virtuais. task_type: a tarefa, que peft precisa achar no arquivo e que
    `methods.save` escreve. modules_to_save: o que mais treina, inteiro; None é a cabeça da tarefa.
    """

    prefix_in_file: ClassVar[str] = "base_model."
    needed_in_file: ClassVar[tuple] = ("num_virtual_tokens",)
    unmergeable: ClassVar[str] = "fichas virtuais não são um peso da base"
    changes_on_arrival: ClassVar[str] = "o modelo lê p fichas a mais"

    num_virtual_tokens: int = 20
    task_type: str | None = None
    modules_to_save: tuple[str, ...] | None = None

    def __post_init__(self):
        if not modules.is_count(self.num_virtual_tokens):
            raise ValueError(f"num_virtual_tokens={self.num_virtual_tokens!r}: é um inteiro a partir de 1, como 20.")

    def place(self, model: nn.Module) -> str:
        """O nome da tabela de embeddings de entrada, que guarda as fichas. Levanta ValueError se elas não cabem."""
        for stack in modules.stacks(model):
            fits(stack, self.num_virtual_tokens, 1)
        table = model.get_input_embeddings()
        return next(name for name, module in walk(model) if module is table)

    def export(self, model: nn.Module, name: str, tensors: dict) -> tuple["VirtualTokensConfig", dict]:
        """Os ajustes e os tensores que vão para o arquivo, com a tarefa que diz a peft como chamar o modelo."""
        if modules.head(model):
            task = next((task for end, task in TASK_TYPES.items() if type(model).__name__.endswith(end)), "SEQ_CLS")
        elif model.config.is_encoder_decoder:
            task = "SEQ_2_SEQ_LM"
        else:
            task = "CAUSAL_LM" if model.can_generate() else "FEATURE_EXTRACTION"
        return replace(self, task_type=task), tensors

    def restore(self, values: dict) -> tuple["VirtualTokensConfig", dict]:
        """Os ajustes e os tensores de um arquivo.

        Levanta ValueError, sem reservar memória, se P falta ou não tem p linhas.
        """
        P, p = values.get("prompt_embeddings"), self.num_virtual_tokens
        if P is None:
            raise ValueError(
                "O arquivo não tem prompt_embeddings: é de outro modelo, ou de outros ajustes. Nada foi carregado."
            )
        if P.shape[:1] != (p,):
            raise ValueError(
                f"O arquivo diz num_virtual_tokens={p}, e prompt_embeddings tem a forma {tuple(P.shape)}, que não é de "
                f"{p} linhas: foi cortado ou alterado. Grave-o outra vez. Nada foi carregado."
            )
        return self, values


def positions(stack: nn.Module) -> tuple[int, float]:
    """As posições que o modelo aprendeu: (a primeira, quantas). Sem tabela, como em LLaMA e T5, (0, infinitas).

    Em RoBERTa a primeira é 2: as linhas da tabela até padding_idx são do preenchimento.
    """
    if (table := getattr(getattr(stack, "embeddings", None), "position_embeddings", None)) is None:
        return 0, math.inf
    first = 0 if table.padding_idx is None else table.padding_idx + 1
    return first, table.num_embeddings - first


def fits(stack: nn.Module, p: int, length: int) -> None:
    """Levanta ValueError se p fichas virtuais e `length` do texto passam das posições que o modelo aprendeu."""
    if p + length > (room := positions(stack)[1]):
        raise ValueError(
            f"{p} fichas virtuais e {length} do texto são {p + length}, e este modelo só tem posições para {room}: "
            f"corte o texto em {max(0, room - p)} fichas, ou use um num_virtual_tokens menor."
        )


def cache(inputs: dict) -> Any:
    """O cache que entra numa pilha, ou None."""
    return inputs.get("cache", inputs.get("past_key_values"))  # transformers 5.24 o chama de cache; antes, do outro


def seen(inputs: dict) -> int:
    """Quantas posições o cache que entra já tem: zero, a não ser no meio de uma geração."""
    return 0 if (past := cache(inputs)) is None else past.get_seq_length()


def suits(inputs: dict) -> None:
    """Levanta ValueError se o cache que entra tem tamanho fixo, se a máscara não é (B, T) ou se não há um texto só."""
    if getattr(cache(inputs), "is_compileable", False):
        raise ValueError(
            f"O cache que veio, {type(cache(inputs)).__name__}, tem tamanho fixo, sem lugar para as fichas virtuais. "
            'Gere com o que cresce, cache_implementation="dynamic", que é o padrão.'
        )
    if (mask := inputs.get("attention_mask")) is not None and getattr(mask, "ndim", None) != 2:
        given = f"com a forma {tuple(mask.shape)}" if hasattr(mask, "shape") else f"como {type(mask).__name__}"
        raise ValueError(
            f"attention_mask veio {given}. Com fichas virtuais é (B, T), 1 onde há texto e 0 no preenchimento, e o "
            "modelo tira dela a máscara de cada atenção."
        )
    if (inputs.get("input_ids") is None) == (inputs.get("inputs_embeds") is None):
        raise ValueError("O modelo lê input_ids ou inputs_embeds, um dos dois: vieram os dois, ou nenhum.")


class VirtualTokens(AdapterLayer):
    """A tabela de embeddings de entrada, com as fichas virtuais de cada adaptador.

    A tabela responde o que respondia. Quem põe as fichas no modelo são ganchos (*hooks*) na entrada e na saída das
    pilhas, que o envoltório registra ao chegar e tira ao sair: nenhum outro módulo muda.
    """

    in_the_cache = False  # se o cache que entra no meio de uma geração já tem as fichas virtuais

    def __init__(self, base_layer):
        super().__init__(base_layer)
        self.prompt_embeddings = nn.ParameterDict()  # {nome: (p, …)}

    def of_the_model(self, key: str) -> bool:
        """As fichas virtuais são do modelo inteiro."""
        return True

    def forward(self, ids):
        return self.base_layer(ids)

    def entering(self, stack, args, kwargs):
        """As entradas de uma pilha, todas por nome, com as posições do texto p adiante, e o tamanho dele.

        Levanta ValueError se as fichas virtuais não cabem nas posições, no cache ou na máscara.
        """
        inputs = dict(zip(inspect.signature(stack.forward).parameters, args)) | kwargs
        suits(inputs)
        text = inputs.get("input_ids") if inputs.get("inputs_embeds") is None else inputs["inputs_embeds"]
        p, length = len(self.prompt_embeddings[self.acting]), text.shape[1]
        fits(stack, p, length + max(0, seen(inputs) - p * self.in_the_cache))
        if inputs.get("position_ids") is not None:
            inputs["position_ids"] = inputs["position_ids"] + p
        return inputs, p, length
