"""The one door to Hydra: settings of commands, the start and end of a job, and errors of Hydra as one line."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ift import __version__, launch, meeting, stops
from ift.entry import sweeps
from ift.entry.callbacks import refuse_callbacks_of_a_file
from ift.entry.errors import as_ift_error, no_such_choice, report_once
from ift.entry.meant import meant
from ift.entry.sweeps import choices, how_to_go_on, job, sweep_name
from ift.entry.words import for_hydra, into_the_resumed, meeting_place, options_first, refuse_secrets
from ift.errors import ConfigError, IftError, MachineError, Stopped, one_line
from ift.launch import is_other_rank
from ift.run import RunFolder
from ift.settings import (
    EvaluateSettings,
    Settings,
    T,
    literal,
    load_settings,
    read_settings,
    settings_to_go_on,
)

__all__ = ["choices", "how_to_go_on", "job", "sweep_name"]  # and what is defined here

# a rate that fits full fine-tuning and one for adapters: what a command, an experiment or a sweep gives takes its place
OmegaConf.register_new_resolver(
    "rate",
    lambda full, adapter, *, _root_: full if _root_.adapter.name == "none" else adapter,
    replace=True,
)

CONF = Path(__file__).parents[1] / "conf"  # a link to the checkout's own, a copy of it in what is installed


def run(main: Callable[[], None], kind: type[Settings] | type[EvaluateSettings]) -> int:
    """Run a function that `hydra.main` made; return the exit code. A sweep ends in its table, failed jobs or not."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # give us the exception instead of printing it
    code = 0
    sweeps.typed_here()
    try:
        launch.settle()
        if is_other_rank():
            stops.end_with_parent()
        refuse_secrets(sys.argv[1:])
        if "--version" in sys.argv[1:]:
            print(f"ift {__version__}")
            return 0
        sys.argv[1:] = into_the_resumed(options_first(for_hydra(meant(sys.argv[1:], kind, CONF))))
        with stops.listening("before training began" if kind is Settings else "during the evaluation"):
            if kind is not Settings and launch.here().external:
                raise ConfigError(f"{launch.here().by}: evaluate.py is one process (start it without a launcher)")
            if kind is Settings:
                meeting.meet(meeting_place(sys.argv[1:]))
            main()
            if sweeps.begun() is not None:
                stops.check("during the sweep")  # which passed a signal on to its jobs
    except Stopped as stopped:
        code = report_stop(stopped)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        code = report_once(as_ift_error(error, kind))
        code = sweeps.exit_code() or code  # a sweeper whose jobs all failed says only that
    finally:
        meeting.leave()
    if (sweep := sweeps.begun()) is not None:
        if is_other_rank():  # the first rank reports for all; Lightning would end it for another
            return code
        from ift.pages.sweep import show_sweep

        show_sweep(sweep)
    return code or sweeps.exit_code()


def report_stop(stopped: Stopped) -> int:
    """Print the one line of a run that was stopped; return its exit code."""
    if is_other_rank():  # the first rank reports for all; Lightning would take another code for a crash and end it
        return 0
    print(f"ift: {stopped}", file=sys.stderr, flush=True)
    return Stopped.exit_code


def each_evaluation(names: Sequence[str], check: Callable[[EvaluateSettings], None]) -> None:
    """This command again, once for each evaluation, in a process of its own; then what became of each.

    check(settings) raises IftError for what an evaluation lacks: that is told of all before the first one begins. One
    that fails later, whatever way, leaves the others alone. Raises MachineError at the end if any was not done.
    """
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith(("eval=", "eval.tasks="))]
    missing: dict[str, str] = {}
    for name in names:
        try:
            check(composed("evaluate", [*(a for a in arguments if a[:1] != "-"), f"eval={name}"], EvaluateSettings))
        except IftError as error:
            missing[name] = one_line(str(error))
            print(f"missing   {name}: {missing[name]}", flush=True)
    ready = [name for name in names if name not in missing]
    if missing:
        print(f"{len(ready)} of {len(names)} evaluations can run", flush=True)
    failed: dict[str, str] = {}
    for number, name in enumerate(ready, start=1):
        print(f"\n[{number}/{len(ready)}] eval={name}", flush=True)
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
            failed[name] = one_line(last.removeprefix("ift: error: ")) or f"ended with {child.returncode}"
    undone = {**missing, **failed}
    print(f"\n{len(names) - len(undone)} of {len(names)} evaluations done")
    for name, problem in undone.items():
        print(f"{'missing' if name in missing else 'failed':<9} {name}: {problem}")
    if undone:
        raise MachineError(
            f"eval=all: {len(undone)} of {len(names)} not done: {', '.join(undone)} (each reason stands above)"
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
                raise no_such_choice(override.key_or_group, str(override.value()), there)
        with ExitStack() as stack:
            if not GlobalHydra.instance().is_initialized():  # as it is within a job
                stack.enter_context(initialize_config_dir(str(CONF), version_base="1.3"))
            config = compose(name, overrides)
        given = {override.key_or_group for override in parsed}
        for key, value in (values or {}).items():
            if key not in given:
                OmegaConf.update(config, key, literal(value))
    except Exception as error:
        found = as_ift_error(error, kind)
        if found is error:  # which is no cause of itself
            raise
        raise found from error
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
    given_now = as_launched(settings_from(config, Settings))
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
    if given_now.resume and "experiment" in given():
        raise ConfigError("experiment=: is for a new run (leave it out: config.yaml of the run says it all)")
    words = given()
    settings = settings_to_go_on(load_settings(run.config), given_now, words if given_now.resume else None, words)
    refuse_callbacks_of_a_file(settings, given_now, run)
    return as_launched(settings)


def as_launched(settings: Settings) -> Settings:
    """With the devices and nodes that the launcher started, where there is one. Raises ConfigError as `launch` does."""
    trainer = settings.trainer
    devices, nodes = launch.devices_and_nodes(trainer.devices, trainer.nodes, otherwise=trainer.devices_alone)
    return dataclasses.replace(settings, trainer=dataclasses.replace(trainer, devices=devices, nodes=nodes))


def output_dir() -> Path:
    hydra = HydraConfig.get()
    sweeps.refuse_if_stopped()
    if hydra.job.chdir:
        raise ConfigError(
            "hydra.job.chdir=true: paths are read from where the command is typed, and a run's files lie in its "
            "output_dir already (leave it out)"
        )
    if not hydra.run.dir:  # Hydra would take the working directory
        raise ConfigError("output_dir=: must be the path of a folder")
    return Path(hydra.runtime.output_dir)


def given() -> list[str]:
    """The keys and groups that this job's command names."""
    return [word.lstrip("+").partition("=")[0] for word in sweeps.typed()]
