import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ift.data.vocabulary import load_tokenizer
from ift.errors import ConfigError, MachineError, WeightsError
from ift.run import read_json, write_json
from ift.text.templates import Segment, Template
from ift.text.tokenizer_files import read_tokenizer
from ift.text.tokenizers import END_OF_TEXT

few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
texts = st.text(max_size=60) | st.text(alphabet="aZ9 .,'\n\t<|>é日😀", max_size=60)


TEMPLATE = Template("small", (Segment("Q: {instruction} {input}\nA: "), Segment("{output}", supervised=True)))


@pytest.fixture(scope="module")
def demo():
    return load_tokenizer("demo", TEMPLATE)


def test_gpt2_has_its_published_ids(gpt2_tokenizer):
    assert load_tokenizer("gpt2", TEMPLATE).encoding is gpt2_tokenizer.encoding
    assert gpt2_tokenizer.encode("Hello, world!") == [15496, 11, 995, 0]
    assert gpt2_tokenizer.encode("<|user|>") == [27, 91, 7220, 91, 29]
    assert (gpt2_tokenizer.name, gpt2_tokenizer.vocab_size, gpt2_tokenizer.end_of_text) == ("gpt2", 50257, 50256)


@pytest.mark.parametrize("name", ["gpt2_tokenizer", "byte_tokenizer", "demo"])
def test_a_text_that_spells_end_of_text_is_ordinary_text(name, request):
    tokenizer = request.getfixturevalue(name)
    text = f"a{END_OF_TEXT}b"
    ids = tokenizer.encode(text)
    assert tokenizer.end_of_text not in ids
    assert len(ids) > 3
    assert tokenizer.decode(ids) == text
    assert tokenizer.end_of_text == tokenizer.vocab_size - 1


@few
@given(text=texts)
def test_any_text_comes_back_from_its_tokens_and_none_of_them_is_the_end(demo, text):
    ids = demo.encode(text)
    assert demo.decode(ids) == text
    assert all(0 <= token < demo.end_of_text for token in ids)


def test_the_demo_tokenizer_is_small_and_always_the_same(demo):
    assert (demo.name, demo.vocab_size) == ("demo", demo.end_of_text + 1)
    assert 1500 < demo.vocab_size <= 2049  # merges may run out before the 2,048th token
    assert demo.encoding._mergeable_ranks == load_tokenizer("demo", TEMPLATE).encoding._mergeable_ranks


@pytest.mark.parametrize("name", ["byte_tokenizer", "demo", "gpt2_tokenizer"])
def test_a_saved_tokenizer_comes_back_the_same(name, request, tmp_path):
    tokenizer = request.getfixturevalue(name)
    tokenizer.save(tmp_path, context_length=64)
    again = load_tokenizer(str(tmp_path), TEMPLATE)
    assert (again.name, again.vocab_size, again.end_of_text) == (
        tokenizer.name,
        tokenizer.vocab_size,
        tokenizer.end_of_text,
    )
    assert again.hash == tokenizer.hash
    text = f"Who's there?\n\n  12345 über {END_OF_TEXT} 日本 😀"
    assert again.encode(text) == tokenizer.encode(text)


@pytest.fixture(scope="module")
def in_transformers(demo, tmp_path_factory):
    transformers = pytest.importorskip("transformers", reason="needs pip install transformers")
    folder = tmp_path_factory.mktemp("saved")
    demo.save(folder, context_length=64)
    return transformers.AutoTokenizer.from_pretrained(folder)


@few
@given(text=texts)
def test_transformers_gives_the_same_ids_for_the_saved_folder(demo, in_transformers, text):
    ids = demo.encode(text)
    assert in_transformers.encode(text) == ids
    assert in_transformers.decode(ids, clean_up_tokenization_spaces=False) == text


def test_transformers_knows_the_end_and_the_context_of_the_saved_folder(demo, in_transformers):
    assert in_transformers.eos_token_id == in_transformers.bos_token_id == demo.end_of_text
    assert in_transformers.encode(END_OF_TEXT) == [demo.end_of_text]  # there it is special; here it never is
    assert len(in_transformers) == demo.vocab_size
    assert in_transformers.model_max_length == 64


def test_transformers_gives_the_same_ids_for_gpt2(gpt2_tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs pip install transformers")
    gpt2_tokenizer.save(tmp_path, context_length=1024)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in (
        "Below is an instruction.\n\n### Response:\nIt's 1,234.5 km²",
        "  two  spaces ",
        "日本語 😀 naïve",
        "",
    ):
        assert theirs.encode(text) == gpt2_tokenizer.encode(text)


# ----------------------------------------------------------------------------------------------------------------------
# errors


def test_an_unknown_name_is_an_error_that_lists_what_there_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"model\.tokenizer=gpt3: must be gpt2, demo or a folder"):
        load_tokenizer("gpt3", TEMPLATE)


def test_a_folder_without_a_tokenizer_is_an_error_of_the_folder(tmp_path):
    with pytest.raises(WeightsError, match=r"tokenizer\.json: no such file"):
        load_tokenizer(str(tmp_path), TEMPLATE)


def test_a_vocabulary_that_cannot_be_fetched_is_an_error_with_what_to_set(tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))  # empty, and no network behind the proxy
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})
    with pytest.raises(MachineError, match=r"the vocabulary is not cached and cannot be fetched: .*TIKTOKEN_CACHE_DIR"):
        load_tokenizer("gpt2", TEMPLATE)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["model"]["vocab"].update(extra=3), "two tokens have one id"),
        (lambda t: t["model"]["vocab"].pop("a"), "does not give a text back as it was"),
        (lambda t: t["added_tokens"][0].update(id=0), "two tokens have one id"),
        (lambda t: t["added_tokens"][0].update(content="</s>"), "two tokens have one id"),
        (lambda t: t["model"]["vocab"].update({"日": 1}), "not a tokenizer that can be read: KeyError"),
        (lambda t: t.pop("model"), "not a tokenizer that can be read: KeyError"),
        (lambda t: t["model"].update(vocab=[["a", 0.1]]), "an id is no number"),
        (
            lambda t: t["model"].update(type="WordPiece"),
            "not a tokenizer that can be read: ValueError its model is WordPiece",
        ),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused(byte_tokenizer, tmp_path, change, message):
    byte_tokenizer.save(tmp_path, context_length=64)
    stored = read_json(tmp_path / "tokenizer.json")
    change(stored)
    write_json(tmp_path / "tokenizer.json", stored)
    with pytest.raises(WeightsError, match=message):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{", json.dumps({"model": None}), "3"])
def test_a_file_that_is_no_tokenizer_at_all_is_refused(write, content):
    folder = write("tokenizer.json", content).parent
    with pytest.raises(WeightsError, match="not a tokenizer that can be read"):
        read_tokenizer(folder)
