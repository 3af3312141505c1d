"""HELM is called with what it needs and nothing else, and its files are read as it writes them.

For HELM itself: make .venv-helm, or IFT_HELM=FOLDER of a virtual environment with crfm-helm 0.5.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir

from ift.artifacts.model_folder import load_model_folder, save_model_folder
from ift.entry import settings_from
from ift.errors import ConfigError, DataError, MachineError
from ift.evaluation.engines import run_engine
from ift.evaluation.packages import helm
from ift.evaluation.packages.helm import Deployment, checked, read_run, task_of
from ift.export.source import RunModel
from ift.generation.engine import generate
from ift.pages.report import write_report
from ift.run import read_json, read_jsonl, write_json
from ift.settings import EvaluateSettings
from ift.text.conversations import Conversation
from ift.text.encoding import encode_prompt
from tests.running import ROOT, clean_environment
from tests.tiny_run import make_run

HELM = Path(os.environ.get("IFT_HELM") or ROOT / ".venv-helm")

# Stands in for helm-run: notes how it was called, and leaves what HELM 0.5.16 leaves for a model that always says " A".
FAKE = """#!{python}
import json, os, pathlib, sys, time
words, here = sys.argv[1:], pathlib.Path(__file__).parent
with open(here / "calls.jsonl", "a") as file:
    file.write(json.dumps({{"words": words, "env": dict(os.environ), "cwd": os.getcwd(), "pid": os.getpid()}}) + "\\n")
value = lambda name: words[words.index(name) + 1]
entries = words[words.index("--run-entries") + 1 : words.index("--suite")]
deployments = json.loads((pathlib.Path(value("--local-path")) / "model_deployments.yaml").read_text())
assert all(pathlib.Path(d["client_spec"]["args"]["pretrained_model_name_or_path"], "model.safetensors").exists()
           for d in deployments["model_deployments"])
failed = []
for entry in entries:
    scenario, _, arguments = entry.partition(":")
    model = next(part for part in arguments.split(",") if part.startswith("model=")).removeprefix("model=")
    name = entry.replace(model, model.replace("/", "_"))
    print("  Running " + name + " {{", file=sys.stderr, flush=True)
    if scenario == "broken":
        print("  INFO  Error when running " + name + ":\\nTraceback (most recent call last):", file=sys.stderr)
        print("LookupError: \\n*******\\n  Resource 'punkt_tab' not found.\\n  Please use", file=sys.stderr)
        failed.append(name)
        continue
    if scenario == "slow":
        (here / "slow").touch()
        time.sleep(60)
    folder = pathlib.Path(value("--output-path"), "runs", value("--suite"), name)
    if (folder / "per_instance_stats.json").exists():
        continue
    folder.mkdir(parents=True)
    (here / "made").write_text((here / "made").read_text() + name + "\\n" if (here / "made").exists() else name + "\\n")
    n = min(int(value("--max-eval-instances")), 4)
    right = [1.0, 0.0, 1.0, 1.0][:n]
    say = lambda what: {{"name": what, "split": "test"}}
    states = [{{
        "instance": {{"id": f"id{{i}}", "split": "test", "input": {{"text": f"Is {{i}} even or odd?"}},
                      "references": [{{"output": {{"text": "Even"}}, "tags": ["correct"] if r else []}},
                                     {{"output": {{"text": "Odd"}}, "tags": [] if r else ["correct"]}}]}},
        "train_trial_index": 0, "output_mapping": {{"A": "Even", "B": "Odd"}}, "num_train_instances": 5 if i else 3,
        "prompt_truncated": i == 1,
        "request": {{"prompt": f"Question: Is {{i}} even or odd?\\nAnswer:", "max_tokens": 5}},
        "result": {{"success": True, "completions": [{{"text": " A", "logprob": -1.0, "tokens": []}}]}},
    }} for i, r in enumerate(right)]
    each = [{{"instance_id": f"id{{i}}", "train_trial_index": 0, "stats": [
        {{"name": say("exact_match"), "count": 1, "sum": r, "mean": r}},
        {{"name": say("num_prompt_tokens"), "count": 1, "sum": 9, "mean": 9}},
    ]}} for i, r in enumerate(right)]
    stats = [
        {{"name": say("exact_match"), "count": 1, "sum": sum(right) / n, "mean": sum(right) / n}},
        {{"name": say("classification_macro_f1"), "count": 1, "sum": 0.4, "mean": 0.4}},
        {{"name": {{"name": "exact_match", "split": "train"}}, "count": 1, "sum": 0.1, "mean": 0.1}},
        {{"name": say("inference_runtime"), "count": 1, "sum": 3.0, "mean": 3.0}},
    ]
    for file, what in {{
        "run_spec": {{"name": name, "adapter_spec": {{"model": model, "max_train_instances": 5}}}},
        "scenario": {{"name": scenario}}, "scenario_state": {{"request_states": states}},
        "stats": stats, "per_instance_stats": each,
    }}.items():
        (folder / (file + ".json")).write_text(json.dumps(what))
