"""A loss far above those before it is named with its own step and rows, also where it is known later."""

import json

import pytest

from ift.training.metrics_file import MetricsFile
from ift.training.module import SFTModule
from ift.training.objectives import CrossEntropy
from ift.training.spikes import Spikes, deviations


def test_deviations_count_from_the_losses_before():
    """Mean 2 and standard deviation 1.016 of 32 losses: 8.1 is 6 of them above."""
    before = [1.0, 3.0] * 16
    assert deviations(2 + 6 * 1.016, before) == pytest.approx(6.0, abs=0.01)
    assert deviations(100.0, before[:31]) == 0.0  # too few to tell
    assert deviations(100.0, [2.0] * 32) == 0.0  # no spread to measure by
    assert deviations(float("nan"), before) == 0.0


class SpoiltAt40(CrossEntropy):
    """Loss 50 on the batch of step 40, in the middle of losses near 3.9; the gradient is as it was."""

    def __init__(self):
        self.calls, self.rows = 0, []

    def __call__(self, model, batch):
        self.calls += 1
        sums = super().__call__(model, batch)
        if self.calls != 40:
            return sums
        self.rows = list(batch.rows)
        return sums._replace(loss=sums.loss + (50 * sums.weight - sums.loss).detach())


class Late(SFTModule):
    """Numbers of a step are read one step later, as on a GPU."""

    steps_behind = 1


@pytest.mark.parametrize("kind", [SFTModule, Late])
def test_a_spike_is_printed_and_noted_with_its_step_and_rows(
    tmp_path, capsys, make_examples, make_model, make_optim, make_data, make_trainer, kind
):
    metrics, objective = MetricsFile(tmp_path / "metrics.jsonl"), SpoiltAt40()
    module = kind(make_model(), objective=objective, optim=make_optim(), total_steps=45)
    spikes = Spikes(metrics)
    make_trainer(max_steps=45, callbacks=[spikes], logger=[metrics]).fit(module, make_data(make_examples(40)))
    lines = [line for line in capsys.readouterr().out.splitlines() if "standard deviations" in line]
    assert len(lines) == 1
    assert lines[0].startswith("ift: step 40: loss 50.000 is ")
    assert lines[0].endswith(f" standard deviations above the last 39 (rows {', '.join(map(str, objective.rows))})")

    metrics.save()
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in written] == list(range(1, 46))
    noted = [line for line in written if "rows" in line]
    assert [(line["step"], line["rows"]) for line in noted] == [(40, objective.rows)]
    assert noted[0]["train/loss"] == pytest.approx(50)
    again = Spikes(metrics)
    again.load_state_dict(spikes.state_dict())
    assert list(again.losses) == list(spikes.losses)
    assert len(again.losses) == 45
