"""A run that goes on to another end than it was begun with: where the schedule allows it, and what it is then."""

import json
import shutil

import pytest

from ift.errors import ConfigError
from ift.run import RunFolder, read_json, read_jsonl
from ift.sealed import Sealed
from ift.settings import load_settings, save_settings
from ift.training.longer import begin, planned
from ift.training.optim import lr_factor
from tests import soak
from tests.running import TRAIN, train

QUIET = ("logger=none", "trainer.accelerator=cpu", "data.demo_rows=60", "trainer.val_every=2")
STEADY = ("optim.schedule=constant", "optim.warmup=0")


@pytest.fixture(scope="module")
def tiny(warm):
    """tiny(folder, *overrides): a tiny training, which must end with `code`; what it printed."""

    def tiny(folder, *overrides, code=0, resume=False):
        if resume:
            done = warm.run(TRAIN, f"resume={folder}", *overrides)
        else:
            done = train(f"output_dir={folder}", *QUIET, *overrides, run=warm.run)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return tiny


@pytest.fixture(scope="module")
def once(tiny, tmp_path_factory):
    """8 steps at once."""
    folder = tmp_path_factory.mktemp("once")
    tiny(folder, *STEADY, "trainer.max_steps=8")
    return folder


@pytest.fixture(scope="module")
def four(tiny, tmp_path_factory):
    """The first 4 of them, finished; not to be changed."""
    folder = tmp_path_factory.mktemp("four")
    tiny(folder, *STEADY, "trainer.max_steps=4")
    return folder


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")}


def curve(folder):
    """Step -> what was measured there, but for times and for the test at an earlier end."""
    names = ("tokens", "lr", "train/loss", "val/loss", "grad_norm")
    return [(line["step"], {name: line.get(name) for name in names}) for line in read_jsonl(folder / "metrics.jsonl")]


def test_at_a_constant_rate_a_longer_run_is_the_one_that_was_that_long_from_the_start(tiny, four, once, tmp_path):
    """4 steps, finished; then 8: the same losses, gradients and weights as 8 at once. What was made at 4 is kept."""
    longer = tmp_path / "longer"
    shutil.copytree(four, longer)
    before = read_json(longer / "summary.json")
    said = tiny(longer, "trainer.max_steps=8", resume=True)
    assert "goes on   from step 4 in" in said
    assert "longer    to step 8, before to 4; at the same rate" in said
    assert curve(longer) == curve(once)
    assert (longer / "model/model.safetensors").read_bytes() == (once / "model/model.safetensors").read_bytes()
    assert (longer / "responses.jsonl").read_bytes() == (once / "responses.jsonl").read_bytes()
    summary = read_json(longer / "summary.json")
    assert (summary["status"], summary["steps"], summary["stop_reason"]) == ("finished", 8, "max_steps=8")
    assert read_json(longer / "earlier/step-00000004/summary.json") == before
    assert len(read_jsonl(longer / "earlier/step-00000004/responses.jsonl")) > 0
    assert "this run is finished" in tiny(longer, "trainer.max_steps=8", resume=True)


def test_after_a_cosine_a_longer_run_states_its_warm_up_or_is_refused_with_what_to_do(tiny, tmp_path):
    run = RunFolder(tmp_path / "run")
    tiny(run.path, "trainer.max_steps=2")
    before = contents(run.path)
    for words, problem in (
        (["trainer.max_steps=6"], "; or begin a new run with its model: model.pretrained=RUN)"),
        (["trainer.max_epochs=9", "optim.rewarm=0.1"], "still ends at step 2 by trainer.max_steps=2 (give that too)"),
    ):
        assert problem in tiny(run.path, *words, code=2, resume=True)
    assert contents(run.path) == before
    said = tiny(run.path, "trainer.max_steps=6", "optim.rewarm=0.5", resume=True)
    assert "longer    to step 6, before to 2; optim.rewarm=0.5 of the added steps, then down again" in said
    # 4 added steps: 2 of warm-up, then a cosine from the peak of 0.003 towards a tenth of it
    rates = {line["step"]: line["lr"] for line in read_jsonl(run.metrics) if "lr" in line}
    assert [rates[step] for step in (3, 4, 5, 6)] == pytest.approx([0.001, 0.002, 0.003, 0.00165])
    assert [step for step, values in curve(run.path) if values["val/loss"] is not None] == [0, 2, 4, 6]


