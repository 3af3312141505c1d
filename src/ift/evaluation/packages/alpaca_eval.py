"""AlpacaEval: how often a judge prefers our answer to a baseline's, by the alpaca-eval package.

The package works in a process of its own (alpaca_eval_child.py), since it would write beside itself and read keys. Here
our model answers the instructions and the judge is asked; answers.jsonl and verdicts.jsonl in the evaluation's folder
keep both.

Dubois et al. 2024, "Length-Controlled AlpacaEval". Its judge, gpt-4-1106-preview, is no longer served, so
win rates can be compared only with others by the same judge.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ift.data.reading.rows import Row
from ift.data.reading.values import kind_of
from ift.errors import ConfigError, DataError, MachineError, missing_extra, one_line
from ift.evaluation.answers import open_answers
from ift.evaluation.journal import Journal
from ift.evaluation.judging import JudgeClient, Reply, ReplyOptions, Request
from ift.evaluation.packages.child import run_child
from ift.evaluation.recorded import Question, RecordedModel, note_unfit
from ift.evaluation.results import Outcome, Score, package_versions
from ift.evaluation.statistics import UNIT, Scale, length_adjusted_win_rate, mean_interval, normal_interval
from ift.evaluation.subject import Bench, Subject
from ift.run import read_json
from ift.settings import EvaluateSettings, JudgeSettings

REPOSITORY = "tatsu-lab/alpaca_eval"
BASELINE, GAMED = "alpaca_eval_gpt4_baseline.json", "df_gamed.csv"
OFFICIAL = 805  # instructions
PROBE = Request((("user", "Answer with one letter, m or M, and nothing else."),))
# as the package asks: five first tokens; a temperature of 1, since some servers divide the log probabilities by it
WITH_LOGPROBS = ReplyOptions(max_tokens=1, temperature=1.0, logprobs=5)
# what would be a turn, or another answer's place, in the package's prompt: a space inside makes it ordinary text
MARKS = {"<|im_start|>": "<|im_start |>", "<|im_end|>": "<|im_end |>"}
MARKS |= {f"{{{name}}}": f"{{ {name}}}" for name in ("instruction", "output_1", "output_2")}


@dataclass(frozen=True)
class Baseline:
    """Instructions, and the answers that ours are compared with."""

    name: str
    rows: Sequence[Row]  # output is the baseline's answer
    content: str  # hash of the file
    gamed: Path | None  # the table that makes a length-controlled win rate, where that is valid
    why_not: str = ""  # length-controlled

    @property
    def instructions(self) -> list[str]:
        return ["\n\n".join(filter(None, (row.instruction, row.input))) for row in self.rows]


def check(settings: EvaluateSettings) -> None:
    """Raises MachineError without the package or its instructions, ConfigError for a judge that it cannot use."""
    if importlib.util.find_spec("alpaca_eval") is None:
        raise missing_extra("alpaca-eval", "alpaca")
    check_judge(settings.judge)
    if not settings.eval.against and (settings.data_root or settings.offline):
        hub_file(settings, BASELINE)


def evaluate(bench: Bench) -> Outcome | None:
    """Raises ConfigError, DataError and MachineError; answers and verdicts that came before an error are kept."""
    check(bench.settings)
    settings = bench.settings.judge
    baseline = read_baseline(bench)
    with bench.open_judge(bench.folder, settings, over_openai=True) as judge:  # an error now, not after hours
        if settings.dry_run:
            print(_plan(bench, baseline, judge))
            return None
        reading = _how_to_read(judge, settings)
        answered, unfit = _answer(bench, baseline)
        compared = _compare(bench, baseline, answered, judge, reading)
        if all(each["preference"] is None for ours in compared for each in ours["annotations"]):
            raise MachineError(f"judge: none of its verdicts could be read ({judge.cure})")
        about = judge.describe(reading.options)
        about |= {"judged_by": reading.by, "parser": reading.parser, "baseline": baseline.name}
        about |= {"refused": judge.refused}
    scores, samples = [], []
    for (subject, prompt, outputs), ours in zip(answered, compared, strict=True):
        scores += _scores(baseline, outputs, ours, model=subject.label, prompt=prompt)
        samples += _samples(baseline, outputs, ours["annotations"], model=subject.label, prompt=prompt)
    return Outcome(
        scores=scores,
        samples=samples,
        versions=package_versions("alpaca-eval", "scikit-learn", "openai")
        | {"baseline": f"{baseline.name} {baseline.content}", "template": _template(bench)},
        notes=[*_notes(bench, baseline, samples, settings, reading), *unfit],
        about=about,
    )


def check_judge(settings: JudgeSettings) -> None:
    """Raises ConfigError for a judge that this evaluation cannot use."""
    if settings.server == "replay":
        raise ConfigError("judge.server=replay: AlpacaEval asks a server (judge.server=openai; replies are kept)")
    if not settings.model:
        raise ConfigError("judge.model: not set (add judge.model=NAME, the judge's name on its server)")
    if settings.limit is not None:
        raise ConfigError("judge.limit: means nothing to eval=alpaca_eval (eval.limit=N)")


# -- the baseline ----------------------------------------------------------------------------------------------------


def read_baseline(bench: Bench) -> Baseline:
    """AlpacaEval's own instructions and answers, or those of eval.against. Raises DataError naming file and row."""
    limit, against = bench.settings.eval.limit, bench.settings.eval.against
    if len(against) > 1:
        raise ConfigError("eval.against: AlpacaEval compares with one run or file of answers (eval.against=[RUN])")
    reference = against[0] if against else None
    if reference:
        answers = open_answers(reference)
        rows = [
            Row(a.instruction, a.input, a.response, file=a.file or answers.name, number=a.row or number)
            for number, a in enumerate(answers.rows, start=1)
        ][:limit]
        if not rows:
            raise DataError(f"{reference}: no answers to compare with")
        content = hashlib.sha256("\0".join(row.prompt + row.output for row in rows).encode()).hexdigest()[:12]
        return Baseline(answers.name, rows, content, None, "it is defined on AlpacaEval's own instructions alone")
    path = hub_file(bench.settings, BASELINE)
    try:
        records = read_json(path)
        if not isinstance(records, list) or not records:
            raise DataError(f"{path}: {kind_of(records)}, not a list of instruction, output, generator")
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read: {one_line(str(error), 60)}") from error
    rows = [_row(record, path, number) for number, record in enumerate(records, start=1)]
    name = str(records[0].get("generator", "baseline"))
    content = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    if len(rows[:limit]) != OFFICIAL:
        why = f"it goes by the places of all {OFFICIAL} instructions, and {len(rows[:limit])} were asked"
        return Baseline(name, rows[:limit], content, None, why)
    try:
        return Baseline(name, rows, content, hub_file(bench.settings, GAMED))
    except MachineError as error:
        return Baseline(name, rows, content, None, str(error))


