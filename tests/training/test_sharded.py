"""Several processes that each have a slice of the weights are one process that has them all; a stop changes nothing."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from ift.artifacts.model_folder import open_model_folder
from ift.errors import ConfigError
from ift.nearest import absent
from ift.run import RunFolder, read_json, read_jsonl
from ift.sealed import check, newest, steps_there
from ift.training.sharded import strategy_of
from tests import soak
from tests.training.options import trainer_options
from tests.training.sharded_runs import ROWS, train

SCRIPT = Path(__file__).with_name("sharded_runs.py")
ONE = {"devices": 1, "strategy": "auto", "batch_size": 12, "accumulate": 1}
THREE = {"devices": 3, "strategy": "fsdp", "batch_size": 2, "accumulate": 2}  # of the last 9 rows one rank has one
TWO = {"devices": 2, "strategy": "fsdp", "batch_size": 3, "accumulate": 2}
OTHER = {
    "shape": "llama", "tied": False, "batching": "padded", "checkpointing": True, "freeze": True, "layer_decay": 0.5,
}  # fmt: skip
BF16 = {"dtype": "bfloat16", "shape": "llama"}
pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch was built without gloo")


def launch(warm: Any, place: Path, cases: list[dict[str, Any]], *, ranks: int) -> str:
    """The cases in as many processes; what they printed."""
    (place / "cases.json").write_text(json.dumps(cases))
    out = place / f"out-{ranks}"
    end = warm.start(
        [str(SCRIPT), str(place)], stdout=out, stderr=out, ranks=ranks, timeout=300, fsync=False, teardown=False
    )
    assert end["codes"] == [0] * ranks, out.read_text()[-3000:]
    return out.read_text()


def seen(folder: Path, rank: int = 0) -> dict[str, Any]:
    return json.loads((folder / f"rank-{rank}.json").read_text())


@pytest.fixture(scope="module")
def place(warm, tmp_path_factory):
    """What three ranks did, in one start, and then what two did with a checkpoint of theirs."""
    place = tmp_path_factory.mktemp("sharded")
    cases = [
        {"name": "plain", **THREE},
        {"name": "each time", "sum_every_batch": True, **THREE},
        {"name": "other", **OTHER, **THREE},
        {"name": "bf16", "steps": 2, **BF16, **THREE},
        {"name": "dropout", "dropout": 0.2, **THREE},
        {"name": "stopped", "dropout": 0.2, "stop_at": 5, **THREE},
        {"name": "stopped", "dropout": 0.2, **THREE},
        {"name": "handed on", "stop_at": 5, **THREE},
        {"name": "full", "full": [2, 4, 6], **THREE},
    ]
    printed = launch(warm, place, cases, ranks=3)
    (place / "printed").write_text(printed)
    shutil.copytree(place / "handed on", place / "to one"), shutil.copytree(place / "handed on", place / "to two")
    launch(warm, place, [{"name": "to two", **TWO}], ranks=2)
    return place


@pytest.mark.parametrize(("name", "case"), [("plain", {}), ("each time", {}), ("other", OTHER)])
def test_losses_and_norms_of_ten_steps_are_those_of_one_process(place, tmp_path, name, case):
    alone, together = train(tmp_path / "one", **case, **ONE), seen(place / name)
    for what in ("losses", "norms", "val"):
        expected = {str(step): value for step, value in alone[what].items()}
        assert together[what] == pytest.approx(expected, abs=1e-6), what
    assert len(together["losses"]) == 10
    assert seen(place / name, rank=1)["weights"] == together["weights"]


def test_every_row_is_trained_on_once_an_epoch(place):
    """Ten steps are five epochs, whose second step has 9 rows for 12 places."""
    rows = Counter(row for rank in range(3) for row in seen(place / "plain", rank)["rows"])
    assert rows == dict.fromkeys(range(ROWS), 5)


def test_products_in_bf16_give_the_loss_of_weights_that_are_cast_where_they_are_used(place, tmp_path):
    """To the precision of their sum; a step later the biases and weights have been rounded in another order."""
    alone, together = train(tmp_path / "one", steps=2, **BF16, **ONE), seen(place / "bf16")
    assert together["losses"]["1"] == pytest.approx(alone["losses"][1], abs=2e-6)
    assert together["losses"]["2"] == pytest.approx(alone["losses"][2], abs=2e-3)


def test_a_run_that_is_stopped_and_goes_on_is_the_one_that_was_not_bit_for_bit(place):
    """With dropout: each rank has its own random state in the checkpoint."""
    whole, stopped = seen(place / "dropout"), seen(place / "stopped")
    assert stopped["losses"] == whole["losses"]
    assert stopped["weights"] == whole["weights"]
    assert stopped["weights"] != seen(place / "plain")["weights"]


def test_a_checkpoint_is_read_by_any_number_of_processes(place):
    """Three ranks began; two go on, and one, each with the rows that a step had."""
    whole = seen(place / "plain")
    one = train(place / "to one", **ONE)
    assert {str(step): loss for step, loss in one["losses"].items()} == pytest.approx(whole["losses"], abs=1e-6)
    assert seen(place / "to two")["losses"] == pytest.approx(whole["losses"], abs=1e-6)
    with pytest.raises(Exception, match=r"has 12 rows on 1 processes, and on 1 it would have 4 \(trainer.accumulate=3"):
        train(place / "to one", **{**ONE, "batch_size": 4}, steps=12)


def test_a_checkpoint_is_a_file_for_each_rank_and_no_pickle(place):
    (step, before) = steps_there(place / "plain/checkpoints")
    assert (step, before) == (10, 9)
    folder = place / "plain/checkpoints/step-00000010"
    ranks = [f"rank-{rank:05}.safetensors" for rank in range(3)]
    assert sorted(file.name for file in folder.iterdir()) == ["manifest.json", *ranks, "state.json"]
    assert check(folder).about == {"data": "abc", "step": 10, "ranks": 3, "copies": 1}
    sizes = [(folder / name).stat().st_size for name in ranks]
    assert max(sizes[1:]) < sum(sizes) * 0.4  # the first has random states and counters too


def test_a_disk_that_is_full_for_one_rank_is_told_once_and_none_waits(place):
    """Rank 2 cannot write in steps 4 to 6; then it can."""
    printed = (place / "printed").read_text()
    lines = [line for line in printed.splitlines() if "cannot be saved" in line]
    assert len(lines) == 3, printed
    assert "step 4 cannot be saved: No space left on device (rank 2); the one of step 3 is whole" in lines[0]
    assert seen(place / "full")["losses"] == seen(place / "plain")["losses"]
    assert steps_there(place / "full/checkpoints") == [10, 9]
    assert not list((place / "full/checkpoints").glob("*.part"))


def test_a_flipped_bit_in_any_rank_s_file_is_found_and_the_checkpoint_before_it_is_used(place, tmp_path, capsys):
    for number, rank in enumerate((0, 1, 2)):
        folder = tmp_path / str(rank)
        shutil.copytree(place / "plain/checkpoints", folder)
        file = folder / f"step-00000010/rank-{rank:05}.safetensors"
        data = bytearray(file.read_bytes())
        data[len(data) * (number + 1) // 4] ^= 1 << number
        file.write_bytes(data)
        assert newest(folder).about["step"] == 9
        assert f"{file.name}: damaged" in capsys.readouterr().err


def test_the_whole_command_with_two_ranks_gives_a_model_folder_samples_and_answers(warm, tmp_path):
    """The run of trainer=ddp with the same rows a step, but for rounding; the model folder is of whole tensors."""
    with soak.Trainings(warm) as trainings:
        runs = {}
        for strategy in ("ddp", "fsdp"):
            run = runs[strategy] = RunFolder(tmp_path / strategy)
            options = (f"trainer.strategy={strategy}", "model.dropout=0", "trainer.max_steps=6", "trainer.val_every=3",
                       "optim.layer_decay=0.5")  # fmt: skip
            done = trainings.run(run.path, *options, ranks=2)
            assert done["codes"] == [0, 0], done["output"][-3000:]
            assert "hung" not in done["output"]
            assert done["output"].count("0.0015 embeddings and head, 0.003 layer 0 and last norm (optim.") == 1
    ddp, fsdp = (read_json(runs[strategy].summary) for strategy in ("ddp", "fsdp"))
    for key in ("val_loss", "test_loss", "untuned_val_loss"):
        assert fsdp[key] == pytest.approx(ddp[key], abs=1e-5)
    assert (fsdp["status"], fsdp["parameters"], fsdp["best_step"]) == ("finished", ddp["parameters"], ddp["best_step"])
    assert open_model_folder(runs["fsdp"].model)[0].config == open_model_folder(runs["ddp"].model)[0].config
    for name in ("samples", "responses"):
        both = [read_jsonl(getattr(runs[strategy], name)) for strategy in ("ddp", "fsdp")]
        assert [line["response"] for line in both[1]] == [line["response"] for line in both[0]]


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("optim=muon",), "optim=muon: needs whole weights, and trainer=fsdp has slices (optim=adamw or optim=lion or"),
        (("model.compile=true", "data.batching=padded"), "model.compile=true: not with trainer=fsdp"),
        (("trainer=ddp", "trainer.shard_size=2"), "trainer.shard_size=2: is for trainer.strategy=fsdp"),
    ],
)
def test_what_does_not_go_with_it_is_refused_with_the_reason(settings_of, words, what):
    strategy = () if "trainer=ddp" in words else ("trainer=fsdp",)
    with pytest.raises(ConfigError, match=re.escape(what)):
        settings_of(*strategy, *words)


def test_tensor_parallelism_is_refused_with_the_reason():
    assert "its matrices are not cut" in str(absent("trainer.tensor_parallel"))


def test_copies_that_the_devices_do_not_divide_into_are_one_line():
    with pytest.raises(ConfigError, match=r"trainer.shard_size=3: does not divide 4 devices"):
        strategy_of(trainer_options(strategy="fsdp", shard_size=3), world=4, weights=None)
