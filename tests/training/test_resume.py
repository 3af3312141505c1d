"""A run that ends anywhere and goes on is the run that was never stopped, bit for bit."""

import errno
import json
import os
import random
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ift.errors import ConfigError, MachineError
from ift.run import RunFolder, read_json, read_jsonl
from ift.sealed import steps_there
from ift.training.loggers import MetricsFile
from ift.training.resume import Checkpoints, random_state, set_random_state
from tests import soak
from tests.training.small_run import MICRO, STEPS, EndAt, Killed, compare, train


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"))


def end_and_go_on(folder, hook, call, **options):
    folder.mkdir(exist_ok=True)
    with pytest.raises(Killed):
        train(folder, end=EndAt(hook, call), **options)
    return train(folder, seed=99, **options)  # other weights and another random state, which the checkpoint replaces


# -- in this process ------------------------------------------------------------------------------------------------


def test_two_runs_that_nothing_disturbs_are_the_same(whole, tmp_path):
    assert compare(whole, train(tmp_path)) == []


@pytest.mark.parametrize("micro", range(1, STEPS * MICRO + 1))
def test_it_goes_on_from_any_micro_batch(whole, tmp_path, micro):
    """Odd ones are inside a window, which is run again; 8 ends the first epoch, 6 and 12 are followed by validation."""
    assert compare(whole, end_and_go_on(tmp_path, "on_train_batch_end", micro)) == []


@pytest.mark.parametrize(
    ("hook", "call"),
    [("on_validation_batch_end", 1), ("on_validation_batch_end", 4), ("on_validation_end", 3), ("on_train_end", 1)],
)
def test_it_goes_on_from_validation_and_from_the_very_end(whole, tmp_path, hook, call):
    assert compare(whole, end_and_go_on(tmp_path, hook, call)) == []


def test_it_goes_on_from_the_latest_validation_where_not_every_step_is_saved(whole, tmp_path):
    assert compare(whole, end_and_go_on(tmp_path, "on_train_batch_end", 5 * MICRO, save_every=None)) == []
    assert steps_there(tmp_path / "checkpoints") == [8, 6]


def test_a_chain_of_ends_in_one_run_changes_nothing(whole, tmp_path):
    for micro in (3, 5, 1, 4, 2):
        with pytest.raises(Killed):
            train(tmp_path, end=EndAt("on_train_batch_end", micro), seed=micro)
    assert compare(whole, train(tmp_path, seed=99)) == []


def test_early_stopping_goes_on_counting(tmp_path):
    """Patience 1: the first validation that is not better ends the run, though it ran in another process."""

    def worse(folder, end=None):
        import tests.training.small_run as small

        class Rising(small.SFTModule):
            def on_validation_epoch_end(self):
                self.log("val/loss", torch.tensor(float(self.trainer.global_step)), logger=False)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(small, "SFTModule", Rising)
            return train(folder, end=end, patience=1)

    (tmp_path / "whole").mkdir(), (tmp_path / "ended").mkdir()
    whole = worse(tmp_path / "whole")
    assert whole["place"][0] == 6  # validated at 3 (best) and at 6
    with pytest.raises(Killed):
        worse(tmp_path / "ended", end=EndAt("on_validation_batch_end", 3))
    assert compare(whole, worse(tmp_path / "ended")) == []
    again = worse(tmp_path / "ended")  # stopped and all: it has nothing left to do
    assert compare(whole, again) == []


def test_a_metrics_file_that_lost_lines_is_not_gone_on_with(tmp_path):
    with pytest.raises(Killed):
        train(tmp_path, end=EndAt("on_train_batch_end", 8))
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(Exception, match=r"metrics.jsonl: 0 bytes, but the checkpoint follows on \d+"):
        train(tmp_path)


def test_a_run_does_not_go_on_by_another_number_of_processes_with_other_steps(tmp_path):
    """trainer.devices=auto on a machine with more GPUs: steps would be other rows."""
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    checkpoints = Checkpoints(tmp_path, metrics, about={}, steps=8, steps_per_epoch=4, val_every=3, save_every=1)
    two = {"random": {"python": torch.zeros(2, 627)}, "run": {"step": 3}}
    one = SimpleNamespace(world_size=1, accumulate_grad_batches=1, datamodule=SimpleNamespace(batch_size=4))
    with pytest.raises(ConfigError, match=r"8 rows on 2 processes, and on 1 it would have 4 \(trainer.accumulate=2 "):
        checkpoints.on_load_checkpoint(one, None, two)
    assert checkpoints.step == 0


