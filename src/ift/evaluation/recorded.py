"""Our model and a judge, asked on behalf of another package. Every answer is on disk before the package sees it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ift.artifacts.weights import weights_identity
from ift.data.reading.rows import Row
from ift.errors import ConfigError, MachineError, one_line
from ift.evaluation.answers import content_key
from ift.evaluation.journal import Lines
from ift.evaluation.judge.run import budget_of
from ift.evaluation.judge.servers import (
    Asking,
    Budget,
    Ledger,
    OverBudgetError,
    RefusedError,
    Reply,
    Request,
    Server,
    estimated_tokens,
    side_by_side,
)
from ift.evaluation.subject import Bench, Subject
from ift.progress import progress
from ift.settings import JudgeSettings, load_settings
from ift.text.encoding import encode_prompt

Question = Row | str  # in the model's own template; or text to go on with
SAVED_TOGETHER = 64  # answers between two writes, where no batch size is given


class AskedModel:
    """Answers of one model, kept in answers.jsonl of an evaluation's folder: what was killed goes on there."""

    def __init__(self, bench: Bench, subject: Subject, kept: Lines):
        self.subject, self.kept, self.settings = subject, kept, bench.settings
        self.unfit: set[str] = set()  # keys of prompts that are too long for the model
        weights = _weights(bench, subject)
        decided = [subject.label, weights, asdict(self.settings.eval.generate), self.settings.seed]
        self.identity = content_key(json.dumps(decided, sort_keys=True), self.settings.precision)

    def __call__(self, questions: Sequence[Question], *, what: str) -> list[str]:
        """One answer to each question, in order; equal questions are asked once.

        A prompt that does not fit into the context gets "" as a row, and loses its beginning as text.
        """
        keys = [self._key(question) for question in questions]
        missing = {key: question for key, question in zip(keys, questions, strict=True) if key not in self.kept.lines}
        # those of like length together: a batch takes as long as its longest
        waiting = sorted(missing, key=lambda key: len(str(missing[key])))
        size = self.settings.eval.generate.batch_size or SAVED_TOGETHER
        if waiting:
            with progress(what, len(waiting), "answers") as advance:
                for start in range(0, len(waiting), size):
                    batch = waiting[start : start + size]
                    asked = [missing[key] for key in batch]
                    for key, question, answer in zip(batch, asked, self._answer(asked), strict=True):
                        fits = self._fits(question)
                        self.kept.put(key, {"model": self.subject.label, "response": answer, "fits": fits})
                    advance(len(batch))
        self.unfit |= {key for key in keys if not self.kept.lines[key]["fits"]}
        return [str(self.kept.lines[key]["response"]) for key in keys]

    def _fits(self, question: Question) -> bool:
        subject, most = self.subject, self.subject.model.config.context_length
        if isinstance(question, str) or subject.template is None:
            return len(subject.tokenizer.encode(str(question))) + self.settings.eval.generate.max_new_tokens <= most
        return len(encode_prompt(question, subject.template, subject.tokenizer)) < most

    def _key(self, question: Question) -> str:
        template = self.subject.template
        if isinstance(question, str) or template is None:
            return content_key(self.identity, "raw", str(question))
        return content_key(self.identity, template.hash, json.dumps(question.to_json(), sort_keys=True))

    def _answer(self, questions: Sequence[Question]) -> list[str]:
        from ift.evaluation.responses import respond

        rows = [question for question in questions if isinstance(question, Row)]
        texts = [question for question in questions if isinstance(question, str)]
        s, generate, seed = self.subject, self.settings.eval.generate, self.settings.seed
        if rows:
            assert s.template
            found = respond(s.model, rows, s.template, s.tokenizer, generate, seed=seed)
            in_template = iter([str(each["response"]) for each in found])
        raw = iter([text.strip() for text in s.complete(texts, generate, seed=seed)] if texts else [])
        return [next(raw) if isinstance(question, str) else next(in_template) for question in questions]


