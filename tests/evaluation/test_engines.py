"""The one form of results: numbers, samples, a place on the page; and what all evaluations get from it."""

import math
import os
import threading
from functools import partial
from importlib.util import find_spec

import pytest

from ift.errors import ConfigError, one_line
from ift.evaluation import engines
from ift.evaluation.engines import without_network
from ift.evaluation.results import Score, interval, read_results, show_scores, write_results
from ift.evaluation.subject import Subject
from ift.forms import RESULTS
from ift.model.config import GPTConfig
from ift.model.gpt import GPT
from ift.pages.report import write_report
from ift.run import RunFolder, read_json, write_json
from ift.settings import ENGINES, GenerateSettings
from tests.running import run as run_python
from tests.tiny_run import make_run

GREEDY = GenerateSettings(max_new_tokens=12, temperature=0.0, top_k=None, top_p=None, batch_size=4)


def results(**changes) -> dict:
    score = {"task": "mmlu", "metric": "acc", "value": 0.25, "low": 0.2, "high": 0.31, "n": 1200}
    return {"scores": [score | changes], "notes": ["The first 1,200 questions."], "versions": {"lm-eval": "0.4.13"}}


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder(tmp_path)


def keep(run: RunFolder, name: str, value) -> None:
    (run.evals / name).mkdir(parents=True)
    write_json(run.evals / name / "results.json", value)


@pytest.fixture(scope="module")
def subject(byte_tokenizer) -> Subject:
    import torch

    torch.manual_seed(3)
    config = GPTConfig(n_layer=1, n_head=2, n_embd=16, context_length=40, vocab_size=257, dropout=0.0, tie_weights=True)
    return Subject("tuned", GPT(config), byte_tokenizer, None)


def test_every_engine_that_can_be_chosen_has_a_module():
    assert set(engines.ENGINES) == set(ENGINES)
    assert all(find_spec(module) for module in engines.ENGINES.values())


LACKING = """
import sys
from ift.entry import composed
from ift.errors import IftError
from ift.evaluation.engines import check
from ift.settings import EvaluateSettings
for name in sys.argv[2:]:
    try:
        check(composed("evaluate", [f"run={sys.argv[1]}", f"eval={name}", "offline=true"], EvaluateSettings))
        print(name, "lacks nothing", sep=": ")
    except IftError as error:
        print(name, error, sep=": ")
assert "torch" not in sys.modules
"""


def test_what_each_evaluation_lacks_is_told_without_torch(tmp_path, settings_of):
    """Of a run that was trained from scratch, offline, with no setting given and nothing in the Hub's cache."""
    made, names = make_run(tmp_path / "run", settings_of), ("responses", "calibration", "judge", "mmlu", "forgetting")
    names += ("ifeval", "humaneval", "mt_bench", "alpaca_eval", "arena", "openai_evals", "helm")
    home = {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path), "HF_DATASETS_CACHE": str(tmp_path)}
    done = run_python("-c", LACKING, str(made.path), *names, cwd=tmp_path, **home)
    assert done.returncode == 0, done.stderr
    lacking = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert list(lacking) == list(names)
    assert lacking["responses"] == "lacks nothing"
    for name, what in (
        ("calibration", f"{made.test_rows}: no test rows"),
        ("judge", "judge.model: not set"),
        ("forgetting", f"eval.base=true: {made.path} was trained from scratch"),
        ("humaneval", "eval.allow_code_execution=false: "),
        ("mt_bench", "judge.model: not set"),
        ("arena", "eval=arena: nothing to rate"),
    ):
        assert lacking[name].startswith(what)
    if find_spec("lm_eval"):
        assert lacking["mmlu"].startswith("cais/mmlu: not on this machine (hf download")
        assert lacking["ifeval"].startswith("google/IFEval: not on this machine (hf download")


def test_a_score_says_its_interval_and_of_how_many():
    assert interval({"value": 0.25, "low": 0.2, "high": 0.31, "n": 1200}) == "0.250 (0.200 to 0.310), n = 1,200"
    assert interval({"value": 3.0, "low": None, "high": None, "n": 2}) == "3.000, n = 2"
    assert interval({"value": None, "low": None, "high": None, "n": 0}) == "–, n = 0"
    assert interval({"value": 1040.0, "low": 990.0, "high": None, "n": 3}) == "1040.000 (at least 990.000), n = 3"
    assert interval({"value": 1040.0, "low": None, "high": 1100.0, "n": 3}) == "1040.000 (at most 1100.000), n = 3"
    assert interval({"value": 0.5, "low": math.nan, "high": math.inf, "n": 1}) == "0.500, n = 1"


def test_keys_tell_model_and_prompt_apart():
    score = partial(Score, task="rte", metric="acc", value=0.5, n=9)
    keys = {score(model=m, prompt=p).key for m in ("tuned", "base") for p in ("raw", "template")}
    assert keys == {"rte/acc", "rte/acc/base", "rte/acc/template", "rte/acc/base/template"}


