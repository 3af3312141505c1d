"""Whole tasks of lm-evaluation-harness over local data, sockets closed: the numbers are those of the harness's own
adapter; who knows every answer gets 1.0, who knows them and says another 0.0; SQuAD is scored by its official rules."""

import json
import math
import socket
import string
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("lm_eval", reason="needs lm-eval (pip install 'ift[eval]')")

import lm_eval.evaluator
from hydra import compose, initialize_config_dir
from lm_eval.api.metrics import f1_score, matthews_corrcoef
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from sklearn.metrics import accuracy_score
from sklearn.metrics import f1_score as sklearn_f1
from sklearn.metrics import matthews_corrcoef as sklearn_mcc
from torchmetrics.functional.text import squad as torchmetrics_squad

from ift.data.reading.rows import Row
from ift.entry import settings_from
from ift.errors import LIMIT, ConfigError, DataError
from ift.evaluation.harness import run as engine
from ift.evaluation.harness import tasks as lm_tasks
from ift.evaluation.harness.scores import bootstrap_interval, scores_of, unofficial_mean
from ift.evaluation.harness.squad import ScoredAnswer, best_over_thresholds, exact_match, f1, gold_answers
from ift.evaluation.results import Score
from ift.evaluation.statistics import SHARE, mean_interval
from ift.evaluation.subject import Bench, Subject
from ift.model.gpt import GPT
from ift.run import read_json, read_jsonl
from ift.settings import EvaluateSettings
from tests.evaluation.harness.mirrors import (
    BIGBENCH_CHOICE,
    BIGBENCH_TEXT,
    DATA,
    write_dataset,
    write_mirror,
    write_sentences,
)
from tests.running import ROOT, run
from tests.tiny_run import make_run
from tests.warm import Warm

TASKS = (
    *("mmlu", "glue", "super-glue-lm-eval-v1", "ift_squad", "squadv2", "triviaqa"),
    *(f"bigbench_{name}_multiple_choice" for name in BIGBENCH_CHOICE),
    *(f"bigbench_{name}_generate_until" for name in BIGBENCH_TEXT),
)
# imported before any process of a test begins: no address can be reached then
NO_NETWORK = """
import socket
def connect(self, address, connect=socket.socket.connect):
    if self.family != socket.AF_UNIX:
        raise OSError(f"a test has no network: {address}")
    return connect(self, address)
socket.socket.connect = connect
"""


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    return write_mirror(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", autouse=True)
def no_network():
    def refused(self, address):
        raise AssertionError(f"a test has no network: {address}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refused)
        patch.setattr(socket.socket, "connect_ex", refused)
        yield


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, settings_of):
    """A run whose model has weights so large that its answers vary."""
    run = make_run(tmp_path_factory.mktemp("run") / "tiny", settings_of)
    from ift.artifacts.model_folder import load_model_folder, save_model_folder

    model, tokenizer, template = load_model_folder(run.model)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.25)
    save_model_folder(run.model, model, tokenizer, template)
    return run


@pytest.fixture(scope="module")
def loaded(mirror, tmp_path_factory):
    """The harness's own tasks, unchanged but SQuAD's, with data from the mirror."""
    cache = tmp_path_factory.mktemp("cache") / "data"
    with lm_tasks.quiet():
        return lm_tasks.load_tasks(TASKS, data_root=mirror, offline=True, cache=cache)


@pytest.fixture
def bench_of(tiny, mirror, monkeypatch, loaded):
    """bench_of("eval=glue", ...): what an engine gets; tasks in TASKS are not loaded again."""
    load = lm_tasks.load_tasks

    def load_tasks(names, **options):
        members = lm_tasks.data_of(names, lm_tasks.often_asked())
        if options["data_root"] == mirror and set(members) <= set(loaded["tasks"]):
            groups = loaded["groups"] if "mmlu" in names else {}
            return {"tasks": {name: loaded["tasks"][name] for name in members}, "groups": groups}
        return load(names, **options)

    monkeypatch.setattr(lm_tasks, "load_tasks", load_tasks)

    def bench_of(*overrides: str, root=mirror) -> Bench:
        arguments = [f"run={tiny.path}", "offline=true", f"data_root={root}", *overrides]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return Bench(tiny, settings_from(compose("evaluate", arguments), EvaluateSettings))

    yield bench_of
    (tiny.evals / "lm_eval" / "answers.jsonl").unlink(missing_ok=True)


def numbers(scores: list[Score]) -> dict[str, float]:
    return {score.key: score.value for score in scores}


class Harness(HFLM):
    """lm-eval's own adapter; it stops with an AssertionError where answers may be as long as the window."""

    max_gen_toks = 128