def note_unfit(models: Sequence[AskedModel]) -> list[str]:
    """A sentence for results.json where prompts were too long, or none."""
    n = sum(len(model.unfit) for model in models)
    if not n:
        return []
    longest = models[0].subject.model.config.context_length
    return [
        f"{n} different prompts were too long for the model's {longest} positions: in the template they got an empty "
        "answer, raw they lost their beginning."
    ]


def _weights(bench: Bench, subject: Subject) -> str:
    """Another model is another identity: the hash of its files, or the name under which it is known."""
    if subject.label == "base":
        return str(load_settings(bench.run.config).model.pretrained)
    return weights_identity(bench.run.model)


class OnlyPlannedError(Exception):
    """judge.dry_run=true: what would be asked was said."""


class AskedJudge:
    """A judge's replies, kept in verdicts.jsonl of an evaluation's folder, within judge.max_cost."""

    def __init__(self, folder: Path, settings: JudgeSettings):
        self.settings = settings
        self.budget: Budget = budget_of(settings)
        self.ledger = Ledger(folder / "verdicts.jsonl", {})
        self.refused = 0
        self.problem = ""  # why the last one was refused

    def __enter__(self) -> AskedJudge:
        return self

    def __exit__(self, *error: object) -> None:
        self.ledger.close()

    def __call__(self, requests: Sequence[Request], server: Server, *, max_tokens: int) -> list[Reply | None]:
        """A reply to each, None where the server refuses to answer it; equal requests are asked once.

        Raises ConfigError where it may cost more than judge.max_cost, OnlyPlannedError for a dry run, and MachineError
        where the server stays without a reply; what was answered until then is kept.
        """
        settings, budget = replace(self.settings, max_tokens=max_tokens), self.budget
        budget.max_tokens, self.ledger.identity = max_tokens, server.identity
        missing = [request for request in dict.fromkeys(requests) if self.ledger.get(request) is None]
        cost = sum(map(budget.estimate, missing))
        if missing:
            tokens = sum(map(estimated_tokens, missing))
            price = f", ${cost:.4f} at most" if cost else ""
            print(f"judge     requests: {len(missing):,}, tokens to send: about {tokens:,}{price}", flush=True)
        if settings.dry_run:
            raise OnlyPlannedError
        if budget.spent + cost > settings.max_cost:
            raise ConfigError(
                f"judge.max_cost={settings.max_cost:g}: this may cost ${budget.spent + cost:.2f} "
                f"(judge.max_cost={math.ceil(budget.spent + cost)} allows it; eval.limit=N asks less)"
            )
        replies: dict[Request, Reply | None] = {}
        asking = Asking(server, self.ledger, budget, retries=settings.retries)
        waiting = list(dict.fromkeys(requests))

        def work(number: int) -> None:
            request = waiting[number]
            try:
                reply = asking(request)
            except RefusedError as error:
                self.problem, replies[request] = one_line(str(error), 100), None
                return
            except OverBudgetError:
                asking.last_problem = f"judge.max_cost={settings.max_cost:g} is reached"
                asking.stop.set()
                return
            if reply is not None:
                replies[request] = reply
                advance(1)

        with progress("judged" if missing else None, len(waiting), "verdicts") as advance:
            side_by_side(work, len(waiting), asking, concurrency=settings.concurrency)
        without = sum(request not in replies for request in waiting)
        if without:
            raise MachineError(
                f"judge: {without} of {len(waiting)} requests got no reply: {asking.last_problem} "
                "(the same command goes on)"
            )
        self.refused += sum(reply is None for reply in replies.values())
        return [replies[request] for request in requests]

    def about(self, server: Server) -> dict[str, Any]:
        """For results.json: who judged, and what it took."""
        return {
            "judge": server.identity,
            "requests": self.budget.requests,
            "prompt_tokens": self.budget.prompt_tokens,
            "reply_tokens": self.budget.reply_tokens,
            "cost": round(self.budget.spent, 6),
        }
