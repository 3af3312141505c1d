"""The one door to Weights & Biases: which run it is, how it is started, what its files hold, what evaluations add.

Nothing here imports torch. Lightning's logger on top of it is in loggers.py.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, cast

from ift.errors import ConfigError, Stopped, one_line
from ift.launch import is_other_rank
from ift.run import RunFolder, read_jsonl, write_text
from ift.settings import LoggerSettings

# -- what the environment says -----------------------------------------------------------------------------------------

FROM_ENVIRONMENT = {
    "project": "WANDB_PROJECT", "entity": "WANDB_ENTITY", "group": "WANDB_RUN_GROUP", "run_name": "WANDB_NAME",
    "tags": "WANDB_TAGS", "notes": "WANDB_NOTES", "job_type": "WANDB_JOB_TYPE",
}  # fmt: skip
PROJECT = "ift"  # where nobody names one
Mode = Literal["online", "offline", "disabled", "shared"]
MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")  # the last two are W&B's old names


def decided(settings: LoggerSettings, *, before: LoggerSettings | None, group: str | None) -> LoggerSettings:
    """The settings with what they leave open filled in: from the run so far, then from the environment.

    before: of the run that goes on, which stays where it is in W&B; None for a new one.
    group: of a sweep, where nobody names one.
    Raises ConfigError for what W&B would refuse, before anything is trained.
    """
    if disabled():
        return settings
    agent = is_agents()
    found: dict[str, Any] = {}
    for name, variable in FROM_ENVIRONMENT.items():
        given, value = getattr(settings, name), _from_environment(variable)
        if agent and name in ("project", "entity") and value:
            if given not in (None, value) and before is None:
                raise ConfigError(f"logger.{name}={given}: a sweep agent's runs are in its own {name} (leave it out)")
            given = value
        found[name] = next((x for x in (given, before and getattr(before, name), value) if x is not None), None)
    found["project"] = found["project"] or PROJECT
    found["group"] = found["group"] or group
    whole = replace(settings, **found)
    _refuse(whole, in_sweep=group is not None)
    return whole


def _from_environment(variable: str) -> Any:
    said = os.environ.get(variable) or None
    if said and variable == "WANDB_TAGS":
        return [tag for tag in map(str.strip, said.split(",")) if tag]
    return said


def _refuse(settings: LoggerSettings, *, in_sweep: bool) -> None:
    """What W&B takes, by its own rules (wandb_settings.py); it would say so after the model was built."""
    mode, run_id, project = os.environ.get("WANDB_MODE"), os.environ.get("WANDB_RUN_ID"), settings.project or ""
    if mode and mode not in MODES:
        raise ConfigError(f"WANDB_MODE={mode}: must be one of {', '.join(MODES[:4])}")
    if len(project) > 128 or set(project) & set("/\\#?%:"):
        raise ConfigError(f"logger.project={project}: must be 128 characters or fewer, without / \\ # ? % :")
    for tag in settings.tags or []:
        if not 1 <= len(tag) <= 64:
            raise ConfigError(f"logger.tags: {tag!r} must be 1 to 64 characters")
    if run_id and (run_id != run_id.strip() or set(run_id) & set(":;,#?/'")):
        raise ConfigError(f"WANDB_RUN_ID={run_id}: must be without : ; , # ? / ' and spaces around it")
    if run_id and in_sweep:
        raise ConfigError(f"WANDB_RUN_ID={run_id}: names one run, and a sweep has several (unset it)")


def is_agents() -> bool:
    """Whether `wandb agent` started this process: then its run, project and entity are the ones."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def disabled() -> bool:
    """Whether the environment says that there is to be no W&B. (W&B itself forgot WANDB_DISABLED; others know it.)"""
    said = os.environ.get("WANDB_DISABLED", "").strip().lower()
    return said in ("1", "true", "yes", "on") or os.environ.get("WANDB_MODE") == "disabled"


def wandb_mode() -> tuple[Mode, str | None]:
    """online, offline or disabled, and why it is offline if it is.

    W&B would ask for a key at a prompt; a run on a cluster would hang there. So: no key, no question, offline.
    """
    if disabled():
        return "disabled", None
    asked = os.environ.get("WANDB_MODE") or _configured("mode", "online")  # as `wandb offline` leaves it in a file
    asked = {"dryrun": "offline", "run": "online"}.get(asked, asked)
    if asked == "offline":
        return "offline", "W&B is offline"
    if asked != "online" or os.environ.get("WANDB_MODE") or _has_key():
        return cast(Mode, asked), None
    return "offline", "no W&B key"


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    from wandb.sdk.lib import wbauth

    host = os.environ.get("WANDB_BASE_URL") or _configured("base_url", "https://api.wandb.ai")
    try:  # W&B's own reader: where its server moves to another host, keys of the old one are good
        return wbauth.read_netrc_auth(host=host) is not None
    except Exception:  # a key in no form of W&B's
        return False


