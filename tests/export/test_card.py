"""The card says what the run's files say, and nothing of theirs is ever markup."""

import json

import pytest
import yaml

from ift.export.card import block, card, code
from ift.export.source import RunModel
from ift.run import write_json
from ift.text.templates import Segment, Template


def front_matter(text):
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_a_card_has_the_numbers_of_the_run(run_of):
    text = card(RunModel.open(run_of()), to="hf", dtype="fp32", file="model.safetensors")
    assert front_matter(text) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["gpt2", "instruction-tuning"],
    }
    for line in (
        "Trained from scratch.",
        "| rows in | 4,000 |",
        "| rows in training | 3,400 |",
        "| val loss | 1.25 |",
        "| exact match | 0.5 |",
        "| steps | 1,704 |",
        "<|user|>\n{instruction}\n{input}\n<|assistant|>:\n",
        "vllm serve FOLDER",
    ):
        assert line in text
    assert "licence is stated" in text


def test_a_card_without_its_files_is_shorter(run_of):
    run = run_of()
    for path in (run.summary, run.data_report, run.config):
        path.unlink()
    text = card(RunModel.open(run), to="gguf", dtype="q8_0", file="model-q8_0.gguf")
    assert "## Numbers" not in text
    assert "## Data" not in text
    assert "ollama create NAME -f Modelfile" in text
    assert front_matter(text)["library_name"] == "gguf"


@pytest.mark.parametrize("value", [[], {"val_loss": "<b>", "splits": [1], "steps": True}, "x", {"val_loss": None}])
def test_files_that_are_not_ours_add_nothing(run_of, value):
    run = run_of()
    write_json(run.summary, value)
    write_json(run.data_report, value)
    text = card(RunModel.open(run), to="hf", dtype="fp32", file="model.safetensors")
    assert "## Numbers" not in text
    assert "<b>" not in text


@pytest.mark.parametrize(
    ("pretrained", "base", "said"),
    [
        ("openai-community/gpt2", "openai-community/gpt2", "`openai-community/gpt2`"),
        ("/home/someone/secret project/weights", None, "Training began with `weights`."),
        ('x"\n- evil: true', None, '`x" - evil: true`'),
    ],
)
def test_what_training_began_with_is_named_and_no_place_of_this_machine(run_of, settings_of, pretrained, base, said):
    run = run_of()
    text = run.config.read_text().replace("pretrained: null", f"pretrained: {json.dumps(pretrained)}")
    run.config.write_text(text)
    text = card(RunModel.open(run), to="hf", dtype="fp32", file="model.safetensors")
    assert front_matter(text).get("base_model") == base
    assert said in text
    assert "secret" not in text


HOSTILE = "```\n# heading\n<script>alert(1)</script> `a` ````` {{ 7 * 7 }} {% raw %}"


def test_hostile_names_and_templates_stay_in_their_code(run_of):
    template = Template(HOSTILE, (Segment(HOSTILE + "{instruction}"), Segment("{output}", supervised=True)))
    text = card(RunModel.open(run_of(prompt=template)), to="hf", dtype="fp32", file="model.safetensors")
    outside, fence = [], None
    for line in text.splitlines():
        if fence:
            fence = None if line == fence else fence
        elif line.startswith("```"):
            fence = line.rstrip("abcdefghijklmnopqrstuvwxyz")
        else:
            outside.append(line)
    assert fence is None
    assert "# heading" not in outside
    spans = "\n".join(outside).replace("`` ` ``", "")
    assert "{{ 7 * 7 }}" in text
    assert spans.count("<script>") == spans.count("`````` ``` # heading <script>")  # only inside the name's code span


def test_code_has_more_backticks_around_it_than_in_it():
    assert code("a") == "`a`"
    assert code("a`b``c") == "```a`b``c```"
    assert code("`a") == "`` `a ``"
    assert code("a\nb\x1b[31m") == "`a b [31m`"
    assert block("a````b") == "`````text\na````b\n`````"
