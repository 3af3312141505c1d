"""The chat page that `ift serve` shows at `/`. It speaks OpenAI's API, as any other client does, and one route more.

POST /review keeps an answer that a person met in a talk, with what they say of it. Answers go into RUN/chat.jsonl, in
the form of responses.jsonl, and ratings where the review of that file has them (RUN/chat.ift/ratings.jsonl): not among
those of the test rows, whose mean would no longer be one of rows that nobody picked. `ift review RUN/chat.jsonl` opens
them all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from ift.apps.chat import Options
from ift.apps.local_page import Refused
from ift.apps.review import rater_of
from ift.apps.speaker import ModelPlace
from ift.errors import MachineError
from ift.evaluation.answers import Answer, open_answers, read_answers
from ift.evaluation.people import VERDICTS, Rating, Ratings
from ift.pages.page import Page
from ift.run import RunFolder, write_text
from ift.text.conversations import Conversation, conversation_of

PAGE = Page("chat_page", Path(__file__).parent, served=True, parts=("chat_talk", "chat_turns"))
LONGEST_ID = 64  # characters


class ChatPage:
    """The page, and what is kept of its talks."""

    def __init__(self, places: Mapping[str, ModelPlace]):
        """places: where each model of the server is, by the name under which it is served."""
        self.places = places
        self.policy = PAGE.policy
        self.posts: Mapping[str, Callable[[Any], dict[str, Any]]] = {"/review": self.review}
        self.rater = rater_of(None, ())

    def page(self) -> str:
        return PAGE.render(verdicts=list(VERDICTS), max_tokens=Options().max_new_tokens)

    def can_review(self, name: str) -> bool:
        """Whether answers of a model can be sent to the review: it is that of a run."""
        return _run(self.places[name]) is not None

    def review(self, value: Any) -> dict[str, Any]:
        """Keep an answer and its rating; what is sent twice under one id is kept once.

        {"model": NAME, "messages": [as they were asked], "answer": ..., "verdict": right, partly, wrong or null,
        "comment": ..., "id": ...}
        """
        if not isinstance(value, dict):
            raise Refused("not a request of this page")
        run, id = self._run_of(value.get("model")), value.get("id")
        if not isinstance(id, str) or not 0 < len(id) <= LONGEST_ID:
            raise Refused(f"id: must be text of at most {LONGEST_ID} characters")
        answer = _answer(value)
        try:
            rating = Rating.checked(value)
        except ValueError as error:
            raise Refused(str(error)) from error
        if not rating:
            raise Refused("verdict: say right, partly or wrong, or write a comment")
        kept = run.path / "chat.jsonl"
        _keep(kept, answer)
        Ratings(open_answers(kept).run.ratings).put(self.rater, answer.key, rating, id=id)
        return {"file": str(kept), "rater": self.rater}

    def _run_of(self, name: Any) -> RunFolder:
        place = self.places.get(name) if isinstance(name, str) else None
        if place is None:
            raise Refused("model: no model of this server has that name")
        run = _run(place)
        if run is None:
            raise Refused("model: it is not the model of a run, so there is no folder for its review")
        return run


def _run(place: ModelPlace) -> RunFolder | None:
    """The run whose best model it is."""
    if not isinstance(place.model, Path):
        return None
    run = RunFolder(place.model.parent)
    return run if place.model == run.model and (run.config.exists() or run.data_report.exists()) else None


def _answer(value: Mapping[str, Any]) -> Answer:
    """The last question is the instruction; what stood before it is its input, so that a reviewer knows the talk."""
    messages, text = value.get("messages"), value.get("answer")
    if not isinstance(text, str) or not text.strip():
        raise Refused("answer: must be text")
    try:
        said = [(message["role"], message["content"]) for message in messages or ()]
        if not all(isinstance(part, str) for message in said for part in message):
            raise TypeError
        talk: Conversation = conversation_of(said)
    except (TypeError, KeyError):
        raise Refused("messages: each must have a role and a text") from None
    except ValueError as error:
        raise Refused(f"messages: {error}") from error
    before = "\n\n".join(f"{role}: {content}" for role, content in said[:-1])
    whole = (part.encode("utf-8", "replace").decode() for part in (talk.instruction, before, text))
    instruction, input, response = whole
    return Answer(instruction, input, "", response, category="chat")


def _keep(path: Path, answer: Answer) -> None:
    """Add an answer to the file, once. Raises MachineError where it cannot be written, DataError for a damaged file."""
    try:
        with FileLock(path.with_suffix(".lock")):
            before = path.read_text(encoding="utf-8") if path.exists() else ""
            if before and any(one.key == answer.key for one in read_answers(path)):
                return
            row = {"instruction": answer.instruction, "input": answer.input, "reference": ""}
            row |= {"response": answer.response, "category": answer.category}
            write_text(path, before + json.dumps(row, ensure_ascii=False) + "\n")  # whole or not at all
    except OSError as error:
        raise MachineError(
            f"{path}: cannot be written: {error.strerror} (answers of the chat are kept there)"
        ) from error
