"""The one door to Hydra: settings of commands, the start and end of a job, and errors of Hydra as one line."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ift import stops
from ift.errors import ConfigError, IftError, MachineError, Stopped, one_line, refused_by_disk, report
from ift.run import RunFolder, is_other_rank
from ift.settings import (
    EvaluateSettings,
    Settings,
    T,
    literal,
    load_settings,
    read_settings,
    settings_to_go_on,
    unknown_key,
)

# by the name of the key, or by the look of the value: a prefix and a long run of letters and digits
SECRET = re.compile(
    r"""(^|[._+])(api_?key|token|password|secret)=|=['"]?(sk-[\w-]{20}|(hf_|ghp_)[a-z0-9]{30}|AKIA[a-z0-9]{16})""",
    re.IGNORECASE,
)

CONF = Path(__file__).parent / "conf"  # a link to the checkout's own, a copy of it in what is installed

# keys whose values are names of files and folders, or of lists of them
LISTS = ("data.path", "data.test_path", "data.val_path", "data.against", "eval.against", "eval.registry", "data.ignore")
RUNS = ("output_dir", "resume")  # one value, in a sweep too
PATHS = (
    *LISTS, *RUNS, "run", "data_root", "data.cache_dir", "model.pretrained", "model.tokenizer", "prompt.chat_template",
    "eval.battles", "eval.environment", "judge.replay", "judge.against",
)  # fmt: skip
COLUMNS = "data.fields."  # names that a file gives, too
SWEEP = object()  # for a value that is several

_sweep_dir: Path | None = None
_exit_code = 0  # of the first job that failed


class SweepStart(Callback):
    """Remembers where a sweep's runs will lie (named in conf/train.yaml; Hydra calls it)."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        global _sweep_dir
        _sweep_dir = Path(config.hydra.sweep.dir)


def run(main: Callable[[], None], kind: type[Settings] | type[EvaluateSettings]) -> int:
    """Run a function that `hydra.main` made; return the exit code. A sweep ends in its table, failed jobs or not."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # give us the exception instead of printing it
    code = 0
    if is_other_rank():
        stops.end_with_parent()
    try:
        refuse_secrets(sys.argv[1:])
        sys.argv[1:] = into_the_resumed(options_first(for_hydra(sys.argv[1:])))
        with stops.listening("before training began" if kind is Settings else "during the evaluation"):
            main()
    except Stopped as stopped:
        code = report_stop(stopped)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        code = report(as_ift_error(error, kind))
    if _sweep_dir is not None:
        from ift.pages.sweep import show_sweep

        show_sweep(_sweep_dir)
    return code or _exit_code


def report_stop(stopped: Stopped) -> int:
    """Print the one line of a run that was stopped; return its exit code."""
    if is_other_rank():  # the first rank reports for all; Lightning would take another code for a crash and end it
        return 0
    print(f"ift: {stopped}", file=sys.stderr, flush=True)
    return Stopped.exit_code


@contextmanager
def job() -> Iterator[None]:
    """Around the work of one job: its error is reported here and now, and the other jobs of a sweep go on.

    A stop is no error and ends a sweep.
    """
    global _exit_code
    try:
        yield
    except Exception as error:
        _exit_code = _exit_code or report(as_ift_error(error, Settings))


