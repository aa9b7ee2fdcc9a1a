"""Os adaptadores em série: iguais aos da biblioteca `adapters`, pelos tensores que ela deixou em fixtures/adapters."""

import copy
import functools
import gc
import json
import math

import pytest
import safetensors
import torch
import toys
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from toys import TINY, shake, tiny
from transformers.masking_utils import eager_mask

import conftest
from ftcourse import bottleneck, files, layers, methods, modules, qlora
from ftcourse.bottleneck import NON_LINEARITIES, Entrance, HoulsbyConfig, HoulsbyLayer, PfeifferConfig, PfeifferLayer

FOLDER = toys.ROOT / "tests" / "fixtures" / "adapters"
CASES = {  # os ajustes daqui que fazem o que a biblioteca fez em cada caso
    "houlsby": {"method": "houlsby", "reduction_factor": 4, "train_norms": False, "cross_adapter": False},
    "houlsby, normas": {"method": "houlsby", "reduction_factor": 6, "non_linearity": "gelu"},
    "pfeiffer": {"method": "pfeiffer", "reduction_factor": 4},
}
THEIR_NAMES = {  # como a biblioteca chama o que aqui tem o nome do módulo de onde sai u
    "attention_adapters.adapters.a": "self_attn.o_proj",
    "output_adapters.adapters.a": "mlp.down_proj",
    ".adapters.a": ".dropout",
    "adapter_down.0": "adapter_down",
}
cases = pytest.mark.parametrize("case", CASES)
quick = settings(deadline=None, max_examples=30)
families = pytest.mark.parametrize("family", ["bert", "llama", "t5", "t5 relu"])


@functools.cache
def fixture():
    """O que há no arquivo: ({nome: tensor}, de onde veio)."""
    with safetensors.safe_open(FOLDER / "referencias.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["origem"])  # noqa: SIM118


def below(prefix):
    """Os tensores cujo nome começa assim, na ordem dos nomes, sem o começo."""
    return {name.removeprefix(prefix): t for name, t in sorted(fixture()[0].items()) if name.startswith(prefix)}


def plain(family, dtype=torch.float32):
    """O modelo da biblioteca, no transformers de agora, com os mesmos pesos e sem adaptador."""
    origin = fixture()[1]
    kind, settings = origin["modelos"][family]
    kind = getattr(transformers, kind)
    config = kind.config_class(**origin["comum"] | settings)
    config._attn_implementation = "eager"
    model = kind(config).eval()
    parameters, saved = dict(model.named_parameters()), below(f"{family}/base/")
    assert parameters.keys() == saved.keys()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])
    return model.to(dtype)


def hand(family, case, dtype=torch.float32):
    """O mesmo modelo, com o adaptador feito à mão e os números que ele tem na biblioteca."""
    model = methods.apply(plain(family, dtype), **CASES[case], modules_to_save=())
    ours, theirs = methods.tensors(model, "default"), parts(family, case)
    assert ours.keys() == theirs.keys() and all(ours[name].shape == theirs[name].shape for name in ours)
    with torch.no_grad():
        for name, parameter in ours.items():
            parameter.copy_(theirs[name])
    return model


def parts(family, case, what=None):
    """O adaptador da biblioteca, com os nomes daqui; ou `what`, que vem num tensor só, em pedaços com esses nomes."""
    rename = functools.partial(functools.reduce, lambda name, change: name.replace(*change), THEIR_NAMES.items())
    held = {rename(name): tensor for name, tensor in below(f"{family}/{case}/adaptador/").items()}
    if what is None:
        return held
    pieces = reference(family, case, what).split([tensor.numel() for tensor in held.values()])
    return {name: piece.view(held[name].shape) for name, piece in zip(held, pieces)}


def reference(family, case, what):
    return fixture()[0][f"{family}/{case}/{what}"]


@torch.no_grad()
def logits(model, family):
    return model(**below(f"{family}/entradas/")).logits


def backward(model, family, seed=None):
    """Uma ida e uma volta; com `seed`, em modo de treino, com o dropout que ela sorteia."""
    model.train(seed is not None)
    if seed is not None:
        torch.manual_seed(seed)
    model(**below(f"{family}/entradas/")).loss.backward()
    model.eval()


EXACT = conftest.INTEL_AVX512  # como o processador que fez a referência
ROUNDING = {torch.float32: 5e-5, torch.bfloat16: 1e-2}  # da maior entrada


