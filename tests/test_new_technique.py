"""O que CONTRIBUTING promete a uma técnica nova: um arquivo, uma linha em METHODS, e o resto já funciona.

São três, escritas no teste. VeRA (Kopiczko et al., 2024): A e B sorteadas, congeladas e as mesmas em todas as camadas;
treinam dois vetores por camada, e o arquivo, o de peft, leva também o que não treina. LoHa (Hyeon-Woo et al., 2022):
ΔW = s·(B₁A₁ ⊙ B₂A₂), igual à de peft bit a bit. LoReFT (Wu et al., 2024): muda o que um bloco inteiro responde,
h + Rᵀ(Wh + b − Rh), e já ao chegar.
"""

import json
import math
from dataclasses import dataclass
from typing import ClassVar

import peft
import pytest
import safetensors.torch
import test_equivalence
import test_interchange
import test_methods
import torch
from test_methods import assert_same, base, bits
from torch import nn
from torch.nn import functional as F
from toys import REFUSALS, logits, photo, shake, tiny, tiny_batch

from ftcourse import layers, methods, modules
from ftcourse.interchange import CONFIG, WEIGHTS

families = pytest.mark.parametrize("family", ["bert", "llama lm", "t5 lm"])


@dataclass(frozen=True)
class VeraConfig:
    peft_type: ClassVar[str] = "VERA"
    needed_in_file: ClassVar[tuple] = ("r",)

    r: int = 4
    d_initial: float = 0.1
    projection_prng_key: int = 0  # de onde peft sorteia A e B, que vêm no arquivo
    save_projection: bool = True
    target_modules: str | tuple[str, ...] = "all-linear"
    modules_to_save: tuple[str, ...] | None = None

    def inject(self, model, name):
        chosen, shared = modules.find(model, self.target_modules, outside=self.modules_to_save), nn.Module()
        d_in, d_out = (
            max(getattr(layer, side) for layer in chosen.values()) for side in ("in_features", "out_features")
        )
        shared.register_buffer("A", torch.randn(self.r, d_in, device=model.device))
        shared.register_buffer("B", torch.randn(d_out, self.r, device=model.device))
        for target in chosen:
            layers.wrap(model, target, VeraLayer).add(name, self, shared)


class VeraLayer(layers.AdapterLayer):
    def __init__(self, base_layer):
        super().__init__(base_layer)
        self.vera_lambda_b, self.vera_lambda_d = nn.ParameterDict(), nn.ParameterDict()
        self.projections = nn.ModuleDict()

    def add(self, name, config, shared):
        self.vera_lambda_b[name] = nn.Parameter(torch.zeros(self.out_features, device=self.weight.device))
        self.vera_lambda_d[name] = nn.Parameter(torch.full((config.r,), config.d_initial, device=self.weight.device))
        self.projections[name] = shared
        return self

    def kept(self, name):
        return {"base_model.vera_A": self.projections[name].A, "base_model.vera_B": self.projections[name].B}

    def of_the_model(self, key):
        return key.startswith("base_model.")

    def parts(self, name):
        shared = self.projections[name]
        A, B = shared.A[:, : self.in_features], shared.B[: self.out_features]
        return A, B, self.vera_lambda_d[name], self.vera_lambda_b[name]

    def forward(self, x):
        h = self.base_layer(x)
        if self.acting is None:
            return h
        A, B, d, b = self.parts(self.acting)
        return (h + b * F.linear(d * F.linear(x.to(d.dtype), A), B)).to(h.dtype)

    def merged(self, name):
        A, B, d, b = self.parts(name)
        return {"weight": self.weight + (b[:, None] * B) @ (d[:, None] * A)}


@dataclass(frozen=True)
class LohaConfig:
    peft_type: ClassVar[str] = "LOHA"
    needed_in_file: ClassVar[tuple] = ("r", "alpha")

    r: int = 4
    alpha: float = 8
    target_modules: str | tuple[str, ...] = "all-linear"
    modules_to_save: tuple[str, ...] | None = None

    def inject(self, model, name):
        for target in modules.find(model, self.target_modules, outside=self.modules_to_save):
            layers.wrap(model, target, LohaLayer).add(name, self)