def test_numbers_of_whole_tasks_are_those_of_the_harness_s_own_adapter(tiny, loaded, bench_of):
    lm = Harness(pretrained=str(tiny.model), device="cpu", dtype="float32", batch_size=4)
    engine.set_few_shots(loaded["tasks"], None)
    with lm_tasks.quiet():
        found = lm_eval.evaluator.evaluate(lm, loaded, bootstrap_iters=0)
    theirs = {
        f"{task}/{key.partition(',')[0]}": value
        for task, results in found["results"].items()
        for key, value in results.items()
        if "," in key and "_stderr" not in key
    }
    outcome = engine.evaluate(bench_of("eval=lm_eval", f"eval.tasks=[{','.join(TASKS)}]", "eval.prompts=[raw]"))
    ours = numbers(outcome.scores)
    assert ours == pytest.approx(theirs, abs=1e-6)
    # MMLU's 57, its groups; GLUE's 9, two of them with two numbers; SuperGLUE's 8 likewise; SQuAD, TriviaQA, 24
    assert len(ours) == (57 + 5) + (9 + 2) + (8 + 2) + (2 + 8) + 1 + 24
    assert len({value for value in ours.values() if 0 < value < 1}) > 5  # they say something
    for line in outcome.samples:
        [sample] = [s for s in found["samples"][line["task"]] if s["doc_id"] == line["doc_id"]]
        assert line["prompt"].endswith(sample["arguments"][0][0][-8000:])
        if "written" not in line and not line["scored"]:
            assert line["said"] == sample["filtered_resps"][0]
        assert [score for _, score, _ in line["scored"]] == pytest.approx(
            [answer[0] for [answer] in sample["resps"] if not isinstance(answer, str)], abs=1e-4
        )


# -- who knows the answers ---------------------------------------------------------------------------------------------


def is_right(task: str, doc: dict, number: int) -> bool:
    """Whether a choice is right, by the data alone."""
    if task.startswith("mmlu"):
        return number == doc["answer"]
    if task.startswith("bigbench"):
        return doc["multiple_choice_scores"][number] == 1
    if task == "record":
        return doc["entities"][number] in doc["answers"]
    return number == int(doc["answer"]) - 1 if task == "winogrande" else number == int(doc["label"])


class Knowing(LM):
    """Knows every answer, and gives it or, wrong=True, another one."""

    max_length, truncated, shortened, asked = 256, 0, 0, 0

    def __init__(self, wrong: bool):
        super().__init__()
        self.wrong = wrong

    def loglikelihood(self, requests):
        found = []
        for request in requests:
            if request.task_name == "squadv2":
                likely = not request.doc["answers"]["text"]
            else:
                likely = is_right(request.task_name, request.doc, request.idx)
            found.append((-40.0 * (likely == self.wrong), False))
        return found

    def generate_until(self, requests):
        return ["zzz" if self.wrong else self.right(request.doc) for request in requests]

    def right(self, doc):
        if "instruction_id_list" in doc:
            return "a fine day and a kite, P.S. a kite"
        if "targets" in doc:
            return doc["targets"][0]
        if "answer" in doc:
            return f" {doc['answer']['aliases'][0].upper()}! "
        return " ".join(doc["answers"]["text"][:1])

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError


class Stubborn(Knowing):
    """Takes the second choice, whatever it is asked."""

    def loglikelihood(self, requests):
        return [(-1.0 * (request.idx != 1), False) for request in requests]


def test_numbers_of_one_who_always_says_the_same_are_sklearn_s(bench_of, monkeypatch, mirror):
    monkeypatch.setattr(engine, "adapter_for", lambda *_, **__: Stubborn(wrong=False))
    outcome = engine.evaluate(bench_of("eval=lm_eval", "eval.tasks=[cola,mrpc,cb,rte,wic]", "eval.prompts=[raw]"))
    found = numbers(outcome.scores)

    def labels(path: str) -> list[int]:
        return [row["label"] for row in read_jsonl(mirror / path / "validation.jsonl")]

    mrpc, cb = labels("nyu-mll/glue/mrpc"), labels("aps/super_glue/cb")
    assert found == pytest.approx(
        {
            "cola/mcc": 0.0,
            "mrpc/acc": accuracy_score(mrpc, [1] * 6),
            "mrpc/f1": sklearn_f1(mrpc, [1] * 6),
            "cb/acc": accuracy_score(cb, [1] * 6),
            "cb/f1": sklearn_f1(cb, [1] * 6, average="macro"),
            "rte/acc": np.mean(np.array(labels("nyu-mll/glue/rte")) == 1),
            "wic/acc": np.mean(np.array(labels("aps/super_glue/wic")) == 1),
        },
        abs=1e-12,
    )


@pytest.mark.parametrize(
    ("said", "right"),
    [
        *((" the Beatles", 1), ("THE BEATLES", 1), (' The "Beatles"!', 1), ("Beatles, The", 0), ("Fab Four", 1)),
        *(("Beatles", 0), ("the  Beatles", 0), ("the Beatles and more", 0), ("", 0), ("fab-four", 0)),
    ],
)
def test_triviaqa_takes_any_alias_in_whatever_case_and_punctuation(loaded, said, right):
    task = loaded["tasks"]["triviaqa"]
    doc = {"question": "Who", "answer": {"aliases": ["The Beatles", "Fab Four"]}}
    assert task.process_results(doc, [said.lstrip()]) == {"exact_match": right}


@pytest.mark.parametrize("wrong", [False, True])
def test_who_knows_every_answer_gets_all_or_nothing(bench_of, monkeypatch, wrong):
    monkeypatch.setattr(engine, "adapter_for", lambda *_, **__: Knowing(wrong))
    outcome = engine.evaluate(bench_of("eval=lm_eval", f"eval.tasks=[{','.join(TASKS)}]", "eval.prompts=[raw]"))
    found = numbers(outcome.scores)
    assert len({score.task for score in outcome.scores}) == 57 + 5 + 9 + 8 + 3 + 24
    expected = dict.fromkeys(found, 0.0 if wrong else 1.0)
    if wrong:
        expected["cola/mcc"] = -1.0
        expected["squadv2/best_exact"] = expected["squadv2/best_f1"] = 0.5  # saying nothing is right for half of them
    assert found == expected


