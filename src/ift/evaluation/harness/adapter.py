"""Our model as lm-evaluation-harness sees one: the log-likelihood of a text after another, and what the model writes.

The rules are those of the harness's own HFLM, so that numbers can be compared: what is too long loses its beginning, a
continuation of one token shares its forward with the others of its context, long documents are scored in windows, and
what is written ends before the first stop string. A text begins with the token that the model's tokenizer puts before
every text (Llama's, Gemma's), and a document of `loglikelihood_rolling` has it twice, as there. How it is computed is
ours (ift.generation).

Two things differ. Text is ordinary text: a document that spells "<|endoftext|>" gives the tokens of those characters,
where HFLM gives the end-of-text token. And where HFLM stops with an AssertionError we answer: a continuation longer
than the window is scored in windows, one without a token is certain (0, True), a generation that is to be as long as
the window gets half of it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor, distributed

from ift import stops
from ift.errors import ConfigError
from ift.evaluation.journal import Journal
from ift.evaluation.subject import Subject
from ift.generation.engine import Generated, generate
from ift.generation.fitting import Overlong, fit
from ift.generation.likelihoods import Likelihood, Window, log_likelihoods
from ift.generation.sampling import Sampling
from ift.generation.stop_strings import StopStrings
from ift.model.fingerprint import fingerprint
from ift.model.gpt import GPT
from ift.text.chat_template_export import export_chat_template
from ift.text.conversations import ROLES, Conversation, conversation_of, join_neighbours
from ift.text.encoding import encode_pieces, place_after, turn_end
from ift.text.published import END_OF_TEXT
from ift.text.templates import Piece
from ift.text.tokenizers import Place

BATCH_TOKENS = {"cpu": 4096, "cuda": 32768}  # that one forward computes at most, whatever the batch size
# arguments of a generation that say what we do anyway
NEUTRAL = (("num_beams", 1), ("repetition_penalty", 1.0), ("length_penalty", 1.0), ("num_return_sequences", 1))


class Rendered(str):
    """A prompt of the model's template: a string to look at and to pass around, with what it really is inside.

    Which of its tokens are an end-of-text is known from the pieces, never from the characters; and no text of a
    document is of this class, whatever it spells. It stands before a response that may have begun.
    """

    before: tuple[Piece, ...]
    opens: tuple[Piece, ...]  # what the template has the model write before an answer (nothing in most)
    begun: str  # the answer so far

    def __new__(cls, before: Iterable[Piece], opens: Iterable[Piece], begun: str) -> Rendered:
        pieces, opens = tuple(before), tuple(opens)
        opening = "".join(piece.text for piece in opens)
        shown = "".join(END_OF_TEXT if piece.end else piece.text for piece in pieces)
        rendered = super().__new__(cls, shown + (opening + begun if begun else ""))
        rendered.before, rendered.opens, rendered.begun = pieces, opens, begun
        return rendered

    def __add__(self, text: str) -> Rendered:
        return Rendered(self.before, self.opens, self.begun + text)

    @property
    def opening(self) -> str:
        return "".join(piece.text for piece in self.opens)

    @property
    def parts(self) -> tuple[list[Piece], str]:
        """All pieces up to the last special token before the answer's text, and that text as far as it has begun."""
        at = max((place + 1 for place, piece in enumerate(self.opens) if piece.special), default=0)
        return [*self.before, *self.opens[:at]], "".join(piece.text for piece in self.opens[at:]) + self.begun

    def __reduce__(self) -> Any:
        return Rendered, (self.before, self.opens, self.begun)


@dataclass(frozen=True)
class _Writing:
    """One request for text, as the generator takes it."""

    index: int  # in the list of requests
    ids: list[int]
    opening: str  # what the answer begins with and is no part of it
    stop: tuple[str, ...]
    limit: int  # tokens
    sampling: Sampling
    key: str


