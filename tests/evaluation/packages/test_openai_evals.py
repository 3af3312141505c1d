"""OpenAI Evals: the package's own runner and ours report the same; a registry's files are data and run nothing."""

import inspect
import json
import re
from importlib.util import find_spec

import pytest
from hydra import compose, initialize_config_dir

from ift.entry import settings_from
from ift.errors import ConfigError, DataError, MachineError
from ift.evaluation import recorded
from ift.evaluation.engines import open_bench
from ift.evaluation.packages import openai_evals
from ift.evaluation.packages.openai_evals import as_row, built_in, find_eval
from ift.evaluation.subject import Bench, Subject
from ift.run import read_json, read_jsonl, write_jsonl
from ift.settings import EvaluateSettings
from ift.text.templates import Segment, Template
from tests.evaluation.judge.judge_server import JudgeServer
from tests.running import ROOT, run
from tests.tiny_run import make_run

pytestmark = pytest.mark.skipif(find_spec("evals") is None, reason="needs pip install --no-deps evals")
# the model of both sides: it finds its answer by the end of the prompt, as text
SCRIPT = {
    "Once upon a ": "time, there was",
    "The first US president was ": "Washington",
    "plays eleven in stranger things?": "It is Millie Bobby Brown, I think",
    "derek die in grey's?": "season 11",
    "the girl elf in the hobbit?": "",
    "One": '{"a": 1, "b": [2]}',
    "Two": '{"a": 1, "b": [3]}',
    "Three": "no JSON",
}


def scripted(text: str) -> str:
    text = text.removesuffix("\nAssistant:")
    return next((said for end, said in SCRIPT.items() if text.endswith(end)), "Y" if len(text) % 3 else "N")


