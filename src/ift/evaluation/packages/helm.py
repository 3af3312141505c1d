"""HELM (Liang et al. 2022, arXiv:2211.09110): its own runner, in an environment of its own, on an export of the model.

crfm-helm pins packages that we do not, so nothing of it is imported here: `helm-run` is a child process with a small
environment and no keys, and its result files are read back. Into RUN/evals/helm/work go, and stay,

    model-tuned/            the export that it loads (removed when all is read)
    settings/SUITE/         our models under HELM's names, and the answers so far (removed when all is done)
    output/runs/SUITE/      what it measured; a run that is there whole is not made again
    helm-run.log            everything it printed

A suite is named by what decides its numbers: a command that was stopped goes on, and nothing of another model is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ift.artifacts.weights import find_weights
from ift.errors import ConfigError, DataError, MachineError, one_line
from ift.evaluation.results import Outcome, Score
from ift.evaluation.statistics import SHARE, UNIT, mean_interval
from ift.evaluation.subject import Bench
from ift.export.hugging_face import write_hugging_face
from ift.export.source import RunModel
from ift.run import read_json, write_json
from ift.sealed import hash_file, remove_folder
from ift.settings import EvaluateSettings, load_settings
from ift.text.conversations import Conversation
from ift.text.encoding import encode_prompt

ALL = 1_000_000  # helm-run must be given a number of questions
# what a scenario is usually judged by, where it is not exact_match (HELM Lite's own table)
MAIN = {
    "narrative_qa": "f1_score",
    "natural_qa": "f1_score",
    "math": "math_equiv_chain_of_thought",
    "gsm": "final_number_exact_match",
    "legalbench": "quasi_exact_match",
    "med_qa": "quasi_exact_match",
    "wmt_14": "bleu_4",
}
METRICS = (  # of HELM's many, those that say how right an answer is; the first that there is leads
    "exact_match", "quasi_exact_match", "prefix_exact_match", "quasi_prefix_exact_match", "final_number_exact_match",
    "math_equiv", "math_equiv_chain_of_thought", "f1_score", "rouge_l", "rouge_2", "rouge_1", "bleu_4", "bleu_1",
    "classification_macro_f1", "classification_micro_f1",
)  # fmt: skip
EVALUATED = ("test", "valid")  # the first that there is gives the numbers
KEPT = ("PATH", "LANG", "LC_ALL", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "SSL_CERT_FILE")
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_EVALUATE_OFFLINE", "DO_NOT_TRACK")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")


@dataclass(frozen=True)
class Deployment:
    """A model under a name that HELM knows it by: ift/gpt2-tuned-raw."""

    label: str  # tuned or base
    prompt: str  # raw or template
    source: RunModel
    folder: Path  # of the export

    @property
    def name(self) -> str:  # "gpt" in it: HELM then takes the tokens' texts from the tokenizer as they are
        return f"ift/gpt2-{self.label}-{self.prompt}"

    @property
    def end_text(self) -> str:
        """What HELM cuts an answer at, since it lets the model write on: the end of a turn that tuning taught."""
        return (self.label == "tuned" and self.source.template.ending) or self.source.tokenizer.end_text

    @property
    def tokenizer_folder(self) -> Path:
        """The template writes what the model begins every text with: HELM's tokenizer must not write it once more."""
        twice = self.prompt == "template" and self.source.tokenizer.beginning is not None
        return self.folder.with_name(f"{self.folder.name}-tokenizer") if twice else self.folder

    @property
    def positions(self) -> int:
        """What HELM may fill with its prompt and the answer: the template's own words are put around it later."""
        if self.prompt == "raw":
            return self.source.config.context_length
        around = encode_prompt(Conversation("x"), self.source.template, self.source.tokenizer)
        left = self.source.config.context_length - len(around) - 1  # a border between words may move by a token
        if left < 1:
            raise ConfigError("eval.prompts=[template]: the template fills the context (eval.prompts=[raw])")
        return left


def check(everything: EvaluateSettings) -> None:
    """Raises MachineError where helm-run is missing, ConfigError for entries that are none."""
    for entry in everything.eval.tasks:
        checked(entry)
    if not everything.eval.tasks:
        raise ConfigError("eval.tasks=[]: HELM needs run entries (simple_mcqa needs no data)")
    find_helm(everything.eval.environment)