class IftLM(TemplateLM):
    """
    prompt     raw: contexts are what they are, as HFLM takes them. template: each stands in the model's own template,
               either by `simple_evaluate(apply_chat_template=True)`, which asks `apply_chat_template` for it, or as the
               instruction of a conversation of one turn; continuations are then scored, and texts written, as responses
    advance    called with the number of requests that have just been answered
    store      answers go here as soon as a batch is done, by what they depend on; what is there is not computed
               again. One file for each rank

    truncated  requests so far whose beginning did not fit the window
    shortened  generations so far that may be half the window long, since the task allows them all of it

    Raises ConfigError for prompt=template where the subject has no template.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        prompt: str,
        batch_size: int | None,
        batch_tokens: int | None = None,
        advance: Callable[[int], None] | None = None,
        store: Journal | None = None,
    ):
        super().__init__()
        if prompt not in ("raw", "template"):
            raise ConfigError(f"eval.prompts={prompt}: must be raw or template")
        if prompt == "template" and not subject.takes_instructions:
            raise ConfigError(f"eval.prompts=template: the {subject.label} model has no prompt template (use raw)")
        self.subject, self.prompt, self.batch_size, self.store = subject, prompt, batch_size, store
        self.advance = advance or (lambda requests: None)
        self.model: GPT = subject.model.eval()
        self._device = subject.device
        most = BATCH_TOKENS.get(self._device.type, BATCH_TOKENS["cpu"])
        self.batch_tokens = batch_tokens or (min(most, batch_size * self.max_length) if batch_size else most)
        self.truncated = self.shortened = 0
        self._encoded = lru_cache(maxsize=256)(lambda text, place="start": tuple(subject.tokenizer.encode(text, place)))

    # -- what the model is ---------------------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        return self.subject.tokenizer.end_of_text

    @property
    def prefix_token_id(self) -> int:
        """What a continuation without a context follows: the token that the tokenizer names as a beginning, if any."""
        return self.subject.tokenizer.before_nothing

    @property
    def max_length(self) -> int:
        return self.model.config.context_length

    @property
    def max_gen_toks(self) -> int:
        """What a task gets that does not say how long an answer may be: HFLM's 256, or half of a small window."""
        return min(256, self.max_length // 2)

    @property
    def tokenizer_name(self) -> str:
        """Of the tokens and of what is made of a prompt: the harness names its caches of requests after it."""
        template = self.subject.template if self.prompt == "template" else None
        return "-".join(
            [self.subject.tokenizer.name, self.subject.tokenizer.hash, *([template.hash] if template else [])]
        )

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The template as Jinja, for the records of a run."""
        return export_chat_template(self.subject.template) if chat_template and self.subject.template else ""

    def get_model_info(self) -> dict[str, Any]:
        return {
            "model_num_parameters": sum(p.numel() for p in self.model.parameters()),
            "model_dtype": str(self.model.compute_dtype).removeprefix("torch."),
            "model_revision": self.subject.label,
            "model_sha": self.model_hash,
        }

    @cached_property
    def model_hash(self) -> str:
        """Of all that the answers depend on besides the request: weights, their precision, and the tokens."""
        return fingerprint(self.model, self.subject.tokenizer.hash)

    # -- text and tokens -----------------------------------------------------------------------------------------------

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        left_truncate_len: int | None = None,
        **kwargs: Any,
    ) -> list[int]:
        """Ordinary tokens of ordinary text behind the model's beginning; of a prompt of the template, its tokens."""
        if isinstance(string, Rendered):
            ids = self._prompt_ids(string)
        else:
            ids = [*(self._beginning if add_special_tokens is not False else []), *self._encoded(string, "start")]
        return ids[-left_truncate_len:] if left_truncate_len else ids

    def tok_decode(self, tokens: int | Iterable[int], skip_special_tokens: bool = True) -> str:
        ids = [tokens] if isinstance(tokens, int) else list(tokens)
        tokenizer = self.subject.tokenizer
        hidden = tokenizer.special if skip_special_tokens else ()
        return tokenizer.decode([token for token in ids if token < tokenizer.vocab_size and token not in hidden])

    def apply_chat_template(
        self, chat_history: Sequence[dict[str, str]], add_generation_prompt: bool = True
    ) -> Rendered:
        """A conversation up to the response that is asked for, which has begun where the last message is the model's.

        A system text that the template has no place for stands before the first instruction (HFLM leaves it out).
        """
        template = self.subject.template if self.prompt == "template" else None
        if template is None:
            raise ConfigError("apply_chat_template: this model is asked in the raw form (use prompt=template)")
        conversation, begun = _conversation(chat_history)
        if template.missing_place(conversation) == "system":
            conversation = conversation.without_system()
        before, opens, _ = template.parts(conversation)
        return Rendered(before, opens, begun)

    def _in_template(self, context: str) -> str:
        """The context in the template, unless it already is. An empty one stays empty."""
        if self.prompt == "raw" or isinstance(context, Rendered) or not context:
            return context
        return self.apply_chat_template([{"role": "user", "content": context}])

    @property
    def _beginning(self) -> list[int]:
        """What stands before every text; nothing for most tokenizers of bytes."""
        first = self.subject.tokenizer.beginning
        return [] if first is None else [first]

    def _prompt_ids(self, prompt: Rendered) -> list[int]:
        pieces, text = prompt.parts if prompt.begun else (prompt.before, "")
        return self._piece_ids(pieces) + list(self._encoded(text, place_after(pieces)))

    def _piece_ids(self, pieces: Sequence[Piece]) -> list[int]:
        return [token for ids in encode_pieces(pieces, self.subject.tokenizer, self._encoded) for token in ids]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Raw: as the harness does, whole, and cut where the context alone ends, white space at its end left over.

        A response is encoded apart from its prompt, as in training. A space before it is the harness's, between context
        and continuation; the template has its own.
        """
        if not isinstance(context, Rendered):
            given, scored = self._cut(context, continuation, "start")
            return (self._beginning if context else []) + given, scored
        pieces, begun = context.parts
        before = self._piece_ids(pieces)
        if not context.begun and continuation.strip():
            continuation = continuation.removeprefix(" ")
        given, scored = self._cut(begun, continuation, place_after(pieces))
        return before + given, scored

    def _cut(self, context: str, continuation: str, place: Place = "start") -> tuple[list[int], list[int]]:
        bare = context.rstrip()
        whole, given = self._encoded(context + continuation, place), self._encoded(bare, place)
        if len(whole) <= len(given) and continuation:  # the border lies within a token
            return list(self._encoded(context, place)), list(self._encoded(continuation, "inside"))
        return list(given), list(whole[len(given) :])

    # -- log-likelihoods -----------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[Likelihood]:
        """(log-likelihood, greedy) of each (context, continuation). Without a context the beginning is given."""
        pairs = (self._encode_pair(self._in_template(context), text) for context, text in (r.args for r in requests))
        return self._score([self._windows(*pair) for pair in pairs])

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, Sequence[int], Sequence[int]]], **kwargs: Any
    ) -> list[Likelihood]:
        return self._score([self._windows(given, scored) for _, given, scored in requests])

    def _windows(self, given: Sequence[int], scored: Sequence[int]) -> list[Window]:
        given = given or [self.prefix_token_id]
        over = len(given) + len(scored) - self.max_length - 1
        self.truncated += over > 0
        if over >= len(given):
            return self._rolling(scored, given[-1])
        return [_window(given[max(0, over) :], scored)] if scored else []

    def _rolling(self, ids: Sequence[int], before: int) -> list[Window]:
        windows = get_rolling_token_windows(list(ids), before, self.max_length, context_len=1)
        return [_window(*make_disjoint_window(window)) for window in windows]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[float]:
        """Log-likelihood of each (document,), in windows of which each token is in one, the beginning before it."""
        texts = [request.args[0] for request in requests]
        scores = self._score([self._rolling(self.tok_encode(text), self.prefix_token_id) for text in texts])
        return [logprob for logprob, _ in scores]

    def _score(self, requests: Sequence[Sequence[Window]]) -> list[Likelihood]:
        """The sum over each request's windows, in order; requests of one content are one."""
        keys = [
            self._key("loglikelihood", [[part.tobytes().hex() for part in window] for window in windows])
            for windows in requests
        ]
        content = dict(zip(keys, requests, strict=True))
        waiting = Counter(keys)
        answers: dict[str, Likelihood] = {key: (0.0, True) for key, windows in content.items() if not windows}
        if self.store:
            kept = {key: self.store.lines[key] for key in content if key in self.store.lines}
            answers |= {key: (line["logprob"], line["greedy"]) for key, line in kept.items()}
        self.advance(sum(waiting[key] for key in answers))
        missing = [(key, window) for key, windows in content.items() if key not in answers for window in windows]
        parts: dict[str, list[Likelihood]] = defaultdict(list)  # windows so far, of requests that have more to come

        def ended(scores: dict[int, Likelihood]) -> None:
            for number, score in scores.items():
                parts[missing[number][0]].append(score)
            complete = [key for key in parts if len(parts[key]) == len(content[key])]
            done: dict[str, Likelihood] = {}
            for key in complete:
                logprobs, greedy = zip(*parts.pop(key), strict=True)
                done[key] = sum(logprobs), all(greedy)
            answers.update(done)
            self._keep({key: {"logprob": logprob, "greedy": greedy} for key, (logprob, greedy) in done.items()})
            self.advance(sum(waiting[key] for key in done))

        log_likelihoods(
            self.model,
            [window for _, window in missing],
            batch_tokens=self.batch_tokens,
            ended=ended,
        )
        return [answers[key] for key in keys]

    # -- texts ---------------------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        """What the model writes after each context of (context, arguments), up to the first of its stop strings.

        Raises ConfigError for an argument that changes the text and is not supported.
        """
        texts: dict[int, str] = {}
        groups: dict[tuple[Any, ...], list[_Writing]] = defaultdict(list)
        copies: dict[str, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            writing = self._writing(index, *request.args)
            copies[writing.key].append(index)
            if self.store and writing.key in self.store.lines:
                texts[index] = self.store.lines[writing.key]["text"]
            elif copies[writing.key][0] == index:
                groups[writing.stop, writing.opening, writing.limit, writing.sampling].append(writing)
        self.advance(len(texts))
        for group in groups.values():
            self._write(group, copies, texts)
        return [texts[index] for index in range(len(requests))]

    def _writing(self, index: int, context: str, arguments: dict[str, Any]) -> _Writing:
        """Raises ConfigError as generate_until does."""
        known = dict(normalize_gen_kwargs(arguments, self.max_gen_toks))
        stop = handle_stop_sequences(known.pop("until"), eos=self.subject.tokenizer.end_text)
        limit = known.pop("max_gen_toks")
        sampled, temperature = known.pop("do_sample"), float(known.pop("temperature", None) or 0)
        temperature = temperature if sampled else 0.0
        top_k, top_p = known.pop("top_k", None) or None, known.pop("top_p", None)
        sampling = Sampling(temperature, top_k, None if top_p == 1 else top_p)
        for name, value in known.items():
            if value is not None and (name, value) not in NEUTRAL:
                raise ConfigError(f"gen_kwargs: {name}={value}: cannot be done here (leave it out)")
        if limit >= self.max_length:
            limit = self.max_length // 2
            self.shortened += 1
        context = self._in_template(context)
        opening = ""
        if isinstance(context, Rendered):
            opening = "" if context.begun else context.opening
            closing = self._closing.strip()
            stop += [closing] if closing else []
        ids = self.tok_encode(context) or [self.prefix_token_id]
        fitted = fit([ids], Overlong.KEEP_END, context_length=self.max_length, max_new_tokens=limit)
        self.truncated += len(fitted.too_long)
        ids = list(fitted.prompts[0])
        number = index if temperature else 0  # a sample that is asked for again is another one
        key = self._key("generate", [ids, stop, limit, opening, temperature, sampling.top_k, sampling.top_p, number])
        return _Writing(index, ids, opening, tuple(filter(None, stop)), limit, sampling, key)

    @cached_property
    def _closing(self) -> str:
        """What the template has the model write after an answer."""
        assert self.subject.template
        return "".join(piece.text for piece in self.subject.template.render(Conversation("x"))[2])

    @cached_property
    def _spaced(self) -> bool:
        """Whether the tokenizer puts a space before a text, which the model's own library takes off what it wrote."""
        return self._encoded("a", "start") != self._encoded("a", "inside")

    @cached_property
    def _end(self) -> int:
        """The token that ends what the model writes: an answer of the template has its own."""
        template = self.subject.template if self.prompt == "template" else None
        return turn_end(template, self.subject.tokenizer) if template else self.eot_token_id

    def _write(self, group: Sequence[_Writing], copies: dict[str, list[int]], texts: dict[int, str]) -> None:
        """Answers of one group (stop strings, limit and sampling are the same) into texts; each is kept as it ends."""
        stop = StopStrings(group[0].stop, self.tok_decode, opening=group[0].opening)

        def ended(place: int, answer: Generated) -> None:
            key = group[place].key
            text = stop.text(answer.ids)
            text = text.removeprefix(" ") if self._spaced else text
            self._keep({key: {"text": text}})
            texts.update(dict.fromkeys(copies[key], text))
            self.advance(len(copies[key]))

        generate(
            self.model,
            [writing.ids for writing in group],
            end_of_text=self._end,
            max_new_tokens=group[0].limit,
            sampling=group[0].sampling,
            batch_size=self.batch_size,
            until=stop,
            streams=[writing.index for writing in group],
            ended=ended,
            progress=lambda rows: stops.check("between two answers"),
        )

    # -- answers that stay ---------------------------------------------------------------------------------------------

    def _key(self, kind: str, content: Any) -> str:
        """Names an answer by all that it depends on, where answers are kept; where not, by the request alone."""
        where = [self.model_hash, self.prompt] if self.store else []
        return hashlib.sha256(json.dumps([kind, *where, content]).encode()).hexdigest()[:32]

    def _keep(self, answers: dict[str, dict[str, Any]]) -> None:
        if self.store and answers:
            self.store.put_all(answers)

    # -- ranks ---------------------------------------------------------------------------------------------------------

    @property
    def rank(self) -> int:
        return distributed.get_rank() if _several() else 0

    @property
    def world_size(self) -> int:
        return distributed.get_world_size() if _several() else 1

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Tensors of all ranks one after the other; a number of each becomes a list of numbers."""
        mine = tensor.reshape(1) if tensor.dim() == 0 else tensor
        if not _several():
            return tensor
        parts = [torch.empty_like(mine) for _ in range(self.world_size)]
        distributed.all_gather(parts, mine.contiguous())
        return torch.cat(parts)

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        if not _several():
            return [obj]
        objects: list[Any] | None = [None] * self.world_size if self.rank == dst else None
        distributed.gather_object(obj, objects, dst)
        return objects

    def barrier(self) -> None:
        if _several():
            distributed.barrier()


def _window(given: Sequence[int], scored: Sequence[int]) -> Window:
    """A big evaluation has millions of tokens: as 4 bytes each."""
    return np.array(given, dtype=np.int32), np.array(scored, dtype=np.int32)


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _conversation(messages: Sequence[dict[str, str]]) -> tuple[Conversation, str]:
    """The conversation up to the last answer, and that answer as far as it is.

    Messages of one role that follow each other are one. Where a message of the other role is missing, it is empty.
    """
    for message in messages:
        if message["role"] not in ROLES:
            raise ConfigError(
                f"apply_chat_template: a message by {message['role']!r} (must be system, user or assistant)"
            )
    joined = join_neighbours((ROLES[message["role"]], message["content"]) for message in messages)
    begun = joined.pop()[1] if joined and joined[-1][0] == "assistant" else ""
    system = [joined.pop(0)] if joined and joined[0][0] == "system" else []
    turns: list[tuple[str, str]] = []
    for role, text in joined:
        role, due = "assistant" if role == "assistant" else "user", "assistant" if len(turns) % 2 else "user"
        turns += [(role, text)] if role == due else [(due, ""), (role, text)]
    return conversation_of([*system, *(turns or [("user", "")])]), begun