def test_random_states_come_back():
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    random.gauss(0, 1), np.random.randn()  # each keeps a second number for the next call
    state = random_state()

    def draw():
        return [random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand(), torch.rand(1).item()]

    first = draw()
    draw()
    set_random_state(state)
    assert draw() == first


# -- a disk that refuses --------------------------------------------------------------------------------------------


def refuse_saves(monkeypatch, refused):
    """write_checkpoint fails with "no space left" at the calls in `refused`."""
    import ift.training.checkpoint as checkpoint

    real, calls = checkpoint.write_checkpoint, []

    def write(*args):
        calls.append(1)
        if len(calls) in refused:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args)

    monkeypatch.setattr(checkpoint, "write_checkpoint", write)


def test_a_full_disk_is_one_line_and_training_goes_on(whole, tmp_path, monkeypatch, capsys):
    refuse_saves(monkeypatch, {3, 4})
    assert compare(whole, train(tmp_path)) == []
    lines = [line for line in capsys.readouterr().out.splitlines() if "cannot be saved" in line]
    assert len(lines) == 2
    assert lines[0].endswith(
        "step 3 cannot be saved: No space left on device; the one of step 2 is whole: training goes on"
    )
    assert steps_there(tmp_path / "checkpoints") == [8, 7]


def test_a_run_killed_while_the_disk_is_full_goes_on_from_the_last_whole_checkpoint(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        refuse_saves(patch, {3, 4, 5})
        with pytest.raises(Killed):
            train(tmp_path, end=EndAt("on_train_batch_end", 5 * MICRO))
    assert steps_there(tmp_path / "checkpoints") == [2, 1]
    assert compare(whole, train(tmp_path)) == []


def test_numbers_that_the_disk_refuses_are_written_when_it_takes_them_again(whole, tmp_path, monkeypatch):
    from ift.training.metrics_file import MetricsFile

    real, calls = MetricsFile._write, []

    def write(self, **options):
        calls.append(1)
        if 6 < len(calls) < 13:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, **options)

    monkeypatch.setattr(MetricsFile, "_write", write)
    assert compare(whole, train(tmp_path)) == []
    assert len(calls) > 13


# -- real processes, really killed ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proof(warm, tmp_path_factory):
    with soak.Trainings(warm) as trainings:
        yield soak.Proof(trainings, tmp_path_factory.mktemp("soak"))


SAMPLE = {"kills": 40, "chains": 1, "stops": 3, "ranks": 1, "same": 1, "nonfinite": 1}  # of make soak


@pytest.mark.parametrize(("suite", "case"), [(suite, i) for suite, n in SAMPLE.items() for i in range(n)])
def test_a_case_of_the_soak_holds(proof, suite, case):
    result = soak.TRAINED[suite][0](proof, 7000 + case)
    assert result["why"] is None, result


def test_a_disk_that_stays_full_ends_in_one_line_after_training_and_the_run_goes_on_later(proof):
    """The kernel refuses files of more than 100,000 bytes: each checkpoint has 180,000, the model 50,000."""
    folder = proof.fresh()
    done = proof.trainings.run(folder, limit=100_000)
    assert done["codes"] == [5], done["output"]
    assert "step 26 cannot be saved: File too large; there is none yet" in done["output"].splitlines()[-1]
    assert read_json(folder / "summary.json")["status"].startswith("failed: ")
    assert len(read_jsonl(folder / "responses.jsonl")) == 6
    assert proof.finish(folder) is None


def test_the_second_signal_ends_it_at_once_and_the_last_checkpoint_is_whole(proof):
    folder = proof.fresh()
    place = soak.PLACES["seal"][0]  # in the fifth save
    done = proof.trainings.run(folder, at=[place, 5, int(signal.SIGTERM)], again=int(signal.SIGTERM))
    assert done["codes"] == [75], done["output"]
    assert "stopped at once" in done["output"]
    assert steps_there(RunFolder(folder).checkpoints) == [4, 3]
    assert proof.finish(folder) is None


