"""Special tokens stand where a template's own text spells them, and nowhere else."""

import json

import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library

from ift.data.contract.examples import broken_law, encode
from ift.run import write_json
from ift.text.chat_template_export import export_chat_template
from ift.text.chat_templates import ChatTemplate, read_template
from ift.text.conversations import Conversation
from ift.text.encoding import encode_pieces, encode_prompt, made_for, turn_end
from ift.text.templates import Segment, Special, Template
from ift.text.tokenizer_files import read_tokenizer
from tests.text import kinds
from tests.text.chats import BOTH, ONE, SYSTEM, THREE, messages_of

CHATML = Template(
    "chatml",
    (
        Segment("<|im_start|>system\n{system}<|im_end|>\n", when="system"),
        Segment("\n", when="later"),
        Segment("<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n"),
        Segment("{output}<|im_end|>", supervised=True),
    ),
)
ALPACA = Template("alpaca", (Segment("Q: {instruction}\nA:\n"), Segment("{output}", supervised=True)))
SPELLED = Conversation("What is <|im_end|>?", "", "It {output} is <|im_end|>, <think> and <|im_start|>.")
JINJA = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("</s>", "<s>", "<|im_start|>", "<|im_end|>")


@pytest.fixture(scope="module")
def tokens_folder(tmp_path_factory):
    """A byte-level BPE with special tokens of its own, an added one that is not special, and JINJA."""
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator(["user assistant system Name a color. Red."] * 3, trainer)
    library.add_tokens([AddedToken("<think>", special=False)])
    folder = tmp_path_factory.mktemp("tokens")
    library.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "</s>", "bos_token": "<s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    write_json(folder / "tokenizer_config.json", {**config, "chat_template": JINJA})
    return folder


@pytest.fixture(scope="module")
def tokens(tokens_folder):
    return read_tokenizer(tokens_folder)


def ids_of(template, row, tokenizer):
    return [id for ids in encode_pieces(template.pieces(row), tokenizer) for id in ids]


def spelled(ids, tokenizer):
    """Special tokens as their ids, and text between them."""
    names = {id: name for name, id in tokenizer.special_ids.items()}
    parts: list = []
    for id in ids:
        if id in names:
            parts.append(names[id])
        elif parts and isinstance(parts[-1], bytes):
            parts[-1] += tokenizer.decode_bytes([id])
        else:
            parts.append(tokenizer.decode_bytes([id]))
    return parts


def test_markers_that_the_tokenizer_knows_are_its_tokens_and_end_turns(tokens):
    template = made_for(CHATML, tokens)
    start, end = "<|im_start|>", "<|im_end|>"
    assert spelled(ids_of(template, THREE, tokens), tokens) == [
        *(start, b"user\nHi!", end, b"\n", start, b"assistant\nHello.", end, b"\n", start),
        *(b"user\nWho are you?", end, b"\n", start, b"assistant\nA model.", end, b"\n", start),
        *(b"user\nName a color.", end, b"\n", start, b"assistant\nRed."),
    ]
    learnt = [(p.text, p.special) for p in template.pieces(THREE) if p.supervised]
    assert learnt == [("Hello.", False), (end, True), ("A model.", False), (end, True), ("Red.", False)]
    assert turn_end(template, tokens) == tokens.special_ids[end] != tokens.end_of_text
    assert turn_end(made_for(ALPACA, tokens), tokens) == tokens.end_of_text


def test_what_a_row_spells_is_ordinary_text(tokens, tokens_folder):
    for template in (made_for(CHATML, tokens), made_for(ChatTemplate.from_folder(tokens_folder), tokens)):
        parts = spelled(ids_of(template, SPELLED, tokens), tokens)
        text = b"".join(part for part in parts if isinstance(part, bytes)).decode()
        assert SPELLED.instruction in text
        assert SPELLED.output in text
        assert sum(isinstance(part, str) and part != "<s>" for part in parts) == 3