def test_the_mean_of_a_suite_is_one_when_every_task_is(bench_of, monkeypatch):
    monkeypatch.setattr(engine, "adapter_for", lambda *_, **__: Knowing(wrong=False))
    for name, tasks in (("glue", 9), ("superglue", 8)):
        outcome = engine.evaluate(bench_of(f"eval={name}", "eval.prompts=[raw]"))
        [headline] = [score for score in outcome.scores if score.headline]
        assert (headline.task, headline.metric, headline.value) == (name, "unofficial_mean", 1.0)
        assert headline.n == 6 * tasks
        assert sum("unofficial_mean" in note for note in outcome.notes) == 1


def test_a_mean_counts_a_task_once_and_its_interval_follows_from_theirs():
    parts = [
        Score(task="mnli", metric="acc", value=0.5, n=10, low=0.4, high=0.6),
        Score(task="mnli_mismatch", metric="acc", value=0.7, n=10, low=0.6, high=0.8),
        Score(task="mrpc", metric="acc", value=0.2, n=10, low=0.0, high=0.4),
        Score(task="mrpc", metric="f1", value=0.4, n=10, low=0.2, high=0.6),
    ]
    mean = unofficial_mean("glue", parts, model="tuned", prompt="raw")
    assert (mean.n, mean.value) == (30, pytest.approx((0.6 + 0.3) / 2))
    half = math.sqrt(0.1**2 + 0.2**2) / 2
    assert (mean.low, mean.high) == (pytest.approx(0.45 - half), pytest.approx(0.45 + half))


def group_of(*tasks, weighted):
    rule = SimpleNamespace(metric="acc", weight_by_size=weighted)
    return SimpleNamespace(
        has_aggregation=True, aggregate_metric_list=[rule], get_all_tasks=lambda: tasks, get_all_groups=list
    )


def test_a_group_has_the_interval_of_all_its_questions_and_its_tasks_are_parts():
    tasks = {}
    samples = {"a": [1.0] * 3 + [0.0] * 7, "b": [1.0, 0.0]}
    for name in samples:
        tasks[name] = SimpleNamespace(task_name=name, aggregation=dict)
    found = {
        "results": {"a": {"acc,none": 0.3}, "b": {"acc,none": 0.5}, "g": {"acc,none": 4 / 12, "acc_stderr,none": 0.1}},
        "samples": {name: [{"filter": "none", "acc": value} for value in samples[name]] for name in samples},
        "higher_is_better": {},
    }
    scores = scores_of(found, tasks, {"g": group_of(*tasks.values(), weighted=True)}, "x", model="tuned", prompt="raw")
    assert [(score.task, score.headline, score.n) for score in scores] == [
        ("g", True, 12),
        ("a", False, 10),
        ("b", False, 2),
    ]
    whole = mean_interval([1.0] * 4 + [0.0] * 8, SHARE)
    assert (scores[0].low, scores[0].high) == (whole.low, whole.high)
    even = scores_of(found, tasks, {"g": group_of(*tasks.values(), weighted=False)}, "x", model="tuned", prompt="raw")
    three, one = mean_interval(samples["a"], SHARE), mean_interval(samples["b"], SHARE)
    assert even[0].low == pytest.approx(0.4 - math.hypot(0.3 - three.low, 0.5 - one.low) / 2)
    assert even[0].high == pytest.approx(0.4 + math.hypot(three.high - 0.3, one.high - 0.5) / 2)


def test_the_interval_of_what_is_no_mean_is_drawn_from_the_questions():
    random = np.random.default_rng(5)
    right = random.integers(0, 2, 200)
    pairs = [(int(a), int(a if random.random() < 0.7 else 1 - a)) for a in right]
    low, high = bootstrap_interval(matthews_corrcoef, pairs)
    plain = []
    for _ in range(200):
        drawn = [pairs[i] for i in random.integers(0, len(pairs), len(pairs))]
        plain.append(sklearn_mcc(*zip(*drawn, strict=True)))
    assert (low, high) == pytest.approx(tuple(np.quantile(plain, (0.025, 0.975))), abs=0.04)
    assert low < sklearn_mcc(*zip(*pairs, strict=True)) < high
    assert bootstrap_interval(f1_score, [(1, 1)] * 100) == (None, None)  # equal draws do not say how far it may be off
    texts = [(0, np.array([0.1, 0.9])), [{"idx": 1}, 2], [{"idx": 1}, 2], "a"] * 15  # values of whatever kind
    low, high = bootstrap_interval(lambda drawn: drawn.count("a") / 60, texts)
    assert (low, high) == pytest.approx((9 / 60, 22 / 60), abs=0.04)  # of 15 in 60: 25 % and 1.96 errors of 5.6 %
    many = list(random.normal(size=300))
    low, high = bootstrap_interval(np.median, many)
    assert low < np.median(many) < high
    assert bootstrap_interval(f1_score, pairs[:49]) == (None, None)  # too few for it