class LohaLayer(layers.AdapterLayer):
    def __init__(self, base_layer):
        super().__init__(base_layer)
        self.hada_w1_a, self.hada_w1_b = nn.ParameterDict(), nn.ParameterDict()
        self.hada_w2_a, self.hada_w2_b = nn.ParameterDict(), nn.ParameterDict()
        self.scaling = {}

    def add(self, name, config):
        for left, right in ((self.hada_w1_a, self.hada_w1_b), (self.hada_w2_a, self.hada_w2_b)):
            left[name] = nn.Parameter(torch.empty(self.out_features, config.r, device=self.weight.device))
            right[name] = nn.Parameter(torch.empty(config.r, self.in_features, device=self.weight.device))
            nn.init.kaiming_uniform_(left[name], a=math.sqrt(5)), nn.init.kaiming_uniform_(right[name], a=math.sqrt(5))
        nn.init.zeros_(self.hada_w2_b[name])
        self.scaling[name] = config.alpha / config.r
        return self

    def delta(self, name):
        one, two = self.hada_w1_a[name] @ self.hada_w1_b[name], self.hada_w2_a[name] @ self.hada_w2_b[name]
        return one * two * self.scaling[name]

    def forward(self, x):
        h = self.base_layer(x)
        if (name := self.acting) is None:
            return h
        delta = self.delta(name)
        return (h + F.linear(x.to(delta.dtype), delta)).to(h.dtype)

    def merged(self, name):
        return {"weight": self.weight + self.delta(name)}


@dataclass(frozen=True)
class LoreftConfig:
    peft_type: ClassVar[str] = "LOREFT"
    needed_in_file: ClassVar[tuple] = ("r",)
    unmergeable: ClassVar[str] = "o que muda é a resposta do bloco, e não um peso dele"
    changes_on_arrival: ClassVar[str] = "R e W são sorteados"

    r: int = 4
    modules_to_save: tuple[str, ...] | None = None

    def inject(self, model, name):
        blocks = [n for n, m in modules.named(model).items() if type(m).__name__ in BLOCKS]
        for block in blocks:
            layers.wrap(model, block, LoreftLayer).add(name, self, model.config.hidden_size)


BLOCKS = ("BertLayer", "LlamaDecoderLayer", "T5Block")


class LoreftLayer(layers.AdapterLayer):
    def __init__(self, base_layer):
        super().__init__(base_layer)
        self.R, self.W, self.b = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()

    def add(self, name, config, d):
        device = next(self.bare.parameters()).device
        self.R[name] = nn.Parameter(nn.init.orthogonal_(torch.empty(config.r, d, device=device)))
        self.W[name] = nn.Parameter(nn.init.xavier_uniform_(torch.empty(config.r, d, device=device)))
        self.b[name] = nn.Parameter(torch.zeros(config.r, device=device))
        return self

    def forward(self, *inputs, **options):
        answer = self.base_layer(*inputs, **options)
        if (name := self.acting) is None:
            return answer
        h = answer[0] if isinstance(answer, tuple) else answer  # (B, T, d)
        R, x = self.R[name], h.to(self.R[name].dtype)
        changed = (h + (F.linear(x, self.W[name], self.b[name]) - F.linear(x, R)) @ R).to(h.dtype)
        return (changed, *answer[1:]) if isinstance(answer, tuple) else changed


NEW = {"vera": VeraConfig, "loha": LohaConfig, "loreft": LoreftConfig}


@pytest.fixture(autouse=True)
def one_line(monkeypatch):
    for name, config in NEW.items():
        monkeypatch.setitem(methods.METHODS, name, config)


# ---------------------------------------------------------------- o que os testes de propriedades já conferem

new = pytest.mark.parametrize("method", NEW)
OLD = [method for method in methods.METHODS if method != "full"]


@new
@pytest.mark.parametrize("family, dtype", test_methods.PLACES)
def test_the_properties_of_every_technique_hold_for_a_new_one(tmp_path, method, family, dtype):
    model, before = tiny(family, dtype=dtype), logits(tiny(family, dtype=dtype))
    answer = logits(methods.apply(model, method)).to(before.dtype)
    assert hasattr(NEW[method], "changes_on_arrival") or modules.head(model) or torch.equal(answer, before)
    if dtype == torch.float32:
        test_methods.test_training_leaves_every_weight_of_the_base_as_it_was(method, family)
        test_methods.test_a_layer_is_wrapped_never_copied(method, family)
        test_methods.test_the_same_name_again_starts_afresh(method, family)
        test_methods.test_a_pickled_model_is_another_that_answers_the_same(method, family)
        test_methods.test_four_threads_on_one_model_have_each_its_answer(method, family)
        test_interchange.test_what_is_saved_is_what_is_loaded_for_every_method_and_family(tmp_path, method, family)
    if dtype == torch.float32 and not hasattr(NEW[method], "unmergeable"):
        test_methods.test_merging_answers_the_same_and_unmerging_gives_the_bits_back(method, family)


