"""Os adaptadores em série: iguais aos da biblioteca `adapters`, pelos tensores que ela deixou em fixtures/adapters."""

import copy
import functools
import json

import pytest
import safetensors
import torch
import transformers
from toys import ROOT

from ftcourse import files, methods, modules

FOLDER = ROOT / "tests" / "fixtures" / "adapters"
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
    """O adaptador da biblioteca, com os nomes daqui; de `what`, que vem num tensor só, os pedaços que são de cada um."""
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


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys() and ours
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]


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
    assert torch.equal(logits(plain(family), family), fixture()[0][f"{family}/logits"])


@families
@cases
def test_outputs_are_equal(family, case):
    ours = logits(hand(family, case), family)
    assert torch.equal(ours, reference(family, case, "logits"))
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
    prompt = {name: below(f"{family}/entradas/")[name] for name in ("input_ids", "attention_mask")}
    written = model.generate(**prompt, max_new_tokens=12, do_sample=False, pad_token_id=0, use_cache=use_cache)
    assert torch.equal(written, reference(family, case, "geração"))
    with methods.disabled(model):
        assert not torch.equal(written, model.generate(**prompt, max_new_tokens=12, do_sample=False, pad_token_id=0))
