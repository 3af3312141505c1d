"""Which form a record has, and which of its columns is used as what.

A form is told by a record's names alone. Those of whole tables are below: the common ones are read whole, a column that
nothing reads is counted and named, and one that reads like a part of the prompt stops the run.

    {"instruction", "context", "response", "category"}   ->   dolly: instruction, input, output, category

A name that differs from a known one only in case or white space around it is that one.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any

from ift.data.reading.messages import MARKS as LEARNT
from ift.data.reading.messages import ROLE_KEYS, is_messages, kind_of
from ift.text.conversations import Conversation, role_of

PARTS = ("instruction", "input", "output", "system", "history", "category", "tools", "messages", "conversations")

# name, instruction, output: the first whose two columns a record has
FORMS = (
    ("alpaca", "instruction", "output"),
    ("dolly", "instruction", "response"),
    ("prompt", "prompt", "completion"),
    ("prompt and response", "prompt", "response"),
    ("question and answer", "question", "answer"),
    ("orca", "question", "response"),
    ("query and response", "query", "response"),
    ("input and output", "input", "output"),
    ("inputs and targets", "inputs", "targets"),
    ("vertex", "input_text", "output_text"),
    ("problem and solution", "problem", "solution"),
    ("camel", "message_1", "message_2"),
)
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
MESSAGES = ("messages", "conversations", "conversation", "contents", "dialog", "dialogue", "chat", "talk")
LISTS = ("turns", "data")  # that are messages only where they look like them
DEFAULTS = {
    "input": ("input", "context"),
    "system": ("system", "system_prompt", "system_instruction", "systemInstruction", "system_message"),
    "history": ("history",),
    "category": ("category",),
    "tools": ("tools", "functions"),
}
IGNORED = "left out by data.ignore"
MEDIA = ("images", "image", "audio", "audios", "video", "videos")
MARKS = ("media", "label", "weight")  # what is said of a whole row
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
# what data sets call a field: for the line to type, never to guess in silence
SYNONYMS = {
    "instruction": (
        *("instruction", "prompt", "question", "query", "ask", "problem", "user", "request", "q", "inputs", "instruct"),
        *(
            "human",
            "frage",
            "pregunta",
            "pergunta",
            "domanda",
            "вопрос",
            "指令",
            "问题",
            "問題",
            "质问",
            "質問",
            "질문",
        ),
    ),
    "input": (
        "input",
        "context",
        "passage",
        "document",
        "article",
        "dialogue",
        "dialog",
        "source",
        "src",
        "text",
        "kontext",
        "contexto",
        "输入",
        "輸入",
        "入力",
        "입력",
    ),
    "output": (
        *(
            "output",
            "completion",
            "response",
            "answer",
            "reply",
            "target",
            "targets",
            "chosen",
            "assistant",
            "solution",
            "bot",
            "gpt",
            "tgt",
            "sql",
            "summary",
            "highlights",
        ),
        *("a", "antwort", "respuesta", "resposta", "réponse", "ответ", "输出", "輸出", "回答", "答案", "出力", "답변"),
    ),
}
# parts of a prompt or an answer that no form above has: such a column is never a label, however often it says the same
PARTS_BY_NAME = frozenset(
    "instructions prompt_text sys persona role_play definition task_description guideline guidelines rules premise "
    "hypothesis background scenario story paragraph paragraphs excerpt evidence facts knowledge schema table "
    "table_schema db_schema code snippet hint hints examples few_shot demonstrations document documents passages "
    "context contexts conversation_history chat_history memory review email letter abstract transcript dialogue".split()
)
# what stands before an answer and belongs to it
REASONINGS = (
    "reasoning",
    "cot",
    "explanation",
    "rationale",
    "thought",
    "thoughts",
    "thinking",
    "chain",
    "justification",
)
# what is known to be about a row, and no part of what is said, where it is no long text
ABOUT = frozenset(
    "source sources author authors url urls uri link links path file filename file_name file_path header headers "
    "user_agent metadata meta license licence copyright citation dataset dataset_name data_source origin provider "
    "publisher publication journal doi model model_name generator annotator annotators worker created_by date "
    "timestamp created_at updated_at tag tags language split subset score scores rating ratings "
    "rejected_reason reject_reason moderation detoxify toxicity stats usage statistics".split()
)
OPTION = re.compile(r"[a-h]|op[a-e]|(option|choice|opt|alternative|distractor|ending)s?[\W_]*[a-z]?\d*(_text)?")
OPTIONS = frozenset("options choices candidates alternatives distractors endings".split())
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
MANY = 4096  # kinds of records that are remembered


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
            deciding = tuple(name for name in names if _folded(name) in DECIDING or name in given)
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
        filled = [name for name in left if name in given or _folded(name) not in DROPPED or holds(record[name])]
        first = next((name for name in left if _folded(name) == "instruction"), None)
        if first is not None and first not in filled and any(_folded(name) == "output" for name in filled):
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
            known |= {key: about[_folded(key)] for key in names.left() if _folded(key) in about}
        unknown = tuple(key for key in names.left() if key not in known)
        marks = tuple((part.partition(" ")[0], key) for part, key in keys.items() if part.split()[0] in MARKS)
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
                if key and (name != "label" or (is_kto and _is_mark(record[key], plain=not is_pair))):
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
            key for key in names.left() if sum(any(_means(key, known) for known in SYNONYMS[p]) for p in SYNONYMS) < 2
        ]
        for part in (*lacks, "input"):
            key = next((key for known in SYNONYMS[part] for key in left if _means(key, known)), None)
            if key and key not in guesses.values():
                guesses[part] = key
        if "instruction" in lacks and "instruction" not in guesses and {"input", "output"} <= guesses.keys():
            guesses["instruction"] = guesses.pop("input")  # a text and what was made of it
            guesses = {part: guesses[part] for part in ("instruction", "output")}
        texts = [key for key in names.left() if isinstance(record[key], str) and not _is_about(key)]
        texts = [key for key in texts if is_wordy(record[key])] or [key for key in texts if _folded(key) in BODIES]
        if first not in guesses and not talk and len(texts) == 1 and not self.given and first == "instruction":
            return f"prompt=none {setting('data.fields.output', texts[0])}"
        if first not in guesses:
            return setting("data.fields.messages", talk) if talk else f"data.fields.{first}=..."
        if names.find("input") or set(guesses) == {"input"} or "instruction" not in lacks:
            guesses.pop("input", None)  # it is read as it is, or not what is missing
        return " ".join(setting(f"data.fields.{part}", key) for part, key in guesses.items())


class _Names:
    """The columns of a record, and the parts that they were taken for."""

    def __init__(self, names: Sequence[str], given: Mapping[str, str]):
        self.names, self.given = names, given
        self.taken: dict[str, str] = {}
        self._folded: dict[str, str | None] = {}
        for name in names:
            folded = _folded(name)
            self._folded[folded] = None if folded in self._folded else name  # of two that look alike neither

    def __contains__(self, name: Any) -> bool:
        return name in self.names

    def find(self, *spelled: str) -> str | None:
        """The first of these that is a column and free, exactly or but for case and white space."""
        busy = {*self.taken.values(), *self.given.values()}
        for name in spelled:
            key = name if name in self.names else self._folded.get(_folded(name))
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


# ----------------------------------------------------------------------------------------------------------------------
# columns that nothing reads


@dataclass
class Column:
    """What is known of a column over some rows: counts add up over chunks."""

    name: str
    used: str | None = None
    why: str = ""
    rows: int = 0  # where it holds something
    example: str = ""
    seen: int = 0  # values that were looked at, of columns that nothing reads
    texts: int = 0  # of them such as stand in prompts, and not elsewhere in their row
    different: int = 0  # of these
    copies: int = 0  # such as stand elsewhere in their row
    long: int = 0  # of the texts: with more words than a label has
    more: int = 0  # of the texts: that are what is left of a value that holds a part of its row
    lists: int = 0  # that are no plain text

    def add(self, other: Column) -> None:
        self.used, self.why = self.used or other.used, self.why or other.why
        self.example = self.example or other.example
        for count in ("rows", "seen", "texts", "different", "copies", "long", "more", "lists"):
            setattr(self, count, getattr(self, count) + getattr(other, count))

    @property
    def reads_like_a_prompt(self) -> bool:
        """Whether it holds texts that stand nowhere else in their rows and that are no labels.

        No labels are texts of a column with the name of a part, long ones, and short ones that are mostly different.
        Their number decides, not their share: a passage may stand in few rows.
        """
        if self.used or self.why or not self.texts:
            return False
        if _is_about(self.name) and (self.lists or self.long * 2 <= self.texts):
            return False
        if self.is_options:
            return self.texts * 2 > self.seen
        if _is_part(self.name):
            return True
        if self.long >= ENOUGH or self.long * 100 >= self.seen > 0 < self.long:
            return True
        if self.seen < FEW and len(self.example) < 2 * 20:
            return False  # one cannot tell texts from labels
        many = self.texts * 3 >= self.seen or self.different >= ENOUGH
        return many and self.different * 2 > self.texts

    @property
    def is_options(self) -> bool:
        return _is_options(self.name)

    def to_json(self) -> dict[str, Any]:
        """As data_report.json has it: half characters, which UTF-8 does not have, as question marks."""
        value: dict[str, Any] = {"name": _in_utf8(self.name), "used": self.used, "rows": self.rows}
        if not self.used:
            value["why"] = self.why or self._reason()
            if self.example:
                value["example"] = _in_utf8(self.example)
        return value

    def _reason(self) -> str:
        if not self.rows:
            return "empty"
        if _is_about(self.name) and not self.reads_like_a_prompt:
            return "about the row"
        if self.reads_like_a_prompt:
            return "reads like a part of the prompt"
        return "a copy of what is used" if self.copies * 2 > self.seen else "labels, numbers, names or links"


LOOKED_AT = 100  # values of a column in each chunk
SHOWN = 100  # characters of an example


class Columns:
    """The columns of a chunk's records."""

    def __init__(self) -> None:
        self.columns: dict[str, Column] = {}
        self._plans: dict[int, Plan] = {}  # held, so that no other gets the same number
        self._texts: dict[str, set[str]] = {}

    def count(self, record: Mapping[str, Any], plan: Plan) -> None:
        columns = self.columns
        if id(plan) not in self._plans:
            self._plans[id(plan)] = plan
            for name in record:
                column = columns.setdefault(name, Column(name))
                column.used = column.used or plan.used.get(name)
                column.why = column.why or plan.known.get(name, "")
        for name, value in record.items():
            if value or is_filled(value):
                columns[name].rows += 1

    def look_at(self, record: Mapping[str, Any], plan: Plan, row: Conversation) -> None:
        """Judge the columns that nothing reads, of a record that became this row: they may be copies of parts of it."""
        parts: list[str] | None = None
        for name in (*plan.unknown, *plan.known):
            column, value = self.columns[name], record[name]
            if column.seen >= LOOKED_AT and (
                type(value) not in (str, list, dict)
                or len(value) < 20  # short as labels are, like many before it
                or column.texts + column.copies >= LOOKED_AT
            ):
                continue
            if not is_filled(value):
                continue
            column.seen += 1
            leaves = list(texts_in(value))
            text = " ".join(leaves)
            if not column.example:
                column.example = (text or str(value))[:SHOWN]
            if not text:
                continue
            by_name = column.is_options or _is_part(name)
            if not (
                is_wordy(text)
                or (by_name and WORD.search(text) and (" " in text.strip() or DENSE.search(text)))
                or (column.is_options and text.strip())
            ):
                continue
            if parts is None:
                parts = [row.instruction, row.input, row.system, *chain.from_iterable(row.history), row.output]
                parts = [" ".join(part.split()) for part in parts if part.strip()]
            if column.is_options:
                left = "" if _holds_options(parts[:-1], leaves) else text
            else:
                left = " ".join(filter(None, (_beyond(" ".join(leaf.split()), parts) for leaf in leaves)))
            if not left or not (by_name or is_wordy(left)) or (left != text and not is_wordy(left)):
                column.copies += 1
                continue
            column.texts += 1
            column.long += is_long(left) and (len(left) > 4 * LONG[0] or not _is_about(name))
            column.more += len(left) < len(" ".join(text.split()))
            column.lists += not isinstance(value, str)
            said = self._texts.setdefault(name, set())
            if left not in said:
                said.add(left)
                column.different += 1