def registry(folder, *, kind="evals.elsuite.basic.match:Match", args=None, samples=None, more=""):
    """A registry with the eval mine.dev.v0, and `mine` for short."""
    for name in ("evals", "data", "modelgraded"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    args = {"samples_jsonl": "mine/samples.jsonl"} if args is None else args
    entry = {"mine": {"id": "mine.dev.v0", "metrics": ["accuracy"]}, "mine.dev.v0": {"class": kind, "args": args}}
    lines = "\n".join(f"{name}: {json.dumps(value)}" for name, value in entry.items())
    (folder / "evals" / "mine.yaml").write_text(f"{lines}\n{more}")
    if samples is not None:
        (folder / "data" / "mine").mkdir(exist_ok=True)
        write_jsonl(folder / "data" / "mine" / "samples.jsonl", samples)
    return folder


JSON_SAMPLES = [{"input": name, "ideal": '{"b": [2], "a": 1}'} for name in ("One", "Two", "Three")]


@pytest.fixture
def bench(tmp_path, settings_of):
    """bench(...): a tiny run, and what evaluate.py is told about it."""
    made = make_run(tmp_path / "run", settings_of)

    def bench(*overrides: str) -> Bench:
        words = [f"run={made.path}", "eval=openai_evals", "eval.prompts=[raw]", "eval.generate.max_new_tokens=4"]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose("evaluate", [*words, *overrides])
        return open_bench(settings_from(config, EvaluateSettings))

    return bench


@pytest.fixture
def script(monkeypatch):
    """The scripted model in the place of the run's; the list of what it was asked."""
    questions = []

    def answer(self, asked):
        questions.extend(asked)
        return [scripted(question) for question in asked]

    monkeypatch.setattr(recorded.RecordedModel, "_answer", answer)
    return questions


def test_the_report_is_that_of_the_packages_own_runner(bench, script, tmp_path):
    mine = registry(tmp_path / "mine", kind="evals.elsuite.basic.json_match:JsonMatch", samples=JSON_SAMPLES)
    names = ["test-match", "test-fuzzy-match", "test-includes", "test-includes-ignore-case", "born-first", "mine"]
    outcome = openai_evals.evaluate(bench(f"eval.tasks=[{','.join(names)}]", f"eval.registry=[{mine}]"))

    # the same model as a registered completion function, and no socket
    (mine / "completion_fns").mkdir()
    (mine / "completion_fns" / "scripted.yaml").write_text("scripted:\n  class: oai_script:Scripted\n")
    (tmp_path / "oai_script.py").write_text(
        f"""
SCRIPT = {SCRIPT!r}
{inspect.getsource(scripted)}
class Scripted:
    def __init__(self, registry):
        pass
    def __call__(self, prompt, **_):
        from evals.prompt.base import CompletionPrompt
        from evals.record import record_sampling
        self.said = scripted(CompletionPrompt(prompt).to_formatted_prompt())
        record_sampling(prompt=prompt, sampled=self.said)
        return self
    def get_completions(self):
        return [self.said]

if __name__ == "__main__":
    import random, socket, sys
    def closed(*_, **__):
        raise OSError("closed")
    socket.socket.connect = socket.create_connection = socket.getaddrinfo = closed
    from evals.cli import oaieval
    from evals.registry import Registry
    Registry.api_model_ids = []  # it would ask OpenAI for the names of its models
    for name in sys.argv[2:]:
        random.seed(123)
        words = ["scripted", name, "--registry_path", sys.argv[1], "--record_path", name + ".record"]
        oaieval.run(oaieval.get_parser().parse_args(words))
"""
    )
    environment = {"OPENAI_API_KEY": "unused", "EVALS_SEQUENTIAL": "1", "HOME": str(tmp_path / "home")}
    environment["PYTHONPATH"] = str(tmp_path)
    done = run(str(tmp_path / "oai_script.py"), str(mine), *names, cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = {}
    for name in names:
        [report] = [line for line in read_jsonl(tmp_path / f"{name}.record") if "final_report" in line]
        theirs[f"{name} (tuned raw)"] = report["final_report"]
    assert outcome.about["reports"] == theirs

    accuracy = {s.task: s for s in outcome.scores if s.metric == "accuracy"}
    assert accuracy["test-match"].value == pytest.approx(1 / 3)  # "time, there was" begins with "time"
    assert accuracy["mine"].value == pytest.approx(1 / 3)
    assert (accuracy["born-first"].n, accuracy["mine"].n) == (122, 3)
    # Wilson's interval of 1 out of 3
    assert (accuracy["mine"].low, accuracy["mine"].high) == (
        pytest.approx(0.0615, abs=1e-4),
        pytest.approx(0.7923, abs=1e-4),
    )
    assert [s.headline for s in outcome.scores if s.task == "born-first"] == [True, False]  # accuracy, boostrap_std
    right = [s for s in outcome.samples if s["task"] == "test-includes" and s["correct"]]
    assert {s["response"] for s in right} == {"It is Millie Bobby Brown, I think", "season 11"}
    assert len(script) == len(set(script))  # three evals ask the same three questions


def test_what_was_answered_before_a_stop_is_not_asked_again(bench, script, monkeypatch):
    answer = recorded.RecordedModel._answer

    def stops(self, questions):
        if script:
            raise KeyboardInterrupt
        return answer(self, questions)

    told = bench("eval.tasks=[born-first]", "eval.generate.batch_size=50", "eval.limit=100")  # 95 different ones
    monkeypatch.setattr(recorded.RecordedModel, "_answer", stops)
    with pytest.raises(KeyboardInterrupt):
        openai_evals.evaluate(told)
    assert len(script) == 50
    monkeypatch.setattr(recorded.RecordedModel, "_answer", answer)
    outcome = openai_evals.evaluate(told)
    assert len(script) == len(set(script)) == 95
    assert len(outcome.samples) == 100
    assert outcome.notes[0].startswith("At most 100 questions of each")


def test_a_grader_is_the_judge_and_sees_real_answers_alone(bench, script, tmp_path):
    """The judge says Yes where it sees the right word; it is asked once for each answer."""
    graded = {
        "prompt": "Question: {input}\nAnswer: {completion}\nIs it good?",
        "choice_strings": ["Yes", "No"],
        "choice_scores": {"Yes": 1.0, "No": 0.25},
        "input_outputs": {"input": "completion"},
    }
    kind = "evals.elsuite.modelgraded.classify:ModelBasedClassify"
    args = {"samples_jsonl": "mine/samples.jsonl", "eval_type": "cot_classify", "modelgraded_spec": "good"}
    mine = registry(tmp_path / "mine", kind=kind, args=args, samples=JSON_SAMPLES)
    (mine / "modelgraded" / "good.yaml").write_text(f"good: {json.dumps(graded)}")

    def reply(body):
        return "I see.\nYes" if "no JSON" in body["messages"][-1]["content"] else "Hm.\nNo"

    with JudgeServer(reply) as server:
        told = ["judge.model=grader", "judge.server=openai", f"judge.base_url={server.url}/v1", "judge.retries=0"]
        outcome = openai_evals.evaluate(bench("eval.tasks=[mine]", f"eval.registry=[{mine}]", *told))
    assert len(server.asked) == 3
    assert {body["max_tokens"] for body in server.bodies} == {1024}  # as the package asks for
    assert all(re.search(r"Answer: .+\n", body["messages"][-1]["content"]) for body in server.bodies)
    found = {s.metric: s for s in outcome.scores}
    assert found["score"].value == pytest.approx((1 + 0.25 + 0.25) / 3)
    assert found["score"].headline
    assert (found["counts/Yes"].value, found["counts/No"].value) == (1, 2)
    assert {(s["response"], s["choice"]) for s in outcome.samples} == {
        ('{"a": 1, "b": [2]}', "No"),
        ('{"a": 1, "b": [3]}', "No"),
        ("no JSON", "Yes"),
    }
    with JudgeServer(lambda body: "<think>Yes or No? Let me see") as thinks:
        told[2:3] = [f"judge.base_url={thinks.url}/v1"]
        with pytest.raises(MachineError, match=r"judge: none of its verdicts has any text \(judge\.max_tokens="):
            openai_evals.evaluate(bench("eval.tasks=[mine]", f"eval.registry=[{mine}]", *told))
    with JudgeServer(reply) as other:
        told[2:3] = [f"judge.base_url={other.url}/v1", "judge.dry_run=true"]
        assert openai_evals.evaluate(bench("eval.tasks=[mine]", f"eval.registry=[{mine}]", *told)) is None
    assert other.asked == []
    assert any("graded by grader" in note for note in outcome.notes)


# -- registries ------------------------------------------------------------------------------------------------------

ARGS = {"samples_jsonl": "mine/samples.jsonl"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "os:system"}, r"class os:system is none that is run \(Match, "),
        ({"kind": "evals.elsuite.hr_ml_agent_bench.eval:MLAgentBench"}, "is none that is run"),
        ({"kind": ["evals.elsuite.basic.match:Match"]}, "mine.yaml"),
        ({"args": {"samples_jsonl": "../../../etc/passwd"}}, "lies outside the registry's data folder"),
        ({"args": {"samples_jsonl": "/etc/passwd"}}, "lies outside the registry's data folder"),
        ({"args": {"samples_jsonl": "https://example.com/a.jsonl"}}, "lies outside the registry's data folder"),
        ({"args": {"samples_jsonl": "missing.jsonl"}}, r"missing\.jsonl is no file"),
        ({"args": {**ARGS, "few_shot_jsonl": "../evals/mine.yaml"}}, "lies outside the registry's data folder"),
        ({"args": {**ARGS, "completion_fns": []}}, "args are .*completion_fns"),
        ({"args": {}}, "no samples_jsonl"),
        ({"more": "x: !!python/object/apply:os.system ['true']"}, "not YAML of plain values"),
        ({"more": "other: [\n"}, "not YAML of plain values"),
        ({"kind": "evals.elsuite.modelgraded.classify:ModelBasedClassify"}, "no modelgraded_spec"),
    ],
)
def test_a_registry_that_asks_for_more_is_refused_and_named(tmp_path, changes, message):
    mine = registry(tmp_path / "mine", **{"samples": JSON_SAMPLES, **changes})
    with pytest.raises(DataError, match=message) as raised:
        find_eval("mine", [built_in(), mine])
    assert "mine.yaml" in str(raised.value)


