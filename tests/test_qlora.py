"""QLoRA: quantizar um modelo e pôr LoRA por cima é, conta por conta, LoRA sobre o peso dequantizado."""

import copy
import io

import bnb
import peft
import pytest
import torch
import transformers
from bnb import needs_bnb
from toys import GENERATE, PAIRS, TINY, VOCABULARY, WITH_HEAD, logits, photo, shake, tiny, tiny_batch, toy_model

from ftcourse import methods, modules, qlora
from ftcourse.nf4 import NF4Linear, NF4Weight

families = pytest.mark.parametrize("family", TINY)


def quantized(family, seed=0, **options):
    return qlora.quantize_model(tiny(family, seed), **options)


def adapted(family, **options):
    """Um modelo em 4 bits com um adaptador que já não é o do começo."""
    return shake(methods.apply(quantized(family, **options), "lora"))


def in_nf4(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, NF4Linear)}


def stored(model):
    """Os bytes de tudo o que está congelado: códigos, constantes e o que ficou fora dos 4 bits."""
    trains = {n for n, p in model.named_parameters() if p.requires_grad}
    return {n: tensor.numpy().tobytes() for n, tensor in model.state_dict().items() if n not in trains}


def steps(model, n=3):
    """A perda e os gradientes do primeiro passo, e o que treina depois de `n`. {nome: tensor}"""
    model.train()
    trained, kept = methods.tensors(model, "default"), {}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    for step in range(n):
        torch.manual_seed(step)
        loss = model(**tiny_batch(model)).loss
        loss.backward()
        if not step:
            kept = {"perda": loss.detach(), **{f"∂ {name}": p.grad.clone() for name, p in trained.items()}}
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return kept | {name: p.detach().clone() for name, p in trained.items()}


def assert_equal(one, other):
    assert one.keys() == other.keys() and not [name for name in one if not torch.equal(one[name], other[name])]


# ---------------------------------------------------------------- quantizar


@families
def test_every_linear_layer_but_the_head_is_quantized_and_only_once(family):
    model = tiny(family)
    parts, linear = dict(model.named_modules()), modules.find(model, "all-linear").keys()
    assert qlora.quantize_model(model) is model and in_nf4(model).keys() == linear
    assert not isinstance(model.get_output_embeddings(), NF4Linear)
    rest = {n: m for n, m in model.named_modules() if ".quantized" not in n and n not in linear}
    assert all(module is parts[name] for name, module in rest.items())
    assert modules.find(model, "all-linear").keys() == linear
    before = in_nf4(model)
    assert in_nf4(qlora.quantize_model(model, block_size=128)) == before


@families
def test_each_weight_is_that_of_nf4_and_the_bias_the_same(family):
    model, plain = quantized(family, block_size=32), tiny(family)
    for name, layer in in_nf4(model).items():
        original = plain.get_submodule(name)
        assert torch.equal(layer.weight, NF4Weight(original.weight, 32).dequantize())
        assert (layer.bias is None) == (original.bias is None)
        assert layer.bias is None or torch.equal(layer.bias, original.bias)


@families
def test_the_choice_is_that_of_modules_find_and_never_the_head(family):
    model = tiny(family)
    some = sorted({name.rsplit(".", 1)[-1] for name in modules.find(model, "all-linear")})[:2]
    qlora.quantize_model(model, some)
    assert in_nf4(model).keys() == modules.find(model, some, outside=modules.head(model)).keys()
    if family == "bert":
        with pytest.raises(ValueError, match="classifier"):
            qlora.quantize_model(tiny(family), ["classifier"])


def test_counts_are_those_of_the_model_that_was_quantized():
    for family in TINY:
        sizes = [p.numel() for p in tiny(family).parameters()]
        assert modules.count_parameters(quantized(family))[1] == sum(sizes)


@families
def test_a_quantized_base_has_no_fingerprint(family):
    model = tiny(family)
    assert modules.fingerprint(model)
    assert modules.fingerprint(qlora.quantize_model(model)) is modules.fingerprint(model, frozen=True) is None
    assert modules.fingerprint(methods.apply(model, "lora")) is None
    assert modules.fingerprint(qlora.dequantize_model(model))


