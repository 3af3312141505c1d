"""What people type that Hydra has another word for: options for settings, a file for a group, false for off.

It becomes what was meant where that is plain; else one line says what to type.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ift.errors import ConfigError
from ift.nearest import absent, nearest
from ift.settings import EvaluateSettings, Settings, keys

# Hydra's own options: those with a value, and the others. (--experimental-rerun would unpickle a file.)
VALUED = {"--config-dir": "-cd", "--config-name": "-cn", "--config-path": "-cp", "--cfg": "-c", "--package": "-p"}
VALUED |= {"--info": "-i"}
FLAGS = (
    *("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m"),
    *("--shell-completion", "-sc"),
)
CFG = ("job", "hydra", "all")

# groups that a file or a folder may stand for: the choice that reads it, and the key that names it
FILES = {"data": ("json", "data.path"), "model": ("pretrained", "model.pretrained")}
A_FILE = re.compile(r"\.(jsonl?|ndjson|csv|tsv|parquet|arrow|feather|zip|gz|zst|bz2|xz|txt)$", re.IGNORECASE)
OFF = ("false", "off", "no", "none", "null", "0")


def meant(words: Sequence[str], kind: type[Settings] | type[EvaluateSettings], conf: Path) -> list[str]:
    """The words of a command line with Hydra's spelling of what they mean.

    conf: the folder of our groups; those of --config-dir count too. Raises ConfigError with what to type instead.
    """
    folders = [conf, *_config_dirs(words)]
    known = {*keys(kind), *(path.name for folder in folders for path in folder.glob("*/"))}
    given = {word.lstrip("-+").partition("=")[0] for word in words}
    found: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if re.match(r"--?[A-Za-z]", word):
            found += _option(word, left, known)
        else:
            found += _setting(word, folders, given, kind)
    return found


def _option(word: str, left: list[str], known: set[str]) -> Iterator[str]:
    """An option and its value, which is taken off the words that are left."""
    name, equals, value = word.partition("=")
    option = _of_hydra(name)
    if option in VALUED:
        if not equals and option != "--info":
            if not left:
                raise ConfigError(f"{name}: needs a value ({name} {'job' if option == '--cfg' else 'NAME'})")
            value = left.pop(0)
        if option == "--cfg" and value not in CFG:
            raise ConfigError(f"{name} {value}: must be one of {', '.join(CFG)}")
        if option == "--config-dir":
            value = os.path.expanduser(value)
            if not os.path.isdir(value):
                raise ConfigError(f"{name} {value}: no such folder (give the one that holds your groups)")
        return iter([f"{option}={value}"] if value else [option])
    if option and not equals:
        return iter([word])
    key = name.lstrip("-")
    key = key if key in known or key.startswith("hydra") else key.replace("-", "_")
    if equals and (key in known or key.startswith("hydra")):
        return iter([f"{key}={value}"])  # as an agent of W&B starts a program
    ours = key if key in known else nearest(key, known)
    if ours is None:
        raise ConfigError(f"{name}: no such option ({absent(key) or 'settings are typed KEY=VALUE: --help shows how'})")
    if not equals and left and not left[0].startswith("--") and "=" not in left[0]:
        value = left[0]
    raise ConfigError(f"{name}: settings are typed KEY=VALUE (type {ours}={value or '...'})")


def _of_hydra(name: str) -> str | None:
    """The whole name of an option that Hydra takes, which may be cut short (--multi)."""
    for option, short in VALUED.items():
        if name in (option, short):
            return option
    if name in FLAGS:
        return name
    return next((option for option in (*VALUED, *FLAGS) if len(name) > 4 and option.startswith(name)), None)


def _setting(
    word: str, folders: Sequence[Path], given: set[str], kind: type[Settings] | type[EvaluateSettings]
) -> Iterator[str]:
    key, equals, value = word.partition("=")
    if not equals and not word.startswith("~") and os.path.exists(word):
        what = "run" if kind is EvaluateSettings else "data"
        raise ConfigError(f"{word}: settings are typed KEY=VALUE (type {what}={word})")
    if kind is Settings and key in FILES and FILES[key][1] not in given:
        choice, path = FILES[key]
        values = [value] if os.path.exists(value) or value.startswith("[") else value.split(",")
        if all(_is_file(each, key, folders) for each in values):
            return iter([f"{key}={choice}", f"{path}={value}"])
    if key == "trainer.early_stopping" and value.lower() in OFF:
        return iter(["trainer.early_stopping.patience=null"])
    return iter([word])


def _is_file(value: str, group: str, folders: Sequence[Path]) -> bool:
    """Whether a value names a file, a folder or a model of the Hub, and no choice of the group."""
    name = value.removesuffix(".yaml")
    if not value or any((folder / group / f"{name}.yaml").is_file() for folder in folders):
        return False
    return os.path.exists(value) or "/" in value or (group == "data" and A_FILE.search(value.rstrip("]")) is not None)


def _config_dirs(words: Sequence[str]) -> Iterator[Path]:
    for word, following in zip(words, [*words, ""][1:], strict=True):
        name, equals, value = word.partition("=")
        if name.startswith("-") and _of_hydra(name) == "--config-dir":
            yield Path(os.path.expanduser(value if equals else following))
