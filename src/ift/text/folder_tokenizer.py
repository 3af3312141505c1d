"""The tokenizer that a model folder brings along, with the tokens that the published one gives.

Text is encoded by tiktoken where that is proved to be exact (see fast_encoding), else by the library tokenizers.
Special tokens and marks have ids and bytes, but no text is ever encoded as one of them. The folder's tokenizer.json is
kept as it is, byte for byte, and goes along wherever the model goes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import tokenizers

from ift.run import write_json
from ift.text.bpe import GPT2_PATTERN
from ift.text.fast_encoding import FastEncoding, as_tiktoken, difference, hard_texts, read_verdict, write_verdict
from ift.text.published import SPACE, Published, content, pairs, parts_of, vocabulary_of
from ift.text.tokenizers import Place, Tokenizer, vocabulary_hash

PROBE = "".join(map(chr, range(32, 127))) + "\n  The\tend."
# of tokenizer_config.json: what another program would run, or what is said of the folder it lay in
NOT_KEPT = ("auto_map", "processor_class", "tokenizer_file", "special_tokens_map_file", "backend", "is_local")


class FolderTokenizer(Tokenizer):
    """Raises ValueError where it does not give a text back as it was.

    A space that the published tokenizer puts before a text is put where a text starts, and not before what goes on.
    """

    def __init__(self, published: Published):
        self.published, self.name, self.end_of_text = published, published.name, published.end
        self.end_text = published.bytes[published.end].decode()
        self.beginning = published.beginning
        self.before_nothing = published.end if published.bos is None else published.bos
        self.vocab_size = max(published.bytes) + 1
        self.special = frozenset(published.added)
        self.special_ids = {entry["content"]: id for id, entry in published.added.items()}
        sides = {e["content"]: (bool(e["lstrip"]), bool(e["rstrip"])) for e in published.added.values()}
        self.swallows = {text: both for text, both in sides.items() if any(both)}
        self.cuts_as_gpt2 = published.cuts_as_gpt2
        stored = published.stored
        self._parts = {place: _parts_at(place, stored) for place in get_args(Place)}
        self._fast = self._exact_fast(stored)
        if self.decode(self.encode(PROBE)) != PROBE:
            raise ValueError("it does not give a text back as it was")

    def __getstate__(self) -> dict[str, Any]:
        """Without what the library does not let through to another process; it is made there again."""
        return {name: value for name, value in vars(self).items() if name not in ("_normalizers", "_libraries")}

    @property
    def encoder(self) -> str:
        return "tokenizers" if self._fast is None else "tiktoken"

    def encode(self, text: str, place: Place = "inside") -> list[int]:
        try:
            if self._fast and self._fast.knows(text):
                return self._fast(text)
            return self._encode(text, place)
        except (TypeError, UnicodeEncodeError):  # half a character, which no byte stands for: as tiktoken does
            whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            return self.encode(whole, place)

    def _encode(self, text: str, place: Place = "inside") -> list[int]:
        ids: list[int] = self._libraries[place].encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: list[int]) -> str:
        return self.decode_bytes(ids).decode(errors="replace")

    def decode_bytes(self, ids: list[int]) -> bytes:
        return b"".join([self.published.bytes.get(id, b"") for id in ids])

    def written(self, text: str, place: Place = "inside") -> bytes:
        normalizer, cut = self._parts[place]
        if normalizer or cut:
            text = self._normalizers[place].normalize_str(text) if parts_of(normalizer) else text
            text = text if self.published.byte_level else text.replace(SPACE, " ")
            begun = text[:1].isspace() if self.published.byte_level else text[:1] == " "
            text = f" {text}" if text and not begun and _puts_space(cut) else text
        return text.encode().translate(None, self._lacking)

    @cached_property
    def _lacking(self) -> bytes:
        """Bytes that are no token: the published tokenizer leaves them out."""
        known = {self.published.bytes[id] for id in self.published.ordinary}
        return bytes(byte for byte in range(256) if self.published.byte_level and bytes([byte]) not in known)

    @property
    def stands_in(self) -> bool:
        return self._fast is not None

    def differs(self, texts: Iterable[str]) -> str:
        return difference(self.encode, self._encode, texts) if self._fast else ""

    def distrust(self, text: str) -> None:
        write_verdict(self.published, differs=text)
        self._fast = None

    @cached_property
    def hash(self) -> str:
        known, end = self.published, self.end_of_text
        if known.gpt2:
            return vocabulary_hash(GPT2_PATTERN, end, {known.bytes[id]: id for id in sorted(known.ordinary)})
        stored = known.stored
        model = {**stored["model"], "merges": [*pairs(stored["model"].get("merges", []))]}
        added = sorted((id, text.decode(errors="replace")) for id, text in known.bytes.items() if id in known.added)
        words = [known.words[id] for id in sorted(known.words)]
        decided = [model, stored.get("normalizer"), stored.get("pre_tokenizer"), added, words, end, self.beginning]
        return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16]

    def save(self, folder: Path, *, context_length: int, chat_template: str | None = None) -> None:
        """tokenizer.json as it was read, and tokenizer_config.json with the end-of-text and template of training."""
        folder.joinpath("tokenizer.json").write_bytes(self.published.raw)
        write_json(folder / "tokenizer_config.json", self._config(context_length, chat_template))

    def _config(self, context_length: int, chat_template: str | None) -> dict[str, Any]:
        """The published settings. PreTrainedTokenizerFast reads tokenizer.json as it is: of other names transformers
        takes the way to cut text from the class, in some versions, and then gives other tokens."""
        config = {key: value for key, value in self.published.config.items() if key not in NOT_KEPT}
        listed = {entry["id"] for entry in self.published.stored.get("added_tokens") or []}
        beside = {str(id): entry for id, entry in self.published.added.items() if id not in listed}
        if beside or "added_tokens_decoder" in config:
            config["added_tokens_decoder"] = {**config.get("added_tokens_decoder", {}), **beside}
        if content(config.get("eos_token")) != self.end_text:
            config["eos_token"] = self.end_text
        config["pad_token"] = config.get("pad_token") or self.end_text
        config.pop("chat_template", None)
        return {
            **config,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": context_length,
            "name_or_path": self.name,
            **({"chat_template": chat_template} if chat_template else {}),
        }

    @property
    def names(self) -> dict[str, str]:
        config = self._config(0, None)
        return {name: text for name in config if name.endswith("_token") and (text := content(config[name]))}

    def vocabulary(self) -> tuple[list[str], list[str]]:
        model = self.published.stored["model"]
        spelled = {id: token for token, id in vocabulary_of(model).items()}
        spelled |= {
            id: e["content"] for known in (self.published.added, self.published.words) for id, e in known.items()
        }
        words = [spelled.get(id, f"[unused{id}]") for id in range(self.vocab_size)]
        return words, [" ".join(pair) for pair in pairs(model.get("merges", []))]

    # ------------------------------------------------------------------------------------------------------------------
    # the library

    def _exact_fast(self, stored: Mapping[str, Any]) -> FastEncoding | None:
        fast = as_tiktoken(self.published, stored, self._normalizers["inside"])
        if fast is None:
            return None
        exact = read_verdict(self.published)
        if exact is None:
            texts = filter(fast.knows, hard_texts(self.published))
            differs = difference(fast, self._encode, texts)
            write_verdict(self.published, differs=differs)
            exact = not differs
        return fast if exact else None

    @cached_property
    def _normalizers(self) -> dict[Place, Any]:
        """The normalizer at each place, apart from the vocabulary: tiktoken needs no more of the library."""
        empty = {"type": "BPE", "vocab": {}, "merges": []}
        return {place: _library(normalizer, None, empty).normalizer for place, (normalizer, _) in self._parts.items()}

    @cached_property
    def _libraries(self) -> dict[Place, tokenizers.Tokenizer]:
        """The library's tokenizer at each place, without special tokens and marks. Most have one for all places."""
        model, words = self._plain_model(self.published.stored["model"]), list(self.published.words.values())
        made: list[tuple[Any, tokenizers.Tokenizer]] = []
        found: dict[Place, tokenizers.Tokenizer] = {}
        for place, parts in self._parts.items():
            same = next((library for others, library in made if others == parts), None)
            if same is None:
                same = _library(*parts, model, words)
                made.append((parts, same))
            found[place] = same
        for word in words:
            if found["inside"].token_to_id(word["content"]) != word["id"]:
                raise ValueError(f"its added token {word['content']!r} is not the one numbered {word['id']}")
        return found

    def _plain_model(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """The model with nothing that a text must not become."""
        known = self.published
        if model.get("type") == "Unigram":  # a piece of characters that stand in no text
            pieces = [
                [piece if id not in known.added else "\U0010ffff" * 3 + str(id), score]
                for id, (piece, score) in enumerate(model["vocab"])
            ]
            return {**model, "vocab": pieces}
        kept = {token: id for token, id in model["vocab"].items() if id in known.ordinary}
        kept |= {entry["content"]: id for id, entry in known.words.items()}
        unknown = model.get("unk_token")
        if unknown in model["vocab"] and not known.byte_level:
            kept[unknown] = model["vocab"][unknown]
        merges = [pair for pair in pairs(model["merges"]) if "".join(pair) in kept]
        return {
            **model,
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown if unknown in kept else None,
            "vocab": kept,
            "merges": merges,
        }


def _library(normalizer: Any, cut: Any, model: Mapping[str, Any], words: Sequence[Any] = ()) -> tokenizers.Tokenizer:
    stored: dict[str, Any] = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": list(words)}
    stored |= {"normalizer": normalizer, "pre_tokenizer": cut, "post_processor": None, "decoder": None, "model": model}
    return tokenizers.Tokenizer.from_str(json.dumps(stored))


def _parts_at(place: Place, stored: Mapping[str, Any]) -> tuple[Any, Any]:
    """The normalizer and the pre-tokenizer where a text starts, after a special token, or inside of a text.

    The library treats a text between special tokens as one of its own, and puts a space before each; a Metaspace of
    scheme `first` before the first alone.
    """
    return _opened(stored.get("normalizer"), place), _opened(stored.get("pre_tokenizer"), place)


def _opened(part: Any, place: Place) -> Any:
    if not isinstance(part, dict) or place == "start":
        return part
    if part.get("type") == "Sequence":
        name = next(name for name in ("normalizers", "pretokenizers") if name in part)
        inner = [_opened(each, place) for each in part[name]]
        return {**part, name: [each for each in inner if each is not None]}
    if part.get("type") == "Metaspace" and (place == "inside" or part.get("prepend_scheme") == "first"):
        older = {"add_prefix_space": False} if "add_prefix_space" in part else {}
        return {**part, "prepend_scheme": "never", **older}
    if place == "inside" and part.get("type") == "Prepend":
        return None
    if place == "inside" and part.get("type") == "ByteLevel":
        return {**part, "add_prefix_space": False}
    return part


def _puts_space(cut: Any) -> bool:
    """Whether a pre-tokenizer puts a space before a text that begins with none."""
    return any(
        part.get("prepend_scheme", "always" if part.get("add_prefix_space", True) else "never") != "never"
        if part.get("type") == "Metaspace"
        else part.get("type") == "ByteLevel" and bool(part.get("add_prefix_space"))
        for part in parts_of(cut)
    )