def evaluate(bench: Bench) -> Outcome:
    """Raises what `check` does, and MachineError where helm-run measures nothing."""
    check(bench.settings)
    settings = bench.settings.eval
    entries, program = settings.tasks, find_helm(settings.environment)
    work = bench.folder / "work"
    deployments = list(deploy(bench, work))
    suite = fingerprint(deployments, entries, settings.limit, settings.num_fewshot, versions(program))
    output, local = work / "output", work / "settings" / suite
    lay_out_data(bench.data_root, output / "scenarios")
    write_settings(deployments, local)
    asked = [entry_for(entry, deployment, settings.num_fewshot) for deployment in deployments for entry in entries]
    command = [str(program), "--run-entries", *asked, "--suite", suite]
    command += ["--max-eval-instances", str(settings.limit or ALL), "--num-threads", "1"]
    command += ["--skip-completed-runs", "--local-path", str(local), "--output-path", str(output)]
    try:
        found, failed = runs_of(output / "runs" / suite, deployments), list[str]()
        if len(found) < len(asked):
            failed = call(command, child_environment(bench, work), work, len(asked))
            found = runs_of(output / "runs" / suite, deployments)
        if not found:
            raise MachineError(f"helm-run measured nothing: {one_line(failed[0], 100)} (see {work / 'helm-run.log'})")
        scores: list[Score] = []
        samples: list[dict[str, Any]] = []
        notes: list[str] = []
        for path, deployment in found:
            measured = read_run(path, deployment)
            scores += measured.scores
            samples += measured.samples
            notes += measured.notes
    finally:
        for deployment in deployments:
            remove_folder(deployment.folder)
            remove_folder(deployment.tokenizer_folder)
    if len(found) == len(asked):
        shutil.rmtree(local)
    if len(found) < len(asked):
        notes.append(
            f"{len(asked) - len(found)} of {len(asked)} runs failed and are not here: {'; '.join(failed)} "
            f"({work.relative_to(bench.run.path)}/helm-run.log)."
        )
    if settings.limit:
        notes.append(f"Of each entry {settings.limit:,} questions at most, drawn by HELM.")
    notes.append("HELM lets the model write its answer, letters too: not comparable with likelihoods of choices.")
    return Outcome(scores, samples, versions(program), notes, {"entries": entries, "suite": suite})


# -- before ---------------------------------------------------------------------------------------------------------


def find_helm(environment: str | None) -> Path:
    """The program helm-run of a virtual environment."""
    folder = Path(environment or ".venv-helm")
    for program in (folder / "bin" / "helm-run", folder / "Scripts" / "helm-run.exe", folder / "helm-run"):
        if os.access(program, os.X_OK) and program.is_file():
            return program.absolute()
    raise MachineError(
        f"eval.environment={folder}: no helm-run there (make .venv-helm, or name the folder that has it)"
    )


def versions(program: Path) -> dict[str, str]:
    """Of the packages in helm-run's environment that decide numbers, by the folders that pip leaves."""
    found = {}
    for package in ("crfm_helm", "transformers", "torch", "datasets"):
        for folder in sorted(program.parent.parent.glob(f"lib/python*/site-packages/{package}-*.dist-info")):
            found[package.replace("_", "-")] = folder.name.removesuffix(".dist-info").partition("-")[2]
    return found


def checked(entry: str) -> str:
    """A run entry as HELM spells it, without a model: scenario, or scenario:key=value,key=value."""
    if not re.fullmatch(r"[a-z][\w.-]*(:[\w.-]+=[^\s,=]+(,[\w.-]+=[^\s,=]+)*)?", entry):
        raise ConfigError(f"eval.tasks: {entry!r} is no run entry of HELM (mmlu:subject=anatomy)")
    if re.search(r"[:,]model(_deployment)?=", entry):
        raise ConfigError(f"eval.tasks: {entry!r}: the model is the run's (leave model= out)")
    return entry


def entry_for(entry: str, deployment: Deployment, num_fewshot: int | None) -> str:
    more = [f"model={deployment.name}"]
    if num_fewshot is not None:
        more.append(f"max_train_instances={num_fewshot}")
    return f"{entry}{',' if ':' in entry else ':'}{','.join(more)}"