def _configured(name: str, default: str) -> str:
    """A value of W&B's own settings files, which `wandb login --host` and `wandb offline` write."""
    from wandb.sdk import wandb_setup

    value = getattr(wandb_setup.singleton().settings, name, None)
    return value if isinstance(value, str) else default


# -- a run -------------------------------------------------------------------------------------------------------------


def wandb_id(run: RunFolder) -> str:
    """The run's id in W&B, kept in the folder: a run that goes on is the same one there.

    At first it is the one of WANDB_RUN_ID, or drawn. Under a sweep agent it is always the agent's.
    """
    given = os.environ.get("WANDB_RUN_ID") or None
    if not run.wandb_id.exists() and not is_other_rank():
        write_text(run.wandb_id, (given or secrets.token_hex(4)) + "\n")
    kept = run.wandb_id.read_text(encoding="utf-8").strip() if run.wandb_id.exists() else ""
    if given and is_agents():
        return given
    if given and kept and given != kept:
        print(f"ift: WANDB_RUN_ID={given}: this run is {kept} in W&B and stays it", flush=True)
    return kept


def start_wandb(
    settings: LoggerSettings, *, folder: Path, config: Mapping[str, Any], run_id: str, say: bool = True
) -> Any:
    """A W&B run, the same one where a stopped run goes on; offline, with one line, where there is no key or no answer.

    None where W&B is disabled. say: whether the line is printed. Raises Exception where W&B cannot even do that.
    """
    mode, why = wandb_mode()
    if mode == "disabled":
        return None
    os.environ.setdefault("WANDB_DISABLE_WEAVE", "true")  # it would advertise itself wherever openai is imported
    import wandb

    def start(mode: Mode) -> Any:
        agent = is_agents()  # W&B takes these three from the agent, and warns of others
        return wandb.init(
            project=None if agent else settings.project,
            entity=None if agent else settings.entity,
            id=None if agent else run_id,
            name=settings.run_name or folder.name,
            group=settings.group,
            tags=settings.tags,
            notes=settings.notes,
            job_type=settings.job_type,
            dir=folder,
            config=dict(config),
            mode=mode,
            resume="allow",
            reinit="finish_previous",
            settings=wandb.Settings(
                # nothing is uploaded that was not chosen: no code, no git remote, no console
                silent=True,
                console="off",
                save_code=False,
                disable_git=True,
                # a run never waits for a server that is down: what is not uploaded by then stays in the folder
                init_timeout=30,
                finish_timeout=120,
            ),
        )

    try:
        run = start(mode)
    except wandb.errors.Error as error:
        why = f"W&B does not answer ({one_line(str(error), 80)})"
        run = start("offline")
    if why and say:
        print(f"ift: {why}: curves are kept offline ({sync_line(folder, login=why == 'no W&B key')})", flush=True)
    run.define_metric("step")
    run.define_metric("*", step_metric="step", step_sync=True)
    return run


def sync_line(folder: Path, *, login: bool = False) -> str:
    """What to type to upload the offline files of a run folder."""
    path = folder / "wandb"
    near = Path(os.path.relpath(path))
    return (
        f"{'wandb login, then: ' if login else ''}wandb sync {shlex.quote(str(path if '..' in near.parts else near))}"
    )


def row_of(step: int, *, trained: bool) -> int:
    """W&B's own number of a row, `_step`: four times the optimizer step, and one more for what is measured after it.

    W&B drops a row whose number is not above the last one. A run that was stopped before its validation measures it
    when it goes on: that row must come after the row of the step itself. Four: an earlier release counted rows, of
    which a step had three at most, and its runs go on too. Charts are over `step`.
    """
    return 4 * step + (not trained)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    import wandb

    return wandb.Table(columns=[*columns], data=[[*row] for row in rows])


def finish(run: Any, *, exit_code: int, summary: Mapping[str, Any], model: Path | None) -> None:
    """End the run as finished, failed or stopped, so that a sweep's next job gets a run of its own.

    model: a folder to upload as an artifact.
    """
    import wandb

    run.summary.update(dict(summary))
    if exit_code == Stopped.exit_code:
        run.mark_preempting()
    if model and model.is_dir():
        artifact = wandb.Artifact(f"model-{run.id}", type="model")
        artifact.add_dir(str(model))
        run.log_artifact(artifact)
    run.finish(exit_code=exit_code)


# -- what offline files hold -------------------------------------------------------------------------------------------


