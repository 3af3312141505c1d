"""What is written behind the training is the state as it was when it was saved, in order, and errors are not lost."""

import errno
import json
import os
import threading
from types import SimpleNamespace

import pytest
import torch

from ift.artifacts.weights import inspect_folder, load_model
from ift.sealed import check, newest, step_folder, steps_there
from ift.text.templates import Segment, Template
from ift.training.callbacks import KeepBest
from ift.training.checkpoint import SealedCheckpointIO
from ift.training.clock import Clock
from ift.training.module import SFTModule
from ift.training.writer import SPARE, Writer, beyond_now, has_room, memory_available

TEMPLATE = Template("plain", (Segment("{instruction}\n"), Segment("{output}", supervised=True)))


@pytest.fixture
def gate(monkeypatch):
    """The disk waits until the test opens it."""
    opened = threading.Event()
    real = os.open

    def slow(path, flags, *args, **options):
        if threading.current_thread().name.startswith("ift-writer"):
            assert opened.wait(60)
        return real(path, flags, *args, **options)

    monkeypatch.setattr("ift.sealed.os.open", slow)
    return opened


def test_a_save_holds_the_weights_of_its_moment_and_not_those_of_the_steps_after_it(tmp_path, gate):
    weights, ended = torch.zeros(3), []
    with Writer(Clock()) as writer:
        files = SealedCheckpointIO(writer=writer, ended=lambda *what: ended.append(what))
        files.save_checkpoint({"w": weights, "about": {"step": 1}}, step_folder(tmp_path, 1))
        assert steps_there(tmp_path) == ended == []  # the disk has not even begun
        weights += 1  # the next step
        gate.set()
        files.save_checkpoint({"w": weights, "about": {"step": 2}}, step_folder(tmp_path, 2))
        assert ended == [(1, None)]  # the second save waited for the first
    assert ended == [(1, None), (2, None)]
    for step, value in ((1, 0.0), (2, 1.0)):
        assert SealedCheckpointIO().load_checkpoint(step_folder(tmp_path, step))["w"].tolist() == [value] * 3
    assert newest(tmp_path).about == {"step": 2}


def test_a_disk_that_refuses_is_told_by_the_save_that_it_refused_and_the_next_one_is_tried(tmp_path, monkeypatch):
    ended, real = [], os.mkdir

    def full(path, *args):
        if str(path).endswith("step-00000001.part"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, *args)

    monkeypatch.setattr("ift.sealed.os.mkdir", full)
    with Writer(Clock()) as writer:
        files = SealedCheckpointIO(writer=writer, ended=lambda step, error: ended.append((step, error and error.errno)))
        for step in (1, 2):
            files.save_checkpoint({"about": {"step": step}}, step_folder(tmp_path, step))
        files.wait()
        assert files.failed is None
    assert ended == [(1, errno.ENOSPC), (2, None)]
    assert steps_there(tmp_path) == [2]


def test_what_is_no_refusal_of_the_disk_is_raised_by_the_next_wait(tmp_path, monkeypatch):
    def broken(*args):
        raise ValueError("a bug")

    monkeypatch.setattr("ift.training.checkpoint.write_checkpoint", broken)
    with Writer(Clock()) as writer:
        files = SealedCheckpointIO(writer=writer)
        files.save_checkpoint({"about": {"step": 1}}, step_folder(tmp_path, 1))
        with pytest.raises(ValueError, match="a bug"):
            files.wait()
        files.wait()  # raised once
    assert steps_there(tmp_path) == []


def test_without_memory_for_a_copy_it_is_written_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("ift.training.writer.memory_available", lambda: SPARE + 11)  # 3 weights of 4 bytes: 1 too few
    with Writer(Clock()) as writer:
        files = SealedCheckpointIO(writer=writer)
        files.save_checkpoint({"w": torch.zeros(3), "about": {"step": 1}}, step_folder(tmp_path, 1))
        assert steps_there(tmp_path) == [1]
        files.save_checkpoint({"w": torch.zeros(2), "about": {"step": 2}}, step_folder(tmp_path, 2))
    assert steps_there(tmp_path) == [2, 1]


