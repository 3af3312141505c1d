"""Each safeguard is needed: with it taken out of the source, a proof that holds with it fails.

A proof gives what is wrong, as a list. `without` compiles a function anew with a few of its words replaced; if those
words are no longer there, the test fails, so that this list keeps up with the code.
"""

from __future__ import annotations

import inspect
import math
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from ift import lock, run, sealed, stops
from ift.data.batches import StepSampler
from ift.errors import ConfigError, DataError, DivergedError, IftError, Stopped
from ift.run import RunFolder
from ift.training import checkpoint, inputs, loops, metrics_file, module, optim, resume
from tests import soak
from tests.training.small_run import MICRO, EndAt, Killed, compare, train


@contextmanager
def without(function: Any, *replacements: tuple[str, str]) -> Iterator[None]:
    """The function, wherever it was imported to, runs changed source; then its own again."""
    function = inspect.unwrap(function)
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in replacements:
        assert source.count(old) == 1, f"{function.__qualname__} no longer has {old!r}"
        source = source.replace(old, new)
    names: dict[str, Any] = {}
    exec(compile(source, inspect.getsourcefile(function) or "", "exec"), function.__globals__, names)
    real = function.__code__
    function.__code__ = inspect.unwrap(names[function.__name__]).__code__
    try:
        yield
    finally:
        function.__code__ = real


# -- the proofs -----------------------------------------------------------------------------------------------------


def why(results: Iterator[soak.Result]) -> list[str]:
    return [result["why"] for result in results if result["why"] is not None]


def crash(folder: Path) -> list[str]:
    try:
        return why(soak.crash_states(folder))
    except (AssertionError, OSError) as error:
        return [repr(error)]


def small_file(folder: Path) -> list[str]:
    path = folder / "summary.json"
    run.write_json(path, {"status": "trained"})

    def lines() -> Iterator[str]:
        yield "half"
        raise KeyError

    with pytest.raises(KeyError):
        run.write_lines(path, lines())
    return [] if path.read_text() == '{\n  "status": "trained"\n}\n' else ["half a file"]


def manifest(folder: Path) -> list[str]:
    """A byte that changes nothing of what it says is found all the same: then so is any other."""
    assert soak.save(folder, 1) is None
    path = folder / "step-00000001" / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\t", 1))
    try:
        sealed.check(path.parent)
        return ["a changed manifest passed"]
    except IftError:
        return []


def model(folder: Path) -> list[str]:
    return why(soak.model_states(folder))


def refusal(folder: Path) -> list[str]:
    return why(soak.disk_errors(folder, 4))


def damage(folder: Path) -> list[str]:
    return why(soak.damage(folder, bits=60, cuts=6, swaps=15, seed=3))


def other_bytes(folder: Path) -> list[str]:
    """A filesystem that keeps something else than it was given: the checkpoint is not used, the one before it is."""
    import os

    assert soak.save(folder, 1) is None
    real = os.write

    def write(descriptor: int, data: Any) -> int:
        return real(descriptor, bytes(data)[:-1] + b"\1" if len(data) == 256 else data)  # a tensor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", write)
        assert soak.save(folder, 2) is None
    newest = sealed.newest(folder)
    return [] if newest and newest.about["step"] == 1 else ["a save of other bytes passed"]


def going_on(folder: Path, hook: str = "on_train_batch_end", call: int = 5 * MICRO + 1, **options: Any) -> list[str]:
    """Killed in the second epoch, one micro-batch after step 5."""
    for name in ("whole", "killed"):
        (folder / name).mkdir()
    whole = train(folder / "whole")
    with pytest.raises(Killed):
        train(folder / "killed", end=EndAt(hook, call), **options)
    return compare(whole, train(folder / "killed", seed=99, **options))


def going_on_where_few_steps_are_saved(folder: Path) -> list[str]:
    """Killed after step 5, of which metrics.jsonl has lines; the checkpoint is of step 3."""
    return going_on(folder, save_every=None)


def going_on_from_validation(folder: Path) -> list[str]:
    return going_on(folder, "on_validation_batch_end", 3)


def stopping(folder: Path) -> list[str]:
    """A stop is asked for inside step 5, where only every third is saved."""

    class Ask(EndAt):
        def counted(self, *args: Any) -> None:
            self.calls += 1
            if self.calls == self.call:
                stops.received = "SIGTERM"

    stops.received = None
    try:
        with pytest.raises(Stopped):
            train(folder, end=Ask("on_train_batch_start", 5 * MICRO), save_every=None)
    finally:
        stops.received = None
    saved = sealed.steps_there(folder / "checkpoints")[0]
    return [] if saved == 5 else [f"step 5 was taken, step {saved} saved"]


def nonfinite(folder: Path) -> list[str]:
    """A gradient that is no number, in step 2."""
    calls, init = 0, module.SFTModule.__init__
    caught: list[Any] = []

    def poisoned(self: Any, model: Any, **options: Any) -> None:
        init(self, model, **options)
        caught.append(model)

        def spoil(gradient: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return gradient * math.nan if calls == MICRO + 1 else gradient

        next(p for p in model.parameters() if p.dim() == 1).register_hook(spoil)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.SFTModule, "__init__", poisoned)
        try:
            end = train(folder)
        except DivergedError as error:
            said = str(error).startswith("step 2: gradient norm nan on rows ")
            ruined = [name for name, value in caught[0].state_dict().items() if not value.isfinite().all()]
            return ruined if said else [str(error)]
    return [name for name, value in end["weights"].items() if not value.isfinite().all()] or ["nothing was said"]