def test_a_longer_run_that_is_killed_goes_on_bit_for_bit_and_is_not_called_finished_before_its_end(
    warm, tiny, four, once, tmp_path
):
    """Killed after its first step, before anything of the longer part is saved, and then after the one at step 6."""
    run = RunFolder(tmp_path / "run")
    shutil.copytree(four, run.path)
    log = tmp_path / "log"
    for words, call in ((["trainer.max_steps=8"], 1), ([], 3)):
        plan = {"at": [soak.STEP_ENDS, call, 9], "fsync": False, "teardown": False}
        done = warm.start([TRAIN, f"resume={run.path}", *words], stdout=log, stderr=log, **plan)
        assert done["codes"] == [-9], log.read_text()
        assert not run.finished
    assert log.read_text().count("goes on   from step 4 in") == 2
    assert "goes on   from step 6 in" in tiny(run.path, resume=True)
    assert curve(run.path) == curve(once)
    assert (run.model / "model.safetensors").read_bytes() == (once / "model/model.safetensors").read_bytes()
    assert read_json(run.summary)["status"] == "finished"


# -- what is planned, without a training ------------------------------------------------------------------------------


@pytest.fixture
def left(tmp_path, settings_of, monkeypatch):
    """left(step, *overrides): the folder of a run of 10 steps that has a checkpoint of this step."""
    from ift.training import longer

    def left(step, *overrides):
        run = RunFolder(tmp_path)
        save_settings(settings_of("model=nano", "trainer.max_steps=10", *overrides), run.config)

        monkeypatch.setattr(longer, "newest", lambda *args, **options: Sealed(tmp_path, {"step": step}))
        return run

    return left


def asked(run, **changes):
    """The settings of the run with another end."""
    settings = load_settings(run.config)
    for key, value in changes.items():
        setattr(settings.optim if key == "rewarm" else settings.trainer, key, value)
    return settings


def start(run, settings):
    begin(
        run,
        settings,
        steps_of=lambda trainer: min(trainer.max_epochs * 5, trainer.max_steps or 10**9),
        rate_at=lambda step, before: lr_factor(step, before.optim, 10),
    )


def test_what_has_no_place_for_more_steps_is_refused_with_what_to_do(left):
    run = left(10)
    with pytest.raises(
        ConfigError, match=r"optim.schedule=cosine is laid out over .* \(optim.rewarm=0.1 restarts it at"
    ):
        planned(run, asked(run, max_steps=20))
    with pytest.raises(ConfigError, match=r"optim.rewarm: is for a run that goes on longer"):
        planned(run, asked(run, rewarm=0.1))
    with pytest.raises(
        ConfigError, match=r"trainer.max_steps=9: ends at step 9, and the run is at step 10 \(give more"
    ):
        start(run, planned(run, asked(run, max_steps=9, rewarm=0.1)))


def test_a_constant_rate_that_is_still_warming_up_is_not_made_to_jump(left):
    run = left(3, "optim.schedule=constant", "optim.warmup=0.5")
    with pytest.raises(ConfigError, match=r"the rate is 67% of its peak at step 3 \(optim.rewarm=0.1 restarts"):
        start(run, planned(run, asked(run, max_steps=20)))
    assert load_settings(run.config).trainer.max_steps == 10
    start(run, planned(run, asked(run, max_steps=20, rewarm=0.1)))
    now = load_settings(run.config)
    assert (now.trainer.max_steps, now.optim.rewarm, now.optim.restart_at) == (20, 0.1, 3)


def test_the_summary_of_a_run_that_goes_on_longer_does_not_say_finished(left):
    run = left(10, "optim.schedule=constant")
    run.summary.write_text(json.dumps({"status": "finished", "val_loss": 2.0}))
    run.responses.write_text("{}\n")
    start(run, planned(run, asked(run, max_steps=20)))
    assert not run.finished
    assert read_json(run.path / "earlier/step-00000010/summary.json")["val_loss"] == 2.0
    assert not run.responses.exists()
    again = load_settings(run.config)
    assert planned(run, again) == again  # a plain resume is no longer run once more


def test_a_run_without_a_checkpoint_begins_with_the_other_end(left, monkeypatch):
    from ift.training import longer

    run = left(0)
    monkeypatch.setattr(longer, "newest", lambda *args, **options: None)
    start(run, planned(run, asked(run, max_steps=20)))
    now = load_settings(run.config)
    assert (now.trainer.max_steps, now.optim.restart_at) == (20, None)
