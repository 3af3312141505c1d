"""AlpacaEval: how often a judge prefers our answer to a baseline's, by the alpaca-eval package.

The package works in a process of its own (alpaca_child.py): it would write beside itself, and needs keys. We answer
the instructions, ask the judge and keep both, in answers.jsonl and verdicts.jsonl of the evaluation's folder.

Dubois et al. 2024, "Length-Controlled AlpacaEval". Its judge, gpt-4-1106-preview, is no longer served, so what comes
out stands beside other numbers by the same judge alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ift.data.reading.rows import Row, kind_of
from ift.errors import ConfigError, DataError, MachineError, missing_extra, one_line
from ift.evaluation.answers import open_answers
from ift.evaluation.journal import Lines
from ift.evaluation.judge.servers import OpenAICompatible, Reply, Request, address
from ift.evaluation.packages.child import run_child
from ift.evaluation.recorded import AskedJudge, Question, RecordedModel, note_unfit
from ift.evaluation.results import Outcome, Score, package_versions
from ift.evaluation.statistics import length_adjusted_win_rate, mean_interval
from ift.evaluation.subject import Bench, Subject
from ift.run import read_json
from ift.settings import JudgeSettings

REPOSITORY = "tatsu-lab/alpaca_eval"
BASELINE, GAMED = "alpaca_eval_gpt4_baseline.json", "df_gamed.csv"
OFFICIAL = 805  # instructions
PROBE = Request((("user", "Answer with one letter, m or M, and nothing else."),))
FIRST_TOKENS = 5  # as many as the package asks for
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


def run(bench: Bench) -> Outcome | None:
    """Raises ConfigError, DataError and MachineError; what was answered and judged before an error is kept."""
    if importlib.util.find_spec("alpaca_eval") is None:
        raise missing_extra("alpaca-eval", "alpaca")
    settings = judge_settings(bench.settings.judge)
    baseline = read_baseline(bench)
    server = OpenAICompatible(settings)  # says now what is missing
    bench.folder.mkdir(parents=True, exist_ok=True)
    with AskedJudge(bench.folder, settings) as judge:
        if settings.dry_run:
            print(_plan(bench, baseline, judge))
            return None
        server, by, why = _how_to_judge(judge, settings)  # before hours of answering: is it there?
        answered, unfit = _answer(bench, baseline)
        found = _compare(bench, baseline, answered, judge, server, by)
        parser = "logprob_parser" if by == "logprobs" else "regex_parser"  # the package's names
        about = judge.about(server) | {"judged_by": by, "parser": parser}
        about |= {"baseline": baseline.name, "refused": judge.refused}
    scores, samples = [], []
    for (subject, prompt, outputs), compared in zip(answered, found, strict=True):
        scores += _scores(baseline, outputs, compared, model=subject.label, prompt=prompt)
        samples += _samples(baseline, outputs, compared["annotations"], model=subject.label, prompt=prompt)
    return Outcome(
        scores=scores,
        samples=samples,
        versions=package_versions("alpaca-eval", "scikit-learn", "openai")
        | {"baseline": f"{baseline.name} {baseline.content}", "template": _template(bench)},
        notes=[*_notes(bench, baseline, samples, settings, by, why), *unfit],
        about=about,
    )


def judge_settings(settings: JudgeSettings) -> JudgeSettings:
    """The judge as a server of OpenAI's protocol. Raises ConfigError for what this evaluation cannot use."""
    if settings.server == "replay":
        raise ConfigError("judge.server=replay: AlpacaEval asks a server (judge.server=openai; replies are kept)")
    if not settings.model:
        raise ConfigError("judge.model: not set (add judge.model=NAME, the judge's name on its server)")
    if settings.limit is not None:
        raise ConfigError("judge.limit: means nothing to eval=alpaca_eval (eval.limit=N)")
    if settings.server == "ollama":
        url = address(settings)
        return replace(settings, server="openai", base_url=url if url.endswith("/v1") else f"{url}/v1")
    return settings


# -- what is compared ----------------------------------------------------------------------------------------------


