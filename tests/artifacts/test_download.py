"""What is fetched of a model on the Hub, by the real huggingface_hub from a Hub here, and what it refuses."""

import json

import pytest
from huggingface_hub import constants

from ift.artifacts.download import WEIGHTS, download
from ift.artifacts.weights import find_folder
from ift.errors import MachineError, WeightsError
from ift.text.tokenizer_files import FILES
from tests.export.hub_server import TOKEN, hub_server


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """With me/model: what is needed of it, and what is not."""
    with hub_server() as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        hub.add("me/model", private=False)
        yield hub


def put(hub, *names, **contents):
    files = hub.repositories["me/model"]["files"]
    files.update({name: name.encode() for name in names})
    files.update({name: json.dumps(content).encode() for name, content in contents.items()})


def test_what_repeats_the_weights_and_every_other_form_of_them_stays_on_the_hub(hub):
    needed = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    put(hub, *needed, "consolidated.safetensors", "original/consolidated.00.pth", "pytorch_model.bin", "README.md")
    put(hub, "onnx/model.onnx", "original/tokenizer.model", "fp32/model.safetensors", "modeling_own.py")
    folder = download("me/model", (*WEIGHTS, *FILES))
    assert hub.fetched == needed
    assert sorted(path.name for path in folder.iterdir()) == needed
    assert (folder / "model.safetensors").read_text() == "model.safetensors"
    hub.asked.clear()
    assert download("me/model", WEIGHTS) == folder
    assert hub.fetched == []  # all is in the cache


def test_shards_are_those_of_the_index_whatever_their_names(hub):
    shards = ["model-00001-of-00002.safetensors", "part2.safetensors"]
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    put(hub, "config.json", *shards, "other.safetensors", **{"model.safetensors.index.json": index})
    folder = download("me/model", WEIGHTS)
    assert hub.fetched == ["config.json", shards[0], "model.safetensors.index.json", shards[1]]
    assert (folder / "part2.safetensors").exists()


def test_a_gated_model_says_what_to_do_about_it(hub):
    put(hub, "config.json")
    hub.gated.add("me/model")
    with pytest.raises(
        MachineError, match=r"^me/model: gated: .*open https://huggingface\.co/me/model, agree, then hf auth login; or"
    ):
        find_folder("me/model", WEIGHTS)


def test_a_name_that_the_hub_does_not_know_is_a_matter_of_the_name(hub):
    with pytest.raises(WeightsError, match=r"^me/modle: no such model on the Hub, or a private one \(.*hf auth login"):
        find_folder("me/modle", WEIGHTS)


def test_once_fetched_it_needs_no_hub(hub, monkeypatch):
    put(hub, "config.json")
    folder = download("me/model", WEIGHTS)
    hub.fails["/"] = 503
    assert download("me/model", WEIGHTS) == folder
    with pytest.raises(MachineError, match=r"^me/other: not fetched from the Hub: \w+ \(give a local folder"):
        download("me/other", WEIGHTS)
