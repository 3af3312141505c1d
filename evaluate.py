"""How good is a run's best model?

python evaluate.py run=RUN eval=responses      answer the whole test split and score it against the references
python evaluate.py run=RUN eval=judge judge.model=NAME      let another model judge the answers
python evaluate.py run=RUN eval=mmlu           a known evaluation; eval=all runs them all
python evaluate.py --help                      what there is to choose
"""

import sys

import hydra
from omegaconf import DictConfig

from ift import entry
from ift.data.rows import read_stored_rows
from ift.run import RunFolder, read_jsonl
from ift.settings import EvaluateSettings


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(config: DictConfig) -> None:
    with entry.job():
        evaluate(entry.settings_from(config, EvaluateSettings))


def evaluate(settings: EvaluateSettings) -> None:
    if settings.eval.engine == "all":
        entry.each_evaluation(settings.eval.tasks)
    elif settings.eval.engine == "judge":
        judge_answers(settings)
    elif settings.eval.engine == "responses":
        answer_test_split(settings)
    else:
        from ift.evaluation.benchmark import benchmark

        benchmark(settings)


def judge_answers(settings: EvaluateSettings) -> None:
    from ift.evaluation.answers import open_answers
    from ift.evaluation.judge import judge

    answers = open_answers(settings.run)
    results = judge(answers, settings.judge)
    if results and answers.run.report.exists():
        from ift.evaluation.report import write_report

        write_report(answers.run)
    if results and (answers.run.path / "wandb").is_dir():
        from ift.training.loggers import log_evaluation

        samples = read_jsonl(answers.run.evals / results["name"] / "samples.jsonl")
        log_evaluation(answers.run, results["name"], results, samples)


def answer_test_split(settings: EvaluateSettings) -> None:
    run = RunFolder.open(settings.run)
    rows = read_stored_rows(run.test_rows)

    from ift.evaluation.benchmark import Bench
    from ift.evaluation.finish import show_summary, write_responses
    from ift.evaluation.responses import Answerer
    from ift.training.loggers import log_evaluation

    tuned = Bench(run, settings).tuned
    assert tuned.template
    answer = Answerer(tuned.template, tuned.tokenizer, settings.eval.generate, seed=settings.seed)
    summary = write_responses(run, tuned.model, rows, answer)
    log_evaluation(run, "responses", summary, read_jsonl(run.responses))
    show_summary(run)


if __name__ == "__main__":
    sys.exit(entry.run(main, EvaluateSettings))
