"""Tokenizers of other models than GPT-2: the tokens of transformers, and no text becomes a special or added token."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Library
from transformers import AutoTokenizer

from ift.errors import WeightsError
from ift.run import read_json, write_json
from ift.text.tokenizer_files import has_tokenizer, read_tokenizer
from ift.text.tokenizers import END_OF_TEXT

few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
texts = st.text(max_size=60) | st.text(alphabet="dieraunt äöüß.,'\n\t<|>s/PAD[]é日😀", max_size=60)
SAMPLE = ["die Rede der Leute und die Räder unter der Brücke", "Sie raten ihr, dass die Tür zu ist. 12 345!"] * 3
SPELLED = "</s> <|endoftext|> [PAD] <pad> haus </s"


def made(*, special=("</s>",), cut=None, add=(), size=330, normalizer=None) -> Library:
    library = Library(models.BPE())
    library.pre_tokenizer = cut or pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(
        SAMPLE,
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
        ),
    )
    library.add_tokens(list(add))
    return library


def folder_of(path, library: Library, *, config=None, model=None):
    path.mkdir(exist_ok=True)
    library.save(str(path / "tokenizer.json"))
    if config is not None:
        write_json(path / "tokenizer_config.json", config)
    if model is not None:
        write_json(path / "config.json", model)
    return path


SPLIT = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(r"\d|\s+|[^\s\d]+", "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)
KINDS = {
    "end is 0": lambda: made(),
    "added": lambda: made(add=[AddedToken("[PAD]", special=True), "haus", AddedToken("<pad>", special=True)]),
    "own words": lambda: made(cut=SPLIT),
    "space before": lambda: made(cut=pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "end is last": lambda: made(special=(), add=[AddedToken("</s>", special=True)]),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory):
    """(folder, the library's tokenizer of it, ours)"""
    library = KINDS[request.param]()
    path = folder_of(tmp_path_factory.mktemp("kind"), library, config={"eos_token": "</s>"})
    return path, library, read_tokenizer(path)


@few
@given(text=texts)
def test_the_tokens_are_those_of_the_library_for_text_without_special_tokens(kind, text):
    _, library, ours = kind
    ids = ours.encode(text)
    assert ours.decode(ids) == text
    assert not ours.special & set(ids)
    if not any(token in text for token in ("</s>", "[PAD]", "<pad>")):
        assert ours.encode(text, "start") == library.encode(text, add_special_tokens=False).ids


def test_a_text_that_spells_special_and_added_tokens_stays_ordinary_text(kind):
    _, library, ours = kind
    ids = ours.encode(SPELLED)
    assert ours.decode_bytes(ids) == SPELLED.encode()
    assert library.token_to_id("</s>") == ours.end_of_text
    assert not {ours.end_of_text, library.token_to_id("[PAD]"), library.token_to_id("<pad>")} & set(ids)
    word = library.token_to_id("haus")  # added and not special, and written as text is: an ordinary word
    assert (word in ids) == (word is not None)


def test_a_saved_one_comes_back_the_same_here_and_in_transformers(kind, tmp_path):
    path, library, ours = kind
    ours.save(tmp_path, context_length=64, chat_template="{{ messages }}")
    again, theirs = read_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert (again.hash, again.name, again.end_of_text) == (ours.hash, ours.name, ours.end_of_text)
    assert again.vocab_size == ours.vocab_size == len(theirs)
    text = "Die Räder, 12 345\n\n  unter der Brücke"
    assert again.encode(text, "start") == ours.encode(text, "start") == theirs.encode(text)
    assert (tmp_path / "tokenizer.json").read_bytes() == (path / "tokenizer.json").read_bytes()
    assert theirs.eos_token_id == ours.end_of_text
    assert (theirs.model_max_length, theirs.chat_template) == (64, "{{ messages }}")
    assert theirs.get_vocab() == library.get_vocab(with_added_tokens=True)


def test_gpt2s_numbering_is_known_as_gpt2s_own_and_an_added_token_is_no_text(gpt2_tokenizer, tmp_path):
    gpt2_tokenizer.save(tmp_path, context_length=1024)
    same = read_tokenizer(tmp_path)
    assert (same.hash, same.encoder) == (gpt2_tokenizer.hash, "tiktoken")
    library = Library.from_file(str(tmp_path / "tokenizer.json"))
    library.add_special_tokens(["[PAD]"])
    library.save(str(tmp_path / "tokenizer.json"))
    padded = read_tokenizer(tmp_path)
    assert (padded.hash != same.hash, padded.encoder) == (True, "tiktoken")
    assert (padded.vocab_size, padded.end_of_text, padded.special) == (50258, 50256, {50256, 50257})
    text = f"Who's there?\n\n  12345 über {END_OF_TEXT} [PAD] 日本 😀"
    assert padded.encode(text) == gpt2_tokenizer.encode(text)
    assert padded.decode([15496, 50257, 70000]) == "Hello[PAD]"
    words, merges = padded.vocabulary()
    assert (len(words), words[50257], merges[:2]) == (50258, "[PAD]", ["Ġ t", "Ġ a"])


def test_vocab_json_and_merges_txt_are_read_with_their_added_tokens(tmp_path):
    library = made(special=(), add=["<|endoftext|>", "<|pad|>"])
    library.model.save(str(tmp_path))
    assert read_json(tmp_path / "vocab.json")
    write_json(tmp_path / "added_tokens.json", {"<|endoftext|>": 330, "<|pad|>": 331})
    write_json(tmp_path / "special_tokens_map.json", {"pad_token": "<|pad|>", "eos_token": {"content": END_OF_TEXT}})
    ours = read_tokenizer(tmp_path)
    assert (ours.end_of_text, ours.vocab_size) == (330, 332)
    assert ours.encode("Die Räder") == library.encode("Die Räder").ids
    assert not {330, 331} & set(ours.encode("<|pad|><|endoftext|>"))


@pytest.mark.parametrize(
    ("config", "model", "end"),
    [
        ({"eos_token": "<b>"}, {"eos_token_id": 0}, 1),  # the tokenizer's own files first
        (None, {"eos_token_id": 1}, 1),
        (None, {"eos_token_id": [1, 0]}, 1),
        (None, {"eos_token_id": 50256}, 2),  # GPT-2's, where no token of this vocabulary is: then by its name
        (None, {"eos_token_id": 200}, 2),  # an ordinary word
        (None, None, 2),
    ],
)
def test_the_end_of_text_is_what_the_files_say(tmp_path, config, model, end):
    folder = folder_of(tmp_path, made(special=("<a>", "<b>", END_OF_TEXT)), config=config, model=model)
    assert read_tokenizer(folder).end_of_text == end


def test_a_word_that_pads_stays_a_word(tmp_path):
    ours = read_tokenizer(folder_of(tmp_path, made(), config={"eos_token": "</s>", "pad_token": "!"}))
    assert ours.special == {0}
    assert ours.decode(ours.encode("a!")) == "a!"


def test_what_decodes_to_nothing_is_no_error(tmp_path):
    ours = read_tokenizer(folder_of(tmp_path, made(), config={"eos_token": "</s>"}))
    assert ours.decode([0, 10**6]) == "</s>"
    assert ours.decode(ours.encode("\ud800")) == "\ufffd"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"tokenizer\.json: no such file"),
        (
            {"spiece.model": "x"},
            r"spiece\.model: a SentencePiece vocabulary without tokenizer\.json \(.*save_pretrained",
        ),
        ({"vocab.txt": "x"}, r"vocab\.txt: a WordPiece vocabulary without"),
        ({"vocab.json": "{}"}, r"not a tokenizer that can be read: FileNotFoundError .*merges\.txt"),
    ],
)
def test_other_tokenizers_are_named(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert has_tokenizer(tmp_path) is bool(files)
    with pytest.raises(WeightsError, match=message):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalizer": json.loads(normalizers.Lowercase().__getstate__())}, "does not give a text back as it was"),
        ({"model": {"type": "WordLevel", "vocab": {}, "unk_token": "x"}}, "its model is WordLevel"),
        ({"added_tokens": []}, "it has no end-of-text"),
        ({"pre_tokenizer": None}, "does not give a text back as it was"),
    ],
)
def test_what_would_lose_text_or_has_no_end_is_refused(tmp_path, change, message):
    folder = folder_of(tmp_path, made(), config=None if "added_tokens" in change else {"eos_token": "</s>"})
    write_json(folder / "tokenizer.json", read_json(folder / "tokenizer.json") | change)
    with pytest.raises(WeightsError, match=message):
        read_tokenizer(folder)


def test_what_is_put_around_a_text_is_not(tmp_path):
    library = made()
    library.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 0)])
    ours = read_tokenizer(folder_of(tmp_path, library, config={"eos_token": "</s>"}))
    assert 0 not in ours.encode("Die Räder")


BEGIN = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
END = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 0)])


@pytest.mark.parametrize(
    ("processor", "config", "beginning"),
    [
        (None, {}, None),
        (BEGIN, {}, 1),
        (END, {}, None),
        (processors.Sequence([processors.ByteLevel(), BEGIN]), {}, 1),
        (BEGIN, {"add_bos_token": False}, None),
        (None, {"add_bos_token": True}, 1),
        (None, {"add_bos_token": True, "bos_token": None}, None),
    ],
)
def test_the_beginning_is_what_the_published_tokenizer_puts_before_every_text(tmp_path, processor, config, beginning):
    library = made(special=("</s>", "<s>"))
    if processor is not None:
        library.post_processor = processor
    config = {"eos_token": "</s>", "bos_token": "<s>", **config}
    assert read_tokenizer(folder_of(tmp_path, library, config=config)).beginning == beginning
