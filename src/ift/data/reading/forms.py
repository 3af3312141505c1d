"""Which form a record has, and which of its columns is used as what.

A form is told by a record's names alone. Those of whole tables are below: the common ones are read whole, a column that
nothing reads is counted and named, and one that reads like a part of the prompt stops the run.

    {"instruction", "context", "response", "category"}   ->   dolly: instruction, input, output, category

A name that differs from a known one only in case or white space around it is that one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from ift.data.reading.messages import MARKS as LEARNT
from ift.data.reading.messages import is_messages
from ift.data.reading.names import (
    DEFAULTS,
    FORMS,
    MANY,
    MESSAGES,
    ROLE_KEYS,
    SYNONYMS,
    folded_name,
    is_metadata_name,
    name_means,
    setting,
    spelled,
)
from ift.data.reading.values import holds, is_filled, is_mark, is_wordy, kind_of
from ift.text.conversations import role_of

PARTS = ("instruction", "input", "output", "system", "history", "category", "tools", "messages", "conversations")
# what further columns of a form are, where their texts would read like parts of a prompt
KNOWN = {
    "camel": dict.fromkeys(
        ("topic", "sub_topic", "role_1", "role_2", "original_task", "specified_task"), "who speaks of what"
    ),
    "question and answer": {"title": "about the row"},
    "orca": {"title": "about the row"},
    "query and response": {"original_question": "the question that this one was made from"},
    "self-instruct": dict.fromkeys(("name", "is_classification"), "a label"),
    "baize": {"topic": "the question that the conversation grew from"},
}
LISTS = ("turns", "data")  # that are messages only where they look like them
IGNORED = "left out by data.ignore"
MEDIA = ("images", "image", "audio", "audios", "video", "videos")
ROW_MARKS = ("media", "label", "weight")  # what is said of a whole row
LABELS = ("label", "kto_tag", "desirable", "is_chosen")  # of KTO; the first only beside prompt and completion
# a mark, and what its 1 or true says: that the row is learnt, or that it is not
WEIGHTS = {**LEARNT, "loss_mask": True, "train_on_turn": True}
# the better answer and the worse one; the second table: which is better stands in another column
PREFERENCES = (
    ("chosen", "rejected"),
    ("chosen_response", "rejected_response"),
    ("preferred", "dispreferred"),
    ("preferred", "rejected"),
    ("preferred_output", "non_preferred_output"),
    ("response_j", "response_k"),
    ("win", "lose"),
)
RIVALS = (
    ("response_0", "response_1"),
    ("response_1", "response_2"),
    ("response_a", "response_b"),
    ("answer_0", "answer_1"),
    ("output_a", "output_b"),
    ("conversation_a", "conversation_b"),
    ("human_ref_A", "human_ref_B"),
)
BODIES = ("content", "page_content", "raw_content", "body")  # texts without a prompt
# names whose kind of value decides, too
BY_KIND = {*MESSAGES, *LISTS, "prompt", "completion", "input", "segments", *LABELS}
# names of answers and of messages: a column is of a form only where it holds something, as tables have been merged
ANSWERS = {
    *(name.casefold() for name in (*MESSAGES, *LISTS, "text", "segments", "instances", "input_ids")),
    *(last for _, _, last in FORMS),
    *(name.casefold() for name in chain(*PREFERENCES, *RIVALS)),
}
DROPPED = ANSWERS.union(first for _, first, _ in FORMS) - {"input"}
DECIDING = BY_KIND | DROPPED


@dataclass(frozen=True)
class Plan:
    """What becomes of the records that have the same columns."""

    form: str | None  # None: none that is known
    keys: Mapping[str, str] = field(default_factory=dict)  # the record's name for each part that is there
    used: Mapping[str, str] = field(default_factory=dict)  # a column, and what it is used as
    known: Mapping[str, str] = field(default_factory=dict)  # a column that is not used, and why none is lost by it
    unknown: tuple[str, ...] = ()  # the other columns
    marks: tuple[tuple[str, str], ...] = ()  # media, label or weight, and the column
    problem: str = ""  # why these records are no rows


class Forms:
    """Plans by the columns of a record, each made once.

    fields: the names that the person gave to parts, None where the form decides. ignore: columns to leave out.
    """

    def __init__(self, fields: Mapping[str, str | None], ignore: Collection[str] = ()):
        self.given = {part: name for part, name in fields.items() if name}
        self.ignore = frozenset(ignore)
        self._kinds: dict[tuple[str, ...], tuple[str, ...]] = {}  # of columns: those whose kind of value decides too
        self._plans: dict[tuple[Any, ...], Plan] = {}

    def plan(self, record: dict[str, Any]) -> Plan:
        names = tuple(record)
        deciding = self._kinds.get(names)
        if deciding is None:
            if len(self._kinds) >= MANY:
                self._kinds.clear()
                self._plans.clear()
            given = {self.given.get(part) for part in ("messages", "conversations", "output", "instruction")}
            deciding = tuple(name for name in names if folded_name(name) in DECIDING or name in given)
            self._kinds[names] = deciding
        key: tuple[Any, ...] = (names, *(_kind(record[name]) for name in deciding)) if deciding else names
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._planned(record)
        return plan

    def leave(self, name: str) -> str:
        """What to type to leave out a column, and those that are left out now."""
        return setting("data.ignore", [*sorted(self.ignore), name])

    def _planned(self, record: dict[str, Any]) -> Plan:
        left = [name for name in record if name not in self.ignore]
        given = {*self.given.values()}
        filled = [name for name in left if name in given or folded_name(name) not in DROPPED or holds(record[name])]
        first = next((name for name in left if folded_name(name) == "instruction"), None)
        if first is not None and first not in filled and any(folded_name(name) == "output" for name in filled):
            filled = [name for name in left if name in filled or name == first]  # the question may be in the input
        names = _Names(filled, self.given)
        form, problem = self._form(record, names)
        if form is None and filled != left:  # what is empty is all there is
            names = _Names(left, self.given)
            form, problem = self._form(record, names)
        keys = names.taken
        used = {key: part.partition(" ")[0] for part, key in keys.items() if not part.startswith("media")}
        known = {key: IGNORED for key in record if key in self.ignore}
        known |= {key: "no text" for part, key in keys.items() if part.startswith("media")}
        if form is not None:
            about = KNOWN.get(form, {})
            known |= {key: about[folded_name(key)] for key in names.left() if folded_name(key) in about}
        unknown = tuple(key for key in names.left() if key not in known)
        marks = tuple(
            (part.partition(" ")[0], key)
            for part, key in keys.items()
            if part.split()[0] in ("media", "label", "weight")
        )
        return Plan(form, dict(keys), used, known, unknown, marks, problem)

    def _form(self, record: Mapping[str, Any], names: _Names) -> tuple[str | None, str]:
        """The form, with its parts taken from the names; or None, or what is wrong with records of this kind."""
        given, ignored = self.given, sorted(self.ignore)
        for part in ("category", "system"):
            names.take(part, *DEFAULTS[part])
        is_pair = bool(names.find("prompt") and names.find("completion"))
        is_kto = is_pair or any(map(names.find, (*MESSAGES, "instruction")))  # elsewhere, 0 or 1 may be a class
        for mark, known in (("label", LABELS), ("weight", WEIGHTS), ("media", MEDIA)):
            for name in known:
                key = names.find(name)
                if key and (name != "label" or (is_kto and is_mark(record[key], plain=not is_pair))):
                    names.taken[f"{mark} {key}"] = key
        if not given.keys() & {"instruction", "output", "messages", "conversations"}:
            problem = _other_kind(record, names, ignored)
            if problem:
                return None, problem
            form = _published(record, names)
            if form == "segments":
                return self._alone(form, names)
            if form:
                names.take("input")
                return form, ""
        talk = self._talk(record, names)
        if talk:
            return talk
        return self._texts(record, names)

    def _talk(self, record: Mapping[str, Any], names: _Names) -> tuple[str | None, str] | None:
        """The form of records that hold a list of messages, None where they do not."""
        given = self.given
        chosen, pair = (given.get("messages"), given.get("conversations")), False
        prompt = names.find("prompt")
        has_prompt = prompt is not None and _is_talk(record[prompt])
        key: str | None
        said = given.get("output")
        question = given.get("instruction") or names.find(*(first for _, first, _ in FORMS))
        if (
            said in names and question and question in names and is_messages(record[str(said)])
        ):  # a text, and its answer as a message
            key, pair = question, True
            if "instruction" in given and given["instruction"] == question:
                given = {part: name for part, name in given.items() if part != "instruction"}
        elif any(chosen):
            key = next((name for name in chosen if name and name in names and _is_talk(record[name])), None)
        elif self._texts_are_chosen(names) and not has_prompt:
            return None
        else:
            key = next((key for name in MESSAGES if (key := names.find(name)) and _is_talk(record[key])), None)
            if key is None:
                key = next((key for name in LISTS if (key := names.find(name)) and _is_said(record[key])), None)
            if key is None and has_prompt and (given.get("output") in names or names.find("completion")):
                key, pair = prompt, True
        if key is None:
            return None
        for part in ("instruction", "history"):
            if part in given:
                what = setting(f"data.fields.{part}", given[part])
                return None, f'{what}: rows of messages ("{key}") hold it themselves (leave it out)'
        names.put("messages", key)
        names.take("output", *(("completion",) if pair else ()))
        names.take("input")
        names.take("tools", *DEFAULTS["tools"])
        if pair:
            return "prompt", ""
        return "conversations" if key == "conversations" or key == given.get("conversations") else "messages", ""

    def _texts_are_chosen(self, names: _Names) -> bool:
        """Whether the person named texts, so that a list of messages beside them is not what is meant."""
        given = self.given
        first = given.get("instruction") in names or names.find(*(first for _, first, _ in FORMS))
        last = given.get("output") in names or names.find(*(last for _, _, last in FORMS))
        return bool(given.keys() & {"instruction", "output"} and first and last)

    def _texts(self, record: Mapping[str, Any], names: _Names) -> tuple[str | None, str]:
        """The form of records whose columns are texts."""
        given = self.given
        form = None
        if given.keys() & {"instruction", "output"}:
            names.take("instruction", *(first for _, first, _ in FORMS))
            names.take("output", *(last for _, _, last in FORMS))
            pair = (names.taken.get("instruction"), names.taken.get("output"))
            if pair[1] and not pair[0] and "instruction" not in given:
                form = "text"
            elif all(pair):
                form = next((name for name, first, last in FORMS if (first, last) == pair), "alpaca")
        else:
            for name, first, last in FORMS:
                if names.find(first) and names.find(last):
                    names.take("instruction", first)
                    names.take("output", last)
                    form = name
                    break
            if form is None and names.find("text") and not self._nearly(names):
                names.take("output", "text")
                form = "text"
        if form is None:
            return None, self._missing(record, names)
        if form != "text":
            for part in ("input", "history", "tools"):
                names.take(part, *DEFAULTS[part])
        for part in ("messages", "conversations"):
            if part in given and given[part] in names and record[given[part]] is not None:
                return None, f'"{given[part]}" is {kind_of(record[given[part]])}, not a list of messages'
        return self._alone(form, names) if form == "text" else (form, "")

    def _alone(self, form: str, names: _Names) -> tuple[str | None, str]:
        """A form of texts alone; none where the person gave a part of a prompt, which has no place there."""
        for part in ("input", "system", "history"):
            if self.given.get(part) in names:
                what = setting(f"data.fields.{part}", self.given[part])
                other = "leave it out" if form == "segments" else "leave it out, or add data.fields.instruction=COLUMN"
                return None, f"{what}: rows of {form} alone have no prompt to put it into ({other})"
        return form, ""

    def _nearly(self, names: _Names) -> bool:
        """Whether there is an instruction or an output, so that a text beside it is not all there is."""
        return any(names.find(name) for _, first, last in FORMS for name in (first, last))

    def _missing(self, record: Mapping[str, Any], names: _Names) -> str:
        """What records of no known form lack, with the line to type."""
        for part in ("messages", "conversations"):
            key = self.given.get(part) or part
            if key in names and not names.find("instruction"):
                return f'"{key}" is {kind_of(record[key])}, not a list of messages'
        lacks = {part: self.given.get(part, part) for part in ("instruction", "output")}
        lacks = {part: name for part, name in lacks.items() if not (name in names or names.find(name))}
        if "output" in lacks and names.find(*(first for _, first, _ in FORMS)):
            lacks.pop("instruction", None)
        first = next(iter(lacks), "output")
        has = ", ".join(spelled(key) for key in list(record)[:6]) or "no fields"
        return f'no "{lacks.get(first, first)}" (it has: {has}; set {self._likely(first, lacks, record, names)})'

    def _likely(self, first: str, lacks: Mapping[str, str], record: Mapping[str, Any], names: _Names) -> str:
        """The columns that the person may mean by what is missing, as they are typed."""
        talk = next((key for key in names.left() if is_messages(record[key])), None)
        guesses: dict[str, str] = {}
        left = [
            key
            for key in names.left()
            if sum(any(name_means(key, known) for known in SYNONYMS[p]) for p in SYNONYMS) < 2
        ]
        for part in (*lacks, "input"):
            key = next((key for known in SYNONYMS[part] for key in left if name_means(key, known)), None)
            if key and key not in guesses.values():
                guesses[part] = key
        if "instruction" in lacks and "instruction" not in guesses and {"input", "output"} <= guesses.keys():
            guesses["instruction"] = guesses.pop("input")  # a text and what was made of it
            guesses = {part: guesses[part] for part in ("instruction", "output")}
        texts = [key for key in names.left() if isinstance(record[key], str) and not is_metadata_name(key)]
        texts = [key for key in texts if is_wordy(record[key])] or [key for key in texts if folded_name(key) in BODIES]
        if first not in guesses and not talk and len(texts) == 1 and not self.given and first == "instruction":
            return f"prompt=none {setting('data.fields.output', texts[0])}"
        if first not in guesses:
            return setting("data.fields.messages", talk) if talk else f"data.fields.{first}=..."
        if names.find("input") or set(guesses) == {"input"} or "instruction" not in lacks:
            guesses.pop("input", None)  # it is read as it is, or not what is missing
        return " ".join(setting(f"data.fields.{part}", key) for part, key in guesses.items())


def _is_called(key: str, part: str) -> bool:
    return any(name_means(key, known) for known in SYNONYMS[part])


class _Names:
    """The columns of a record, and the parts that they were taken for."""

    def __init__(self, names: Sequence[str], given: Mapping[str, str]):
        self.names, self.given = names, given
        self.taken: dict[str, str] = {}
        self._folded: dict[str, str | None] = {}
        for name in names:
            folded = folded_name(name)
            self._folded[folded] = None if folded in self._folded else name  # of two that look alike neither

    def __contains__(self, name: Any) -> bool:
        return name in self.names

    def find(self, *spelled: str) -> str | None:
        """The first of these that is a column and free, exactly or but for case and white space."""
        busy = {*self.taken.values(), *self.given.values()}
        for name in spelled:
            key = name if name in self.names else self._folded.get(folded_name(name))
            if key is not None and key not in busy:
                return key
        return None

    def take(self, part: str, *defaults: str) -> None:
        """The column that was given for a part, else the first of the defaults that is there."""
        given = self.given.get(part)
        if given is not None:
            if given in self.names:
                self.taken[part] = given
            return
        key = self.find(*defaults)
        if key is not None:
            self.taken[part] = key

    def put(self, part: str, key: str) -> None:
        self.taken[part] = key

    def left(self) -> list[str]:
        busy = set(self.taken.values())
        return [name for name in self.names if name not in busy]


def _other_kind(record: Mapping[str, Any], names: _Names, ignored: Sequence[str]) -> str:
    """What records are that no training of this kind can use, or nothing."""
    if names.find("input_ids"):
        return "tokens of another program (input_ids), not text (give the rows of text that they were made from)"
    for better, worse in PREFERENCES:
        good, bad = names.find(better), names.find(worse)
        if good and bad:
            how = _plain(record, names, good, bad, ignored)
            return f"preference rows ({good}, {bad}), which are not learnt as pairs {how}"
    for one, other in RIVALS:
        good, bad = names.find(one), names.find(other)
        if good and bad:
            whole = _is_talk(record[good]) and not _begins_with_an_answer(record[good])
            part = "data.fields.messages" if whole else "data.fields.output"
            what = f"{setting(part, good)} {setting('data.ignore', [*ignored, bad])}"
            return f"preference rows ({good}, {bad}), which are not learnt as pairs (for one of them: {what})"
    if names.find("message_id") and names.find("parent_id") and names.find("role"):
        return (
            "one message of a tree, whose others do not stand beside it (sort by message_tree_id, or give whole trees)"
        )
    turns = names.find("turns")
    answered = turns and (is_messages(record[turns]) or any(names.find(last) for _, _, last in FORMS))
    if turns and isinstance(record[turns], list) and not answered:
        return "prompts without answers (turns): there is nothing to learn (give rows that have answers)"
    return ""


def _plain(record: Mapping[str, Any], names: _Names, good: str, bad: str, ignored: Sequence[str]) -> str:
    """What to type to learn the better answers of preference rows, in brackets."""
    leave = setting("data.ignore", [*ignored, bad])
    prompt = names.find(*(first for _, first, _ in FORMS))
    if prompt and isinstance(record[prompt], dict):  # OpenAI's: {"messages": [...]}
        return f'(for the chosen answers alone: write rows of messages, those of "{prompt}" and then "{good}")'
    talk = names.find(*MESSAGES)
    if _begins_with_an_answer(record[good]) and (talk or (prompt and isinstance(record[prompt], str))):
        how = f"{setting('data.fields.output', good)} {leave}"
    elif _is_talk(record[good]) and not (prompt and _is_talk(record[prompt])):
        how = f"{setting('data.fields.messages', good)} {leave}"
    elif prompt and _is_talk(record[prompt]):
        how = f"{setting('data.fields.messages', prompt)} {setting('data.fields.output', good)} {leave}"
    elif prompt:
        how = f"{setting('data.fields.output', good)} {leave}"
    else:  # Anthropic's HH: a whole conversation as one text
        how = f"prompt=none {setting('data.fields.output', good)} {leave}, or split them into messages"
    return f"(for the chosen answers alone: {how})"


def _published(record: Mapping[str, Any], names: _Names) -> str | None:
    """The form of data sets with a structure of their own, which ift.data.reading.published reads."""
    prompt, text = names.find("prompt"), names.find("input")
    if prompt and isinstance(record[prompt], dict) and "replies" in record[prompt]:
        names.put("messages", prompt)
        return "oasst"
    segments = names.find("segments")
    if segments and isinstance(record[segments], list):
        names.put("output", segments)
        return "segments"
    instances = names.find("instances")
    if instances and names.find("instruction"):
        names.take("instruction", "instruction")
        names.put("output", instances)
        return "self-instruct"
    if text and not names.find("output") and isinstance(record[text], str) and "[|Human|]" in record[text]:
        names.put("messages", text)
        return "baize"
    return None


def _kind(value: Any) -> Any:
    """What matters of a value's kind: text that holds a list, or a conversation, is another kind of text."""
    if type(value) is str:
        if len(value) < 8:
            return (is_mark(value), is_mark(value, plain=True)) if holds(value) else None
        if value[0] in " \t\r\n[":
            return None if not holds(value) else "messages" if is_messages(value) else str
        return "[|" if "[|Human|]" in value else str
    if isinstance(value, list):
        return (list, is_messages(value), _is_said(value)) if value else None
    if isinstance(value, dict):
        return (dict, is_messages(value), "replies" in value) if value else None
    return ("mark", is_mark(value, plain=True)) if is_mark(value) else type(value) if is_filled(value) else None


def _is_talk(value: Any) -> bool:
    return isinstance(value, list) or is_messages(value)


def _is_said(value: Any) -> bool:
    """Whether it is messages, or texts of two who speak in turn (UltraChat)."""
    return is_messages(value) or (isinstance(value, list) and len(value) > 1 and isinstance(value[0], str))


def _begins_with_an_answer(value: Any) -> bool:
    """Whether it is a message of the assistant, or messages of which the first is."""
    first = value[0] if isinstance(value, list) and value else value
    if not isinstance(first, dict):
        return False
    spoken = next((first[key] for key in ROLE_KEYS if first.get(key) is not None), None)
    try:
        return isinstance(spoken, str) and role_of(spoken, 1) == "assistant"
    except ValueError:
        return False