def read_baseline(bench: Bench) -> Baseline:
    """AlpacaEval's own instructions and answers, or those of eval.against. Raises DataError naming file and row."""
    limit, against = bench.settings.eval.limit, bench.settings.eval.against
    if len(against) > 1:
        raise ConfigError("eval.against: AlpacaEval compares with one run or file of answers (eval.against=[RUN])")
    reference = against[0] if against else None
    if reference:
        answers = open_answers(reference)
        rows = [
            Row(a.instruction, a.input, a.response, a.file or answers.name, a.row or number)
            for number, a in enumerate(answers.rows, start=1)
        ][:limit]
        if not rows:
            raise DataError(f"{reference}: no answers to compare with")
        content = hashlib.sha256("\0".join(row.prompt + row.output for row in rows).encode()).hexdigest()[:12]
        return Baseline(answers.name, rows, content, None, "it is defined on AlpacaEval's own instructions alone")
    path = hub_file(bench, BASELINE)
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
        return Baseline(name, rows, content, hub_file(bench, GAMED))
    except MachineError as error:
        return Baseline(name, rows, content, None, str(error))


def _row(record: Any, path: Path, number: int) -> Row:
    if not isinstance(record, dict):
        raise DataError(f"{path}:{number}: {kind_of(record)}, not an object with instruction and output")
    for key in ("instruction", "output"):
        if not isinstance(record.get(key), str):
            raise DataError(f'{path}:{number}: "{key}" is {kind_of(record.get(key))}, not text')
    clean = {key: record[key].encode("utf-8", "replace").decode() for key in ("instruction", "output")}
    return Row(clean["instruction"], "", clean["output"], path.name, number)


def hub_file(bench: Bench, name: str) -> Path:
    """data_root/tatsu-lab/alpaca_eval/NAME, or the Hub's. Raises MachineError where it cannot be had."""
    if bench.data_root and (bench.data_root / REPOSITORY / name).is_file():
        return bench.data_root / REPOSITORY / name
    what = f"hf download --repo-type dataset {REPOSITORY} {name} --local-dir DATA_ROOT/{REPOSITORY}"
    if bench.data_root:
        raise MachineError(f"{bench.data_root / REPOSITORY / name}: no such file ({what})")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise missing_extra("huggingface_hub", "alpaca") from error
    try:
        offline = bench.settings.offline
        return Path(hf_hub_download(REPOSITORY, name, repo_type="dataset", local_files_only=offline))
    except (OSError, ValueError) as error:  # the Hub's errors are of these kinds
        why = "not on this machine" if bench.settings.offline else one_line(str(error), 50)
        raise MachineError(f"{REPOSITORY}/{name}: {why} (give data_root=DATA_ROOT with {name})") from error


# -- answers and verdicts ------------------------------------------------------------------------------------------

Answered = list[tuple[Subject, str, list[str]]]  # who, in which prompt, and what it said to each instruction


def _answer(bench: Bench, baseline: Baseline) -> tuple[Answered, list[str]]:
    """What each model says, and a note on prompts that were too long."""
    answered: Answered = []
    asked: list[RecordedModel] = []
    with Lines(bench.folder / "answers.jsonl") as kept:
        for subject in bench.subjects:
            ask = RecordedModel(bench, subject, kept)
            asked.append(ask)
            # a base model has no template of its own
            for prompt in bench.settings.eval.prompts if subject.template else ["raw"]:
                raw = prompt == "raw"
                questions: list[Question] = list(baseline.instructions if raw else baseline.rows)
                answered.append((subject, prompt, ask(questions, what="answered")))
    return answered, note_unfit(asked)


def _how_to_judge(judge: AskedJudge, settings: JudgeSettings) -> tuple[OpenAICompatible, str, str]:
    """The server, whether it is read by logprobs or words, and why by words.

    By logprobs where the server gives them for its first token. The temperature is then 1, as the package has it: some
    servers divide by it.
    """
    why = "a judge that reasons first gives none" if settings.reasoning else ""
    if not why:
        server = OpenAICompatible(replace(settings, max_tokens=1, temperature=1.0), logprobs=FIRST_TOKENS)
        [reply] = judge([PROBE], server, max_tokens=1)
        if reply and reply.first:
            return server, "logprobs", ""
        why = f"the server refuses them ({judge.problem})" if reply is None else "the server gives none"
        judge.refused = 0
    return OpenAICompatible(settings), "words", why


