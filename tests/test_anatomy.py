"""A escuta, a lente e as partes de um modelo, nas três famílias, em modelos minúsculos."""

import matplotlib.pyplot as plt
import pytest
import torch
from toys import VOCABULARY, hooks, tiny

from ftcourse import anatomy

FAMILIES = ("bert mlm", "llama lm", "t5 lm", "t5 relu lm")
BLOCKS = {
    "bert mlm": "bert.encoder.layer.0", "llama lm": "model.layers.0", "t5 lm": "decoder.block.0",
    "t5 relu lm": "encoder.block.0",
}  # fmt: skip


def sentence(family, seed=0):
    ids = torch.randint(3, VOCABULARY, (1, 6), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids} | ({"decoder_input_ids": ids[:, :4]} if family.startswith("t5") else {})


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_heard_is_what_went_in_and_out(family):
    model = tiny(family)
    names = anatomy.weighted(model, BLOCKS[family])
    heard = anatomy.listen(model, names, sentence(family))
    assert heard.keys() == {*names} and not hooks(model)
    linear = {name: model.get_submodule(name) for name in names if hasattr(model.get_submodule(name), "in_features")}
    assert len(linear) >= 6
    for name, layer in linear.items():
        assert torch.equal(layer(heard[name].input), heard[name].output)


def test_an_error_leaves_no_hook():
    model = tiny("llama lm")
    with pytest.raises((TypeError, ValueError)):
        anatomy.listen(model, anatomy.weighted(model, "model.layers.0"), {"desconhecido": 1})
    assert not hooks(model)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scaled", [True, False])
def test_the_lens_at_the_end_is_the_model(family, scaled):
    model = tiny(family)
    if family.startswith("t5"):
        model.config.scale_decoder_outputs = scaled
    vectors = anatomy.layers(model, sentence(family))
    blocks = getattr(model.config, "num_decoder_layers", None) or model.config.num_hidden_layers
    assert len(vectors) == blocks + 1
    whole = model(**sentence(family)).logits
    torch.testing.assert_close(anatomy.speak(model, vectors[-1]), whole, rtol=0, atol=1e-5 * whole.abs().max().item())
    if not family.startswith("bert"):
        table = model.get_input_embeddings()
        given = sentence(family).get("decoder_input_ids", sentence(family)["input_ids"])
        assert torch.equal(vectors[0], table(given))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_has_a_part(family):
    parts = {name: anatomy.part_of(name) for name, _ in tiny(family).named_parameters()}
    assert {*parts.values()} == {*anatomy.COLUMNS}
    for name, part in parts.items():
        assert ("norm" in name.lower()) == (part == "normalizações"), name


def test_the_published_models_have_the_published_sizes_and_no_numbers():
    models = anatomy.published()
    assert {name: round(model.num_parameters() / 1e9, 2) for name, model in models.items()} == {
        "BERT-base": 0.11, "LLaMA-7B": 6.74, "T5-11B": 11.31,
    }  # fmt: skip
    assert all(parameter.is_meta for model in models.values() for parameter in model.parameters())


def test_the_drawing_says_every_module_its_shape_and_its_share():
    model = tiny("bert mlm")
    names = anatomy.weighted(model, BLOCKS["bert mlm"])
    ax = anatomy.draw({"um bloco": (model, names)})
    said = [text.get_text() for text in ax.texts]
    total = sum(p.numel() for name in names for p in model.get_submodule(name).parameters())
    assert said[-1] == f"um bloco\n{total:,} parâmetros".replace(",", ".")
    for name, text in zip(names, said):
        shape = " × ".join(map(str, model.get_submodule(name).weight.shape))
        assert text.startswith(f"{name.split('.')[-1]}\n{shape} · ") and text.endswith(" %")
    shares = [int(text.split("· ")[1].removesuffix(" %")) for text in said[:-1]]
    assert abs(sum(shares) - 100) <= len(shares) / 2
    plt.close(ax.figure)
