"""What the tests of judges share: settings, and runs with answers of known worth."""

from functools import cache

import pytest
from hydra import compose, initialize_config_dir

from ift.entry import settings_from
from ift.evaluation.answers import open_answers
from ift.run import RunFolder, write_jsonl
from ift.settings import EvaluateSettings
from tests.running import ROOT


@pytest.fixture(scope="session")
def settings():
    """settings("judge=score", ...): the judge's part of what evaluate.py is told."""

    @cache
    def settings(*overrides):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose("evaluate", ["run=x", "eval=judge", "judge.model=m", "judge.retries=8", *overrides])
        return settings_from(config, EvaluateSettings).judge

    return settings


@pytest.fixture
def answers(tmp_path):
    """answers(n): a run with n answers, "worth 0", "worth 1", ... of its 100."""

    def answers(n=10, name="run", said=lambda i: f"It is worth {i % 101}."):
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir()
        rows = [
            {
                "instruction": f"Task {i}",
                "input": "",
                "reference": f"Right {i}.",
                "response": said(i),
                "category": "ab"[i % 2],
            }
            for i in range(n)
        ]
        write_jsonl(folder.responses, rows)
        return open_answers(folder.path)

    return answers
