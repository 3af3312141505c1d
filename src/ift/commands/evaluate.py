"""How good is a run's best model?

python evaluate.py run=RUN eval=responses      answer the whole test split and score it against the references
python evaluate.py run=RUN eval=score          score these answers again, without a model
python evaluate.py run=RUN eval=judge judge.model=NAME      let another model judge the answers
python evaluate.py run=RUN eval=mmlu           a known evaluation; eval=all runs them all
python evaluate.py --help                      what there is to choose
"""

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from ift import entry, stops
from ift.run import RunFolder, read_jsonl
from ift.settings import EvaluateSettings

KEPT = "type the command again: answers so far are kept"


@hydra.main(version_base="1.3", config_path=str(entry.CONF), config_name="evaluate")
def main(config: DictConfig) -> None:
    with entry.job():
        evaluate(entry.settings_from(config, EvaluateSettings))


def evaluate(settings: EvaluateSettings) -> None:
    """Each of these computes, prints, and publishes on the run's page and in W&B."""
    engine = settings.eval.engine
    if engine == "all":
        from ift.evaluation.engines import check

        entry.each_evaluation(settings.eval.tasks, check)
    elif engine == "responses":
        answer_test_split(settings)
    elif engine == "score":
        score_responses(settings)
    elif engine == "judge":
        judge_responses(settings)
    else:
        known_evaluation(settings)


def answer_test_split(settings: EvaluateSettings) -> None:
    from ift.data.reading.rows import read_stored_rows

    run = RunFolder.open(settings.run)
    rows = read_stored_rows(run.test_rows)

    from ift.evaluation.responses import Answerer, show_summary, write_responses
    from ift.evaluation.subject import Bench

    tuned = Bench(run, settings).tuned
    assert tuned.template
    answer = Answerer(tuned.template, tuned.tokenizer, settings.eval.generate, seed=settings.seed)
    with stops.deferred():  # between two batches
        summary = write_responses(run, tuned.model, rows, answer)
    publish(run, "responses", summary, run.responses)
    show_summary(run)


def score_responses(settings: EvaluateSettings) -> None:
    from ift.evaluation.answers import open_answers
    from ift.evaluation.results import numbers, show_scores
    from ift.evaluation.scoring import rescore_summary, score_answers

    answers = open_answers(settings.run)
    results = score_answers(answers, limit=settings.eval.limit)
    changed = [] if settings.eval.limit else rescore_summary(answers)
    samples = answers.run.evals / results["name"] / "samples.jsonl"
    print(*show_scores(results), *changed, f"look at   {samples}", sep="\n")
    publish(answers.run, results["name"], numbers(results), page=answers.run.report.exists())


def judge_responses(settings: EvaluateSettings) -> None:
    from ift.evaluation.answers import open_answers
    from ift.evaluation.judge.run import judge_answers

    answers = open_answers(settings.run)
    if results := judge_answers(answers, settings.judge):
        page = answers.run.report.exists()  # a file of answers from elsewhere has none
        publish(answers.run, results["name"], results, page=page)


def known_evaluation(settings: EvaluateSettings) -> None:
    from ift.evaluation.engines import run_engine
    from ift.evaluation.results import numbers, show_scores

    run = RunFolder.open(settings.run)
    # the harness looks between two batches, whose answers are on disk; the others end at once, and lose a few
    gently = stops.deferred(KEPT) if settings.eval.engine == "lm_eval" else nullcontext()
    with gently:
        results = run_engine(settings)
    if results:
        print(*show_scores(results), f"look at   {run.report}", sep="\n")
        publish(run, settings.eval.name, numbers(results))


def publish(
    run: RunFolder, name: str, values: Mapping[str, Any], samples: Path | None = None, *, page: bool = True
) -> None:
    """The numbers of an evaluation onto the run's page, and into the W&B run that training made."""
    from ift.pages.report import write_report
    from ift.training.weights_and_biases import log_evaluation

    if page:
        write_report(run)
    log_evaluation(run, name, values, read_jsonl(samples or run.evals / name / "samples.jsonl"))


def command() -> int:
    """The whole command, with the words of `sys.argv`. Returns the exit code."""
    return entry.run(main, EvaluateSettings)


if __name__ == "__main__":
    sys.exit(command())
