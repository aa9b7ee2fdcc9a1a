"""À mão == peft: saídas, gradientes, passos do otimizador, fusão e geração, em modelos de tamanhos sorteados."""

import copy

import peft
import pytest
import torch
import transformers
from toys import GENERATE, TINY, WITH_HEAD, logits, shake, tiny, tiny_batch

from ftcourse import layers, methods, modules

SETTINGS = {
    "α/r": {"method": "lora", "r": 3, "lora_alpha": 5},
    "α/√r": {"method": "lora", "r": 2, "lora_alpha": 7, "use_rslora": True},
    "DoRA": {"method": "dora", "r": 3, "lora_alpha": 5},
    "IA³": {"method": "ia3"},
}
WITH_DROPOUT = {n: plan for n, plan in SETTINGS.items() if hasattr(methods.METHODS[plan["method"]], "lora_dropout")}
SEEDS = range(3)
families = pytest.mark.parametrize("family", TINY)
settings = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
with_dropout = pytest.mark.parametrize("settings", WITH_DROPOUT.values(), ids=WITH_DROPOUT)
seeds = pytest.mark.parametrize("seed", SEEDS)


def pair(family, seed, folder, dtype=torch.float32, *, method, **settings):
    """O mesmo modelo com o mesmo adaptador, à mão e em peft, que o lê do arquivo."""
    model = tiny(family, seed, dtype)
    base = copy.deepcopy(model)
    shake(methods.apply(model, method, seed=seed, **settings))
    methods.save(model, folder)
    return model, peft.PeftModel.from_pretrained(base, folder, is_trainable=True)


def trained(model):
    """O que treina em peft, com os nomes de `methods.tensors`."""
    state = peft.get_peft_model_state_dict(model).items()
    names = {tensor.data_ptr(): name.removeprefix("base_model.model.") for name, tensor in state}
    return {names[parameter.data_ptr()]: parameter for parameter in model.parameters() if parameter.requires_grad}


def both(hand, theirs):
    """Os parâmetros que treinam, dois a dois: {nome: (o daqui, o de peft)}."""
    ours, others = methods.tensors(hand, "default"), trained(theirs)
    assert ours.keys() == others.keys() and all(p.requires_grad for p in ours.values())
    return {name: (ours[name], others[name]) for name in ours}


def merged_by_peft(theirs):
    """O modelo de peft com o adaptador fundido, e os seus pesos, com os nomes da base.

    `merge_and_unload` de peft 0.21.2, com IA³, tropeça numa cabeça que não é uma camada só, como o pooler do BERT.
    """
    plain = type(theirs.get_base_model())(theirs.get_base_model().config).state_dict().keys()
    theirs.merge_adapter()
    state = theirs.get_base_model().state_dict().items()
    named = {n.replace(".base_layer", "").replace(".modules_to_save.default", ""): tensor for n, tensor in state}
    return theirs, {name: named[name] for name in plain}


def backward(model, dropout_seed=0):
    torch.manual_seed(dropout_seed)
    loss = model(**tiny_batch(model)).loss
    loss.backward()
    return loss.detach()


def assert_equal(pairs):
    assert pairs and not [n for n, (one, other) in pairs.items() if not torch.equal(one.view_as(other), other)]


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
@with_dropout
def test_with_dropout_the_same_seed_zeroes_the_same_numbers(tmp_path, family, settings):
    hand, theirs = pair(family, 0, tmp_path, lora_dropout=0.3, **settings)
    hand.train(), theirs.train()
    first, again, other = (backward(hand, dropout_seed) for dropout_seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    for dropout_seed in (0, 0, 1):
        backward(theirs, dropout_seed)
    assert_equal({name: (one.grad, other.grad) for name, (one, other) in both(hand, theirs).items()})


PLANS = [*SETTINGS.values(), *({"lora_dropout": 0.2} | plan for plan in WITH_DROPOUT.values())]


@families
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("settings", PLANS, ids=lambda plan: ",".join(map(str, plan.values())))
def test_parameters_are_equal_after_three_steps(tmp_path, family, optimizer, settings):
    hand, theirs = pair(family, 1, tmp_path, **settings)
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
    pairs = {n: one for n, (one, _) in both(hand, theirs).items() if "pooler.dense.b" not in n}
    moved = [not torch.equal(before[name], one) for name, one in pairs.items()]
    assert all(moved) or (optimizer is torch.optim.SGD and any(moved))  # um gradiente pequeno se perde na soma
    assert torch.equal(logits(hand), logits(theirs))


@families
@settings
@seeds
def test_merged_weights_are_equal(tmp_path, family, settings, seed):
    hand, theirs = pair(family, seed, tmp_path, **settings)
    ours, (theirs, others) = methods.merge_and_unload(hand).state_dict(), merged_by_peft(theirs)
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
        methods.merge(hand).generate(**prompt, **plan), merged_by_peft(theirs)[0].generate(**prompt, **plan)
    )
    methods.unmerge(hand)
    assert not torch.equal(logits(hand), logits(tiny(family, seed)))