if failed:
    print("helm.benchmark.runner.RunnerError: Failed runs: " + str(failed), file=sys.stderr)
    sys.exit(1)
"""


def model_only(path, settings_of, **options):
    """A run without curves, whose drawing takes a second."""
    run = make_run(path, settings_of, **options)
    run.metrics.unlink()
    run.summary.unlink()
    return run


@pytest.fixture
def made(tmp_path, settings_of):
    return model_only(tmp_path / "run", settings_of)


@pytest.fixture
def fake(tmp_path):
    """The folder of a virtual environment with a helm-run that is none."""
    program = tmp_path / "fake" / "bin" / "helm-run"
    program.parent.mkdir(parents=True)
    program.write_text(FAKE.format(python=sys.executable))
    program.chmod(0o755)
    (tmp_path / "fake/lib/python3.11/site-packages/crfm_helm-0.5.16.dist-info").mkdir(parents=True)
    return tmp_path / "fake"


@pytest.fixture
def settings(made, fake):
    def settings(*words: str) -> EvaluateSettings:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            given = [f"run={made.path}", "eval=helm", f"eval.environment={fake}", "eval.tasks=[simple_mcqa]", *words]
            return settings_from(compose("evaluate", given), EvaluateSettings)

    return settings


def calls(fake):
    return read_jsonl(fake / "bin" / "calls.jsonl")


def test_results_are_helm_s_numbers_with_intervals_and_every_answer(made, settings, capsys):
    results = run_engine(settings())
    scores = {f"{s['metric']} {s['prompt']}": s for s in results["scores"]}
    lead = scores["exact_match raw"]
    assert (lead["task"], lead["value"], lead["n"], lead["headline"]) == ("simple_mcqa", 0.75, 4, True)
    assert (round(lead["low"], 4), round(lead["high"], 4)) == (0.3006, 0.9544)  # Wilson's interval of 3 of 4
    whole = scores["classification_macro_f1 template"]  # no mean over questions: no interval
    assert (whole["value"], whole["low"], whole["headline"]) == (0.4, None, False)
    assert len(scores) == 4  # no runtime, nothing of the training split
    assert results["versions"] == {"crfm-helm": "0.5.16"}
    assert results["entries"] == ["simple_mcqa"]
    notes = " ".join(results["notes"])
    assert "simple_mcqa (tuned, raw): 1 of 4 prompts have fewer than 5 solved examples." in notes
    assert "simple_mcqa (tuned, template): 1 of 4 prompts were cut to fit the context." in notes
    samples = read_jsonl(made.evals / "helm" / "samples.jsonl")
    assert len(samples) == 8
    assert samples[1] == {
        "task": "simple_mcqa",
        "model": "tuned",
        "prompt_kind": "raw",
        "id": "id1",
        "prompt": "Question: Is 1 even or odd?\nAnswer:",
        "response": " A",
        "choices": {"A": "Even", "B": "Odd"},
        "reference": ["Odd"],
        "exact_match": 0.0,
    }
    out = capsys.readouterr().out
    assert "helm      [1/2] simple_mcqa (tuned, raw)\nhelm      [2/2] simple_mcqa (tuned, template)\n" in out
    write_report(made)
    assert "0.750 (0.301 to 0.954), n = 4" in made.report.read_text()


def test_helm_is_called_with_its_own_words_and_no_key_of_ours(made, settings, fake, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    run_engine(
        settings(
            "eval.limit=3", "eval.num_fewshot=2", "accelerator=cpu", "eval.tasks=[simple_mcqa,'mmlu:subject=anatomy']"
        )
    )
    [call] = calls(fake)
    work = made.evals.absolute() / "helm" / "work"
    words = call["words"]
    suite = words[words.index("--suite") + 1]
    assert words[: words.index("--suite")] == [
        "--run-entries",
        "simple_mcqa:model=ift/gpt2-tuned-raw,max_train_instances=2",
        "mmlu:subject=anatomy,model=ift/gpt2-tuned-raw,max_train_instances=2",
        "simple_mcqa:model=ift/gpt2-tuned-template,max_train_instances=2",
        "mmlu:subject=anatomy,model=ift/gpt2-tuned-template,max_train_instances=2",
    ]
    assert words[words.index("--suite") + 2 :] == [
        *("--max-eval-instances", "3", "--num-threads", "1", "--skip-completed-runs"),
        *("--local-path", str(work / "settings" / suite), "--output-path", str(work / "output")),
    ]
    assert "secret" not in json.dumps(call)
    environment = call["env"]
    assert set(environment) <= {
        *(
            "PATH",
            "LANG",
            "LC_ALL",
            "LC_CTYPE",
            "LD_LIBRARY_PATH",
            "OMP_NUM_THREADS",
            "SSL_CERT_FILE",
            "HOME",
            "TMPDIR",
        ),
        *("HF_HOME", "NLTK_DATA", "XDG_CACHE_HOME", "HF_HUB_DISABLE_TELEMETRY", "TOKENIZERS_PARALLELISM"),
        *("PYTHONUNBUFFERED", "CUDA_VISIBLE_DEVICES", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy"),
        *("https_proxy", "no_proxy"),
    }
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["HOME"] == str(work / "home")
    assert environment["https_proxy"] == "http://127.0.0.1:9"
    assert call["cwd"] == str(work)


def test_offline_is_told_to_the_libraries_and_takes_the_proxies_away(settings, fake, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    run_engine(settings("offline=true"))
    [call] = calls(fake)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_EVALUATE_OFFLINE"):
        assert call["env"][name] == "1"
    assert "https_proxy" not in call["env"]


def test_nothing_is_written_outside_the_run_and_no_copy_of_the_model_stays(made, settings, fake):
    before = {path for path in made.path.parent.rglob("*") if not path.is_relative_to(fake)}
    run_engine(settings())
    new = {path for path in made.path.parent.rglob("*") if not path.is_relative_to(fake)} - before
    assert new
    assert all(path.is_relative_to(made.evals) or path in (made.report, made.curves) for path in new)
    assert not list(made.evals.rglob("*.safetensors"))


def test_the_settings_name_our_model_with_and_without_its_template(made, settings, fake, tmp_path):
    seen = tmp_path / "seen"
    program = fake / "bin" / "helm-run"
    keep = f'import shutil; shutil.copytree(value("--local-path"), "{seen}")\nfailed = []\n'
    program.write_text(program.read_text().replace("failed = []\n", keep))
    run_engine(settings())
    raw, template = read_json(seen / "model_deployments.yaml")["model_deployments"]
    folder = str(made.evals.absolute() / "helm" / "work" / "model-tuned")
    assert raw["client_spec"]["args"] == {"pretrained_model_name_or_path": folder, "apply_chat_template": False}
    assert template["client_spec"]["args"]["apply_chat_template"] is True
    assert raw["max_sequence_length"] == 256
    _, tokenizer, own = load_model_folder(made.model)
    around = len(encode_prompt(Conversation("x"), own, tokenizer))
    assert template["max_sequence_length"] == 256 - around - 1
    for config in read_json(seen / "tokenizer_configs.yaml")["tokenizer_configs"]:
        assert config["end_of_text_token"] == config["prefix_token"] == "<|endoftext|>"
        assert config["tokenizer_spec"]["args"] == {"pretrained_model_name_or_path": folder}


def test_a_text_of_the_template_is_begun_once(tmp_path):
    """HELM gives the rendered template to the tokenizer, whose own beginning would come before the template's."""
    source = SimpleNamespace(tokenizer=SimpleNamespace(beginning=1))
    folder = tmp_path / "model-tuned"
    folder.mkdir()
    write_json(folder / "tokenizer.json", {"model": {}, "post_processor": {"type": "TemplateProcessing"}})
    write_json(folder / "tokenizer_config.json", {"add_bos_token": True, "chat_template": "x"})
    assert Deployment("tuned", "raw", source, folder).tokenizer_folder == folder
    without = Deployment("tuned", "template", source, folder).tokenizer_folder
    helm.write_without_beginning(folder, without)
    assert read_json(without / "tokenizer.json") == {"model": {}, "post_processor": None}
    assert read_json(without / "tokenizer_config.json") == {"add_bos_token": False, "chat_template": "x"}
    source.tokenizer.beginning = None  # GPT-2's tokenizer puts nothing
    assert Deployment("tuned", "template", source, folder).tokenizer_folder == folder


