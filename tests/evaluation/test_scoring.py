"""Scores are what one counts by hand; their intervals cover; eval=score is a command that needs no model."""

import json
import random

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF
from torchmetrics.text.rouge import ROUGEScore

from ift.evaluation.answers import open_answers, read_answers
from ift.evaluation.ngrams import bleu, chrf, counted
from ift.evaluation.questions import read_questions
from ift.evaluation.results import Score, read_results
from ift.evaluation.scoring import (
    SCORING,
    notes,
    of_sums,
    repetition,
    rescore_summary,
    score,
    score_answers,
    scores_of_run,
    with_scores,
)
from ift.run import RunFolder, read_json, read_jsonl, write_json, write_jsonl
from tests.running import ROOT

EVALUATE = str(ROOT / "evaluate.py")


def of(response: str, reference: str, stop_reason: str = "end", tokens: int = 1, **more) -> dict:
    return {"response": response, "reference": reference, "stop_reason": stop_reason, "response_tokens": tokens, **more}


def test_an_exact_match_is_one_but_for_white_space_at_the_ends():
    scores = score([of("Paris", "Paris"), of(" Paris\n", "Paris"), of("paris", "Paris"), of("Paris.", "Paris")])
    assert scores["exact_match"] == 0.5
    assert scores["responses"] == scores["scored"] == 4


def test_rouge_l_is_the_longest_common_subsequence():
    """the cat ... sat: 3 of 3 words said, 3 of 6 wanted: 2 * 1 * 0.5 / 1.5; the other row has none in common."""
    scores = score([of("the cat sat", "the cat on the mat sat"), of("no", "yes")])
    assert scores["rouge_l"] == pytest.approx((2 / 3 + 0) / 2)


def test_scores_are_those_of_torchmetrics_and_sacrebleu():
    pairs = [
        ("The capital of France is Paris.", "Paris is the capital of France."),
        ("There were 7 apples left on the table", "7 apples were left on the table"),
        ("", "something"),
        ("A quiet river runs through the old town.", "A quiet river runs through the old town."),
    ]
    rouge = ROUGEScore(rouge_keys="rougeL")
    for said, wanted in pairs:
        rouge.update(said, wanted)
    said, wanted = zip(*pairs, strict=True)
    scores = score([of(*pair) for pair in pairs])
    assert scores["rouge_l"] == pytest.approx(rouge.compute()["rougeL_fmeasure"].item())
    assert scores["bleu"] == pytest.approx(BLEU().corpus_score(said, [wanted]).score / 100)
    assert scores["chrf"] == pytest.approx(CHRF().corpus_score(said, [wanted]).score / 100)
    assert all(0.2 < scores[name] < 0.8 for name in ("rouge_l", "bleu", "chrf"))


def test_right_answers_in_any_script_are_right():
    right = ["法国的首都是巴黎。", "Столица — Париж.", "पेरिस", "باريس هي العاصمة", "กรุงเทพ", "x -= 1", "42", "👍"]
    scores = score([of(text, text) for text in right])
    assert [scores[name] for name in ("exact_match", "rouge_l", "chrf", "bleu")] == pytest.approx([1, 1, 1, 1])


def test_scores_say_how_responses_end_and_how_long_they_are():
    scores = score([of("a", "b", "end", 3), of("a", "b", "length", 5), of("a", "b", "context", 1), of("a", "b")])
    assert scores["end_rate"] == 0.5
    assert scores["response_tokens"] == 2.5
    assert score([of("a", "b", "", None)])["end_rate"] is None


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("a b c d a b c d", 1 / 5),  # abcd bcda cdab dabc abcd
        ("a a a a a", 1 / 2),  # aaaa aaaa
        ("a b c d e", 0.0),
        ("a a a", 0.0),  # too short for a 4-gram
        ("", 0.0),
        ("好好好好好", 1 / 2),
    ],
)
def test_repetition_is_the_share_of_four_grams_that_came_before(text, share):
    assert repetition(text) == pytest.approx(share)
    assert score([of(text, "x"), of("", "x")])["repetition_rate"] == pytest.approx(share / 2)


def test_rows_without_a_reference_are_in_no_score():
    assert score([]) == {}
    none = score([of("a", ""), of("", " ")])
    assert (none["responses"], none["scored"]) == (2, 0)
    assert [none[name] for name in ("exact_match", "rouge_l", "chrf", "bleu")] == [None] * 4
    nothing = "No answer has a reference: there is nothing to score against (ift review, or eval=judge)."
    assert none["score_notes"] == nothing
    some = score([of("a", ""), of("b", "b")])
    assert (some["exact_match"], some["scored"]) == (1.0, 1)
    assert some["score_notes"].startswith("1 of 2 answers have no reference and are in no score. ")


