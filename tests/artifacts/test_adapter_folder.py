"""Adapters in PEFT's layout: ours in PEFT and PEFT's in ours, whole or refused by name."""

import json
from dataclasses import replace

import pytest
import torch

from ift.artifacts.adapter_folder import CONFIG, WEIGHTS, peft_config, save_adapter
from ift.artifacts.weights import find_weights, inspect_folder, load_model, weights_hash, with_adapter
from ift.errors import ConfigError, WeightsError
from ift.model.adapters import adapted, merge_adapters
from ift.model.low_rank import LowRank, chosen
from ift.model.nf4 import in_four_bits
from ift.run import write_json
from tests.model.families.by_transformers import tokens
from tests.model.test_adapters import KINDS, SHAPES, folders, of_peft  # noqa: F401  a fixture

OLDEST = {  # keys that PEFT 0.3 knows, and two that came with the arithmetic that they name
    "peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "target_modules", "lora_dropout",
    "fan_in_fan_out", "use_rslora", "use_dora", "layers_to_transform",
}  # fmt: skip


def make(folder, path, *, targets="all", layers=None, seed=2, **options):
    """A folder of ours with random adapters, and the model that it was written of."""
    base = find_weights(str(folder))
    model = load_model(base)
    low_rank = LowRank(
        str(folder), chosen(targets, layers, base.config), 4, 8.0, base_hash=weights_hash(base), **options
    )
    torch.manual_seed(seed)
    adapted(model, low_rank)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, mean="magnitude" in name, std=0.1)
    path.mkdir(exist_ok=True)
    save_adapter(model, path)
    write_json(path / "ift.json", {"base": {"name": str(folder), "sha256": low_rank.base_hash}})
    return model.eval()


@pytest.mark.parametrize("options", [{}, {"rslora": True}, {"dora": True}], ids=["lora", "rslora", "dora"])
@pytest.mark.parametrize("shape", SHAPES)
def test_ours_computes_the_same_in_peft_and_merged_in_ours(folders, tmp_path, shape, options):  # noqa: F811
    import peft
    import transformers

    model = make(folders(shape), tmp_path, **options)
    ids = tokens(2, 20)
    base = transformers.AutoModelForCausalLM.from_pretrained(folders(shape), attn_implementation="eager")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    with torch.no_grad():
        expected = model(ids)
        scale = expected.abs().max()
        assert (theirs(ids).logits - expected).abs().max() / scale < 1e-5
        assert (load_model(inspect_folder(tmp_path))(ids) - expected).abs().max() / scale < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_pefts_own_folder_is_read(folders, tmp_path, shape, kind):  # noqa: F811
    theirs = of_peft(folders(shape), tmp_path, **KINDS[kind]).eval()
    ids = tokens(2, 20)
    with torch.no_grad():
        expected, ours = theirs(ids).logits, load_model(inspect_folder(tmp_path))(ids)
    assert (ours - expected).abs().max() / expected.abs().max() < 1e-5


def test_ranks_and_scales_of_single_matrices_and_an_adapter_of_a_head_of_its_own_are_read(folders, tmp_path):  # noqa: F811
    import peft
    import transformers

    base = transformers.AutoModelForCausalLM.from_pretrained(folders("llama"), attn_implementation="eager")
    theirs = peft.get_peft_model(base, peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj", "lm_head"],
        rank_pattern={"down_proj": 2}, alpha_pattern={"layers.1.self_attn.q_proj": 3},
    )).eval()  # fmt: skip
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    theirs.save_pretrained(tmp_path)
    ids, folder = tokens(2, 20), inspect_folder(tmp_path)
    assert folder.adapter.low_rank.ranks == {"layers.0.mlp.down_proj": 2, "layers.1.mlp.down_proj": 2}
    assert folder.adapter.low_rank.alphas == {"layers.1.self_attn.q_proj": 3}
    with torch.no_grad():
        torch.testing.assert_close(load_model(folder)(ids), theirs(ids).logits, atol=1e-4, rtol=1e-4)


