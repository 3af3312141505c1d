import json

import pytest

from ift.text.tokenizers import Tokenizer
from tests.text.chats import BOTH, STYLES, messages_of


@pytest.fixture(scope="module")
def trained():
    """A small vocabulary of the words that these tests use."""
    texts = [*STYLES.values(), json.dumps(messages_of(BOTH)), "Below is an instruction that describes a task." * 3]
    return Tokenizer.train(texts, size=400, name="small")


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    trained.save(folder, context_length=64)
    return folder


@pytest.fixture(scope="module")
def theirs(folder):
    transformers = pytest.importorskip("transformers", reason="needs pip install transformers")
    return transformers.AutoTokenizer.from_pretrained(folder)
