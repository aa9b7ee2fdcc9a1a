"""À mão == peft: saídas, gradientes, passos do otimizador, fusão e geração, em modelos de tamanhos sorteados."""

import copy

import peft
import pytest
import torch
from toys import GENERATE, TINY, WITH_HEAD, logits, shake, tiny, tiny_batch

from ftcourse import methods, modules

SETTINGS = {"α/r": {"r": 3, "lora_alpha": 5}, "α/√r": {"r": 2, "lora_alpha": 7, "use_rslora": True}}
SEEDS = range(3)
families = pytest.mark.parametrize("family", TINY)
settings = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
seeds = pytest.mark.parametrize("seed", SEEDS)


def pair(family, seed, folder, dtype=torch.float32, **settings):
    """O mesmo modelo com o mesmo adaptador, à mão e em peft, que o lê do arquivo."""
    model = tiny(family, seed, dtype)
    base = copy.deepcopy(model)
    shake(methods.apply(model, "lora", seed=seed, **settings))
    methods.save(model, folder)
    return model, peft.PeftModel.from_pretrained(base, folder, is_trainable=True)


def trained(model):
    """O que treina em peft, com os nomes de `methods.tensors`."""
    return {
        name.removeprefix("base_model.model.").replace(".modules_to_save", "").replace(".default", ""): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def both(hand, theirs):
    """Os parâmetros que treinam, dois a dois: {nome: (o daqui, o de peft)}."""
    ours, others = methods.tensors(hand, "default"), trained(theirs)
    assert ours.keys() == others.keys() and all(p.requires_grad for p in ours.values())
    return {name: (ours[name], others[name]) for name in ours}


def backward(model, dropout_seed=0):
    torch.manual_seed(dropout_seed)
    loss = model(**tiny_batch(model)).loss
    loss.backward()
    return loss.detach()


def assert_equal(pairs):
    assert pairs and not [name for name, (one, other) in pairs.items() if not torch.equal(one, other)]


@families
@settings
@seeds
def test_outputs_and_every_gradient_are_equal(tmp_path, family, settings, seed):
    hand, theirs = pair(family, seed, tmp_path, **settings)
    assert torch.equal(logits(hand), logits(theirs)) and not torch.equal(logits(hand), logits(tiny(family, seed)))
    assert torch.equal(backward(hand), backward(theirs))
    gradients = {name: (one.grad, other.grad) for name, (one, other) in both(hand, theirs).items()}
    assert_equal(gradients)
    assert all(one.abs().sum() > 0 for name, (one, _) in gradients.items() if not name.endswith("pooler.dense.bias"))


@families
@settings
def test_with_dropout_the_same_seed_zeroes_the_same_numbers(tmp_path, family, settings):
    hand, theirs = pair(family, 0, tmp_path, lora_dropout=0.3, **settings)
    hand.train(), theirs.train()
    first, again, other = (backward(hand, dropout_seed) for dropout_seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    for dropout_seed in (0, 0, 1):
        backward(theirs, dropout_seed)
    assert_equal({name: (one.grad, other.grad) for name, (one, other) in both(hand, theirs).items()})


@families
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("dropout", [0, 0.2])
def test_parameters_are_equal_after_three_steps(tmp_path, family, optimizer, dropout):
    hand, theirs = pair(family, 1, tmp_path, lora_dropout=dropout, **SETTINGS["α/√r"])
    before = {name: one.detach().clone() for name, (one, _) in both(hand, theirs).items()}
    for model, parameters in ((hand, methods.tensors(hand, "default")), (theirs, trained(theirs))):
        model.train()
        steps = optimizer([parameters[name] for name in sorted(parameters)], lr=1e-2)
        for step in range(3):
            backward(model, dropout_seed=step)
            steps.step()
            steps.zero_grad()
        model.eval()
    assert_equal(both(hand, theirs))
    assert all(
        not torch.equal(before[n], one) for n, (one, _) in both(hand, theirs).items() if "pooler.dense.b" not in n
    )
    assert torch.equal(logits(hand), logits(theirs))


@families
@settings
@seeds
def test_merged_weights_are_equal(tmp_path, family, settings, seed):
    hand, theirs = pair(family, seed, tmp_path, **settings)
    hand, theirs = methods.merge_and_unload(hand), theirs.merge_and_unload()
    ours, others = hand.state_dict(), theirs.state_dict()
    assert ours.keys() == others.keys()
    assert_equal({name: (ours[name], others[name]) for name in ours})
    assert torch.equal(logits(hand), logits(theirs))


@pytest.mark.parametrize("family", GENERATE)
@settings
@seeds
def test_generation_is_equal_token_for_token(tmp_path, family, settings, seed):
    hand, theirs = pair(family, seed, tmp_path, **settings)
    prompt = {name: tiny_batch(hand)[name] for name in ("input_ids", "attention_mask")}
    plan = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    written = hand.generate(**prompt, **plan)
    assert torch.equal(written, theirs.generate(**prompt, **plan))
    assert torch.equal(
        methods.merge(hand).generate(**prompt, **plan), theirs.merge_and_unload().generate(**prompt, **plan)
    )
    assert not torch.equal(written, tiny(family, seed).generate(**prompt, **plan))


# ---------------------------------------------------------------- em bfloat16


def same_head(hand, theirs):
    """Põe a cabeça daqui em bfloat16, como a de peft, que só leva a float32 os adaptadores."""
    for layer in modules.layers(hand).values():
        if isinstance(layer, modules.TrainedCopy):
            layer.bfloat16()
    assert all(one.dtype == other.dtype for one, other in both(hand, theirs).values())


@families
@seeds
def test_on_a_bfloat16_base_all_is_equal_with_the_head_in_the_type_of_peft(tmp_path, family, seed):
    hand, theirs = pair(family, seed, tmp_path, torch.bfloat16, **SETTINGS["α/r"])
    same_head(hand, theirs)
    assert {p.dtype for name, p in methods.tensors(hand, "default").items() if "lora_" in name} == {torch.float32}
    assert torch.equal(logits(hand), logits(theirs)) and logits(hand).dtype == torch.bfloat16
    for model, parameters in ((hand, methods.tensors(hand, "default")), (theirs, trained(theirs))):
        optimizer = torch.optim.AdamW([parameters[name] for name in sorted(parameters)], lr=1e-2)
        for _ in range(3):
            backward(model)
            optimizer.step()
    assert_equal({name: (one.grad, other.grad) for name, (one, other) in both(hand, theirs).items()})
    assert_equal(both(hand, theirs))
    ours, others = (model.state_dict() for model in (methods.merge_and_unload(hand), theirs.merge_and_unload()))
    assert_equal({name: (ours[name], others[name]) for name in others})


@pytest.mark.parametrize("family", WITH_HEAD)
@seeds
def test_on_a_bfloat16_base_the_float32_head_rounds_less_than_that_of_peft(tmp_path, family, seed):
    """A diferença é a do arredondamento da cabeça: os logits, a 2⁻⁷ do maior; os gradientes, a 5%."""
    hand, theirs = pair(family, seed, tmp_path, torch.bfloat16, **SETTINGS["α/r"])
    ours, others = logits(hand), logits(theirs).float()
    assert ours.dtype == torch.float32 and (ours - others).abs().max() <= 2**-7 * max(1, others.abs().max())
    for model in (hand, theirs):
        backward(model)
    for one, other in both(hand, theirs).values():
        assert (one.grad - other.grad.float()).norm() <= 0.05 * one.grad.norm()


# ---------------------------------------------------------------- all-linear


def peft_targets(model):
    """Os nomes das camadas em que peft age."""
    return {name for name, module in model.base_model.model.named_modules() if hasattr(module, "lora_A")}


# O que "all-linear" de peft toma e o daqui deixa: as camadas da cabeça e o que só serve para prever fichas.
LEFT_OUT = {
    "bert": {"bert.pooler.dense"},
    "bert mlm": {"cls.predictions.transform.dense"},
    "t5": {"classification_head.dense", "classification_head.out_proj"},
}


@families
def test_all_linear_is_that_of_peft_but_for_the_head(family):
    model, kind = tiny(family), peft.TaskType.SEQ_CLS if family in WITH_HEAD else None
    config = peft.LoraConfig(target_modules="all-linear", task_type=kind)
    ours, theirs = modules.find(model, "all-linear"), peft_targets(peft.get_peft_model(tiny(family), config))
    assert theirs - ours.keys() == LEFT_OUT.get(family, set()) and ours.keys() <= theirs
    assert model.get_output_embeddings() not in ours.values()


@pytest.mark.parametrize(
    "family, target_modules",
    [
        ("bert", ["query", "value"]),
        ("bert", ["attention.self.key", "intermediate.dense"]),
        ("bert", ["dense"]),
        ("bert", ["bert.encoder.layer.0.attention.self.query"]),
        ("bert", r".*\.(query|output\.dense)"),
        ("bert", "bert.encoder.layer.0.attention.self.query"),
        ("llama lm", ["q_proj", "mlp.down_proj"]),
        ("llama lm", ["lm_head"]),
        ("t5 lm", ["o", "wi_1"]),
        ("t5 lm", r"decoder\..*\.(q|v)"),
    ],
)
def test_names_endings_and_patterns_choose_what_peft_chooses(family, target_modules):
    theirs = peft.get_peft_model(tiny(family), peft.LoraConfig(target_modules=target_modules))
    assert modules.find(tiny(family), target_modules).keys() == peft_targets(theirs)