# ---------------------------------------------------------------- em bfloat16


def same_head(hand, theirs):
    """Põe a cabeça daqui em bfloat16, como a de peft, que só leva a float32 os adaptadores."""
    for _, layer in layers.wrapped(hand):
        if isinstance(layer, layers.TrainedCopy):
            layer.bfloat16()
    assert all(one.dtype == other.dtype for one, other in both(hand, theirs).values())


@families
@settings
@seeds
def test_on_a_bfloat16_base_all_is_equal_with_the_head_in_the_type_of_peft(tmp_path, family, settings, seed):
    hand, theirs = pair(family, seed, tmp_path, torch.bfloat16, **settings)
    assert {p.dtype for p in methods.tensors(hand, "default").values()} == {torch.float32}
    same_head(hand, theirs)
    assert torch.equal(logits(hand), logits(theirs)) and logits(hand).dtype == torch.bfloat16
    for model, parameters in ((hand, methods.tensors(hand, "default")), (theirs, trained(theirs))):
        optimizer = torch.optim.AdamW([parameters[name] for name in sorted(parameters)], lr=1e-2)
        for _ in range(3):
            backward(model)
            optimizer.step()
    assert_equal({name: (one.grad, other.grad) for name, (one, other) in both(hand, theirs).items()})
    assert_equal(both(hand, theirs))
    ours, others = methods.merge_and_unload(hand).state_dict(), merged_by_peft(theirs)[1]
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


# ---------------------------------------------------------------- PiSSA


@families
@pytest.mark.parametrize("settings", [{"r": 3, "lora_alpha": 5}, {"r": 2, "lora_alpha": 7, "use_rslora": True}])
def test_pissa_is_that_of_peft_but_for_rounding(family, settings):
    """A e B nascem iguais, bit a bit. Depois, peft arredonda W − s·B₀A₀ uma vez; aqui W x e s·B₀A₀ x se subtraem."""
    hand = methods.apply(tiny(family), "pissa", modules_to_save=(), **settings)
    assert torch.equal(logits(hand), logits(tiny(family)))
    targets = [*modules.targets(hand, "default")]
    config = peft.LoraConfig(init_lora_weights="pissa", target_modules=targets, **settings)
    theirs = peft.get_peft_model(tiny(family), config).eval()
    ours, others = methods.tensors(hand, "default"), trained(theirs)
    assert ours.keys() == others.keys()
    assert_equal({name: (ours[name], others[name]) for name in ours})
    near = {"rtol": 1e-3, "atol": 1e-4}
    torch.testing.assert_close(logits(hand), logits(theirs), **near)
    backward(hand), backward(theirs)
    for name, one in ours.items():
        assert (one.grad - others[name].grad).norm() <= 1e-3 * max(one.grad.norm(), 1e-3)
    for parameters in (
        ours,
        others,
    ):  # SGD: Adam faria de um gradiente quase nulo um passo de ±lr, com o sinal do acaso
        torch.optim.SGD(parameters.values(), lr=1e-2).step()
    torch.testing.assert_close(logits(hand), logits(theirs), **near)
    merged, (theirs, state) = methods.merge_and_unload(hand).state_dict(), merged_by_peft(theirs)
    assert merged.keys() == state.keys()
    for name in state:
        torch.testing.assert_close(merged[name], state[name], **near)


