"""O arquivo de um adaptador: o de peft, conferido antes de tocar no modelo, recusado inteiro se lhe falta algo."""

import itertools
import json
import os
import shutil
import warnings

import peft
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import PAIRS, TINY, WITH_HEAD, finish, logits, mergeable, photo, rewrite, save_over, shake, tiny

from ftcourse import methods, modules, pissa
from ftcourse.interchange import CONFIG, WEIGHTS
from ftcourse.methods import METHODS

QUERY = {"bert": "query", "llama": "q_proj", "t5": "q"}
VALUE = {"bert": "value", "llama": "v_proj", "t5": "v"}
families = pytest.mark.parametrize("family", TINY)
with_head = pytest.mark.parametrize("family", WITH_HEAD)


@pytest.fixture(autouse=True)
def every_warning_is_a_failure():
    """Um aviso de `load` só vale onde o teste o espera."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="O adaptador de")
        yield


def saved(folder, family="bert", method="lora", seed=0, **options):
    """Grava um adaptador que já treinou e devolve o modelo."""
    model = shake(methods.apply(tiny(family, seed), method, **options))
    methods.save(model, folder)
    return model


def from_peft(folder, family, dtype=torch.float32, **options):
    """O mesmo, gravado por peft."""
    model = shake(peft.get_peft_model(tiny(family, dtype=dtype), peft.LoraConfig(r=3, lora_alpha=5, **options)))
    model.save_pretrained(folder)
    return model


# ---------------------------------------------------------------- ida e volta


@pytest.mark.parametrize("method, family", PAIRS)
def test_what_is_saved_is_what_is_loaded_for_every_method_and_family(tmp_path, method, family):
    model = saved(tmp_path, family, method)
    again = methods.load(tiny(family), tmp_path)
    assert torch.equal(logits(again), logits(model)) and not torch.equal(logits(again), logits(tiny(family)))
    one, other = methods.tensors(model, "default"), methods.tensors(again, "default")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in again.parameters()]


@pytest.mark.parametrize("method, family", PAIRS)
def test_saving_twice_gives_the_same_bytes(tmp_path, method, family):
    model = saved(tmp_path / "a", family, method)
    methods.save(methods.merge(model) if mergeable(method) else model, tmp_path / "b")  # fundido ou não
    methods.save(methods.load(tiny(family), tmp_path / "a"), tmp_path / "c")
    for name in (CONFIG, WEIGHTS):
        one, other, third = ((tmp_path / folder / name).read_bytes() for folder in "abc")
        assert one == other
        assert one == third or (name == CONFIG and json.loads(one) == json.loads(third))
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [CONFIG, WEIGHTS]


@settings(deadline=None, max_examples=25)
@given(st.sampled_from([*TINY]), st.integers(0, 30), st.integers(1, 4), st.floats(0.1, 64), st.booleans(), st.data())
def test_any_settings_come_back(tmp_path_factory, family, seed, r, alpha, rslora, data):
    folder = tmp_path_factory.mktemp("adaptador")
    every = [*modules.find(tiny(family, seed), "all-linear")]
    targets = data.draw(st.lists(st.sampled_from(every), min_size=1, unique=True))
    plan = {"r": r, "lora_alpha": alpha, "use_rslora": rslora, "target_modules": targets}
    model = saved(folder, family, seed=seed, **plan)
    again = methods.load(tiny(family, seed), folder)
    assert torch.equal(logits(model), logits(again))
    theirs = peft.PeftModel.from_pretrained(tiny(family, seed), folder)
    assert torch.equal(logits(model), logits(theirs))


def test_one_of_two_adapters_is_saved_and_loads_beside_another(tmp_path):
    model = shake(methods.apply(tiny("bert"), "lora", "um"))
    first = logits(model)
    shake(methods.apply(model, "lora", "dois", r=2, target_modules=["query"]), seed=2)
    methods.save(methods.merge(model), tmp_path, "um")
    again = shake(methods.apply(tiny("bert"), "lora", "três"), seed=3)
    third = logits(again)
    methods.load(methods.merge(again), tmp_path, "um")  # um fundido não atrapalha, nem dá aviso
    assert methods.active(again) == "um" and torch.equal(logits(again), first)
    assert torch.equal(logits(methods.activate(again, "três")), third)
    methods.load(again, tmp_path, "três")  # no lugar do que tinha esse nome
    assert torch.equal(logits(again), first) and [*methods.adapters(again)] == ["três", "um"]


@pytest.mark.parametrize("method", METHODS)
def test_it_loads_over_itself_as_a_cell_that_runs_twice_does(tmp_path, method):
    model = saved(tmp_path, method=method)
    answer = logits(model)
    for _ in range(2):
        assert torch.equal(logits(methods.load(shake(model, seed=9), tmp_path)), answer)


def test_loading_leaves_the_generator_alone(tmp_path):
    saved(tmp_path)
    model, before = tiny("bert"), torch.get_rng_state()
    methods.load(model, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------- peft grava, o curso lê


@families
def test_a_file_of_peft_gives_the_same_answers(tmp_path, family):
    chosen = [*modules.find(tiny(family), "all-linear")]
    theirs = from_peft(tmp_path, family, target_modules=chosen, modules_to_save=[*modules.head(tiny(family))])
    assert torch.equal(logits(methods.load(tiny(family), tmp_path)), logits(theirs))


@with_head
@pytest.mark.parametrize("use_rslora", [False, True])
def test_endings_as_peft_writes_them(tmp_path, family, use_rslora):
    head = [*modules.head(tiny(family))]
    theirs = from_peft(
        tmp_path, family, target_modules=[QUERY[family], VALUE[family]], modules_to_save=head, use_rslora=use_rslora
    )
    ours = methods.load(tiny(family), tmp_path)
    assert torch.equal(logits(ours), logits(theirs))
    assert {name.rsplit(".", 1)[1] for name in modules.targets(ours, "default")} == {QUERY[family], VALUE[family]}


@with_head
def test_a_pattern_as_peft_writes_it(tmp_path, family):
    pattern = rf".*\.({QUERY[family]}|{VALUE[family]})"
    theirs = from_peft(tmp_path, family, target_modules=pattern, modules_to_save=[*modules.head(tiny(family))])
    assert json.loads((tmp_path / CONFIG).read_text())["target_modules"] == pattern
    assert torch.equal(logits(methods.load(tiny(family), tmp_path)), logits(theirs))


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_classifier_of_peft_lists_heads_that_the_model_does_not_have(tmp_path, family):
    """Com task_type, peft grava ["classifier", "score"]; o pooler do BERT não vem, e isso se avisa."""
    theirs = from_peft(tmp_path, family, target_modules=[QUERY[family]], task_type="SEQ_CLS")
    assert set(json.loads((tmp_path / CONFIG).read_text())["modules_to_save"]) == {"classifier", "score"}
    if family == "llama":
        ours = methods.load(tiny(family), tmp_path)
    else:
        with pytest.warns(UserWarning, match=r"O adaptador de .* não traz bert\.pooler"):
            ours = methods.load(tiny(family), tmp_path)
    assert torch.equal(logits(ours), logits(theirs))


@families
def test_all_linear_of_peft_comes_whole(tmp_path, family):
    """Nos modelos com cabeça, peft só a deixa de fora com task_type, e não a do T5."""
    kind = peft.TaskType.SEQ_CLS if family in WITH_HEAD else None
    theirs = from_peft(tmp_path, family, target_modules="all-linear", task_type=kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(logits(methods.load(tiny(family), tmp_path)), logits(theirs))


IA3 = {  # os nomes de peft para cada família; no BERT, "output.dense" toma também a saída da atenção
    "bert": (["key", "value", "output.dense"], ["output.dense"]),
    "llama": (["k_proj", "v_proj", "down_proj"], ["down_proj"]),
    "t5": (["k", "v", "wo"], ["wo"]),
}


@families
def test_ia3_goes_there_and_back(tmp_path, family):
    targets, feedforward = IA3[family.split()[0]]
    config = peft.IA3Config(
        target_modules=targets, feedforward_modules=feedforward, modules_to_save=[*modules.head(tiny(family))]
    )
    theirs = shake(peft.get_peft_model(tiny(family), config))
    theirs.save_pretrained(tmp_path / "a")
    ours = methods.load(tiny(family), tmp_path / "a")
    assert torch.equal(logits(ours), logits(theirs)) and not torch.equal(logits(ours), logits(tiny(family)))
    methods.save(ours, tmp_path / "b")
    again = peft.PeftModel.from_pretrained(tiny(family), tmp_path / "b")
    assert torch.equal(logits(again), logits(theirs))


@families
def test_dora_goes_there_and_back(tmp_path, family):
    head = [*modules.head(tiny(family))]
    chosen = [*modules.find(tiny(family), "all-linear")]
    theirs = from_peft(tmp_path / "a", family, target_modules=chosen, modules_to_save=head, use_dora=True)
    ours = methods.load(tiny(family), tmp_path / "a")
    assert type(methods.adapters(ours)["default"]) is METHODS["dora"] and torch.equal(logits(ours), logits(theirs))
    methods.save(ours, tmp_path / "b")
    again = peft.PeftModel.from_pretrained(tiny(family), tmp_path / "b")
    assert torch.equal(logits(again), logits(theirs))


def close(one, other):
    """Iguais a menos do arredondamento: aqui W fica e B₀A₀ se subtrai na conta; em peft, no peso."""
    torch.testing.assert_close(logits(one), logits(other), rtol=1e-4, atol=1e-4)


@families
@pytest.mark.parametrize("use_rslora", [False, True])
def test_pissa_goes_there_and_back_and_goes_as_a_lora_of_twice_the_rank(tmp_path, family, use_rslora):
    options = {"r": 2, "lora_alpha": 5, "use_rslora": use_rslora}
    ours = saved(tmp_path / "a", family, "pissa", **options)
    theirs = peft.PeftModel.from_pretrained(tiny(family), tmp_path / "a")
    close(ours, theirs)
    theirs.save_pretrained(tmp_path / "b")
    assert torch.equal(logits(methods.load(tiny(family), tmp_path / "b")), logits(ours))
    answer, trains = logits(ours), [p.requires_grad for p in methods.tensors(ours, "default").values()]
    assert pissa.to_lora(methods.merge(ours)) is ours and type(methods.adapters(ours)["default"]) is METHODS["lora"]
    torch.testing.assert_close(logits(methods.activate(ours, "default")), answer, rtol=1e-4, atol=1e-4)
    assert trains == [p.requires_grad for p in methods.tensors(ours, "default").values()]
    methods.save(ours, tmp_path / "c")
    theirs = peft.PeftModel.from_pretrained(tiny(family), tmp_path / "c")
    assert torch.equal(logits(theirs), logits(ours))
    with methods.disabled(ours):
        assert torch.equal(logits(ours), logits(tiny(family)))


def test_a_pissa_that_is_not_the_active_one_becomes_a_lora_and_the_active_one_goes_on():
    model = tiny("bert")
    for seed, name in enumerate(("um", "dois")):
        shake(methods.apply(model, "pissa", name, r=2), seed)
    answer, other = logits(methods.activate(model, "dois")), logits(methods.activate(model, "um"))
    assert torch.equal(logits(pissa.to_lora(model, "dois")), other) and methods.active(model) == "um"
    torch.testing.assert_close(logits(methods.activate(model, "dois")), answer, rtol=1e-4, atol=1e-4)


def test_a_pissa_that_does_not_fit_or_is_not_one_is_told():
    sizes = [(layer.in_features, layer.out_features) for layer in modules.find(tiny("bert"), "all-linear").values()]
    model = methods.apply(tiny("bert"), "pissa", r=min(map(min, sizes)))
    before = photo(model)
    with pytest.raises(ValueError, match=r"r=\d+ não cabe em"):
        pissa.to_lora(model)
    with pytest.raises(ValueError, match="não tem um adaptador PiSSA chamado 'outro'"):
        pissa.to_lora(model, "outro")
    assert photo(model) == before


@pytest.mark.parametrize("trains", ["new_bias", "norm"])
@families
def test_what_bitfit_trains_where_there_is_no_bias_comes_back(tmp_path, family, trains):
    model = saved(tmp_path, family, "bitfit", trains=trains)
    again = methods.load(tiny(family), tmp_path)
    assert torch.equal(logits(again), logits(model)) and methods.adapters(again)["default"].trains == trains
    assert torch.equal(logits(methods.unmerge(methods.merge(again))), logits(model))


@pytest.mark.parametrize("family", ["llama lm", "t5 lm", "bert mlm"])
@pytest.mark.parametrize("plan", ["norma", "saída", "tabela"])
def test_modules_to_save_and_the_output_are_those_of_peft(tmp_path, family, plan):
    """["norm"] é todo nome que termina assim, no meio de uma palavra também; da saída, peft grava o peso da base."""
    query = QUERY[family.split()[0]]
    if plan == "norma":
        options = {"target_modules": [query], "modules_to_save": ["Norm" if "bert" in family else "norm"]}
    elif plan == "saída":
        options = {"target_modules": [query, "predictions.decoder" if "bert" in family else "lm_head"]}
    else:
        table = {"bert mlm": "word_embeddings", "llama lm": "embed_tokens", "t5 lm": "lm_head"}[family]
        options = {"target_modules": [query], "modules_to_save": [table]}
    theirs = from_peft(tmp_path / "a", family, **options)
    ours = methods.load(tiny(family), tmp_path / "a")
    assert torch.equal(logits(ours), logits(theirs))
    methods.save(ours, tmp_path / "b")
    assert torch.equal(logits(peft.PeftModel.from_pretrained(tiny(family), tmp_path / "b")), logits(theirs))


def test_an_output_of_another_base_is_told(tmp_path):
    from_peft(tmp_path, "llama lm", target_modules=["lm_head"])
    model = tiny("llama lm")
    with torch.no_grad():
        model.lm_head.weight.add_(1)
    before = photo(model)
    with pytest.raises(ValueError, match=r"tem, a mais, lm_head\.weight, um peso da base .* e o deste modelo é outro"):
        methods.load(model, tmp_path)
    assert photo(model) == before


def test_the_tables_of_T5_go_and_come_back_as_one_and_two_of_peft_are_told(tmp_path):
    ours = saved(tmp_path / "a", "t5 lm", modules_to_save=["shared"])
    assert torch.equal(logits(methods.load(tiny("t5 lm"), tmp_path / "a")), logits(ours))
    theirs = peft.PeftModel.from_pretrained(tiny("t5 lm"), tmp_path / "a")
    assert torch.equal(logits(theirs), logits(ours))
    peft.get_peft_model(
        tiny("t5 lm"), peft.LoraConfig(target_modules=["q"], modules_to_save=["shared"])
    ).save_pretrained(tmp_path / "b")
    assert torch.equal(logits(methods.load(tiny("t5 lm"), tmp_path / "b")), logits(tiny("t5 lm")))
    from_peft(tmp_path / "c", "t5 lm", target_modules=["q"], modules_to_save=["embed_tokens"])
    with pytest.raises(
        ValueError, match=r"encoder\.embed_tokens\.weight.* são diferentes, e neste modelo são um peso só"
    ):
        methods.load(tiny("t5 lm"), tmp_path / "c")


@with_head
def test_applied_again_with_less_the_file_is_that_of_who_was_applied_once(tmp_path, family):
    """O que uma camada guardava de antes (em IA³, de que lado fica o vetor) não vai para o arquivo."""
    k, v, down = (list(modules.by_role(tiny(family), role)) for role in ("key", "value", "down"))
    for again in (
        {"target_modules": k, "feedforward_modules": []},
        {"target_modules": [*k, *down], "feedforward_modules": k},
    ):
        model = saved(tmp_path / "a", family, "ia3", target_modules=[*k, *v, *down], feedforward_modules=down)
        methods.save(shake(methods.apply(model, "ia3", **again)), tmp_path / "a")
        saved(tmp_path / "b", family, "ia3", **again)
        for name in (CONFIG, WEIGHTS):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert torch.equal(logits(methods.load(tiny(family), tmp_path / "a")), logits(model))
        assert torch.equal(logits(peft.PeftModel.from_pretrained(tiny(family), tmp_path / "a")), logits(model))


# ---------------------------------------------------------------- uma gravação que para no meio


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_save_that_stops_leaves_the_old_the_new_or_a_refusal(tmp_path, monkeypatch, function):
    """Interrompida em cada chamada de os.`function`: nunca os pesos de uma gravação com o α da outra."""
    old = logits(saved(tmp_path / "velho"))
    save_over(tmp_path / "novo")
    new, original, seen = logits(methods.load(tiny("bert"), tmp_path / "novo")), getattr(os, function), []
    for last in (1, 2, 3):
        folder, calls = shutil.copytree(tmp_path / "velho", tmp_path / str(last)), itertools.count(1)

        def interrupted(*args, last=last, calls=calls):
            if next(calls) == last:
                raise KeyboardInterrupt
            return original(*args)

        monkeypatch.setattr(os, function, interrupted)
        try:
            save_over(folder)
        except KeyboardInterrupt:
            pass
        monkeypatch.undo()
        try:
            answer = logits(methods.load(tiny("bert"), folder))
            seen.append({torch.equal(answer, old): "velho", torch.equal(answer, new): "novo"}[True])
        except ValueError as error:
            assert "a gravação parou no meio" in str(error)
            seen.append("recusa")
    assert seen == ["velho", "recusa", "novo"]


@pytest.mark.slow
def test_a_save_that_is_killed_between_its_two_files_is_refused(tmp_path):
    saved(tmp_path)
    assert finish(save_over, tmp_path, 2, "replace") not in (0, 1)
    with pytest.raises(ValueError, match="a gravação parou no meio"):
        methods.load(tiny("bert"), tmp_path)


@pytest.mark.parametrize("one, other", [("a", "b"), ("b", "a")])
def test_the_settings_of_one_save_and_the_weights_of_another_are_not_read(tmp_path, one, other):
    saved(tmp_path / "a", lora_alpha=8), saved(tmp_path / "b", lora_alpha=9)
    shutil.copy(tmp_path / other / CONFIG, tmp_path / one / CONFIG)
    with pytest.raises(ValueError, match=r"não traz os ajustes com que adapter_model\.safetensors foi gravado"):
        methods.load(tiny("bert"), tmp_path / one)


# ---------------------------------------------------------------- o curso grava, peft lê


@families
@pytest.mark.parametrize("options", [{}, {"r": 2, "lora_alpha": 7, "use_rslora": True, "lora_dropout": 0.3}])
def test_peft_reads_what_is_saved_here(tmp_path, family, options):
    ours = saved(tmp_path, family, **options)
    theirs = peft.PeftModel.from_pretrained(tiny(family), tmp_path)
    assert torch.equal(logits(ours), logits(theirs))
    theirs.save_pretrained(tmp_path / "volta")
    assert torch.equal(logits(methods.load(tiny(family), tmp_path / "volta")), logits(ours))


# ---------------------------------------------------------------- outra base


def test_a_base_with_the_adapter_already_merged_is_told(tmp_path):
    model = saved(tmp_path)
    methods.merge_and_unload(model)
    with pytest.warns(UserWarning, match=r"O adaptador de .* treinou sobre outros pesos.*já não foi somado"):
        methods.load(model, tmp_path)


def test_another_base_is_told(tmp_path):
    saved(tmp_path)
    with torch.no_grad():
        other = tiny("bert")
        other.bert.encoder.layer[0].output.dense.weight.mul_(1.1)
    with pytest.warns(UserWarning, match=r"O adaptador de .* treinou sobre outros pesos"):
        methods.load(other, tmp_path)


def test_another_draw_of_the_head_is_the_same_base(tmp_path):
    model = saved(tmp_path)
    other = tiny("bert")
    for name in modules.head(other):
        torch.nn.init.normal_(next(other.get_submodule(name).parameters()))
    assert torch.equal(logits(methods.load(other, tmp_path)), logits(model))


@families
def test_the_same_base_in_bfloat16_is_the_same_base(tmp_path, family):
    saved(tmp_path, family)
    model = methods.load(tiny(family, dtype=torch.bfloat16), tmp_path)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_a_part_of_the_head_that_did_not_come_is_told(tmp_path):
    saved(tmp_path, modules_to_save=["classifier"])
    with pytest.warns(UserWarning, match=r"não traz bert\.pooler.*sorteada"):
        methods.load(tiny("bert"), tmp_path)


# ---------------------------------------------------------------- o que é recusado


def config(**changes):
    """Um estrago nos ajustes; None tira o campo."""
    return lambda folder: rewrite(folder, **changes)


def weights(change):
    """Um estrago nos pesos: `change` recebe {nome: tensor} e o muda."""

    def damage(folder):
        tensors = safetensors.torch.load_file(folder / WEIGHTS)
        change(tensors)
        safetensors.torch.save_file(tensors, folder / WEIGHTS)

    return damage


def first(tensors):
    return min(name for name in tensors if "lora_A" in name)


def named(tensors, ending):
    return min(name for name in tensors if name.endswith(ending))


def reshape(ending):
    return weights(lambda tensors: tensors.update({named(tensors, ending): torch.ones(3, 3)}))


def drop(ending):
    return weights(lambda tensors: tensors.pop(named(tensors, ending)))


def put(value):
    return weights(lambda tensors: tensors[first(tensors)].view(-1)[:1].fill_(value))


def cut(name, size):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def as_file(folder):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.write_text("não sou uma pasta")


def retype(kind, value):
    """O primeiro peso em outro tipo, cheio de um valor."""
    return weights(lambda t: t.update({first(t): torch.full_like(t[first(t)], value, dtype=kind)}))


def twice(folder):
    """O primeiro peso também sem o começo que peft põe nos nomes."""
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    name = next(iter(tensors))
    tensors[name.removeprefix("base_model.model.")] = tensors[name].clone()
    safetensors.torch.save_file(tensors, folder / WEIGHTS)


DAMAGES = {
    "sem ajustes": (lambda f: (f / CONFIG).unlink(), FileNotFoundError, r"falta adapter_config\.json\. Um adaptador é"),
    "sem pesos": (lambda f: (f / WEIGHTS).unlink(), FileNotFoundError, r"falta adapter_model\.safetensors"),
    "pasta que é arquivo": (as_file, FileNotFoundError, r"falta adapter_config\.json"),
    "ajustes vazios": (write(CONFIG, ""), OSError, r"adapter_config\.json está cortado ou não é JSON"),
    "ajustes cortados": (cut(CONFIG, 50), OSError, r"adapter_config\.json está cortado ou não é JSON"),
    "ajustes que não são texto": (lambda f: (f / CONFIG).write_bytes(b"\xff\xfe{}"), OSError, r"não é JSON"),
    "ajustes em lista": (write(CONFIG, "[1, 2]"), ValueError, r"não diz a técnica, em peft_type"),
    "sem peft_type": (config(peft_type=None), ValueError, r"não diz a técnica, em peft_type"),
    "outro peft_type": (config(peft_type="VERA"), ValueError, r"técnica que .* pede, 'VERA'.*'LORA'"),
    "peft_type em lista": (config(peft_type=["LORA"]), ValueError, r"técnica que .* pede, \['LORA'\]"),
    "DoRA sem m": (config(use_dora=True), ValueError, r"não tem bert\..*lora_magnitude_vector"),
    "postos por camada": (config(rank_pattern={"query": 2}), ValueError, r"rank_pattern=\{'query': 2\}"),
    "alfas por camada": (config(alpha_pattern={"query": 2}), ValueError, r"alpha_pattern"),
    "vieses": (config(bias="all"), ValueError, r"bias='all'"),
    "PiSSA": (config(init_lora_weights="pissa_niter_4"), ValueError, r"init_lora_weights='pissa_niter_4'"),
    "um ajuste de amanhã": (config(use_novidade=True), ValueError, r"use_novidade=True, que o curso não sabe ler"),
    "sem r": (config(r=None), ValueError, r"adapter_config\.json não diz r"),
    "sem alfa": (config(lora_alpha=None), ValueError, r"adapter_config\.json não diz lora_alpha"),
    "r em texto": (config(r="8"), ValueError, r"r='8': .*inteiro"),
    "r trocado": (config(r=4), ValueError, r"tem a forma \(8, \d+\), e o modelo pede \(4, \d+\).*Nada foi carregado"),
    "alfa em texto": (config(lora_alpha="16"), ValueError, r"lora_alpha='16': .*número"),
    "alvo trocado": (config(target_modules=["quer"]), ValueError, r"'quer'.*quis dizer 'query'"),
    "alvo que falta": (config(target_modules=["query"]), ValueError, r"tem, a mais, .*e outros \d+: é de outro modelo"),
    "alvo em número": (config(target_modules=3), ValueError, r"target_modules=3: "),
    "módulos em texto": (config(modules_to_save="classifier"), ValueError, r"modules_to_save='classifier': .*lista"),
    "cabeça que falta": (config(modules_to_save=["classifier"]), ValueError, r"tem, a mais, bert\.pooler"),
    "pesos vazios": (write(WEIGHTS, ""), OSError, r"adapter_model\.safetensors está cortado ou não é"),
    "pesos cortados": (cut(WEIGHTS, -100), OSError, r"adapter_model\.safetensors está cortado ou não é"),
    "pesos sem começo": (cut(WEIGHTS, 40), OSError, r"adapter_model\.safetensors está cortado ou não é"),
    "pesos de texto": (write(WEIGHTS, "x" * 5000), OSError, r"adapter_model\.safetensors está cortado ou não é"),
    "um peso a menos": (weights(lambda t: t.pop(first(t))), ValueError, r"não tem bert\..*lora_A\.weight: é de outro"),
    "um peso a mais": (weights(lambda t: t.update(sobra=torch.ones(2))), ValueError, r"tem, a mais, sobra: é de outro"),
    "um nome trocado": (weights(lambda t: t.update(x=t.pop(first(t)))), ValueError, r"não tem bert\..*lora_A"),
    "outra forma": (weights(lambda t: t.update({first(t): torch.ones(8, 3)})), ValueError, r"tem a forma \(8, 3\)"),
    "um nan": (put(float("nan")), ValueError, r"lora_A\.weight tem valores que não são números"),
    "um infinito": (put(float("inf")), ValueError, r"lora_A\.weight tem valores que não são números"),
    "grande demais": (retype(torch.float64, 1e300), ValueError, r"lora_A\.weight tem valores que não são números"),
    "inteiros": (retype(torch.int8, 100), ValueError, r"lora_A\.weight veio em torch\.int8, e o modelo pede"),
    "o mesmo peso duas vezes": (twice, ValueError, r"traz o mesmo peso duas vezes"),
    "alfa verdadeiro": (config(lora_alpha=True), ValueError, r"lora_alpha=True: .*número"),
    "OLoRA": (config(init_lora_weights="OLoRA"), ValueError, r"init_lora_weights='OLoRA'"),
    "de outra arquitetura": (lambda f: saved(f, "llama"), ValueError, r"'model\.layers\.\S+q_proj'.*'query'"),
    "de outro tamanho": (lambda f: saved(f, seed=3), ValueError, r"Nada foi carregado|'query'"),
}  # fmt: skip
states = pytest.mark.parametrize("state", ["puro", "aplicado", "fundido"])


def in_state(state):
    model = tiny("bert")
    if state != "puro":
        shake(methods.apply(model, "lora", "outro", r=2), seed=5)
        shake(methods.apply(model, "head"), seed=6)
    return methods.merge(model) if state == "fundido" else model


@pytest.mark.parametrize("damage, error, words", DAMAGES.values(), ids=DAMAGES)
@states
def test_a_damaged_adapter_is_told_and_nothing_of_it_is_loaded(tmp_path, damage, error, words, state):
    folder = tmp_path / "minha-lora"
    saved(folder)
    damage(folder)
    model = in_state(state)
    before, answer = photo(model), logits(model)
    with pytest.raises(error, match=words):
        methods.load(model, folder)
    assert photo(model) == before and torch.equal(logits(model), answer)


OTHER_DAMAGES = {
    "IA³: vetor do lado errado": ("ia3", config(feedforward_modules=[]), r"ia3_l tem a forma .*Nada foi carregado"),
    "IA³: feed-forward que não há": ("ia3", config(feedforward_modules=["wo"]), r"feedforward_modules=\('wo',\): "),
    "IA³: feed-forward em número": ("ia3", config(feedforward_modules=8), r"feedforward_modules=8: .*lista"),
    "IA³: alvo que falta": ("ia3", config(target_modules=["key"], feedforward_modules=[]), r"tem, a mais, .*ia3_l"),
    "DoRA: que diz ser LoRA": ("dora", config(use_dora=False), r"tem, a mais, bert\..*lora_magnitude_vector"),
    "BitFit: outra variante": ("bitfit", config(trains="norm"), r"(não tem|tem, a mais,) bert\..*Nada foi carregado"),
    "BitFit: o que não há": ("bitfit", config(trains="biases"), r"o que treinar em BitFit, 'biases'.*'new_bias'"),
    "Houlsby: outro gargalo": ("houlsby", config(reduction_factor=2), r"adapter_\S+ tem a forma .*Nada foi carregado"),
    "Houlsby: outra forma": ("houlsby", reshape("adapter_up.weight"), r"adapter_up\.weight tem a forma \(3, 3\)"),
    "Houlsby: um viés a menos": ("houlsby", drop("adapter_down.bias"), r"não tem bert\.\S+adapter_down\.bias"),
    "Houlsby: redução em texto": ("houlsby", config(reduction_factor="16"), r"reduction_factor='16': "),
    "Houlsby: sem a redução": ("houlsby", config(reduction_factor=None), r"não diz reduction_factor: foi cortado"),
    "Houlsby: sem a função": ("houlsby", config(non_linearity=None), r"não diz non_linearity: foi cortado"),
    "Houlsby: função que não há": ("houlsby", config(non_linearity="silu"), r"non_linearity, 'silu'.*'swish'"),
    "Houlsby: normas que não diz ter": ("houlsby", config(train_norms=False), r"tem, a mais, bert\.\S+LayerNorm"),
    "Houlsby: que diz ser Pfeiffer": ("houlsby", config(peft_type="PFEIFFER"), r"train_norms=True.*não sabe ler"),
    "Pfeiffer: que diz ser Houlsby": ("pfeiffer", config(peft_type="HOULSBY"), r"não tem bert\..*Nada foi carregado"),
}


@pytest.mark.parametrize("method, damage, words", OTHER_DAMAGES.values(), ids=OTHER_DAMAGES)
@states
def test_what_only_one_method_has_is_checked_too(tmp_path, method, damage, words, state):
    saved(tmp_path, method=method)
    damage(tmp_path)
    model = in_state(state)
    before = photo(model)
    with pytest.raises(ValueError, match=words):
        methods.load(model, tmp_path)
    assert photo(model) == before


@states
@pytest.mark.parametrize("name", ["a b", "", "keys"])
def test_a_bad_name_is_told_before_anything_is_loaded(tmp_path, state, name):
    saved(tmp_path)
    model = in_state(state)
    before = photo(model)
    with pytest.raises(ValueError, match="uma palavra só"):
        methods.load(model, tmp_path, name)
    assert photo(model) == before


def test_a_folder_that_is_a_file_is_not_written_over(tmp_path):
    (tmp_path / "lora").write_text("é meu")
    with pytest.raises(OSError, match=r"uma parte do caminho é um arquivo, não uma pasta"):
        saved(tmp_path / "lora")
    assert (tmp_path / "lora").read_text() == "é meu"
