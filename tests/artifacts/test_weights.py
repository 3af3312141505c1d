"""Weights in and out: the same numbers as transformers computes, and nothing that is damaged, foreign or a pickle."""

import hashlib
import json
import shlex
import struct
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    GPT2Config,
    GPT2DoubleHeadsModel,
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2LMHeadModel,
)

from ift.artifacts.tensors import read_header, write_tensors
from ift.artifacts.weights import (
    build_model,
    find_weights,
    inspect_folder,
    load_model,
    load_weights,
    plan_model,
    save_weights,
    weights_identity,
)
from ift.errors import LIMIT, ConfigError, MachineError, WeightsError, one_line
from ift.evaluation.answers import content_key
from ift.model.config import GPTConfig
from ift.model.families.gpt2 import differs_from_published
from ift.model.gpt import GPT
from ift.run import write_json
from ift.settings import ModelSettings
from tests.model.families.by_transformers import made, tokens

SIZES = {"vocab_size": 67, "n_positions": 20, "n_layer": 3, "n_head": 4, "n_embd": 32}
IDS = torch.randint(67, (3, 20), generator=torch.Generator().manual_seed(5))


def theirs(*, tied: bool = True, **changes) -> GPT2LMHeadModel:
    """transformers' model with every number random, biases and norms too, large enough that an error shows."""
    torch.manual_seed(7)
    model = GPT2LMHeadModel(GPT2Config(**SIZES, tie_word_embeddings=tied, bos_token_id=0, eos_token_id=0, **changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(
                mean=1.0 if name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight")) else 0.0, std=0.2
            )
    return model.eval()


def ours(*, tied: bool = True) -> GPT:
    torch.manual_seed(8)
    model = GPT(GPTConfig(67, 20, n_layer=3, n_head=4, n_embd=32, tie_weights=tied))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


def logits(model) -> torch.Tensor:
    """(3, 20, 67) of either kind of model."""
    with torch.no_grad():
        out = model(IDS)
    return out if isinstance(out, torch.Tensor) else out.logits


def assert_same(ours: GPT, theirs: GPT2LMHeadModel) -> None:
    assert logits(theirs).std() > 0.5  # not all alike, so that being close means something
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=0)


def settings(**changes) -> ModelSettings:
    values = {
        "name": "gpt2-small", "n_layer": 3, "n_head": 4, "n_embd": 32, "context_length": 20, "dropout": 0.1,
        "tie_weights": True, "pretrained": None, "tokenizer": "gpt2",
        "freeze": [], "activation_checkpointing": False, "compile": False,
    }  # fmt: skip
    return ModelSettings(**values | changes)


@pytest.fixture
def folder(tmp_path):
    """A tied model as transformers saves it: config.json and model.safetensors."""
    theirs().save_pretrained(tmp_path)
    return tmp_path


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def edit_tensors(folder, edit):
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")


# -- transformers writes, we read -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard", ["1GB", "20KB"])
def test_a_folder_of_transformers_gives_the_logits_of_transformers(tmp_path, tied, shard):
    model = theirs(tied=tied)
    model.save_pretrained(tmp_path, max_shard_size=shard)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert (len(files) == 1) == (shard == "1GB")
    found = inspect_folder(tmp_path)
    assert found.tied is tied
    assert set(found.tensors.values()) == set(files)
    assert_same(load_model(found).eval(), model)


def test_the_layout_of_the_published_gpt2_without_prefix_and_with_old_buffers_is_read(folder):
    """openai-community/gpt2 on the Hub: h.0.attn.c_attn.weight, the causal mask as h.0.attn.bias, the head twice."""
    model = theirs()

    def as_published(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        for layer in range(3):
            tensors[f"h.{layer}.attn.bias"] = torch.ones(20, 20).tril().view(1, 1, 20, 20)
            tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
        tensors["lm_head.weight"] = tensors["wte.weight"].clone()

    edit_tensors(folder, as_published)
    found = inspect_folder(folder)
    assert "h.0.attn.c_attn.bias" in found.tensors
    assert "h.0.attn.bias" not in found.tensors
    assert found.tied
    assert_same(load_model(found).eval(), model)


def test_an_untied_model_starts_its_head_from_the_embedding_of_a_tied_folder(folder):
    config = replace(inspect_folder(folder).config, tie_weights=False)
    model = build_model(config, inspect_folder(folder)).eval()
    assert_same(model, theirs())
    assert torch.equal(model.lm_head.weight, model.wte.weight)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert model.wte.weight.abs().sum() > 0  # its own copy


def test_an_untied_folder_does_not_go_into_a_tied_model(tmp_path):
    theirs(tied=False).save_pretrained(tmp_path)
    found = inspect_folder(tmp_path)
    with pytest.raises(WeightsError, match=r"the head is not the embedding \(use model\.tie_weights=false\)"):
        build_model(replace(found.config, tie_weights=True), found)
    with pytest.raises(WeightsError, match=r"the head is not the embedding \(use model\.tie_weights=false\)"):
        plan_model(settings(pretrained=str(tmp_path)), vocab_size=67)
    config, _ = plan_model(settings(pretrained=str(tmp_path), tie_weights=None), vocab_size=67)
    assert config.tie_weights is False


def test_weights_stored_in_half_precision_are_computed_with_in_fp32(folder):
    edit_tensors(folder, lambda tensors: tensors.update({name: value.half() for name, value in tensors.items()}))
    model = load_model(inspect_folder(folder)).eval()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    expected = theirs().half().float()
    assert_same(model, expected)


def test_dropout_is_the_one_we_ask_for(folder):
    assert load_model(inspect_folder(folder), dropout=0.25).h[2].mlp.dropout == 0.25
    assert load_model(inspect_folder(folder)).h[2].attn.dropout == 0.0


# -- we write, transformers reads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_reads_what_we_write(tmp_path, tied):
    model = ours(tied=tied)
    save_weights(model, tmp_path, end_of_text=66)
    read, problems = GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(problems.values()), problems  # no tensor missing, none left over
    assert read.config.eos_token_id == 66
    assert read.config.tie_word_embeddings is tied
    assert (read.lm_head.weight.data_ptr() == read.transformer.wte.weight.data_ptr()) is tied
    assert_same(model, read.eval())


@pytest.mark.parametrize("tied", [True, False])
def test_what_we_write_is_read_bit_for_bit(tmp_path, tied):
    model = ours(tied=tied)
    save_weights(model, tmp_path, end_of_text=66)
    again = load_model(inspect_folder(tmp_path))
    assert again.config == model.config
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize("tied", [True, False])
def test_a_file_of_ours_is_byte_for_byte_that_of_safetensors_own_writer(tmp_path, tied):
    save_weights(ours(tied=tied), tmp_path, end_of_text=66)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_weights_go_into_the_parameters_that_are_there_in_their_type(folder):
    model = ours().bfloat16()
    before = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    load_weights(model, inspect_folder(folder))
    assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == before
    expected = load_model(inspect_folder(folder))
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value.bfloat16()), name


def test_weights_of_another_size_do_not_go_into_a_model(folder):
    with pytest.raises(WeightsError, match=r"wte\.weight is \[67, 32\], not \[68, 32\] as in the model"):
        load_weights(GPT(GPTConfig(68, 20, n_layer=3, n_head=4, n_embd=32)), inspect_folder(folder))
    with pytest.raises(WeightsError, match=r"without h\.3\.ln_1\.weight"):
        load_weights(GPT(GPTConfig(67, 20, n_layer=4, n_head=4, n_embd=32)), inspect_folder(folder))


def test_the_identity_of_weights_is_that_of_earlier_releases(tmp_path):
    """Answers that are kept are named after it."""
    (tmp_path / "b.safetensors").write_bytes(b"two")
    (tmp_path / "a.safetensors").write_bytes(b"one")
    (tmp_path / "config.json").write_bytes(b"{}")
    hashes = [hashlib.sha256(data).hexdigest() for data in (b"one", b"two")]
    assert weights_identity(tmp_path) == content_key(*hashes)
    (tmp_path / "manifest.json").write_bytes(b"sealed")
    assert weights_identity(tmp_path) == content_key(hashlib.sha256(b"sealed").hexdigest())


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(folder, bad):
    edit_tensors(folder, lambda tensors: tensors["transformer.h.1.mlp.c_fc.bias"].index_fill_(0, torch.tensor(9), bad))
    with pytest.raises(WeightsError, match=r"transformer\.h\.1\.mlp\.c_fc\.bias holds NaN or infinity"):
        load_model(inspect_folder(folder))


@pytest.mark.parametrize(
    ("key", "value", "matters"),
    [
        ("n_inner", 40, True),
        ("activation_function", "gelu", True),
        ("activation_function", "relu", True),
        ("activation_function", "silu", True),
        ("activation_function", "gelu_pytorch_tanh", False),
        ("layer_norm_epsilon", 1e-2, True),
        ("scale_attn_weights", False, True),
        ("scale_attn_by_inverse_layer_idx", True, True),
        ("reorder_and_upcast_attn", True, False),  # a matter of half precision
    ],
)
def test_a_relative_of_gpt2_gives_the_logits_of_transformers_before_and_after_saving(tmp_path, key, value, matters):
    relative = theirs(**{key: value})
    if matters and key != "n_inner":
        assert not torch.allclose(logits(relative), logits(theirs()), atol=1e-4)
    relative.save_pretrained(tmp_path / "theirs")
    model = load_model(inspect_folder(tmp_path / "theirs")).eval()
    assert_same(model, relative)
    (tmp_path / "ours").mkdir()
    save_weights(model, tmp_path / "ours", end_of_text=66)
    assert_same(model, GPT2LMHeadModel.from_pretrained(tmp_path / "ours").eval())
    assert load_model(inspect_folder(tmp_path / "ours")).config == model.config
    assert (differs_from_published(model.config) is not None) is (matters and key != "n_inner")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt_bigcode"}, "not the configuration of a known model: model_type is gpt_bigcode"),
        ({"activation_function": "mish"}, "activation_function is mish, not one of gelu_new, "),
        ({"add_cross_attention": True}, "add_cross_attention is true"),
        ({"tie_word_embeddings": False}, r"lm_head\.weight is missing, not \[67, 32\]"),
    ],
)
def test_what_is_no_gpt2_is_refused_by_name(folder, change, message):
    edit_config(folder, **change)
    with pytest.raises(WeightsError, match=message):
        inspect_folder(folder)