def test_names_that_lead_nowhere_or_twice_somewhere(tmp_path):
    mine = registry(tmp_path / "mine", samples=JSON_SAMPLES, more="round: around\naround: {id: round}\n")
    with pytest.raises(DataError, match="its id leads nowhere"):
        find_eval("round", [built_in(), mine])
    with pytest.raises(ConfigError, match=r"eval\.tasks=nothing: no such name"):
        find_eval("nothing", [built_in(), mine])
    with pytest.raises(ConfigError, match="is no registry"):
        find_eval("mine", [built_in(), tmp_path / "nowhere"])
    (mine / "evals" / "again.yaml").write_text("mine.dev.v0: {class: x}")
    with pytest.raises(DataError, match=r"mine\.yaml: mine\.dev\.v0 is defined in .*again\.yaml too"):
        find_eval("mine", [built_in(), mine])


def test_a_row_that_is_no_question_is_named_with_its_file(bench, script, tmp_path):
    mine = registry(tmp_path / "mine", samples=[{"input": "One"}])
    with pytest.raises(DataError, match=r"samples\.jsonl: AssertionError: sample must have an 'ideal' key"):
        openai_evals.evaluate(bench("eval.tasks=[mine]", f"eval.registry=[{mine}]"))


# -- prompts ---------------------------------------------------------------------------------------------------------


