"""NF4 à mão == bitsandbytes: tabela, códigos, absmax, dupla quantização e a camada linear; e o que vale sem ele."""

import copy

import bnb
import pytest
import torch
from bnb import needs_bnb
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from ftcourse import nf4
from ftcourse.nf4 import NF4Linear, NF4Weight

quick = settings(deadline=None, max_examples=60)
seeds = st.integers(0, 2**32)
block_sizes = st.sampled_from(nf4.BLOCK_SIZES)
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
doubled = pytest.mark.parametrize("double_quant", [False, True], ids=["absmax em 32 bits", "em 8 bits"])


def gaussian(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def on_the_edges(places):
    """Um peso de fronteiras entre valores vizinhos da tabela, com um 1 em cada bloco, que não as desloca."""
    first = torch.arange(places.numel()).view(places.shape) % min(nf4.BLOCK_SIZES) == 0
    return torch.where(first, 1, nf4.middles(nf4.TABLE)[places])


# O que um peso pode ter de difícil, a partir de uma normal e do maior número do tipo.
KINDS = {
    "normal": lambda w, top: w,
    "zeros": lambda w, top: w * 0,
    "quase tudo zero": lambda w, top: w * (w > 1.5),
    "blocos de zeros": lambda w, top: w * (torch.arange(w.numel()).view(w.shape) // 64 % 2),
    "minúsculo": lambda w, top: w * 1e-38,
    "denormal": lambda w, top: w * 1e-41,
    "enorme": lambda w, top: w.clamp(-1, 1) * top,
    "de 24 ordens de grandeza": lambda w, top: w * 10 ** (4 * torch.roll(w.flatten(), 1).view(w.shape)).clamp(max=1e4),
    "nas fronteiras": lambda w, top: on_the_edges((w * 99).long() % 15),
    "só positivo": lambda w, top: w.abs() + 0.1,
}


@st.composite
def weights(draw):
    """Um peso de qualquer tamanho, tipo e feitio."""
    shape, dtype = draw(st.tuples(st.integers(1, 70), st.integers(1, 130))), draw(dtypes)
    kind = KINDS[draw(st.sampled_from([*KINDS]))]
    top = torch.finfo(dtype).max * 0.99
    return kind(gaussian(*shape, seed=draw(seeds)), top).clamp(-top, top).to(dtype)


# ---------------------------------------------------------------- igual a bitsandbytes


@needs_bnb
def test_both_tables_are_equal():
    assert torch.equal(nf4.TABLE, bnb.bitsandbytes.functional.get_4bit_type("nf4", device="cpu"))
    assert torch.equal(nf4.DYNAMIC, bnb.bitsandbytes.functional.create_dynamic_map())


@needs_bnb
@settings(deadline=None, max_examples=400)
@given(weights(), block_sizes)
def test_codes_absmax_and_the_weight_given_back_are_equal(weight, block_size):
    codes, absmax = nf4.quantize(weight, block_size)
    theirs, state = bnb.quantize(weight, block_size)
    assert torch.equal(codes, theirs.flatten()) and torch.equal(absmax, state.absmax)
    back = NF4Weight(weight, block_size, double_quant=False).dequantize()
    other = bnb.dequantize(theirs, state).view(weight.shape)
    if weight.dtype == torch.bfloat16:  # a instrução AVX512-BF16 que bitsandbytes usa troca por zero os denormais
        denormal = back.abs() <= torch.finfo(torch.bfloat16).tiny
        assert ((other == back) | (other == 0))[denormal].all()
        other = torch.where(denormal, back, other)
    assert torch.equal(back, other) and back.dtype == weight.dtype


@needs_bnb
def test_on_an_edge_and_beside_it_the_code_is_that_of_bitsandbytes():
    edges = nf4.middles(nf4.TABLE)
    beside = [torch.nextafter(edges, torch.tensor(side)) for side in (-2.0, 2.0)]
    weight = torch.cat([torch.ones(19), edges, *beside])  # um bloco de 64
    codes, _ = nf4.quantize(weight)
    assert torch.equal(codes, bnb.quantize(weight)[0].flatten())


def lookup(absmax, mean):
    """Os códigos de 8 bits como bitsandbytes os acha numa CPU: não o mais próximo, o de uma casa entre 65.536."""
    blocks = nf4.in_blocks(absmax - mean, 256)
    scales = blocks.abs().amax(1, keepdim=True)
    cells = ((blocks / scales.clamp(min=nf4.TINY) + 1) * 32767.5 + 0.5).long().clamp(0, 65535)
    nearest = torch.bucketize(torch.arange(65536) / 32767.5 - 1, nf4.middles(nf4.DYNAMIC))
    return (nearest[cells] * (scales > 0)).flatten()[: len(absmax)].to(torch.uint8)


@needs_bnb
@quick
@given(st.integers(1, 1500), seeds, st.sampled_from([0.001, 0.02, 1, 1000]))
def test_double_quantization_has_the_same_mean_and_scales_and_the_same_or_the_next_code(n, seed, scale):
    weight = gaussian(n, 32, seed=seed) * scale
    absmax = nf4.quantize(weight, 32)[1]
    codes, scales, mean = nf4.quantize_absmax(absmax)
    state = bnb.quantize(weight, 32, double_quant=True)[1]
    distance = (codes.int() - state.absmax.int()).abs()
    assert torch.equal(mean, state.offset) and torch.equal(scales, state.state2.absmax)
    assert torch.equal(lookup(absmax, mean), state.absmax)
    # Junto de zero, os valores do formato são mais próximos uns dos outros do que as casas de bitsandbytes. (Num bloco
    # só de zeros, que bitsandbytes põe no código 0, tanto faz o código.)
    assert not (distance > 1)[nf4.DYNAMIC[codes.int()].abs() > 1e-4].any()
    back = nf4.dequantize_absmax(state.absmax, scales, mean)
    assert torch.equal(back, bnb.bitsandbytes.functional.dequantize_blockwise(state.absmax, state.state2) + mean)


@needs_bnb
def test_of_a_hundred_thousand_8_bit_codes_fewer_than_half_a_percent_differ():
    weight = gaussian(100_000, 64)
    codes = nf4.quantize_absmax(nf4.quantize(weight)[1])[0]
    differ = codes != bnb.quantize(weight, double_quant=True)[1].absmax
    assert 0 < differ.float().mean() < 0.005


@needs_bnb
@doubled
@pytest.mark.parametrize("bias", [False, True])
def test_the_linear_layer_answers_and_passes_the_gradient_as_linear4bit(bias, double_quant):
    """A tolerância, relativa ao maior valor: a ordem das somas e, com a dupla quantização, os códigos vizinhos."""
    layer = nn.Linear(128, 96, bias)
    ours, theirs = NF4Linear(layer, double_quant=double_quant), bnb.linear(layer, double_quant)
    if double_quant:
        ours.quantized.absmax = theirs.weight.quant_state.absmax
    x, direction = gaussian(5, 7, 128), gaussian(5, 7, 96, seed=1)
    results = []
    for layer in (ours, theirs):
        inputs = x.clone().requires_grad_()
        answer = layer(inputs)
        (answer * direction).sum().backward()
        results.append((answer.detach(), inputs.grad))
    for one, other in zip(*results):
        assert (one - other).abs().max() <= 2.4e-7 * other.abs().max()


# ---------------------------------------------------------------- o que a quantização promete


def test_the_table_has_an_exact_zero_and_is_not_symmetric():
    assert len(nf4.TABLE) == 16 and nf4.TABLE[7] == 0 and (nf4.TABLE[0], nf4.TABLE[15]) == (-1, 1)
    assert torch.equal(nf4.TABLE.sort().values, nf4.TABLE) and nf4.TABLE[:7].abs().max() == 1
    assert len(nf4.DYNAMIC.unique()) == 256 and {0.0, 1.0} <= {*nf4.DYNAMIC.tolist()} and -1 not in nf4.DYNAMIC


@quick
@given(weights(), block_sizes)
def test_the_code_is_the_nearest_and_the_error_at_most_half_the_widest_gap(weight, block_size):
    codes, absmax = nf4.quantize(weight, block_size)
    if absmax.min() < 1e-37 or absmax.max() > 1e37:  # o inverso do absmax, fora dos números normais, perde precisão
        return
    blocks, scale = nf4.in_blocks(weight, block_size), absmax[:, None]
    back = nf4.in_blocks(nf4.dequantize(codes, absmax, block_size, weight.shape), block_size)
    error = (blocks - back).abs()
    nearest = (blocks[..., None] - nf4.TABLE * scale[..., None]).abs().amin(-1)
    assert (error <= nearest + 1e-6 * scale).all()
    assert (error <= (nf4.TABLE.diff().max() / 2 + 1e-6) * scale).all()


def test_on_a_normal_weight_the_error_is_the_known_one_and_grows_with_the_block():
    weight = gaussian(1024, 1024)
    errors = [
        (weight - NF4Weight(weight, size, double_quant=False).dequantize()).square().mean().sqrt().item()
        for size in nf4.BLOCK_SIZES
    ]
    assert errors == sorted(errors) and errors[1] == pytest.approx(0.092, abs=5e-4)
    doubled = (weight - NF4Weight(weight).dequantize()).square().mean().sqrt()
    assert errors[1] < doubled < errors[1] * 1.01


def test_two_codes_share_a_byte_the_first_in_the_high_bits():
    every = torch.arange(256, dtype=torch.uint8)
    values = nf4.dequantize(every, torch.ones(16), 32, (256, 2))
    assert torch.equal(values, torch.stack([nf4.TABLE[every.int() >> 4], nf4.TABLE[every.int() & 15]], 1))


@quick
@given(weights(), block_sizes)
def test_quantizing_what_was_quantized_changes_nothing(weight, block_size):
    codes, absmax = nf4.quantize(weight, block_size)
    if absmax.min() < 1e-37 or absmax.max() > 1e37:
        return
    again = nf4.quantize(nf4.dequantize(codes, absmax, block_size, weight.shape), block_size)
    assert torch.equal(again[0], codes) and torch.equal(again[1], absmax)


@quick
@given(weights(), block_sizes)
def test_memory_given_is_used_and_the_weight_left_alone(weight, block_size):
    before = weight.clone()
    codes, absmax = nf4.quantize(weight, block_size)
    assert torch.equal(weight, before)
    room = torch.full((2 * len(codes),), torch.nan)
    back = nf4.dequantize(codes, absmax, block_size, weight.shape, out=room)
    assert back.data_ptr() == room.data_ptr() and back.shape == weight.shape
    assert torch.equal(back, nf4.dequantize(codes, absmax, block_size, weight.shape))


@pytest.mark.parametrize("block_size", nf4.BLOCK_SIZES)
def test_bits_per_parameter_are_those_of_the_formula(block_size):
    weight = gaussian(256, 4096)
    assert NF4Weight(weight, block_size, double_quant=False).bits_per_parameter == 4 + 32 / block_size
    double = 4 + 8 / block_size + 32 / (block_size * 256) + 32 / weight.numel()  # o último termo é a média, uma só
    assert NF4Weight(weight, block_size).bits_per_parameter == double
    if block_size == 64:
        assert double == pytest.approx(4.127, abs=5e-4)


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_weight_that_is_not_a_number_is_refused(bad, dtype):
    for place in (0, -1):
        weight = gaussian(3, 33).to(dtype)
        weight.view(-1)[place] = bad
        with pytest.raises(ValueError, match="não são números"):
            nf4.quantize(weight)


@pytest.mark.parametrize("block_size", [0, 16, 63, 96, 8192, None, "64"])
def test_a_block_size_of_no_use_is_refused(block_size):
    with pytest.raises(ValueError, match="potência de 2, de 32 a 4096"):
        nf4.quantize(gaussian(4, 4), block_size)


def test_what_is_already_in_bytes_is_refused():
    with pytest.raises(ValueError, match=r"torch\.uint8.*já está em 4 bits"):
        nf4.quantize(torch.zeros(8, dtype=torch.uint8))


# ---------------------------------------------------------------- a camada linear


def pair(bias=True, dtype=torch.float32, double_quant=True, sizes=(48, 20)):
    """Uma camada em NF4 e uma comum com o mesmo Ŵ."""
    plain = nn.Linear(*sizes, bias, dtype=dtype)
    quantized = NF4Linear(plain, double_quant=double_quant)
    plain = copy.deepcopy(plain)
    plain.weight = nn.Parameter(quantized.weight, requires_grad=False)
    return quantized, plain


def run(layer, x):
    """A resposta, o gradiente da entrada e o do viés."""
    layer.zero_grad()
    x = x.clone().requires_grad_()
    answer = layer(x)
    answer.float().square().sum().backward()
    return answer.detach(), x.grad, *([] if layer.bias is None else [layer.bias.grad])


@doubled
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 7), (2, 3, 4)], ids=str)
def test_answers_and_gradients_are_exactly_those_of_the_weight_given_back(bias, dtype, shape, double_quant):
    quantized, plain = pair(bias, dtype, double_quant)
    x = gaussian(*shape, 48).to(dtype)
    results = [run(layer, x) for layer in (quantized, plain)]
    assert all(torch.equal(one, other) and one.dtype == other.dtype for one, other in zip(*results))
    assert torch.equal(quantized(x), F.linear(x, quantized.weight, quantized.bias))