def _row(record: Any, path: Path, number: int) -> Row:
    if not isinstance(record, dict):
        raise DataError(f"{path}:{number}: {kind_of(record)}, not an object with instruction and output")
    for key in ("instruction", "output"):
        if not isinstance(record.get(key), str):
            raise DataError(f'{path}:{number}: "{key}" is {kind_of(record.get(key))}, not text')
    clean = {key: record[key].encode("utf-8", "replace").decode() for key in ("instruction", "output")}
    return Row(clean["instruction"], "", clean["output"], file=path.name, number=number)


def hub_file(settings: EvaluateSettings, name: str) -> Path:
    """data_root/tatsu-lab/alpaca_eval/NAME, or the Hub's. Raises MachineError where it cannot be had."""
    data_root = Path(settings.data_root).absolute() if settings.data_root else None
    if data_root and (data_root / REPOSITORY / name).is_file():
        return data_root / REPOSITORY / name
    what = f"hf download --repo-type dataset {REPOSITORY} {name} --local-dir DATA_ROOT/{REPOSITORY}"
    if data_root:
        raise MachineError(f"{data_root / REPOSITORY / name}: no such file ({what})")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise missing_extra("huggingface_hub", "alpaca") from error
    try:
        offline = settings.offline
        return Path(hf_hub_download(REPOSITORY, name, repo_type="dataset", local_files_only=offline))
    except (OSError, ValueError) as error:  # the Hub's errors are of these kinds
        why = "not on this machine" if settings.offline else one_line(str(error), 50)
        raise MachineError(f"{REPOSITORY}/{name}: {why} (give data_root=DATA_ROOT with {name})") from error


# -- answers and verdicts ------------------------------------------------------------------------------------------

Answered = list[tuple[Subject, str, list[str]]]  # the model, raw or template, its answer to each instruction


