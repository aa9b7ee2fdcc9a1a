"""NF4: um peso em 4 bits, numa tabela de 16 valores tirada da curva normal (Dettmers et al., 2023, §2 e §3).

    W  (d_out, d_in), lido em fila
    │
    ├── blocos de 64 ──► absmax, o maior |w| de cada um, float32 ──► menos a média, em blocos de 256
    │                         │                                                │
    │  w / absmax, em [−1, 1] │                                  8 bits cada, e um float32 por bloco
    ▼                         ▼
    código de 0 a 15, o do valor mais próximo na tabela; dois por byte, o primeiro nos 4 bits altos

    Ŵ = tabela[código] · absmax                              eq. 6
    4 + 32/64 = 4,5 bits por parâmetro                       com o absmax em float32
    4 + 8/64 + 32/(64·256) = 4,127                           com ele em 8 bits: a dupla quantização

Pesos treinados têm quase a forma de uma normal: a tabela põe mais valores perto de zero, onde há mais pesos. A tabela,
os códigos e o absmax são, bit a bit, os de bitsandbytes.
"""

import math
import statistics
from collections.abc import Sequence

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
TINY = 1e-38  # em vez de dividir por zero


def normal_table() -> torch.Tensor:
    """Os 16 valores de NF4, de −1 a 1: (16,) float32.

    São quantis da normal em probabilidades igualmente espaçadas: oito acima de zero, sete abaixo, e o zero, para que um
    peso nulo continue nulo. O quantil de 1 seria infinito; o maior que entra é o de δ. A eq. 4 do artigo não dá esta
    tabela: no primeiro quantil, o de zero, ela é −∞.
    """
    delta = 0.9677083  # 1 − (1/30 + 1/32)/2, com os sete algarismos de bitsandbytes
    quantile = statistics.NormalDist().inv_cdf
    above = [quantile(p) for p in torch.linspace(delta, 0.5, 9)[:-1].tolist()]
    below = [-quantile(p) for p in torch.linspace(delta, 0.5, 8)[:-1].tolist()]
    table = torch.tensor(sorted([*below, 0.0, *above]))
    return table / table.max()


def dynamic_map() -> torch.Tensor:
    """Os 256 valores do formato dinâmico de 8 bits (Dettmers, 2016): (256,) float32, em ordem.

    Um bit de sinal; z zeros até o primeiro 1, que dão a potência 10⁻ᶻ; os 6 − z bits que restam dividem [0,1; 1] em
    partes iguais e escolhem o meio de uma. Sobram dois códigos: 0 e 1. Longe de zero há precisão; perto, alcance.
    """
    positive = []
    for zeros in range(7):
        ends = torch.linspace(0.1, 1, 2 ** (6 - zeros) + 1)
        positive.append((ends[:-1] + ends[1:]) / 2 * 10.0**-zeros)
    positive = torch.cat(positive)
    return torch.cat([positive, -positive, torch.tensor([0.0, 1.0])]).sort().values


def middles(values: torch.Tensor) -> torch.Tensor:
    """As fronteiras entre valores vizinhos: de um lado e do outro, o mais próximo é outro. (n,) → (n − 1,)"""
    return (values[:-1] + values[1:]) / 2


TABLE, DYNAMIC = normal_table(), dynamic_map()
# Os dois valores de cada byte, num inteiro de 64 bits: buscar um número é mais rápido do que uma linha de dois.
PAIRS = torch.cartesian_prod(TABLE, TABLE).view(torch.int64).flatten()  # (256,)


def in_blocks(values: torch.Tensor, size: int) -> torch.Tensor:
    """Uma cópia em fila, em float32, completada com zeros: (n,) → (⌈n/size⌉, size)."""
    values = values.detach().flatten().float()
    return F.pad(values, (0, -values.numel() % size)).view(-1, size)