def subject(system: bool) -> Subject:
    segments = [Segment("{system}\n", when="system")] if system else []
    template = Template("t", (*segments, Segment("Q: {instruction}\nA: "), Segment("{output}", supervised=True)))
    return Subject("tuned", None, None, template)


def chat(*messages):
    return [dict(zip(("role", "content", "name"), message, strict=False)) for message in messages]


FEW_SHOT = chat(
    ("system", "Be brief."),
    ("system", "2+2?", "example_user"),
    ("system", "4", "example_assistant"),
    ("user", "3+3?"),
)


def test_messages_become_turns_of_the_models_template():
    row = as_row(FEW_SHOT, subject(system=True))
    assert (row.system, row.history, row.instruction) == ("Be brief.", (("2+2?", "4"),), "3+3?")


def test_a_system_text_stands_before_the_first_instruction_where_the_template_has_no_place_for_it():
    row = as_row(FEW_SHOT, subject(system=False))
    assert (row.system, row.history, row.instruction) == ("", (("Be brief.\n\n2+2?", "4"),), "3+3?")


@pytest.mark.parametrize(
    ("prompt", "instruction"),
    [
        ("Say it.", "Say it."),
        (chat(("system", "Only this.")), "Only this."),
        (chat(("user", "One."), ("user", "Two.")), "One.\n\nTwo."),
        (chat(("user", "One."), ("assistant", "Two.")), "One.\n\nTwo."),
    ],
)
def test_anything_else_is_one_instruction(prompt, instruction):
    row = as_row(prompt, subject(system=True))
    assert (row.system, row.history, row.instruction) == ("", (), instruction)


def test_the_command_offline_in_both_prompts(tmp_path, settings_of):
    made = make_run(tmp_path / "run", settings_of)
    home = tmp_path / "home"
    home.mkdir()
    done = run(
        *(str(ROOT / "evaluate.py"), f"run={made.path}", "eval=openai_evals", "offline=true"),
        *("eval.tasks=[test-match,coqa-match]", "eval.generate.max_new_tokens=4"),
        HOME=str(home),
        PYTHONPATH=str(ROOT / "src"),
    )
    assert done.returncode == 0, done.stderr
    results = read_json(made.evals / "openai_evals" / "results.json")
    shown = {(s["task"], s["prompt"]): s["value"] for s in results["scores"] if s["metric"] == "accuracy"}
    assert shown == {(task, prompt): 0.0 for task in ("test-match", "coqa-match") for prompt in ("raw", "template")}
    samples = read_jsonl(made.evals / "openai_evals" / "samples.jsonl")
    assert len(samples) == 2 * (3 + 5)
    assert any(sample["response"] for sample in samples)
    assert results["notes"][-1].startswith("10 different prompts were too long for the model's 256 positions")
    page = made.report.read_text()
    assert "test-match" in page
    assert "0.000 (0.000 to 0.561), n = 3" in page  # Wilson's of 0 out of 3: up to 3.84 / (3 + 3.84)
    assert not (home / ".evals").exists()
