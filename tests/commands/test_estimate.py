"""`ift estimate` as a person types it."""

import json
import re

import pytest

from ift import entry
from ift.cli import main
from ift.commands.estimate import described_rows
from ift.errors import ConfigError

ROWS = ["data.demo_rows=60", "data.twins=null"]


def typed(monkeypatch, *words):
    monkeypatch.setenv("COLUMNS", "200")  # a line of the table is a line
    monkeypatch.setattr("sys.argv", ["ift", "estimate", *words])
    return main()


def test_everything_as_json_and_nothing_is_written(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert typed(monkeypatch, *ROWS, "trainer.max_epochs=3", "data.batch_size=4", "--device", "h100", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    share, plan = found["share"], found["plan"]
    assert found["precision"] == "bf16"
    assert found["machine"]["memory"] == 80e9
    parts = ("weights", "gradients", "state", "activations", "gathered", "occupied")
    assert sum(share[name] for name in parts) == pytest.approx(share["memory"])
    assert share["weights"] == 4 * found["parameters"]
    assert plan["steps"] == 3 * -(-plan["rows"] // 4)
    assert found["training_seconds"] == pytest.approx(plan["steps"] * share["seconds"])
    assert found["fits"] == 1
    assert not list(tmp_path.iterdir())


def test_json_is_all_that_is_printed(monkeypatch, capsys):
    """What is told of the model's template on the way goes beside it."""
    monkeypatch.setattr("ift.commands.estimate.entry.composed", chatty(entry.composed))
    assert typed(monkeypatch, *ROWS, "--device", "h100", "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["parameters"] > 0
    assert "prompt    its own" in printed.err


def chatty(do):
    def speaking(*words, **options):
        print("prompt    its own")
        return do(*words, **options)

    return speaking


def test_a_person_reads_a_table(monkeypatch, capsys):
    described = ["--rows", "1000", "--row-tokens", "30", "--longest", "40"]
    assert typed(monkeypatch, "model=nano", *described, "--device", "rtx4090", "--memory", "0.5") == 0
    printed = capsys.readouterr().out
    assert "1,000 rows" in printed
    assert "DOES NOT FIT" in printed  # CUDA alone takes more
    assert "memory of a device" in printed
    assert re.search(r"copy for saving +0\.\d+ GB +of the machine's memory and not the device's, while", printed)


def test_what_fits_without_the_copy_for_saving_fits_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr("ift.artifacts.machine.resident_memory", lambda: (10**8, 10**8))  # of this process
    words = ["model=nano", "trainer.accelerator=cpu", "--rows", "1000", "--row-tokens", "30", "--longest", "40"]
    assert typed(monkeypatch, *words, "--json") == 0
    share = json.loads(capsys.readouterr().out)["share"]
    assert share["copied"] == share["weights"] + share["state"]
    assert share["memory"] == share["needed"] + share["copied"]
    between = share["needed"] + 0.5 * share["copied"]
    assert typed(monkeypatch, *words, "--memory", str(between / 1e9)) == 0
    assert "fits without the copy; steps wait until a checkpoint is written" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--device", "h1000"], "--device h1000: not known (a100, "),
        (["--rows", "10"], "--rows and --row-tokens go together"),
        (["trainer.devices=auto"], "trainer.devices=auto: an estimate is for so many devices (give a number)"),
        (["--peak", "-1"], "--peak -1: must be more than 0"),
        (["model=nona"], "model=nona"),
        (["optim.lr=-1"], "optim.lr=-1"),
        (["--rows", "10", "--row-tokens", "5000"], "positions"),
    ],
)
def test_what_is_wrong_is_one_line(monkeypatch, capsys, words, what):
    assert typed(monkeypatch, *words) == 2
    error = capsys.readouterr().err
    assert what in error
    assert len(error.splitlines()) == 1


def test_slices_need_less_memory_and_as_many_devices_as_training_starts(monkeypatch, capsys):
    described = ["--rows", "1000", "--row-tokens", "30", "--longest", "40", "--device", "h100", "--json"]
    found = {}
    for strategy in ("ddp", "fsdp"):
        assert typed(monkeypatch, "model=nano", f"trainer={strategy}", *described) == 0
        found[strategy] = json.loads(capsys.readouterr().out)
    assert [each["plan"]["devices"] for each in found.values()] == [2, 2]
    assert found["fsdp"]["share"]["state"] == found["ddp"]["share"]["state"] / 2


def test_rows_in_numbers():
    assert described_rows(None, None, None, 0.4) is None
    assert described_rows(100, 50, None, 0.4).longest == 200
    with pytest.raises(ConfigError, match="at most 1"):
        described_rows(100, 50, None, 1.5)