def deploy(bench: Bench, work: Path) -> Iterator[Deployment]:
    """Export each model and give it a name. The base model knows no template."""
    sources = {"tuned": RunModel.open(bench.run)}
    if bench.settings.eval.base:
        pretrained = load_settings(bench.run.config).model.pretrained
        if pretrained is None:
            raise ConfigError(f"eval.base=true: {bench.run.path} was trained from scratch (it has no base model)")
        tuned = sources["tuned"]
        sources["base"] = RunModel(bench.run, find_weights(pretrained), tuned.tokenizer, tuned.template)
    for label, source in sources.items():
        folder = work / f"model-{label}"
        remove_folder(folder)
        folder.mkdir(parents=True)
        write_hugging_face(source, folder, "fp32", lambda amount: None)
        for prompt in bench.settings.eval.prompts:
            if prompt == "raw" or (label == "tuned" and not source.template.plain):
                deployment = Deployment(label, prompt, source, folder)
                if deployment.tokenizer_folder != folder:
                    write_without_beginning(folder, deployment.tokenizer_folder)
                yield deployment


def write_without_beginning(folder: Path, target: Path) -> None:
    """The tokenizer of an export, but for what it puts before every text."""
    remove_folder(target)
    target.mkdir()
    for path in folder.glob("*.jinja"):
        shutil.copy(path, target)
    write_json(target / "tokenizer.json", {**read_json(folder / "tokenizer.json"), "post_processor": None})
    config = {**read_json(folder / "tokenizer_config.json"), "add_bos_token": False}
    write_json(target / "tokenizer_config.json", config)


def fingerprint(
    deployments: Sequence[Deployment],
    entries: Sequence[str],
    limit: int | None,
    num_fewshot: int | None,
    versions: Mapping[str, str],
) -> str:
    """The name of a suite: results of another model, template, version or choice of questions are never taken up."""
    weights = {d.folder: [hash_file(path) for path in sorted(d.folder.glob("*.safetensors"))] for d in deployments}
    what = [[d.name, *weights[d.folder], d.source.template.hash, d.source.tokenizer.hash] for d in deployments]
    what += [["begun once"] for d in deployments if d.tokenizer_folder != d.folder]
    what += [[d.end_text] for d in deployments if d.end_text != d.source.tokenizer.end_text]
    decided = json.dumps([what, sorted(entries), limit, num_fewshot, dict(versions)])
    return "ift-" + hashlib.sha256(decided.encode()).hexdigest()[:16]


def lay_out_data(data_root: Path | None, scenarios: Path) -> None:
    """data_root/helm/SCENARIO holds what HELM would download for a scenario; what is there it does not fetch."""
    scenarios.mkdir(parents=True, exist_ok=True)
    if data_root and (data_root / "helm").is_dir():
        shutil.copytree(data_root / "helm", scenarios, dirs_exist_ok=True)


def write_settings(deployments: Sequence[Deployment], folder: Path) -> None:
    """JSON is YAML too."""
    folder.mkdir(parents=True, exist_ok=True)
    models = [
        {
            "name": d.name,
            "model_name": d.name,
            "tokenizer_name": d.name,
            "max_sequence_length": d.positions,
            "client_spec": {
                "class_name": "helm.clients.huggingface_client.HuggingFaceClient",
                "args": {
                    "pretrained_model_name_or_path": str(d.folder),
                    "apply_chat_template": d.prompt == "template",
                },
            },
        }
        for d in deployments
    ]
    tokenizers = [
        {
            "name": d.name,
            "tokenizer_spec": {
                "class_name": "helm.tokenizers.huggingface_tokenizer.HuggingFaceTokenizer",
                "args": {"pretrained_model_name_or_path": str(d.tokenizer_folder)},
            },
            "end_of_text_token": d.end_text,
            "prefix_token": d.source.tokenizer.decode_bytes([d.source.tokenizer.before_nothing]).decode(),
        }
        for d in deployments
    ]
    write_json(folder / "model_deployments.yaml", {"model_deployments": models})
    write_json(folder / "tokenizer_configs.yaml", {"tokenizer_configs": tokenizers})


# -- the child process ------------------------------------------------------------------------------------------------


