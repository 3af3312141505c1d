"""The card says what the run's files say, and nothing of theirs is ever markup."""

import json

import pytest
import yaml
from huggingface_hub import ModelCard

from ift.artifacts.model_folder import open_model_folder, save_model_folder
from ift.export.card import block, card, code
from ift.export.source import RunModel
from ift.model.families import read_config
from ift.model.gpt import GPT
from ift.run import write_json
from ift.text.chat_templates import ChatTemplate
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


# -- what the Hub reads ------------------------------------------------------------------------------------------------

SCORES = [
    {"task": "test split", "metric": "exact_match", "value": 0.41, "n": 110, "low": 0.3223, "high": 0.5037},
    {"task": "mmlu_anatomy", "metric": "acc", "value": 0.25, "n": 135, "low": None, "high": None, "prompt": "template"},
    {"task": HOSTILE, "metric": HOSTILE, "value": 1, "n": 3, "low": 0.4, "high": 1.0, "model": "base"},
    {"task": "lost", "metric": "acc", "value": None, "n": 0},
]


def test_the_hub_s_own_reader_finds_the_numbers(run_of):
    text = card(RunModel.open(run_of()), to="hf", dtype="fp32", file="x", scores=SCORES, license="apache-2.0")
    data = ModelCard(text, ignore_metadata_errors=False).data
    assert (data.license, data.library_name, data.base_model) == ("apache-2.0", "transformers", None)
    found = [(result.dataset_name, result.metric_type, result.metric_value) for result in data.eval_results]
    assert found[:2] == [("test split", "exact_match", 0.41), ("mmlu_anatomy", "acc", 0.25)]
    assert len(found) == 3
    assert data.eval_results[0].metric_name == "exact_match, 95 % interval 0.322 to 0.504, n = 110"
    assert data.eval_results[1].metric_name == "acc, n = 135"
    assert "| `test split` | `exact_match` | 0.410 | 0.322 to 0.504 | 110 |" in text
    assert "| `mmlu_anatomy (template)` | `acc` | 0.250 |  | 135 |" in text
    assert "| exact match | 0.5 |" not in text  # stands above, with its interval
    assert "The licence is `apache-2.0`" in text
    assert "licence of the data is not known" not in text  # no file was named


def test_a_card_names_its_data_without_their_places(run_of):
    run = run_of(rows_with={"input": 12, "system": 0, "history": 0})
    run.config.write_text(run.config.read_text().replace("demo_rows: 4000", "demo_rows: null"))
    report = json.loads(run.data_report.read_text())
    files = [
        {"file": "/home/me/secret/mine.json", "role": "all", "rows_in": 3000},
        {"file": "t/`x`|.csv", "role": "test"},
    ]
    write_json(run.data_report, {**report, "files": files, "leaks": {"test": 9}})
    write_json(run.summary, {"end_rate": 0.75, "clean_exact_match": 0.3})
    text = card(RunModel.open(run), to="hf", dtype="fp32", file="x")
    for line in (
        "* `mine.json: 3,000 rows`",
        "* `` `x`|.csv (test) ``",
        "licence of the data is not known to `ift`",
        "| rows with an input | 12 |",
        "| rows with a system message | 0 |",
        "No row had a system message: leave it out. No row had more than one turn.",
        "* 25.0% of its answers to test rows did not end by themselves.",
        "* 9 test rows have a near twin in training, which flatters the numbers; exact match without them is 0.300.",
        "* It learnt from 3,400 rows.",
    ):
        assert line in text, line
    assert "secret" not in text


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (
            "alpaca",
            'follows its instruction after `"\\n\\n### Input:\\n"`; transformers takes it beside the content too',
        ),
        ("alpaca_stanford", "a program whose messages have one text cannot write it"),
        (Template("t", (Segment("{instruction}\n"), Segment("{output}", supervised=True))), "no place for an input"),
        (
            ChatTemplate("c", source="{% for m in messages %}{{ m.content }}\n{% endfor %}", special=()),
            'an input follows its instruction after `"\\n\\n"`.',
        ),
    ],
)
def test_how_instruction_and_input_are_joined_stands_in_every_card(run_of, prompt, said):
    source = RunModel.open(run_of(prompt=prompt))
    assert said in card(source, to="hf", dtype="fp32", file="x")
    if "transformers" not in said:
        assert said in card(source, to="gguf", dtype="fp32", file="x")
    none = RunModel.open(run_of("without", prompt=prompt, rows_with={"input": 0}))
    text = card(none, to="hf", dtype="fp32", file="x")
    assert "No row of the training had an input beside its instruction." in text
    assert "and with one:" not in text


def test_a_data_set_of_the_hub_is_named_for_the_hub(run_of):
    run = run_of()
    run.config.write_text(run.config.read_text().replace("hub: null", "hub: tatsu-lab/alpaca"))
    write_json(run.data_report, {"files": [{"file": "tatsu-lab/alpaca", "role": "all", "rows_in": 52002}]})
    text = card(RunModel.open(run), to="hf", dtype="fp32", file="x")
    assert front_matter(text)["datasets"] == ["tatsu-lab/alpaca"]
    assert "* `tatsu-lab/alpaca: 52,002 rows`" in text


def test_a_card_names_the_class_of_another_family(run_of, small_tokenizer):
    run = run_of()
    source = {
        "model_type": "qwen2", "vocab_size": small_tokenizer.vocab_size, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    save_model_folder(run.model, GPT(read_config(source)), small_tokenizer, open_model_folder(run.model)[2])
    text = card(RunModel.open(run), to="hf", dtype="fp32", file="model.safetensors")
    assert front_matter(text)["tags"] == ["qwen2", "instruction-tuning"]
    assert "A `Qwen2ForCausalLM` of transformers, fine-tuned" in text
    assert "4 heads (2 of keys and values), 64 positions" in text