def test_notes_say_where_a_score_means_little():
    def said(*references):
        return [note.split(" here")[0] for note in notes([("x", r) for r in references], len(references))]

    assert said("yes", "no", "a river runs through it") == [
        "ROUGE-L says little",
        "BLEU says little",
    ]
    assert said("a river runs through it", "the old town is quiet") == []
    assert said(" ".join(["word"] * 30)) == ["Exact match says little"]
    assert said("法国的首都是巴黎", "a river runs through it") == [
        "1 of 2 references are in a script without spaces: ROUGE-L and BLEU count its characters."
    ]


# -- intervals --------------------------------------------------------------------------------------------------------


def test_intervals_of_scores_stay_between_0_and_1():
    """3 of 12: Wilson's 95 % interval is 0.089 to 0.532."""
    rows = [of(f"the answer is {i}", f"the answer is {i if i < 3 else 99}") for i in range(12)]
    few, more = score(rows), score(rows * 3)
    assert (few["exact_match_low"], few["exact_match_high"]) == pytest.approx((0.0889, 0.5323), abs=1e-4)
    assert not {"chrf_low", "bleu_low"} & set(few)  # of so few
    for name in ("exact_match", "rouge_l", "chrf", "bleu"):
        assert 0 <= more[f"{name}_low"] < more[name] < more[f"{name}_high"] <= 1
    assert few["end_rate_low"] < few["end_rate"] == 1


@pytest.mark.parametrize("right", [0.0, 0.5, 0.9])
def test_the_interval_of_a_score_of_sums_covers_what_many_rows_have(right):
    """Rows drawn from 800, a share of them exactly right: the 95 % interval holds the chrF and BLEU of all 800."""
    rng = random.Random(1)
    some = "a quiet old river runs slowly through the small town and then it meets the sea".split()
    pairs = []
    for _ in range(800):
        reference = rng.sample(some, rng.choice([1, 1, 2, 3, 5, 8, 14]))
        kept = 1 if rng.random() < right else rng.random()
        response = [word if rng.random() < kept else rng.choice(some) for word in reference]
        pairs.append((" ".join(response), " ".join(reference)))
    draw = np.random.default_rng(2)
    for measure, counts in zip((bleu, chrf), counted(pairs), strict=True):
        truth = float(measure(counts.sum(axis=0)))
        for n in (30, 100):
            found = [of_sums(measure, counts[draw.integers(0, 800, n)])[1] for _ in range(300)]
            intervals = [interval for interval in found if interval]
            held = sum(low <= truth <= high for low, high in intervals)
            assert held >= 0.9 * len(intervals), (measure, n)
            assert all(0 < low < high < 1 for low, high in intervals)
        assert of_sums(measure, counts[:29])[1] is None  # too few
        assert of_sums(measure, np.repeat(counts[:1], 50, axis=0))[1] is None  # equal rows say nothing of others


# -- the same answers again -------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """A run with 14 answers of two categories, two of them to rows with a twin in training, one without reference."""
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    rows = [
        {
            "instruction": f"add {i}",
            "input": "",
            "reference": f"the sum is {i}" if i < 13 else "",
            "response": f"the sum is {i % 5}",
            "stop_reason": "end",
            "prompt_tokens": 3,
            "response_tokens": 4,
            "file": "f.json",
            "row": i,
            "category": "<b>sum</b>" if i % 2 else "other",
        }
        for i in range(14)
    ]
    write_jsonl(run.responses, rows)
    write_jsonl(run.leaks, [{"file": "f.json", "row": 0}, {"file": "f.json", "row": 7}])
    return run