@families
def test_pissa_on_a_bfloat16_base_is_that_of_peft_but_for_rounding(family):
    """peft 0.21.2 arredonda para bfloat16 W − s·B₀A₀ e, depois de o calcular, também A e B: antes de qualquer treino o
    modelo já não responde como a base. Aqui W fica, e a resposta é a dela, bit a bit; entre os dois há até 4%."""
    hand = methods.apply(tiny(family, dtype=torch.bfloat16), "pissa", modules_to_save=(), r=3, lora_alpha=5)
    untouched = tiny(family, dtype=torch.bfloat16)
    assert torch.equal(logits(hand), logits(untouched))
    assert {p.dtype for p in methods.tensors(hand, "default").values()} == {torch.float32}
    targets = [*modules.targets(hand, "default")]
    config = peft.LoraConfig(init_lora_weights="pissa", target_modules=targets, r=3, lora_alpha=5)
    theirs = peft.get_peft_model(tiny(family, dtype=torch.bfloat16), config).eval()
    assert_equal({name: (one.bfloat16().float(), other) for name, (one, other) in both(hand, theirs).items()})
    difference = logits(hand).float() - logits(theirs).float()
    assert 0 < difference.norm() <= 0.04 * logits(hand).float().norm()


# ---------------------------------------------------------------- IA³: onde


@families
def test_by_role_the_vectors_are_where_the_paper_puts_them(family):
    """K e V na saída, a volta do feed-forward na entrada; a atenção cruzada do T5 também."""
    model = methods.apply(tiny(family), "ia3")
    vectors = {n.removesuffix(".ia3_l"): p for n, p in methods.tensors(model, "default").items() if "ia3_l" in n}
    held = [(n, layer) for n, layer in layers.wrapped(model) if n in vectors and layer.on_input["default"]]
    on_input = {n.rsplit(".", 2)[-1] if "bert" not in family else n[-12:] for n, _ in held}
    assert on_input == {{"b": "output.dense", "l": "down_proj", "t": "wo"}[family[0]]}
    config = model.config
    blocks = config.num_layers * 2 if family.startswith("t5") else config.num_hidden_layers
    attentions = config.num_layers * 3 if family.startswith("t5") else blocks
    assert len(vectors) == 2 * attentions + blocks and not [n for n in vectors if "attention.output" in n]


def test_the_default_of_peft_on_bert_also_takes_the_output_of_attention():
    """O "output.dense" de peft casa com attention.output.dense: quatro vetores por camada, e não três."""
    model = tiny("bert")
    theirs = peft.get_peft_model(tiny("bert"), peft.IA3Config(task_type="SEQ_CLS")).get_base_model()
    taken = {n for n, m in theirs.named_modules() if hasattr(m, "ia3_l")}
    extra = taken - modules.by_role(model, "key", "value", "down").keys()
    assert extra == {f"bert.encoder.layer.{i}.attention.output.dense" for i in range(model.config.num_hidden_layers)}


# ---------------------------------------------------------------- BitFit

TRAINS = {  # o que se pode pedir a cada família
    "bias": [family for family in TINY if family.startswith("bert")],
    "new_bias": [*TINY],
    "norm": [*TINY],
}
variants = pytest.mark.parametrize("trains, family", [(trains, f) for trains, fs in TRAINS.items() for f in fs])


def bitfit_pair(family, trains, dtype=torch.float32):
    """BitFit, e o modelo de transformers em que se liberam os mesmos parâmetros, na própria base."""
    hand, plain = methods.apply(tiny(family, dtype=dtype), "bitfit", trains=trains), tiny(family, dtype=dtype)
    names = methods.tensors(hand, "default").keys()
    for name in names - dict(plain.named_parameters()).keys():
        linear = plain.get_submodule(name.removesuffix(".bias"))
        linear.bias = torch.nn.Parameter(torch.zeros(linear.out_features, dtype=dtype))
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_(name in names)
    return hand, plain


def three_steps(model, parameters):
    optimizer = torch.optim.AdamW([parameters[name] for name in sorted(parameters)], lr=1e-2)
    for _ in range(3):
        backward(model)
        optimizer.step()