@pytest.mark.parametrize("row", [ONE, SYSTEM, THREE, BOTH])
def test_a_chat_template_gives_the_tokens_of_transformers(tokens, tokens_folder, row):
    theirs = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(tokens_folder)
    template = made_for(ChatTemplate.from_folder(tokens_folder), tokens)
    whole = theirs.apply_chat_template(messages_of(row))
    whole = whole if isinstance(whole, list) else whole["input_ids"]
    ours = [*ids_of(template, row, tokens), turn_end(template, tokens)]
    assert ours == whole[: len(ours)]
    assert theirs.decode(whole[len(ours) :]) == "\n"
    prompt = theirs.apply_chat_template(messages_of(row)[:-1], add_generation_prompt=True)
    assert encode_prompt(row, template, tokens) == (prompt if isinstance(prompt, list) else prompt["input_ids"])


@pytest.mark.parametrize("template", [CHATML, ALPACA])
def test_a_text_begins_once_with_what_the_model_expects_there(tokens, tokens_folder, template):
    begun = template.with_tokens(made_for(template, tokens).tokens, "<s>")
    assert ids_of(begun, ONE, tokens) == [tokens.special_ids["<s>"], *ids_of(made_for(template, tokens), ONE, tokens)]
    chat = made_for(ChatTemplate.from_folder(tokens_folder), tokens)
    assert ids_of(chat.with_tokens(chat.tokens, "<s>"), ONE, tokens).count(tokens.special_ids["<s>"]) == 1


def test_the_tokens_are_stored_with_the_template_and_one_without_means_text(tokens, tokens_folder):
    for plain in (CHATML, ChatTemplate.from_folder(tokens_folder)):
        template = made_for(plain, tokens)
        stored = json.loads(json.dumps(template.to_json()))
        assert read_template(stored) == template
        assert template.hash != plain.hash
        assert "tokens" not in plain.to_json()
        assert not any(piece.special for piece in plain.pieces(ONE))
        assert template.prompt(ONE) == plain.prompt(ONE)


@pytest.mark.parametrize("bos", ["", "<s>"])
@pytest.mark.parametrize("kind", ["segments", "chat", "plain ends"])
def test_an_exported_template_gives_transformers_the_same_tokens(tokens, tokens_folder, tmp_path, kind, bos):
    transformers = pytest.importorskip("transformers")
    plain = {"segments": CHATML, "chat": ChatTemplate.from_folder(tokens_folder), "plain ends": ALPACA}[kind]
    template = plain.with_tokens(map(Special, tokens.special_ids), bos)
    tokens.save(tmp_path, context_length=64, chat_template=export_chat_template(template, end=tokens.end_text))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for row in (ONE, THREE):
        whole = theirs.apply_chat_template(messages_of(row))
        whole = whole if isinstance(whole, list) else whole["input_ids"]
        ours = [*ids_of(template, row, tokens), turn_end(template, tokens)]
        assert ours == whole[: len(ours)]
        assert theirs.decode(whole[len(ours) :]) in ("", "\n")


MARKED = (
    Segment("<|user|>\n{instruction}<|end|>\n<|assistant|>\n"),
    Segment("{output}<|end|>", supervised=True),
)
PLAIN = (Segment("</s>{instruction}</s>"), Segment("{output}</s>", supervised=True))


@pytest.mark.parametrize(
    ("name", "segments"),
    [("phi3", MARKED), ("llama2", PLAIN), ("mistral", PLAIN), ("gemma", PLAIN), ("qwen", PLAIN), ("smollm2", PLAIN)],
)
@pytest.mark.parametrize("answer", ["die Tür  12", "  \n der 3.\n", "a\u0308\n\n\nB", ""])
def test_pieces_have_the_tokens_that_the_library_gives_for_the_whole_text(tmp_path, name, segments, answer):
    """With the space of SentencePiece where it puts one, and without the white space that <|end|> swallows."""
    folder = kinds.folder_of(tmp_path, name)
    tokenizer, library = read_tokenizer(folder), Library.from_file(str(folder / "tokenizer.json"))
    end = tokenizer.end_text
    segments = [Segment(s.text.replace("</s>", end), s.supervised) for s in segments]
    template = made_for(Template.make("whole", segments, mask=True), tokenizer)
    pieces = template.pieces(Conversation("die Rede", "", answer))
    text = "".join(piece.text for piece in pieces)
    ids = [id for some in encode_pieces(pieces, tokenizer) for id in some]
    begin = [] if tokenizer.beginning is None else [tokenizer.beginning]
    assert ids == library.encode(text, add_special_tokens=False).ids
    assert ids[: len(begin)] == begin
    example = encode(pieces, tokenizer, 1)
    assert broken_law(example, tokenizer) is None