def test_after_an_adapter_it_is_too_late():
    model = methods.apply(tiny("bert"), "lora")
    before = photo(model)
    with pytest.raises(ValueError, match="quantize antes"):
        qlora.quantize_model(model)
    assert photo(model) == before


@pytest.mark.parametrize("options, words", [({}, r"\.wo: .*não são números"), ({"block_size": 48}, "potência de 2")])
def test_what_cannot_be_quantized_leaves_the_model_as_it_was(options, words):
    model = tiny("t5")
    if not options:
        model.get_submodule("transformer.decoder.block.0.layer.2.DenseReluDense.wo").weight.data[-1, -1] = torch.nan
    before = photo(model)
    with pytest.raises(ValueError, match=words):
        qlora.quantize_model(model, **options)
    assert photo(model) == before


def test_a_quantized_model_can_be_copied_and_its_state_loaded():
    model, file = quantized("llama lm"), io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = quantized("llama lm")
    with torch.no_grad():
        other.load_state_dict({name: tensor * 0 for name, tensor in other.state_dict().items()})
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(logits(other), logits(model)) and torch.equal(logits(copy.deepcopy(model)), logits(model))


# ---------------------------------------------------------------- LoRA por cima


@families
@pytest.mark.parametrize("double_quant", [False, True])
def test_losses_gradients_and_three_steps_are_those_of_lora_over_the_weight_given_back(family, double_quant):
    hand = quantized(family, double_quant=double_quant)
    plain = qlora.dequantize_model(copy.deepcopy(hand))
    assert not in_nf4(plain) and torch.equal(logits(hand), logits(plain))
    assert not torch.equal(logits(hand), logits(tiny(family)))
    for model in (hand, plain):
        shake(methods.apply(model, "lora", r=3, lora_alpha=5, lora_dropout=0.1))
    ours, theirs = steps(hand), steps(plain)
    assert_equal(ours, theirs)
    lora = [name for name in ours if name.startswith("∂") and "lora_" in name]
    assert len(lora) == 2 * len(in_nf4(hand)) and all(ours[name].abs().sum() > 0 for name in lora)
    assert torch.equal(logits(hand), logits(plain))


@pytest.mark.parametrize("family", WITH_HEAD)
def test_in_bfloat16_too(family):
    hand = qlora.quantize_model(tiny(family, dtype=torch.bfloat16))
    plain = qlora.dequantize_model(copy.deepcopy(hand))
    for model in (hand, plain):
        shake(methods.apply(model, "lora"))
    assert_equal(steps(hand), steps(plain))


@pytest.mark.parametrize("method, family", [pair for pair in PAIRS if pair[0] not in ("full", "lora")])
def test_every_technique_works_over_4_bits_as_over_the_weight_given_back(method, family):
    """DoRA e PiSSA leem o peso da base; os outros, só o que ela responde. Em todos, as contas são as mesmas."""
    hand = quantized(family)
    plain = qlora.dequantize_model(copy.deepcopy(hand))
    for model in (hand, plain):
        shake(methods.apply(model, method))
    before = stored(hand)
    assert_equal(steps(hand), steps(plain))
    assert torch.equal(logits(hand), logits(plain)) and stored(hand) == before and in_nf4(hand)


@families
def test_training_leaves_every_byte_of_the_base(family):
    model = methods.apply(quantized(family), "lora")
    before, start = stored(model), logits(model)
    steps(model)
    assert stored(model) == before and not torch.equal(logits(model), start)
    with methods.disabled(model):
        assert torch.equal(logits(model), logits(quantized(family)))
    methods.remove(model, "default")
    assert torch.equal(logits(model), logits(quantized(family)))


@families
def test_saved_and_loaded_it_answers_the_same_and_peft_reads_it(tmp_path, family, recwarn):
    model = methods.apply(quantized(family), "lora", r=2)
    steps(model)
    methods.save(model, tmp_path)
    again = methods.load(quantized(family), tmp_path)
    assert torch.equal(logits(again), logits(model)) and not [w for w in recwarn if "outros pesos" in str(w.message)]
    theirs = peft.PeftModel.from_pretrained(qlora.dequantize_model(quantized(family)), tmp_path)
    assert torch.equal(logits(theirs), logits(model))