def quantize(weight: torch.Tensor, block_size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Os códigos de um peso, dois por byte, e o maior valor absoluto de cada bloco: ((⌈n/2⌉,) uint8, (⌈n/b⌉,) float32).

    weight: de qualquer forma, em float32, bfloat16 ou float16. Levanta ValueError se ele não é de números de ponto
    flutuante, se há nele inf ou nan, que estragariam o bloco inteiro, ou se block_size não é um de BLOCK_SIZES.
    """
    if block_size not in BLOCK_SIZES:
        raise ValueError(f"block_size={block_size!r}: é uma potência de 2, de 32 a 4096. Comece por 64.")
    if not weight.is_floating_point():
        raise ValueError(f"O peso é de {weight.dtype}, e só se quantiza ponto flutuante. Ele já está em 4 bits?")
    if isinstance(weight, FakeTensor):  # um ensaio de memória: há formas, e não há números
        blocks = math.ceil(weight.numel() / block_size)
        codes = weight.new_empty(blocks * block_size // 2, dtype=torch.uint8)[: math.ceil(weight.numel() / 2)]
        return codes, weight.new_empty(blocks, dtype=torch.float32)
    blocks = in_blocks(weight, block_size)
    absmax = blocks.abs().amax(1)
    if not absmax.isfinite().all():
        raise ValueError("O peso tem valores que não são números (nan ou inf), e cada um estragaria o seu bloco.")
    whole = weight.numel() // block_size  # bitsandbytes multiplica pelo inverso, mas divide o bloco incompleto do fim
    absmax[whole:].clamp_(min=TINY)
    blocks[:whole] *= (1 / absmax[:whole].clamp(min=TINY))[:, None]
    blocks[whole:] /= absmax[whole:, None]
    codes, edges = torch.zeros(blocks.numel(), dtype=torch.uint8, device=weight.device), middles(TABLE).tolist()
    for part, passed in zip(blocks.view(-1).split(2**16), codes.split(2**16)):  # partes que cabem na memória cache
        for edge in edges:
            passed += part > edge  # o código de um valor é o número de fronteiras abaixo dele
    first, second = codes.view(-1, 2).unbind(1)
    return (first << 4 | second)[: math.ceil(weight.numel() / 2)], absmax


def dequantize(
    codes: torch.Tensor, absmax: torch.Tensor, block_size: int, shape: Sequence[int], out: torch.Tensor | None = None
) -> torch.Tensor:
    """O peso que os códigos guardam, em float32, na forma `shape`.

    out: memória a reusar, contígua, em float32, com 2·len(codes) números.
    """
    n = math.prod(shape)
    out = None if out is None else out.view(-1).view(torch.int64)
    values = torch.index_select(PAIRS.to(codes.device), 0, codes.int(), out=out).view(torch.float32)[:n]
    whole = n // block_size
    values[: whole * block_size].view(whole, block_size).mul_(absmax[:whole, None])
    values[whole * block_size :].mul_(absmax[-1:])  # o bloco incompleto do fim, se houver
    return values.view(shape)


def quantize_absmax(absmax: torch.Tensor, block_size: int = 256) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A dupla quantização: (códigos (n,) uint8, escalas (⌈n/256⌉,) float32, média () float32).

    Todo absmax é positivo; sem a média, eles ocupam também os códigos negativos (§3).
    """
    mean = absmax.mean()
    blocks = in_blocks(absmax - mean, block_size)
    scales = blocks.abs().amax(1)
    blocks *= (1 / scales.clamp(min=TINY))[:, None]
    codes = torch.bucketize(blocks, middles(DYNAMIC).to(blocks.device), out_int32=True)
    return codes.flatten()[: len(absmax)].to(torch.uint8), scales, mean


def dequantize_absmax(
    codes: torch.Tensor, scales: torch.Tensor, mean: torch.Tensor, block_size: int = 256
) -> torch.Tensor:
    """O absmax que `quantize_absmax` guardou: (n,) float32."""
    blocks = in_blocks(DYNAMIC.to(codes.device)[codes.int()], block_size) * scales[:, None]
    return blocks.flatten()[: len(codes)] + mean


class NF4Weight(nn.Module):
    """Um peso quantizado: os códigos, um parâmetro que não treina, e as constantes dos blocos. Nada nele muda.

    weight, block_size: ver `quantize`. double_quant: se o absmax fica em 8 bits.
    """

    def __init__(self, weight, block_size=64, double_quant=True):
        super().__init__()
        self.shape, self.dtype, self.block_size = weight.shape, weight.dtype, block_size
        codes, absmax = quantize(weight, block_size)
        absmax, scales, mean = quantize_absmax(absmax) if double_quant else (absmax, None, None)
        self.codes = nn.Parameter(codes, requires_grad=False)
        self.register_buffer("absmax", absmax)  # float32 ou, com a dupla quantização, códigos de 8 bits
        self.register_buffer("absmax_scales", scales)
        self.register_buffer("absmax_mean", mean)

    def dequantize(self, dtype=None, out=None):
        """O peso na forma que tinha; dtype: o tipo que tinha, se não vem outro. out: ver `dequantize`."""
        absmax = self.absmax
        if self.absmax_mean is not None:
            absmax = dequantize_absmax(absmax, self.absmax_scales, self.absmax_mean)
        return dequantize(self.codes, absmax, self.block_size, self.shape, out).to(dtype or self.dtype)

    @property
    def bits_per_parameter(self):
        """Os bits guardados, constantes incluídas, por número do peso."""
        return 8 * sum(tensor.nbytes for tensor in (self.codes, *self.buffers())) / self.shape.numel()

    def _apply(self, fn, recurse=True):
        """`model.to(…)`: códigos e constantes mudam de aparelho, nunca de tipo; o tipo novo é o do peso devolvido."""
        constants = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, tensor in constants.items():
            setattr(self, name, tensor.to(self.codes.device))
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return self


class DequantizeAndMultiply(torch.autograd.Function):
    """y = x Ŵᵀ + b, sem guardar Ŵ entre a ida e a volta, que o refaz: fica a memória dos 4 bits, gasta-se tempo."""

    @staticmethod
    def forward(ctx, x, bias, quantized):
        ctx.quantized = quantized
        return F.linear(x, quantized.dequantize(x.dtype), bias if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # (…, d_out)
        for_x, for_bias, _ = ctx.needs_input_grad
        return (
            grad @ ctx.quantized.dequantize(grad.dtype) if for_x else None,  # (…, d_in)
            grad.reshape(-1, grad.shape[-1]).sum(0) if for_bias else None,
            None,
        )


class NF4Linear(nn.Module):
    """Uma camada linear de peso em NF4, feita de outra de 16 ou 32 bits: y = x Ŵᵀ + b, no tipo de x.

    O peso não treina, mas o gradiente passa por ele até x. Ver `NF4Weight` para block_size e double_quant.
    """

    def __init__(self, linear, block_size=64, double_quant=True):
        super().__init__()
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        self.quantized = NF4Weight(linear.weight, block_size, double_quant)
        self.train(linear.training)

    @property
    def weight(self):
        """Ŵ, dequantizado a cada leitura: (d_out, d_in). Mudá-lo não muda a camada."""
        return self.quantized.dequantize()

    def forward(self, x):
        return DequantizeAndMultiply.apply(x, self.bias, self.quantized)  # (…, d_out)