@pytest.fixture
def memory(monkeypatch):
    """What the machine says: bytes that are free, and bytes of the peak that are given back."""
    said = SimpleNamespace(free=SPARE + 100, beyond=0)
    monkeypatch.setattr("ift.training.writer.memory_available", lambda: said.free)
    monkeypatch.setattr("ift.training.writer.beyond_now", lambda: said.beyond)
    return said


def test_that_steps_wait_for_the_disk_is_said_once(memory, capsys):
    weights = {"w": torch.zeros(30_000_000)}  # 120 MB
    with Writer(Clock()) as writer:
        assert writer.copied(weights) is writer.copied(weights) is None
        assert writer.copied({}) == {}
    assert capsys.readouterr().out == (
        "ift: 0.12 GB for a copy of what is saved do not fit into memory beside training: steps wait until it is "
        "written\n"
    )
    memory.free = None  # not known: nothing to say of it
    with Writer(Clock()) as writer:
        assert writer.copied(weights) is None
    assert capsys.readouterr().out == ""


def test_a_copy_leaves_room_for_what_a_step_takes_again(memory):
    """12 bytes to copy, 100 free: 88 at most may be those of a step. The last copy's share of the peak is no step's."""
    weights = {"w": torch.zeros(3)}
    with Writer(Clock()) as writer:
        memory.beyond = 88
        assert writer.copied(weights) is not None
        memory.beyond = 88 + 12  # the copy was there at the peak
        assert writer.copied(weights) is not None
        memory.beyond = 0  # a step takes what it took before
        memory.free -= 1
        assert writer.copied(weights) is None
    memory.beyond = 89
    with Writer(Clock()) as writer:
        assert writer.copied(weights) is None
        memory.free = SPARE + 101
        assert writer.copied(weights) is not None


def test_before_the_first_step_gradients_and_moments_are_still_to_come(memory):
    weight = torch.nn.Parameter(torch.zeros(3))
    with Writer(Clock()) as writer:
        memory.free = SPARE + 4 * 12 - 1
        assert writer.copied({"w": weight}) is None
        memory.free += 1
        assert writer.copied({"w": weight}) is not None
        weight.grad, memory.free = torch.zeros(3), SPARE + 12
        assert writer.copied({"w": weight}) is not None


def test_what_the_peak_had_beyond_now_is_what_the_system_says(monkeypatch):
    monkeypatch.setattr("ift.training.writer.resident_memory", lambda: (300, 500))
    assert beyond_now() == 200
    monkeypatch.setattr("ift.training.writer.resident_memory", lambda: None)
    assert beyond_now() == 0


def test_memory_is_that_of_the_machine_and_of_the_control_group(tmp_path):
    (tmp_path / "proc").mkdir()
    assert memory_available(tmp_path) is None
    (tmp_path / "proc/meminfo").write_text("MemTotal: 4000 kB\nMemAvailable:   3000 kB\n")
    assert memory_available(tmp_path) == 3000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("600000\n")
    (group / "memory.stat").write_text("anon 100000\ninactive_file 500000\n")  # pages of files give way
    (group / "memory.max").write_text("max\n")
    assert memory_available(tmp_path) == 3000 * 1024
    (group / "memory.max").write_text("1000000\n")
    assert memory_available(tmp_path) == 900_000


def test_unknown_memory_is_no_room(monkeypatch):
    monkeypatch.setattr("ift.training.writer.memory_available", lambda: None)
    assert not has_room(1)


# -- the best model ---------------------------------------------------------------------------------------------------