@pytest.mark.parametrize("family", GENERATE)
def test_it_generates(family):
    model = adapted(family)
    prompt = {name: tiny_batch(model)[name] for name in ("input_ids", "attention_mask")}
    plan = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    written = model.generate(**prompt, **plan)
    assert torch.equal(written, qlora.dequantize_model(model).generate(**prompt, **plan))


def test_two_adapters_share_one_quantized_base():
    model = adapted("bert")
    first = logits(model)
    second = logits(shake(methods.apply(model, "lora", name="outro", r=2), seed=5))
    assert not torch.equal(first, second)
    assert torch.equal(logits(methods.activate(model, "default")), first)
    assert torch.equal(logits(methods.activate(model, "outro")), second)


@pytest.mark.parametrize("family", WITH_HEAD)
def test_the_head_alone_trains_and_merges_over_a_quantized_base(family):
    model = shake(methods.apply(quantized(family), "head"))
    answer = logits(model)
    assert torch.equal(logits(methods.merge_and_unload(model)), answer) and in_nf4(model)


def test_full_fine_tuning_is_refused():
    model = quantized("bert")
    before = photo(model)
    with pytest.raises(ValueError, match="4 bits, que não treinam"):
        methods.apply(model, "full")
    assert photo(model) == before


# ---------------------------------------------------------------- fundir


@families
@pytest.mark.parametrize("merge", [methods.merge, methods.merge_and_unload])
def test_merging_into_4_bits_is_refused_and_changes_nothing(family, merge):
    model = adapted(family)
    before, answer = photo(model), logits(model)
    with pytest.raises(ValueError, match=r"4 bits.*methods\.save.*qlora\.dequantize_model"):
        merge(model)
    assert photo(model) == before and torch.equal(logits(model), answer)


@families
def test_given_back_the_base_merges_and_answers_the_same(family):
    model = adapted(family)
    answer, frozen = logits(model), {n for n, p in model.named_parameters() if p.requires_grad}
    assert qlora.dequantize_model(model) is model and torch.equal(logits(model), answer)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == frozen
    torch.testing.assert_close(logits(methods.merge(model)), answer, rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(methods.unmerge(model)), answer)
    merged = methods.merge_and_unload(model)
    torch.testing.assert_close(logits(merged), answer, rtol=1e-4, atol=1e-4)
    assert [(n, type(m)) for n, m in merged.named_modules()] == [(n, type(m)) for n, m in tiny(family).named_modules()]


def test_why_a_small_update_summed_and_quantized_again_is_lost():
    """A parte de ΔW que fica, no sentido de ΔW: quase nada; quase tudo, se Ŵ + ΔW fica em 32 bits ou se W + ΔW se
    quantiza uma vez só."""
    rng = torch.Generator().manual_seed(0)
    weight, delta = (torch.randn(256, 256, generator=rng) for _ in range(2))
    delta *= 0.01 * weight.norm() / delta.norm()
    base = NF4Weight(weight).dequantize()

    def left(changed):
        return ((changed - base) * delta).sum() / delta.square().sum()

    assert left(NF4Weight(base + delta).dequantize()) < 0.1
    assert left(base + delta) == pytest.approx(1, abs=1e-3)
    assert left(NF4Weight(weight + delta).dequantize()) > 0.9


# ---------------------------------------------------------------- preparar


@families
def test_prepared_everything_outside_the_4_bits_is_float32_and_the_gradients_are_the_same(family):
    one = qlora.quantize_model(tiny(family, dtype=torch.bfloat16))
    other = copy.deepcopy(one).float()
    assert qlora.prepare(one) is one
    assert {p.dtype for p in one.parameters()} == {torch.float32, torch.uint8}
    results, calls = [], []
    for model in (one, other):
        shake(methods.apply(model, "lora"))
        calls.append(0)
        for layer in in_nf4(model).values():
            layer.register_forward_hook(lambda *_: calls.append(calls.pop() + 1))
        results.append(steps(model, 1))
    assert_equal(*results)
    assert calls[0] > calls[1] == len(in_nf4(other))  # o que não foi guardado foi refeito


# ---------------------------------------------------------------- com bitsandbytes


