"""O que CONTRIBUTING promete a uma técnica nova: um arquivo, uma linha em METHODS, e o resto já funciona.

A técnica daqui é VeRA (Kopiczko et al., 2024), escrita no teste: A e B sorteadas, congeladas e as mesmas em todas as
camadas; treinam dois vetores por camada. O arquivo é o de peft, e leva também o que não treina.
"""

import json
from dataclasses import dataclass
from typing import ClassVar

import peft
import pytest
import safetensors.torch
import torch
from test_methods import assert_same, base, bits
from torch import nn
from torch.nn import functional as F
from toys import logits, photo, shake, tiny, tiny_batch

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
        chosen, shared = modules.find(model, self.target_modules, outside=self.modules_to_save or ()), nn.Module()
        d_in, d_out = (
            max(getattr(layer, side) for layer in chosen.values()) for side in ("in_features", "out_features")
        )
        shared.register_buffer("A", torch.randn(self.r, d_in, device=model.device))
        shared.register_buffer("B", torch.randn(d_out, self.r, device=model.device))
        return [layers.wrap(model, target, VeraLayer).add(name, self, shared) for target in chosen]


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


@pytest.fixture(autouse=True)
def one_line(monkeypatch):
    monkeypatch.setitem(methods.METHODS, "vera", VeraConfig)


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
        layers = inject(config, model, name)
        layers[0].projections[name].register_buffer("places", torch.arange(4))
        return layers

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