def test_an_answer_is_cut_at_the_end_of_a_turn_that_the_template_has():
    """HELM writes on after the model's own ends where a stop text is one token."""
    tokenizer = SimpleNamespace(end_text="<eos>")
    for ending, tuned in (("<end_of_turn>", "<end_of_turn>"), ("", "<eos>")):
        source = SimpleNamespace(tokenizer=tokenizer, template=SimpleNamespace(ending=ending))
        assert Deployment("tuned", "template", source, Path()).end_text == tuned
        assert Deployment("base", "raw", source, Path()).end_text == "<eos>"


def test_what_was_measured_is_not_measured_again_unless_something_of_it_differs(made, settings, fake, settings_of):
    first = run_engine(settings("eval.prompts=[raw]"))
    assert run_engine(settings("eval.prompts=[raw]"))["scores"] == first["scores"]
    assert (fake / "bin" / "made").read_text().splitlines() == ["simple_mcqa:model=ift_gpt2-tuned-raw"]
    assert len(calls(fake)) == 1
    run_engine(settings("eval.prompts=[raw]", "eval.limit=2"))
    model_only(made.path, settings_of, seed=2)  # another model in the same folder
    run_engine(settings("eval.prompts=[raw]"))
    assert len((fake / "bin" / "made").read_text().splitlines()) == 3