@new
@pytest.mark.parametrize("other", [*OLD, *NEW])
@pytest.mark.parametrize("arrives", ["antes", "depois"])
def test_it_and_any_other_are_each_as_if_alone(method, other, arrives):
    """LoReFT envolve blocos: o que está dentro deles continua à vista de quem chega depois."""
    first, second = (method, other) if arrives == "antes" else (other, method)
    for family, dtype in test_methods.PLACES:
        if not REFUSALS.get((other, family)):
            first_plan, second_plan = test_methods.plans(first)[0], test_methods.plans(second)[1]
            test_methods.assert_each_is_as_alone(first_plan, second_plan, family, dtype)


@pytest.mark.parametrize("family", ["bert", "llama", "t5 lm"])
def test_loha_is_that_of_peft(tmp_path, family):
    """No treino, peft sorteia um número por camada também sem module_dropout, e o dropout do modelo seria outro."""
    settings = {"method": "loha", "r": 3, "alpha": 5}
    test_equivalence.test_outputs_and_every_gradient_are_equal(tmp_path / "a", family, settings, 0)
    test_equivalence.test_merged_weights_are_equal(tmp_path / "b", family, settings, 0)


def test_what_is_inside_a_block_that_is_wrapped_has_the_names_it_had():
    model = methods.apply(tiny("llama"), "loreft")
    assert modules.find(model, "all-linear").keys() == modules.find(tiny("llama"), "all-linear").keys()
    assert modules.named(model).keys() == modules.named(tiny("llama")).keys()
    methods.apply(model, "lora", "dois", modules_to_save=["model.layers.0.input_layernorm"])
    assert "model.layers.0.input_layernorm.weight" in methods.tensors(model, "dois")


# ---------------------------------------------------------------- VeRA


def applied(family, name="default", seed=3, **options):
    """Um modelo com A e B que não são os do sorteio de `load`."""
    return shake(methods.apply(tiny(family), "vera", name, seed=seed, **options))


@families
def test_it_trains_the_vectors_and_keeps_the_projections(family):
    model = tiny(family)
    before = logits(model)
    assert torch.equal(logits(methods.apply(model, "vera", seed=3)), before)
    trains = methods.tensors(model, "default")
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in trains.values()}
    assert not [key for key in trains if "vera_A" in key or "vera_B" in key]
    assert methods.saved(model, "default").keys() - trains.keys() == {"base_model.vera_A", "base_model.vera_B"}
    shake(model)
    model(**tiny_batch(model)).loss.backward()
    assert all(p.grad.any() for name, p in trains.items() if "vera" in name)


@families
def test_saved_and_loaded_it_answers_the_same(tmp_path, family):
    model = applied(family)
    methods.save(model, tmp_path)
    names = [n for n in safetensors.torch.load_file(tmp_path / WEIGHTS) if not n.startswith("base_model.model.")]
    assert sorted(names) == ["base_model.vera_A", "base_model.vera_B"]
    again = methods.load(tiny(family), tmp_path)
    assert torch.equal(logits(again), logits(model)) and not torch.equal(logits(again), logits(tiny(family)))
    held = [layer for _, layer in layers.wrapped(again) if isinstance(layer, VeraLayer)]
    assert len({id(layer.projections["default"]) for layer in held}) == 1 < len(held)


@families
def test_it_is_switched_disabled_merged_and_removed_as_every_other(family):
    model, plain = applied(family, "um"), logits(tiny(family))
    first = logits(model)
    shake(methods.apply(model, "vera", "dois", r=2), seed=5)
    second = logits(model)
    assert not torch.equal(first, second) and torch.equal(logits(methods.activate(model, "um")), first)
    with methods.disabled(model):
        assert torch.equal(logits(model), plain)
    torch.testing.assert_close(logits(methods.merge(model)), first, rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(methods.unmerge(model)), first)
    assert_same(base(model), bits(tiny(family)))
    fresh = methods.apply(tiny(family), "vera", "um")
    methods.remove(methods.apply(model, "vera", "um"), "dois")
    assert photo(methods.activate(model, "um"))[0] == photo(fresh)[0]
    shake(model)
    answer = logits(model)
    torch.testing.assert_close(logits(methods.merge_and_unload(model)), answer, rtol=1e-4, atol=1e-4)
    assert not layers.wrapped(model)


TARGETS = {"bert": ["query", "output.dense"], "llama lm": ["q_proj", "down_proj"], "t5 lm": ["q", "wo"]}


