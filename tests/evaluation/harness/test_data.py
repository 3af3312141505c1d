"""What is missing is told before the harness is imported: data sets, packages, NLTK's sentences."""

import builtins

import pytest
from omegaconf import OmegaConf

from ift.errors import LIMIT, DataError, MachineError
from ift.evaluation.harness import data
from ift.evaluation.harness.data import check_data, check_ifeval, data_sets, in_cache
from tests.evaluation.harness.mirrors import write_sentences
from tests.running import ROOT


def named() -> dict[str, list[str]]:
    """The tasks of each evaluation in conf/eval that the harness computes."""
    files = {path.stem: OmegaConf.load(path) for path in (ROOT / "conf/eval").glob("*.yaml")}
    return {
        name: list(file.tasks)
        for name, file in files.items()
        if name != "keys"
        if file.get("engine") == "lm_eval" and file.tasks
    }


def test_data_sets_are_those_that_the_harness_has_for_these_tasks():
    pytest.importorskip("lm_eval", reason="needs lm-eval (pip install 'ift[eval]')")
    from ift.evaluation.harness.tasks import data_of, often_asked

    found = named()
    assert {"mmlu", "quick", "ifeval", "forgetting"} <= set(found)
    for name, tasks in found.items():
        assert set(data_sets(tasks)) == set(data_of(tasks, often_asked()).values()), name


def test_a_mirror_without_a_data_set_is_an_error_with_the_command_that_fetches_it(tmp_path):
    (tmp_path / "cais/mmlu").mkdir(parents=True)
    check_data(["mmlu"], data_root=tmp_path, offline=True)
    check_data(["hellaswag2"], data_root=tmp_path, offline=True)  # none of those that are known
    with pytest.raises(DataError) as error:
        check_data(["mmlu", "triviaqa"], data_root=tmp_path, offline=False)
    assert "trivia_qa: no such folder (hf download --repo-type dataset mandarjoshi/trivia_qa" in str(error.value)


@pytest.mark.parametrize("there", ["hub/datasets--google--IFEval", "datasets/google___if_eval"])
def test_offline_the_hub_s_cache_counts(tmp_path, monkeypatch, there):
    for variable in ("HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    check_data(["ifeval"], data_root=None, offline=False)
    with pytest.raises(
        DataError, match=r"google/IFEval: not on this machine \(hf download .*, then data_root=FOLDER\)"
    ):
        check_data(["ifeval"], data_root=None, offline=True)
    (tmp_path / there).mkdir(parents=True)
    assert in_cache("google/IFEval")
    check_data(["ifeval"], data_root=None, offline=True)


def test_ifeval_says_which_package_is_missing(monkeypatch):
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: None if name == "langdetect" else name)
    with pytest.raises(MachineError, match=r'this needs the package langdetect \(pip install "ift\[eval\]"\)'):
        check_ifeval(data_root=None, offline=True)


def test_ifeval_says_where_nltk_s_sentences_are_missing(tmp_path, monkeypatch):
    nltk = pytest.importorskip("nltk.data", reason="needs nltk (pip install 'ift[eval]')")
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(nltk, "path", [str(tmp_path / "nothing")])
    check_ifeval(data_root=None, offline=False)  # the harness fetches them
    with pytest.raises(DataError) as error:
        check_ifeval(data_root=tmp_path, offline=True)
    command = f"python -m nltk.downloader -d {tmp_path}/nltk_data punkt_tab"
    assert str(error.value) == f"nltk_data/tokenizers/punkt_tab: not on this machine ({command})"
    assert len(str(error.value)) < LIMIT
    with pytest.raises(DataError, match=r"-d FOLDER/nltk_data punkt_tab, then data_root=FOLDER\)"):
        check_ifeval(data_root=None, offline=True)
    write_sentences(tmp_path / "nltk_data")
    check_ifeval(data_root=tmp_path, offline=True)


def test_none_of_this_imports_the_harness(monkeypatch, tmp_path):
    real = builtins.__import__

    def refuse(name, *rest):
        assert name.partition(".")[0] not in ("lm_eval", "datasets", "torch")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(DataError):
        check_data(["mmlu"], data_root=tmp_path, offline=True)
