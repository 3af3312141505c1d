"""The built-in default, whole, as a newcomer runs it: how good it is."""

import pytest

from ift.data.reading.rows import read_stored_rows
from ift.run import RunFolder, read_json, read_jsonl
from tests.running import TRAIN, run


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("demo") / "run")
    result = run(TRAIN, f"output_dir={folder.path}")
    assert result.returncode == 0, result.stderr
    assert "4,000 rows in = 4,000 kept + 0 dropped" in result.stdout
    return folder


def test_nine_of_ten_answers_to_unseen_prompts_are_exactly_right(demo):
    summary, responses = read_json(demo.summary), read_jsonl(demo.responses)
    assert len(responses) == 400
    assert sum(r["response"] == r["reference"] for r in responses) / 400 == summary["exact_match"] >= 0.9
    assert summary["end_rate"] > 0.99
    assert summary["val_loss"] < 0.1 * summary["untuned_val_loss"]


def test_no_test_prompt_occurs_in_training_or_validation(demo):
    from ift.data.demo import demo_rows, normalised

    tested = {
        normalised({"instruction": row.instruction, "input": row.input}) for row in read_stored_rows(demo.test_rows)
    }
    everything = [normalised(row) for row in demo_rows()]
    assert len(tested) == 400
    assert len(everything) - sum(prompt in tested for prompt in everything) == 3600