@families
def test_peft_reads_it_and_it_reads_what_peft_writes(tmp_path, family):
    head = [*modules.head(tiny(family))] or None
    theirs = peft.VeraConfig(r=4, target_modules=TARGETS[family], projection_prng_key=7, modules_to_save=head)
    theirs = shake(peft.get_peft_model(tiny(family), theirs).eval())
    theirs.save_pretrained(tmp_path / "a")
    ours = methods.load(tiny(family), tmp_path / "a")
    assert torch.equal(logits(ours), logits(theirs)) and not torch.equal(logits(ours), logits(tiny(family)))
    ours = applied(family, target_modules=TARGETS[family])
    methods.save(ours, tmp_path / "b")
    assert torch.equal(logits(peft.PeftModel.from_pretrained(tiny(family), tmp_path / "b").eval()), logits(ours))


def test_what_its_file_lacks_is_told(tmp_path):
    methods.save(applied("bert"), tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / WEIGHTS)
    model = tiny("bert")
    before = photo(model)
    for damaged, words in (
        ({n: t for n, t in tensors.items() if not n.endswith("vera_A")}, "não tem base_model.vera_A"),
        (tensors | {"base_model.vera_B": torch.ones(3, 3)}, r"base_model\.vera_B tem a forma \(3, 3\)"),
    ):
        safetensors.torch.save_file(damaged, tmp_path / WEIGHTS)
        with pytest.raises(ValueError, match=words):
            methods.load(model, tmp_path)
    fields = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({name: value for name, value in fields.items() if name != "r"}))
    with pytest.raises(ValueError, match="não diz r: foi cortado"):
        methods.load(model, tmp_path)
    assert photo(model) == before


def test_a_number_that_a_float_does_not_hold_is_refused():
    for settings in ({"lora_alpha": 10**400}, {"lora_alpha": float("inf")}, {"lora_dropout": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            methods.apply(tiny("bert"), "lora", **settings)


def test_two_parameters_with_one_name_are_told(monkeypatch):
    """Dois módulos, e não parâmetros: os dois têm um `weight`, e um deles nem treinaria."""

    def add(layer, name, config, shared):
        layer.vera_A, layer.vera_B = nn.ModuleDict({name: nn.Linear(2, 2)}), nn.ModuleDict({name: nn.Linear(2, 2)})
        return layer

    monkeypatch.setattr(VeraLayer, "add", add)
    with pytest.raises(ValueError, match="VeraLayer guarda dois parâmetros com o nome bias"):
        methods.apply(tiny("bert"), "vera")


def test_a_technique_that_does_not_say_how_to_merge_keeps_what_it_trained(monkeypatch):
    model = applied("bert")
    answer = logits(model)
    monkeypatch.delattr(VeraLayer, "merged")
    for merge in (methods.merge, methods.merge_and_unload):
        with pytest.raises(ValueError, match="VeraLayer não diz como se funde"):
            merge(model)
    assert torch.equal(logits(model), answer)


def test_what_is_kept_may_be_integers_and_what_trains_may_not(tmp_path, monkeypatch):
    """Como as posições de uma máscara esparsa."""
    monkeypatch.setattr(VeraLayer, "kept", lambda layer, name: {"base_model.places": layer.projections[name].places})
    inject = VeraConfig.inject

    def with_places(config, model, name):
        inject(config, model, name)
        first = next(layer for _, layer in layers.wrapped(model) if name in layer.names())
        first.projections[name].register_buffer("places", torch.arange(4))

    monkeypatch.setattr(VeraConfig, "inject", with_places)
    methods.save(applied("bert"), tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / WEIGHTS)
    tensors["base_model.places"] += 5
    safetensors.torch.save_file(tensors, tmp_path / WEIGHTS)
    again = methods.load(tiny("bert"), tmp_path)
    assert methods.saved(again, "default")["base_model.places"].tolist() == [5, 6, 7, 8]
    trained = next(name for name in tensors if "lambda_b" in name)
    safetensors.torch.save_file(tensors | {trained: tensors[trained].int()}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"veio em torch\.int32, e o modelo pede torch\.float32"):
        methods.load(tiny("bert"), tmp_path)


def test_a_file_of_a_variant_that_is_not_here_is_told(tmp_path, monkeypatch):
    methods.save(applied("bert"), tmp_path)
    monkeypatch.setattr(VeraConfig, "variant", {"use_x": True}, raising=False)
    with pytest.raises(ValueError, match="é de uma variante de VERA que o curso não tem"):
        methods.load(tiny("bert"), tmp_path)