def _compare(
    bench: Bench, baseline: Baseline, answered: Answered, judge: AskedJudge, server: OpenAICompatible, by: str
) -> list[dict[str, Any]]:
    """What the package makes of each model's answers."""
    names = [f"ours-{number}" for number in range(len(answered))]
    job = {
        "instructions": [without_marks(text) for text in baseline.instructions],
        "baseline": [without_marks(row.output) for row in baseline.rows],
        "name": "baseline",
        "models": [
            {"name": name, "outputs": [without_marks(text) for text in outputs]}
            for name, (_, _, outputs) in zip(names, answered, strict=True)
        ],
        "by": by,
        "gamed": str(baseline.gamed.absolute()) if baseline.gamed else None,
    }
    max_tokens = 1 if by == "logprobs" else judge.settings.max_tokens

    def answer(asked: Any) -> list[Any]:
        requests = [Request(tuple((str(role), str(text)) for role, text in messages)) for messages in asked]
        return [_plain(reply) for reply in judge(requests, server, max_tokens=max_tokens)]

    work = bench.folder / "package"
    work.mkdir(exist_ok=True)
    found: list[dict[str, Any]] = run_child(
        "ift.evaluation.packages.alpaca_eval_child", work, job, answer, extra="alpaca"
    )
    return found


def without_marks(text: str) -> str:
    """Text that stays text in the package's prompt, whatever it says."""
    for mark, harmless in MARKS.items():
        text = text.replace(mark, harmless)
    return text


def _plain(reply: Reply | None) -> Any:
    return None if reply is None else {"text": reply.text, "first": reply.first}


def _plan(bench: Bench, baseline: Baseline, judge: AskedJudge) -> str:
    """The most it may take, before anything is answered: our answers at their longest, three bytes a token."""
    models = len(bench.settings.eval.prompts) + bench.settings.eval.base
    size = bench.settings.eval.generate.max_new_tokens + 600  # the package's prompt
    texts = zip(baseline.instructions, baseline.rows, strict=True)
    tokens = models * sum(len((text + row.output).encode()) // 3 + size for text, row in texts)
    n = models * len(baseline.rows)
    cost = (tokens * judge.budget.price_in + n * judge.settings.max_tokens * judge.budget.price_out) / 1e6
    return f"judge     {n:,} requests, about {tokens:,} tokens to send at most" + (f", ${cost:.4f}" if cost else "")


# -- what it comes to ----------------------------------------------------------------------------------------------


def _scores(
    baseline: Baseline, outputs: Sequence[str], compared: Mapping[str, Any], *, model: str, prompt: str
) -> list[Score]:
    """Percent, as AlpacaEval's leaderboard has them. Of the preferences that could be read."""
    wins = [each["preference"] - 1 for each in compared["annotations"] if each["preference"] is not None]
    metrics = compared["metrics"]
    n = len(wins)

    def score(metric: str, value: Any, *, error: float | None = None, headline: bool = True) -> Score:
        low, high = (None, None) if error is None else (value - 1.96 * error, value + 1.96 * error)
        return Score("alpaca_eval", metric, value, n, low, high, model, prompt, metric != "standard_error", headline)

    estimate = mean_interval(wins)
    raw = score("win_rate", metrics["win_rate"] if n else None)
    scores = [replace(raw, low=100 * estimate.low, high=100 * estimate.high) if n > 1 else raw]
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
    """What the judge said; the package keeps none for what it could not read, nor for equal answers."""
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
    by: str,
    why: str,
) -> list[str]:
    how = "by the log probabilities of its first token" if by == "logprobs" else f"by its words, since {why}"
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
        notes.append("Raw: the bare instruction was gone on with as text; nothing said that an answer was wanted.")
    return notes