# texts that other programs put around a row, and that say nothing about it
TEMPLATE = re.compile(
    r"<\|[^|<>]{0,30}\|>|\[/?INST\]|<</?SYS>>|</?s>|<(start|end)_of_turn>"
    r"|^(below is|these are) an instruction that describes a task.{0,90}?appropriately completes the request\."
    r"|a chat between a curious (user|human) and an artificial intelligence assistant\..{0,90}?questions\."
    r"|cutting knowledge date: [\w ]{3,20} today date: \d+ \w{3} \d{4}"
    r"|you are (qwen, created by alibaba cloud\. you are )?a helpful(, respectful and honest)? (ai )?assistant\."
    r"|(#+ *|\b)(instruction|input|response|user|human|assistant|question|answer|system|gpt|context|q|a) *:"
    r"|(?<=\|>) ?(system|user|assistant)\b",
    re.IGNORECASE,
)


def _beyond(text: str, parts: Sequence[str]) -> str:
    """What a text says that no part of its row says, without the words of a template; nothing where it is a copy."""
    if any(text in part for part in parts):
        return ""
    held, left = False, text
    for part in sorted(parts, key=len, reverse=True):
        if is_wordy(part):
            held = held or part in left
            left = left.replace(part, " ")
        else:  # a short one: once, and as a word
            left, count = re.subn(rf"(?<!\w){re.escape(part)}(?!\w)", " ", left, count=1)
            held = held or (count > 0 and " " in part)
    return " ".join(TEMPLATE.sub(" ", left).split()) if held else text