# -- what is asked -----------------------------------------------------------------------------------------------------

GOLDEN = {  # the first question of a task, and what is scored first or ends an answer
    "cola": (
        "Wide cedar Ångström wide delta north.\nQuestion: Does this sentence make sense?\nAnswer:",
        " no",
    ),
    "mnli": (
        "Old harbor Ångström kettle fjord yonder.\n"
        "Question: Timber yonder summit 1976 cedar e9. True, False or Neither?\n"
        "Answer:",
        " True",
    ),
    "boolq": (
        "Basin timber valley e9 small pepper fjord old jungle cedar.\nQuestion: is it umbra jungle?\nAnswer:",
        " no",
    ),
    "copa": (
        "Summit ember zephyr summit harbor kettle because",
        "  small ember meadow.",
    ),
    "wsc": (
        "Passage: Ada thanked Grace because *she* had river harbor.\n"
        'Question: In the passage above, does the pronoun "*she*" refer to "*Ada*"?\n'
        "Answer:",
        " no",
    ),
    "record": (
        "Valley delta grove summit 1976 fjord. Cairo0 fjord meadow basin\n\n  - lantern amber valley.\n",
        "   - It was Alma0 that lantern summit",
    ),
    "multirc": (
        "Grove umbra 1976 e9 fjord timber amber pepper island delta.\nQuestion: What was 1976 old?\nAnswer:",
        " Ångström naïve\nIs the answer correct? yes",
    ),
    "mmlu_anatomy": (
        "The following are multiple choice questions (with answers) about anatomy.\n\n"
        "Which anatomy is it: umbra amber kettle 1976?\n"
        "A. kettle valley\n"
        "B. valley yonder\n"
        "C. meadow yonder\n"
        "D. lantern kettle\n"
        "Answer:",
        " A",
    ),
    "bigbench_strategyqa_multiple_choice": (
        "Q: what is Ångström yonder zephyr island?\nA:",
        " harbor lantern 0",
    ),
    "bigbench_operators_generate_until": (
        "Q: what is lantern lantern naïve river?\nA:",
        ["\n\n"],
    ),
    "ift_squad": (
        "Title: Fjord\n\n"
        "Background: Old Ångström willow island naïve yonder cedar meadow fjord jungle valley delta.\n\n"
        "Question: What is fjord harbor Ångström?\n\n"
        "Answer:",
        ["\n"],
    ),
    "squadv2": (
        "Title: Island\n\n"
        "Background: Meadow lantern old basin grove umbra wide quarry small old meadow grove.\n\n"
        "Question: What is amber amber willow?\n\n"
        "Answer:",
        ["\n"],
    ),
    "triviaqa": (
        "Question: Who was zephyr naïve zephyr??\nAnswer:",
        ["\n", ".", ","],
    ),
}


def test_prompts_are_these(loaded, bench_of):
    engine.set_few_shots(loaded["tasks"], None)
    found = {}
    for name in GOLDEN:
        with lm_tasks.quiet():
            loaded["tasks"][name].build_all_requests(limit=1)
        context, *rest = loaded["tasks"][name].instances[0].args
        found[name] = (context, rest[0] if isinstance(rest[0], str) else rest[0]["until"])
    assert found == GOLDEN


def test_solved_questions_come_before_and_what_does_not_fit_is_told(bench_of, mirror, monkeypatch):
    monkeypatch.undo()  # a task of its own: the shared ones are made for no solved questions by now
    bench = bench_of("eval=lm_eval", "eval.tasks=[mmlu_anatomy]", "eval.num_fewshot=5", "eval.prompts=[raw]")
    outcome = engine.evaluate(bench)
    [first, *_] = outcome.samples
    assert first["prompt"].count("Answer: ") == 5
    assert first["prompt"].endswith("Answer:")
    [note] = [note for note in outcome.notes if "lost their beginning" in note]
    assert note == (
        "Tuned model, raw: 24 of 24 requests are longer than its 256 positions and lost their beginning, the solved "
        "questions first."
    )


def test_both_prompts_and_the_base_model_beside_it(bench_of):
    bench = bench_of("eval=lm_eval", "eval.tasks=[rte,triviaqa]", "eval.base=true", "eval.limit=2")
    tuned = bench.tuned
    bench.__dict__["base"] = Subject("base", tuned.model, tuned.tokenizer, None)
    outcome = engine.evaluate(bench)
    assert [score.key for score in outcome.scores] == [
        *("rte/acc", "triviaqa/exact_match", "rte/acc/template", "triviaqa/exact_match/template"),
        *("rte/acc/base", "triviaqa/exact_match/base"),
    ]
    assert {score.n for score in outcome.scores} == {2}
    assert "The base model has no prompt template: it is not asked in one." in outcome.notes
    assert outcome.notes[0] == "The first 2 questions of each task: 4 of 12. eval.limit=null asks all."
    by_form = {(line["task"], line["model"], line["prompt_form"]): line for line in outcome.samples}
    raw, templated = (by_form["rte", "tuned", form] for form in ("raw", "template"))
    assert raw["prompt"] != templated["prompt"]
    assert raw["prompt"] in templated["prompt"]
    assert [text for text, *_ in raw["scored"]] == [" True", " False"]
    assert [text for text, *_ in templated["scored"]] == ["True", "False"]
    assert raw == {**by_form["rte", "base", "raw"], "model": "tuned"}


