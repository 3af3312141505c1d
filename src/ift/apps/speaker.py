"""A model that a person talks to: a run's best one, or a published one with its own template."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ift.artifacts.adapter_folder import is_adapter
from ift.artifacts.download import is_name
from ift.errors import ConfigError
from ift.run import RunFolder, read_object
from ift.settings import CheckSettings
from ift.text.conversations import Conversation
from ift.text.encoding import encode_prompt

if TYPE_CHECKING:
    from ift.artifacts.bases import Bases
    from ift.generation.engine import Generated
    from ift.generation.sampling import Sampling
    from ift.model.gpt import GPT
    from ift.text.templates import Template
    from ift.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class Reply:
    """An answer. text is as the template has answers: without its closing text and white space around it."""

    text: str
    stop_reason: str  # see Generated
    tokens: int
    prompt_tokens: int
    first_seconds: float  # until the first token
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class ModelPlace:
    """Where a model is, and what its run says about its rows."""

    name: str
    model: Path | CheckSettings  # the folder of a tuned model; else what decides how a published one is asked
    single_turns: bool = False  # no row that it was tuned on had an earlier turn

    @classmethod
    def find(cls, where: str, published: Callable[[str], CheckSettings]) -> ModelPlace:
        """A run, its model folder, a folder that transformers wrote, or a name on the Hub. Needs no torch.

        published: the settings for the last two. Raises ConfigError where there is none of these.
        """
        path = Path(where)
        run = RunFolder(path)
        if (run.model / "prompt.json").exists():
            rows_with = read_object(run.data_report, advice="")[0].get("rows_with")
            single_turns = isinstance(rows_with, dict) and rows_with.get("history") == 0
            return cls(path.resolve().name, run.model, single_turns)
        if (path / "prompt.json").exists():
            return cls(path.resolve().name, path)
        if (path / "config.json").exists() or is_adapter(path) or is_name(where):
            return cls(path.resolve().name, published(where))
        raise ConfigError(f"{where}: neither a run with a model nor a model folder (give a run's output_dir)")


class Speaker:
    """One model and its template. One thread asks it."""

    def __init__(self, place: ModelPlace, model: GPT, tokenizer: Tokenizer, template: Template):
        self.name = place.name
        self.model, self.tokenizer, self.template = model, tokenizer, template

    @classmethod
    def open(
        cls, place: ModelPlace, *, accelerator: str = "auto", precision: str = "auto", bases: Bases | None = None
    ) -> Speaker:
        """bases: of others that are opened too, to share weights with.

        Raises WeightsError where the folder is no whole model, MachineError for a device that is not there."""
        from ift.artifacts.machine import placed
        from ift.artifacts.model_folder import load_model_folder, load_published

        if isinstance(place.model, Path):
            model, tokenizer, template = load_model_folder(place.model, bases)
        else:
            model, tokenizer, template = load_published(place.model.model, place.model.prompt, bases)
        return cls(place, placed(model, accelerator, precision), tokenizer, template)

    def fitted(self, conversation: Conversation) -> tuple[Conversation, int]:
        """The conversation without as many of its oldest turns as leave no position for an answer, and how many.

        Raises ConfigError where not even the last question fits, or the template cannot put it.
        """
        longest = self.model.config.context_length - 1
        left_out = 0
        while True:
            refused = self.template.refusal(conversation)
            if refused:
                raise ConfigError(refused)
            if len(self.prompt(conversation)) <= longest:
                return conversation, left_out
            if not conversation.history:
                raise ConfigError(f"the question alone fills the context of {longest + 1} tokens (ask a shorter one)")
            conversation, left_out = replace(conversation, history=conversation.history[1:]), left_out + 1

    def prompt(self, conversation: Conversation) -> list[int]:
        return encode_prompt(conversation, self.template, self.tokenizer)

    def answering(
        self,
        conversation: Conversation,
        *,
        sampling: Sampling,
        max_new_tokens: int,
        show: Callable[[str], None],
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Reply | None]:
        """Yields None after each step and the answer last: whoever asks decides when the next step comes.

        show: called with each piece of the answer's text as it comes; white space around the answer is left out.
        """
        from ift.generation.engine import Engine, Request
        from ift.generation.streaming import TextStream
        from ift.model.linear import prepared

        start = time.perf_counter()
        prompt = self.prompt(conversation)
        pieces = Trimmed(show)
        firsts: list[float] = []
        ends: list[Generated] = []
        text = TextStream(self.tokenizer.decode_bytes, [self.closing(conversation)], pieces)

        def on_token(_: int) -> None:
            if not firsts:
                firsts.append(time.perf_counter() - start)

        def on_end(answer: Generated) -> None:
            text.end()
            ends.append(answer)

        with prepared(self.model):
            engine = Engine(self.model, slots=1, capacity=len(prompt) + max_new_tokens)
            number = engine.submit(
                Request(
                    prompt=prompt,
                    max_new_tokens=max_new_tokens,
                    sampling=sampling,
                    end_tokens={self.tokenizer.end_of_text, *self.model.stops},
                    until=text,
                    on_token=on_token,
                    on_end=on_end,
                )
            )
            while engine.busy:
                engine.step()
                if cancelled():
                    engine.cancel(number)
                yield None
        seconds = time.perf_counter() - start
        answer = ends[0]
        first = firsts[0] if firsts else seconds
        said = self.template.clean(pieces.text, conversation)
        yield Reply(said, answer.stop_reason, len(answer.ids), len(prompt), first, seconds)

    def closing(self, conversation: Conversation) -> str:
        """The text with which the template ends an answer; a model that writes it has ended."""
        return "".join(piece.text for piece in self.template.render(conversation)[2]).strip()


class Trimmed:
    """Hands text on without white space at its beginning and end: that at an end waits for what follows it."""

    def __init__(self, show: Callable[[str], None]):
        self.show, self.text, self._shown = show, "", 0

    def __call__(self, piece: str) -> None:
        self.text = (self.text + piece) if self.text else piece.lstrip()
        size = len(self.text.rstrip())
        if size > self._shown:
            self.show(self.text[self._shown : size])
            self._shown = size
