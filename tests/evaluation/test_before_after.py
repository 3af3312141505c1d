"""The test split before and after tuning: two models in one template, a pair for each row."""

import json
import math

import pytest
import torch

from ift.artifacts.model_folder import load_model_folder
from ift.cli import evaluate_settings
from ift.data.demo import demo_rows
from ift.data.reading.rows import Row
from ift.errors import ConfigError
from ift.evaluation.engines import run_engine
from ift.pages.before_after import of_evaluation
from ift.pages.report import write_report
from ift.run import RunFolder, read_jsonl, write_lines
from tests.tiny_run import make_run

WORDS = ("eval=before_after", "eval.generate.max_new_tokens=4", "accelerator=cpu", "precision=fp32")


@pytest.fixture(scope="module")
def run(tmp_path_factory, settings_of):
    """A run that began with another model, with 5 test rows."""
    top = tmp_path_factory.mktemp("before")
    base = make_run(top / "base", settings_of, seed=2)
    run = make_run(top / "run", lambda: settings_of("model=pretrained", f"model.pretrained={base.model}"), seed=1)
    rows = [
        Row(row["instruction"], row["input"], row["output"], file="demo", number=i)
        for i, row in enumerate(demo_rows(60, seed=0)[:5])
    ]
    write_lines(run.test_rows, (json.dumps(row.to_json()) + "\n" for row in rows))
    return run


def test_each_row_is_a_pair_with_the_loss_that_a_plain_loop_finds(run):
    results = run_engine(evaluate_settings([f"run={run.path}", *WORDS]))
    every = read_jsonl(run.evals / "before_after" / "samples.jsonl")
    lines = [line for line in every if "said" in line]
    assert [(line["model"], line["doc_id"]) for line in lines] == [(m, i) for m in ("base", "tuned") for i in range(5)]
    model, tokenizer, template = load_model_folder(run.model)
    for line in lines[5:]:
        row = Row(line["instruction"], line["input"], line["target"], file="demo", number=0)
        prompt, answer = tokenizer.encode(template.prompt(row)), tokenizer.encode(line["target"])
        ids = torch.tensor([[*prompt, *answer, tokenizer.end_of_text]])
        with torch.no_grad():
            logits = model.logits(model.hidden(ids[:, :-1]), every_id=True)[0].float().log_softmax(-1)
        picked = logits[len(prompt) - 1 :].gather(1, ids[0, len(prompt) :, None])
        assert line["metrics"]["loss"] == pytest.approx(-float(picked.mean()), rel=1e-4)
    scores = {(s["metric"], s["model"]): s for s in results["scores"]}
    mean = sum(line["metrics"]["loss"] for line in lines[5:]) / 5
    assert scores["loss", "tuned"]["value"] == pytest.approx(mean)
    assert scores["loss", "tuned"]["low"] < mean < scores["loss", "tuned"]["high"]
    assert scores["loss", "base"]["value"] != scores["loss", "tuned"]["value"]
    general = [line for line in every if line["model"] == "tuned" and "text" in line]
    assert len(general) == scores["bits_per_byte", "tuned"]["n"] == 40
    ids = tokenizer.encode(general[0]["text"])[: model.config.context_length]
    with torch.no_grad():
        given = torch.tensor([[tokenizer.end_of_text, *ids[:-1]]])
        logits = model.logits(model.hidden(given), every_id=True)[0].float().log_softmax(-1)
    nats = -float(logits.gather(1, torch.tensor(ids)[:, None]).sum())
    bits = nats / math.log(2) / len(tokenizer.decode(ids).encode())
    assert general[0]["metrics"]["bits_per_byte"] == pytest.approx(bits, rel=1e-4)
    assert math.isfinite(scores["rouge_l", "base"]["value"])
    against = {each["metric"]: each for each in results["against_base"]}
    assert list(against) == ["exact_match", "rouge_l", "chrf", "loss", "bits_per_byte"]
    assert against["loss"]["difference"] == pytest.approx(mean - scores["loss", "base"]["value"])
    assert results["notes"][-1].startswith("Tuned against base on the same questions, 5 tests with Holm's p: ")


def test_the_report_shows_the_pairs(run):
    run_engine(evaluate_settings([f"run={run.path}", *WORDS, "eval.limit=4"]))
    assert len(of_evaluation(read_jsonl(run.evals / "before_after" / "samples.jsonl"))) == 4
    write_report(run)
    page = run.report.read_text()
    assert "The same prompts before and after tuning" in page
    assert "of 4 prompts" in page
    assert "loss of the reference" in page
    assert "4 of 5 test rows." in page


def test_a_run_that_began_from_scratch_has_no_before(tmp_path, settings_of):
    scratch = make_run(tmp_path / "run", settings_of)
    for words, message in (
        ((), "was trained from scratch"),
        (("eval.num_fewshot=2",), "trained from scratch"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_engine(evaluate_settings([f"run={scratch.path}", *WORDS, *words]))


def test_settings_that_would_have_no_effect_are_refused(run):
    for word in ("eval.base=false", "eval.prompts=[raw]", "eval.num_fewshot=3"):
        with pytest.raises(ConfigError, match="leave out"):
            run_engine(evaluate_settings([f"run={RunFolder(run.path).path}", *WORDS, word]))