def _answer(bench: Bench, baseline: Baseline) -> tuple[Answered, list[str]]:
    """The answers of each model, and a note on prompts that were too long."""
    answered: Answered = []
    models: list[RecordedModel] = []
    with Journal(bench.folder / "answers.jsonl") as kept:
        for subject in bench.subjects:
            model = RecordedModel(bench, subject, kept)
            models.append(model)
            # a base model has no template of its own
            for prompt in bench.settings.eval.prompts if subject.takes_instructions else ["raw"]:
                raw = prompt == "raw"
                questions: list[Question] = list(baseline.instructions if raw else baseline.rows)
                answered.append((subject, prompt, model(questions, what="answered")))
    return answered, note_unfit(models)


@dataclass(frozen=True)
class Reading:
    """How the judge's preference is read from its reply."""

    by: str  # logprobs or words
    options: ReplyOptions
    why: str = ""  # by words

    @property
    def parser(self) -> str:
        """The package's name for it."""
        return "logprob_parser" if self.by == "logprobs" else "regex_parser"


def _how_to_read(judge: JudgeClient, settings: JudgeSettings) -> Reading:
    """By log probabilities where a trial request gets them with its first token, by words otherwise."""
    why = "a judge that reasons first gives none"
    if not settings.reasoning:
        [reply] = judge.replies([PROBE], WITH_LOGPROBS)
        if reply and reply.first and not reply.thoughts:
            return Reading("logprobs", WITH_LOGPROBS)
        if reply is None:
            why = f"the server refuses them ({judge.problem})"
        elif not reply.thoughts:
            why = "the server gives none"
        judge.refused = 0
    return Reading("words", ReplyOptions(), why)


def _compare(
    bench: Bench, baseline: Baseline, answered: Answered, judge: JudgeClient, reading: Reading
) -> list[dict[str, Any]]:
    """The package's verdicts and metrics for each model's answers."""
    names = [f"ours-{number}" for number in range(len(answered))]
    job = {
        "instructions": [without_marks(text) for text in baseline.instructions],
        "baseline": [without_marks(row.output) for row in baseline.rows],
        "name": "baseline",
        "models": [
            {"name": name, "outputs": [without_marks(text) for text in outputs]}
            for name, (_, _, outputs) in zip(names, answered, strict=True)
        ],
        "by": reading.by,
        "gamed": str(baseline.gamed.absolute()) if baseline.gamed else None,
    }

    def reply_to(prompts: Any) -> list[Any]:
        requests = [Request(tuple((str(role), str(text)) for role, text in messages)) for messages in prompts]
        return [_reply_as_json(reply) for reply in judge.replies(requests, reading.options)]

    work = bench.folder / "package"
    work.mkdir(exist_ok=True)
    compared: list[dict[str, Any]] = run_child(
        "ift.evaluation.packages.alpaca_eval_child", work, job, reply_to, extra="alpaca"
    )
    return compared


def without_marks(text: str) -> str:
    """Text that stays text in the package's prompt, whatever it says."""
    for mark, harmless in MARKS.items():
        text = text.replace(mark, harmless)
    return text


def _reply_as_json(reply: Reply | None) -> Any:
    return None if reply is None else {"text": reply.text, "first": reply.first}