@pytest.mark.parametrize(
    "wrap",
    [
        "_orig_mod.{}", "module.{}", "model.{}", "_orig_mod.module.{}", "module._orig_mod.model.{}",
        "model.transformer._orig_mod.{}", "_fsdp_wrapped_module.transformer.{}",
    ],
)  # fmt: skip
def test_what_a_trainer_wrapped_a_model_in_is_taken_off_its_names(folder, wrap):
    edit_tensors(
        folder,
        lambda tensors: [
            tensors.update({wrap.format(name.removeprefix("transformer.")): tensors.pop(name)}) for name in [*tensors]
        ],
    )
    assert_same(load_model(inspect_folder(folder)).eval(), theirs())


def test_a_tensor_under_two_names_is_refused(folder):
    edit_tensors(folder, lambda tensors: tensors.update({"module.wpe.weight": torch.zeros(20, 32)}))
    with pytest.raises(WeightsError, match=r"wpe\.weight is there twice"):
        inspect_folder(folder)


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (GPT2DoubleHeadsModel, "multiple_choice_head (choosing among continuations)"),
        (GPT2ForSequenceClassification, "score (classifying texts)"),
        (GPT2ForTokenClassification, "classifier (classifying tokens)"),
        (GPT2ForQuestionAnswering, "qa_outputs (finding answers in a text)"),
    ],
)
def test_the_head_of_another_task_is_named_and_left_out(tmp_path, kind, named):
    torch.manual_seed(7)
    sizes = SIZES | {"bos_token_id": 0, "eos_token_id": 0, "num_labels": 1, "pad_token_id": 0}
    model = kind(GPT2Config(**sizes, summary_proj_to_labels=True)).eval()
    model.save_pretrained(tmp_path)
    found = inspect_folder(tmp_path)
    assert found.other_parts == (named,)
    ours = load_model(found).eval()
    with torch.no_grad():
        states = model.transformer(IDS).last_hidden_state
        torch.testing.assert_close(ours(IDS), states @ model.transformer.wte.weight.t(), atol=1e-5, rtol=0)


