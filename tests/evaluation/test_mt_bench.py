"""MT-Bench against a scripted judge: what it is asked, how replies are read, the numbers by turn and category."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from ift.entry import settings_from
from ift.errors import LIMIT, ConfigError, DataError, MachineError
from ift.evaluation import mt_bench
from ift.evaluation.engines import open_bench
from ift.evaluation.judging import Request
from ift.evaluation.mt_bench import FOLDER, Prompt, Question, Rated, read_rating, requests_for, scores_of
from ift.run import read_json, read_jsonl
from ift.settings import EvaluateSettings
from tests.evaluation.judge.judge_server import JudgeServer
from tests.running import ROOT
from tests.tiny_run import make_run

CATEGORIES = ("writing", "math", "coding", "stem")


def lines(*values) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def write_files(root):
    """FastChat's three files in their form, with words of our own."""
    folder = root / FOLDER
    (folder / "mt_bench/reference_answer").mkdir(parents=True)
    questions = [
        {"question_id": 81 + i, "category": category, "turns": [f"First {category} {i}?", f"And then {i}?"]}
        for i, category in enumerate(CATEGORIES * 2)
    ]
    (folder / "mt_bench/question.jsonl").write_text(lines(*questions))
    references = [
        {
            "question_id": q["question_id"],
            "choices": [{"turns": [f"ref {q['question_id']}a", f"ref {q['question_id']}b"]}],
        }
        for q in questions
        if q["category"] in ("math", "coding")
    ]
    (folder / "mt_bench/reference_answer/gpt-4.jsonl").write_text(lines(*references))
    one, two = "Q {question} A {answer}", "Q1 {question_1} A1 {answer_1} Q2 {question_2} A2 {answer_2}"
    prompts = {
        "pair-v2": "{answer_a} {answer_b}",
        "single-v1": one,
        "single-math-v1": f"{one} R {{ref_answer_1}}",
        "single-v1-multi-turn": two,
        "single-math-v1-multi-turn": f"R1 {{ref_answer_1}} R2 {{ref_answer_2}} {two}",
    }
    judges = [{"name": n, "system_prompt": f"system of {n}", "prompt_template": t} for n, t in prompts.items()]
    (folder / "judge_prompts.jsonl").write_text(lines(*judges))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("mirror"))


@pytest.fixture
def made(tmp_path, settings_of):
    return make_run(tmp_path / "run", settings_of)


@pytest.fixture
def settings(made, root):
    def settings(*overrides: str) -> EvaluateSettings:
        words = [f"run={made.path}", "eval=mt_bench", "accelerator=cpu", f"data_root={root}", "judge.model=scripted"]
        words += ["eval.generate.max_new_tokens=6", "judge.retries=0", *overrides]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return settings_from(compose("evaluate", words), EvaluateSettings)

    return settings


def by_category(body) -> str:
    """Writing 8, math 2, coding 5, stem 6.5; the second turn one less."""
    text = body["messages"][-1]["content"]
    category = re.findall(r"First (\w+) \d", text)[0]
    rating = {"writing": 8, "math": 2, "coding": 5, "stem": 6.5}[category] - ("And then" in text)
    return f"So so. Rating: [[{rating}]]"


def ask(settings: EvaluateSettings, server: JudgeServer):
    judge = replace(settings.judge, server="openai", base_url=f"{server.url}/v1")
    return mt_bench.evaluate(open_bench(replace(settings, judge=judge)))


def test_the_score_is_the_mean_over_questions_by_turn_and_category(settings, made):
    with JudgeServer(by_category) as server:
        outcome = ask(settings(), server)
    found = {(score.task, score.metric): score for score in outcome.scores}
    assert {key: score.value for key, score in found.items()} == {
        ("mt_bench", "score"): np.mean([7.5, 1.5, 4.5, 6.0]),
        ("mt_bench", "turn_1"): np.mean([8, 2, 5, 6.5]),
        ("mt_bench", "turn_2"): np.mean([7, 1, 4, 5.5]),
        ("mt_bench_writing", "score"): 7.5,
        ("mt_bench_math", "score"): 1.5,
        ("mt_bench_coding", "score"): 4.5,
        ("mt_bench_stem", "score"): 6.0,
    }
    whole = found["mt_bench", "score"]
    assert (whole.n, whole.prompt, whole.headline) == (8, "template", True)
    assert 1 <= whole.low < whole.value < whole.high <= 10
    assert not found["mt_bench_math", "score"].headline
    samples = list(outcome.samples)
    assert [line["category"] for line in samples] == list(CATEGORIES * 2)
    first = samples[1]
    assert first["metrics"] == {"score": 1.5, "turn_1": 2.0, "turn_2": 1.0}
    assert [turn["reason"] for turn in first["turns"]] == ["So so. Rating: [[2]]", "So so. Rating: [[1]]"]
    assert [turn["question"] for turn in first["turns"]] == ["First math 1?", "And then 1?"]
    assert len(server.bodies) == 16
    assert any("Ratings by scripted" in note for note in outcome.notes)


