"""A push onto a Hub on this machine, by the real huggingface_hub: what arrives, what is refused, what is never told."""

import json
import sys

import pytest
import yaml
from huggingface_hub import constants

from ift.cli import main
from ift.run import write_json, write_jsonl
from tests.export.hub_server import TOKEN, hub_server


@pytest.fixture
def hub(monkeypatch):
    with hub_server() as hub:
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # whose server is no part of the Hub's
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", hub.address)
        monkeypatch.setattr("huggingface_hub.hf_api.is_xet_available", lambda: False, raising=False)
        monkeypatch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: False, raising=False)
        yield hub


@pytest.fixture
def typed(monkeypatch, capsys):
    def typed(*words):
        monkeypatch.setattr(sys, "argv", ["ift", "export", *map(str, words)])
        code = main()
        return code, *capsys.readouterr()

    return typed


def test_a_push_is_private_and_what_arrives_is_the_folder(run_of, hub, typed):
    run = run_of(rows_with={"input": 5, "system": 0, "history": 0})
    write_jsonl(run.responses, [{"instruction": "a", "reference": "b", "response": "b"}] * 3)
    code, out, err = typed(run.path, "--to", "hf", "--push", "my-model", "--license", "mit")
    assert err == ""
    assert code == 0
    folder = run.path / "export" / "hf-fp32"
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert hub.repositories["me/my-model"] == {
        "private": True,
        "files": files,
        "commits": ["run, exported by ift"],
    }
    names = ", ".join(sorted(files))
    assert f"pushing   me/my-model (private): {names}; " in out
    assert f"pushed    {hub.address}/me/my-model (private)" in out
    front = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    assert front["license"] == "mit"
    [result] = front["model-index"][0]["results"]
    exact = result["metrics"][0]
    assert (result["dataset"]["name"], exact["type"], exact["value"]) == ("test split", "exact_match", 1.0)
    assert exact["name"].startswith("exact_match, 95 % interval 0.43")  # Wilson's of three of three: 0.438 to 1
    assert 'from_pretrained("me/my-model")' in (folder / "README.md").read_text()
    assert TOKEN not in out + err + "".join(map(repr, files.values()))


def test_gguf_goes_there_too_and_again_into_what_is_there(run_of, hub, typed):
    run = run_of()
    hub.add("lab/model", private=True)
    code, _, _ = typed(run.path, "--to", "gguf", "--push", "lab/model")
    assert code == 0
    assert sorted(hub.repositories["lab/model"]["files"]) == [
        "Modelfile",
        "README.md",
        "manifest.json",
        "model-fp32.gguf",
    ]
    assert not any("repos/create" in asked for asked in hub.asked)


def test_public_is_only_what_was_asked_to_be(run_of, hub, typed):
    run = run_of()
    hub.add("me/open", private=False)
    code, out, err = typed(run.path, "--to", "hf", "--push", "me/open")
    assert (code, out) == (2, "")
    assert err == "ift: error: --push me/open: is public on the Hub (--public says that this is meant)\n"
    assert not (run.path / "export").exists()  # looked at before anything was made
    code, out, _ = typed(run.path, "--to", "hf", "--push", "me/open", "--public")
    assert code == 0
    assert "(PUBLIC)" in out
    code, out, _ = typed(run.path, "--to", "hf", "--push", "me/new", "--public", "--force")
    assert hub.repositories["me/new"]["private"] is False


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--push", "../x"], 2, "--push ../x: no name of a repository (as in me/my-model)"),
        (["--push", "a/b/c"], 2, "--push a/b/c: no name of a repository (as in me/my-model)"),
        (["--public"], 2, "--public: belongs to --push NAME"),
        (["--license", "<b>"], 2, "--license <b>: no name of a licence as the Hub has them"),
    ],
)
def test_what_cannot_be_pushed_is_said_before_anything_is_asked(run_of, hub, typed, words, code, said):
    run = run_of()
    got, _, err = typed(run.path, "--to", "hf", *words)
    assert got == code
    assert said in err
    assert hub.asked == []


@pytest.mark.parametrize(
    ("fails", "status", "said"),
    [
        ("/api/whoami-v2", 401, "the Hub answers 401"),
        ("/api/repos/create", 403, "the Hub answers 403"),
        ("/api/models/me/x/commit", 500, "the Hub answers 500"),
    ],
)
def test_a_hub_that_refuses_is_one_line_without_the_token(run_of, hub, typed, fails, status, said):
    run = run_of()
    hub.fails[fails] = status
    code, out, err = typed(run.path, "--to", "hf", "--push", "me/x")
    assert code == 5
    assert err.startswith(f"ift: error: --push me/x: {said}")
    assert err.count("\n") == 1
    assert TOKEN not in out + err
    assert (run.path / "export" / "hf-fp32").exists() is (status != 401)


def test_no_token_a_wrong_one_and_no_hub_are_told_at_once(run_of, hub, typed, monkeypatch, tmp_path):
    run = run_of()
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    code, _, err = typed(run.path, "--to", "hf", "--push", "me/x")
    assert code == 5
    assert "the Hub answers 401" in err
    assert "(hf auth login, or another HF_TOKEN)" in err
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    code, _, err = typed(run.path, "--to", "hf", "--push", "me/x")
    assert (code, err) == (5, "ift: error: --push: no token for the Hub (hf auth login, or set HF_TOKEN)\n")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    code, _, err = typed(run.path, "--to", "hf", "--push", "me/x")
    assert code == 5
    assert "(is http://127.0.0.1:9 reached from here?)" in err
    assert not (run.path / "export").exists()


def test_answers_that_part_are_never_pushed(run_of, hub, typed, monkeypatch):
    from ift.data.reading.rows import Row
    from ift.export import llama_cpp
    from ift.export.same_answers import Transformers

    run = run_of(rows=[Row("Hi.", "", "x", file="rows.json", number=1)])
    monkeypatch.setattr(llama_cpp, "program", lambda name: None)
    monkeypatch.setattr(Transformers, "answer", lambda self, prompt, limit: [1])
    code, out, _ = typed(run.path, "--to", "hf", "--push", "me/x", "--prove")
    assert code == 1
    assert "pushed    nothing: the answers part" in out
    assert hub.repositories == {}


def test_a_card_of_hostile_names_is_one_that_the_hub_takes(run_of, hub, typed):
    run = run_of("x'\n\"- evil")
    files = [{"file": "<script>alert(1)|`x`.json", "role": "all", "rows_in": 3}]
    write_json(run.data_report, {**json.loads(run.data_report.read_text()), "files": files})
    code, _, _ = typed(run.path, "--to", "hf", "--push", "me/x")
    assert code == 0
    card = hub.repositories["me/x"]["files"]["README.md"].decode()
    assert "evil" not in yaml.safe_load(card.split("---\n")[1])
    assert "\n* ``<script>alert(1)|`x`.json: 3 rows``\n" in card
    assert card.count("<script>") == 1