def test_a_shorter_context_takes_the_first_positions(folder):
    asked = settings(pretrained=str(folder), context_length=12)
    model = build_model(*plan_model(asked, vocab_size=67)).eval()
    assert model.config.context_length == 12
    with torch.no_grad():
        torch.testing.assert_close(model(IDS[:, :12]), logits(theirs())[:, :12], atol=1e-5, rtol=0)
    with pytest.raises(WeightsError, match=r"20 positions, not 21 \(model\.context_length=20 or less\)"):
        plan_model(settings(pretrained=str(folder), context_length=21), vocab_size=67)


def test_ids_above_the_tokenizers_have_no_logits(folder):
    config, found = plan_model(settings(pretrained=str(folder)), vocab_size=60)
    assert build_model(config, found)(IDS).shape == (3, 20, 60)
    assert load_model(found, tokens=61)(IDS).shape == (3, 20, 61)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda t: t.pop("transformer.h.2.ln_2.bias"),
            r"1 tensor does not fit .*h\.2\.ln_2\.bias is missing, not \[32\]",
        ),
        (
            lambda t: t.update({"transformer.wpe.weight": torch.zeros(19, 32)}),
            r"wpe\.weight is \[19, 32\], not \[20, 32\]",
        ),
        (lambda t: t.update({"transformer.h.3.ln_1.bias": torch.zeros(32)}), r"h\.3\.ln_1\.bias is unknown"),
        (lambda t: t.update({"lm_head.weight": torch.zeros(66, 32)}), r"lm_head\.weight is \[66, 32\], not \[67, 32\]"),
        (
            lambda t: t.update({"transformer.ln_f.bias": torch.zeros(32, dtype=torch.int8)}),
            r"ln_f\.bias is of type I8, not one of F32, BF16, F16, F64",
        ),
    ],
)
def test_tensors_must_be_those_of_the_configuration(folder, edit, message):
    edit_tensors(folder, edit)
    with pytest.raises(WeightsError, match=message):
        inspect_folder(folder)