def child_environment(bench: Bench, work: Path) -> dict[str, str]:
    """What helm-run needs and no more: no keys, and everything that libraries keep goes into the work folder."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    own = {"HOME": "home", "TMPDIR": "tmp", "HF_HOME": "huggingface", "NLTK_DATA": "nltk", "XDG_CACHE_HOME": "cache"}
    for variable, folder in own.items():
        kept[variable] = str(work / folder)
        (work / folder).mkdir(parents=True, exist_ok=True)
    kept |= {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    if bench.data_root and (bench.data_root / "nltk").is_dir():
        kept["NLTK_DATA"] = str(bench.data_root / "nltk")  # punkt_tab, which F1, BLEU and ROUGE cut sentences by
    for name in ("HF_HOME", "NLTK_DATA"):  # where a person keeps what was fetched before
        if name in os.environ:
            kept[name] = os.environ[name]
    if bench.settings.accelerator == "cpu":
        kept["CUDA_VISIBLE_DEVICES"] = ""
    if bench.settings.offline:
        return kept | dict.fromkeys(OFFLINE, "1")
    return kept | {name: os.environ[name] for name in PROXIES if name in os.environ}


def call(command: Sequence[str], environment: Mapping[str, str], work: Path, runs: int) -> list[str]:
    """Run it to its end, with a line for each run that begins; what failed, and why, one line each.

    Ctrl-C and SIGTERM end it and all it started.
    """
    progress = Progress(runs)
    with (work / "helm-run.log").open("w", encoding="utf-8") as log, as_exit(signal.SIGTERM):
        child = subprocess.Popen(
            command,
            cwd=work,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            for line in child.stdout or ():
                log.write(line)
                log.flush()
                progress.line(line.rstrip())
            child.wait()
        except BaseException:
            end(child)
            raise
    failed = [one_line(f"{shown(name)}: {why}", 160) for name, why in progress.failed.items()]
    return failed or [one_line(progress.error, 160) or f"it ended with {child.returncode}"]


@dataclass
class Progress:
    """From the lines of helm-run's log: runs that begin, runs that fail, and the last error of all."""

    runs: int
    begun: int = 0
    current: str = ""  # a run whose traceback comes
    error: str = ""
    failed: dict[str, str] = field(default_factory=dict)

    def line(self, line: str) -> None:
        if begins := re.search(r"\bRunning ([\w.-]+:\S*model=\S+) \{$", line):
            self.begun, self.current = self.begun + 1, ""
            print(f"helm      [{self.begun}/{self.runs}] {one_line(shown(begins[1]), 100)}", flush=True)
        elif fails := re.search(r"\bError when running (\S+):$", line):
            self.current = fails[1]
            self.failed[self.current] = "failed"
        elif re.match(r"[\w.]+(Error|Exception)\b", line):
            self.error = line
            if self.current and "RunnerError" not in line:
                self.failed[self.current] = line
        elif self.current and self.failed[self.current].endswith(":") and line.strip(" *"):
            self.failed[self.current] += " " + line.strip()  # a message that begins on the next line


def shown(name: str) -> str:
    """simple_mcqa:model=ift_gpt2-tuned-raw -> simple_mcqa (tuned, raw)"""
    model = re.search(r"model=ift_gpt2-(\w+)-(\w+)", name)
    return task_of(name) + (f" ({model[1]}, {model[2]})" if model else "")