def test_only_keys_that_an_old_peft_knows_are_written(folders, tmp_path):  # noqa: F811
    make(folders("llama"), tmp_path)
    said = json.loads((tmp_path / CONFIG).read_text())
    assert said == {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(folders("llama")), "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    }  # fmt: skip
    config = inspect_folder(folders("gpt2")).config
    some = LowRank("gpt2", chosen(["attn.c_proj"], [1], config), 4, 8.5, rslora=True, dora=True, dropout=0.1)
    said = peft_config(some, config)
    assert said["target_modules"] == ["attn.c_proj"]  # mlp.c_proj has none
    assert (said["layers_to_transform"], said["fan_in_fan_out"], said["lora_alpha"]) == ([1], True, 8.5)
    assert set(said) <= OLDEST


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3', not LORA"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changes the base"),
        ({"modules_to_save": ["lm_head"]}, 'modules_to_save is ["lm_head"], which ift does not know'),
        ({"a_key_of_tomorrow": 3}, "a_key_of_tomorrow is 3, which ift does not know"),
        ({"r": 5}, "not {'A': [5, 24]"),
        ({"r": "many"}, "r is 'many', not a number above 0"),
        ({"rank_pattern": {"(": 2}}, "is no pattern of names"),
        ({"base_model_name_or_path": None}, "without base_model_name_or_path"),
        ({"base_model_name_or_path": "/no/such/folder"}, "its base cannot be read: /no/such/folder: no such folder"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(folders, tmp_path, change, words):  # noqa: F811
    make(folders("llama"), tmp_path)
    said = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**said, **change}))
    with pytest.raises(WeightsError) as error:
        inspect_folder(tmp_path)
    assert words in str(error.value)


def test_a_changed_base_is_refused(folders, tmp_path):  # noqa: F811
    import shutil

    base = tmp_path / "base"
    shutil.copytree(folders("llama"), base)
    make(base, tmp_path / "adapter")
    assert inspect_folder(tmp_path / "adapter").adapter.low_rank.base_hash
    weights = base / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(WeightsError, match=r"its base .* has changed: sha256"):
        inspect_folder(tmp_path / "adapter")


def test_an_adapter_of_an_adapter_and_tensors_of_no_matrix_are_refused(folders, tmp_path):  # noqa: F811
    from safetensors.torch import load_file, save_file

    one, two = tmp_path / "one", tmp_path / "two"
    make(folders("qwen3"), one)
    make(folders("qwen3"), two)
    said = json.loads((two / CONFIG).read_text())
    (two / CONFIG).write_text(json.dumps({**said, "base_model_name_or_path": str(one)}))
    with pytest.raises(WeightsError, match="which is an adapter itself"):
        inspect_folder(two)
    tensors = load_file(one / WEIGHTS)
    save_file({**tensors, "base_model.model.lm_head.lora_A.weight": torch.zeros(4, 24)}, one / WEIGHTS)
    with pytest.raises(WeightsError, match="the head is the embedding"):
        inspect_folder(one)


def test_names_choose_matrices_as_in_peft_and_others_are_errors(folders):  # noqa: F811
    tied = inspect_folder(folders("qwen3")).config
    assert chosen("all", [1], tied)[:2] == ("layers.1.self_attn.q_proj", "layers.1.self_attn.k_proj")
    assert chosen(["v_proj", "0.mlp.up_proj"], None, tied) == (
        "layers.0.self_attn.v_proj", "layers.0.mlp.up_proj", "layers.1.self_attn.v_proj",
    )  # fmt: skip
    for targets, layers, words in (
        (["lm_head"], None, "head and embedding are one matrix here"),
        (["q_prj"], None, r"no matrix is called so \(did you mean q_proj\? there are down_proj, "),
        ("all", [2], r"adapter.layers=2: the model has the layers 0 to 1"),
    ):
        with pytest.raises(ConfigError, match=words):
            chosen(targets, layers, tied)
    with pytest.raises(ConfigError, match="only matrices of the blocks"):
        chosen(["lm_head"], None, inspect_folder(folders("llama")).config)