def test_a_run_that_fails_is_named_and_the_others_count(settings):
    results = run_engine(settings("eval.tasks=[broken,simple_mcqa]", "eval.prompts=[raw]"))
    assert [s["task"] for s in results["scores"] if s["headline"]] == ["simple_mcqa"]
    [note] = [note for note in results["notes"] if "failed" in note]
    assert note == (
        "1 of 2 runs failed and are not here: broken (tuned, raw): LookupError: Resource 'punkt_tab' not found. "
        "(evals/helm/work/helm-run.log)."
    )


def test_helm_that_measures_nothing_is_an_error_with_its_own_words(made, settings):
    with pytest.raises(
        MachineError, match=r"measured nothing: broken \(tuned, raw\): LookupError: Resource 'punkt_tab' not found"
    ):
        run_engine(settings("eval.tasks=[broken]"))
    assert not (made.evals / "helm" / "results.json").exists()
    assert not list(made.evals.rglob("*.safetensors"))


def test_local_data_lies_where_helm_looks_for_it(made, settings, fake, tmp_path):
    (tmp_path / "mirror/nltk/tokenizers").mkdir(parents=True)
    (tmp_path / "mirror/helm/mmlu/data/dev").mkdir(parents=True)
    (tmp_path / "mirror/helm/mmlu/data/dev/anatomy_dev.csv").write_text("q,a,b,c,d,A\n")
    run_engine(settings(f"data_root={tmp_path / 'mirror'}"))
    assert (made.evals / "helm/work/output/scenarios/mmlu/data/dev/anatomy_dev.csv").read_text() == "q,a,b,c,d,A\n"
    assert calls(fake)[0]["env"]["NLTK_DATA"] == str(tmp_path / "mirror/nltk")