def end(child: subprocess.Popen[str]) -> None:
    """SIGTERM to it and its own, SIGKILL to what is left after some seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
            child.wait(5)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


@contextmanager
def as_exit(number: signal.Signals) -> Iterator[None]:
    """A signal that would end the process at once ends it by an exception: what it started is ended too."""
    before = signal.signal(number, lambda *_: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(number, before)


# -- after ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    scores: list[Score]
    samples: list[dict[str, Any]]
    notes: list[str]


def runs_of(suite: Path, deployments: Sequence[Deployment]) -> list[tuple[Path, Deployment]]:
    """The runs that are there whole, in the order of their names, and whose they are."""
    by_name = {deployment.name: deployment for deployment in deployments}
    found = []
    for stats in sorted(suite.glob("*/stats.json")) if suite.is_dir() else ():
        path = stats.parent
        if all((path / f"{name}.json").exists() for name in ("run_spec", "scenario_state", "per_instance_stats")):
            deployment = by_name.get(str(_read(path / "run_spec.json").get("adapter_spec", {}).get("model")))
            if deployment:
                found.append((path, deployment))
    return found


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read: {one_line(str(error), 60)} (remove its folder, run it again)"
        ) from error


def read_run(path: Path, deployment: Deployment) -> Measured:
    """One folder of results as scores and samples. Raises DataError where a file is not what HELM 0.5 writes."""
    try:
        return _read_run(path, deployment)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        what = f"{type(error).__name__} {error}"
        raise DataError(f"{path}: not what HELM 0.5 leaves: {one_line(what, 60)}") from error


def _read_run(path: Path, deployment: Deployment) -> Measured:
    spec, state = _read(path / "run_spec.json"), _read(path / "scenario_state.json")
    task = task_of(str(spec["name"]))
    stats = [s for s in _read(path / "stats.json") if _counts(s["name"])]
    split = next((split for split in EVALUATED if any(s["name"]["split"] == split for s in stats)), EVALUATED[0])
    official = {s["name"]["name"]: s for s in stats if s["name"]["split"] == split and s.get("count")}
    values: dict[str, dict[str, list[float]]] = {}  # metric -> instance -> its value in each trial
    for each in _read(path / "per_instance_stats.json"):
        if each.get("perturbation") is None:
            for stat in each["stats"]:
                name = stat["name"]
                if _counts(name) and stat.get("count"):
                    by_instance = values.setdefault(name["name"], {})
                    by_instance.setdefault(str(each["instance_id"]), []).append(float(stat["sum"]) / stat["count"])
    asked = {str(r["instance"]["id"]) for r in state["request_states"] if r["instance"]["split"] == split}
    scores = []
    leads = MAIN.get(task.partition(":")[0])
    leads = leads if leads in official else next((name for name in METRICS if name in official), None)
    for name in METRICS:
        if name in official:
            mean = float(official[name]["mean"])
            trials = {key: found for key, found in values.get(name, {}).items() if key in asked}
            parts = [sum(found) / len(found) for found in trials.values()]
            estimate = mean_interval(parts, SHARE if set(parts) <= {0.0, 1.0} else UNIT) if parts else None
            # metrics of a whole set (macro F1) have no parts whose mean they are, and no interval from them
            known = estimate is not None and abs(estimate.mean - mean) < 1e-9
            scores.append(
                Score(
                    task=task,
                    metric=name,
                    value=mean,
                    n=len(parts) if known else len(asked),
                    low=estimate.low if known and estimate else None,
                    high=estimate.high if known and estimate else None,
                    model=deployment.label,
                    prompt=deployment.prompt,
                    headline=name == leads,
                )
            )
    samples = [_sample(task, deployment, request, values) for request in state["request_states"]]
    cut = sum(bool(request.get("prompt_truncated")) for request in state["request_states"])
    wanted = spec["adapter_spec"].get("max_train_instances", 0)
    fewer = sum(request.get("num_train_instances", 0) < wanted for request in state["request_states"])
    notes = []
    where = f"{task} ({deployment.label}, {deployment.prompt})"
    others = len({str(r["instance"]["id"]) for r in state["request_states"]} - asked)
    if others:
        notes.append(f"{where}: {others:,} questions of another split than {split} are among the samples alone.")
    if fewer:
        notes.append(f"{where}: {fewer:,} of {len(samples):,} prompts have fewer than {wanted} solved examples.")
    if cut:
        notes.append(f"{where}: {cut:,} of {len(samples):,} prompts were cut to fit the context.")
    return Measured(scores, samples, notes)


def _counts(name: Mapping[str, Any]) -> bool:
    whole = name.get("perturbation") is None and name.get("sub_split") is None
    return name["name"] in METRICS and name.get("split") in EVALUATED and whole


def task_of(name: str) -> str:
    """A run's name without its model: mmlu:subject=anatomy,model=ift_gpt2-tuned-raw -> mmlu:subject=anatomy"""
    scenario, _, arguments = name.partition(":")
    kept = [part for part in arguments.split(",") if part and not part.startswith("model=")]
    return f"{scenario}:{','.join(kept)}" if kept else scenario


def _sample(
    task: str, deployment: Deployment, request: Mapping[str, Any], values: Mapping[str, Mapping[str, list[float]]]
) -> dict[str, Any]:
    instance = request["instance"]
    completions = (request.get("result") or {}).get("completions") or [{"text": None}]
    right = [r["output"]["text"] for r in instance.get("references", ()) if "correct" in r.get("tags", ())]
    own = {name: found[str(instance["id"])][0] for name, found in values.items() if str(instance["id"]) in found}
    return {
        "task": task,
        "model": deployment.label,
        "prompt_kind": deployment.prompt,
        "id": str(instance["id"]),
        "prompt": request["request"]["prompt"],
        "response": completions[0]["text"],
        "choices": request.get("output_mapping"),
        "reference": right,
        **own,
    }
