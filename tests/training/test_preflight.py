"""What goes wrong in long runs is found early, or named with its rows."""

import shutil
from collections import namedtuple

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from ift.artifacts.machine import Device
from ift.data.batches import Batch
from ift.errors import MachineError
from ift.training.loggers import MetricsFile
from ift.training.module import SFTModule
from ift.training.preflight import Spikes, deviations, fits, refuse_large_batch, refuse_small_disk

CPU = Device("cpu", "32-true")


def test_a_disk_without_room_for_one_checkpoint_is_refused_before_training(monkeypatch, tmp_path, make_model):
    model = make_model()
    parameters = sum(p.numel() for p in model.parameters())  # 12 bytes of each in a checkpoint, 4 in the model folder
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 16 * parameters))
    refuse_small_disk(tmp_path, model)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 16 * parameters - 1))
    with pytest.raises(MachineError, match=r"0.0 GB free, a checkpoint and the model take 0.0 GB \(choose another"):
        refuse_small_disk(tmp_path, model)


# -- memory ---------------------------------------------------------------------------------------------------------


class Small(SFTModule):
    """Runs out of memory on more than so many rows."""

    room = 4

    def loss_sum(self, batch: Batch, *args):
        if len(batch.rows) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return super().loss_sum(batch, *args)


@pytest.fixture
def tight(make_model, make_optim, make_data, make_examples):
    def tight(*, room, batch_size, accumulate=1):
        module = Small(make_model(dropout=0.1), optim=make_optim(), total_steps=3)
        module.room = room
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
    monkeypatch.setattr(Small, "loss_sum", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        refuse_large_batch(module, data, CPU)


# -- spikes ---------------------------------------------------------------------------------------------------------


def test_deviations_count_from_the_losses_before():
    """Mean 2 and standard deviation 1.016 of 32 losses: 8.1 is 6 of them above."""
    before = [1.0, 3.0] * 16
    assert deviations(2 + 6 * 1.016, before) == pytest.approx(6.0, abs=0.01)
    assert deviations(100.0, before[:31]) == 0.0  # too few to tell
    assert deviations(100.0, [2.0] * 32) == 0.0  # no spread to measure by
    assert deviations(float("nan"), before) == 0.0


def test_a_spike_is_printed_and_noted_with_its_rows(
    tmp_path, capsys, make_examples, make_model, make_optim, make_data, make_trainer
):
    """Loss 50 at step 40, in the middle of losses near 3.9."""

    class Spoilt(Callback):
        def on_train_batch_end(self, trainer, module, *args):
            if trainer.global_step == 40:
                module.last_loss = 50.0
            seen[trainer.global_step] = list(module.last_rows)

    seen = {}
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    module = SFTModule(make_model(), optim=make_optim(), total_steps=45)
    spikes = Spikes(metrics)
    trainer = make_trainer(max_steps=45, callbacks=[Spoilt(), spikes], logger=[metrics])
    trainer.fit(module, make_data(make_examples(40)))
    lines = [line for line in capsys.readouterr().out.splitlines() if "standard deviations" in line]
    assert len(lines) == 1
    assert lines[0].startswith("ift: step 40: loss 50.000 is ")
    assert lines[0].endswith(f" standard deviations above the last 39 (rows {', '.join(map(str, seen[40]))})")
    import json

    noted = [line for line in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines()) if "rows" in line]
    assert [(line["step"], line["rows"]) for line in noted] == [(40, seen[40])]
    again = Spikes(metrics)
    again.load_state_dict(spikes.state_dict())
    assert (list(again.losses), again.step) == (list(spikes.losses), 45)


# -- steps that are left out ----------------------------------------------------------------------------------------


def test_a_step_that_is_no_finite_number_changes_nothing_where_that_is_allowed(
    capsys, make_examples, make_model, make_optim, make_data, make_trainer
):
    """Step 2 of 4 is spoilt: weights, moments and their count of steps stay; the rate goes on by the step's number."""

    class Spoilt(SFTModule):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss * float("inf") if self.trainer.global_step == 1 else loss

    class Keep(Callback):
        def on_train_batch_end(self, trainer, module, *args):
            moments = trainer.optimizers[0].state_dict()["state"]
            kept.append(
                (
                    [p.detach().clone() for p in module.parameters()],
                    [s["exp_avg"].clone() for s in moments.values()],
                    moments[0]["step"].item(),
                    trainer.global_step,
                )
            )

    kept = []
    module = Spoilt(make_model(), optim=make_optim(), total_steps=4, skip_nonfinite=1)
    make_trainer(max_steps=4, callbacks=[Keep()]).fit(module, make_data(make_examples(40)))
    first, second, third, _ = kept
    for a, b in zip(first[0] + first[1], second[0] + second[1], strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(second[0][0], third[0][0])
    assert [each[2:] for each in kept] == [(1.0, 1), (1.0, 2), (2.0, 3), (3.0, 4)]
    assert module.skipped == 1
    assert "step 2: gradient norm nan on rows " in capsys.readouterr().out