def test_the_judge_is_asked_with_the_published_prompts_and_the_whole_conversation(settings):
    with JudgeServer(by_category) as server:
        outcome = ask(settings(), server)
    asked = {body["messages"][1]["content"]: body for body in server.bodies}
    writing, math = list(outcome.samples)[:2]
    a1, a2 = (turn["answer"] for turn in writing["turns"])
    single = asked[f"Q First writing 0? A {a1}"]
    assert single["messages"][0] == {"role": "system", "content": "system of single-v1"}
    assert (single["temperature"], single["max_tokens"]) == (0.0, 2048)
    assert f"Q1 First writing 0? A1 {a1} Q2 And then 0? A2 {a2}" in asked
    a1, a2 = (turn["answer"] for turn in math["turns"])
    assert f"Q First math 1? A {a1} R ref 82a" in asked
    assert f"R1 ref 82a R2 ref 82b Q1 First math 1? A1 {a1} Q2 And then 1? A2 {a2}" in asked


def test_the_second_question_comes_after_the_first_answer_and_categories_have_their_temperatures(settings, monkeypatch):
    seen = []

    def respond(model, rows, template, tokenizer, generate, *, seed=0, **more):
        seen.extend((row.instruction, row.history, generate.temperature) for row in rows)
        return [{"response": f"answer to {row.instruction}"} for row in rows]

    monkeypatch.setattr("ift.evaluation.responses.respond", respond)
    with JudgeServer(by_category) as server:
        ask(settings(), server)
    assert ("First math 1?", (), 0.0) in seen
    assert ("And then 1?", (("First math 1?", "answer to First math 1?"),), 0.0) in seen
    assert ("First writing 0?", (), 0.7) in seen
    assert ("First stem 3?", (), 0.1) in seen
    assert len(seen) == 16


def test_nothing_is_generated_or_paid_for_twice(settings, made, monkeypatch):
    with JudgeServer(by_category) as server:
        first = ask(settings(), server)
        monkeypatch.setattr("ift.evaluation.responses.respond", lambda *_, **__: pytest.fail("generated again"))
        again = ask(settings(), server)
    assert len(server.bodies) == 16
    assert again.scores == first.scores
    assert list(again.samples) == list(first.samples)


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("Good. Rating: [[7]]", 7.0),
        ("[[10]]", 10.0),
        ("Rating: [[7.5]]", 7.5),
        ("Rating: [6]", 6.0),
        ("[[5]] in short: [[5]]", 5.0),
        ("[[5]] for style, [[9]] for facts", None),
        ("Rating: [[11]]", None),
        ("Rating: [[0]]", None),
        ("Rating: 7", None),
        ("[[rating]]", None),
        ("", None),
    ],
)
def test_ratings_as_judges_write_them(reply, rating):
    assert read_rating(reply) == rating


def test_a_reply_without_a_rating_is_asked_for_again_once_and_then_counts_nowhere(settings):
    def reply(body):
        last = body["messages"][-1]["content"]
        if "First math" in body["messages"][1]["content"]:
            return "I will not say."
        return "[[4]]" if last == mt_bench.AGAIN else "Fine work."

    with JudgeServer(reply) as server:
        outcome = ask(settings("eval.turns=1", "eval.limit=4"), server)
    assert len(server.bodies) == 8
    found = {(score.task, score.metric): score for score in outcome.scores}
    assert ("mt_bench", "turn_1") not in found  # with one turn it is the score
    assert (found["mt_bench", "score"].value, found["mt_bench", "score"].n) == (4.0, 3)
    assert "1 of 4 answers have no rating that could be read, and count nowhere." in outcome.notes
    assert "The first turn of each question only: not the published score, which is of both." in outcome.notes
    assert "The first 4 of 8 questions." in outcome.notes
    [math] = [line for line in outcome.samples if line["category"] == "math"]
    assert math["metrics"] == {"score": None}
    assert math["turns"][0]["reason"] == "I will not say.\n\nI will not say."


