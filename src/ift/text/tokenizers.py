"""The only door to tiktoken: text to token ids and back, and the tokenizer files of a model folder.

All text is encoded as ordinary text. The one special token, end-of-text, has an id but no spelling here: it enters an
example only where `ift` puts it, so a row that spells "<|endoftext|>" gives the ordinary tokens of those characters.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import tiktoken

from ift.errors import MachineError, WeightsError
from ift.run import write_json
from ift.text.bpe import GPT2_PATTERN, byte_to_unicode, merges, train_bpe

END_OF_TEXT = "<|endoftext|>"


class Tokenizer:
    def __init__(self, encoding: tiktoken.Encoding):
        self.encoding = encoding
        self.name = encoding.name
        self.end_of_text = encoding.eot_token
        self.vocab_size = encoding.n_vocab

    def encode(self, text: str) -> list[int]:
        return self.encoding.encode_ordinary(text)

    def decode(self, ids: list[int]) -> str:
        return self.encoding.decode(ids)

    def decode_bytes(self, ids: list[int]) -> bytes:
        """Exactly what was encoded, where decode() shows half a character as a replacement."""
        return self.encoding.decode_bytes(ids)

    @cached_property
    def hash(self) -> str:
        """Of the vocabulary and the way text is cut into words: equal hashes give equal tokens."""
        digest = hashlib.sha256(f"{self.encoding._pat_str} {self.end_of_text}".encode())
        for token, rank in self.encoding._mergeable_ranks.items():
            digest.update(token + rank.to_bytes(4, "little"))
        return digest.hexdigest()[:16]

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
        return cls._from_ranks(train_bpe(texts, size=size), name)

    @classmethod
    def _from_ranks(cls, ranks: dict[bytes, int], name: str) -> Tokenizer:
        special = {END_OF_TEXT: len(ranks)}
        return cls(tiktoken.Encoding(name, pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens=special))

    def save(self, folder: Path, *, context_length: int, chat_template: str | None = None) -> None:
        """tokenizer.json and tokenizer_config.json, as transformers, vLLM and our own `from_folder` read them."""
        write_json(folder / "tokenizer.json", self._hf_tokenizer)
        write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "GPT2Tokenizer",
                "bos_token": END_OF_TEXT,
                "eos_token": END_OF_TEXT,
                "unk_token": END_OF_TEXT,
                "add_prefix_space": False,
                "model_max_length": context_length,
                "name_or_path": self.name,
                **({"chat_template": chat_template} if chat_template else {}),
            },
        )

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
        added = {
            "id": self.end_of_text,
            "content": END_OF_TEXT,
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        return {
            "version": "1.0",
            "added_tokens": [added],
            "normalizer": None,
            "pre_tokenizer": level,
            "post_processor": None,
            "decoder": level,
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

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """Rebuild from tokenizer.json. Raises WeightsError unless it is a byte-level BPE with GPT-2's numbering."""
        path = folder / "tokenizer.json"
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            byte_of = {character: byte for byte, character in byte_to_unicode().items()}
            vocabulary = value["model"]["vocab"]
            special = {token["content"]: token["id"] for token in value["added_tokens"] if token["special"]}
            ranks = {bytes(byte_of[c] for c in token): i for token, i in vocabulary.items() if token not in special}
            name = folder.name
            config = folder / "tokenizer_config.json"
            if config.exists():
                name = json.loads(config.read_text(encoding="utf-8")).get("name_or_path") or name
        except FileNotFoundError as error:
            raise WeightsError(f"{path}: no such file (a model folder needs its tokenizer)") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"{path}: not a byte-level BPE tokenizer: {type(error).__name__} {error}") from error
        if special != {END_OF_TEXT: len(ranks)} or sorted(ranks.values()) != list(range(len(ranks))):
            raise WeightsError(f"{path}: not numbered as GPT-2's vocabulary (tokens 0..n-1, then {END_OF_TEXT})")
        return cls._from_ranks(ranks, str(name))
