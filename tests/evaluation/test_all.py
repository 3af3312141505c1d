"""eval=all: one evaluation after the other, each in a process of its own; one that fails leaves the others alone."""

import pytest

from tests.evaluation.harness.mirrors import write_mirror
from tests.running import ROOT, run
from tests.tiny_run import make_run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, settings_of):
    return make_run(tmp_path_factory.mktemp("all") / "run", settings_of)


def test_one_that_fails_is_told_of_and_the_others_are_done(tiny, tmp_path):
    mirror = write_mirror(tmp_path / "mirror", ["mandarjoshi/trivia_qa"], rows=3)
    result = run(
        *(str(ROOT / "evaluate.py"), f"run={tiny.path}", "eval=all", "eval.tasks=[humaneval,nothing,triviaqa]"),
        *("offline=true", f"data_root={mirror}", "eval.limit=2", "eval.generate.max_new_tokens=3"),
    )
    assert result.returncode == 5, result.stderr
    assert "1 of 3 evaluations done" in result.stdout
    before, _, after = result.stdout.partition("[1/1] eval=triviaqa")
    for part in (before, after):  # at once, and at the end again
        assert (
            "missing   humaneval: eval.allow_code_execution=false: HumanEval runs programs that the model writes "
            "(eval.allow_code_execution=true runs them in a sandbox)\n" in part
        )
        assert "missing   nothing: eval=nothing: no such choice (there is " in part
    assert "1 of 3 evaluations can run" in before
    assert result.stderr.splitlines()[-1].startswith("ift: error: eval=all: 2 of 3 not done: humaneval, nothing")
    assert [folder.name for folder in tiny.evals.iterdir()] == ["triviaqa"]
    page = tiny.report.read_text()
    assert 'id="triviaqa"' in page
    assert "n = 2" in page
