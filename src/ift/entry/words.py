"""The words of a command line as Hydra spells them: names of files and columns, home folders, options."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from ift.errors import ConfigError
from ift.rules import SECRET
from ift.settings import literal

# keys whose values are names of files and folders, or of lists of them
LISTS = ("data.path", "data.test_path", "data.val_path", "data.against", "eval.against", "eval.registry", "data.ignore")
RUNS = ("output_dir", "resume")  # one value, in a sweep too
PATHS = (
    *LISTS, *RUNS, "run", "data_root", "data.cache_dir", "model.pretrained", "model.tokenizer", "prompt.chat_template",
    "eval.battles", "eval.environment", "judge.replay", "judge.against",
)  # fmt: skip
COLUMNS = "data.fields."  # names that a file gives, too
SWEEP = object()  # for a value that is several


def refuse_secrets(arguments: list[str]) -> None:
    """Command lines are stored (by the shell, Hydra, W&B), so a key has no place on one."""
    for argument in arguments:
        if SECRET.search(argument.lstrip("-")):
            key = argument.split("=")[0]
            raise ConfigError(f"{key}: a secret on the command line would be stored (use an environment variable)")


def into_the_resumed(arguments: list[str]) -> list[str]:
    """resume=RUN means output_dir=RUN too, before Hydra makes a folder of another name."""
    folders = [argument.removeprefix("resume=") for argument in arguments if argument.startswith("resume=")]
    if not folders or folders[-1] in ("", "null") or any(a.startswith("output_dir=") for a in arguments):
        return arguments
    return [*arguments, f"output_dir={folders[-1]}"]


def meeting_place(words: Sequence[str]) -> Path:
    """The folder that all ranks know before the settings are composed: output_dir, as far as it is the same for all."""
    given = [word.partition("=")[2] for word in words if word.startswith("output_dir=")]
    value = _parsed(given[-1]) if given else "runs"
    known = (value if isinstance(value, str) else given[-1]).partition("${")
    return Path(known[0].rpartition("/")[0] or "." if known[1] else known[0]).expanduser()


def options_first(arguments: list[str]) -> list[str]:
    """Overrides to the end: Hydra's parser takes no override before and after an option such as --config-dir."""
    return sorted(arguments, key=lambda a: not a.startswith("-") and ("=" in a or a.startswith("~")))


def for_hydra(words: Sequence[str]) -> list[str]:
    """The words of a command line, with each path and each name of a column as Hydra spells it. Twice is as once.

    `data.path=my file (1).json` means the file of that name. To Hydra brackets, commas, quotes, = and ~ mean something
    else, so such a name is put into quotes. What Hydra reads as text already stays as it was typed.
    """
    return [_word(word) for word in words]


def _word(word: str) -> str:
    key, equals, value = word.partition("=")
    name = key.lstrip("+")
    if not equals or not (name in PATHS or name.startswith(COLUMNS)) or value.strip().lower() in ("", "null", "???"):
        return word
    if name in PATHS and _is_there(value):
        return f"{key}={_quoted(value)}"
    several = _parsed(value)
    if value.startswith("[") and (several is SWEEP or "]" not in value):
        return word  # a list that stays open is left for Hydra to refuse
    if name in LISTS and value.startswith("[") and value.endswith("]"):
        is_quoted = "'" in value or '"' in value
        if isinstance(several, list) and (is_quoted or (all(map(_is_there, several)) and "${" not in value)):
            return word
        return f"{key}=[{','.join(map(_spelled, _names(value[1:-1])))}]"
    if name not in RUNS and "," in value:  # a sweep
        names = _names(value)
        if len(names) > 1 and all(_is_there(each) or each.startswith("~/") for each in names):
            return f"{key}={','.join(map(_spelled, names))}"
        if several is SWEEP:
            return word
    if name in LISTS and several is not None and not isinstance(several, str):
        return word  # no path, and no file of that name
    return f"{key}={_spelled(value)}"


def _spelled(value: str) -> str:
    """One name. Hydra's own spellings stay: text in quotes, text with escapes, ${...}, null."""
    parsed = _parsed(value)
    if parsed is None and value == "null":
        return value
    home = parsed if isinstance(parsed, str) else value
    if (home == "~" or home.startswith("~/")) and not _is_there(home):
        return _quoted(os.path.expanduser(home))
    return value if isinstance(parsed, str) and not _is_there(value) else _quoted(value)


def _names(text: str) -> list[str]:
    """Names with commas between them, which may have commas of their own: the shortest that is there, one by one."""
    pieces = text.split(",")
    names: list[str] = []
    while pieces:
        joined = [",".join(pieces[:end]).strip() for end in range(1, len(pieces) + 1)]
        end = next((end for end, name in enumerate(joined, start=1) if _is_there(name)), 1)
        names.append(joined[end - 1])
        pieces = pieces[end:]
    return names


def _parsed(value: str) -> Any:
    """What Hydra makes of a value: text, a list, a number ...; SWEEP for several values, None where it is no value."""
    try:
        override = OverridesParser.create().parse_override(f"key={value}")
        return SWEEP if override.is_sweep_override() else override.value()
    except HydraException:
        return None


def _is_there(path: Any) -> bool:
    return isinstance(path, str) and os.path.lexists(path)


def _quoted(text: str) -> str:
    text = literal(text)
    return QuotedString(text, Quote.double if "'" in text else Quote.single).with_quotes()