def test_a_run_goes_on_only_as_the_run_that_it_is(proof, tmp_path):
    """Data, settings and lock: each refusal is one line, and leaves the folder as it was."""
    run = RunFolder(proof.fresh())
    rows = tmp_path / "rows.json"
    records = [{"instruction": f"Say {i}.", "output": f"{i}"} for i in range(60)]
    rows.write_text(json.dumps(records))
    mine = (f"data.path={rows}", "data.demo_rows=null", "data=json")
    done = proof.trainings.run(run.path, *mine, at=[soak.STEP_ENDS, 21, 9])
    assert done["codes"] == [-9], done["output"]
    kept = ("summary.json", ".keeper")  # how it ended, and which process had it: what a later one writes anew
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path.name not in kept}

    records[7]["output"] = "seven"
    rows.write_text(json.dumps(records))
    for again in ({"resume": True}, {}):
        refused = proof.trainings.run(run.path, *(() if again else mine), **again)
        assert refused["codes"] == [3]
        assert refused["output"].count("\n") == 1
        assert "the rows have changed since the run began: fingerprint " in refused["output"]
    records[7]["output"] = "7"
    rows.write_text(json.dumps(records))

    for words, code, said in (
        (["optim.lr=1"], 2, "optim.lr=1.0: the run was begun with 0.003 (leave it, or begin a new run)"),
        (["experiment=seed_chapter"], 2, "experiment=: is for a new run"),
        (["trainer.devices=2", "trainer.strategy=ddp"], 2, "trainer.devices=2: a step would have 8 rows, and those of"),
    ):
        refused = proof.trainings.run(run.path, *words, resume=True)
        assert (refused["codes"], said in refused["output"]) == ([code], True), refused["output"]
    with run.claimed():
        refused = proof.trainings.run(run.path, resume=True)
    assert refused["codes"] == [2]
    assert "another process trains here" in refused["output"]
    assert {path: path.read_bytes() for path in before} == before

    done = proof.trainings.run(run.path, "logger=none", "samples.rows=2", "data.num_workers=1", resume=True)
    assert done["codes"] == [0], done["output"]
    assert "goes on   from step 10 in" in done["output"]
    finished = {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.name not in (".lock", ".keeper")}
    done = proof.trainings.run(run.path, resume=True)
    assert (done["codes"], done["output"].count("\n")) == ([0], 1)
    assert "this run is finished" in done["output"]
    now = {
        path: path.stat().st_mtime_ns
        for path in run.path.rglob("*")
        if path.name not in (".lock", ".keeper", "checkpoints")
    }
    assert {p: t for p, t in now.items() if p.is_file()} == {p: t for p, t in finished.items() if p.is_file()}


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(proof):
    folder = proof.fresh()
    done = proof.trainings.run(folder, at=[soak.STEP_ENDS, 21, 9])
    assert done["codes"] == [-9]
    (file,) = (folder / "checkpoints" / "step-00000010").glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-100] ^= 4  # a bit of the last tensor
    file.write_bytes(data)
    done = proof.trainings.run(folder, resume=True)
    assert done["codes"] == [0], done["output"]
    assert "state-0.safetensors: damaged: sha256 " in done["output"]
    assert "(set aside as step-00000010.damaged)" in done["output"]
    assert "goes on   from step 9 in" in done["output"]
    assert soak.differences(proof.whole(), RunFolder(folder)) == []


def test_a_save_that_fails_at_a_stop_is_an_error(tmp_path):
    from ift.training.metrics_file import MetricsFile
    from ift.training.resume import Checkpoints

    checkpoints = Checkpoints(
        tmp_path, MetricsFile(tmp_path / "m"), about={}, steps=8, steps_per_epoch=4, val_every=3, save_every=None
    )
    checkpoints.step, checkpoints.saved = 5, 3
    checkpoints.failed = OSError(errno.EROFS, os.strerror(errno.EROFS))
    with pytest.raises(MachineError, match="step 5 cannot be saved: Read-only file system; the one of step 3 is whole"):
        checkpoints.stop()