@pytest.fixture(scope="module")
def ifeval_mirror(tmp_path_factory):
    """IFEval's form, and as much of NLTK's data as cuts a text into sentences."""
    pytest.importorskip("langdetect", reason="needs langdetect (pip install 'ift[eval]')")
    mirror = write_mirror(tmp_path_factory.mktemp("ifeval"), ["google/IFEval"])
    write_sentences(mirror / "nltk_data")
    return mirror


def test_ifeval_s_four_numbers_are_those_of_a_plain_count(bench_of, monkeypatch, ifeval_mirror):
    monkeypatch.setattr(engine, "adapter_for", lambda *_, **__: Knowing(wrong=False))
    outcome = engine.evaluate(bench_of("eval=ifeval", "eval.prompts=[raw]", root=ifeval_mirror))
    said = Knowing(wrong=False).right({"instruction_id_list": []})
    followed = {  # each instruction of the mirror's prompts, by hand
        "punctuation:no_comma": "," not in said,
        "change_case:english_lowercase": said == said.lower(),
        "length_constraints:number_words": len(said.split()) >= 5,
        "length_constraints:number_sentences": said.count(".") > 9,
        "keywords:existence": "kite" in said,
        "detectable_content:postscript": "P.S." in said,
    }
    prompts = read_jsonl(ifeval_mirror / "google/IFEval/default/train.jsonl")
    lists = [[followed[name] for name in prompt["instruction_id_list"]] for prompt in prompts]
    flat = [each for verdicts in lists for each in verdicts]
    found = {score.metric: score for score in outcome.scores}
    assert list(found) == [
        *("prompt_level_strict_acc", "inst_level_strict_acc", "prompt_level_loose_acc", "inst_level_loose_acc"),
    ]
    assert found["prompt_level_strict_acc"].value == np.mean([all(verdicts) for verdicts in lists])
    assert found["inst_level_strict_acc"].value == pytest.approx(np.mean(flat))
    assert 0 < found["inst_level_strict_acc"].value < 1
    for score in found.values():
        assert score.n == len(prompts)
        if score.metric.startswith("prompt_level"):  # of so few, the others have no interval
            assert score.low < score.value < score.high
    by_prompt = {line["doc_id"]: line["metrics"] for line in outcome.samples}
    assert [by_prompt[i]["inst_level_strict_acc"] for i in range(len(lists))] == lists


def test_ifeval_s_prompts_stand_inside_the_model_s_template(bench_of, ifeval_mirror):
    bench = bench_of("eval=ifeval", "eval.limit=2", root=ifeval_mirror)
    outcome = engine.evaluate(bench)
    prompts = read_jsonl(ifeval_mirror / "google/IFEval/default/train.jsonl")
    around, _, after = bench.tuned.template.prompt(Row("IFEVAL", file="", number=1)).partition("IFEVAL")
    for line, prompt in zip(outcome.samples, prompts, strict=False):
        assert line["prompt"] == around + prompt["prompt"] + after
    assert any("answers could be half its 256 positions long" in note for note in outcome.notes)


def test_solved_questions_are_the_same_for_every_model(bench_of, monkeypatch):
    monkeypatch.undo()
    bench = bench_of("eval=lm_eval", "eval.tasks=[rte]", "eval.base=true", "eval.num_fewshot=2", "eval.limit=3")
    tuned = bench.tuned
    bench.__dict__["base"] = Subject("base", tuned.model, tuned.tokenizer, None)
    lines = list(engine.evaluate(bench).samples)
    prompts = {(line["model"], line["prompt_form"], line["doc_id"]): line["prompt"] for line in lines}
    for doc_id in range(3):
        raw = prompts["tuned", "raw", doc_id]
        assert raw.count("True or False?") == 3
        assert prompts["base", "raw", doc_id] == raw
        for sentence in raw.split("\n\n"):
            assert sentence.partition("Answer:")[0] in prompts["tuned", "template", doc_id]


def test_a_difference_from_the_base_model_is_told_where_the_questions_settle_it(bench_of, monkeypatch):
    monkeypatch.setattr(engine, "adapter_for", lambda subject, *_, **__: Knowing(wrong=subject.label == "base"))
    bench = bench_of("eval=lm_eval", "eval.tasks=[mmlu,rte,cola]", "eval.base=true", "eval.prompts=[raw]")
    bench.__dict__["base"] = Subject("base", bench.tuned.model, bench.tuned.tokenizer, None)
    outcome = engine.evaluate(bench)
    found = {(each["task"], each["metric"]): each for each in outcome.about["against_base"]}
    assert len(found) == 57 + 5 + 1  # cola's number is no mean
    assert found["mmlu", "acc"]["verdict"] == "better"
    assert (found["mmlu", "acc"]["difference"], found["mmlu", "acc"]["n"]) == (1.0, 57 * 6)
    assert (found["rte", "acc"]["verdict"], found["rte", "acc"]["p"]) == ("better", 2 / 64)  # all 6 of 6
    assert found["mmlu_anatomy", "acc"]["verdict"] == "not settled"  # the same 2/64, but of 61 tests
    whole, parts = (note for note in outcome.notes if "with Holm's p" in note)
    assert whole.startswith(
        "Tuned against base on the same questions, 2 tests with Holm's p: better in mmlu acc raw (+1"
    )
    assert " rte acc raw (+1.000, " in whole
    assert whole.endswith("p = 0.031).")
    assert parts.startswith("Their parts, 61 tests with Holm's p: better in ")
    assert parts.endswith("; not settled in 57.")