def test_a_copied_model_stays_what_it_was_when_the_model_learns(make_model):
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with Writer(Clock()) as writer:
        copied = writer.copied_model(model, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    assert copied.lm_head.weight is copied.wte.weight  # tied, as the model is
    assert all(torch.equal(value, before[name]) for name, value in copied.state_dict().items())
    assert not torch.equal(model.wte.weight, copied.wte.weight)


def test_what_is_frozen_is_shared_and_not_copied(make_model):
    model = make_model()
    model.h.requires_grad_(False)
    with Writer(Clock()) as writer:
        copied = writer.copied_model(model, 0)
    assert copied.h[0].mlp.c_fc.weight.data_ptr() == model.h[0].mlp.c_fc.weight.data_ptr()
    assert copied.wte.weight.data_ptr() != model.wte.weight.data_ptr()


def test_weights_that_a_checkpoint_copied_are_not_copied_again(make_model, make_optim, tmp_path):
    """And after the next step they are another model's."""
    module = SFTModule(make_model(), optim=make_optim(), total_steps=1)
    with Writer(Clock()) as writer:
        files = SealedCheckpointIO(writer=writer)
        checkpoint = {"state_dict": module.state_dict(), "about": {"step": 3}}
        files.save_checkpoint(checkpoint, step_folder(tmp_path, 3))
        (_, weights) = writer._weights
        same = writer.copied_model(module.model, 3)
        assert (
            same.wte.weight.data_ptr() == weights["model.wte.weight"].data_ptr() != module.model.wte.weight.data_ptr()
        )
        files.forget()
        assert writer.copied_model(module.model, 3).wte.weight.data_ptr() != weights["model.wte.weight"].data_ptr()


def test_the_best_model_is_the_one_that_was_measured(make_model, byte_tokenizer, tmp_path, gate):
    model = make_model(vocab_size=byte_tokenizer.vocab_size)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = SimpleNamespace(
        world_size=1, is_global_zero=True, global_step=4, max_steps=9, callback_metrics={"val/loss": 1.5}
    )
    with Writer(Clock()) as writer:
        best = KeepBest(tmp_path / "model", byte_tokenizer, TEMPLATE, writer=writer)
        best.on_validation_end(trainer, SimpleNamespace(model=model))
        assert not (tmp_path / "model").exists()
        with torch.no_grad():
            model.wte.weight += 1  # the next step
        gate.set()
        best.on_train_end(trainer, None)
    assert check(tmp_path / "model").about == {"step": 4, "val_loss": 1.5}
    kept = load_model(inspect_folder(tmp_path / "model")).state_dict()
    assert all(torch.equal(kept[name], value) for name, value in before.items())


@pytest.mark.parametrize(("step", "goes_on"), [(4, True), (9, False)])
def test_a_model_that_could_not_be_written_is_not_the_best(
    make_model, byte_tokenizer, tmp_path, monkeypatch, capsys, step, goes_on
):
    """With a later try to come one line is printed; after the last step it is the error."""
    module = SimpleNamespace(model=make_model(vocab_size=byte_tokenizer.vocab_size))
    trainer = SimpleNamespace(
        world_size=1, is_global_zero=True, global_step=0, max_steps=9, callback_metrics={"val/loss": 2.0}
    )

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Writer(Clock()) as writer:
        best = KeepBest(tmp_path / "model", byte_tokenizer, TEMPLATE, writer=writer)
        best.on_validation_end(trainer, module)
        best.on_train_start(trainer, module)
        monkeypatch.setattr("ift.training.callbacks.save_model_folder", full)
        trainer.global_step, trainer.callback_metrics = step, {"val/loss": 1.0}
        best.on_validation_end(trainer, module)
        if goes_on:
            best.on_train_end(trainer, module)
            assert capsys.readouterr().out.endswith("training goes on\n")
        else:
            with pytest.raises(OSError, match="No space left"):
                best.on_train_end(trainer, module)
    assert (best.best_loss, best.best_step) == (2.0, 0)
    assert json.loads((tmp_path / "model/ift.json").read_text())["step"] == 0
