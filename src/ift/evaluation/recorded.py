"""Our model's answers to prompts of other packages. Every answer is on disk before the package gets it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from ift.data.reading.rows import Row
from ift.evaluation.answers import content_key
from ift.evaluation.journal import Journal
from ift.evaluation.subject import Bench, Subject
from ift.progress import progress
from ift.sealed import MANIFEST, hash_file
from ift.settings import load_settings
from ift.text.encoding import encode_prompt

Question = Row | str  # in the model's own template; or text to go on with
SAVED_TOGETHER = 64  # answers between two writes, where no batch size is given


class AskedModel:
    """Answers of one model, kept in answers.jsonl of an evaluation's folder: what was killed goes on there."""

    def __init__(self, bench: Bench, subject: Subject, kept: Journal):
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
    folder = bench.run.model
    files = [folder / MANIFEST] if (folder / MANIFEST).exists() else sorted(folder.glob("*.safetensors"))
    return content_key(*map(hash_file, files))