def test_a_sample_can_be_checked_by_hand(bench_of):
    outcome = engine.evaluate(
        bench_of("eval=lm_eval", "eval.tasks=[mmlu_anatomy,squadv2,record]", "eval.prompts=[raw]")
    )
    for line in map(json.loads, map(json.dumps, outcome.samples)):
        if line["task"] == "mmlu_anatomy":
            said = max(line["scored"], key=lambda each: each[1])[0]
            assert line["said"] == said
            assert line["metrics"] == {"acc": float(said == line["target"])}
        elif line["task"] == "squadv2":
            assert line["scored"][0][0] == " unanswerable"
            answer = line["target"].strip()
            answers = [""] if answer == "unanswerable" else [answer, answer.split()[0]]
            assert line["metrics"]["exact"] == exact_match(line["said"], answers)
        else:
            assert len(line["scored"]) == 3


def test_answers_are_kept_and_not_computed_again(bench_of, monkeypatch):
    overrides = ("eval=lm_eval", "eval.tasks=[copa,ift_squad]", "eval.limit=3")
    first = engine.evaluate(bench_of(*overrides))
    lines = len(bench_of(*overrides).folder.joinpath("answers.jsonl").read_text().splitlines())
    assert lines == 2 * (3 * 2 + 3)
    monkeypatch.setattr(GPT, "hidden", lambda *arguments: pytest.fail("was asked again"))
    monkeypatch.setattr("ift.generation.engine.generate", lambda *arguments, **_: pytest.fail("was asked again"))
    again = engine.evaluate(bench_of(*overrides))
    assert again.scores == first.scores
    assert list(again.samples) == list(first.samples)


def test_what_tuning_made_the_model_forget_is_told_in_the_closing_line(bench_of, monkeypatch, tmp_path):
    monkeypatch.setattr(engine, "adapter_for", lambda subject, *_, **__: Knowing(wrong=subject.label == "tuned"))
    mirror = write_mirror(tmp_path, ["baber/piqa", "allenai/winogrande", "Rowan/hellaswag"])
    bench = bench_of("eval=forgetting", "eval.tasks=[piqa,winogrande,hellaswag]", root=mirror)
    bench.__dict__["base"] = Subject("base", bench.tuned.model, bench.tuned.tokenizer, None)
    outcome = engine.evaluate(bench)
    assert numbers(outcome.scores)["piqa/acc"] == numbers(outcome.scores)["hellaswag/acc"] == 0.0
    assert numbers(outcome.scores)["winogrande/acc/base"] == 1.0
    assert {(each["task"], each["difference"], each["n"]) for each in outcome.about["against_base"]} == {
        (task, -1.0, 6) for task in ("piqa", "winogrande", "hellaswag")
    }
    note = outcome.notes[-1]
    assert note.startswith("Tuned against base on the same questions, 5 tests with Holm's p: ")
    assert "not settled in 5: " in note  # 2/64 each, of five
    assert "piqa acc raw (-1.000, " in note


# -- where the data is -------------------------------------------------------------------------------------------------


def test_data_that_is_not_in_the_mirror_is_named_with_the_command_that_fetches_it(tmp_path, bench_of):
    with pytest.raises(DataError) as error:
        engine.evaluate(bench_of("eval=mmlu", root=tmp_path))
    folder = tmp_path / "cais/mmlu"
    command = f"hf download --repo-type dataset cais/mmlu --local-dir {folder}"
    assert command in str(error.value)
    assert str(error.value).endswith(f"no such folder ({command})")


def test_data_of_another_form_is_one_line(tmp_path, bench_of):
    root = tmp_path / "m"
    write_dataset(root / "cais/mmlu", {"anatomy": {"test": [{"a": 1}]}})
    with pytest.raises(DataError, match=r"cais/mmlu: \w+.*hf download --repo-type dataset cais/mmlu"):
        engine.evaluate(bench_of("eval=lm_eval", "eval.tasks=[mmlu_virology]", root=root))


def test_offline_without_a_mirror_says_what_to_fetch(tmp_path):
    with lm_tasks.quiet(), pytest.raises(DataError) as error:
        lm_tasks.load_tasks(["triviaqa"], data_root=None, offline=True, cache=tmp_path / "cache")
    message = str(error.value)
    assert message.startswith("mandarjoshi/trivia_qa: ")
    assert "hf download --repo-type dataset mandarjoshi/trivia_qa" in message
    assert len(message) < LIMIT


def test_a_name_that_is_no_task_gets_the_nearest(tmp_path, monkeypatch):
    monkeypatch.setattr(lm_tasks, "all_there_is", lm_tasks.often_asked)  # reading all tasks takes ten seconds
    with pytest.raises(ConfigError, match=r"eval\.tasks=trivia_qa: no task .* \(did you mean triviaqa\?"):
        lm_tasks.load_tasks(["trivia_qa"], data_root=None, offline=True, cache=tmp_path)