def test_the_base_model_is_asked_raw_and_a_run_from_scratch_has_none(made, settings, fake, settings_of):
    with pytest.raises(ConfigError, match=r"eval\.base=true: .* was trained from scratch"):
        run_engine(settings("eval.base=true"))
    text = made.config.read_text()
    made.config.write_text(text.replace("pretrained: null", f"pretrained: {json.dumps(str(made.model))}"))
    results = run_engine(settings("eval.base=true"))
    assert [(s["model"], s["prompt"]) for s in results["scores"] if s["headline"]] == [
        ("base", "raw"),
        ("tuned", "raw"),
        ("tuned", "template"),
    ]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_who_stops_it_stops_helm_too(made, fake, how):
    command = [sys.executable, str(ROOT / "evaluate.py"), f"run={made.path}", "eval=helm", "eval.tasks=[slow]"]
    process = subprocess.Popen(
        [*command, f"eval.environment={fake}"], cwd=ROOT, env=clean_environment(), stdout=subprocess.DEVNULL
    )
    until = time.monotonic() + 60
    while not (fake / "bin" / "slow").exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(how)
    assert process.wait(30) in (128 + signal.SIGTERM, 75)
    child = calls(fake)[0]["pid"]
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert not list(made.evals.rglob("*.safetensors"))


@pytest.mark.parametrize("environment", ["nowhere", "."])
def test_without_helm_the_command_that_makes_it_is_named(settings, environment):
    with pytest.raises(MachineError, match=r"no helm-run there \(make \.venv-helm"):
        run_engine(settings(f"eval.environment={environment}"))


def test_entries_are_helm_s_and_carry_no_model_of_their_own():
    for entry in ("simple_mcqa", "mmlu:subject=anatomy,method=multiple_choice_joint", "wmt_14:language_pair=de-en"):
        assert checked(entry) == entry
    for entry in ("--plugins", "", "mmlu subject", "mmlu:subject", "a:b=c --x", "a:b=c\n", "../x"):
        with pytest.raises(ConfigError, match="no run entry of HELM"):
            checked(entry)
    with pytest.raises(ConfigError, match="the model is the run's"):
        checked("mmlu:subject=anatomy,model=openai/gpt-4")


def test_no_entries_are_an_error(settings):
    with pytest.raises(ConfigError, match="HELM needs run entries"):
        run_engine(settings("eval.tasks=[]"))


def test_the_test_split_gives_the_numbers_where_helm_drew_from_two(made, settings, tmp_path):
    run_engine(settings("eval.prompts=[raw]"))
    [folder] = (made.evals / "helm/work/output/runs").glob("*/simple*")
    states, each, stats = (read_json(folder / f"{n}.json") for n in ("scenario_state", "per_instance_stats", "stats"))
    states["request_states"][1]["instance"]["split"] = each[1]["stats"][0]["name"]["split"] = "valid"  # the wrong one
    stats[0] |= {"sum": 1.0, "mean": 1.0}
    stats.append({"name": {"name": "exact_match", "split": "valid"}, "count": 1, "sum": 0.0, "mean": 0.0})
    for name, value in (("scenario_state", states), ("per_instance_stats", each), ("stats", stats)):
        write_json(folder / f"{name}.json", value)
    measured = read_run(folder, Deployment("tuned", "raw", RunModel.open(made), tmp_path))
    [lead] = [score for score in measured.scores if score.headline]
    assert (lead.value, lead.n, round(lead.low, 4), lead.high) == (1.0, 3, 0.4385, 1.0)  # Wilson's interval of 3 of 3
    assert len(measured.samples) == 4
    assert "1 questions of another split than test are among the samples alone." in measured.notes[0]