def test_what_was_found_is_on_the_page_with_its_notes_and_versions(run):
    keep(run, "mmlu", results())
    keep(run, "glue", results(task="<b>rte</b>", headline=False))
    write_report(run)
    page = run.report.read_text()
    assert "0.250 (0.200 to 0.310), n = 1,200" in page
    assert "The first 1,200 questions." in page
    assert "lm-eval 0.4.13" in page
    assert "its 1 parts" in page
    assert "<b>rte" not in page
    assert "&lt;b&gt;rte" in page


def test_judges_are_not_read_as_evaluations(run):
    keep(run, "judge-score-x", {"mean": 1})
    assert read_results(run) == ({}, [])


@pytest.mark.parametrize(
    "value",
    [
        *([], {}, {"scores": [{"task": "a"}], "notes": []}, results(value="x"), results(n=None), results(more=1)),
        *(results(value=10**400), {**results(), "notes": 1}, {**results(), "versions": []}),
        {**results(), "format": "x"},
    ],
)
def test_a_file_that_is_no_result_is_named_and_the_others_are_read(run, value):
    keep(run, "glue", results())
    keep(run, "mmlu", value)
    found, (problem,) = read_results(run)
    assert list(found) == ["glue"]
    assert problem.path == run.evals / "mmlu/results.json"
    assert one_line(str(problem)) == str(problem)
    assert str(problem).endswith(")")


def test_what_is_written_is_read_back(run):
    (run.evals / "mmlu").mkdir(parents=True)
    write_results(run.evals / "mmlu/results.json", results())
    found, problems = read_results(run)
    assert (found["mmlu"]["versions"], problems) == ({"lm-eval": "0.4.13"}, [])
    assert read_json(run.evals / "mmlu/results.json")["format"] == RESULTS.version


def test_results_of_a_later_release_are_one_line(run):
    keep(run, "mmlu", {"format": 99, "verdict": "in another form"})
    found, (problem,) = read_results(run)
    assert found == {}
    assert str(problem) == (
        f"{run.evals}/mmlu/results.json: version 99 of results.json, and this release reads up to version "
        f"{RESULTS.version} (install a newer ift)"
    )


def test_the_closing_lines_show_headlines_and_notes():
    lines = show_scores({**results(model="base", prompt="template", headline=True)})
    assert lines == [
        "mmlu (base template)         acc                  0.250 (0.200 to 0.310), n = 1,200",
        "note      The first 1,200 questions.",
    ]
    assert show_scores(results(model="tuned", prompt="raw", headline=False)) == ["note      The first 1,200 questions."]


def test_offline_reaches_the_hubs_libraries_and_goes_again(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with without_network(True):
        assert os.environ["HF_HUB_OFFLINE"] == os.environ["HF_DATASETS_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in os.environ


def test_no_thread_sees_an_environment_without_its_other_variables(monkeypatch):
    monkeypatch.setenv("IFT_TEST_OTHER", "here")
    before = dict(os.environ)
    seen, done = set(), threading.Event()

    def read():
        while not done.is_set():
            seen.add(os.environ.get("IFT_TEST_OTHER"))

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(2_000):
        with without_network(True):
            os.environ["IFT_TEST_ADDED"] = "stays"
    done.set()
    thread.join()
    assert seen == {"here"}
    assert os.environ.pop("IFT_TEST_ADDED") == "stays"
    assert dict(os.environ) == before


def test_a_text_is_cut_where_the_first_stop_string_begins_and_nothing_more_is_computed(subject):
    [whole] = subject.complete(["ab"], GREEDY)
    assert len(whole) >= 6
    stop = whole[3:5]  # two tokens, so it is found across their border
    [cut] = subject.complete(["ab"], GREEDY, stop=[stop])
    assert cut == whole[: whole.index(stop)]


def test_a_prompt_that_is_too_long_keeps_its_end_and_no_room_is_an_error(subject):
    long = "x" * 100 + "the end of it all, 28 bytes."
    assert subject.complete([long], GREEDY) == subject.complete([long[-28:]], GREEDY)
    assert subject.complete([""], GREEDY) == subject.complete([""], GREEDY)
    with pytest.raises(ConfigError, match="max_new_tokens=40: the model has 40 positions"):
        subject.complete(["a"], GenerateSettings(40, 0.0, None, None, 4))


def test_text_of_a_prompt_is_never_a_special_token(subject, monkeypatch):
    seen = []
    monkeypatch.setattr("ift.generation.engine.generate", lambda model, prompts, **_: seen.extend(prompts) or [])
    subject.complete(["a<|endoftext|>"], GREEDY)
    assert seen == [list(b"a<|endoftext|>")]