def test_a_task_that_is_named_twice_is_an_error(mirror, tmp_path):
    with lm_tasks.quiet(), pytest.raises(ConfigError, match=r"eval\.tasks=rte: rte is there already"):
        lm_tasks.load_tasks(["glue", "rte"], data_root=mirror, offline=True, cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("file", "reason"),
    [({"unsafe_code": True}, "runs what a model writes"), ({"doc_to_image": "image"}, "asks about pictures")],
)
def test_what_cannot_be_asked_is_refused_before_it_is_loaded(file, reason):
    entry = SimpleNamespace(kind=SimpleNamespace(name="TASK"), cfg=file, tags=set())
    group = SimpleNamespace(kind=SimpleNamespace(name="GROUP"), cfg={"task": ["x", {"task": "y"}]}, tags=set())
    manager = SimpleNamespace(task_index={"y": entry, "many": group})
    with pytest.raises(ConfigError, match=rf"eval\.tasks=y: {reason}"):
        lm_tasks.refuse_what_cannot_be_asked(["many"], manager)


def test_nothing_is_left_of_the_tables_and_the_working_directory_is_as_before(mirror, bench_of, monkeypatch):
    from pathlib import Path

    before = Path.cwd()
    bench = bench_of("eval=lm_eval", "eval.tasks=[mmlu_virology]", "eval.limit=1")
    outcome = engine.evaluate(bench)
    assert Path.cwd() == before
    assert sorted(path.name for path in bench.folder.iterdir()) == ["answers.jsonl", "answers.lock"]
    assert outcome.versions["lm-eval"].startswith("0.4.")
    assert outcome.versions["cais/mmlu"].startswith("questions ")
    assert outcome.about["tasks"]["mmlu_virology"]["of"] == 6


def test_the_libraries_still_have_what_is_replaced_and_get_it_back():
    for owner, name in lm_tasks.REPLACED:
        before = getattr(owner, name)
        with lm_tasks.replaced(owner, name, "another"):
            assert getattr(owner, name) == "another"
        assert getattr(owner, name) is before


# -- SQuAD -------------------------------------------------------------------------------------------------------------

# said, right answers: case, articles, punctuation, white space, Unicode, empty, several, repeated words
HARD = [
    ("1976", ["1976"]),
    ("in 1976", ["1976"]),
    ("The Denver Broncos", ["Denver Broncos"]),
    ("denver broncos.", ["Denver Broncos", "The Broncos"]),
    ("Broncos", ["Denver Broncos", "The Broncos", "the broncos of Denver"]),
    ("a a a", ["a"]),
    ("the", ["The"]),
    ("", [""]),
    ("", []),
    ("nothing", []),
    (" ", []),
    ("the", []),
    ("...", []),
    ("", ["something"]),
    ("...", ["something"]),
    ("an apple, a pear", ["apple pear"]),
    ("apple  pear\n", ["an apple - the pear"]),
    ("state-of-the-art", ["state of the art"]),
    ("stateoftheart", ["state-of-the-art"]),
    ("Theatre", ["the atre"]),
    ("anatomy", ["an atomy"]),
    ("St. Mary's", ["st marys", "Saint Mary"]),
    ("U.S.A.", ["USA"]),
    ("U. S. A.", ["USA", "u s a"]),
    ("$5,000", ["5000", "$5000 dollars"]),
    ("5,000.00", ["5000"]),
    ("naïve café", ["naïve café"]),
    ("naive cafe", ["naïve café"]),
    ("Ångström", ["ångström"]),
    ("İstanbul", ["istanbul"]),
    ("STRASSE", ["straße"]),
    ("“quoted”", ["quoted"]),
    ("«the» answer", ["answer"]),
    ("日本", ["日本", "Japan"]),
    ("日 本", ["日本"]),
    ("one two three", ["three two one"]),
    ("one one two", ["one two two"]),
    ("one one one one", ["one"]),
    ("one two three four five six", ["two four"]),
    ("the the the one", ["one the"]),
    ("x" * 300, ["x" * 300]),
    ("word " * 200, ["word"]),
    ("right answer and a lot more that nobody asked for", ["right answer"]),
    ("A", ["A", "B"]),
    ("vitamin A", ["vitamin a"]),
    ("a\u00a0b", ["a b"]),
    ("tab\there", ["tab here"]),
    ("zero\u200bwidth", ["zerowidth", "zero width"]),
    ("unanswerable", []),
    ("no. 5", ["No 5", "number 5"]),
]


def plain_words(text: str) -> list[str]:
    """The official steps one after the other, without a regular expression."""
    letters = [character for character in text.lower() if character not in string.punctuation]
    runs, run_ = [], ""
    for character in letters:  # \\b stands between a letter, digit or underscore and anything else
        word = character.isalnum() or character == "_"
        if run_ and word != (run_[-1].isalnum() or run_[-1] == "_"):
            runs.append(run_)
            run_ = ""
        run_ += character
    runs.append(run_)
    return "".join(" " if part in ("a", "an", "the") else part for part in runs).split()


def plain_scores(said: str, answers: list[str]) -> tuple[float, float]:
    best = (0.0, 0.0)
    for answer in answers:
        mine, gold = plain_words(said), plain_words(answer)
        left, common = list(gold), 0
        for word in mine:
            if word in left:
                left.remove(word)
                common += 1
        if not mine or not gold:
            overlap = 1.0 if mine == gold else 0.0
        elif common == 0:
            overlap = 0.0
        else:
            precision, recall = common / len(mine), common / len(gold)
            overlap = 2 * precision * recall / (precision + recall)
        best = (max(best[0], 1.0 if mine == gold else 0.0), max(best[1], overlap))
    return best