@dataclass
class Written:
    """What the files of a run hold so far, as `wandb sync` will read them."""

    last: int = -1  # the highest `_step`
    summary: dict[str, Any] = field(default_factory=dict)
    files: int = 0
    by_step: bool = False  # whether rows have their optimizer step, which those of an earlier release had not

    @property
    def may_lack_rows(self) -> bool:
        """A process that is killed leaves a file without its last rows, or without any."""
        return self.files > 0 and (self.by_step or self.last < 0)


def catch_up(run: Any, before: Written) -> int:
    """Make an offline run go on with what its earlier files hold; the number of their last row, -1 without one.

    `wandb sync` sends the files of one run one after the other. Each row is appended, so a row that is there already
    must not come again; and the last file's summary replaces the others', so it must hold what they said.
    Online, W&B's server knows both.
    """
    if run is None or not run.offline:
        return -1
    if before.summary:
        run.summary.update(before.summary)
    return before.last


def written(folder: Path) -> Written:
    """A file that is damaged counts as far as it can be read."""
    found = Written()
    for found.files, path in enumerate(
        sorted(folder.glob("wandb/*run-*/run-*.wandb"), key=lambda path: path.parent.name.split("run-")[1]), start=1
    ):
        for record in records(path):
            if record.HasField("history"):
                row = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
                found.last, found.by_step = max(found.last, int(row.get("_step", -1))), "step" in row
            elif record.HasField("summary"):
                for item in record.summary.update:
                    _put(found.summary, _key(item), json.loads(item.value_json))
    found.summary = {key: value for key, value in found.summary.items() if not key.startswith("_")}
    return found


def _key(item: Any) -> list[str]:
    return [item.key] if item.key else [*item.nested_key]


def _put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        inner = tree.get(name)
        tree[name] = tree = inner if isinstance(inner, dict) else {}
    tree[path[-1]] = value


def records(path: Path) -> Iterator[Any]:
    """The records of a file: protobufs in LevelDB's log format, blocks of 32 KiB, after 7 bytes of header."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from wandb.proto import wandb_internal_pb2

    kinds: Any = wandb_internal_pb2
    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # too little left of the block for a header
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = kinds.Record()
            try:
                record.ParseFromString(parts)
            except DecodeError:
                return
            parts = b""
            yield record


# -- evaluations -------------------------------------------------------------------------------------------------------

TABLE_ROWS, TABLE_TEXT = 500, 2000  # of a table in W&B; the run folder has them all, whole


def log_evaluation(run: RunFolder, name: str, numbers: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """What an evaluation found, into the W&B run that training made: numbers as eval/NAME/..., rows as a table.

    Nothing is done where training made none and no sweep agent did. Offline, W&B keeps it beside the training's own
    file under the same id.
    """
    if not (run.wandb_id.exists() or is_agents()) or disabled():
        return
    try:
        _log_evaluation(run, name, numbers, rows)
    except Exception as error:
        print(f"ift: W&B failed ({one_line(str(error), 80)}): the numbers are in the run folder", flush=True)


def _log_evaluation(run: RunFolder, name: str, numbers: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    from omegaconf import OmegaConf

    config: Any = OmegaConf.to_container(OmegaConf.load(run.config)) if run.config.exists() else {}
    config.pop("format", None)
    run_id = "" if is_agents() else wandb_id(run)
    before = written(run.path)
    logged = start_wandb(_logger_of(config), folder=run.path, config=config, run_id=run_id, say=False)
    if logged is None:
        return
    with logged:
        last = catch_up(logged, before)
        logged.summary.update({f"eval/{name}/{key}": value for key, value in numbers.items() if _is_plain(value)})
        columns = [*dict.fromkeys(key for row in rows[:TABLE_ROWS] for key in row)]
        cells = [[_cell(row.get(column)) for column in columns] for row in rows[:TABLE_ROWS]]
        trained = read_jsonl(run.metrics)[-1:] if run.metrics.exists() else []
        behind = max(last, row_of(trained[0]["step"] if trained else 0, trained=False)) + 1
        # online the server knows which row is the next
        logged.log({f"eval/{name}": table(columns, cells)}, step=behind if logged.offline else None)


def _logger_of(config: Mapping[str, Any]) -> LoggerSettings:
    """Of a run of any release: what it says of W&B."""
    said = config.get("logger") or {}
    values: dict[str, Any] = {each.name: said.get(each.name) for each in fields(LoggerSettings)}
    return LoggerSettings(**values)


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str)


def _cell(value: Any) -> Any:
    """All of a column must be of one kind: numbers stay numbers, anything else becomes text."""
    if value is None or isinstance(value, int | float):
        return value
    return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))[:TABLE_TEXT]
