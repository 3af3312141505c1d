"""trainer=fsdp at random: configurations, numbers of ranks, kills, bits that flip."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ift.artifacts.verify import differences
from ift.run import RunFolder
from ift.sealed import newest
from tests import soak
from tests.training.sharded_runs import SHAPES, publish, train
from tests.training.test_sharded import ONE, launch, seen

RANKS = {1: (6, 2), 2: (3, 2), 3: (4, 1), 4: (1, 3)}  # batch_size and accumulate by which a step has 12 rows
pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch was built without gloo")


def configuration(seed: int, *, adapted: bool, bases: Path) -> dict[str, Any]:
    """Shape, layout and what is trained, all or an adapter; shards, copies and when gradients are added up; ranks."""
    draw = random.Random(seed)
    ranks, strategy = draw.choice([2, 3, 4]), draw.choice(["fsdp", "fsdp", "fsdp", "ddp"])
    batch_size, accumulate = RANKS[ranks]
    same = {
        "shape": draw.choice(["gpt2", "llama"]), "tied": draw.random() < 0.5,
        "batching": draw.choice(["padded", "unpadded"]), "freeze": draw.random() < 0.3,
        "checkpointing": draw.random() < 0.3, "optim": draw.choice(["adamw", "adamw", "lion", "sgd"]),
    }  # fmt: skip
    ours = {"devices": ranks, "strategy": strategy, "batch_size": batch_size, "accumulate": accumulate}
    if strategy == "fsdp":
        ours |= {
            "sum_every_batch": draw.random() < 0.5,
            "shard_size": 2 if ranks == 4 and draw.random() < 0.6 else None,
        }
    if adapted:
        same |= {"adapter": draw.choice(["lora", "lora", "dora", "qlora"]), "freeze": False}
        tied = "tied" if same["tied"] else "untied"
        same["pretrained"] = str(bases / f"{same['shape']} {tied}")
    return {"same": same, "ours": ours}


@pytest.mark.parametrize("adapted", [False, True])
def test_losses_of_ten_steps_are_those_of_one_process_in_20_configurations(warm, tmp_path, adapted):
    for shape in SHAPES:
        for tied in ("tied", "untied"):
            publish(tmp_path / f"{shape} {tied}", shape, tied=tied == "tied")
    cases = {f"case {seed}": configuration(seed, adapted=adapted, bases=tmp_path) for seed in range(20)}
    for ranks in (2, 3, 4):
        mine = [{"name": n, **c["same"], **c["ours"]} for n, c in cases.items() if c["ours"]["devices"] == ranks]
        launch(warm, tmp_path, mine, ranks=ranks)
    wrong = {}
    for name, case in cases.items():
        alone = train(tmp_path / f"{name} alone", **case["same"], **ONE)
        far = max(abs(seen(tmp_path / name)["losses"][str(step)] - loss) for step, loss in alone["losses"].items())
        # Lion's step is the sign of a momentum: where that is rounding noise about zero, so is the sign
        if not far < (1e-6 if case["same"]["optim"] != "lion" else 2e-2):
            wrong[name] = (far, case)
    assert wrong == {}


@pytest.mark.parametrize("strategy", ["fsdp", "ddp"])
def test_a_checkpoint_of_any_number_of_ranks_goes_on_with_any_other(warm, tmp_path, strategy):
    """1 to 4 save after step 5, 1 to 4 go on with either strategy: the same next losses; alike, the same weights."""

    def case(ranks: int, way: str) -> dict[str, Any]:
        batch_size, accumulate = RANKS[ranks]
        return {"devices": ranks, "strategy": way, "batch_size": batch_size, "accumulate": accumulate}

    whole = train(tmp_path / "alone", **ONE)["losses"]
    for ranks in RANKS:
        cases = [
            {"name": f"{ranks} whole", **case(ranks, strategy)},
            {"name": f"{ranks}", "stop_at": 5, **case(ranks, strategy)},
        ]
        launch(warm, tmp_path, cases, ranks=ranks)
    for now in RANKS:
        goes_on = []
        for ranks in RANKS:
            for way in ("fsdp", "ddp"):
                shutil.copytree(tmp_path / f"{ranks}", tmp_path / f"{ranks} to {now} {way}")
                goes_on.append({"name": f"{ranks} to {now} {way}", **case(now, way)})
        launch(warm, tmp_path, goes_on, ranks=now)
        for each in goes_on:
            found = seen(tmp_path / each["name"])["losses"]
            assert found == pytest.approx({str(step): loss for step, loss in whole.items()}, abs=1e-6), each
    for ranks in RANKS:
        same = seen(tmp_path / f"{ranks} to {ranks} {strategy}")
        assert same["weights"] == seen(tmp_path / f"{ranks} whole")["weights"]


def test_three_ranks_are_killed_at_20_places_and_go_on_bit_for_bit(warm, tmp_path):
    options = ("trainer.strategy=fsdp", "trainer.save_every=1")
    draw = random.Random(5)
    places = [*soak.PLACES["window"][:1], soak.PLACES["update"][0], soak.STEP_ENDS, "ift.sealed:write_file"]
    places += ["ift.training.sharded_files:write_tensors", "ift.training.module:SFTModule.validation_step"]
    wrong = {}
    with soak.Trainings(warm) as trainings:
        whole = RunFolder(tmp_path / "whole")
        done = trainings.run(whole.path, *options, ranks=3)
        assert done["codes"] == [0, 0, 0], done["output"][-2000:]
        for number in range(20):
            run, rank = RunFolder(tmp_path / f"killed-{number}"), draw.randrange(3)
            place, call = draw.choice(places), draw.randint(1, 6)
            done = trainings.run(run.path, *options, ranks=3, at=[place, call, soak.KILL], rank=rank)
            if not run.config.exists():
                continue
            if done["codes"] != [0, 0, 0]:
                done = trainings.run(run.path, *options, ranks=3)
            found = differences(whole, run) if done["codes"] == [0, 0, 0] else [done["output"][-500:]]
            if found or done["hung"]:
                wrong[number] = (place, call, rank, found)
    assert wrong == {}


def test_any_bit_of_any_rank_s_file_is_found_and_the_checkpoint_before_it_is_used(warm, tmp_path, capsys):
    batch_size, accumulate = RANKS[3]
    case = {"name": "run", "steps": 3, "devices": 3, "strategy": "fsdp", "batch_size": batch_size}
    launch(warm, tmp_path, [{**case, "accumulate": accumulate}], ranks=3)
    draw = random.Random(3)
    for number in range(60):
        folder = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "run/checkpoints", folder)
        file = draw.choice(sorted((folder / "step-00000003").iterdir()))
        data = bytearray(file.read_bytes())
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        file.write_bytes(data)
        assert newest(folder).about["step"] == 2, file
        assert "set aside as step-00000003.damaged" in capsys.readouterr().err
        shutil.rmtree(folder)


def test_a_pretrained_folder_is_read_slice_by_slice(warm, tmp_path):
    """Four ranks, two copies of the model: each reads its rows of a published model, transposed ones too."""
    for shape in SHAPES:
        folder = publish(tmp_path / f"published {shape}", shape)
        batch_size, accumulate = RANKS[4]
        case = {"shape": shape, "pretrained": folder, "steps": 4}
        ours = {"devices": 4, "strategy": "fsdp", "shard_size": 2, "batch_size": batch_size, "accumulate": accumulate}
        launch(warm, tmp_path, [{"name": shape, **case, **ours}], ranks=4)
        alone = train(tmp_path / f"{shape} alone", **case, **ONE)
        expected = {str(step): loss for step, loss in alone["losses"].items()}
        assert seen(tmp_path / shape)["losses"] == pytest.approx(expected, abs=1e-6)