def toy_pair():
    """O mesmo BERT de brinquedo em NF4, à mão e com as camadas de bitsandbytes."""
    hand = toy_model(hidden_size=64, intermediate_size=128)  # larguras em que dequantize_4bit não erra: ver bnb.py
    theirs = copy.deepcopy(hand)
    for name, layer in modules.find(theirs, "all-linear").items():
        theirs.set_submodule(name, bnb.linear(layer, double_quant=False))
    return qlora.quantize_model(hand, double_quant=False), theirs


READ_W = ("dora", "pissa")  # as que leem W, que em bitsandbytes são códigos


@needs_bnb
@pytest.mark.parametrize("method", [m for m in methods.METHODS if m not in ("full", "head", *READ_W)])
def test_over_the_layers_of_bitsandbytes_a_technique_is_the_same(method):
    """A tolerância: bitsandbytes soma em outra ordem, a 2,4e-7 por camada."""
    hand, theirs = toy_pair()
    batch = {"input_ids": torch.arange(5, 25).view(2, 10), "labels": torch.tensor([0, 1])}
    results = []
    for model in (hand, theirs):
        shake(methods.apply(model, method))
        loss = model(**batch).loss
        loss.backward()
        results.append({"perda": loss.detach(), **{n: p.grad for n, p in methods.tensors(model, "default").items()}})
    assert results[0].keys() == results[1].keys() and all(one.any() for one in results[0].values())
    # Do maior de todos: o gradiente dos vieses de K é zero, e o que se vê é arredondamento.
    largest = max(one.abs().max().item() for one in results[0].values())
    for name, one in results[0].items():
        torch.testing.assert_close(one, results[1][name], rtol=1e-4, atol=1e-6 * largest)


@needs_bnb
@pytest.mark.parametrize("method", READ_W)
def test_a_technique_that_reads_the_weight_does_not_take_codes_for_it(method):
    model = toy_pair()[1]
    before = photo(model)
    with pytest.raises(ValueError, match=r"query guarda o peso em inteiros.*Use LoRA.*qlora\.quantize_model"):
        methods.apply(model, method)
    assert photo(model) == before


@needs_bnb
def test_the_layers_of_bitsandbytes_do_not_merge_do_not_train_and_have_no_fingerprint():
    model = toy_pair()[1]
    assert modules.fingerprint(model) is None
    with pytest.raises(ValueError, match="4 bits, que não treinam"):
        methods.apply(model, "full")
    with pytest.raises(ValueError, match="já está em 4 bits"):
        qlora.quantize_model(model)
    methods.apply(model, "lora")
    before = photo(model)
    with pytest.raises(ValueError, match="Esta base está em 4 bits"):
        methods.merge(model)
    assert photo(model) == before


@needs_bnb
def test_a_model_that_transformers_loads_in_4_bits_is_the_one_quantized_by_hand(tmp_path):
    """O LLaMA inteiro, por `BitsAndBytesConfig`: os mesmos pesos, e as mesmas perdas e gradientes a 1e-4."""
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, vocab_size=VOCABULARY,
        initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    settings = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=False,
        bnb_4bit_compute_dtype=torch.float32,
    )  # fmt: skip
    kind = transformers.AutoModelForCausalLM
    theirs = kind.from_pretrained(tmp_path, quantization_config=settings, dtype=torch.float32, device_map="cpu")
    hand = qlora.quantize_model(kind.from_pretrained(tmp_path), double_quant=False)
    results = []
    for model in (hand, theirs):
        for layer in model.modules():
            if hasattr(layer, "support_avx512bf16_for_cpu"):
                layer.support_avx512bf16_for_cpu = False  # ver bnb.py
        shake(methods.apply(model, "lora", r=3, lora_alpha=5))
        results.append(steps(model, 1))
    for name, layer in in_nf4(hand).items():
        twin = modules.named_linear(theirs)[name.removesuffix(".base_layer")].weight
        assert torch.equal(layer.weight.flatten(), bnb.dequantize(twin, twin.quant_state)), name
    ours, others = results
    assert ours.keys() == others.keys() and sum(name.startswith("∂") for name in ours) == 28
    for name, one in ours.items():
        if name.startswith("∂") or name == "perda":
            torch.testing.assert_close(one, others[name], rtol=1e-4, atol=1e-4 * one.abs().max().item())
