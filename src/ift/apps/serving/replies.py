"""What clients get: pieces of answers as the objects of OpenAI's API, whole or one by one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ift.apps.serving.choices import Piece, Scored

_AS_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))  # json.dumps would make one for each token


@dataclass(frozen=True, kw_only=True)
class Head:
    """What all objects of one answer say alike. names: how each token is written, all of them different."""

    id: str
    created: int
    model: str
    fingerprint: str
    names: Sequence[str]
    token_bytes: Sequence[bytes]
    chat: bool
    usage: bool = False  # stream_options.include_usage

    def object(self, kind: str, choices: list[dict[str, Any]], usage: dict[str, int] | None) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
            **({"usage": usage} if usage is not None else {}),
        }


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


# -- whole -------------------------------------------------------------------------------------------------------------


def whole(head: Head, pieces: Iterable[Piece], *, answers: int, scored: bool, prompt_tokens: int) -> dict[str, Any]:
    """One object from all pieces of all answers. scored: log-probabilities are wanted."""
    texts: list[list[str]] = [[] for _ in range(answers)]
    scores: list[list[Scored]] = [[] for _ in range(answers)]
    ends: list[Piece] = [Piece(index) for index in range(answers)]
    for piece in pieces:
        texts[piece.index].append(piece.text)
        scores[piece.index] += piece.scores
        if piece.finish:
            ends[piece.index] = piece
    choices = []
    for index, end in enumerate(ends):
        text, logprobs = "".join(texts[index]), _logprobs(head, scores[index]) if scored else None
        said: dict[str, Any] = {"text": text}
        if head.chat:
            said = {"message": {"role": "assistant", "content": text, "refusal": None}}
        choices.append({"index": index, **said, "logprobs": logprobs, "finish_reason": end.finish})
    kind = "chat.completion" if head.chat else "text_completion"
    return head.object(kind, choices, usage(prompt_tokens, sum(end.tokens for end in ends)))


# -- streams -----------------------------------------------------------------------------------------------------------


def opening(head: Head, answers: int) -> Iterator[bytes]:
    """What comes before the first token: who speaks."""
    if head.chat:
        for index in range(answers):
            yield _chunk(head, index, {"role": "assistant", "content": ""})


def events(head: Head, piece: Piece, *, scored: bool) -> Iterator[bytes]:
    """A piece as events of a stream."""
    if piece.text or piece.scores:
        logprobs = _logprobs(head, piece.scores) if scored else None
        yield _chunk(head, piece.index, {"content": piece.text} if head.chat else piece.text, logprobs)
    if piece.finish:
        yield _chunk(head, piece.index, {} if head.chat else "", finish=piece.finish)


def closing(head: Head, prompt_tokens: int, completion_tokens: int) -> Iterator[bytes]:
    if head.usage:
        kind = "chat.completion.chunk" if head.chat else "text_completion"
        yield event(head.object(kind, [], usage(prompt_tokens, completion_tokens)))
    yield b"data: [DONE]\n\n"


def event(value: dict[str, Any]) -> bytes:
    return b"data: " + _AS_JSON.encode(value).encode() + b"\n\n"


def _chunk(head: Head, index: int, said: Any, logprobs: Any = None, finish: str | None = None) -> bytes:
    choice = {"index": index, "delta" if head.chat else "text": said, "logprobs": logprobs, "finish_reason": finish}
    value = head.object("chat.completion.chunk" if head.chat else "text_completion", [choice], None)
    return event({**value, "usage": None} if head.usage else value)


# -- log-probabilities -------------------------------------------------------------------------------------------------


def _logprobs(head: Head, scores: Sequence[Scored]) -> dict[str, Any]:
    if head.chat:
        return {"content": [_of_chat(head, one) for one in scores], "refusal": None}
    return {
        "tokens": [head.names[one.token] for one in scores],
        "token_logprobs": [one.logprob for one in scores],
        "top_logprobs": [_top(head, one) for one in scores],
        "text_offset": [one.offset for one in scores],
    }


def _of_chat(head: Head, scored: Scored) -> dict[str, Any]:
    top = [_token(head, token, logprob) for token, logprob in scored.top]
    return {**_token(head, scored.token, scored.logprob), "top_logprobs": top}


def _token(head: Head, token: int, logprob: float | None) -> dict[str, Any]:
    return {"token": head.names[token], "logprob": logprob, "bytes": list(head.token_bytes[token])}


def _top(head: Head, scored: Scored) -> dict[str, float] | None:
    """By the names of the tokens, the token itself always among them: programs look whether it is the likeliest."""
    if scored.logprob is None:
        return None
    return {head.names[token]: logprob for token, logprob in [*scored.top, (scored.token, scored.logprob)]}


def token_names(token_bytes: Sequence[bytes]) -> list[str]:
    """A name for each token, no two alike: its text; its bytes where they are no text, or another token has it."""
    names: list[str] = []
    taken: set[str] = set()
    for number, data in enumerate(token_bytes):
        escaped = "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
        try:
            candidates = [data.decode(), escaped]
        except UnicodeDecodeError:
            candidates = [escaped]
        if not data:
            candidates = []
        name = next((one for one in candidates if one not in taken), f"token_id:{number}")
        taken.add(name)
        names.append(name)
    return names
