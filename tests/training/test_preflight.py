"""A disk or a memory that is too small is found before step 1."""

import shutil
from collections import namedtuple

import pytest
import torch

from ift.artifacts.machine import Device
from ift.data.batches import Batch
from ift.errors import MachineError
from ift.launch import read
from ift.training.checkpoint import SealedCheckpointIO
from ift.training.module import SFTModule
from ift.training.objectives import CrossEntropy
from ift.training.preflight import bytes_on_disk, fits, refuse_large_batch, refuse_small_disk

CPU = Device("cpu", "fp32")


def test_a_disk_without_room_for_one_checkpoint_is_refused_before_training(
    monkeypatch, tmp_path, make_model, make_optim
):
    module = SFTModule(make_model(tie_weights=False), optim=make_optim(), total_steps=1)
    parameters = sum(
        p.numel() for p in module.model.parameters()
    )  # 12 bytes of each in a checkpoint, 4 in the model folder
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 16 * parameters))
    refuse_small_disk(tmp_path, module)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 16 * parameters - 1))
    with pytest.raises(MachineError, match=r"0.0 GB free, a checkpoint and the model take 0.0 GB \(choose another"):
        refuse_small_disk(tmp_path, module)


def test_room_on_disk_is_counted_as_taken(tmp_path, make_model, make_optim, make_examples, make_data, make_trainer):
    """A model half frozen: 4 bytes of a weight in the checkpoint, 8 more if it is trained, 4 in the model folder."""
    model = make_model()  # tied: the head's 50 x 16 weights stand in a checkpoint once
    model.h.requires_grad_(False)
    weights, frozen = sum(p.numel() for p in model.parameters()), sum(p.numel() for p in model.h.parameters())
    module = SFTModule(model, optim=make_optim(), total_steps=1)
    assert bytes_on_disk(module) == 4 * weights + 8 * (weights - frozen) + 4 * weights

    trainer = make_trainer(max_steps=1, plugins=[SealedCheckpointIO()])
    trainer.fit(module, make_data(make_examples(8)))
    trainer.save_checkpoint(tmp_path / "step")
    written = sum(path.stat().st_size for path in (tmp_path / "step").iterdir())
    assert 0 < written + 4 * weights - bytes_on_disk(module) < 12_000  # names, counters and the manifest


# -- memory ---------------------------------------------------------------------------------------------------------


class Small(CrossEntropy):
    """Runs out of memory on more than so many rows."""

    def __init__(self, room: int):
        self.room = room

    def __call__(self, model, batch: Batch):
        if len(batch.rows) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return super().__call__(model, batch)


@pytest.fixture
def tight(make_model, make_optim, make_data, make_examples):
    def tight(*, room, batch_size, accumulate=1):
        module = SFTModule(make_model(dropout=0.1), objective=Small(room), optim=make_optim(), total_steps=3)
        return module, make_data(make_examples(40), batch_size=batch_size, accumulate=accumulate)

    return tight


@pytest.mark.parametrize(
    ("room", "batch_size", "accumulate", "advice"),
    [
        (4, 8, 1, "data.batch_size=4 trainer.accumulate=2"),
        (5, 12, 3, "data.batch_size=4 trainer.accumulate=9"),  # 5 does not divide 36
        (1, 7, 1, "data.batch_size=1 trainer.accumulate=7"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_with_one_that_does_and_is_the_same_step(
    tight, room, batch_size, accumulate, advice
):
    module, data = tight(room=room, batch_size=batch_size, accumulate=accumulate)
    with pytest.raises(MachineError) as refused:
        refuse_large_batch(module, data, CPU)
    assert str(refused.value).startswith(
        f"data.batch_size={batch_size}: the longest rows do not fit into memory ({advice} "
    )
    settings = dict(word.split("=") for word in advice.split())
    rows, windows = int(settings["data.batch_size"]), int(settings["trainer.accumulate"])
    assert rows * windows == batch_size * accumulate
    assert refuse_large_batch(*tight(room=room, batch_size=rows, accumulate=windows), CPU) is None


def test_where_no_batch_fits_the_length_is_to_blame(tight):
    with pytest.raises(MachineError, match="the longest row does not fit into memory"):
        refuse_large_batch(*tight(room=0, batch_size=2), CPU)


def test_trying_a_batch_leaves_no_trace(tight):
    module, data = tight(room=9, batch_size=8)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    assert fits(module.train(), data.longest_batch(), CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_another_error_than_memory_is_not_taken_for_it(tight, monkeypatch):
    module, data = tight(room=9, batch_size=8)
    monkeypatch.setattr(Small, "__call__", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        refuse_large_batch(module, data, CPU)


class Room:
    """Counts the bytes that `torch.empty` is asked for."""

    def __init__(self):
        self.bytes, self.real = 0, torch.empty

    def __call__(self, size, *, dtype, **options):
        self.bytes += size * dtype.itemsize
        return self.real(size, dtype=dtype, **options)


def test_only_what_is_trained_has_moments(tight, monkeypatch):
    module, data = tight(room=9, batch_size=8)
    module.model.h.requires_grad_(False)
    trained = sum(p.nbytes for p in module.model.parameters() if p.requires_grad)
    made, batch = Room(), data.longest_batch()
    monkeypatch.setattr(module, "objective", lambda model, batch: (sum(p.sum() for p in model.parameters()), 1, {}))
    monkeypatch.setattr("ift.training.preflight.torch.empty", made)
    assert fits(module, batch, CPU)
    assert made.bytes == 2 * trained


TORCHRUN = {"RANK": "7", "WORLD_SIZE": "8", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4"}
TORCHRUN |= {"MASTER_ADDR": "a", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("environment", "device"), [({}, "cuda:0"), ({"LOCAL_RANK": "3"}, "cuda:0"), (TORCHRUN, "cuda:3")]
)
def test_every_rank_of_a_machine_tries_its_own_gpu(monkeypatch, environment, device):
    monkeypatch.setattr("ift.artifacts.machine.here", lambda: read(environment))
    assert str(Device("gpu", "bf16").torch_device) == device
    assert str(CPU.torch_device) == "cpu"