def same(ours, theirs):
    """Iguais bit a bit; noutro processador, que soma noutra ordem, a menos do arredondamento."""
    if EXACT:
        return torch.equal(ours, theirs)
    apart = (ours.detach() - theirs).abs().max()
    return ours.dtype == theirs.dtype and apart <= ROUNDING[theirs.dtype] * theirs.abs().max()


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys() and ours
    assert not [name for name in ours if not same(ours[name], theirs[name])]


def gradients(model):
    return {name: parameter.grad for name, parameter in methods.tensors(model, "default").items()}


# ---------------------------------------------------------------- igual à biblioteca


def test_the_fixture_is_the_one_that_was_published():
    for line in (FOLDER / "sha256sums.txt").read_text("utf-8").splitlines():
        digest, name = line.split()
        assert files.sha256(FOLDER / name) == digest
    assert fixture()[1]["ambiente"]["adapters"].startswith("1.3")


@families
def test_the_two_transformers_give_the_same_model(family):
    assert same(logits(plain(family), family), fixture()[0][f"{family}/logits"])


@families
@cases
def test_outputs_are_equal(family, case):
    ours = logits(hand(family, case), family)
    assert same(ours, reference(family, case, "logits"))
    assert (ours - fixture()[0][f"{family}/logits"]).abs().max() > 0.1


@families
@cases
@pytest.mark.parametrize("what, seed", [("gradientes", None), ("gradientes com dropout", 0)])
def test_every_gradient_is_equal(family, case, what, seed):
    model = hand(family, case)
    backward(model, family, seed)
    theirs = parts(family, case, what)
    assert_equal(gradients(model), theirs)
    assert all(tensor.abs().sum() > 0 for tensor in theirs.values())


@families
@cases
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_parameters_are_equal_after_three_steps(family, case, optimizer):
    model = hand(family, case)
    tensors = methods.tensors(model, "default")
    steps = optimizer([tensors[name] for name in sorted(tensors)], lr=1e-2)
    for step in range(3):
        steps.zero_grad()
        backward(model, family, seed=step)
        steps.step()
    theirs = parts(family, case, optimizer.__name__)
    assert_equal(tensors, theirs)
    assert not [name for name, before in parts(family, case).items() if torch.equal(before, theirs[name])]


@pytest.mark.parametrize("family", ["llama", "t5", "t5 relu"])
@cases
@pytest.mark.parametrize("use_cache", [True, False])
def test_generation_is_equal_token_for_token(family, case, use_cache):
    model = hand(family, case)
    prompt, plan = below(f"{family}/entradas/")["input_ids"][:1], {"max_new_tokens": 12, "do_sample": False}
    written = model.generate(prompt, **plan, use_cache=use_cache)
    assert torch.equal(written, reference(family, case, "geração"))
    with methods.disabled(model):
        assert not torch.equal(written, model.generate(prompt, **plan))


# ---------------------------------------------------------------- em bfloat16


def old_t5_attention(module, query, key, value, mask, position_bias, dropout, **_):
    """A atenção que T5 tinha no transformers da biblioteca: o softmax, e com ele a volta, em float32."""
    scores = query @ key.transpose(2, 3) + (position_bias if mask is None else position_bias + mask)
    weights = F.dropout(scores.float().softmax(-1).type_as(scores), dropout, module.training)
    return (weights @ value).transpose(1, 2), weights


transformers.AttentionInterface.register("old_t5", old_t5_attention)
transformers.AttentionMaskInterface.register("old_t5", eager_mask)


@families
@cases
def test_in_bfloat16_all_is_equal_with_the_adapter_in_the_type_of_the_library(family, case):
    model = hand(family, case, torch.bfloat16)
    for _, layer in layers.wrapped(model):
        layer.bfloat16()
    if family.startswith("t5"):
        model.set_attn_implementation("old_t5")
    assert same(logits(model, family), reference(family, case, "logits em bfloat16"))
    backward(model, family)
    assert_equal(gradients(model), parts(family, case, "gradientes em bfloat16"))


@families
@cases
def test_on_a_bfloat16_base_the_adapter_is_float32_and_only_rounding_differs(family, case):
    """O que resta é o arredondamento da base: os logits erram, contra float32, como os da biblioteca toda em bfloat16.

    A folga de 1,5 é a da sorte de cada arredondamento. Uma camada só se confere sem folga, mais abaixo.
    """
    model = hand(family, case, torch.bfloat16)
    assert {p.dtype for p in methods.tensors(model, "default").values()} == {torch.float32}
    exact, theirs = reference(family, case, "logits"), reference(family, case, "logits em bfloat16")
    ours = logits(model, family)
    assert ours.dtype == torch.bfloat16 and (ours - exact).norm() <= 1.5 * (theirs - exact).norm()
    backward(model, family)
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())


