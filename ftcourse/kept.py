"""O que um bloco guarda para a volta, em fórmula: quem treina decide, e não quantos números treinam.

                                    BERT, um bloco, o que a volta pede de cada conta

    x ──► Q, K, V ──► atenção ──► W_o ──►(+)──► norma ──► W_1 ──► GELU ──► W_2 ──►(+)──► norma ──►
    x       Q K V      saída               soma                u       GELU(u)      soma
    ¹       3          1                   1           1       f       f            1              = 8 + 2f, tudo

    Uma camada linear só guarda a entrada se o peso dela treina, ou um A que a lê: sem isso, saem os ¹ e o GELU(u), e
    restam 6 + f, o caminho congelado. A atenção, a função e a norma guardam sempre o que leem, se o gradiente as
    atravessa. Um viés não guarda nada. IA³ guarda o que multiplica: quase tanto quanto o ajuste completo.

Bytes de um bloco em float32 = 4 · s·b·h · (a linha da tabela), para b textos de s tokens e largura h, sem máscara. As
letras: f = d_ff/h; g = cabeças de K e V por cabeça de Q; r = posto/h; m = gargalo/h; a = cabeças·s/h; p = tokens
virtuais/s. Somam-se as camadas desde a mais funda que treina, os logits e parcelas miúdas (as estatísticas das normas e
da atenção, os vetores de DoRA). A máscara acrescenta s/h; no LLaMA, também 2 − 2g, porque com ela K e V se repetem; no
T5, um mapa da atenção, a, onde ainda não há um. Com checkpointing, fica 1 por bloco.
"""

import re

import transformers

from ftcourse.files import choose

COLUMNS = ("full", "bitfit", "lora_qv", "lora", "dora", "ia3", "houlsby", "pfeiffer", "prefix")
TABLE = {
    # pilha                     tudo              só vieses       LoRA em Q e V      LoRA em tudo         DoRA em tudo
    #                           IA³               Houlsby         Pfeiffer           prefixo
    "bert": ("8 + 2f", "6 + f", "7 + f + 2r", "8 + 2f + 6r", "18 + 4f + 6r",
             "8 + 2f", "8 + f + 4m", "8 + f + m", "6 + f + 2p"),
    "llama": ("8 + 2g + 4f", "4 + 2g + 3f", "5 + 2g + 3f + 2r", "6 + 2g + 4f + 7r", "12 + 6g + 8f + 7r",
              "4 + 4g + 4f", "8 + 2g + 3f + 4m", "5 + 2g + 3f + m", "6 + 3f + 2p"),
    "t5, codificador": ("10 + 7f + a", "6 + 6f", "7 + 6f + 2r", "8 + 7f + 7r", "18 + 11f + 7r",
                        "8 + 7f", "10 + 6f + 4m", "7 + 6f + m", "6 + 6f + 2p"),
    "t5, decodificador": ("17 + 7f + a", "11 + 6f", "13 + 6f + 4r", "14 + 7f + 11r", "32 + 11f + 11r",
                          "15 + 7f", "17 + 6f + 6m", "12 + 6f + m", "11 + 6f + 4p"),
}  # fmt: skip


def formula(stack: str, technique: str) -> str:
    """A linha da tabela: quantas vezes s·b·h um bloco de `stack` guarda com a técnica, uma de COLUMNS ou "pissa".

    O T5 daqui é o de depois, de feed-forward com porta; no de 2020, com ReLU, f entra uma vez só. Levanta ValueError se
    não conhece a pilha ou a técnica.
    """
    choose("a pilha", stack, TABLE)
    technique = "lora" if technique == "pissa" else choose("a técnica, nesta tabela,", technique, COLUMNS)
    return TABLE[stack][COLUMNS.index(technique)]


def elements(stack: str, technique: str, **letters: float) -> float:
    """O valor da fórmula: elements("bert", "lora", f=4, r=8 / 256). Uma letra que falta e a fórmula usa é KeyError."""
    terms = re.findall(r"(\d*)([a-z]?)(?: \+ |$)", formula(stack, technique))
    return sum(float(number or 1) * (letters[letter] if letter else 1) for number, letter in terms if number or letter)


def letters(config: transformers.PreTrainedConfig, length: int, **given: float) -> dict[str, float]:
    """As letras de um modelo. given: `r`, `m` ou `p`, em unidades, o posto, o gargalo ou os tokens virtuais."""
    h, heads = config.hidden_size, config.num_attention_heads
    width = config.d_ff if config.is_encoder_decoder else config.intermediate_size
    found = {"f": width / h, "g": getattr(config, "num_key_value_heads", heads) / heads, "a": heads * length / h}
    return found | {letter: value / (length if letter == "p" else h) for letter, value in given.items()}