def _holds_options(parts: Sequence[str], leaves: Sequence[str]) -> bool:
    """Whether the choices stand in the prompt already."""
    whole = "\n".join(parts)
    return all(re.search(rf"(?<!\w){re.escape(' '.join(leaf.split()))}(?!\w)", whole) for leaf in leaves)


def is_filled(value: Any) -> bool:
    return value is not None and value != "" and value != [] and value != {} and value == value  # NaN is not itself


def holds(value: Any) -> bool:
    """Whether a value is filled, and is not the JSON of nothing either."""
    return is_filled(value) and not (isinstance(value, str) and value.strip() in ("", "[]", "{}", "null"))


def texts_in(value: Any) -> Iterator[str]:
    """The texts inside a value, but for the names and kinds that structure them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for inside in value:
            yield from texts_in(inside)
    elif isinstance(value, dict):
        for name, inside in value.items():
            if name not in ("role", "from", "type", "id"):
                yield from texts_in(inside)


WORD = re.compile(r"[^\W\d_]{2,}")
LINK = re.compile(r"\w+://\S*$|www\.\S*$|[\w.+-]+@[\w.-]+$")
CLOCK = re.compile(r"\d{1,2}:\d{2}|\d{4}-\d{2}-\d{2}")
LONG = (60, 10, 25)  # characters, words, or characters of a script without spaces: more than a label has
ENOUGH = 5  # texts that are more than a slip
FEW = 5  # rows of a file in which one cannot tell texts from labels, unless they are long
DENSE = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff]")  # written without spaces


def is_wordy(text: str) -> bool:
    """Whether a text could be a part of a prompt: some words, no id, label, link, date or number."""
    text = text.strip()[:500]
    if len(DENSE.findall(text)) >= 10:
        return True
    if len(text) < 20 or LINK.match(text) or (len(text) < 60 and CLOCK.search(text)):
        return False
    return len(WORD.findall(text)) >= 4 and len(text.split()) >= 4


def is_long(text: str) -> bool:
    """Whether a text has more words than a label."""
    return len(text) >= LONG[0] or len(text.split()) >= LONG[1] or len(DENSE.findall(text)) >= LONG[2]


def unread(files: Sequence[tuple[str, Mapping[str, Column]]]) -> str | None:
    """The line on the first column that nothing reads though it reads like a part of a row, or None.

    files: the name of each and its columns. What leaves out names all such columns, and those that are left out now.
    """
    stop: list[tuple[str, Mapping[str, Column], Column]] = []
    for file, columns in files:
        found = [column for column in columns.values() if column.reads_like_a_prompt]
        letters = [column for column in found if len(_folded(column.name)) == 1]
        stop += [(file, columns, column) for column in found if len(letters) > 1 or column not in letters]
    if not stop:
        return None
    ignored = [name for _, columns in files for name, column in columns.items() if column.why == IGNORED]
    names = list(dict.fromkeys([*ignored, *(column.name for *_, column in stop)]))
    several = len({column.name for *_, column in stop}) > 1
    leave = f"{setting('data.ignore', names)} leaves {'all such columns' if several else 'it'} out"
    file, columns, column = stop[0]
    what, key = f'{file}: column "{spelled(column.name)}" is not used, and reads like', column.name
    uses = {other.used: other.name for other in columns.values() if other.used and other.rows}
    if column.is_options and column.lists * 2 <= column.texts:
        return f"{what} a choice of the question (write the choices into the question, or {leave})"
    if _is_reasoning(key):
        return f"{what} a part of the answer (write it into the answer, or {leave})"
    if column.more * 2 > column.texts:
        return f"{what} the row and more (write what is more into the question, or {leave})"
    if _is_answer(key) and column.lists * 2 <= column.texts:
        answer = setting("data.fields.output", key)
        return f"{what} another answer ({answer} learns it instead, {leave})"
    if column.lists * 2 > column.texts:
        return f"{what} a part of the prompt (it is no plain text: write it into the question, or {leave})"
    if _folded(key) in SYSTEMS and "system" not in uses:
        return f"{what} a part of the prompt ({setting('data.fields.system', key)} uses it, {leave})"
    how = f"{setting('data.fields.input', key)} uses it"
    if "input" in uses:
        how += f' in the place of "{spelled(uses["input"])}"'
    return f"{what} a part of the prompt ({how}, {leave})"


SYSTEMS = ("system prompt", "system-prompt", "sys", "persona", "sys_prompt", *DEFAULTS["system"])
NAMES_OF_PARTS = frozenset(
    name.casefold()
    for names in (SYNONYMS["instruction"], SYNONYMS["input"], DEFAULTS["system"], SYSTEMS, PARTS_BY_NAME)
    for name in names
) - {"user", "human", "q", "text", "source", "src", "request"}  # that are names of other things too
LAST_WORDS = frozenset("prompt instruction instructions context passage document article schema".split())


@lru_cache(MANY)
def _is_options(name: str) -> bool:
    """Whether a name is that of choices of a question."""
    folded = _folded(name)
    return bool(OPTION.fullmatch(folded) or {*re.split(r"[\W_]+", folded)} & OPTIONS)


@lru_cache(MANY)
def _is_part(name: str) -> bool:
    folded = _folded(name)
    return folded in NAMES_OF_PARTS or _is_reasoning(name) or re.split(r"[\W_]+", folded)[-1] in LAST_WORDS


def _is_about(name: str) -> bool:
    return _folded(name) in ABOUT


def _is_reasoning(name: str) -> bool:
    return bool({*re.split(r"[\W_\d]+", _folded(name))} & {*REASONINGS})


def _is_answer(name: str) -> bool:
    words = re.split(r"[\W_\d]+", _folded(name))
    return bool({*words} & {*SYNONYMS["output"], "outputs", "responses", "answers", "completions", "rejected"})


def no_such(setting_: str, name: str, files: Sequence[str], columns: Collection[str]) -> str:
    """The line on a name that was given and that no row has."""
    nearest = difflib.get_close_matches(_folded(name), [_folded(each) for each in columns], n=1, cutoff=0.4)
    near = next((each for each in columns if nearest and _folded(each) == nearest[0]), None)
    hint = f"nearest: {spelled(near)}" if near else "it has: " + ", ".join(spelled(each) for each in list(columns)[:6])
    return f"{setting_}: no row of {', '.join(files[:3])} has it ({hint})"


# ----------------------------------------------------------------------------------------------------------------------
# names and kinds


def spelled(key: Any) -> str:
    """A name for a message; in quotes where one would not see the white space around it."""
    text = str(key)[:40]
    return text if text == text.strip() else f'"{text}"'


def typed(name: str) -> str:
    """A name as a value on the command line of Hydra."""
    if re.fullmatch(r"[A-Za-z_][\w.-]*", name, re.ASCII) and name.lower() not in (
        "null",
        "true",
        "false",
        "nan",
        "inf",
    ):
        return name
    return '"' + name[:60].replace("\\", "\\\\").replace('"', '\\"') + '"'


def setting(key: str, name: str | Sequence[str]) -> str:
    """A setting as it is typed in a shell: a name, or a list of names."""
    if isinstance(name, str):
        plain, text = typed(name) == name, f"{key}={typed(name)}"
    else:
        plain, text = all(typed(each) == each for each in name), f"{key}=[{','.join(map(typed, name))}]"
    return text if plain else shlex.quote(text)


def _in_utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _folded(name: str) -> str:
    return str(name).strip().casefold()


def _means(key: str, known: str) -> bool:
    folded = _folded(key)
    return known == folded or (known != "sql" and known in re.split(r"[\W_]+", folded))


def _kind(value: Any) -> Any:
    """What matters of a value's kind: text that holds a list, or a conversation, is another kind of text."""
    if type(value) is str:
        if len(value) < 8:
            return (_is_mark(value), _is_mark(value, plain=True)) if holds(value) else None
        if value[0] in " \t\r\n[":
            return None if not holds(value) else "messages" if is_messages(value) else str
        return "[|" if "[|Human|]" in value else str
    if isinstance(value, list):
        return (list, is_messages(value), _is_said(value)) if value else None
    if isinstance(value, dict):
        return (dict, is_messages(value), "replies" in value) if value else None
    return ("mark", _is_mark(value, plain=True)) if _is_mark(value) else type(value) if is_filled(value) else None


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


def mark_of(value: Any) -> bool | None:
    """A mark as true or false; None for what is no mark."""
    if isinstance(value, str):
        value = {"true": 1, "false": 0, "1": 1, "0": 0, "1.0": 1, "0.0": 0}.get(value.strip().lower())
    return bool(value) if isinstance(value, bool | int | float) and value in (0, 1) else None


def _is_mark(value: Any, *, plain: bool = False) -> bool:
    """Whether it is a mark; plain: as true or false, not as a number."""
    return mark_of(value) is not None and not (plain and str(value).strip().lower() not in ("true", "false"))