# ---------------------------------------------------------------- a conta


@quick
@given(
    st.integers(1, 40), st.floats(1, 40), st.sampled_from([*NON_LINEARITIES]),
    st.sampled_from(["houlsby", "pré", "pós"]), st.integers(0, 99),
)  # fmt: skip
def test_one_layer_is_the_formula(d, reduction, sigma, kind, seed):
    torch.manual_seed(seed)
    plan = {"reduction_factor": reduction, "non_linearity": sigma}
    linear, norm, wide, x = nn.Linear(5, d), nn.LayerNorm(d), torch.randn(2, 3, 5), torch.randn(2, 3, d)
    if kind == "houlsby":
        layer = HoulsbyLayer(linear).add("default", HoulsbyConfig(**plan), linear)
    else:
        entrance = Entrance(nn.Identity()).add("default")
        norm = norm if kind == "pós" else None
        block = nn.ModuleDict({"LayerNorm": norm} if norm else {})
        layer = PfeifferLayer(linear).add("default", PfeifferConfig(**plan), linear, entrance, block)
        entrance.active = "default"
    layer.active, m = "default", max(1, int(d // reduction))
    tensors = layer.tensors("default")
    assert sum(p.numel() for p in tensors.values()) == 2 * m * d + d + m
    down, b_down, up, b_up = (
        tensors[f"adapter_{part}"] for part in ("down.weight", "down.bias", "up.weight", "up.bias")
    )
    assert down.shape == (m, d) and up.shape == (d, m) and not b_down.any() and not b_up.any()
    assert down.any() and down.abs().max() <= 0.02 and up.any() and up.abs().max() <= 0.02  # truncada em 2σ
    with torch.no_grad():
        for parameter in tensors.values():
            parameter.normal_()
        h = u = linear(wide)
        if kind != "houlsby":
            entrance(x)
            h = u + x if norm is None else norm(u + x)
        h, act = (
            h.double(),
            {"swish": lambda z: z * z.sigmoid(), "relu": lambda z: z.clamp(min=0), "gelu": F.gelu}[sigma],
        )
        expected = u.double() + act(h @ down.double().T + b_down) @ up.double().T + b_up
        torch.testing.assert_close(layer(wide).double(), expected, rtol=1e-4, atol=1e-4)
        layer.base_layer, half = linear.bfloat16(), wide.bfloat16()  # o adaptador continua em float32
        u = h = linear(half)
        if kind != "houlsby":
            entrance(x := x.bfloat16())
            h = u + x if norm is None else norm.bfloat16()(u + x)
        expected = u + F.linear(NON_LINEARITIES[sigma](F.linear(h.float(), down, b_down)), up, b_up)
        assert expected.dtype == torch.float32 and torch.equal(layer(half), expected.bfloat16())
        layer.active = None
        assert torch.equal(layer(half), u)


@quick
@given(st.sampled_from([*TINY]), st.integers(0, 20), st.integers(1, 20), st.booleans(), st.booleans())
def test_the_count_is_the_closed_formula(family, seed, reduction, norms, cross):
    """2md + d + m por gargalo: dois por bloco em Houlsby, três no decodificador de T5, um em Pfeiffer."""
    model = tiny(family, seed)
    d, config = model.config.hidden_size, model.config
    blocks = config.num_layers * 2 if family.startswith("t5") else config.num_hidden_layers
    crossed = config.num_layers * cross if family.startswith("t5") else 0
    m = max(1, d // reduction)
    head = sum(p.numel() for name in modules.head(model) for p in model.get_submodule(name).parameters())
    free = norms and sum(
        p.numel() for name, p in model.base_model.named_parameters() if "norm" in name.lower() and "pooler" not in name
    )
    one = 2 * m * d + d + m
    methods.apply(model, "houlsby", reduction_factor=reduction, train_norms=norms, cross_adapter=cross)
    assert modules.count_parameters(model)[0] == head + free + (2 * blocks + crossed) * one
    methods.apply(model, "pfeiffer", reduction_factor=reduction)
    assert modules.count_parameters(model)[0] == head + blocks * one


def test_the_adapters_of_BERT_base_have_the_size_that_is_published():
    """Em float32, 9,5 MB com m = 64 em Houlsby e 3,6 MB com m = 48 em Pfeiffer."""
    with torch.device("meta"):
        model = transformers.BertModel(transformers.BertConfig())
    for method, plan, published in (
        ("houlsby", {"reduction_factor": 12, "train_norms": False}, "9.5"),
        ("pfeiffer", {}, "3.6"),
    ):
        trains = modules.count_parameters(methods.apply(model, method, **plan))[0]
        assert f"{4 * trains / 1e6:.1f}" == published


# ---------------------------------------------------------------- no modelo

both = pytest.mark.parametrize("method", ["houlsby", "pfeiffer"])
everywhere = pytest.mark.parametrize("family", TINY)


@everywhere
@both
def test_with_W_up_in_zero_nothing_changes_and_near_zero_almost_nothing(method, family):
    model, plain = tiny(family), toys.logits(tiny(family))
    changes = []
    for std in (0.01, 0.001):
        change = toys.logits(methods.apply(model, method, init_std=std, reduction_factor=2)) - plain
        changes.append(change.norm() / plain.norm())
    assert 0 < changes[0] < 0.02 and changes[1] < max(changes[0] / 30, 1e-5)  # duas matrizes: cai com o quadrado
    with torch.no_grad():
        for name, parameter in methods.tensors(model, "default").items():
            if "adapter_up" in name:
                parameter.zero_()
    assert torch.equal(toys.logits(model), plain)


@everywhere
def test_the_five_share_a_base_in_any_order(family):
    """Um envoltório dentro do outro: cada um responde como se estivesse só, e a base volta."""
    plans = {
        "houlsby": {"reduction_factor": 2}, "pfeiffer": {"reduction_factor": 2}, "lora": {"r": 2}, "ia3": {},
        "bitfit": {"trains": "norm"},
    }  # fmt: skip
    alone = {}
    for method, options in plans.items():
        model = shake(methods.apply(tiny(family), method, method, **options), seed=len(method))
        alone[method] = toys.logits(model)
    for order in ([*plans], [*reversed(plans)]):
        model = tiny(family)
        for method in order:
            shake(methods.apply(model, method, method, **plans[method]), seed=len(method))
        twin = copy.deepcopy(model)
        for method in order:
            assert torch.equal(toys.logits(methods.activate(model, method)), alone[method])
        for method in order:
            methods.remove(model, method)
        assert model.state_dict().keys() == tiny(family).state_dict().keys()
        assert torch.equal(toys.logits(model), toys.logits(tiny(family)))
        for method in order:  # a cópia não olha para o modelo de que saiu
            assert torch.equal(toys.logits(methods.activate(twin, method)), alone[method])


@everywhere
@both
def test_recomputing_the_activations_gives_the_same_gradients_and_nothing_is_kept(method, family):
    def gradients_of(model):
        model.train()
        torch.manual_seed(0)
        model(**toys.tiny_batch(model)).loss.backward()
        return {name: p.grad for name, p in methods.tensors(model, "default").items()}

    plain, saving = (shake(methods.apply(tiny(family), method, reduction_factor=2)) for _ in range(2))
    qlora.prepare(saving)
    assert_equal(gradients_of(saving), gradients_of(plain))
    with methods.disabled(saving):
        toys.logits(saving)
    assert not any(layer.passing for _, layer in layers.wrapped(saving) if isinstance(layer, Entrance))


@everywhere
def test_an_interrupted_answer_leaves_nothing(family):
    def interrupt(*_):
        raise KeyboardInterrupt

    model = tiny(family)
    hook = next(iter(modules.by_role(model, "down").values())).register_forward_pre_hook(interrupt)
    methods.apply(model, "pfeiffer")
    entrances = [layer for _, layer in layers.wrapped(model) if isinstance(layer, Entrance)]
    with pytest.raises(KeyboardInterrupt) as interrupted:
        model(**toys.tiny_batch(model))
    hook.remove()
    assert any(layer.passing for layer in entrances)  # o erro ainda segura a conta em que aconteceu
    copied = [layer for _, layer in layers.wrapped(copy.deepcopy(model)) if isinstance(layer, Entrance)]
    assert copied and not any(layer.passing for layer in copied)
    del interrupted
    gc.collect()
    assert not any(layer.passing for layer in entrances)


# ---------------------------------------------------------------- o que é recusado

REFUSED = {
    "redução zero": ({"reduction_factor": 0}, r"reduction_factor=0: .*a partir de 1"),
    "redução menor que 1": ({"reduction_factor": 0.5}, r"reduction_factor=0\.5: .*a partir de 1"),
    "redução infinita": ({"reduction_factor": math.inf}, r"reduction_factor=inf: "),
    "redução nan": ({"reduction_factor": math.nan}, r"reduction_factor=nan: "),
    "redução lógica": ({"reduction_factor": True}, r"reduction_factor=True: "),
    "redução em texto": ({"reduction_factor": "16"}, r"reduction_factor='16': .*Comece por 16"),
    "função que não há": ({"non_linearity": "rellu"}, r"non_linearity, 'rellu'.*'swish'.*quis dizer 'relu'"),
    "função None": ({"non_linearity": None}, r"non_linearity, None.*'swish'"),
    "função em lista": ({"non_linearity": ["relu"]}, r"non_linearity, \['relu'\]"),
    "desvio zero": ({"init_std": 0}, r"init_std=0: .*só um viés"),
    "desvio nan": ({"init_std": math.nan}, r"init_std=nan: "),
    "desvio em texto": ({"init_std": "0.01"}, r"init_std='0\.01': "),
    "normas em texto": ({"train_norms": "não"}, r"train_norms='não': é True ou False"),
    "cruzada em número": ({"cross_adapter": 1}, r"cross_adapter=1: é True ou False"),
    "módulo que não há": ({"modules_to_save": ["clasifier"]}, r"modules_to_save: .*'clasifier'"),
    "alvos, que não tem": ({"target_modules": ["query"]}, r"'target_modules'.*Existe: 'reduction_factor'"),
}


@pytest.mark.parametrize("options, words", REFUSED.values(), ids=REFUSED)
def test_a_bad_setting_is_told_and_the_model_stays(options, words):
    model = shake(methods.apply(tiny("bert"), "houlsby"))
    before = toys.photo(model)
    with pytest.raises(ValueError, match=words):
        methods.apply(model, "houlsby", "outro", **options)
    assert toys.photo(model) == before


@both
@everywhere
def test_the_modules_around_the_adapter_may_train_whole_if_they_are_norms(method, family):
    """A cópia fica por dentro do adaptador, que continua a agir; treinada, vale o mesmo que posta na base."""
    ends = modules.by_role(tiny(family, seed=1), "down")
    places = {part for end in ends for part in bottleneck.surroundings(end) if part} | {
        end.replace("dense", "LayerNorm") for end in ends if family.startswith("bert")
    }
    plain = tiny(family, seed=1)
    before, norms = toys.photo(plain), {n for n in places if modules.is_norm(plain.get_submodule(n))}
    assert norms
    for place in places - norms:
        with pytest.raises(ValueError, match=rf"modules_to_save: {place} não (treina inteiro|tem o que treinar)"):
            methods.apply(plain, method, modules_to_save=[place])
    assert toys.photo(plain) == before
    options = {"reduction_factor": 2} | ({"train_norms": False} if method == "houlsby" else {})
    model = shake(methods.apply(tiny(family, seed=1), method, modules_to_save=sorted(norms), **options))
    assert {name.rpartition(".")[0] for name in methods.tensors(model, "default")} >= norms
    twin = methods.apply(tiny(family, seed=1), method, modules_to_save=(), **options)
    held, bases = methods.tensors(twin, "default"), {n: p for n, _, p in modules.base_parameters(twin)}
    with torch.no_grad():
        for name, parameter in methods.tensors(model, "default").items():
            (held | bases)[name].copy_(parameter)
    assert torch.equal(toys.logits(model), toys.logits(twin))


@both
def test_a_model_of_another_family_is_told(method):
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 10, "n_positions": 8}
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    odd = nn.ModuleDict({"block": nn.ModuleDict({"down_proj": nn.Linear(2, 2), "o_proj": nn.Linear(2, 2)})})
    for model, words in ((gpt2, r"papel de .*BERT, LLaMA e T5"), (odd, r"adaptador depois de block\.\w+_proj")):
        with pytest.raises(modules.UnsuitableModel, match=words):
            methods.METHODS[method](modules_to_save=()).inject(model, "default")
        assert not layers.wrapped(model)


@both
def test_it_does_not_merge_and_says_why(method):
    model = shake(methods.apply(tiny("bert"), method))
    before = toys.photo(model)
    for merge in (methods.merge, methods.merge_and_unload):
        with pytest.raises(ValueError, match=r"não se funde: entre W_down e W_up .* não é linear.*methods\.save"):
            merge(model)
    assert toys.photo(model) == before
