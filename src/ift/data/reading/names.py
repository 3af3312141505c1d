"""The names that data sets give to the parts of a row, what such a name says, and how it is typed on a command line."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any

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
MESSAGES = ("messages", "conversations", "conversation", "contents", "dialog", "dialogue", "chat", "talk")
ROLE_KEYS = ("role", "from", "speaker", "sender", "author")  # of a message: who says it
DEFAULTS = {
    "input": ("input", "context"),
    "system": ("system", "system_prompt", "system_instruction", "systemInstruction", "system_message"),
    "history": ("history",),
    "category": ("category",),
    "tools": ("tools", "functions"),
}
# what data sets call a field: for the line to type, never to guess in silence
SYNONYMS = {
    "instruction": tuple(
        "instruction prompt question query ask problem user request q inputs instruct human frage pregunta pergunta "
        "domanda вопрос 指令 问题 問題 质问 質問 질문".split()
    ),
    "input": tuple(
        "input context passage document article dialogue dialog source src text kontext contexto "
        "输入 輸入 入力 입력".split()
    ),
    "output": tuple(
        "output completion response answer reply target targets chosen assistant solution bot gpt tgt sql summary "
        "highlights a antwort respuesta resposta réponse ответ 输出 輸出 回答 答案 出力 답변".split()
    ),
}
# parts of a prompt or an answer that no form has: such a column is never a label, however often it says the same
PARTS_BY_NAME = frozenset(
    "instructions prompt_text sys persona role_play definition task_description guideline guidelines rules premise "
    "hypothesis background scenario story paragraph paragraphs excerpt evidence facts knowledge schema table "
    "table_schema db_schema code snippet hint hints examples few_shot demonstrations document documents passages "
    "context contexts conversation_history chat_history memory review email letter abstract transcript dialogue".split()
)
# what stands before an answer and belongs to it
REASONINGS = frozenset("reasoning cot explanation rationale thought thoughts thinking chain justification".split())
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
SYSTEMS = ("system prompt", "system-prompt", "sys", "persona", "sys_prompt", *DEFAULTS["system"])
NAMES_OF_PARTS = frozenset(
    name.casefold()
    for names in (SYNONYMS["instruction"], SYNONYMS["input"], DEFAULTS["system"], SYSTEMS, PARTS_BY_NAME)
    for name in names
) - {"user", "human", "q", "text", "source", "src", "request"}  # that are names of other things too
LAST_WORDS = frozenset("prompt instruction instructions context passage document article schema".split())
NO_TEXT = ("null", "true", "false", "nan", "inf")  # to Hydra
MANY = 4096  # kinds of records that are remembered


def folded_name(name: str) -> str:
    return str(name).strip().casefold()


def name_means(key: str, known: str) -> bool:
    folded = folded_name(key)
    return known == folded or (known != "sql" and known in re.split(r"[\W_]+", folded))


@lru_cache(MANY)
def is_option_name(name: str) -> bool:
    """Whether a name is that of choices of a question."""
    folded = folded_name(name)
    return bool(OPTION.fullmatch(folded) or {*re.split(r"[\W_]+", folded)} & OPTIONS)


@lru_cache(MANY)
def is_part_name(name: str) -> bool:
    folded = folded_name(name)
    return folded in NAMES_OF_PARTS or is_reasoning_name(name) or re.split(r"[\W_]+", folded)[-1] in LAST_WORDS


def is_metadata_name(name: str) -> bool:
    return folded_name(name) in ABOUT


def is_reasoning_name(name: str) -> bool:
    return bool({*re.split(r"[\W_\d]+", folded_name(name))} & REASONINGS)


def is_answer_name(name: str) -> bool:
    words = re.split(r"[\W_\d]+", folded_name(name))
    return bool({*words} & {*SYNONYMS["output"], "outputs", "responses", "answers", "completions", "rejected"})


def spelled(key: Any) -> str:
    """A name for a message; in quotes where one would not see the white space around it."""
    text = str(key)[:40]
    return text if text == text.strip() else f'"{text}"'


def typed(name: str) -> str:
    """A name as a value on the command line of Hydra."""
    if re.fullmatch(r"[A-Za-z_][\w.-]*", name, re.ASCII) and name.lower() not in NO_TEXT:
        return name
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def setting(key: str, name: str | Sequence[str]) -> str:
    """A setting as it is typed in a shell: a name, or a list of names."""
    if isinstance(name, str):
        plain, text = typed(name) == name, f"{key}={typed(name)}"
    else:
        plain, text = all(typed(each) == each for each in name), f"{key}=[{','.join(map(typed, name))}]"
    return text if plain else shlex.quote(text)


def no_such(setting_: str, name: str, files: Sequence[str], columns: Collection[str]) -> str:
    """The line on a name that was given and that no row has."""
    nearest = difflib.get_close_matches(folded_name(name), [folded_name(each) for each in columns], n=1, cutoff=0.4)
    near = next((each for each in columns if nearest and folded_name(each) == nearest[0]), None)
    hint = f"nearest: {spelled(near)}" if near else "it has: " + ", ".join(spelled(each) for each in list(columns)[:6])
    return f"{setting_}: no row of {', '.join(files[:3])} has it ({hint})"
