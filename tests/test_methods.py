"""O protocolo das técnicas: o que muda e o que não muda num modelo, e o que uma entrada errada recebe."""

import copy
import math
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toys import (
    PAIRS,
    REFUSALS,
    TINY,
    WITH_HEAD,
    hooks,
    logits,
    mergeable,
    photo,
    shake,
    tiny,
    tiny_batch,
    tokenizer,
    toy_model,
    toy_task,
)

from ftcourse import interchange, layers, methods, modules, qlora, training
from ftcourse.dora import DoraConfig, DoraLayer
from ftcourse.ia3 import IA3Layer
from ftcourse.lora import LoraConfig, LoraLayer
from ftcourse.pissa import PissaConfig, PissaLayer

WIDE = {"pfeiffer": {"reduction_factor": 2}}  # num gargalo de largura 1, o ReLU pode não acender nunca
families = pytest.mark.parametrize("family", TINY)
quick = settings(deadline=None, max_examples=30)
everything = pytest.mark.parametrize("method, family", PAIRS)
WRAPPING = [pair for pair in PAIRS if pair[0] != "full"]  # as que não mudam a base
wrapping = pytest.mark.parametrize("method, family", WRAPPING)
everywhere_but_full = pytest.mark.parametrize("method", [method for method in methods.METHODS if method != "full"])
merging = pytest.mark.parametrize("method, family", [pair for pair in WRAPPING if mergeable(pair[0])])


def applied(family, method="lora", **options):
    """Um modelo minúsculo com um adaptador que já não é o do começo."""
    return shake(methods.apply(tiny(family), method, **options))


