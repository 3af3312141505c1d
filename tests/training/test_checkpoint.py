"""Checkpoints hold numbers and text alone, come back as they were, and a run goes on from one as if never stopped."""

import json
import math
from collections import OrderedDict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback

from ift.errors import WeightsError
from ift.training.checkpoint import SafeCheckpointIO, pack, unpack
from ift.training.module import SFTModule

TREE = {
    "loops": {0: {"done": True, "left": (1, 2, (3,))}, 1: None},
    "plain": [1, 2.5, "text", False, None, -0.0, 10**30, ""],
    "tuple as key": {(1, "a"): "b"},
    "looks like a mark": {"tensor": "0", "dict": [], "tuple": [1]},
    "empty": [{}, [], ()],
}


def through_json(value):
    tensors = {}
    return unpack(json.loads(json.dumps(pack(value, tensors))), tensors)


def test_a_tree_comes_back_with_its_keys_and_kinds():
    assert repr(through_json(TREE)) == repr(TREE)  # repr tells 1 from True and 1.0, and a tuple from a list


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
trees = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(trees)
def test_any_tree_of_plain_values_comes_back(tree):
    assert repr(through_json(tree)) == repr(tree)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]
)
def test_a_tensor_comes_back_bit_for_bit(tmp_path, dtype):
    tensor = torch.tensor([[0, 1, 2], [3, 4, 5]]).to(dtype)
    checkpoint = {"state": {3: {"step": torch.tensor(7, dtype=dtype), "moment": tensor.t()}}}
    SafeCheckpointIO().save_checkpoint(checkpoint, tmp_path / "last")
    state = SafeCheckpointIO().load_checkpoint(tmp_path / "last")["state"][3]
    for name, value in checkpoint["state"][3].items():
        assert state[name].dtype == dtype
        assert torch.equal(state[name], value)


def test_tensors_that_share_memory_come_back_as_they_were(tmp_path):
    whole = torch.arange(6.0)
    SafeCheckpointIO().save_checkpoint({"whole": whole, "again": whole, "part": whole[2:4]}, tmp_path / "last")
    state = SafeCheckpointIO().load_checkpoint(tmp_path / "last")
    assert torch.equal(state["whole"], whole)
    assert torch.equal(state["again"], whole)
    assert state["part"].tolist() == [2.0, 3.0]


def test_a_checkpoint_without_tensors_is_one_too(tmp_path):
    SafeCheckpointIO().save_checkpoint({"epoch": 3, "loss": math.inf}, tmp_path / "last")
    assert SafeCheckpointIO().load_checkpoint(tmp_path / "last") == {"epoch": 3, "loss": math.inf}


def test_dicts_and_tuples_of_other_names_become_plain_ones():
    assert through_json(OrderedDict(a=torch.Size([2, 3]))) == {"a": [2, 3]}


class Anything:
    pass


@pytest.mark.parametrize("value", [Anything(), Anything, print, {1, 2}, b"bytes", 1j, torch.float32])
def test_what_is_neither_number_nor_text_is_refused(tmp_path, value):
    with pytest.raises(TypeError, match=f"a checkpoint cannot hold a {type(value).__name__}"):
        SafeCheckpointIO().save_checkpoint({"deep": [{"down": value}]}, tmp_path / "last")
    assert not (tmp_path / "last").exists()


def test_a_checkpoint_is_one_json_and_one_safetensors_file(tmp_path):
    SafeCheckpointIO().save_checkpoint({"a": torch.ones(2)}, tmp_path / "last")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["last", "state.json", "state.safetensors"]


def test_a_new_checkpoint_takes_the_place_of_the_old_one(tmp_path):
    for epoch in (1, 2):
        SafeCheckpointIO().save_checkpoint({"epoch": epoch}, tmp_path / "last")
    assert SafeCheckpointIO().load_checkpoint(tmp_path / "last") == {"epoch": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["last"]
    SafeCheckpointIO().remove_checkpoint(tmp_path / "last")
    assert not list(tmp_path.iterdir())


def test_a_crash_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    SafeCheckpointIO().save_checkpoint({"epoch": 1, "a": torch.ones(3)}, tmp_path / "last")

    def disk_full(*args, **kwargs):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("ift.training.checkpoint.save_file", disk_full)
        with pytest.raises(OSError, match="no space"):
            SafeCheckpointIO().save_checkpoint({"epoch": 2, "a": torch.ones(3)}, tmp_path / "last")
    assert SafeCheckpointIO().load_checkpoint(tmp_path / "last")["epoch"] == 1
    SafeCheckpointIO().save_checkpoint({"epoch": 3}, tmp_path / "last")  # what was left behind is in nobody's way
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_a_crash_while_the_old_checkpoint_goes_never_leaves_half_of_one(tmp_path, monkeypatch):
    """The place holds the old checkpoint, the new one, or none at all: never some of the files of one."""
    import shutil

    SafeCheckpointIO().save_checkpoint({"epoch": 1}, tmp_path / "last")
    remove = shutil.rmtree

    def interrupted(path, **options):
        if path.exists():
            next(path.iterdir()).unlink()
            raise KeyboardInterrupt
        remove(path, **options)

    monkeypatch.setattr("ift.training.checkpoint.shutil.rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        SafeCheckpointIO().save_checkpoint({"epoch": 2}, tmp_path / "last")
    assert SafeCheckpointIO().load_checkpoint(tmp_path / "last") == {"epoch": 2}


@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:9])])
def test_a_checkpoint_that_is_not_whole_is_refused(tmp_path, name, damage):
    SafeCheckpointIO().save_checkpoint({"a": torch.ones(3)}, tmp_path / "last")
    damage(tmp_path / "last" / name)
    with pytest.raises(WeightsError, match="last: not a whole checkpoint"):
        SafeCheckpointIO().load_checkpoint(tmp_path / "last")


# -- through Lightning ----------------------------------------------------------------------------------------------


class SaveAt(Callback):
    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def test_a_run_goes_on_from_its_checkpoint_to_the_same_weights(
    tmp_path, make_examples, make_model, make_optim, make_data, make_trainer
):
    """Two epochs of three steps at once, and the second one in another process's place: warm-up, cosine, clipping."""
    examples = make_examples(22)
    optim = make_optim(schedule="cosine", warmup=0.4, min_lr=0.1, clip=0.5)

    def run(seed, *, steps, callbacks=(), ckpt_path=None):
        module = SFTModule(make_model(seed=seed), optim=optim, total_steps=6)
        trainer = make_trainer(max_steps=steps, callbacks=callbacks, plugins=[SafeCheckpointIO()])
        trainer.fit(module, make_data(examples), ckpt_path=ckpt_path)
        return trainer, module

    path = tmp_path / "last"
    _, whole = run(0, steps=6, callbacks=[SaveAt(3, path)])
    assert sorted(file.name for file in path.iterdir()) == ["state.json", "state.safetensors"]
    trainer, resumed = run(99, steps=6, ckpt_path=path)  # other weights, which the checkpoint replaces
    assert (trainer.global_step, trainer.current_epoch) == (6, 2)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    untouched = SFTModule(make_model(seed=99), optim=optim, total_steps=6).model.state_dict()
    assert not torch.equal(resumed.model.wte.weight, untouched["wte.weight"])
