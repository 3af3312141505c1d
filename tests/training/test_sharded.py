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

from ift.artifacts.adapter_folder import WEIGHTS
from ift.artifacts.model_folder import open_model_folder
from ift.artifacts.tensors import read_header, read_tensor
from ift.errors import ConfigError
from ift.nearest import absent
from ift.run import RunFolder, read_json, read_jsonl
from ift.sealed import check, newest, steps_there
from ift.training.sharded import strategy_of
from ift.training.stored import stored_tensors
from tests import soak
from tests.training.options import trainer_options
from tests.training.sharded_runs import ROWS, publish, train

SCRIPT = Path(__file__).with_name("sharded_runs.py")
ONE = {"devices": 1, "strategy": "auto", "batch_size": 12, "accumulate": 1}
THREE = {"devices": 3, "strategy": "fsdp", "batch_size": 2, "accumulate": 2}  # of the last 9 rows one rank has one
TWO = {"devices": 2, "strategy": "fsdp", "batch_size": 3, "accumulate": 2}
OTHER = {
    "shape": "llama", "tied": False, "batching": "padded", "checkpointing": True, "freeze": True, "layer_decay": 0.5,
}  # fmt: skip
BF16 = {"dtype": "bfloat16", "shape": "llama"}
ADAPTERS = {
    "lora": {"adapter": "lora"},
    "dora": {"adapter": "dora", "shape": "llama", "tied": False, "batching": "padded", "checkpointing": True},
    "qlora": {"adapter": "qlora", "shape": "llama"},
}
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
    lora, dora, qlora = (case | base_of(name, place) for name, case in ADAPTERS.items())
    cases = [
        {"name": "lora", **lora, **THREE},
        {"name": "lora handed on", "stop_at": 5, **lora, **THREE},
        {"name": "dora", **dora, **THREE},
        {"name": "qlora", **qlora, **THREE},
        {"name": "qlora stopped", "stop_at": 5, **qlora, **THREE},
        {"name": "qlora stopped", **qlora, **THREE},
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
    for adapter in ("", "lora "):
        for ranks in ("one", "two"):
            shutil.copytree(place / f"{adapter}handed on", place / f"{adapter}to {ranks}")
    goes_on = [{"name": "to two", **TWO}, {"name": "lora to two", **lora, **TWO}]
    launch(warm, place, goes_on, ranks=2)
    return place


def base_of(name: str, place: Path) -> dict[str, str]:
    """The published base of an adapter, of which each rank reads its slices."""
    if name not in ADAPTERS:
        return {}
    case, folder = ADAPTERS[name], place / f"base of {name}"
    if not folder.exists():
        publish(folder, case.get("shape", "gpt2"), tied=case.get("tied", True))
    return {"pretrained": str(folder)}


@pytest.mark.parametrize(("name", "case"), [("plain", {}), ("each time", {}), ("other", OTHER), *ADAPTERS.items()])
def test_losses_and_norms_of_ten_steps_are_those_of_one_process(place, tmp_path, name, case):
    alone, together = train(tmp_path / "one", **case, **base_of(name, place), **ONE), seen(place / name)
    for what in ("losses", "norms", "val"):
        expected = {str(step): value for step, value in alone[what].items()}
        assert together[what] == pytest.approx(expected, abs=1e-6), what
    assert len(together["losses"]) == 10
    held = [seen(place / name, rank)["held"] for rank in range(3)]
    assert sum(held) == alone["held"], "each number is on one rank, frozen ones too"
    assert max(held) < 0.4 * alone["held"]
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


def test_an_adapter_on_a_base_in_four_bits_goes_on_bit_for_bit(place):
    """Each rank quantizes its slices of the base again."""
    whole, stopped = seen(place / "qlora"), seen(place / "qlora stopped")
    assert stopped["losses"] == whole["losses"]
    assert stopped["weights"] == whole["weights"]


def test_checkpoints_of_an_adapter_hold_what_is_trained_alone(place):
    stored = stored_tensors(place / "qlora/checkpoints/step-00000010")
    weights = {name for name in stored if "state_dict/model." in name}
    assert all(".adapters." in name or name.endswith("own_rows.embedding") for name in weights)
    assert len(weights) == 2 * 2 * 7 + 1  # A and B of seven matrices in two layers, and rows of two tokens
    assert stored["state_dict/model.h.0.attn.c_attn.adapters.q_proj.B"].shape == (16, 4)


@pytest.mark.parametrize(("name", "case"), [("", {}), ("lora ", ADAPTERS["lora"])])
def test_a_checkpoint_is_read_by_any_number_of_processes(place, name, case):
    """Three ranks began; two go on, and one, each with the rows that a step had."""
    whole = seen(place / (name.strip() or "plain"))
    one = train(place / f"{name}to one", **case, **base_of(name.strip(), place), **ONE)
    assert {str(step): loss for step, loss in one["losses"].items()} == pytest.approx(whole["losses"], abs=1e-6)
    assert seen(place / f"{name}to two")["losses"] == pytest.approx(whole["losses"], abs=1e-6)


def test_a_step_of_other_rows_is_refused(place):
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


@pytest.fixture(scope="module")
def runs(warm, tmp_path_factory):
    """Kind -> strategy -> a run of the whole command by two ranks. The base of the adapter is the model of another."""
    place, runs = tmp_path_factory.mktemp("runs"), dict[str, dict[str, RunFolder]]()
    base = ("model=pretrained", f"model.pretrained={place / 'full ddp/model'}")
    adapter = ("adapter=qlora", "adapter.dora=true", "adapter.rank=4", "adapter.trainable_tokens=[7,8]")
    with soak.Trainings(warm) as trainings:
        for kind, words in {"full": ("optim.layer_decay=0.5",), "adapter": (*base, *adapter)}.items():
            runs[kind] = {strategy: RunFolder(place / f"{kind} {strategy}") for strategy in ("ddp", "fsdp")}
            for strategy, run in runs[kind].items():
                own = (f"trainer.strategy={strategy}", "model.dropout=0", "trainer.max_steps=6", "trainer.val_every=3")
                done = trainings.run(run.path, *own, *words, ranks=2)
                assert done["codes"] == [0, 0], done["output"][-3000:]
                assert "hung" not in done["output"]
                rates = done["output"].count("0.0015 embeddings and head, 0.003 layer 0 and last norm (optim.")
                assert rates == (kind == "full")
    return runs


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_the_whole_command_with_two_ranks_gives_a_model_folder_samples_and_answers(runs, kind):
    """The run of trainer=ddp with the same rows a step, but for rounding; the model folder is of whole tensors."""
    ddp, fsdp = (read_json(runs[kind][strategy].summary) for strategy in ("ddp", "fsdp"))
    for key in ("val_loss", "test_loss", "untuned_val_loss"):
        assert fsdp[key] == pytest.approx(ddp[key], abs=1e-5)
    for key in ("parameters", "best_step", "trained_parameters"):
        assert fsdp.get(key) == ddp.get(key)
    assert fsdp["status"] == "finished"
    models = [runs[kind][strategy].model for strategy in ("ddp", "fsdp")]
    folders = [open_model_folder(model)[0] for model in models]
    assert folders[1].config == folders[0].config
    for name in ("samples", "responses"):
        both = [read_jsonl(getattr(runs[kind][strategy], name)) for strategy in ("ddp", "fsdp")]
        assert [line["response"] for line in both[1]] == [line["response"] for line in both[0]]


def test_the_model_folder_of_an_adapter_is_the_usual_one(runs):
    ddp, fsdp = (open_model_folder(runs["adapter"][strategy].model)[0].adapter for strategy in ("ddp", "fsdp"))
    assert fsdp.low_rank == ddp.low_rank
    assert (fsdp.low_rank.four_bits, fsdp.low_rank.tokens, len(fsdp.names)) == (True, (7, 8), 4 * 3 + 1)
    for name in ddp.names:
        files = [each.path / WEIGHTS for each in (ddp, fsdp)]
        values = [read_tensor(file, name, read_header(file)[name]) for file in files]
        assert values[1] == pytest.approx(values[0], abs=1e-5), name


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