@variants
def test_bitfit_is_to_free_those_parameters_of_the_model_itself(family, trains):
    hand, plain = bitfit_pair(family, trains)
    assert torch.equal(logits(hand), logits(plain)) and torch.equal(logits(hand), logits(tiny(family)))
    assert torch.equal(backward(hand), backward(plain))
    ours, others = methods.tensors(hand, "default"), {n: p for n, p in plain.named_parameters() if p.requires_grad}
    assert ours.keys() == others.keys()
    assert_equal({name: (ours[name].grad, others[name].grad) for name in ours})
    three_steps(hand, ours), three_steps(plain, others)
    assert_equal({name: (ours[name], others[name]) for name in ours})
    assert torch.equal(logits(hand), logits(plain)) and not torch.equal(logits(hand), logits(tiny(family)))
    merged, state = methods.merge_and_unload(hand).state_dict(), plain.state_dict()
    assert merged.keys() == state.keys()
    assert_equal({name: (merged[name], state[name]) for name in state})


@variants
def test_on_a_bfloat16_base_what_bitfit_trains_is_float32(family, trains):
    """Os passos se somam em float32, e só a conta é em bfloat16: fundido, responde o mesmo, bit a bit."""
    hand, _ = bitfit_pair(family, trains, torch.bfloat16)
    three_steps(hand, tensors := methods.tensors(hand, "default"))
    assert {p.dtype for p in tensors.values()} == {torch.float32}
    for _, layer in layers.wrapped(hand):
        if isinstance(layer, layers.TrainedCopy):
            layer.bfloat16()
    answer = logits(hand)
    assert torch.equal(logits(methods.merge(hand)), answer)
    assert {p.dtype for p in methods.merge_and_unload(hand).parameters()} == {torch.bfloat16}


@families
def test_training_the_norms_is_the_LN_tuning_of_peft(family):
    hand = methods.apply(tiny(family), "bitfit", trains="norm")
    norms = [*modules.targets(hand, "default")]
    theirs = peft.get_peft_model(
        tiny(family), peft.LNTuningConfig(target_modules=norms, modules_to_save=[*modules.head(hand)])
    )
    others = {n.replace(".ln_tuning_layers", ""): p for n, p in trained(theirs).items()}
    ours = methods.tensors(hand, "default")
    assert ours.keys() == others.keys()
    three_steps(hand, ours), three_steps(theirs, others)
    assert_equal({name: (ours[name], others[name]) for name in ours})
    assert torch.equal(logits(hand), logits(theirs.eval()))


@pytest.mark.parametrize("family", TRAINS["bias"])
def test_the_biases_of_the_keys_change_no_answer(family):
    model = methods.apply(tiny(family), "bitfit")
    gradients = {n: p for n, p in methods.tensors(model, "default").items() if ".key." in n or ".query." in n}
    backward(model)
    of_keys = max(p.grad.abs().max() for n, p in gradients.items() if ".key." in n)
    assert of_keys < 1e-5 * max(p.grad.abs().max() for n, p in gradients.items() if ".query." in n)


def test_bitfit_of_BERT_base_trains_the_share_that_the_paper_gives():
    """0,094% do BERT-base: as lineares, as normas, a dos embeddings e o pooler; 0,081% do BERT-large."""
    for sizes, published in (((768, 12, 12, 3072), "0.094%"), ((1024, 24, 16, 4096), "0.081%")):
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        with torch.device("meta"):
            model = transformers.BertModel(transformers.BertConfig(**dict(zip(names, sizes))))
        total = sum(p.numel() for p in model.parameters())
        d, layers, _, f = sizes
        trains = modules.count_parameters(methods.apply(model, "bitfit"))[0]
        assert trains == layers * (7 * d + f) + 2 * d and f"{trains / total:.3%}" == published


# ---------------------------------------------------------------- all-linear


def peft_targets(model):
    """Os nomes das camadas em que peft age."""
    return {name for name, module in model.base_model.model.named_modules() if hasattr(module, "lora_A")}


# O que "all-linear" de peft toma e o daqui deixa: as camadas da cabeça e o que só serve para prever tokens.
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