def test_a_run_s_name_without_its_model_is_the_task():
    assert task_of("simple_mcqa:model=ift_gpt2-tuned-raw") == "simple_mcqa"
    assert task_of("mmlu:subject=anatomy,model=x,method=joint") == "mmlu:subject=anatomy,method=joint"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("stats", "["),
        ("stats", {"a": 1}),
        ("per_instance_stats", [{"stats": 3}]),
        ("scenario_state", {"request_states": [{}]}),
        ("run_spec", {"name": "x"}),
    ],
)
def test_files_that_are_not_helm_s_are_named(made, settings, tmp_path, name, content):
    run_engine(settings("eval.prompts=[raw]"))
    [folder] = (made.evals / "helm/work/output/runs").glob("*/simple*")
    if isinstance(content, str):
        (folder / f"{name}.json").write_text(content)
    else:
        write_json(folder / f"{name}.json", content)
    with pytest.raises(DataError, match="simple_mcqa:model"):
        read_run(folder, Deployment("tuned", "raw", RunModel.open(made), tmp_path))


# -- HELM itself ------------------------------------------------------------------------------------------------------


def letters(run):
    """Make the run's model one that says A after a colon and B after a line's end, and then ends."""
    model, tokenizer, template = load_model_folder(run.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("h.") or "wpe" in name:
                parameter.zero_()  # what comes next depends on the last token alone
        model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.wte.weight))
        model.config = replace(model.config, tie_weights=False)
        state = model.ln_f(model.wte.weight)
        token = {text: tokenizer.encode(text)[0] for text in (":", "\n", "A", "B")}
        model.lm_head.weight[token["A"]] = state[token[":"]]
        model.lm_head.weight[token["B"]] = state[token["\n"]]
        model.lm_head.weight[tokenizer.end_of_text] = state[token["A"]] + state[token["B"]]
    save_model_folder(run.model, model, tokenizer, template)


@pytest.mark.skipif(
    not (HELM / "bin" / "helm-run").exists(), reason="no HELM here: make .venv-helm, or IFT_HELM=FOLDER"
)
def test_helm_s_completions_are_ours_and_its_exact_match_is_our_count(settings, tmp_path, settings_of):
    run = model_only(tmp_path / "real", settings_of, context_length=512)
    letters(run)
    given = [f"run={run.path}", f"eval.environment={HELM}", "eval.tasks=[simple_mcqa,simple_classification]"]
    results = run_engine(settings(*given, "offline=true", "eval.limit=20", "accelerator=cpu"))
    model, tokenizer, template = load_model_folder(run.model)
    right = {}
    for path in sorted((run.evals / "helm/work/output/runs").glob("*/*/scenario_state.json")):
        name = path.parent.name
        for state in read_json(path)["request_states"]:
            asked, [said] = state["request"], state["result"]["completions"]
            row = Conversation(asked["prompt"])
            prompt = asked["prompt"] if name.endswith("-raw") else template.prompt(row)
            [answer] = generate(
                model,
                [tokenizer.encode(prompt)],
                end_of_text=tokenizer.end_of_text,
                max_new_tokens=asked["max_tokens"],
            )
            ours = tokenizer.decode(answer.ids)
            for stop in asked["stop_sequences"]:
                ours = ours.split(stop)[0]
            assert said["text"] == ours
            meant = (state.get("output_mapping") or {}).get(ours.strip(), ours.strip())
            correct = [r["output"]["text"] for r in state["instance"]["references"] if "correct" in r["tags"]]
            right[name] = right.get(name, 0) + (meant in correct)
    scores = {
        f"{s['task']}:model=ift_gpt2-tuned-{s['prompt']}": s for s in results["scores"] if s["metric"] == "exact_match"
    }
    assert {name: score["value"] for name, score in scores.items()} == pytest.approx(
        {name: count / 20 for name, count in right.items()}
    )
    even, odd = (right[f"simple_mcqa:model=ift_gpt2-tuned-{prompt}"] for prompt in ("raw", "template"))
    assert even + odd == 20  # always A, and always B
    assert 0 < even < 20
    assert all(score["n"] == 20 and score["low"] < score["value"] + 1e-9 < score["high"] for score in scores.values())
