"""Callbacks of the user's own: made from the command, never from the file of a run."""

import pytest
from omegaconf import OmegaConf

from ift.entry.callbacks import own_callbacks
from ift.errors import ConfigError
from ift.run import RunFolder, read_json
from tests.running import train

STOP = "trainer.callbacks=[{_target_: tests.training.own_callbacks.StopAt, step: 2}]"


def made(**node):
    return own_callbacks(OmegaConf.create({"trainer": {"callbacks": [node]}}))


def test_a_class_is_made_with_its_arguments():
    (callback,) = made(_target_="tests.training.own_callbacks.StopAt", step=7)
    assert (type(callback).__name__, callback.step) == ("StopAt", 7)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (
            {"_target_": "nowhere.Class"},
            "No module named 'nowhere' (is its folder in PYTHONPATH, and are these its arg",
        ),
        ({"_target_": "tests.training.own_callbacks.StopAt", "steps": 7}, "unexpected keyword argument 'steps'"),
        ({"_target_": "tests.training.own_callbacks.NoCallback"}, "makes no lightning.pytorch.callbacks.Callback"),
    ],
)
def test_what_is_no_callback_is_one_line_with_its_name(node, words):
    with pytest.raises(ConfigError) as refused:
        made(**node)
    assert str(refused.value).startswith(f"trainer.callbacks: {node['_target_']}: ")
    assert words in str(refused.value)


def test_a_run_that_goes_on_needs_its_callbacks_typed_again(tmp_path, warm):
    """config.yaml names the class, and nobody who can write that file gets it run."""
    run = RunFolder(tmp_path / "run")
    stopped = train(STOP, f"output_dir={run.path}", "logger=none", run=warm.run)
    assert (stopped.returncode, "own callback at step 2" in stopped.stdout) == (75, True), stopped.stderr
    for words, said in (
        ([], "the run was begun with tests.training.own_callbacks.StopAt, and no class is started from a file"),
        (["trainer.callbacks=[{_target_: os.getcwd}]"], "the run was begun with "),
    ):
        refused = warm.run("train.py", f"resume={run.path}", *words)
        assert (refused.returncode, said in refused.stderr) == (2, True), refused.stderr
    done = warm.run("train.py", f"resume={run.path}", STOP)
    assert done.returncode == 0, done.stderr
    assert read_json(run.summary)["steps"] == 4