def test_answers_are_scored_by_category_and_without_near_twins(run):
    results = score_answers(open_answers(run.path))
    found = {(s["task"], s["metric"]): s for s in results["scores"]}
    assert {task: found[task, "exact_match"]["n"] for task, _ in found} == {
        "responses": 13,
        "without near twins": 11,
        "category other": 7,
        "category <b>sum</b>": 6,
    }
    whole = found["responses", "exact_match"]
    assert (whole["value"], whole["headline"]) == (pytest.approx(5 / 13), True)  # 0 to 4
    assert found["without near twins", "exact_match"]["value"] == pytest.approx(4 / 11)
    assert found["category other", "exact_match"]["value"] == pytest.approx(3 / 7)  # 0 2 4 of 0 2 4 6 8 10 12
    assert not found["category other", "bleu"]["headline"]
    summary = score(read_jsonl(run.responses))
    for name in ("exact_match", "rouge_l", "chrf", "bleu"):
        scores = found["responses", name]
        assert scores["value"] == summary[name]
        assert (scores["low"], scores["high"]) == (summary.get(f"{name}_low"), summary.get(f"{name}_high"))
    assert results["versions"]["BLEU"] == SCORING["bleu"]
    assert results["notes"][0] == "1 of 14 answers have no reference and are in no score."
    samples = read_jsonl(run.evals / "score/samples.jsonl")
    assert [s["metrics"].get("exact_match") for s in samples] == [1.0] * 5 + [0.0] * 8 + [None]
    assert samples[5]["metrics"]["rouge_l"] == 3 / 4  # the sum is 0 for the sum is 5
    assert samples[3]["key"] == read_answers(run.responses)[3].key
    kept, problems = read_results(run)
    assert (list(kept), problems) == (["score"], [])
    questions, problems = read_questions(run.evals / "score", [Score(**whole)])  # so that runs can be compared in pairs
    assert (len(questions["responses/exact_match/template"]), problems) == (13, [])
    assert score_answers(open_answers(run.path), limit=5)["scores"][0]["n"] == 5


def test_a_summary_of_an_earlier_way_of_counting_is_brought_up_to_date_and_keeps_what_it_said(run):
    answers = open_answers(run.path)
    assert rescore_summary(answers) == []  # there is none
    earlier = {"status": "finished", "responses": 14, "exact_match": 5 / 14, "rouge_l": 0.5, "bleu": 0.0}
    write_json(run.summary, earlier)
    [line] = rescore_summary(answers)
    assert "exact match was 0.357 and is 0.385, ROUGE-L was 0.500" in line
    summary = read_json(run.summary)
    kept = {"earlier_exact_match": 5 / 14, "earlier_rouge_l": 0.5, "earlier_bleu": 0.0}
    assert not [value for value in summary.values() if isinstance(value, dict | list)]  # one flat object
    new = scores_of_run(run, read_jsonl(run.responses))
    assert summary == {"status": "finished", **new, **kept}
    assert summary["clean_exact_match"] == pytest.approx(4 / 11)
    assert rescore_summary(answers) == []
    fewer = with_scores({**summary, "clean_test_loss": 2.0}, score([of("a", "a")]))  # nothing of the others stays
    assert [key for key in fewer if key.startswith("clean_")] == ["clean_test_loss"]
    assert not [key for key in fewer if key.startswith("earlier_")]
    for other in ({"responses": 15}, {"exact_match": 0.9}):  # of other answers
        write_json(run.summary, {**earlier, **other})
        assert "keeps its scores" in rescore_summary(answers)[0]
        assert read_json(run.summary) == {**earlier, **other}


def test_the_command_needs_neither_a_model_nor_torch(run, tmp_path, warm_without_torch):
    command = (EVALUATE, f"run={run.path}", "eval=score")
    done = warm_without_torch.run(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:4] == ["responses", "(template)", "exact_match", "0.385"]
    assert "note      1 of 14 answers have no reference and are in no score." in lines
    assert lines[-1] == f"look at   {run.evals / 'score/samples.jsonl'}"
    assert [s["metric"] for s in read_json(run.evals / "score/results.json")["scores"][:4]] == [
        "exact_match",
        "rouge_l",
        "chrf",
        "bleu",
    ]


def test_the_command_scores_a_file_from_elsewhere(tmp_path, warm_without_torch):
    rows = [{"instruction": "capital?", "output": "巴黎", "model_response": answer} for answer in ("巴黎", "巴里")]
    (tmp_path / "other.json").write_text(json.dumps(rows), encoding="utf-8")
    done = warm_without_torch.run(EVALUATE, "run=other.json", "eval=score", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [exact, rouge, *_] = read_json(tmp_path / "other.ift/evals/score/results.json")["scores"]
    assert (exact["value"], rouge["value"]) == (0.5, 0.75)
    assert not (tmp_path / "other.ift/report.html").exists()
    done = warm_without_torch.run(EVALUATE, "run=nowhere", "eval=score", cwd=tmp_path)
    assert done.returncode == 2
    assert (
        done.stderr
        == "ift: error: nowhere: no such run folder or file of answers (give the output_dir of a training run)\n"
    )
    done = warm_without_torch.run(EVALUATE, "run=other.json", "eval=score", "eval.limit=0", cwd=tmp_path)
    assert done.returncode == 2
