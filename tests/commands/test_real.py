"""The commands that a first real run is made of, and what it shows at its end."""

import pytest

from ift.commands import real
from ift.commands.real import NAME, show
from ift.errors import ConfigError
from ift.run import RunFolder, write_json, write_jsonl


@pytest.fixture
def typed(monkeypatch, tmp_path):
    """The commands that were typed, each ending with the next of `codes` (0)."""
    typed, typed.codes = type("Typed", (list,), {})(), []  # a list with an attribute

    def command(name, words):
        typed.append([name, *words])
        return typed.codes.pop(0) if typed.codes else 0

    monkeypatch.setattr(real, "_command", command)
    monkeypatch.setattr(real, "smollm2", lambda: ("cache/SmolLM2", "from the package"))
    monkeypatch.setattr(real, "small_talk", lambda: tmp_path / "rows.jsonl")
    monkeypatch.setattr(real, "show", lambda run: [f"look at   {run.report}"])
    return typed


def test_it_is_two_commands_that_could_be_typed(typed, tmp_path, capsys):
    assert real.real([]) == 0
    what = [
        "experiment=real",
        "output_dir=runs/real",
        "model.pretrained=cache/SmolLM2",
        f"data.path={tmp_path}/rows.jsonl",
    ]
    assert typed == [["train", *what], ["evaluate", "run=runs/real", "eval=before_after"]]
    assert capsys.readouterr().out.endswith("look at   runs/real/report.html\n")


def test_quick_is_asked_where_the_hub_is_reached(typed, monkeypatch):
    monkeypatch.setattr(real, "smollm2", lambda: (NAME, "from the Hub"))
    assert real.real([]) == 0
    assert typed[2] == ["evaluate", "run=runs/real", "eval=quick", "eval.base=true"]


def test_rows_and_models_of_ones_own_are_not_fetched(typed, monkeypatch):
    for name in ("smollm2", "small_talk"):
        monkeypatch.setattr(real, name, pytest.fail)
    assert real.real(["model=qwen3-0.6b", "data.path=mine.json", "output_dir=out"]) == 0
    assert typed[0] == ["train", "experiment=real", "output_dir=out", "model=qwen3-0.6b", "data.path=mine.json"]
    assert typed[1][:2] == ["evaluate", "run=out"]


def test_a_training_that_was_stopped_is_not_evaluated(typed):
    typed.codes = [75]
    assert real.real([]) == 75
    assert len(typed) == 1
    with pytest.raises(ConfigError, match="rows: settings are typed KEY=VALUE"):
        real.real(["rows"])


def test_numbers_of_both_models_stand_side_by_side(tmp_path):
    run = RunFolder(tmp_path)
    write_json(run.summary, {"untuned_val_loss": 2.9231, "val_loss": 1.75})
    folder = run.evals / "before_after"
    folder.mkdir(parents=True)

    def score(model, task, metric, *numbers):
        return {
            "task": task,
            "metric": metric,
            "model": model,
            **dict(zip(("value", "low", "high"), numbers, strict=True)),
        }

    exact, general = ("test split", "exact_match"), ("general text", "bits_per_byte")
    scores = [
        score("tuned", *exact, 0.25, 0.15, 0.35),
        score("base", *exact, 0.0, 0.0, 0.04),
        score("tuned", *general, 0.81, 0.7, 0.9),
        score("base", *general, 0.8, 0.7, 0.9),
    ]
    test = {"difference": 0.25, "low": 0.15, "high": 0.35, "p": 0.0002, "verdict": "better"}
    other = {"difference": 0.01, "low": None, "high": None, "p": 0.5, "verdict": "not settled"}
    against = [{"task": task, "metric": metric, **each} for (task, metric), each in ((exact, test), (general, other))]
    write_json(folder / "results.json", {"scores": scores, "against_base": against})
    write_jsonl(
        folder / "samples.jsonl",
        [
            {"model": model, "instruction": "Who?", "input": "", "said": said, "target": "Me."}
            for model, said in (("base", "It is hard\nto say."), ("tuned", "Me."))
        ]
        + [{"model": "base", "text": "general", "metrics": {}}],
    )
    assert show(run) == [
        "                             before (95 %)           after (95 %)            change (95 %)",
        "validation loss              2.923                   1.750",
        "exact match                  0.0% (0.0% to 4.0%)     25.0% (15.0% to 35.0%)  "
        "+25.0% (+15.0% to +35.0%), p = 0.0002: better",
        "general text, bits per byte  0.800 (0.700 to 0.900)  0.810 (0.700 to 0.900)  +0.010, p = 0.5: not settled",
        "",
        "  Who?",
        "  before    It is hard to say.",
        "  after     Me.",
        "  wanted    Me.",
        "",
        f"look at   {run.report}",
    ]
