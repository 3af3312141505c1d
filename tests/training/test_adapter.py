"""A training of an adapter by the real command: what it keeps, how it goes on, what it refuses."""

import dataclasses
import json
import math
import shutil
from dataclasses import replace

import pytest

from ift.artifacts.model_folder import load_model_folder
from ift.artifacts.tensors import read_header
from ift.artifacts.verify import verify
from ift.artifacts.weights import find_weights, inspect_folder, load_model
from ift.entry import composed
from ift.errors import ConfigError, WeightsError
from ift.export.source import RunModel
from ift.rules import adapter_alone_is_trained, adapter_has, adapter_has_a_base
from ift.run import RunFolder
from ift.sealed import step_folder
from ift.settings import Settings, load_settings, plain_leaves
from ift.training.adapter import base_name, low_rank_of, planned, with_tokens
from ift.training.verify_resume import prove
from tests.running import TRAIN, train
from tests.running import run as run_program
from tests.tiny_run import make_run

STEPS = 4


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a base, a run of an adapter on it, and what the run printed."""
    folder = tmp_path_factory.mktemp("adapter")
    make_run(folder / "base", lambda *words: composed("train", words, Settings, values={"output_dir": "x"}))
    done = train(*words(folder, "run"), "data.batch_size=40")
    assert done.returncode == 0, done.stderr
    return folder, done


def words(folder, name):
    return [
        "model=pretrained", f"model.pretrained={folder / 'base'}", "model.n_layer=2", "model.n_head=2",
        "model.n_embd=32", "adapter=dora", "adapter.rank=4",
        "adapter.dropout=0.1", "adapter.layers=[1]", "model.activation_checkpointing=true", "optim.neftune_alpha=5",
        f"output_dir={folder / name}", "logger=none", f"trainer.max_steps={STEPS}", "trainer.save_every=1",
        "trainer.max_epochs=100",
    ]  # fmt: skip


def test_only_what_is_trained_is_kept_and_its_cost_is_printed_before_the_first_step(made):
    folder, done = made
    run = RunFolder(folder / "run")
    # of one layer, 32 wide: A and B of c_attn (96, 32), c_proj (32, 32), c_fc (128, 32), c_proj (32, 128), and lengths
    trained = 4 * (96 + 32 + 32 + 32 + 128 + 32 + 32 + 128) + 96 + 32 + 128 + 32
    every = sum(p.numel() for p in load_model(find_weights(str(folder / "base/model"))).parameters()) + trained
    line = f"adapter   DoRA of rank 4 on 4 matrices: {trained:,} of {every:,} parameters "
    assert line in done.stdout
    assert done.stdout.index(line) < done.stdout.index("step 0    the untuned model")
    assert "GB at most" in done.stdout
    assert "a step of 40 rows; above 32 adapters fall behind" in done.stderr
    assert load_settings(run.config).optim.lr == 5e-4  # ten times what all weights get
    tensors = {}
    for file in step_folder(run.checkpoints, STEPS).glob("*.safetensors"):
        tensors |= read_header(file)
    weights = [name for name in tensors if "state_dict/model." in name]
    assert len(weights) == 12
    assert all(".adapters." in name for name in weights)
    state = [tensors[name] for name in tensors if "exp_avg" in name]
    assert sum(math.prod(tensor.shape) for tensor in state) == 2 * trained
    summary = json.loads(run.summary.read_text())
    assert (summary["parameters"], summary["trained_parameters"]) == (every, trained)


def test_a_run_holds_the_adapter_alone_in_pefts_layout_with_name_and_hash_of_its_base(made):
    folder, _ = made
    run = RunFolder(folder / "run")
    assert {path.name for path in run.model.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "generation_config.json", "ift.json", "manifest.json",
        "prompt.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    said = json.loads((run.model / "adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == str(folder / "base/model")
    assert (said["layers_to_transform"], said["use_dora"]) == ([1], True)
    found = inspect_folder(run.model)
    assert json.loads((run.model / "ift.json").read_text())["base"]["sha256"] == found.adapter.low_rank.base_hash
    assert all(each["ok"] for each in verify(run))


def test_a_run_that_was_killed_goes_on_bit_for_bit(made):
    folder, _ = made
    own = [word for word in words(folder, "killed") if not word.startswith(("output_dir", "logger", "trainer"))]
    lines = list(
        prove([*own, "data.demo_rows=60", "data.batch_size=4", "trainer.accumulate=2"], kills=1, steps=3, seed=1)
    )
    assert len(lines) == 2
    assert all(good for _, good in lines), lines


def test_a_base_that_changed_is_refused(made):
    folder, _ = made
    there = folder / "base/model/model.safetensors"
    kept = there.read_bytes()
    try:
        there.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        shutil.copytree(folder / "run", folder / "other")
        (folder / "other/summary.json").unlink()
        done = run_program(TRAIN, f"resume={folder / 'other'}")
        assert (done.returncode, done.stderr.count("\n")) == (4, 1), done.stderr
        assert "the base has changed since the run began" in done.stderr
        with pytest.raises(WeightsError, match="has changed"):
            inspect_folder(folder / "run/model")
        (wrong,) = [each for each in verify(RunFolder(folder / "run")) if not each["ok"]]
        assert wrong["what"] == "model"
    finally:
        there.write_bytes(kept)


def test_a_run_of_an_adapter_is_a_base_for_full_tuning_and_not_for_another_adapter(made, settings_of):
    folder, _ = made
    pretrained = f"model.pretrained={folder / 'run/model'}"
    settings = settings_of("model=pretrained", pretrained, "adapter=lora")
    weights = find_weights(str(folder / "run/model"))
    with pytest.raises(ConfigError, match=r"is an adapter on .* itself \(ift merge makes one model of both"):
        planned(settings, weights.config, weights)
    assert planned(settings_of("model=pretrained", pretrained), weights.config, weights) is None


def test_settings_of_an_adapter(settings_of, made):
    folder, _ = made
    base = ["model=pretrained", f"model.pretrained={folder / 'base/model'}"]
    lora = settings_of(*base, "adapter=lora")
    config = find_weights(str(folder / "base/model")).config
    found = low_rank_of(lora.adapter, config, base_name(lora.model))
    assert (found.rank, found.alpha, found.dora, len(found.matrices)) == (16, 32, False, 8)
    assert found.base == str(folder / "base/model")
    assert low_rank_of(settings_of(*base).adapter, config) is None
    assert (lora.optim.lr, settings_of(*base, "adapter=lora", "optim=lion").optim.lr) == (5e-4, 1e-4)
    assert settings_of(*base, "adapter=lora", "optim.lr=5e-5").optim.lr == 5e-5
    values = dict(plain_leaves(dataclasses.asdict(lora)))
    for rule, change, message in (
        (adapter_has_a_base, {"model.pretrained": None}, "adapter=lora: model=pretrained has fresh weights"),
        (adapter_has, {"adapter.name": "none"}, "adapter.rank=16: adapter=none has none (add adapter=lora"),
        (
            adapter_alone_is_trained,
            {"model.freeze": ["wte"]},
            "model.freeze=[wte]: adapter=lora freezes all of the base",
        ),
        (adapter_has, {"adapter.rank": None}, "adapter.rank: not set, and adapter=lora needs it"),
        (adapter_has, {"adapter.targets": []}, "adapter.targets=[]: leaves nothing to train"),
    ):
        assert rule(values) is None
        assert rule({**values, **change}).startswith(message)


def test_export_and_every_reader_of_a_run_have_base_and_adapter_as_one(made):
    import numpy as np
    import torch

    folder, _ = made
    run = RunFolder(folder / "run")
    model, tokenizer, _ = load_model_folder(run.model)
    assert (model.low_rank, model.config.tokens) == (None, tokenizer.vocab_size)
    exported = dict(RunModel.open(run).tensors())
    plain = dict(RunModel.open(RunFolder(folder / "base")).tensors())
    changed = [name for name in plain if not np.array_equal(plain[name], exported[name])]
    assert changed == [f"h.1.{matrix}.weight" for matrix in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]
    ours = model.h[1].mlp.c_fc.weight.detach()
    torch.testing.assert_close(torch.from_numpy(exported["h.1.mlp.c_fc.weight"]).t(), ours, atol=1e-6, rtol=1e-5)


def test_a_tied_head_stays_tied(made, settings_of):
    folder, _ = made
    weights = find_weights(str(folder / "base/model"))
    settings = settings_of(
        "model=pretrained", f"model.pretrained={folder / 'base/model'}", "adapter=lora", "model.tie_weights=false"
    )
    with pytest.raises(ConfigError, match=r"model.tie_weights=false: the head of .* is its embedding, and"):
        planned(settings, replace(weights.config, tie_weights=False), weights)


class Tokens:
    special_ids = {"<a>": 10, "<end>": 12}  # noqa: RUF012 - stands for a mapping that nobody changes
    end_of_text, end_text, vocab_size = 13, "</s>", 50


def test_the_tokens_whose_rows_are_trained_are_found_or_named(make_model):
    from ift.model.low_rank import LowRank
    from ift.text.templates import Segment, Special, Template

    segments = (Segment("<a>{instruction}"), Segment("{output}<end>", supervised=True))
    template = Template("marked", segments).with_tokens(map(Special, Tokens.special_ids))
    model, none = make_model(), LowRank("base", (), 4, 8.0)

    def tokens(wanted):
        return with_tokens(none, wanted, model, template, Tokens()).tokens

    assert tokens("auto") == ()
    model.wte.weight.data[12] = 0
    assert tokens("auto") == (12,)
    assert tokens("none") == ()
    assert tokens(["<end>", "</s>", 7, "<a>"]) == (7, 10, 12, 13)
    assert tokens("<a>") == (10,)
    with pytest.raises(ConfigError, match=r"adapter.trainable_tokens=<ent>: no special token .*did you mean <end>"):
        tokens(["<ent>"])
    with pytest.raises(ConfigError, match=r"adapter.trainable_tokens=50: the tokenizer has the ids 0 to 49"):
        tokens([50])


def test_an_adapter_on_four_bits_with_rows_of_tokens_is_kept_without_its_base(made):
    """Its checkpoint holds the adapter and the rows, and nothing of the base."""
    folder, _ = made
    own = ["adapter=qlora", "adapter.trainable_tokens=[7,8]", "adapter.rank=4", "adapter.layers=[1]"]
    others = [word for word in words(folder, "four") if not word.startswith("adapter")]
    done = train(*own, *others)
    assert done.returncode == 0, done.stderr
    assert "LoRA of rank 4 on 4 matrices in 4 bits and rows of 2 tokens: " in done.stdout
    run, names = RunFolder(folder / "four"), {}
    for file in step_folder(run.checkpoints, STEPS).glob("*.safetensors"):
        names |= read_header(file)
    assert sum("state_dict/model." in name for name in names) == 8 + 1  # A and B of four, and the tied rows
    assert inspect_folder(run.model).adapter.low_rank.four_bits
    assert all(each["ok"] for each in verify(run))
