"""MT-Bench (Zheng et al. 2023, arXiv:2306.05685): questions of two turns, each answer rated from 1 to 10 by a judge.

python evaluate.py run=RUN eval=mt_bench data_root=MIRROR judge.model=NAME

Questions, the judge's prompts and the reference answers of math, reasoning and coding are read from FastChat's own
files (fastchat/llm_judge/data), where the user has them. As there, a turn is rated by single-v1, with its reference by
single-math-v1, the second turn with the whole conversation, and the first [[N]] of a reply is the rating.

Ours: the model answers in its own prompt template; a reply with two different ratings, or one outside 1 to 10, is read
as none, and the judge is asked once more. Published numbers are GPT-4's verdicts: numbers of another judge can be
compared only with its own.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ift.data.reading.rows import Row
from ift.errors import ConfigError, DataError, MachineError, one_line
from ift.evaluation.answers import content_key
from ift.evaluation.journal import Journal
from ift.evaluation.judging import JudgeClient, OnlyPlannedError, ReplyOptions, Request
from ift.evaluation.recorded import RecordedModel, note_unfit
from ift.evaluation.results import Outcome, Score
from ift.evaluation.statistics import Estimate, Scale, mean_interval
from ift.evaluation.subject import Bench, Subject
from ift.settings import EvaluateSettings, GenerateSettings

FOLDER = "lm-sys/FastChat/fastchat/llm_judge/data"  # below data_root, as a clone has it
QUESTIONS, PROMPTS, REFERENCES = (
    "mt_bench/question.jsonl",
    "judge_prompts.jsonl",
    "mt_bench/reference_answer/gpt-4.jsonl",
)
FETCH = "git clone --depth 1 https://github.com/lm-sys/FastChat DATA_ROOT/lm-sys/FastChat, then data_root=DATA_ROOT"
WITH_REFERENCE = ("math", "reasoning", "coding")
SCALE = Scale(1, 10)
AS_PUBLISHED = ReplyOptions(max_tokens=2048, temperature=0.0)
RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
LOOSE = re.compile(r"\[(\d+\.?\d*)\]")
AGAIN = 'No rating could be read. Reply with one line and nothing else: "Rating: [[N]]", N being a number from 1 to 10.'


@dataclass(frozen=True)
class Question:
    id: int
    category: str
    turns: tuple[str, ...]
    references: tuple[str, ...]  # of each turn; none where the category has none


@dataclass(frozen=True)
class Prompt:
    """One of the judge's prompts: a system text, and a text with {places} for questions and answers."""

    system: str
    text: str

    def filled(self, **texts: str) -> Request:
        """Each place once, from left to right: braces in an answer are text."""
        text = re.sub(r"\{(\w+)\}", lambda place: texts[place.group(1)], self.text)
        return Request((("system", self.system), ("user", text)))


@dataclass(frozen=True)
class Rated:
    """One answer's rating; None where the judge gave none that can be read."""

    rating: float | None
    reason: str  # the whole reply


def check(settings: EvaluateSettings) -> None:
    """Raises ConfigError and DataError for settings and files that are missing."""
    judge = settings.judge
    if not (judge.model or judge.replay):
        raise ConfigError("judge.model: not set (add judge.model=NAME, the judge's name on its server)")
    if judge.limit is not None:
        raise ConfigError("judge.limit: means nothing to eval=mt_bench (eval.limit=N)")
    if settings.eval.prompts != ["template"]:
        raise ConfigError(
            f"eval.prompts=[{','.join(settings.eval.prompts)}]: a second question needs the model's template "
            "(eval.prompts=[template])"
        )
    if settings.eval.base:
        raise ConfigError("eval.base=true: a base model has no prompt template to ask two turns in (leave it out)")
    if settings.eval.num_fewshot:
        raise ConfigError(f"eval.num_fewshot={settings.eval.num_fewshot}: MT-Bench shows no answers (leave it out)")
    read_questions(settings)
    read_prompts(settings)


