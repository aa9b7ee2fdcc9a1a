"""A subida da perda com um erro nos pesos: a mesma que um modelo de pesos mudados dá, e o modelo fica como estava."""

import pytest
import torch

from ftcourse import models, perturbation
from ftcourse.perturbation import Probe


@pytest.fixture(scope="module", params=[*models.FAMILIES])
def probe(request):
    return Probe(request.param, windows=5)


def test_no_error_no_rise_and_the_model_stays(probe):
    before = {name: tensor.clone() for name, tensor in probe.model.state_dict().items()}
    errors = perturbation.noise({name: 0.5 * W for name, W in probe.weights.items()}, seed=0)
    assert probe.rise(errors).mean() > 0.1 and probe.base.shape == (5,)
    assert not probe.rise({}).any()
    assert all(torch.equal(before[name], tensor) for name, tensor in probe.model.state_dict().items())


def test_the_rise_is_that_of_a_model_with_these_weights(probe):
    errors = perturbation.noise({name: 0.1 * W for name, W in probe.weights.items()}, seed=1)
    rise = probe.rise(errors)
    with torch.no_grad():
        try:
            for name, error in errors.items():
                probe.model.get_submodule(name).weight += error
            changed = probe.losses({})
        finally:
            for name, error in errors.items():
                probe.model.get_submodule(name).weight -= error
    torch.testing.assert_close(rise, changed - probe.base, atol=1e-5, rtol=0)


def test_the_gradient_is_the_slope_on_other_paragraphs(probe):
    """(L(W + εG) − L(W − εG))/2ε = ‖G‖², nas janelas de que ele veio."""
    gradient = probe.gradient()
    measured, probe.batches = probe.batches, [probe.others]
    try:
        step = 1e-3 / perturbation.squared(gradient) ** 0.5
        up, down = (probe.losses({n: s * step * g for n, g in gradient.items()}).double().mean() for s in (1, -1))
    finally:
        probe.batches = measured
    assert float((up - down) / (2 * step)) == pytest.approx(perturbation.squared(gradient), rel=0.02)


def test_noise_has_the_size_of_the_error_in_each_matrix():
    like = {"a": torch.full((3, 4), 0.5), "b": torch.full((2, 2), -2.0)}
    drawn = perturbation.noise(like, seed=0)
    assert {n: float(e.norm()) for n, e in drawn.items()} == pytest.approx(
        {n: float(e.norm()) for n, e in like.items()}
    )
    assert perturbation.relative(drawn, like) == pytest.approx(1)
    assert torch.equal(drawn["a"], perturbation.noise(like, seed=0)["a"])
    assert not torch.equal(drawn["a"], perturbation.noise(like, seed=1)["a"])


def test_each_family_guesses_what_is_hidden(probe):
    (inputs, labels), *_ = probe.batches
    asked = (labels != perturbation.IGNORED).sum(1)
    family = probe.model.config.model_type
    assert asked.tolist() == [{"bert": 7, "llama": 47, "t5": 10}[family]] * 5
    if family == "llama":
        assert torch.equal(inputs["input_ids"][:, 1:], labels[:, :-1])
    if family == "bert":
        hidden = labels != perturbation.IGNORED
        assert len(set(inputs["input_ids"][hidden].tolist())) == 1