def each_evaluation(names: Sequence[str]) -> None:
    """This command again, once for each evaluation, in a process of its own; then what became of each.

    One that fails, whatever way, leaves the others alone. Raises MachineError at the end if any did.
    """
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith(("eval=", "eval.tasks="))]
    failed: dict[str, str] = {}
    for number, name in enumerate(names, start=1):
        print(f"\n[{number}/{len(names)}] eval={name}", flush=True)
        command = [*program(), *arguments, f"eval={name}"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as child:
            try:
                last = ""
                for line in child.stderr or ():
                    sys.stderr.write(line)
                    last = line.strip() or last
            except BaseException:
                child.terminate()
                raise
        if child.returncode:
            failed[name] = one_line(last.removeprefix("ift: error: "), 120) or f"ended with {child.returncode}"
    print(f"\n{len(names) - len(failed)} of {len(names)} evaluations done")
    for name, problem in failed.items():
        print(f"failed    {name}: {problem}")
    if failed:
        raise MachineError(
            f"eval=all: {len(failed)} of {len(names)} failed: {', '.join(failed)} (each error stands above)"
        )


def program() -> list[str]:
    """What starts this program again, as Lightning does it for other ranks: a script, or a module by its name."""
    spec = sys.modules["__main__"].__spec__
    return [sys.executable, sys.argv[0]] if spec is None else [sys.executable, "-m", spec.name]


def composed(name: str, overrides: Sequence[str], kind: type[T], *, values: Mapping[str, Any] | None = None) -> T:
    """The settings that conf/NAME.yaml and overrides give, without a job of Hydra: for commands other than its own.

    kind: only its keys are read. values: by dotted key, what no override can spell safely, such as names of files; an
    override of the same key wins. Raises ConfigError as train.py does.
    """
    if not CONF.is_dir():
        raise ConfigError(f"{CONF}: no such folder (install ift again)")
    for word in overrides:
        if word.startswith("="):  # the parser would take it for a choice of the group ""
            raise ConfigError(f"{word}: not key=value (quote it: 'key=\"a value\"')")
    overrides = for_hydra(overrides)
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
        for override in parsed:
            if override.is_sweep_override():
                raise ConfigError(f"{override.input_line}: several values (give one; a list is written [A,B])")
            there = sorted(path.stem for path in (CONF / override.key_or_group).glob("*.yaml"))
            if there and override.value() not in there:  # Hydra would read ../NAME too
                raise ConfigError(f"{override.input_line}: no such choice (there is {', '.join(there)})")
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose(name, overrides)
        given = {override.key_or_group for override in parsed}
        for key, value in (values or {}).items():
            if key not in given:
                OmegaConf.update(config, key, literal(value))
    except Exception as error:
        raise as_ift_error(error, kind) from error
    return settings_from(OmegaConf.masked_copy(config, [field.name for field in dataclasses.fields(kind)]), kind)


def settings_from(config: DictConfig, kind: type[T]) -> T:
    try:
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(plain, dict)
    return read_settings(plain, kind)  # type: ignore[arg-type]


def settings_of(config: DictConfig, run: RunFolder) -> Settings:
    """The settings of a training: the command's, or those of the run that goes on with what the command may change.

    Raises ConfigError where the command asks for another run than the one in the folder.
    """
    given_now = settings_from(config, Settings)
    if given_now.resume and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise ConfigError("resume=: one run at a time (leave out -m)")
    if given_now.resume and not run.config.exists():
        raise ConfigError(f"{run.path}: no run to go on with (give resume=FOLDER, the output_dir of a training run)")
    if not given_now.resume and not run.begun:
        return given_now
    if not run.config.exists():
        raise ConfigError(f"{run.path}: holds a run without its config.yaml (choose another output_dir)")
    if given_now.dry_run:
        raise ConfigError(f"{run.path}: holds a run already (choose another output_dir for a dry run)")
    given = [word.lstrip("+").partition("=")[0] for word in _typed()]
    if given_now.resume and "experiment" in given:
        raise ConfigError("experiment=: is for a new run (leave it out: config.yaml of the run says it all)")
    return settings_to_go_on(load_settings(run.config), given_now, given if given_now.resume else None)


def output_dir() -> Path:
    hydra = HydraConfig.get()
    if not hydra.run.dir:  # Hydra would take the working directory
        raise ConfigError("output_dir=: must be the path of a folder")
    return Path(hydra.runtime.output_dir)


def sweep_name() -> str | None:
    """What all jobs of one sweep have in common, or None outside a sweep."""
    hydra = HydraConfig.get()
    return "-".join(Path(hydra.sweep.dir).parts[-2:]) if hydra.mode == RunMode.MULTIRUN else None


def choices() -> str:
    """The overrides of this job, for tables."""
    return " ".join(_typed())


def _typed() -> list[str]:
    # as they were typed: a ${key} in them means nothing in Hydra's own config
    return OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)  # type: ignore[return-value]


def into_the_resumed(arguments: list[str]) -> list[str]:
    """resume=RUN means output_dir=RUN too, before Hydra makes a folder of another name."""
    folders = [argument.removeprefix("resume=") for argument in arguments if argument.startswith("resume=")]
    if not folders or folders[-1] in ("", "null") or any(a.startswith("output_dir=") for a in arguments):
        return arguments
    return [*arguments, f"output_dir={folders[-1]}"]


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


def refuse_secrets(arguments: list[str]) -> None:
    """Command lines are stored (by the shell, Hydra, W&B), so a key has no place on one."""
    for argument in arguments:
        if SECRET.search(argument):
            key = argument.split("=")[0]
            raise ConfigError(f"{key}: a secret on the command line would be stored (use an environment variable)")


def as_ift_error(error: BaseException, kind: type) -> BaseException:
    """Hydra's errors of several lines as one, which it becomes the cause of; anything else as it is."""
    found = _find_ift_error(error, kind)
    if found is not error and found.__cause__ is None:
        found.__cause__ = error
    return found


def _find_ift_error(error: BaseException, kind: type) -> BaseException:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, IftError):
            return cause
        cause = cause.__cause__
    if isinstance(error, MissingConfigException):
        options = re.findall(r"^\t(\S+)$", str(error), flags=re.MULTILINE)
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return ConfigError(f"{group}={name}: no such choice (there is {', '.join(options)})")
    if isinstance(error, OverrideParseException):
        return ConfigError(f"{error.override}: not key=value (quote it: 'key=\"a value\"')")
    if isinstance(error, ConfigCompositionException):
        match = re.search(r"(?:override|delete from config\.) '([^']+)'|match for override '([^']+)'", str(error))
        if match:
            return unknown_key((match.group(1) or match.group(2)).split("=")[0], kind)
        what = str(error.__cause__ or error).splitlines()[0]
        return ConfigError(f"{what} (add -m for a sweep)" if what.startswith("Ambiguous value") else what)
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}")
    if isinstance(error, HydraException | OmegaConfBaseException):
        return ConfigError(str(error).splitlines()[0])
    if isinstance(error, ValueError) and str(error).startswith("Config group override must be"):
        return ConfigError(f"{error} (model=nano)")
    if isinstance(error, RuntimeError) and re.search(r"gloo|NCCL|Connection closed by peer", str(error)):
        return MachineError("another process of this run ended: see its error above (then go on with resume=RUN)")
    if isinstance(error, OSError) and error.filename is not None:
        return refused_by_disk(error)
    return error