def evaluate(bench: Bench) -> Outcome | None:
    """Raises ConfigError, DataError and MachineError; answers and verdicts that came before an error are kept."""
    check(bench.settings)
    questions, prompts = read_questions(bench.settings), read_prompts(bench.settings)
    with bench.open_judge(bench.folder, bench.settings.judge) as judge:  # an error now, not after hours
        if bench.settings.judge.dry_run:
            _show_plan(judge, questions, prompts, bench.settings.eval.generate)
            return None
        subject = bench.tuned
        if not subject.takes_instructions:
            raise ConfigError("eval=mt_bench: this model was tuned on plain text (MT-Bench asks in a prompt template)")
        answers, notes = write_answers(bench, subject, questions)
        rated = rate(judge, questions, answers, prompts)
        if all(each.rating is None for turns in rated for each in turns):
            raise MachineError(f"judge: no reply holds a rating ({judge.cure})")
        about = {**judge.describe(AS_PUBLISHED), "refused": judge.refused}
    scores = scores_of(questions, rated)
    samples = list(_samples(questions, answers, rated))
    missing = sum(each.rating is None for turns in rated for each in turns)
    if missing:
        of = sum(map(len, rated))
        why = f" ({judge.refused} refused: {judge.problem})" if judge.refused else ""
        notes.append(f"{missing} of {of} answers have no rating that could be read, and count nowhere{why}.")
    if len(questions) < (total := len(read_questions(bench.settings, limited=False))):
        notes.insert(0, f"The first {len(questions)} of {total} questions.")
    if bench.settings.eval.turns == 1:
        notes.append("The first turn of each question only: not the published score, which is of both.")
    notes.append(
        f"Ratings by {bench.settings.judge.model or 'stored replies'}: comparable only with ratings by the same judge; "
        "published ones are GPT-4's."
    )
    template = subject.template
    assert template
    hashed = content_key(*(p.system + p.text for p in prompts.values()))[:12]
    versions = {
        "questions": content_key(*(text for q in questions for text in q.turns))[:12],
        "judge prompts": hashed,
        f"template {template.name}": template.hash,
    }
    return Outcome(scores, samples, versions, notes, about)


# -- FastChat's files ------------------------------------------------------------------------------------------------


def read_questions(settings: EvaluateSettings, *, limited: bool = True) -> list[Question]:
    """In order; with references where their category has some. Raises DataError naming file and line."""
    references = {
        line["question_id"]: tuple(line["choices"][0]["turns"])
        for line in _lines(settings, REFERENCES, lambda line: [str(t) for t in line["choices"][0]["turns"]])
    }
    questions = []
    for line in _lines(settings, QUESTIONS, lambda line: (str(line["category"]), line["turns"][1])):
        id, category, turns = (
            line["question_id"],
            line["category"],
            tuple(map(str, line["turns"][: settings.eval.turns])),
        )
        own = references.get(id, ()) if category in WITH_REFERENCE else ()
        if category in WITH_REFERENCE and len(own) < len(turns):
            raise DataError(f"{_file(settings, REFERENCES)}: no answer to question {id} of {category} ({FETCH})")
        questions.append(Question(id, category, turns, own))
    return questions[: settings.eval.limit] if limited else questions


def read_prompts(settings: EvaluateSettings) -> dict[str, Prompt]:
    """Those of a single answer, by name. Raises DataError where one is missing."""
    found = {
        line["name"]: Prompt(line["system_prompt"], line["prompt_template"])
        for line in _lines(
            settings, PROMPTS, lambda line: line["name"] + line["system_prompt"] + line["prompt_template"]
        )
    }
    for name in ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn"):
        if name not in found:
            raise DataError(f"{_file(settings, PROMPTS)}: no prompt {name} ({FETCH})")
    return found


def _file(settings: EvaluateSettings, name: str) -> Path:
    if not settings.data_root:
        raise ConfigError(f"data_root: not set; MT-Bench reads FastChat's files ({FETCH})")
    return Path(settings.data_root).absolute() / FOLDER / name


