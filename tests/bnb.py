"""bitsandbytes, onde se instala, sem três defeitos da sua versão de CPU (0.50.2); onde não, os testes se pulam.

1. Num processador com AVX512-BF16, `Linear4bit` em `eval()` reempacota o peso e calcula em bfloat16: ver `linear`.
2. `dequantize_4bit` erra quando a última dimensão é múltipla de 16 e não de 64: o peso vai em fila, ver `quantize`.
3. Ao ser importado, avisa que não achou um pacote de que não precisa.
"""

import logging

import pytest
import torch

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
try:
    import bitsandbytes
except Exception:  # sem wheel para este sistema, ou com uma que não carrega
    bitsandbytes = None

needs_bnb = pytest.mark.skipif(bitsandbytes is None, reason="sem bitsandbytes neste sistema")


def quantize(weight, block_size=64, double_quant=False):
    """(códigos, estado) de um peso em NF4."""
    return bitsandbytes.functional.quantize_4bit(
        weight.reshape(1, -1), blocksize=block_size, compress_statistics=double_quant, quant_type="nf4"
    )


def dequantize(codes, state):
    """O peso de volta, em fila. Alguns tamanhos passam por torch.compile, que levaria segundos em cada um."""
    with torch.compiler.set_stance("force_eager"):
        return bitsandbytes.functional.dequantize_4bit(codes, state).flatten()


def linear(layer, double_quant=True):
    """A camada linear de 4 bits de bitsandbytes com o peso e o viés de outra."""
    sizes, bias = (layer.in_features, layer.out_features), layer.bias is not None
    twin = bitsandbytes.nn.Linear4bit(*sizes, bias, quant_type="nf4", compress_statistics=double_quant)
    twin.load_state_dict(layer.state_dict())
    twin.support_avx512bf16_for_cpu = False
    return twin.to(layer.weight.device).train(layer.training)  # é aqui que se quantiza