IDS = (5, 7, 40)


@pytest.mark.parametrize("shape", ["llama", "qwen3", "gpt2", "phi3"])  # a head of its own, and tied
def test_trained_rows_of_tokens_are_pefts_trainable_tokens(folders, tmp_path, shape):  # noqa: F811
    """Ours in PEFT, merged in ours, and beside the base in ours; PEFT's own folder back."""
    import peft
    import transformers

    model = make(folders(shape), tmp_path / "ours", tokens=IDS)
    ids = tokens(2, 20)
    ids[:, ::3] = torch.tensor(IDS)[torch.arange(7) % 3]
    base = transformers.AutoModelForCausalLM.from_pretrained(folders(shape), attn_implementation="eager")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "ours").eval()
    theirs.save_pretrained(tmp_path / "theirs")
    with torch.no_grad():
        expected = model(ids)
        scale = expected.abs().max()
        assert (theirs(ids).logits - expected).abs().max() / scale < 1e-5
        for name in ("ours", "theirs"):
            folder = inspect_folder(tmp_path / name)
            assert folder.adapter.low_rank.tokens == IDS
            assert (load_model(folder)(ids) - expected).abs().max() / scale < 1e-5
            beside = with_adapter(load_model(replace(folder, adapter=None)), folder)
            assert (beside(ids) - expected).abs().max() / scale < 1e-5
        untouched = load_model(inspect_folder(folders(shape)))
        assert (untouched(ids) - expected).abs().max() / scale > 1e-2
        merge_adapters(model)
        assert (model(ids) - expected).abs().max() / scale < 1e-5


@pytest.mark.parametrize("given", [[5, 7], [5, 7, 67], {"embed_tokens": [5, 7, 40], "other": [1]}, "5", [5, 5, 7]])
def test_rows_of_other_tokens_than_the_config_says_are_refused(folders, tmp_path, given):  # noqa: F811
    make(folders("qwen3"), tmp_path, tokens=IDS)
    said = json.loads((tmp_path / CONFIG).read_text())
    assert said["trainable_token_indices"] == list(IDS)
    (tmp_path / CONFIG).write_text(json.dumps({**said, "trainable_token_indices": given}))
    with pytest.raises(WeightsError, match="trainable_token_indices is"):
        inspect_folder(tmp_path)


@pytest.mark.parametrize("options", [{}, {"dora": True, "tokens": IDS}], ids=["lora", "dora, tokens"])
@pytest.mark.parametrize("shape", ["llama", "gpt2", "gpt_neox"])
def test_an_adapter_on_four_bits_is_opened_on_four_bits(folders, tmp_path, shape, options):  # noqa: F811
    """It computes what the adapter computes on the weights turned back, and its gradients are the same."""
    model = make(folders(shape), tmp_path, **options)
    about = json.loads((tmp_path / "ift.json").read_text())
    write_json(tmp_path / "ift.json", {"base": {**about["base"], "four_bits": True}})
    folder = inspect_folder(tmp_path)
    ours = load_model(folder).eval()
    layers = dict(in_four_bits(ours))
    assert len(layers) == 8
    assert ours.low_rank == folder.adapter.low_rank
    with torch.no_grad():  # the same adapter on a plain base that holds the weights turned back
        for name, layer in layers.items():
            model.get_submodule(name).weight.copy_(layer.weight)
            for part in model.get_submodule(name.removesuffix(".base")).parts:
                part._lengths = None
    ids = tokens(2, 20)
    found = []
    for one in (ours, model):
        logits = one(ids)
        logits.square().mean().backward()
        found.append((logits.detach(), {n: p.grad for n, p in one.named_parameters() if p.requires_grad}))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=1e-5)
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        assert (gradient - found[1][1][name]).norm() / found[1][1][name].norm() < 1e-4, name
    merge_adapters(ours)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), found[0][0], atol=1e-4, rtol=1e-4)