def _plan(bench: Bench, baseline: Baseline, judge: JudgeClient) -> str:
    """The most it may take, before any answer is there: our answers at their longest, three bytes a token."""
    models = len(bench.settings.eval.prompts) + bench.settings.eval.base
    size = bench.settings.eval.generate.max_new_tokens + 600  # the package's prompt
    texts = zip(baseline.instructions, baseline.rows, strict=True)
    tokens = models * sum(len((text + row.output).encode()) // 3 + size for text, row in texts)
    n = models * len(baseline.rows)
    cost = judge.price(tokens, n * bench.settings.judge.max_tokens)
    return f"judge     {n:,} requests, about {tokens:,} tokens to send at most" + (f", ${cost:.4f}" if cost else "")


# -- scores ----------------------------------------------------------------------------------------------------------


def _scores(
    baseline: Baseline, outputs: Sequence[str], compared: Mapping[str, Any], *, model: str, prompt: str
) -> list[Score]:
    """Percent, as on AlpacaEval's leaderboard, over the preferences that could be read."""
    wins = [each["preference"] - 1 for each in compared["annotations"] if each["preference"] is not None]
    metrics = compared["metrics"]
    n = len(wins)

    def score(metric: str, value: Any, *, error: float | None = None, headline: bool = True) -> Score:
        low, high = (None, None) if error is None else normal_interval(value, error, Scale(0, 100))
        return Score(
            task="alpaca_eval",
            metric=metric,
            value=value,
            n=n,
            low=low,
            high=high,
            model=model,
            prompt=prompt,
            higher_is_better=metric != "standard_error",
            headline=headline,
        )

    estimate = mean_interval(wins, UNIT)
    raw = score("win_rate", metrics["win_rate"] if n else None)
    scores = [replace(raw, low=100 * estimate.low, high=100 * estimate.high)]
    if not n:
        return scores
    if "length_controlled_winrate" in metrics:
        value, error = metrics["length_controlled_winrate"], metrics["lc_standard_error"]
        scores.append(score("length_controlled_win_rate", value, error=error))
    else:
        read = [i for i, each in enumerate(compared["annotations"]) if each["preference"] is not None]
        lengths = [len(outputs[i]) for i in read]
        others = [len(baseline.rows[i].output) for i in read]
        scores.append(score("length_adjusted_win_rate", 100 * length_adjusted_win_rate(wins, lengths, others)))
    parts = {"standard_error": "standard_error", "discrete_win_rate": "discrete_win_rate"}
    scores += [score(name, metrics[key], headline=False) for name, key in parts.items()]
    scores += [score(name, metrics[name], headline=False) for name in ("n_wins", "n_wins_base", "n_draws")]
    length = sum(map(len, outputs)) / len(outputs)
    return [*scores, score("characters_per_answer", length, headline=False)]


def _samples(
    baseline: Baseline, outputs: Sequence[str], annotations: Sequence[Mapping[str, Any]], *, model: str, prompt: str
) -> list[dict[str, Any]]:
    return [
        {
            "instruction": row.instruction,
            "input": row.input,
            "reference": row.output,
            "response": output,
            "preference": each["preference"],  # the package's: 1 the baseline, 2 ours, between them where it wavers
            "reply": _text(each["reply"]),
            "model": model,
            "prompt": prompt,
        }
        for row, output, each in zip(baseline.rows, outputs, annotations, strict=True)
    ]


def _text(reply: Any) -> str:
    """The judge's words; the package keeps none for a reply that it could not read, nor for equal answers."""
    text = reply.get("text") if isinstance(reply, dict) else reply
    return text if isinstance(text, str) else ""


def _template(bench: Bench) -> str:
    template = bench.tuned.template
    assert template
    return f"{template.name} {template.hash}"


def _notes(
    bench: Bench,
    baseline: Baseline,
    samples: Sequence[Mapping[str, Any]],
    settings: JudgeSettings,
    reading: Reading,
) -> list[str]:
    by_words = f"by its words, since {reading.why}"
    how = "by the log probabilities of its first token" if reading.by == "logprobs" else by_words
    notes = [
        f"Win rates are in percent, against {baseline.name}; {settings.model} judged, {how}.",
        "AlpacaEval's official judge, gpt-4-1106-preview, is no longer served: compare with numbers by the same judge.",
    ]
    unread = sum(sample["preference"] is None for sample in samples)
    if unread:
        notes.append(f"Scored {len(samples) - unread} of {len(samples)}: the others' verdicts could not be read.")
    if baseline.gamed is None:
        notes.append(
            f"No length-controlled win rate: {baseline.why_not}. The length-adjusted one is our own: a logistic "
            "regression on the difference in length alone."
        )
    else:
        notes.append(
            "The interval of the length-controlled rate is made of the package's standard error, the spread of what it "
            "fitted: it is narrower than the truth."
        )
    empty = sum(not sample["response"] for sample in samples)
    if empty:
        notes.append(f"{empty} of {len(samples)} answers are empty.")
    texts = [text for s in samples for text in (s["instruction"], s["reference"], s["response"])]
    marked = sum(without_marks(text) != text for text in texts)
    if marked:
        notes.append(f"{marked} texts held marks of the judge's prompt; the judge saw them with a space inside.")
    if any(sample["prompt"] == "raw" for sample in samples):
        notes.append("Raw: the model continued the bare instruction as text; no prompt told it to answer.")
    return notes
