"""Whether another program answers from an export as the run's own model does: the same prompts, the same tokens.

Both are asked greedily, a row at a time. A program is given messages, as its users give them, and makes its tokens of
them by the exported template and tokenizer; these must be the tokens that training put before an answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ift.data.reading.rows import Row, read_stored_rows
from ift.errors import DataError, IftError, missing_extra, one_line
from ift.export.source import RunModel, joint
from ift.progress import progress
from ift.settings import load_settings
from ift.text.chat_templates import ChatTemplate
from ift.text.encoding import encode_prompt

if TYPE_CHECKING:
    from ift.model.gpt import GPT

ROWS, NEW_TOKENS = 100, 128
SHOWN = 5  # rows that part
ROUNDING = 1e-3  # a difference of logits that the order of sums can turn round


class Program(Protocol):
    def prompt(self, messages: Sequence[dict[str, Any]], tools: Sequence[Any] = ()) -> list[int]: ...

    def answer(self, prompt: Sequence[int], limit: int) -> list[int]: ...


@dataclass(frozen=True)
class Question:
    """A test row with the tokens of its prompt and of our own answer to it, which may end with an end token."""

    row: Row
    prompt: list[int]
    answer: list[int]
    limit: int  # tokens of the answer at most


@dataclass(frozen=True)
class Compared:
    """What came of asking a program."""

    program: str
    asked: int
    tokens: int  # of our answers
    partings: list[str]  # a line for each row whose prompt or answer is another

    @property
    def summary(self) -> str:
        same = self.asked - len(self.partings)
        return f"{self.program}: {same:,} of {self.asked:,} answers the same, token for token ({self.tokens:,} tokens)"

    def lines(self) -> list[str]:
        shown = [f"parts     {line}" for line in self.partings[:SHOWN]]
        more = len(self.partings) - SHOWN
        return [f"proof     {self.summary}", *shown, *([f"parts     and {more:,} rows more"] if more > 0 else [])]


class OwnAnswers:
    """Our own greedy answers to rows of the test split, by the model as it was trained."""

    def __init__(self, source: RunModel, rows: int):
        """rows: how many of the test rows are asked, evenly from all. Raises DataError where there are none."""
        from ift.artifacts.model_folder import load_model_folder
        from ift.generation.engine import generate
        from ift.generation.fitting import Overlong, fit

        stored = read_stored_rows(source.run.test_rows)
        if not stored:
            raise DataError(f"{source.run.test_rows}: no test rows (--prove asks them)")
        chosen = [stored[place * len(stored) // rows] for place in range(rows)] if rows < len(stored) else stored
        self.source = source
        self.model: GPT = load_model_folder(source.run.model)[0]
        template, tokenizer, context = source.template, source.tokenizer, source.config.context_length
        template.prepare(chosen)
        prompts = [encode_prompt(row, template, tokenizer) for row in chosen]
        if template.plain:  # every text begins with the same token
            chosen, prompts = chosen[:1], prompts[:1]
        limit = _new_tokens(source)
        fitted = fit(prompts, Overlong.REFUSE, context_length=context, max_new_tokens=limit)
        with progress("answering", len(fitted.prompts), "answers") as advance:
            answers = generate(
                self.model, fitted.prompts, end_of_text=tokenizer.end_of_text, max_new_tokens=limit, progress=advance
            )
        self.questions = []
        for place, prompt, answer in zip(fitted.places, fitted.prompts, answers, strict=True):
            ids = [*answer.ids, *([tokenizer.end_of_text] if answer.stop_reason == "end" else [])]
            self.questions.append(Question(chosen[place], list(prompt), ids, min(limit, context - len(prompt))))
        self.too_long = len(fitted.too_long)

    def compare(self, program: Program, name: str, *, beside: bool) -> Compared:
        """Ask a program all of it. beside: whether its messages have an input beside their content."""
        template, partings = self.source.template, []
        ends = {self.source.tokenizer.end_of_text, *self.source.stops}
        with progress("comparing", len(self.questions), "answers") as advance:
            for question in self.questions:
                # a prompt that no messages make is given as it is
                asked = None if template.plain else messages_of(question.row, self.source, beside=beside)
                theirs = question.prompt if asked is None else program.prompt(*asked)
                if theirs != question.prompt:
                    what = _first_difference(question.prompt, theirs, self._spelled)
                    partings.append(f"{_place(question.row)}: its prompt, {what}")
                else:
                    answer = _up_to_end(program.answer(question.prompt, question.limit), ends)
                    ours = _up_to_end(question.answer, ends)
                    if answer != ours:
                        what = _first_difference(ours, answer, self._spelled)
                        partings.append(f"{_place(question.row)}: its answer, {what}{self._margin(question, answer)}")
                advance(1)
        return Compared(name, len(self.questions), sum(len(q.answer) for q in self.questions), partings)

    def _spelled(self, token: int) -> str:
        tokenizer = self.source.tokenizer
        if token >= tokenizer.vocab_size:
            return f"{token}, which is no token"  # a vocabulary with room for more: other programs may choose it
        return one_line(json.dumps(tokenizer.decode([token]), ensure_ascii=False), 30)

    def _margin(self, question: Question, theirs: Sequence[int]) -> str:
        """How far apart our own logits are where an answer parts, so that rounding can be told from a fault."""
        import torch

        place = _parting(question.answer, theirs)
        if place >= min(len(question.answer), len(theirs)):
            return ""
        with torch.no_grad():
            logits = self.model.eval()(torch.tensor([[*question.prompt, *question.answer[:place]]]))[0, -1]
        apart = float(logits[question.answer[place]] - logits[theirs[place]])
        return f" (our logits are {apart:.2g} apart{': rounding' if abs(apart) < ROUNDING else ''})"


def messages_of(row: Row, source: RunModel, *, beside: bool) -> tuple[list[dict[str, Any]], Sequence[Any]] | None:
    """A row as messages without its answer, and its tools; None where no messages of one text make its prompt."""
    template = source.template
    if row.chat:
        chat = json.loads(row.chat)
        return chat["messages"][:-1], chat.get("tools") or ()
    messages = [{"role": "system", "content": row.system}] if row.system else []
    for instruction, output in row.history:
        messages += [{"role": "user", "content": instruction}, {"role": "assistant", "content": output}]
    if not row.input:
        return [*messages, {"role": "user", "content": row.instruction}], ()
    if isinstance(template, ChatTemplate):
        content = "\n\n".join(filter(None, (row.instruction, row.input)))
        return [*messages, {"role": "user", "content": content}], ()
    if beside:
        return [*messages, {"role": "user", "content": row.instruction, "input": row.input}], ()
    between = joint(template)
    if between is None:
        return None
    return [*messages, {"role": "user", "content": row.instruction + between + row.input}], ()


class Transformers:
    """An exported folder as transformers reads it.

    cached: it keeps keys and values of a row as it grows. Not where the row may grow over the context before longrope
    stretched it: what it has kept is then no longer what the whole row gives
    """

    def __init__(self, folder: Path, *, cached: bool = True):
        """Raises MachineError where the package is missing."""
        try:
            import transformers
        except ImportError as error:
            raise missing_extra("transformers", "export") from error
        library: Any = transformers  # much of it has no types
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
        self.name = f"transformers {library.__version__}"
        self.tokenizer = library.AutoTokenizer.from_pretrained(folder)
        # its fused attention leaves out a cap of scores (Gemma 2) without a word
        self.model = library.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
        self.cached = cached

    def prompt(self, messages: Sequence[dict[str, Any]], tools: Sequence[Any] = ()) -> list[int]:
        made: list[int] = self.tokenizer.apply_chat_template(
            list(messages), tools=list(tools) or None, add_generation_prompt=True, return_dict=False
        )
        return made

    def answer(self, prompt: Sequence[int], limit: int) -> list[int]:
        import torch

        ids = torch.tensor([list(prompt)])
        answer = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False, use_cache=self.cached
        )
        said: list[int] = answer[0, len(prompt) :].tolist()
        return said


def _new_tokens(source: RunModel) -> int:
    """As many as the run's own answers may have."""
    try:
        return load_settings(source.run.config).generate.max_new_tokens
    except IftError:
        return NEW_TOKENS


def _up_to_end(ids: Sequence[int], ends: set[int]) -> list[int]:
    """An answer with its end token, whichever that is, as the first of them; what follows is no part of it."""
    for place, id in enumerate(ids):
        if id in ends:
            return [*ids[:place], min(ends)]
    return list(ids)


def _parting(ours: Sequence[int], theirs: Sequence[int]) -> int:
    pairs = zip(ours, theirs, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))


def _first_difference(ours: Sequence[int], theirs: Sequence[int], spelled: Callable[[int], str]) -> str:
    place = _parting(ours, theirs)
    mine, other = (spelled(ids[place]) if place < len(ids) else "nothing" for ids in (ours, theirs))
    return f"from token {place + 1} on: {other}, in training {mine}"


def _place(row: Row) -> str:
    return one_line(f"{row.file}:{row.number}", 60)
