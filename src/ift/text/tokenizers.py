"""The only door to tiktoken: text to token ids and back, and GPT-2's tokenizer as files.

All text is encoded as ordinary text. The one special token, end-of-text, has an id but no spelling here: it enters an
example only where `ift` puts it, so a row that spells "<|endoftext|>" gives the ordinary tokens of those characters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import tiktoken

from ift.errors import MachineError
from ift.run import write_json
from ift.text.added_tokens import added_token
from ift.text.bpe import GPT2_PATTERN, byte_to_unicode, merges, train_bpe
from ift.text.published import BYTE_LEVEL, END_OF_TEXT

# where a text that is encoded stands: where a whole text starts, right after a special token, or going on with another
Place = Literal["start", "after_special", "inside"]


class Tokenizer:
    def __init__(self, encoding: tiktoken.Encoding):
        self.encoding = encoding
        self.name = encoding.name
        self.end_of_text = encoding.eot_token
        self.end_text = END_OF_TEXT  # how other programs spell it
        self.beginning: int | None = None  # the id that the model expects once before every text, where it does
        self.before_nothing = self.end_of_text  # the id that stands before a text where something has to
        self.vocab_size = encoding.n_vocab  # all ids are below it
        self.special = frozenset({self.end_of_text})  # ids of tokens that no text becomes
        self.special_ids: Mapping[str, int] = {END_OF_TEXT: self.end_of_text}  # of special and added ones, by spelling
        self.swallows: Mapping[str, tuple[bool, bool]] = {}  # those that take white space in, before and after them
        self.cuts_as_gpt2 = encoding._pat_str == GPT2_PATTERN

    @property
    def encoder(self) -> str:
        """The library that makes tokens of text."""
        return "tiktoken"

    def encode(self, text: str, place: Place = "inside") -> list[int]:
        """place: some tokenizers put a space before a text, which pieces of a text that go on must not have."""
        return self.encoding.encode_ordinary(text)

    def decode(self, ids: list[int]) -> str:
        return self.encoding.decode(ids)

    def decode_bytes(self, ids: list[int]) -> bytes:
        """Exactly what was encoded, where decode() shows half a character as a replacement."""
        return self.encoding.decode_bytes(ids)

    def written(self, text: str, place: Place = "inside") -> bytes:
        """What the tokens of a text decode to: the text itself, unless the model's tokenizer writes it another way
        (accents composed by NFC, a space before it, a control character left out)."""
        return text.encode()

    @property
    def stands_in(self) -> bool:
        """Whether tiktoken encodes in the place of the model's own library."""
        return False

    def differs(self, texts: Iterable[str]) -> str:
        """The first of these texts to which tiktoken gives other tokens than the model's own library; "" for none."""
        return ""

    def distrust(self, text: str) -> None:
        """Encode by the model's own library from now on, since tiktoken gives this text other tokens."""

    @cached_property
    def hash(self) -> str:
        """Of the vocabulary and the way text is cut into words: equal hashes give equal tokens."""
        return vocabulary_hash(self.encoding._pat_str, self.end_of_text, self.encoding._mergeable_ranks)

    @classmethod
    def gpt2(cls) -> Tokenizer:
        """Raises MachineError where GPT-2's vocabulary is neither cached nor to be fetched."""
        try:
            return cls(tiktoken.get_encoding("gpt2"))
        except Exception as error:  # requests, urllib3 or OS errors, by version of tiktoken
            raise MachineError(
                f"gpt2: the vocabulary is not cached and cannot be fetched: {type(error).__name__} "
                "(set TIKTOKEN_CACHE_DIR to a folder that holds it)"
            ) from error

    @classmethod
    def train(cls, texts: Iterable[str], *, size: int, name: str) -> Tokenizer:
        return cls.from_ranks(train_bpe(texts, size=size), name)

    @classmethod
    def from_ranks(cls, ranks: dict[bytes, int], name: str) -> Tokenizer:
        special = {END_OF_TEXT: len(ranks)}
        return cls(tiktoken.Encoding(name, pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens=special))

    def save(self, folder: Path, *, context_length: int, chat_template: str | None = None) -> None:
        """tokenizer.json and tokenizer_config.json, as transformers, vLLM and `read_tokenizer` read them."""
        write_json(folder / "tokenizer.json", self._hf_tokenizer)
        write_json(folder / "tokenizer_config.json", tokenizer_config(self, context_length, chat_template))

    @property
    def names(self) -> dict[str, str]:
        """The special tokens that tokenizer_config.json names, by bos_token, eos_token ..."""
        return dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), self.end_text)

    def vocabulary(self) -> tuple[list[str], list[str]]:
        """Tokens in the order of their ids and merges in the order of merging, in GPT-2's spelling of bytes."""
        model = self._hf_tokenizer["model"]
        return sorted(model["vocab"], key=model["vocab"].get), model["merges"]

    @cached_property
    def _hf_tokenizer(self) -> dict[str, Any]:
        unicode = byte_to_unicode()

        def spell(token: bytes) -> str:
            return "".join(unicode[byte] for byte in token)

        ranks = self.encoding._mergeable_ranks
        vocabulary = {spell(token): rank for token, rank in sorted(ranks.items(), key=lambda item: item[1])}
        return {
            "version": "1.0",
            "added_tokens": [added_token(END_OF_TEXT, self.end_of_text)],
            "normalizer": None,
            "pre_tokenizer": BYTE_LEVEL,
            "post_processor": None,
            "decoder": BYTE_LEVEL,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": "",
                "fuse_unk": False,
                "vocab": {**vocabulary, END_OF_TEXT: self.end_of_text},
                "merges": [f"{spell(left)} {spell(right)}" for left, right in merges(ranks)],
            },
        }


def vocabulary_hash(pattern: str, end: int, ranks: Mapping[bytes, int]) -> str:
    digest = hashlib.sha256(f"{pattern} {end}".encode())
    for token, rank in ranks.items():
        digest.update(token + rank.to_bytes(4, "little"))
    return digest.hexdigest()[:16]


def tokenizer_config(tokenizer: Tokenizer, context_length: int, chat_template: str | None) -> dict[str, Any]:
    """tokenizer_config.json. An unknown text does not exist here, and a text begins with no special token.

    pad_token is what stands behind short rows in a batch, as in training: programs that pad refuse a tokenizer without.
    """
    return {
        "tokenizer_class": "GPT2Tokenizer",
        **tokenizer.names,
        "add_prefix_space": False,
        "model_max_length": context_length,
        "name_or_path": tokenizer.name,
        **({"chat_template": chat_template} if chat_template else {}),
    }
