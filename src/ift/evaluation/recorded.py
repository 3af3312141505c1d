"""Our model's answers to prompts of other packages. Every answer is on disk before the package gets it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ift.artifacts.weights import weights_identity
from ift.data.reading.rows import Row
from ift.evaluation.answers import content_key
from ift.evaluation.journal import Journal
from ift.evaluation.subject import Bench, Subject
from ift.progress import progress
from ift.settings import GenerateSettings, load_settings

Question = Row | str  # in the model's own template; or text to go on with
SAVED_TOGETHER = 64  # answers between two writes, where no batch size is given


class RecordedModel:
    """One model, whose answers are kept in answers.jsonl of an evaluation's folder: a run that was stopped goes on.

    unfit  keys of prompts so far that are too long for the model
    """

    def __init__(self, bench: Bench, subject: Subject, kept: Journal, generate: GenerateSettings | None = None):
        """generate: other settings than eval.generate."""
        self.subject, self.kept, self.settings = subject, kept, bench.settings
        self.generate = generate or bench.settings.eval.generate
        self.unfit: set[str] = set()
        weights = _weights(bench, subject)
        decided = [subject.label, weights, self.generate.identity(), self.settings.seed]
        self.identity = content_key(json.dumps(decided, sort_keys=True), self.settings.precision)

    def __call__(self, questions: Sequence[Question], *, what: str) -> list[str]:
        """One answer to each question, in order; equal questions are answered once.

        A prompt that does not fit into the context gets "" as a row, and loses its beginning as text.
        what: the title of the progress bar.
        """
        keys = [self._key(question) for question in questions]
        missing = {key: question for key, question in zip(keys, questions, strict=True) if key not in self.kept.lines}
        # those of like length together: a batch takes as long as its longest
        waiting = sorted(missing, key=lambda key: len(str(missing[key])))
        size = self.generate.batch_size or SAVED_TOGETHER
        if waiting:
            with progress(what, len(waiting), "answers") as advance:
                for start in range(0, len(waiting), size):
                    batch = waiting[start : start + size]
                    answers = self._answer([missing[key] for key in batch])
                    for key, answer in zip(batch, answers, strict=True):
                        fits = self.subject.fits(missing[key], self.generate)
                        self.kept.put(key, {"model": self.subject.label, "response": answer, "fits": fits})
                    advance(len(batch))
        self.unfit |= {key for key in keys if not self.kept.lines[key]["fits"]}
        return [str(self.kept.lines[key]["response"]) for key in keys]

    def _key(self, question: Question) -> str:
        template = self.subject.template
        if isinstance(question, str) or template is None:
            return content_key(self.identity, "raw", str(question))
        return content_key(self.identity, template.hash, json.dumps(question.to_json(), sort_keys=True))

    def _answer(self, questions: Sequence[Question]) -> list[str]:
        from ift.evaluation.responses import respond

        subject, generate, seed = self.subject, self.generate, self.settings.seed
        rows = {place: question for place, question in enumerate(questions) if isinstance(question, Row)}
        texts = {place: question for place, question in enumerate(questions) if isinstance(question, str)}
        answers = [""] * len(questions)
        if rows:
            assert subject.template
            model, template, tokenizer = subject.model, subject.template, subject.tokenizer
            responses = respond(model, list(rows.values()), template, tokenizer, generate, seed=seed)
            for place, response in zip(rows, responses, strict=True):
                answers[place] = str(response["response"])
        if texts:
            completions = subject.complete(list(texts.values()), generate, seed=seed)
            for place, text in zip(texts, completions, strict=True):
                answers[place] = text.strip()
        return answers


def note_unfit(models: Sequence[RecordedModel]) -> list[str]:
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