def test_squad_is_scored_by_the_official_rules():
    assert len(HARD) == 50
    for said, answers in HARD:
        having_words = [answer for answer in answers if plain_words(answer)] or [""]
        assert list(gold_answers(answers)) == having_words
        for gold in (answers or [""], having_words):  # of version 1.1 and of version 2.0
            assert (exact_match(said, gold), f1(said, gold)) == pytest.approx(plain_scores(said, gold), abs=1e-9), said
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        theirs = torchmetrics_squad(
            [{"id": str(i), "prediction_text": said} for i, (said, _) in enumerate(HARD)],
            [
                {"id": str(i), "answers": {"text": gold or [""], "answer_start": [0]}}
                for i, (_, gold) in enumerate(HARD)
            ],
        )
    finally:
        torch.set_default_dtype(before)
    assert 100 * np.mean([exact_match(said, gold or [""]) for said, gold in HARD]) == pytest.approx(
        float(theirs["exact_match"]), abs=1e-9
    )
    assert 100 * np.mean([f1(said, gold or [""]) for said, gold in HARD]) == pytest.approx(
        float(theirs["f1"]), abs=1e-9
    )


def test_the_best_threshold_is_that_of_trying_all():
    random = np.random.default_rng(0)
    chance = random.permutation(50) / 50
    asked = [
        ScoredAnswer(float(p), f1(said, gold_answers(answers)), bool(answers), bool(said))
        for p, (said, answers) in zip(chance, HARD, strict=True)
    ]

    def at(threshold: float) -> float:
        """Of NoAns questions only what is said at all counts, as in the official script."""
        total = 0.0
        for question in asked:
            silent = question.no_answer > threshold or not question.answered
            if question.has_answer:
                total += question.score if question.no_answer <= threshold else 0.0
            else:
                total += float(silent)
        return total / len(asked)

    assert best_over_thresholds(asked) == pytest.approx(max(map(at, [-1.0, *chance])), abs=1e-9)
    assert 0.3 < best_over_thresholds(asked) < 1


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    """PYTHONPATH of processes without a network."""
    folder = tmp_path_factory.mktemp("closed")
    (folder / "sitecustomize.py").write_text(NO_NETWORK)
    import os

    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def arguments(tiny, mirror, name, *more):
    return (str(ROOT / "evaluate.py"), f"run={tiny.path}", f"eval={name}", "offline=true", f"data_root={mirror}", *more)


def check_process(done, tiny, name, tasks):
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.strip() == ""
    assert "%|" not in done.stdout
    results = read_json(tiny.evals / name / "results.json")
    page = tiny.report.read_text()
    assert results["scores"]
    for score in results["scores"]:
        assert math.isfinite(score["value"])
        assert f"{score['value']:.3f}" in page
        assert score["task"] in page
    assert len(results["tasks"]) == tasks
    samples = read_jsonl(tiny.evals / name / "samples.jsonl")
    assert {line["prompt_form"] for line in samples} == {"raw", "template"}
    assert len(samples) == 2 * sum(task["asked"] for task in results["tasks"].values())
    assert results["notes"]
    assert [path.name for path in (tiny.evals / name).glob("data*")] == []


def test_mmlu_from_the_command_line(tiny, mirror, closed, tmp_path):
    home = tmp_path / "home"  # where the libraries would keep what they fetch or make
    done = run(*arguments(tiny, mirror, "mmlu", "eval.limit=1"), **closed, HF_HOME=str(home), HF_HUB_OFFLINE="0")
    check_process(done, tiny, "mmlu", 57)
    assert [path for path in home.rglob("*") if path.is_file()] == []
    headlines = [s["task"] for s in read_json(tiny.evals / "mmlu/results.json")["scores"] if s["headline"]]
    assert headlines == ["mmlu", "mmlu"]


@pytest.fixture(scope="module")
def warm_lm_eval(closed):
    warm = Warm(
        *("hydra", "lm_eval.evaluator", "matplotlib.figure", "pandas", "scipy.stats", "sklearn.metrics", "ift.entry"),
        *("ift.evaluation.harness.adapter", "ift.evaluation.harness.tasks", "ift.pages.report", "ift.training.loggers"),
        **closed,
    )
    yield warm
    warm.close()


@pytest.mark.parametrize(
    ("name", "tasks"), [("glue", 9), ("superglue", 8), ("bigbench", 24), ("squad", 2), ("triviaqa", 1), ("quick", 9)]
)
def test_named_evaluations_from_the_command_line(tiny, mirror, warm_lm_eval, name, tasks):
    done = warm_lm_eval.run(*arguments(tiny, mirror, name, "eval.limit=2"))
    check_process(done, tiny, name, tasks)
    if name == "quick":
        assert "Left out: 55 of MMLU's 57 tasks, 7 of GLUE's 9 tasks" in done.stdout


def test_the_mirrors_hold_every_data_set_of_the_named_evaluations():
    assert set(lm_tasks.data_of(TASKS, lm_tasks.often_asked()).values()) == set(DATA)
