"""What the benchmarks conclude from timings, and what they are given; no peer is installed, nothing is timed."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "contestants")]

import before_and_after  # noqa: E402
import plan  # noqa: E402
import real_model  # noqa: E402
import scoring  # noqa: E402
import side_by_side  # noqa: E402
import training  # noqa: E402
import whole_command  # noqa: E402
from bare import BareGPT  # noqa: E402
from ceilings import Products  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from side_by_side import (  # noqa: E402
    Column,
    Contestant,
    Gate,
    Outcome,
    best_of,
    compare,
    ratio,
    refuse,
    run,
    settled,
    slope,
    table,
)
from workload import Workload  # noqa: E402

from ift.artifacts.weights import save_weights  # noqa: E402
from ift.data.batches import targets_of  # noqa: E402
from ift.data.contract.examples import Example  # noqa: E402
from ift.model.config import GPTConfig  # noqa: E402
from ift.model.gpt import GPT  # noqa: E402


def rate(values):
    return values["rate"]


def outcomes_of(**rates):
    """Outcomes of each contestant with these rates, a round each; a text is the reason of an invalid one."""
    return [
        Outcome(
            name, number, {} if isinstance(value, str) else {"rate": value}, value if isinstance(value, str) else None
        )
        for name, values in rates.items()
        for number, value in enumerate(values)
    ]


def test_the_interval_of_a_ratio_is_students_over_its_logarithms():
    # ratios 2 and 8: logs 0.693 and 2.079, mean log 4; deviation 0.980, of the mean 0.693, times t = 12.706: 8.807
    found = ratio([2.0, 8.0], [1.0, 1.0])
    assert found.median == 5.0
    assert math.log(found.low) == pytest.approx(math.log(4) - 12.706 * math.log(2), abs=1e-9)
    assert math.log(found.high) == pytest.approx(math.log(4) + 12.706 * math.log(2), abs=1e-9)


def test_ratios_are_made_within_a_round_so_a_slow_machine_cancels():
    found = ratio([30.0, 3.0, 15.0], [10.0, 1.0, 5.0])
    assert found == (3.0, pytest.approx(3.0), pytest.approx(3.0))


def test_one_round_has_no_interval():
    found = ratio([6.0], [2.0])
    assert (found.median, str(found)) == (3.0, "3.00")
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_slope_is_the_power_of_growth():
    assert slope([1, 2, 4, 8], [3, 6, 12, 24]) == pytest.approx(1)
    assert slope([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx(2)


@pytest.mark.parametrize(
    ("gate", "found", "passes"),
    [
        (Gate("loss", 0.5), 10.5, True),
        (Gate("loss", 0.5), 9.4, False),
        (Gate("norm", 0.02, relative=True), 10.1, True),
        (Gate("norm", 0.02, relative=True), 10.3, False),
        (Gate("loss", 0.5), math.nan, False),
        (Gate("loss", 0.5), math.inf, False),
    ],
)
def test_a_gate_lets_through_what_is_near_the_reference_and_never_nan(gate, found, passes):
    assert (gate.broken_by(found, 10.0) is None) == passes


def test_one_bad_round_makes_a_contestant_invalid_and_it_stays_in_the_table():
    outcomes = outcomes_of(ift=[300.0, 330.0], slow=[100.0, 100.0], broken=[900.0, "first loss | 3 apart"])
    contestants = [Contestant(name, "") for name in ("ift", "slow", "broken", "absent")]
    rows = table(contestants, outcomes, [Column("tokens/s", rate)], rate=rate, ours="ift").splitlines()[2:]
    assert rows[0] == "| ift | 315 | 1.00 (1.00 to 1.00) | 2 |  |"
    assert rows[1].startswith("| slow | 100 | 3.15 (")
    assert rows[2] == "| broken |  |  |  | **INVALID**: first loss / 3 apart |"
    assert rows[3] == "| absent |  |  |  | **INVALID**: it never ran |"
    assert best_of(["slow", "broken"], outcomes, rate) == "slow"
    assert compare(outcomes, "ift", "broken", rate) is None


def test_rows_that_left_early_are_compared_over_the_rounds_they_ran():
    outcomes = outcomes_of(ift=[300.0, 400.0, 900.0], side=[100.0, 100.0])
    assert compare(outcomes, "ift", "side", rate).median == 3.5


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("raise SystemExit('no such weights')", "exit 1: no such weights"),
        ("print('RESULT {}'); raise SystemExit(3)", "exit 3: RESULT {}"),
        ("print('no result')", "exit 0: no result"),
        ("import time; time.sleep(60)", "not done after 1 s"),
    ],
)
def test_a_contestant_that_dies_is_invalid_with_its_last_words(tmp_path, monkeypatch, script, reason):
    (tmp_path / "script.py").write_text(script)
    monkeypatch.setattr(side_by_side, "CONTESTANTS", tmp_path)
    outcome = run(Contestant("it", "script.py"), {"precision": "fp32", "round": 4}, python=sys.executable, timeout=1)
    assert refuse([outcome]) == {"it": reason}
    assert outcome.round == 4


def test_a_contestant_is_told_its_job_and_its_last_result_counts(tmp_path, monkeypatch):
    script = (
        "import json, sys; job = json.load(open(sys.argv[1])); print('RESULT [1]'); print('RESULT', json.dumps(job))"
    )
    (tmp_path / "script.py").write_text(script)
    monkeypatch.setattr(side_by_side, "CONTESTANTS", tmp_path)
    it = Contestant("it", "script.py", options={"a": 1}, precision="fp32")
    outcome = run(it, {"precision": "bf16", "round": 0, "options": {"b": 2}}, python=sys.executable, timeout=30)
    assert outcome.invalid is None
    assert outcome.values["options"] == {"a": 1, "b": 2}
    assert outcome.values["precision"] == "fp32"


@pytest.fixture
def workload(tmp_path):
    """Rows 5 6 [7 8 end] and 9 [3], whose end is not learnt."""
    np.savez(
        tmp_path / "rows.npz",
        ids=np.array([5, 6, 7, 8, 9, 3], np.int32),
        supervised=np.array([0, 0, 1, 1, 0, 1], bool),
        starts=np.array([0, 4, 6]),
        ends=np.array([True, False]),
    )
    (tmp_path / "plan.json").write_text(json.dumps({"end_of_text": 0}))
    return Workload(tmp_path)


def test_every_contestant_is_given_the_same_targets(workload):
    ids, targets = workload.padded([0, 1])
    assert ids.tolist() == [[5, 6, 7, 8], [9, 3, 0, 0]]
    assert targets.tolist() == [[-100, 7, 8, 0], [3, -100, -100, -100]]
    assert (workload.useful([0, 1]), workload.supervised([0, 1])) == (6, 4)
    for row, target in enumerate(targets.tolist()):  # shifted inside the model, labels are these targets
        whole, labels = workload.whole(row)
        assert labels[1:] == target[: len(whole) - 1]


def test_batches_by_length_are_spread_over_all_lengths_and_a_middle_one_warms_up():
    order = [[step * 8 + place for place in range(8)] for step in range(60)]
    lengths = list(range(480))
    steps = plan.grouped(order, lengths, 1, 2, 0)
    assert [max(step) for step in steps] == [
        199,
        303,
        103,
    ]  # of 400 sorted rows, 399 the longest: batches 25, 12 and 37
    assert all(len(step) == 8 and max(step) - min(step) == 7 for step in steps)


def test_the_reference_is_the_same_network(tmp_path):
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=50, context_length=16, n_layer=2, n_head=2, n_embd=8)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    save_weights(model, tmp_path, end_of_text=49)
    ids = torch.randint(50, (2, 9))
    bare = BareGPT(tmp_path)
    assert (bare(ids) - model(ids)).abs().max() < 1e-5
    bare.save(tmp_path / "again.safetensors", tmp_path / "model.safetensors")
    saved, stored = load_file(tmp_path / "again.safetensors"), load_file(tmp_path / "model.safetensors")
    assert saved.keys() == stored.keys()
    assert all(torch.equal(saved[name], stored[name]) for name in stored)


def test_the_products_of_a_step_are_those_of_its_matrices_and_of_its_attention():
    """Two layers, 3 heads of queries and 1 of keys, 2 channels each; 10 positions, 4 supervised, of 9 tokens."""
    sizes = {"n_layer": 2, "n_head": 3, "n_kv_head": 1, "head_dim": 2, "n_embd": 4, "vocab_size": 9}
    plan_of_it = {**sizes, "matrices": [[10, 4], [4, 6], [14, 4], [4, 7]]}
    needed = 6 * (2 * (40 + 24 + 56 + 28) * 10 + 4 * 9 * 4)
    assert training.step_flops(plan_of_it, 10, 4) == needed
    products = Products(plan_of_it, torch.float32)
    products.prepare(10)
    # six products each: scores and values, again, and what queries, keys and values are given back
    assert products([(5, 5), (5, 7)], 10, 4) == needed + 2 * 6 * 2 * 3 * (5 * 5 + 5 * 7) * 2


def test_a_model_of_another_family_meets_those_who_have_it():
    everyone = [c.name for c in training.chosen(None)]
    found = {c.name: training.gates_of(c) for c in training.chosen(None, BENCHMARKS)}
    assert set(everyone) - set(found) == {"bare loop", "llms-from-scratch", "torchtune", "torchtune, no checkpointing"}
    assert (found["ift"], found["TRL"], found["TRL, packed"], found["LitGPT"]) == ("all", "all", "packed", "logits")
    rivals = training.rivals(training.chosen(None, BENCHMARKS))
    assert "LitGPT, batch 8" in rivals
    assert not [name for name in training.rivals(training.chosen(None)) if "LitGPT" in name]  # pythia is no GPT-2


def test_seconds_a_step_are_its_tokens_over_their_rate_without_the_first():
    lines = [{"step": 0, "tokens": 0, "val/loss": 5.0}]
    lines += [
        {"step": i, "tokens": t, "tokens_per_second": r} for i, t, r in [(1, 100, 1.0), (2, 300, 100.0), (3, 400, 25.0)]
    ]
    assert before_and_after.seconds_a_step(lines) == (200 / 100 + 100 / 25) / 2


def test_the_spread_is_that_of_ratios_within_a_round():
    assert before_and_after.spread([10.0, 1.0, 4.0], [11.0, 1.0, 3.0]) == "1.000 (0.750 to 1.100)"


def test_the_first_difference_is_named_and_equal_ones_are_none():
    assert before_and_after.first_difference("losses", [1.5, 2.0], [1.5, 2.0]) is None
    assert before_and_after.first_difference("losses", [1.5, 2.0, 3], [1.5, 2.25, 4]) == "losses: 2.0 and 2.25"
    assert before_and_after.first_difference("losses", [1.5], []) == "losses: 1 and 0"


def test_made_rows_are_the_same_each_time_and_as_long_as_alpacas():
    rows = before_and_after.made_rows(500)
    assert rows == before_and_after.made_rows(500)
    lengths = sorted(len(row["output"].split()) for row in rows)
    assert 30 < lengths[250] < 50
    assert (lengths[0], lengths[-1]) == (6, 250)


@pytest.mark.parametrize("ended", [0, 3])
def test_a_command_of_a_checkout_is_timed_and_weighed(ended, tmp_path):
    script = f"print(os.environ['PYTHONPATH'], sys.argv[1:]); sys.exit({ended})"
    (tmp_path / "train.py").write_text(f"import os, sys\nx = b'x' * 50_000_000\n{script}")
    if ended:
        with pytest.raises(SystemExit, match=r"train\.py a=1\n.*/src \['a=1'\]"):
            before_and_after.run(tmp_path, "train.py", "a=1", cache=tmp_path / "cache")
    else:
        values = before_and_after.run(tmp_path, "train.py", "a=1", cache=tmp_path / "cache")
        assert values["seconds"] > 0
        assert values["peak_bytes"] > 50_000_000


def test_scores_are_timed_against_packages_that_give_the_same(capsys):
    pairs = scoring.make_pairs(4, 12, seed=3)
    for what, measures in scoring.contestants().items():
        scoring.show(what, *scoring.race(measures, pairs, 1))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    assert not [line for line in lines if "INVALID" in line]


def test_a_row_for_transformers_bears_its_losses_where_ours_does():
    """Their labels stand below the tokens that they are of, and are moved by one in the model; -100 has none."""
    learnt, cut = (Example(np.array([5, 6, 7, 8]), np.array([0, 0, 1, 1], dtype=bool), ends=e) for e in (True, False))
    rows = [real_model._unshifted(each, end_of_text=9) for each in (learnt, cut)]
    batch = real_model.padded(rows, pad=9)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9], [5, 6, 7, 8, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert batch["labels"][:, 1:].tolist() == [[-100, 7, 8, 9], [-100, 7, 8, -100]]
    assert targets_of(learnt, 9).tolist() == [-100, 7, 8, 9]


def test_what_follows_from_the_lines_of_a_real_model_is_said_seed_by_seed(tmp_path):
    scores = {"test_losses": [1.0, 2.0, 3.0] * 4, "rouge_l": [0.5, 0.4, 0.3] * 4, "val_loss": 2.0}
    lines = [
        {"side": "untuned", "seed": None, **scores, "test_loss": 3.0, "rouge_l": [0.1] * 12},
        {"side": "ift", "seed": 1, **scores, "test_loss": 0.995, "minutes": 3.0},
        {"side": "trainer", "seed": 1, **scores, "test_loss": 1.0, "minutes": 9.0},
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = real_model.show(tmp_path)
    assert "ift against trainer, seed 1: test loss 0.9950 times theirs" in shown
    assert shown[0].startswith("ift      seed 1  test loss 0.9950, validation loss 2.0000, ROUGE-L 0.400 (")
    assert shown[0].endswith(", 3.0 minutes")
    assert any(line.startswith("ift seed 1 against untuned, ROUGE-L: +0.3000") for line in shown)


# -- the whole command ------------------------------------------------------------------------------------------------


def test_rounds_go_on_until_the_interval_of_a_ratio_is_narrow():
    def told(ours, theirs):
        walls = {"ift": ours, "Trainer": theirs}
        return [Outcome(name, i, {"wall": wall}) for name, all_ in walls.items() for i, wall in enumerate(all_)]

    def narrow(outcomes):
        return settled(outcomes, "ift", ["Trainer"], whole_command.rate)

    assert not narrow(told([10.0], [15.0]))  # one round has no interval
    assert not narrow(told([10.0, 10.0, 10.0], [15.0, 19.0, 12.0]))
    assert narrow(told([10.0, 11.0, 12.0], [15.0, 16.5, 18.0]))  # 1.5 each time
    assert narrow([*told([1.0], [1.0]), Outcome("Trainer", 1, invalid="exit 1")])


def test_all_are_given_the_same_rows_and_none_is_trained_and_validated_on(tmp_path, byte_tokenizer):
    (tmp_path / "bytes").mkdir()
    byte_tokenizer.save(tmp_path / "bytes", context_length=64)
    rows = [{"instruction": f"Say {i}.", "input": "", "output": str(i)} for i in range(40)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    arguments = SimpleNamespace(
        rows=tmp_path / "rows.json", limit=None, tokenizer=str(tmp_path / "bytes"), layers=1, heads=2, width=8,
        epochs=2, validations=10,
    )  # fmt: skip
    job = whole_command.prepare(tmp_path, arguments)
    train, val = (json.loads(Path(job[name]).read_text()) for name in ("train", "val"))
    assert (len(train), len(val)) == (38, 2)
    assert sorted((row["output"] for row in train + val), key=int) == [str(i) for i in range(40)]
    assert job["every"] == 1  # two epochs of 5 steps, 10 validations