def test_braces_in_an_answer_are_text():
    prompts = {name: Prompt("s", "{question}|{answer}") for name in ("single-v1", "single-v1-multi-turn")}
    [request] = requests_for(Question(1, "stem", ("Q {answer}",), ()), ["A {question} {x}"], prompts)
    assert request == Request((("system", "s"), ("user", "Q {answer}|A {question} {x}")))


def test_a_question_is_one_unit_however_many_of_its_turns_were_rated():
    questions = [Question(i, "stem", ("a", "b"), ()) for i in range(3)]
    rated = [[Rated(2.0, ""), Rated(4.0, "")], [Rated(None, ""), Rated(5.0, "")], [Rated(None, ""), Rated(None, "")]]
    whole, first, second, stem = scores_of(questions, rated)
    assert (whole.value, whole.n) == (4.0, 2)
    assert (first.value, first.n) == (2.0, 1)
    assert (second.value, second.n) == (4.5, 2)
    assert (stem.task, stem.value) == ("mt_bench_stem", 4.0)


def test_what_is_missing_is_told_before_anything_is_loaded(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("ift.evaluation.subject.Bench.tuned", property(lambda bench: pytest.fail("loaded")))
    for words, error, message in (
        (["judge.model=null"], ConfigError, r"judge\.model: not set"),
        (["data_root=null"], ConfigError, r"data_root: not set; MT-Bench reads FastChat's files \(git clone --depth 1"),
        ([f"data_root={tmp_path}"], DataError, r"question\.jsonl|gpt-4\.jsonl: no such file \(git clone"),
        (["eval.prompts=[raw]"], ConfigError, "a second question needs the model's template"),
        (["judge.limit=3"], ConfigError, r"judge\.limit: means nothing"),
        (["eval.base=true"], ConfigError, "a base model has no prompt template"),
    ):
        with pytest.raises(error, match=message) as caught:
            mt_bench.evaluate(open_bench(settings(*words)))
        assert len(str(caught.value)) < LIMIT


def test_a_line_of_another_form_is_named(settings, tmp_path):
    path = write_files(tmp_path / "m") / FOLDER / "mt_bench/question.jsonl"
    path.write_text(path.read_text() + '{"question_id": 9}\n')
    with pytest.raises(DataError, match=r"question\.jsonl:9: not a line of FastChat's file: KeyError"):
        mt_bench.check(settings(f"data_root={tmp_path / 'm'}"))


def test_a_dry_run_shows_the_plan_and_generates_nothing(settings, monkeypatch, capsys):
    monkeypatch.setattr("ift.evaluation.subject.Bench.tuned", property(lambda bench: pytest.fail("loaded")))
    with JudgeServer(by_category) as server:
        assert ask(settings("judge.dry_run=true"), server) is None
    assert server.bodies == []
    assert "requests: 16" in capsys.readouterr().out


def test_replies_that_stay_away_are_an_error_and_the_others_are_kept(settings):
    with (
        JudgeServer(by_category, fault=lambda digest, attempt: "500" if digest[0] in "01234567" else None) as server,
        pytest.raises(MachineError, match=r"got no reply.*the same command goes on"),
    ):
        ask(settings(), server)


def test_a_judge_that_rates_nothing_is_an_error_with_the_likeliest_cure(settings):
    with (
        JudgeServer(lambda body: "What a fine answer.") as server,
        pytest.raises(MachineError, match=r"judge: no reply holds a rating \(.+\)"),
    ):
        ask(settings("eval.limit=2"), server)


def test_from_the_command_line(made, root, warm):
    with JudgeServer(by_category) as server:
        done = warm.run(
            *("evaluate.py", f"run={made.path}", "eval=mt_bench", f"data_root={root}", "accelerator=cpu"),
            *("judge.server=openai", f"judge.base_url={server.url}/v1", "judge.model=scripted"),
            *("eval.generate.max_new_tokens=4", "eval.limit=4"),
        )
    assert done.returncode == 0, done.stderr
    assert "4.875" in done.stdout
    assert read_json(made.evals / "mt_bench/results.json")["judge"]["model"] == "scripted"
    assert len(read_jsonl(made.evals / "mt_bench/samples.jsonl")) == 4
    assert 'id="mt_bench"' in made.report.read_text()
