"""Checkpoints hold numbers and text alone, come back as they were, and a run goes on from one as if never stopped."""

import json
import math
from collections import OrderedDict
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback

from ift.sealed import Sealed, newest, step_folder
from ift.training.checkpoint import SealedCheckpointIO, pack, share_out, unpack, write_part
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
    SealedCheckpointIO().save_checkpoint(checkpoint, tmp_path / "last")
    state = SealedCheckpointIO().load_checkpoint(tmp_path / "last")["state"][3]
    for name, value in checkpoint["state"][3].items():
        assert state[name].dtype == dtype
        assert torch.equal(state[name], value)


def test_tensors_that_share_memory_come_back_as_they_were(tmp_path):
    whole = torch.arange(6.0)
    SealedCheckpointIO().save_checkpoint({"whole": whole, "again": whole, "part": whole[2:4]}, tmp_path / "last")
    state = SealedCheckpointIO().load_checkpoint(tmp_path / "last")
    assert torch.equal(state["whole"], whole)
    assert torch.equal(state["again"], whole)
    assert state["part"].tolist() == [2.0, 3.0]


def test_a_checkpoint_without_tensors_is_one_too(tmp_path):
    SealedCheckpointIO().save_checkpoint({"epoch": 3, "loss": math.inf}, tmp_path / "last")
    assert SealedCheckpointIO().load_checkpoint(tmp_path / "last") == {"epoch": 3, "loss": math.inf, "about": {}}


def test_dicts_and_tuples_of_other_names_become_plain_ones():
    assert through_json(OrderedDict(a=torch.Size([2, 3]))) == {"a": [2, 3]}


class Anything:
    pass


@pytest.mark.parametrize("value", [Anything(), Anything, print, {1, 2}, b"bytes", 1j, torch.float32])
def test_what_is_neither_number_nor_text_is_refused(tmp_path, value):
    with pytest.raises(TypeError, match=f"a checkpoint cannot hold a {type(value).__name__}"):
        SealedCheckpointIO().save_checkpoint({"deep": [{"down": value}]}, tmp_path / "last")
    assert not (tmp_path / "last").exists()


def test_a_checkpoint_is_json_and_safetensors_and_the_newest_two_are_kept(tmp_path):
    for step in (1, 2, 3):
        checkpoint = {"step": step, "a": torch.full((2,), step), "about": {"step": step}}
        SealedCheckpointIO().save_checkpoint(checkpoint, step_folder(tmp_path, step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LATEST", "step-00000002", "step-00000003"]
    files = sorted(path.name for path in (tmp_path / "step-00000003").iterdir())
    assert files == ["manifest.json", "state-0.safetensors", "state.json"]
    assert (tmp_path / "LATEST").read_text().startswith("step-00000003 ")
    assert newest(tmp_path) == Sealed(tmp_path / "step-00000003", {"step": 3})


def test_tensors_carry_their_place_in_the_tree_and_other_readers_open_the_file(tmp_path):
    """Sizes of 8, 2, 1 and 0 bytes an element or no element at all; each lies at a multiple of its own size."""
    from safetensors.torch import load_file

    tree = {
        "flag": torch.tensor(True),
        "half": {"a": torch.ones(3, dtype=torch.bfloat16), "none": torch.empty(0, 4)},
        "list": [torch.arange(3), torch.arange(2).double()],
    }
    SealedCheckpointIO().save_checkpoint(tree, tmp_path / "last")
    found = load_file(tmp_path / "last" / "state-0.safetensors")
    assert sorted(found) == ["flag", "half/a", "half/none", "list/0", "list/1"]
    assert torch.equal(found["list/0"], torch.arange(3))
    assert found["half/none"].shape == (0, 4)


def test_much_is_written_to_several_files_at_once(tmp_path):
    many = {f"{i}": torch.full((1 << 16,), float(i)) for i in range(32)}  # 8 MB
    SealedCheckpointIO().save_checkpoint(many, tmp_path / "last")
    files = sorted((tmp_path / "last").glob("*.safetensors"))
    assert [file.name for file in files] == [f"state-{i}.safetensors" for i in range(4)]
    assert max(file.stat().st_size for file in files) < 2.2 * (1 << 20)
    state = SealedCheckpointIO().load_checkpoint(tmp_path / "last")
    assert all(torch.equal(state[name], tensor) for name, tensor in many.items())


class OnDevice(torch.Tensor):
    """Says that it lies on a GPU, and counts the bytes that were brought to the host."""

    brought: ClassVar[list[int]] = []

    @property
    def device(self):
        return torch.device("cuda", 0)

    def cpu(self):
        OnDevice.brought.append(self.nbytes)
        return self.as_subclass(torch.Tensor)


def test_what_lies_on_a_device_comes_to_the_host_a_small_file_at_a_time(tmp_path, monkeypatch):
    """16 tensors of 1 MB, and 2 MB a file: nothing is copied before its own file is written."""
    monkeypatch.setattr("ift.training.checkpoint.IN_HOST_MEMORY", 2 << 20)
    OnDevice.brought.clear()
    tensors = {f"{i}": torch.full((1 << 18,), float(i)).as_subclass(OnDevice) for i in range(16)}
    packed: dict[str, torch.Tensor] = {}
    pack(tensors, packed)
    parts = share_out(packed)
    assert [sum(tensor.nbytes for tensor in part.values()) for part in parts] == [2 << 20] * 8
    assert OnDevice.brought == []
    write_part(parts[0], tmp_path / "one.safetensors")
    assert OnDevice.brought == [1 << 20] * 2

    SealedCheckpointIO().save_checkpoint(tensors, tmp_path / "last")
    state = SealedCheckpointIO().load_checkpoint(tmp_path / "last")
    assert all(torch.equal(state[f"{i}"], torch.full((1 << 18,), float(i))) for i in range(16))


def test_what_lies_in_this_memory_is_not_copied():
    tensor, packed = torch.arange(6.0), {}
    pack({"a": tensor}, packed)
    assert packed["a"].data_ptr() == tensor.data_ptr()


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
        trainer = make_trainer(max_steps=steps, callbacks=callbacks, plugins=[SealedCheckpointIO()])
        trainer.fit(module, make_data(examples), ckpt_path=ckpt_path)
        return trainer, module

    path = tmp_path / "last"
    _, whole = run(0, steps=6, callbacks=[SaveAt(3, path)])
    trainer, resumed = run(99, steps=6, ckpt_path=path)  # other weights, which the checkpoint replaces
    assert (trainer.global_step, trainer.current_epoch) == (6, 2)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    untouched = SFTModule(make_model(seed=99), optim=optim, total_steps=6).model.state_dict()
    assert not torch.equal(resumed.model.wte.weight, untouched["wte.weight"])