def bits(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys() and not [name for name in one if not torch.equal(one[name], other[name])]


def train(model, steps=2):
    """Dois passos de verdade."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for step in range(steps):
        torch.manual_seed(step)
        model(**tiny_batch(model)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def base(model):
    """Os pesos do modelo sem os adaptadores, com os nomes que tinham."""
    own = {id(p) for _, layer in layers.wrapped(model) for held in layer.own().values() for p in held.parameters()}
    own |= {id(b) for _, layer in layers.wrapped(model) for held in layer.own().values() for b in held.buffers()}
    state = model.state_dict(keep_vars=True)
    return {n.replace(".base_layer", ""): t.detach() for n, t in state.items() if id(t) not in own}


# ---------------------------------------------------------------- aplicar e treinar


@everything
def test_applying_changes_no_answer_and_returns_the_same_model(method, family):
    model = tiny(family)
    before = logits(model)
    assert methods.apply(model, method) is model
    answer = logits(model)
    assert answer.shape == before.shape
    assert torch.equal(answer, before) or hasattr(methods.METHODS[method], "changes_on_arrival")
    assert methods.active(model) == "default" and [*methods.adapters(model)] == ["default"]


@everything
def test_what_trains_is_what_the_method_says_and_all_of_it_changes(method, family):
    model = methods.apply(tiny(family), method, **WIDE.get(method, {}))
    trains = {id(p) for p in model.parameters() if p.requires_grad}
    tensors = methods.tensors(model, "default")
    assert (
        trains
        and trains == {id(p) for p in tensors.values()}
        and {p.dtype for p in tensors.values()} == {torch.float32}
    )
    assert sum(p.numel() for p in tensors.values()) == modules.count_parameters(model)[0]
    before = {name: p.detach().clone() for name, p in tensors.items()}
    train(model)
    still = {n for n, p in tensors.items() if torch.equal(p, before[n])}
    assert not still or (method == "full" and still <= {"bert.embeddings.token_type_embeddings.weight"})


@wrapping
def test_training_leaves_every_weight_of_the_base_as_it_was(method, family):
    original = bits(tiny(family))
    model = train(methods.apply(tiny(family), method))
    assert_same(base(model), original)
    with methods.disabled(model):
        assert torch.equal(logits(model), logits(tiny(family)))
    assert not torch.equal(logits(model), logits(tiny(family)))


@wrapping
def test_a_layer_is_wrapped_never_copied(method, family):
    model = tiny(family)
    before, parameters = dict(model.named_modules()), dict(model.named_parameters())
    methods.apply(model, method)
    wrapped = layers.wrapped(model)
    assert wrapped and all(layer.bare is before[name] for name, layer in wrapped)
    now = {id(p) for p in model.parameters()}
    assert {id(p) for p in parameters.values()} <= now
    methods.remove(model, "default")
    assert all(module is before[name] for name, module in model.named_modules() if name)
    assert {n: id(p) for n, p in model.named_parameters()} == {n: id(p) for n, p in parameters.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", WITH_HEAD)
def test_what_trains_is_float32_whatever_the_base(family, dtype):
    model = methods.apply(tiny(family, dtype=dtype), "lora")
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in base(model).values()} == {dtype}
    train(model)
    assert {p.dtype for p in base(methods.merge(model)).values()} == {dtype}


def test_the_seed_draws_A_and_leaves_the_generator_alone():
    before = torch.get_rng_state()
    one, again, other = (bits(methods.apply(tiny("llama"), "lora", seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(one, again)
    assert {name for name in one if not torch.equal(one[name], other[name])} == {n for n in one if "lora_A" in n}


DROPS = {m: {f.name: 0.5 for f in fields(kind) if "dropout" in f.name} for m, kind in methods.METHODS.items()}


@pytest.mark.parametrize("method, family", [pair for pair in PAIRS if DROPS[pair[0]]])
def test_what_is_zeroed_at_random_in_training_is_whole_in_evaluation(method, family):
    assert torch.equal(logits(applied(family, method, **DROPS[method])), logits(applied(family, method)))


def test_a_copy_of_the_model_is_another_model():
    model = applied("bert")
    twin = copy.deepcopy(model)
    assert torch.equal(logits(model), logits(twin))
    before = logits(model)
    shake(twin, seed=2)
    assert torch.equal(logits(model), before) and not torch.equal(logits(twin), before)


@families
def test_the_model_keeps_its_mode(family):
    model = tiny(family).train()
    model = methods.apply(model, "lora", lora_dropout=0.5)
    assert all(module.training for module in model.modules())
    methods.merge(model).eval()  # também o que está guardado enquanto o modelo está fundido
    assert not any(module.training for module in methods.unmerge(model).modules())


# ---------------------------------------------------------------- fundir


@merging
def test_merging_answers_the_same_and_unmerging_gives_the_bits_back(method, family):
    model = applied(family, method)
    before, answer, parameters = photo(model), logits(model), dict(model.named_parameters())
    assert methods.merge(model) is model
    merged, state = logits(model), bits(model)
    torch.testing.assert_close(merged, answer, rtol=1e-4, atol=1e-4)  # a ordem das somas é outra
    assert not any(p.requires_grad for p in model.parameters())
    assert_same(bits(methods.merge(model)), state)  # fundir duas vezes é fundir uma
    assert torch.equal(logits(model), merged)
    assert photo(methods.unmerge(model)) == before == photo(methods.unmerge(model))
    assert torch.equal(logits(model), answer)
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())


@pytest.mark.parametrize("method, family", [pair for pair in PAIRS if mergeable(pair[0])])
def test_merge_and_unload_leaves_the_model_of_transformers(method, family):
    model, plain = applied(family, method), tiny(family)
    answer = logits(model)
    assert methods.merge_and_unload(model) is model
    assert [(n, type(m)) for n, m in model.named_modules()] == [(n, type(m)) for n, m in plain.named_modules()]
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert model.__dict__.keys() == plain.__dict__.keys()
    torch.testing.assert_close(logits(model), answer, rtol=1e-4, atol=1e-4)
    assert not methods.adapters(model)


@pytest.mark.parametrize("method", [m for m in methods.METHODS if hasattr(methods.METHODS[m], "changes_on_arrival")])
def test_who_says_that_it_changes_the_answer_on_arrival_does(method):
    accepted = [family for family in TINY if not REFUSALS[method, family]]
    assert any(not torch.equal(logits(methods.apply(tiny(f), method)), logits(tiny(f))) for f in accepted)


@pytest.mark.parametrize("method", [method for method, family in WRAPPING if family == "llama lm"])
@pytest.mark.parametrize("merged", [False, True])
def test_nothing_of_an_inactive_adapter_is_left_in_the_model_of_transformers(method, merged):
    """Nem os ganchos de quem põe algum."""
    model = methods.apply(tiny("llama lm"), method, "inativo")
    answer = logits(shake(methods.apply(model, "lora", modules_to_save=["embed_tokens"])))
    methods.merge_and_unload(methods.merge(model) if merged else model)
    assert not hooks(model) and [*map(type, model.modules())] == [*map(type, tiny("llama lm").modules())]
    torch.testing.assert_close(logits(model), answer, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["t5 lm", "bert mlm"])
def test_merging_the_output_leaves_the_input_embeddings_that_share_its_weight(family):
    model = tiny(family)
    output, shared = model.get_output_embeddings(), model.get_input_embeddings().weight
    assert output.weight is shared
    [target] = [name for name, module in model.named_modules() if module is output]
    answer = logits(shake(methods.apply(model, "lora", target_modules=[target])))
    torch.testing.assert_close(logits(methods.merge(model)), answer, rtol=1e-4, atol=1e-4)
    methods.unmerge(model)
    assert torch.equal(logits(model), answer) and output.weight is shared is model.get_input_embeddings().weight


def test_only_the_active_adapter_is_merged():
    model = applied("bert", name="um")
    methods.apply(model, "lora", name="dois", r=2, target_modules=("query",))
    second = shake(model, seed=3)
    answer = logits(second)
    torch.testing.assert_close(logits(methods.merge(second)), answer, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- desligar


@pytest.mark.parametrize("method, family, merged", [(*p, m) for p in WRAPPING for m in {False, mergeable(p[0])}])
def test_disabled_gives_the_base_back_and_then_all_is_as_before(method, family, merged):
    model, plain = applied(family, method), logits(tiny(family))
    if merged:
        methods.merge(model)
    before, answer = photo(model)[0], logits(model)
    trains = [p.requires_grad for p in model.parameters()]
    with methods.disabled(model) as inside:
        assert inside is model and torch.equal(logits(model), plain)
        with methods.disabled(model):
            assert torch.equal(logits(model), plain)
        assert torch.equal(logits(model), plain)
    with pytest.raises(RuntimeError, match="no meio"), methods.disabled(model):
        raise RuntimeError("no meio")
    assert photo(model)[0] == before and torch.equal(logits(model), answer)
    assert trains == [p.requires_grad for p in model.parameters()]
    assert all((layer.unmerged is not None) == merged for _, layer in layers.wrapped(model))


# ---------------------------------------------------------------- vários adaptadores


@pytest.mark.parametrize("family", WITH_HEAD)
def test_adapters_live_side_by_side_and_one_acts(family):
    model = tiny(family)
    plans = {
        "um": ("lora", {"r": 2}),
        "dois": ("lora", {"r": 3, "target_modules": r".*\.(query|q_proj|q)"}),
        "três": ("head", {}),
    }
    answers, alone = {}, {}
    for name, (method, options) in plans.items():
        shake(methods.apply(model, method, name, **options), seed=len(name))
        answers[name] = logits(model)
        alone[name] = logits(shake(methods.apply(tiny(family), method, **options), seed=len(name)))
    assert [*methods.adapters(model)] == [*plans]
    for name in ("um", "três", "dois", "um", "dois"):
        assert methods.activate(model, name) is model and methods.active(model) == name
        assert torch.equal(logits(model), answers[name]) and torch.equal(answers[name], alone[name])
        assert {id(p) for p in model.parameters() if p.requires_grad} == {
            id(p) for p in methods.tensors(model, name).values()
        }
        methods.merge(model)  # e trocar com um fundido também devolve a base
    assert not any(torch.equal(answers[a], answers[b]) for a, b in (("um", "dois"), ("dois", "três"), ("um", "três")))
    methods.unmerge(model)
    assert_same(base(model), bits(tiny(family)))


@pytest.mark.parametrize("family", WITH_HEAD)
def test_the_order_of_arrival_does_not_matter(family):
    answers = []
    for order in (("um", "dois"), ("dois", "um")):
        model = tiny(family)
        for name in order:
            methods.apply(model, "lora", name, r=1 + len(name), seed=len(name))
            shake(model, seed=len(name))
        answers.append([logits(methods.activate(model, name)) for name in ("um", "dois")])
    assert all(torch.equal(one, other) for one, other in zip(*answers))


@pytest.mark.parametrize("family, target", [("bert", "classifier"), ("llama", "score"), ("t5", "out_proj")])
def test_one_adapter_changes_the_head_and_another_trains_a_copy_of_the_original(family, target):
    model = tiny(family)
    plan = {"target_modules": [target], "modules_to_save": ()}
    first = logits(shake(methods.apply(model, "lora", "um", r=2, **plan)))
    shake(methods.apply(model, "head", "dois"), seed=2)
    alone = shake(methods.apply(tiny(family), "head", "dois"), seed=2)
    assert torch.equal(logits(model), logits(alone))
    assert methods.tensors(model, "dois").keys() == methods.tensors(alone, "dois").keys()
    assert torch.equal(logits(methods.activate(model, "um")), first)
    torch.testing.assert_close(logits(methods.merge(model)), first, rtol=1e-4, atol=1e-4)
    for name, answer in {"um": first, "dois": logits(alone)}.items():
        plain = methods.merge_and_unload(methods.activate(copy.deepcopy(model), name))
        assert [*map(type, plain.modules())] == [*map(type, tiny(family).modules())]
        torch.testing.assert_close(logits(plain), answer, rtol=1e-4, atol=1e-4)
    for name in ("um", "dois"):
        methods.remove(model, name)
    assert [*model.state_dict()] == [*tiny(family).state_dict()]
    assert_same(bits(model), bits(tiny(family)))


@wrapping
def test_the_same_name_again_starts_afresh(method, family):
    fresh = methods.apply(tiny(family), method)
    model = applied(family, method)
    if mergeable(method):
        methods.merge(model)
    methods.apply(model, method)
    assert photo(model)[0] == photo(fresh)[0] and torch.equal(logits(model), logits(fresh))


def test_the_same_name_with_other_settings_leaves_nothing_of_the_old():
    for again in ({"target_modules": ("value",)}, {"modules_to_save": ()}, {"r": 2}):
        fresh = methods.apply(tiny("bert"), "lora", **again)
        model = methods.apply(applied("bert"), "lora", **again)
        assert photo(model)[0] == photo(fresh)[0] and methods.adapters(model) == methods.adapters(fresh)
    model = methods.apply(applied("bert"), "head")
    assert photo(model)[0] == photo(methods.apply(tiny("bert"), "head"))[0]
    assert methods.apply(applied("bert"), "full").state_dict().keys() == tiny("bert").state_dict().keys()


def test_remove_takes_one_and_the_last_that_is_left_acts():
    model = applied("bert", name="um")
    first = logits(model)
    shake(methods.apply(model, "lora", "dois", r=3, target_modules=("value",)), seed=2)
    second = logits(model)
    shake(methods.apply(model, "head", "três"), seed=3)
    methods.remove(model, "um")
    assert methods.active(model) == "três" and [*methods.adapters(model)] == ["dois", "três"]
    assert methods.remove(model, "três") is model and methods.active(model) == "dois"
    assert torch.equal(logits(model), second) and not torch.equal(first, second)
    methods.remove(methods.merge(model), "dois")
    assert model.state_dict().keys() == tiny("bert").state_dict().keys() and not methods.adapters(model)
    assert_same(bits(model), bits(tiny("bert")))


# ---------------------------------------------------------------- qualquer técnica depois de qualquer outra

PLACES = [("bert", torch.float32), ("llama", torch.bfloat16), ("t5 lm", torch.float32)]
ALONE = {}


def plans(method):
    """Os ajustes do começo de uma técnica, e outros: cada número pela metade, ou outra vez e meia."""
    first = methods.configure(method)
    numbers = {k: v for k, v in vars(first).items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    return first, replace(first, **{k: max(1, v // 2) if type(v) is int else 1.5 * v for k, v in numbers.items()})


def shown(model, name):
    """O que se vê de um adaptador ativo: a resposta, fundido ou não, o que treina e o que iria para o arquivo."""
    written = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interchange, "write", lambda _, *parts: written.update(zip(("config", "tensors", "base"), parts)))
        methods.save(model, "lugar nenhum", name)
    seen = {f"no arquivo, {key}": tensor.clone() for key, tensor in written.pop("tensors").items()} | written
    seen["resposta"], held = logits(model), methods.tensors(model, name)
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in held.values()}
    if not hasattr(written["config"], "unmergeable"):
        seen["fundido"] = logits(methods.merge(model))
    return seen


def alone(config, seed, family, dtype):
    """O mesmo de um modelo que só tem esse adaptador."""
    if (key := (config, seed, family, dtype)) not in ALONE:
        model = shake(methods.apply(tiny(family, dtype=dtype), config, "só", seed=seed), seed)
        ALONE[key] = shown(model, "só")
    return ALONE[key]


def assert_each_is_as_alone(first, second, family, dtype):
    """Dois adaptadores no mesmo modelo: nenhum vê o outro, em nenhuma ordem, e ao sair não deixam nada."""
    model, given = tiny(family, dtype=dtype).requires_grad_(False), {"um": first, "dois": second}
    before = photo(model)[:-1]
    for seed, (name, config) in enumerate(given.items()):
        shake(methods.apply(model, config, name, seed=seed), seed)
        if name == "um" and not hasattr(config, "unmergeable"):
            methods.merge(model)  # quem chega não depende de o outro estar fundido
    for name in ("um", "dois", "um"):
        expected = alone(given[name], [*given].index(name), family, dtype)
        ours = shown(methods.activate(model, name), name)
        assert ours.keys() == expected.keys()
        for key, value in expected.items():
            assert torch.equal(ours[key], value) if torch.is_tensor(value) else ours[key] == value, (name, key)
    for name in given:
        methods.remove(model, name)
    assert photo(model)[:-1] == before


@pytest.mark.parametrize("i, second", [*enumerate(method for method in methods.METHODS if method != "full")])
@pytest.mark.parametrize("j, first", [*enumerate(method for method in methods.METHODS if method != "full")])
def test_each_of_two_adapters_is_as_if_alone_whatever_the_order(i, first, j, second):
    """Cada par numa família, para que sejam poucos segundos."""
    fit = [place for place in PLACES if not REFUSALS[first, place[0]] and not REFUSALS[second, place[0]]]
    assert_each_is_as_alone(plans(first)[0], plans(second)[1], *fit[(i + 2 * j) % len(fit)])


# ---------------------------------------------------------------- a conta


@quick
@given(
    st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.floats(0.01, 100), st.booleans(), st.booleans(),
    st.integers(0, 99),
)  # fmt: skip
def test_one_layer_is_the_formula(d_in, d_out, r, alpha, rslora, bias, seed):
    config = LoraConfig(r=r, lora_alpha=alpha, use_rslora=rslora)
    torch.manual_seed(seed)
    linear, x = nn.Linear(d_in, d_out, bias=bias), torch.randn(2, 3, d_in)
    drawn = torch.get_rng_state()
    layer = LoraLayer(linear).add("default", config)
    layer.active = "default"
    torch.set_rng_state(drawn)
    assert torch.equal(layer.lora_A["default"], nn.Linear(d_in, r, bias=False).weight)  # A nasce como nn.Linear
    A, B = layer.lora_A["default"], layer.lora_B["default"]
    assert A.shape == (r, d_in) and B.shape == (d_out, r) and A.numel() + B.numel() == r * (d_in + d_out)
    assert not B.any() and torch.equal(layer(x), linear(x))
    assert config.scaling == (alpha / math.sqrt(r) if rslora else alpha / r)
    with torch.no_grad():
        B.normal_()
        delta = config.scaling * B.double() @ A.double()
        torch.testing.assert_close(layer.delta_weight("default").double(), delta, rtol=1e-4, atol=1e-4)
        assert torch.linalg.matrix_rank(B @ A) <= r
        torch.testing.assert_close(layer(x).double(), linear(x).double() + x.double() @ delta.T, rtol=1e-4, atol=1e-3)
        W = linear.weight.clone()
        layer.merge()
        assert torch.equal(linear.weight, W + layer.delta_weight("default")) and torch.equal(layer(x), linear(x))
        layer.unmerge()
        assert torch.equal(linear.weight, W)


@quick
@given(st.sampled_from([*TINY]), st.integers(0, 20), st.integers(1, 4), st.data())
def test_the_count_is_the_formula_for_any_targets(family, seed, r, data):
    model = tiny(family, seed)
    every = modules.find(model, "all-linear")
    chosen = data.draw(st.lists(st.sampled_from([*every]), min_size=1, unique=True))
    head = sum(p.numel() for name in modules.head(model) for p in model.get_submodule(name).parameters())
    plain = sum(p.numel() for p in model.parameters())
    methods.apply(model, "lora", r=r, target_modules=chosen)
    added = sum(r * (every[name].in_features + every[name].out_features) for name in chosen)
    assert modules.count_parameters(model) == (head + added, plain + head + added)
    assert set(modules.targets(model, "default")) == set(chosen)


@quick
@given(st.floats(0.05, 0.9), st.integers(0, 99))
def test_dropout_zeroes_its_fraction_and_keeps_the_mean(fraction, seed):
    layer = LoraLayer(nn.Linear(1, 1)).add("default", LoraConfig(r=1, lora_alpha=1, lora_dropout=fraction)).train()
    layer.active = "default"
    with torch.no_grad():
        layer.lora_A["default"].fill_(1)
        layer.lora_B["default"].fill_(1)
        torch.manual_seed(seed)
        x = torch.ones(20_000, 1)
        change = layer(x) - layer.base_layer(x)
    assert (change == 0).float().mean() == pytest.approx(fraction, abs=0.03) and change.mean() == pytest.approx(
        1, abs=0.15
    )


# ---------------------------------------------------------------- a conta de PiSSA, de DoRA, de IA³ e de BitFit


@quick
@given(st.integers(1, 12), st.integers(1, 12), st.floats(0.1, 10), st.booleans(), st.data())
def test_one_layer_of_pissa_is_the_formula(d_in, d_out, alpha, rslora, data):
    r = data.draw(st.integers(1, min(d_in, d_out)))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    linear, x = nn.Linear(d_in, d_out), torch.randn(2, 3, d_in)
    config = PissaConfig(r=r, lora_alpha=alpha, use_rslora=rslora)
    layer, W = PissaLayer(linear).add("default", config), linear.weight.detach().clone()
    layer.active, A, B = "default", layer.lora_A["default"], layer.lora_B["default"]
    assert torch.equal(layer(x), linear(x)) and torch.equal(layer.merged("default")["weight"], W)
    with torch.no_grad():
        rest = W - config.scaling * B @ A  # a melhor aproximação de posto r deixa os valores singulares menores
        singular = torch.linalg.svdvals(W)
        torch.testing.assert_close(torch.linalg.matrix_norm(rest), singular[r:].norm(), rtol=1e-4, atol=1e-5)
        A.normal_(), B.normal_()
        answer = layer(x)
        expected = x @ (rest + config.scaling * B @ A).T + linear.bias
        scale = 1e-5 * (1 + expected.abs().max().item() + config.scaling * (B @ A).abs().sum().item())
        torch.testing.assert_close(answer, expected, rtol=1e-4, atol=scale)
        layer.merge()
        torch.testing.assert_close(layer(x), answer, rtol=1e-4, atol=scale)
        layer.unmerge()
    assert torch.equal(linear.weight, W)


@quick
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 6), st.floats(0.1, 10), st.booleans(), st.integers(0, 99))
def test_one_layer_of_dora_is_the_formula(d_in, d_out, r, alpha, bias, seed):
    torch.manual_seed(seed)
    linear, x = nn.Linear(d_in, d_out, bias=bias), torch.randn(2, 3, d_in)
    layer = DoraLayer(linear).add("default", config := DoraConfig(r=r, lora_alpha=alpha))
    layer.active, W = "default", linear.weight.detach().clone()
    m, B = layer.lora_magnitude_vector["default"], layer.lora_B["default"]
    assert torch.equal(m, torch.linalg.norm(W, dim=1)) and torch.equal(layer(x), linear(x))
    assert sum(p.numel() for p in layer.tensors("default").values()) == r * (d_in + d_out) + d_out
    with torch.no_grad():
        B.normal_(), m.normal_()
        V = W.double() + config.scaling * B.double() @ layer.lora_A["default"].double()
        merged = m[:, None] * V / V.norm(dim=1, keepdim=True)
        answer, b = layer(x), linear.bias.double() if bias else 0
        scale = 1e-4 * (1 + merged.abs().max() + (m / V.norm(dim=1)).abs().max())  # a soma de h e −W x cancela dígitos
        torch.testing.assert_close(answer.double(), x.double() @ merged.T + b, rtol=1e-4, atol=scale.item())
        torch.testing.assert_close(torch.linalg.norm(layer.merged("default")["weight"], dim=1), m.abs())
        layer.merge()
        torch.testing.assert_close(layer(x), answer, rtol=1e-4, atol=scale.item())
        layer.unmerge()
        assert torch.equal(linear.weight, W)


@quick
@given(st.integers(1, 12), st.integers(1, 12), st.booleans(), st.booleans(), st.integers(0, 99))
def test_one_layer_of_ia3_is_the_formula(d_in, d_out, on_input, bias, seed):
    torch.manual_seed(seed)
    linear, x = nn.Linear(d_in, d_out, bias=bias), torch.randn(2, 3, d_in)
    layer = IA3Layer(linear).add("default", on_input)
    layer.active, original, plain = "default", bits(linear), linear(x)
    vector = layer.ia3_l["default"]
    assert vector.shape == (d_in if on_input else d_out,) and (vector == 1).all()
    assert layer.kept("default")["ia3_l"].shape == ((1, d_in) if on_input else (d_out, 1))  # a forma de peft
    assert torch.equal(layer(x), plain)
    with torch.no_grad():
        vector.normal_()
        answer = layer(x)
        scale, b = vector, linear.bias if bias else 0
        torch.testing.assert_close(answer, (x * scale) @ linear.weight.T + b if on_input else plain * scale)
        layer.merge()
        torch.testing.assert_close(layer(x), answer)
        assert torch.equal(bits(linear)["weight"], original["weight"] * (vector if on_input else vector[:, None]))
        if bias:  # o viés de W₂ não passa por l
            assert torch.equal(linear.bias, original["bias"] if on_input else original["bias"] * scale)
        layer.unmerge()
    assert_same(bits(linear), original)


@quick
@given(st.sampled_from([*TINY]), st.integers(0, 20))
def test_ia3_counts_two_outputs_and_one_input_a_block(family, seed):
    model = tiny(family, seed)
    by_role = {role: modules.by_role(model, role).values() for role in ("key", "value", "down")}
    added = sum(m.out_features for role in ("key", "value") for m in by_role[role])
    added += sum(m.in_features for m in by_role["down"])
    head = sum(p.numel() for name in modules.head(model) for p in model.get_submodule(name).parameters())
    assert modules.count_parameters(methods.apply(model, "ia3"))[0] == head + added


@quick
@given(st.sampled_from([*TINY]), st.integers(0, 20))
def test_new_biases_are_one_number_an_output(family, seed):
    model = tiny(family, seed)
    linear = modules.find(model, "all-linear").values()
    had = {name for name, p in model.base_model.named_parameters() if name.endswith(".bias") and "pooler" not in name}
    norms = sum(p.numel() for n, p in model.base_model.named_parameters() if n in had and "LayerNorm" in n)
    head = sum(p.numel() for name in modules.head(model) for p in model.get_submodule(name).parameters())
    trains = modules.count_parameters(methods.apply(model, "bitfit", trains="new_bias"))[0]
    assert trains == head + norms + sum(layer.out_features for layer in linear)
    assert not [n for n in methods.tensors(model, "default") if "relative_attention_bias" in n]


@families
def test_lora_ia3_and_bitfit_share_a_base(family):
    """Um envoltório dentro do outro: cada um responde como se estivesse só, e a base volta."""
    model, answers = tiny(family), {}
    plans = {"lora": {"r": 2}, "ia3": {}, "bitfit": {"trains": "new_bias"}}
    for method, options in plans.items():
        answers[method] = logits(shake(methods.apply(model, method, method, **options), seed=len(method)))
        alone = shake(methods.apply(tiny(family), method, method, **options), seed=len(method))
        assert torch.equal(answers[method], logits(alone))
    for method in (*plans, *plans):
        assert torch.equal(logits(methods.activate(model, method)), answers[method])
        torch.testing.assert_close(logits(methods.merge(model)), answers[method], rtol=1e-4, atol=1e-4)
    for method in plans:
        methods.remove(model, method)
    assert_same(bits(model), bits(tiny(family)))


# ---------------------------------------------------------------- o que é recusado

REFUSED = {
    "r zero": ({"r": 0}, r"r=0: .*inteiro a partir de 1"),
    "r negativo": ({"r": -1}, r"r=-1: .*inteiro a partir de 1"),
    "r quebrado": ({"r": 2.5}, r"r=2\.5: .*inteiro"),
    "r lógico": ({"r": True}, r"r=True: .*inteiro"),
    "r texto": ({"r": "8"}, r"r='8': .*inteiro"),
    "r maior que a camada": ({"r": 99}, r"r=99 não cabe em .*query, de \d+ × \d+.*r menor"),
    "alfa zero": ({"lora_alpha": 0}, r"lora_alpha=0: .*maior que zero"),
    "alfa nan": ({"lora_alpha": math.nan}, r"lora_alpha=nan: "),
    "alfa infinito": ({"lora_alpha": math.inf}, r"lora_alpha=inf: "),
    "alfa texto": ({"lora_alpha": "16"}, r"lora_alpha='16': .*número"),
    "dropout 1": ({"lora_dropout": 1.0}, r"lora_dropout=1\.0: .*de 0 a menos de 1"),
    "dropout negativo": ({"lora_dropout": -0.1}, r"lora_dropout=-0\.1: "),
    "dropout texto": ({"lora_dropout": "0"}, r"lora_dropout='0': "),
    "rslora texto": ({"use_rslora": "não"}, r"use_rslora='não': .*True ou False"),
    "alvo que não há": ({"target_modules": ["quer"]}, r"'quer'.*'query'.*all-linear.*quis dizer 'query'"),
    "alvo de outra família": ({"target_modules": ["q_proj"]}, r"'q_proj'.*'query'"),
    "um de dois alvos": ({"target_modules": ["query", "vlue"]}, r"'vlue'.*quis dizer 'value'"),
    "expressão que não casa": ({"target_modules": "query"}, r"'query'.*expressão regular do nome inteiro.*lista"),
    "expressão inválida": ({"target_modules": "(query"}, r"\(query.*expressão regular"),
    "lista vazia": ({"target_modules": []}, r"target_modules=\[\]: .*all-linear"),
    "alvo None": ({"target_modules": None}, r"target_modules=None: .*all-linear"),
    "alvo número": ({"target_modules": 8}, r"target_modules=8: .*all-linear"),
    "alvo com números": ({"target_modules": [8]}, r"target_modules=\[8\]: .*all-linear"),
    "módulo que não há": ({"modules_to_save": ["clasifier"]}, r"modules_to_save: .*'clasifier'"),
    "módulo em texto": ({"modules_to_save": "classifier"}, r"modules_to_save='classifier': .*lista"),
    "ajuste que não há": ({"rank": 8}, r"'rank'.*Existe: 'r', 'lora_alpha'"),
    "ajuste parecido": ({"lora_alfa": 8}, r"'lora_alfa'.*quis dizer 'lora_alpha'"),
    "técnica que não há": ({"method": "lorra"}, r"a técnica 'lorra'.*'full'.*quis dizer 'lora'"),
    "técnica que é lista": ({"method": ["lora"]}, r"a técnica \['lora'\].*'lora'"),
    "nome com espaço": ({"name": "a b"}, r"'a b'.*uma palavra só|uma palavra só.*'a b'"),
    "nome com ponto": ({"name": "a.b"}, r"uma palavra só.*'a\.b'"),
    "nome vazio": ({"name": ""}, r"uma palavra só.*''"),
    "nome None": ({"name": None}, r"uma palavra só.*None"),
    "nome que torch usa": ({"name": "keys"}, r"'keys'"),
}  # fmt: skip
refused = pytest.mark.parametrize("options, words", REFUSED.values(), ids=REFUSED)


@refused
@pytest.mark.parametrize("state", ["puro", "aplicado", "fundido"])
def test_a_bad_input_is_told_in_a_sentence_and_the_model_stays(state, options, words):
    model = tiny("bert") if state == "puro" else applied("bert")
    if state == "fundido":
        methods.merge(model)
    before, answer = photo(model), logits(model)
    with pytest.raises(ValueError, match=words):
        methods.apply(model, **{"method": "lora"} | options)
    assert photo(model) == before and torch.equal(logits(model), answer)


def test_settings_over_a_config_are_checked_too():
    with pytest.raises(ValueError, match=r"'rank'.*Existe: 'r'"):
        methods.apply(tiny("bert"), LoraConfig(), rank=8)
    model = methods.apply(tiny("bert"), LoraConfig(r=2), lora_alpha=3)
    assert methods.adapters(model)["default"].r == 2 and methods.adapters(model)["default"].lora_alpha == 3


BAD_CALLS = {
    "ativar o que não há": (lambda m: methods.activate(m, "defalt"), r"o adaptador 'defalt'.*quis dizer 'default'"),
    "tirar o que não há": (lambda m: methods.remove(m, "outro"), r"o adaptador 'outro'.*'default'"),
    "gravar o que não há": (lambda m: methods.save(m, "nada", "outro"), r"o adaptador 'outro'.*'default'"),
}


@pytest.mark.parametrize("call, words", BAD_CALLS.values(), ids=BAD_CALLS)
@pytest.mark.parametrize("merged", [False, True])
def test_an_unknown_adapter_is_told_with_those_that_exist(call, words, merged):
    model = methods.merge(applied("bert")) if merged else applied("bert")
    before = photo(model)
    with pytest.raises(ValueError, match=words):
        call(model)
    assert photo(model) == before


WITHOUT = {
    "fundir": methods.merge,
    "desfundir": methods.unmerge,
    "fundir e tirar": methods.merge_and_unload,
    "gravar": lambda model: methods.save(model, "nada"),
    "desligar": lambda model: methods.disabled(model).__enter__(),
    "perguntar": methods.active,
}


@pytest.mark.parametrize("call", WITHOUT.values(), ids=WITHOUT)
@pytest.mark.parametrize("removed", [False, True])
def test_without_an_adapter_there_is_nothing_to_do(call, removed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = methods.remove(applied("bert"), "default") if removed else tiny("bert")
    before = photo(model)
    with pytest.raises(ValueError, match=r"não tem adaptador: comece por methods\.apply"):
        call(model)
    assert photo(model) == before and not [*tmp_path.iterdir()]


WAYS_OUT = {
    "head": r"não tem uma cabeça.*carregue-o com a tarefa",
    "bitfit": r'não tem vieses.*relative_attention_bias.*trains="new_bias".*trains="norm"',
}
UNSUITED = [pair for pair, words in REFUSALS.items() if words]


def test_only_who_lacks_what_trains_is_refused():
    no_head, no_bias = [f for f in TINY if f not in WITH_HEAD], [f for f in TINY if not f.startswith("bert")]
    assert [("head", family) for family in no_head] + [("bitfit", family) for family in no_bias] == UNSUITED


@pytest.mark.parametrize("method, family", UNSUITED)
def test_a_model_without_what_the_method_trains_is_told_the_way_out(method, family):
    model = tiny(family)
    before = photo(model)
    with pytest.raises(ValueError, match=WAYS_OUT[method]):
        methods.apply(model, method)
    assert photo(model) == before


def test_the_full_method_lives_alone_and_has_no_way_back():
    model = shake(methods.apply(tiny("bert"), "full"))
    before = photo(model)
    with pytest.raises(ValueError, match=r"mudou a própria base.*carregue o modelo outra vez"), methods.disabled(model):
        pass
    with pytest.raises(ValueError, match=r"ajuste completo muda a base.*'default'.*Carregue o modelo"):
        methods.apply(model, "lora", "outro")
    assert photo(model) == before == photo(methods.unmerge(methods.merge(model)))
    methods.apply(model, "lora")  # no mesmo nome, a base é a que o ajuste completo deixou
    assert_same(base(model), dict(shake(methods.apply(tiny("bert"), "full")).state_dict().items()))


@pytest.mark.parametrize("merged", [False, True])
def test_the_full_method_is_refused_where_another_adapter_counts_on_the_base(merged):
    model = methods.merge(applied("bert")) if merged else applied("bert")
    before = photo(model)
    with pytest.raises(ValueError, match=r"ajuste completo muda a base.*'default'.*Carregue o modelo outra vez"):
        methods.apply(model, "full", "outro")
    assert photo(model) == before


def test_nothing_of_this_warns():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="ftcourse")
        methods.merge_and_unload(train(methods.apply(tiny("bert"), "lora")))


# ---------------------------------------------------------------- o que treina inteiro


@pytest.mark.parametrize(
    "method, family, part",
    [
        ("houlsby", "bert", "LayerNorm"),
        ("pfeiffer", "llama", "post_attention_layernorm"),
        ("prompt", "bert", "word_embeddings"),
        ("prompt", "llama lm", "embed_tokens"),
        ("prefix", "bert", "word_embeddings"),
        ("lora", "t5 lm", "shared"),
        ("lora", "bert", "embeddings"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_trains_whole_is_trained_also_where_the_technique_acts(method, family, part, dtype):
    model = methods.apply(tiny(family, dtype=dtype), method, modules_to_save=[part], **WIDE.get(method, {}))
    trained = {n: p for n, p in methods.tensors(model, "default").items() if part in n}
    assert trained and {p.dtype for p in trained.values()} == {torch.float32}
    train(model)
    assert all(p.grad is None or p.grad.isfinite().all() for p in trained.values())
    moved = [n for n, p in trained.items() if not torch.equal(p.to(dtype), tiny(family, dtype=dtype).get_parameter(n))]
    assert {*moved} >= {n for n in trained if "token_type" not in n}  # a segunda linha dos tipos ninguém lê
    answer = logits(model)
    assert answer.isfinite().all() and (answer.dtype == dtype or modules.head(model))
    with methods.disabled(model):
        assert torch.equal(logits(model), logits(tiny(family, dtype=dtype)))


def test_the_tables_of_T5_are_one_weight_and_train_as_one():
    """transformers lê encoder.embed_tokens, e não shared: a cópia é a mesma nas três."""
    for part in ("shared", "embed_tokens", "encoder.embed_tokens"):
        model = methods.apply(tiny("t5 lm"), "lora", modules_to_save=[part])
        tables = {n: p for n, p in methods.tensors(model, "default").items() if "lora" not in n}
        assert {*tables} == {"shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
        assert len({id(p) for p in tables.values()}) == 1
        adapted = sum(p.numel() for n, p in methods.tensors(model, "default").items() if "lora" in n)
        assert modules.count_parameters(model)[0] == adapted + model.config.vocab_size * model.config.d_model
        model(**tiny_batch(model)).loss.backward()
        assert tables["shared.weight"].grad.abs().sum() > 0
        answer = logits(shake(model))
        torch.testing.assert_close(logits(methods.merge(model)), answer, rtol=1e-4, atol=1e-4)
        assert torch.equal(logits(methods.unmerge(model)), answer)


BODY = {
    "atenção": ("llama", "self_attn"), "feed-forward": ("llama", "layers.0.mlp"), "bloco": ("t5 lm", "encoder.block.0"),
    "camada linear": ("bert", "query"), "linear e cabeça": ("bert", "dense"), "pilha": ("bert", "encoder"),
    "sem nada": ("bert", "dropout"), "nome vazio": ("bert", ""), "que não há": ("bert", "clasifier"),
}  # fmt: skip


@pytest.mark.parametrize("family, part", BODY.values(), ids=BODY)
@pytest.mark.parametrize("method", ["lora", "prompt", "pfeiffer"])
def test_the_body_does_not_train_whole_and_is_refused_before_anything_is_touched(family, part, method):
    model = shake(methods.apply(tiny(family), "lora", "outro", r=2))
    before = photo(model)
    with pytest.raises(ValueError, match=r"modules_to_save: .*(não treina inteiro|o que treinar|não tem um módulo)"):
        methods.apply(model, method, modules_to_save=["LayerNorm", part] if family == "bert" else [part])
    assert photo(model) == before


def test_a_layer_in_4_bits_does_not_train_whole():
    model = qlora.quantize_model(tiny("bert"))
    before = photo(model)
    for part in ("query", "layer.0.intermediate"):
        with pytest.raises(ValueError, match=r"modules_to_save: .* está em 4 bits"):
            methods.apply(model, "lora", modules_to_save=[part])
    assert photo(model) == before


# ---------------------------------------------------------------- o resumo da base


@quick
@given(st.sampled_from([*TINY]), st.integers(0, 5), st.booleans(), st.data())
def test_the_fingerprint_changes_with_any_one_number_of_the_base(family, seed, used, data):
    model = tiny(family, seed)
    before = modules.fingerprint(model)
    assert before == modules.fingerprint(tiny(family, seed, torch.float32).float()) is not None
    head = {p for name in modules.head(model) for p in model.get_submodule(name).parameters()}
    weights = {n: p for n, p in model.named_parameters() if p not in head}
    chosen = weights[data.draw(st.sampled_from(sorted(weights)))].data.view(-1)
    if used:
        methods.apply(model, "lora", r=1)
    place = data.draw(st.integers(0, len(chosen) - 1))
    original = chosen[place].clone()
    chosen[place] = original + 1
    assert modules.fingerprint(model) != before
    chosen[place] = original
    assert modules.fingerprint(model) == before


@pytest.mark.parametrize("shape", [(8192, 128), (128, 512), (512, 128), (97, 33), (1, 1), (7,), (8, 8)])
def test_the_fingerprint_reads_the_whole_of_a_weight_of_any_shape(shape):
    table = nn.Embedding(*shape) if len(shape) == 2 else nn.LayerNorm(shape)
    model, rng = nn.ModuleDict({"table": table}), torch.Generator().manual_seed(0)
    before = modules.fingerprint(model)
    for place in [0, table.weight.numel() - 1, *torch.randint(table.weight.numel(), (20,), generator=rng).tolist()]:
        flat = table.weight.data.view(-1)
        original = flat[place].clone()
        flat[place] += 1
        assert modules.fingerprint(model) != before, place
        flat[place] = original


# ---------------------------------------------------------------- o que se copia, e o que corre ao mesmo tempo


@wrapping
def test_a_pickled_model_is_another_that_answers_the_same(method, family):
    model = applied(family, method)
    twin = pickle.loads(pickle.dumps(model))
    assert torch.equal(logits(twin), logits(model))
    shake(twin, seed=2)
    assert not torch.equal(logits(twin), logits(model))


@pytest.mark.parametrize("method, family", [pair for pair in WRAPPING if pair[1] in ("bert", "llama lm")])
def test_four_threads_on_one_model_have_each_its_answer(method, family):
    model = applied(family, method)
    batches = [{k: v[:, : 3 + i] for k, v in tiny_batch(model, i).items() if k != "labels"} for i in range(4)]
    if model.config.is_encoder_decoder:
        batches = [batch | {"decoder_input_ids": batch["input_ids"]} for batch in batches]

    def answer(batch):
        with torch.no_grad():
            return model(**batch).logits

    expected = [answer(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        answers = [*pool.map(answer, batches * 4)]
    assert all(torch.equal(one, other) for one, other in zip(answers, expected * 4))
    assert torch.equal(answer(batches[0]), expected[0])


# ---------------------------------------------------------------- um vetor não encolhe


@pytest.mark.parametrize("method, options", [("ia3", {}), ("dora", {}), ("bitfit", {}), ("bitfit", {"trains": "norm"})])
def test_a_vector_without_a_gradient_stays_as_it_was(method, options):
    """IA³, o tamanho de DoRA, viés e norma: o decaimento padrão de `train` é das matrizes."""
    model = methods.apply(toy_model(), method, modules_to_save=(), **options)
    vectors = {n: p for n, p in methods.tensors(model, "default").items() if "lora_A" not in n and "lora_B" not in n}
    before = {name: p.detach().clone() for name, p in vectors.items()}
    for parameter in vectors.values():
        parameter.register_hook(torch.zeros_like)
    training.train(model, tokenizer(), toy_task(), lr=0.1, steps=5, batch_size=8)
    assert vectors and all(torch.equal(p, before[name]) for name, p in vectors.items())


# ---------------------------------------------------------------- zeros


@pytest.mark.parametrize("family", ["bert mlm", "llama lm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@everywhere_but_full
def test_a_weight_with_rows_of_zeros_gives_numbers(method, family, dtype):
    if REFUSALS[method, family]:
        return

    def with_zeros():
        plain = tiny(family, dtype=dtype)
        with torch.no_grad():
            for layer in modules.find(plain, "all-linear").values():
                layer.weight[::2] = 0
        return plain

    before, model = logits(with_zeros()), methods.apply(with_zeros(), method)
    assert torch.equal(logits(model), before) or hasattr(methods.METHODS[method], "changes_on_arrival")
    model.train()(**tiny_batch(model)).loss.backward()
    gradients = [p.grad for p in methods.tensors(model, "default").values() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    answer = logits(train(model))
    assert answer.isfinite().all()
    if mergeable(method):
        tolerance = 1e-4 if dtype == torch.float32 else 0.1
        torch.testing.assert_close(
            logits(methods.merge(model)).float(), answer.float(), rtol=tolerance, atol=tolerance * answer.abs().max()
        )