def test_heads_must_divide_the_width_of_a_folder(folder):
    edit_config(folder, n_head=5)
    with pytest.raises(WeightsError, match="n_head=5: does not divide n_embd=32"):
        inspect_folder(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("{", "not the configuration of a known model"),
        ('{"hidden_size": 8}', "KeyError 'n_embd'"),
        ("[1]", "it is no JSON object"),
        ('{"a": ' * 3000 + "1" + "}" * 3000, "RecursionError"),
    ],
)
def test_a_folder_needs_the_configuration_of_a_gpt2(folder, text, message):
    (folder / "config.json").unlink() if text is None else (folder / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=message):
        inspect_folder(folder)


def test_shards_without_their_index_are_told_from_a_folder_without_weights(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    with pytest.raises(WeightsError, match=r"index\.json: no such file, which says what model-00001-of-00002\.safe"):
        inspect_folder(folder)


@pytest.mark.parametrize("keep", [0, 5, 400, -1])
def test_a_file_that_was_cut_off_is_refused_before_it_is_read(folder, keep):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(WeightsError, match="download it again"):
        inspect_folder(folder)


def test_a_header_that_claims_to_be_huge_is_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(WeightsError, match="its header is longer than the file"):
        read_header(file)


@pytest.mark.parametrize(
    "header",
    [
        {"a": ("F32", [1], [4, 8])},  # a hole before it
        {"a": ("F32", [1], [0, 4]), "b": ("F32", [1], [0, 4])},  # the same bytes twice
        {"a": ("F32", [3], [0, 8])},  # a shape of more than its bytes
        {"a": ("F32", [2], [0, 8]), "b": ("F32", [1], [8, 12])},  # more than the file has
        {"a": ("F32", [1], [0, 4])},  # less
        {"a": ("F99", [2], [0, 8])},
        {"a": ("F32", [2**40, 2**40], [0, 8])},
        {"a": ("F32", [2], [0, -8])},
    ],
)
def test_a_header_that_is_not_that_of_its_bytes_is_refused(tmp_path, header):
    file = tmp_path / "model.safetensors"
    entries = {
        name: dict(zip(("dtype", "shape", "data_offsets"), about, strict=True)) for name, about in header.items()
    }
    text = json.dumps(entries).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(WeightsError, match=r"not a whole safetensors file: .* \(cut off\? download it again\)"):
        read_header(file)


def test_a_tensor_must_be_as_large_as_its_header_says(tmp_path):
    with pytest.raises(ValueError, match="a: 8 bytes for 12"):
        write_tensors(tmp_path / "model.safetensors", {"a": ("F32", [3])}, [np.zeros(2, np.float32)])


def test_a_pickle_is_never_opened(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(WeightsError, match=r"only pytorch_model\.bin, a pickle, which could run code"):
        inspect_folder(folder)


def test_the_line_about_a_pickle_converts_it(folder):
    model = theirs()
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")  # the head and the embedding are one tensor
    with pytest.raises(WeightsError) as error:
        inspect_folder(folder)
    line = one_line(str(error.value), LIMIT - len("ift: error: "))
    command = line.partition(" (there: python ")[2].removesuffix(")")
    assert command
    subprocess.run([sys.executable, *shlex.split(command)], cwd=folder, check=True)
    assert_same(load_model(inspect_folder(folder)).eval(), model)


def test_weights_of_another_library_are_named(folder):
    (folder / "model.safetensors").rename(folder / "tf_model.h5")
    with pytest.raises(WeightsError, match=r"only tf_model\.h5: no safetensors \(convert it"):
        inspect_folder(folder)


def test_a_missing_shard_is_named(tmp_path):
    theirs().save_pretrained(tmp_path, max_shard_size="20KB")
    gone = sorted(tmp_path.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(WeightsError, match=f"{gone.name}: no such file"):
        inspect_folder(tmp_path)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "model.bin"])
def test_an_index_names_safetensors_of_its_own_folder_only(folder, name):
    index = {"weight_map": {"transformer.wte.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="no safetensors file of this folder"):
        inspect_folder(folder)


def test_a_folder_is_checked_without_torch(folder):
    script = f"""
import pathlib, sys
from ift.artifacts.weights import inspect_folder
assert inspect_folder(pathlib.Path({str(folder)!r})).config.n_layer == 3
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


# -- which model is built -------------------------------------------------------------------------------------------


def test_without_pretrained_weights_the_settings_give_the_sizes():
    assert plan_model(settings(), vocab_size=67) == (GPTConfig(67, 20, 3, 4, 32, 0.1, True), None)
    with pytest.raises(ConfigError, match=r"model\.n_head: not set"):
        plan_model(settings(n_head=None), vocab_size=67)


def test_with_pretrained_weights_the_folder_gives_the_sizes(folder):
    unset = dict.fromkeys(("n_layer", "n_head", "n_embd", "context_length"))
    config, found = plan_model(settings(pretrained=str(folder), **unset), vocab_size=60)
    assert config == GPTConfig(67, 20, 3, 4, 32, 0.1, True, tokens=60)  # room for 67, and the tokenizer has fewer
    assert found.path == folder


def test_settings_that_are_not_the_folders_are_refused_with_the_model_it_is(tmp_path):
    GPT2LMHeadModel(GPT2Config(**SIZES | {"n_layer": 24})).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"not a gpt2-small: n_layer is 24, not 3 \(model=gpt2-medium\)"):
        plan_model(settings(pretrained=str(tmp_path)), vocab_size=67)
    with pytest.raises(WeightsError, match=r": its n_layer is 24, not 3 \(leave them out of the command\)"):
        plan_model(settings(pretrained=str(tmp_path), name="pretrained"), vocab_size=67)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(folder):
    with pytest.raises(WeightsError, match="67 tokens, but the tokenizer gpt2 has 68"):
        plan_model(settings(pretrained=str(folder)), vocab_size=68)


def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub():
    with pytest.raises(WeightsError, match="no such folder"):
        find_weights("./models/gpt2")


def test_a_hub_that_cannot_be_reached_is_a_matter_of_the_machine(monkeypatch):
    def unreachable(name, **options):
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(MachineError, match=r"openai-community/gpt2: not fetched .*model\.pretrained=FOLDER"):
        find_weights("openai-community/gpt2")


def test_a_model_of_the_hub_with_pickles_alone_is_named_with_what_gets_and_converts_it(folder, monkeypatch):
    (folder / "model.safetensors").unlink()
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **options: str(folder))
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda name: ["config.json", "pytorch_model.bin"])
    words = r"hf download a/b --local-dir FOLDER gets it: only pytorch_model\.bin, a pickle, .*weights_only=True"
    with pytest.raises(WeightsError, match=words):
        find_weights("a/b")


@pytest.mark.parametrize(
    ("given", "stops"), [(0, {0}), ([3, 66, 67], {3, 66}), (None, set()), (True, set()), ("0", set()), (-1, set())]
)
def test_the_ends_that_a_config_names_are_the_models(folder, given, stops):
    """One id or several; 67 tokens are numbered to 66, and what is no token ends nothing."""
    edit_config(folder, eos_token_id=given)
    (folder / "generation_config.json").unlink()  # it names some too
    assert load_model(inspect_folder(folder)).stops == stops


def test_the_ends_of_generation_config_are_ends_too(folder):
    """An instruct model's config.json names the end of a text, generation_config.json that of a turn too."""
    edit_config(folder, eos_token_id=60)
    write_json(folder / "generation_config.json", {"eos_token_id": [61, 62, 99]})
    assert load_model(inspect_folder(folder)).stops == {60, 61, 62}
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(
        WeightsError, match=r"generation_config\.json: not JSON: .* \(remove it, or download it again\)"
    ):
        inspect_folder(folder)


FAMILIES = ("llama", "gpt_neox", "phi3", "gpt2")  # in pieces, head by head, fused, transposed


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_base_in_four_bits_is_what_bitsandbytes_makes_of_each_published_matrix(tmp_path, kind):
    """Its logits are those of transformers with each matrix quantized as (out, in) and turned back."""
    quantize = pytest.importorskip("bitsandbytes").functional
    sizes = {
        "vocab_size": 64, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "pad_token_id": 0,
        "num_attention_heads": 4, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    gpt2 = {"vocab_size": 64, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
    reference = made(kind, gpt2 if kind == "gpt2" else sizes).float()
    reference.save_pretrained(tmp_path)
    found = inspect_folder(tmp_path)
    model = build_model(found.config, found, four_bits=True).eval()
    for name, parameter in reference.named_parameters():
        if parameter.dim() == 2 and not any(part in name for part in ("embed", "lm_head", "wte", "wpe")):
            value = parameter.data.t().contiguous() if kind == "gpt2" else parameter.data
            packed, state = quantize.quantize_4bit(value, quant_type="nf4", compress_statistics=True)
            back = quantize.dequantize_4bit(packed, state)
            parameter.data = back.t().contiguous() if kind == "gpt2" else back
    ids = tokens(2, 12) % 64
    with torch.no_grad():
        torch.testing.assert_close(model(ids), reference(ids).logits, atol=1e-5, rtol=1e-5)