def two_at_once(folder: Path) -> list[str]:
    with RunFolder(folder).claimed():
        try:
            with RunFolder(folder).claimed():
                return ["two processes have the folder"]
        except ConfigError:
            return []


def other_settings(folder: Path, settings_of: Callable[..., Any]) -> list[str]:
    from ift.settings import settings_to_go_on

    try:
        settings_to_go_on(settings_of("optim.lr=0.1"), settings_of("optim.lr=0.2"), ["optim.lr"])
        return ["another learning rate was taken"]
    except ConfigError:
        return []


SAFEGUARDS = [  # what is taken out, the proof that then fails, and how it is taken out
    ("a file is flushed", crash, sealed.write_file, [("os.fsync(descriptor)", "pass")]),
    ("names are flushed", crash, sealed.flush_folder, [("os.fsync(descriptor)", "pass")]),
    ("small files are written beside their name", small_file, run.write_lines,
     [('partial = path.with_name(f"{path.name}.{os.getpid()}.part")', "partial = path")]),
    ("two checkpoints are kept", damage, sealed.prune, [("[:KEPT]", "[:1]")]),
    ("the one before stays until the new one is there", model, sealed.replace_folder,
     [("os.rename(path, previous)", "remove_folder(path)")]),
    ("what was renamed away comes back", model, sealed.recover_folder, [("os.rename(previous, path)", "pass")]),
    ("sha256 is compared", damage, sealed.check, [('!= wanted["sha256"]', '== ""')]),
    ("the manifest proves itself", manifest, sealed.read_manifest, [("if not same:", "if False:")]),
    ("no other file belongs there", damage, sealed.check, [("sorted(there - set(manifest[\"files\"]))", "()")]),
    ("the step is that of the name", damage, sealed.check_step, [('!= step', '== ""')]),
    ("LATEST is mended", damage, sealed._mend_pointer, [("point_to(newest)", "pass")]),
    ("the hash is that of the bytes in memory", other_bytes, sealed.check, [('!= wanted["sha256"]', '== ""')]),
    ("a refusal is kept", refusal, checkpoint.SealedCheckpointIO._end,
     [("self.failed = error", "pass")]),
    ("random states", going_on, resume.Checkpoints.on_train_start, [("set_random_state(self._random)", "pass")]),
    ("the position in the epoch", going_on, StepSampler.begin_at, [("(epoch, step)", "(0, 0)")]),
    ("the epoch of the order", going_on, resume.Checkpoints._begin,
     [("divmod(self.step, self.steps_per_epoch)", "(0, self.step % self.steps_per_epoch)")]),
    ("the number of the step", going_on, loops.begin_at,
     [("step.total.completed = step", "step.total.completed = 0")]),
    ("counts of tokens", going_on, resume.Checkpoints.on_load_checkpoint,
     [('module.tokens_seen, module.supervised_seen = run["tokens_seen"], run["supervised_seen"]', "pass")]),
    ("lines after the checkpoint go", going_on_where_few_steps_are_saved, metrics_file.MetricsFile.go_back,
     [('self._begin, self._step, self._values = position["begin"], position["step"], dict(position["values"])',
       "self._begin = size")]),
    ("the validation that was due", going_on_from_validation, resume.Checkpoints.on_train_start,
     [("if self.step and self.validates(self.step):", "if False:")]),
    ("a stop saves first", stopping, resume.Checkpoints.on_train_batch_end, [("if stop or self.val", "if self.val")]),
    ("the finite gate", nonfinite, optim.scale_gradients,
     [("(~finite).float()", "torch.zeros(())")]),
    ("the lock", two_at_once, lock.kept, [("lock.acquire()", "pass")]),
]  # fmt: skip


HERE = {safeguard[1] for safeguard in SAFEGUARDS} - {crash, model, refusal, damage}  # those hold in test_sealed.py


@pytest.mark.parametrize("proof", sorted(HERE, key=lambda proof: proof.__name__), ids=lambda proof: proof.__name__)
def test_the_proof_holds(proof, tmp_path):
    assert proof(tmp_path) == []


@pytest.mark.parametrize(("what", "proof", "function", "change"), SAFEGUARDS, ids=[each[0] for each in SAFEGUARDS])
def test_without_the_safeguard_the_proof_fails(what, proof, function, change, tmp_path, capsys):
    with without(function, *change):
        try:
            wrong = proof(tmp_path)
        except (OSError, IftError) as error:
            wrong = [repr(error)]
    assert wrong != []


def test_a_run_with_other_settings_is_refused_and_only_because_they_are_compared(settings_of, tmp_path):
    from ift.settings import settings_to_go_on

    assert other_settings(tmp_path, settings_of) == []
    with without(settings_to_go_on, ("elif before.get(key) != value:", "elif False:")):
        assert other_settings(tmp_path, settings_of) != []


def test_the_fingerprint_of_the_rows_is_compared():
    class Thing:
        def __init__(self, **values: Any):
            vars(self).update(values)

    point, data = Thing(about={"data": "a" * 64}), Thing(report={"fingerprint": "b" * 64})
    with pytest.raises(DataError, match=r"fingerprint b{16}, then a{16} "):
        inputs.refuse_other_data(point, data)
    inputs.refuse_other_data(point, Thing(report={"fingerprint": "a" * 64}))