def test_under_autocast_too():
    quantized, plain = pair()
    with torch.autocast("cpu", torch.bfloat16):
        results = [run(layer, gaussian(3, 7, 48)) for layer in (quantized, plain)]
    assert results[0][0].dtype == torch.bfloat16
    assert all(torch.equal(one, other) and one.dtype == other.dtype for one, other in zip(*results))


def test_between_forward_and_backward_no_weight_is_kept():
    kept = {}
    for name, layer in zip(("nf4", "comum"), pair()):
        x = gaussian(3, 48).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda t, name=name: kept.setdefault(name, t), lambda t: t):
            layer(x)
    assert kept.keys() == {"comum"}


def test_the_layer_has_what_is_asked_of_a_linear_one_and_one_weight_that_never_trains():
    plain = nn.Linear(48, 20).eval()
    layer = NF4Linear(plain)
    assert (layer.in_features, layer.out_features, layer.bias) == (48, 20, plain.bias) and not layer.training
    assert layer.weight.shape == plain.weight.shape and layer.weight.dtype == plain.weight.dtype
    assert [name for name, p in layer.named_parameters() if p.requires_grad] == ["bias"]


@doubled
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_another_type_changes_the_weight_given_back_never_what_is_stored(dtype, double_quant):
    layer = NF4Linear(nn.Linear(48, 20), double_quant=double_quant)
    stored = {name: tensor.clone() for name, tensor in layer.quantized.state_dict().items()}
    weight = layer.weight
    assert layer.to(dtype).weight.dtype == layer.bias.dtype == dtype
    now = layer.quantized.state_dict()
    assert stored.keys() == now.keys() and all(
        torch.equal(stored[n], now[n]) and stored[n].dtype == now[n].dtype for n in now
    )
    assert torch.equal(layer.weight, weight.to(dtype))
    assert torch.equal(layer.float().weight, weight)


@doubled
def test_a_copy_and_a_state_dict_carry_the_weight(double_quant):
    layer, other = (NF4Linear(nn.Linear(48, 20), double_quant=double_quant) for _ in range(2))
    assert not torch.equal(layer.weight, other.weight)
    other.load_state_dict(layer.state_dict())
    for twin in (other, copy.deepcopy(layer)):
        assert torch.equal(twin.weight, layer.weight) and torch.equal(twin.bias, layer.bias)