def _lines(settings: EvaluateSettings, name: str, look: Any) -> Iterator[dict[str, Any]]:
    """Objects of a JSONL file in which `look` finds all that it looks for."""
    path = _file(settings, name)
    if not path.is_file():
        raise DataError(f"{path}: no such file ({FETCH})")
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            if text.strip():
                line = json.loads(text)
                look(line)
                yield line
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            what = one_line(f"{type(error).__name__}: {error}", 60)
            raise DataError(f"{path}:{number}: not a line of FastChat's file: {what}") from error


# -- answers -----------------------------------------------------------------------------------------------------------


def write_answers(bench: Bench, subject: Subject, questions: Sequence[Question]) -> tuple[list[list[str]], list[str]]:
    """Each question's answers, by turn, and notes on them. Those of earlier runs are not generated again."""
    wanted, context = bench.settings.eval.generate, subject.model.config.context_length
    generate = replace(wanted, max_new_tokens=min(wanted.max_new_tokens, context // 2))
    notes = []
    if generate.max_new_tokens < wanted.max_new_tokens:
        notes.append(f"At most {generate.max_new_tokens} new tokens: the model has {context} positions.")
    by_temperature: dict[float, list[int]] = defaultdict(list)
    for number, question in enumerate(questions):
        by_temperature[bench.settings.eval.temperatures.get(question.category, generate.temperature)].append(number)
    answers: list[list[str]] = [[] for _ in questions]
    models = []
    with Journal(bench.folder / "answers.jsonl") as kept:
        for temperature, numbers in by_temperature.items():
            model = RecordedModel(bench, subject, kept, replace(generate, temperature=temperature))
            models.append(model)
            for turn in range(bench.settings.eval.turns):
                rows = [
                    Row(
                        questions[number].turns[turn],
                        history=tuple(zip(questions[number].turns, answers[number], strict=False)),
                        file="MT-Bench",
                        number=questions[number].id,
                    )
                    for number in numbers
                ]
                what = f"turn {turn + 1}" + (f", temperature {temperature:g}" if len(by_temperature) > 1 else "")
                for number, answer in zip(numbers, model(rows, what=what), strict=True):
                    answers[number].append(answer)
    return answers, notes + note_unfit(models)


# -- ratings -----------------------------------------------------------------------------------------------------------


def requests_for(question: Question, answers: Sequence[str], prompts: Mapping[str, Prompt]) -> list[Request]:
    """What the judge is asked: one request a turn."""
    name = "single-math-v1" if question.references else "single-v1"
    texts: dict[str, str] = {"question": question.turns[0], "answer": answers[0]}
    for number, (turn, answer) in enumerate(zip(question.turns, answers, strict=True), start=1):
        texts |= {f"question_{number}": turn, f"answer_{number}": answer}
    for number, reference in enumerate(question.references, start=1):
        texts[f"ref_answer_{number}"] = reference
    names = [name, f"{name}-multi-turn"][: len(question.turns)]
    return [prompts[each].filled(**texts) for each in names]


def read_rating(text: str) -> float | None:
    """The number in [[N]], else in [N], from 1 to 10; None where there is none, or two different ones."""
    found = {float(number) for number in RATING.findall(text)} or {float(number) for number in LOOSE.findall(text)[:1]}
    rating = found.pop() if len(found) == 1 else None
    return rating if rating is not None and SCALE.low <= rating <= SCALE.high else None


def rate(
    judge: JudgeClient, questions: Sequence[Question], answers: Sequence[Sequence[str]], prompts: Mapping[str, Prompt]
) -> list[list[Rated]]:
    """Each question's ratings, by turn; where a reply cannot be read, the judge gets one more try."""
    asked = [requests_for(question, texts, prompts) for question, texts in zip(questions, answers, strict=True)]
    flat = [replace(request, row=row) for row, request in enumerate(request for each in asked for request in each)]
    replies = judge.replies(flat, AS_PUBLISHED)
    rated = [Rated(read_rating(reply.text), reply.text) if reply else Rated(None, "") for reply in replies]
    again = {
        place: replace(flat[place], messages=(*flat[place].messages, ("assistant", reply.text or "-"), ("user", AGAIN)))
        for place, reply in enumerate(replies)
        if reply and rated[place].rating is None
    }
    if again:
        for place, second in zip(again, judge.replies(list(again.values()), AS_PUBLISHED), strict=True):
            if second:
                both = "\n\n".join(filter(None, (rated[place].reason, second.text)))
                rated[place] = Rated(read_rating(second.text), both)
    one_by_one = iter(rated)
    return [[next(one_by_one) for _ in each] for each in asked]


def _show_plan(
    judge: JudgeClient, questions: Sequence[Question], prompts: Mapping[str, Prompt], generate: GenerateSettings
) -> None:
    """What the judge would be sent, answers taken to be as long as they may be. Nothing is generated."""
    longest = "word " * generate.max_new_tokens
    requests = [r for q in questions for r in requests_for(q, [f"{longest}{q.id}"] * len(q.turns), prompts)]
    try:
        judge.replies(requests, AS_PUBLISHED)
    except OnlyPlannedError:
        return


# -- numbers -----------------------------------------------------------------------------------------------------------


def scores_of(questions: Sequence[Question], rated: Sequence[Sequence[Rated]]) -> list[Score]:
    """The mean rating, by turn and by category. A question is one unit: its two ratings are not independent."""

    def score(task: str, metric: str, values: Sequence[float], *, headline: bool) -> Score:
        mean: Estimate = mean_interval(values, SCALE)
        return Score(
            task=task, metric=metric, value=mean.mean, n=mean.n, low=mean.low, high=mean.high, prompt="template",
            headline=headline,
        )  # fmt: skip

    def of_turn(turn: int) -> list[float]:
        ratings = (turns[turn].rating for turns in rated)
        return [rating for rating in ratings if rating is not None]

    by_category: dict[str, list[float]] = defaultdict(list)
    for question, turns in zip(questions, rated, strict=True):
        if (mean := _mean(turns)) is not None:
            by_category[question.category].append(mean)
    scores = [score("mt_bench", "score", [value for values in by_category.values() for value in values], headline=True)]
    most = max((len(turns) for turns in rated), default=0)
    scores += [
        score("mt_bench", f"turn_{turn + 1}", of_turn(turn), headline=True) for turn in range(most if most > 1 else 0)
    ]
    return scores + [
        score(f"mt_bench_{category}", "score", values, headline=False) for category, values in by_category.items()
    ]


def _mean(turns: Sequence[Rated]) -> float | None:
    ratings = [each.rating for each in turns if each.rating is not None]
    return sum(ratings) / len(ratings) if ratings else None


def _samples(
    questions: Sequence[Question], answers: Sequence[Sequence[str]], rated: Sequence[Sequence[Rated]]
) -> Iterator[dict[str, Any]]:
    """A line for each question: both turns with answers, ratings and the judge's reasons."""
    for question, texts, turns in zip(questions, answers, rated, strict=True):
        several = len(turns) > 1
        yield {
            "task": "mt_bench",
            "doc_id": question.id,
            "model": "tuned",
            "prompt_form": "template",
            "category": question.category,
            "prompt": "\n\n".join(question.turns),
            "said": "\n\n".join(texts),
            "target": "\n\n".join(question.references) or None,
            "turns": [
                {"question": asked, "answer": answer, "rating": each.rating, "reason": each.reason}
                for asked, answer, each in zip(question.turns, texts, turns, strict=True)
            ],
            "metrics": {
                "score": _mean(turns),
                **({f"turn_{number}": each.rating for number, each in enumerate(turns, start=1)} if several else {}),
            },
        }
