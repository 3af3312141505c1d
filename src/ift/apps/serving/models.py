"""A model that is served: its name, what its prompts are made of, what its tokens are called."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ift.apps.serving.choices import Order
from ift.apps.serving.problems import ApiError, wrong
from ift.apps.serving.replies import token_names
from ift.apps.serving.requests import CHAT_TOKENS, COMPLETION_TOKENS, ChatWanted, CompletionWanted, Wanted
from ift.apps.speaker import ModelPlace, Speaker
from ift.artifacts.bases import Bases
from ift.generation.engine import common_prefix
from ift.generation.sampling import Sampling
from ift.model.fingerprint import fingerprint
from ift.text.conversations import Conversation
from ift.text.encoding import encode_text


@dataclass(frozen=True)
class Served:
    """One thread calls the methods that make orders: templates and tokenizers are asked from there alone."""

    name: str
    speaker: Speaker
    single_turns: bool  # no row that it was tuned on had an earlier turn
    fingerprint: str
    created: int

    @classmethod
    def open(
        cls, name: str, place: ModelPlace, *, accelerator: str, precision: str, bases: Bases | None = None
    ) -> Served:
        """Raises as Speaker.open."""
        speaker = Speaker.open(place, accelerator=accelerator, precision=precision, bases=bases)
        found = fingerprint(speaker.model, speaker.tokenizer.hash, speaker.template.hash)
        return cls(name, speaker, place.single_turns, f"fp_{found}", int(time.time()))

    @property
    def context_length(self) -> int:
        return self.speaker.model.config.context_length

    @cached_property
    def token_bytes(self) -> list[bytes]:
        config = self.speaker.model.config
        return [self._bytes_of(token) for token in range(config.tokens or config.vocab_size)]

    def _bytes_of(self, token: int) -> bytes:
        try:
            return self.speaker.tokenizer.decode_bytes([token])
        except KeyError:  # a row of the embedding that no token has
            return b""

    def decode_bytes(self, ids: list[int]) -> bytes:
        return b"".join([self.token_bytes[token] for token in ids])

    @cached_property
    def names(self) -> list[str]:
        return token_names(self.token_bytes)

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        return frozenset({self.speaker.tokenizer.end_of_text, *self.speaker.model.stops})

    @cached_property
    def prefix(self) -> list[int]:
        """What prompts of one turn begin with."""
        if self.speaker.template.refusal(Conversation("a")):
            return []
        prefix = common_prefix([self.speaker.prompt(Conversation(text)) for text in ("a", "b c")])
        return prefix if len(prefix) < min(256, self.context_length // 2) else []

    def to_json(self) -> dict[str, object]:
        """As /v1/models lists it; the last three are ours, and context_length is vLLM's max_model_len."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "ift",
            "max_model_len": self.context_length,
            "single_turns": self.single_turns,
            "template": self.speaker.template.name,
        }

    # -- orders --------------------------------------------------------------------------------------------------------

    def chat_orders(self, wanted: ChatWanted) -> list[Order]:
        """Raises ApiError where the template cannot put the messages, or the context is too short for them."""
        conversation, speaker = wanted.conversation, self.speaker
        refused = speaker.template.refusal(conversation)
        if refused:
            raise wrong("messages", refused)
        self._fits_at_all(sum(map(len, _texts(conversation))), "messages")
        prompt = speaker.prompt(conversation)
        self._fits(prompt, "messages", most=self.context_length - 1)
        stops = tuple(filter(None, (speaker.closing(conversation), *wanted.stop)))
        order = self._order(wanted, prompt, CHAT_TOKENS, trim=True)
        return [
            replace(order, index=number, stops=stops, sampling=replace(order.sampling, stream=number))
            for number in range(wanted.n)
        ]

    def completion_orders(self, wanted: CompletionWanted) -> list[Order]:
        """Raises ApiError where a prompt is too long or holds what is no token."""
        orders: list[Order] = []
        tokenizer = self.speaker.tokenizer
        for place, given in enumerate(wanted.prompts):
            param = "prompt" if len(wanted.prompts) == 1 else f"prompt[{place}]"
            if isinstance(given, str):
                self._fits_at_all(len(given), param)
                prompt = encode_text(given, tokenizer) or [tokenizer.before_nothing]
                echo, beginning = given, len(prompt) - len(tokenizer.encode(given, "start"))
            else:
                prompt, beginning = self._checked(given, param), 0
                echo = self.decode_bytes(prompt).decode(errors="replace") if wanted.echo else ""
            self._fits(prompt, param, most=self.context_length - (0 if wanted.echo else 1))
            order = self._order(wanted, prompt, COMPLETION_TOKENS, trim=False)
            order = replace(order, echo=echo if wanted.echo else None, beginning=beginning)
            for _ in range(wanted.n):
                number = len(orders)
                orders.append(replace(order, index=number, sampling=replace(order.sampling, stream=number)))
        return orders

    def _order(self, wanted: Wanted, prompt: Sequence[int], limit: int, *, trim: bool) -> Order:
        limit = limit if wanted.max_tokens is None else wanted.max_tokens
        if limit > self.context_length and wanted.max_tokens is not None:
            raise wrong(wanted.max_tokens_name, f"must be {self.context_length} or less, which is all of the context")
        seed = secrets.randbits(63) if wanted.seed is None else wanted.seed % 2**64
        sampling = Sampling(
            wanted.temperature,
            wanted.top_k,
            wanted.top_p,
            seed=seed,
            repetition_penalty=wanted.repetition_penalty,
        )
        return Order(
            index=0, prompt=prompt, max_tokens=limit, sampling=sampling, stops=wanted.stop, trim=trim, top=wanted.top
        )

    def _checked(self, ids: Sequence[int], param: str) -> list[int]:
        most = len(self.token_bytes)
        if not all(0 <= token < most for token in ids):
            raise wrong(param, f"holds a number that is no token of this model (0 to {most - 1})")
        return list(ids)

    @cached_property
    def _longest_token(self) -> int:
        return max(map(len, self.token_bytes))

    def _fits_at_all(self, characters: int, param: str) -> None:
        """Refuse before the tokenizer is asked what can be no prompt however long its tokens are."""
        if characters > self.context_length * self._longest_token:
            raise self._too_long(param, f"{characters} characters")

    def _fits(self, prompt: Sequence[int], param: str, *, most: int) -> None:
        if len(prompt) > most:
            raise self._too_long(param, f"{len(prompt)} tokens")

    def _too_long(self, param: str, size: str) -> ApiError:
        what = f"{size} do not fit the context of {self.context_length} tokens with room for an answer"
        return wrong(param, what, "context_length_exceeded")


def _texts(conversation: Conversation) -> list[str]:
    history = [text for turn in conversation.history for text in turn]
    return [conversation.system, conversation.instruction, *history]
