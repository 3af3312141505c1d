"""The tokenizer that a model folder brings along: any byte-level BPE, whatever its numbering and its end-of-text.

Read is tokenizer.json, or vocab.json and merges.txt with added_tokens.json. A vocabulary with GPT-2's numbering becomes
a `Tokenizer` on tiktoken; every other is encoded by the library tokenizers. Special and added tokens have ids and
bytes, but no text is ever encoded as one of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from ift.errors import WeightsError
from ift.run import write_json
from ift.text.bpe import byte_to_unicode
from ift.text.tokenizers import END_OF_TEXT, Tokenizer, added_token, tokenizer_config

OTHER_KINDS = {  # files of tokenizers that are no byte-level BPE
    "spiece.model": "SentencePiece",
    "tokenizer.model": "SentencePiece",
    "sentencepiece.bpe.model": "SentencePiece",
    "vocab.txt": "WordPiece",
}
FILES = (  # what is fetched of a model on the Hub to read its tokenizer, or to say what it is
    "tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json",
    "tokenizer_config.json", *OTHER_KINDS,
)  # fmt: skip
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PROBE = "".join(map(chr, range(32, 127))) + "\n  The\tend."


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("tokenizer.json", "vocab.json", *OTHER_KINDS))


def read_tokenizer(folder: Path) -> Tokenizer:
    """Raises WeightsError where there is none, or none that gives each text back as it was."""
    path = next((p for p in (folder / "tokenizer.json", folder / "vocab.json") if p.exists()), None)
    if path is None:
        for name, kind in OTHER_KINDS.items():
            if (folder / name).exists():
                raise WeightsError(f"{folder / name}: a {kind} vocabulary, not a byte-level BPE as GPT-2's (not read)")
        raise WeightsError(f"{folder}/tokenizer.json: no such file (a model folder needs its tokenizer)")
    try:
        files = _Files.read(path)
        if files.is_gpt2:
            return Tokenizer.from_ranks({files.bytes[id]: id for id in sorted(files.ordinary)}, files.name)
        return FolderTokenizer(files)
    except WeightsError:
        raise
    except Exception as error:  # of a file that is anything; the library raises plain Exceptions
        raise WeightsError(f"{path}: not a byte-level BPE tokenizer: {type(error).__name__} {error}") from error


@dataclass(frozen=True)
class _Files:
    """What the files of a folder say.

    stored    tokenizer.json, or what it would be
    bytes     of each id
    ordinary  ids that text can become: single bytes, and what merges make
    added     id -> entry of tokenizer.json, of special and added tokens
    beginning the id that the published tokenizer puts before every text, if it puts one
    bos       the id that it names for that, whether it puts it or not
    """

    stored: Mapping[str, Any]
    config: Mapping[str, Any]
    bytes: Mapping[int, bytes]
    ordinary: frozenset[int]
    added: Mapping[int, dict[str, Any]]
    end: int
    beginning: int | None
    bos: int | None
    name: str

    @classmethod
    def read(cls, path: Path) -> _Files:
        folder = path.parent
        config = {**_object(folder / "special_tokens_map.json"), **_object(folder / "tokenizer_config.json")}
        stored = _object(path) if path.name == "tokenizer.json" else _from_vocabulary(path)
        model = stored["model"]
        vocabulary: dict[str, int] = model["vocab"]
        if model.get("type", "BPE") != "BPE":
            raise ValueError(f"its model is {model['type']}")
        made = {"".join(pair) for pair in _pairs(model["merges"])}
        ordinary = {token: id for token, id in vocabulary.items() if len(token) == 1 or token in made}
        added = {
            id: entry
            for id, entry in _added(folder, stored, config, vocabulary)
            if ordinary.get(entry["content"]) != id  # a word of the text too ("!" as padding): stays a word
        }
        byte_of = {character: byte for byte, character in byte_to_unicode().items()}
        spelled = {id: bytes(byte_of[c] for c in token) for token, id in ordinary.items()}
        others = {id: token.encode() for token, id in vocabulary.items() if token not in ordinary}
        others |= {id: entry["content"].encode() for id, entry in added.items()}
        ids = [*vocabulary.values(), *(id for id in added if vocabulary.get(added[id]["content"]) != id)]
        if len(set(ids)) < len(ids) or any(not isinstance(id, int) or id < 0 for id in ids):
            raise ValueError("two tokens have one id, or an id is no number")
        end = _end_of_text(folder, config, {**vocabulary, **{e["content"]: id for id, e in added.items()}}, added)
        if end in spelled:
            raise ValueError(f"its end-of-text is the ordinary word {spelled[end].decode(errors='replace')!r}")
        return cls(
            stored=stored,
            config=config,
            bytes={**others, **spelled},
            ordinary=frozenset(spelled),
            added={**added, end: added.get(end) or added_token(others[end].decode(), end)},
            end=end,
            bos={others.get(id, b"").decode(): id for id in added}.get(_content(config.get("bos_token"))),
            beginning=_beginning(stored, config, {others.get(id, b"").decode(): id for id in added}),
            name=str(config.get("name_or_path") or folder.resolve().name),
        )

    @property
    def is_gpt2(self) -> bool:
        """Whether tiktoken gives the same tokens: 0 to n - 1 in the order of merging, then the end-of-text."""
        count = len(self.ordinary)
        model = self.stored["model"]
        longer = [self.bytes[id] for id in sorted(self.ordinary) if len(self.bytes[id]) > 1]
        byte_of = {character: byte for byte, character in byte_to_unicode().items()}
        made = [bytes(byte_of[c] for c in "".join(pair)) for pair in _pairs(model["merges"])]
        return (
            self.bytes.get(self.end) == END_OF_TEXT.encode()
            and sorted(self.bytes) == list(range(count + 1))
            and self.end == count
            and count - len(longer) == 256
            and made == longer
            and self.cuts_as_gpt2
            and not model.get("ignore_merges")
            and self.beginning is None
        )

    @property
    def cuts_as_gpt2(self) -> bool:
        cut = self.stored.get("pre_tokenizer") or {}
        plain = cut.get("type") == "ByteLevel" and cut.get("use_regex", True) and not cut.get("add_prefix_space")
        return bool(plain) and self.stored.get("normalizer") is None


class FolderTokenizer(Tokenizer):
    """Encoded by the library tokenizers, without its special and added tokens; text is cut as the folder says.

    No space is put before a text (add_prefix_space): pieces of a prompt go on where others end.
    """

    def __init__(self, files: _Files):
        self.files, self.name, self.end_of_text = files, files.name, files.end
        self.end_text = files.bytes[files.end].decode()
        self.beginning = files.beginning
        self.before_nothing = files.end if files.bos is None else files.bos
        self.vocab_size = max(files.bytes) + 1
        self.special = frozenset(files.added)
        self.special_ids = {entry["content"]: id for id, entry in files.added.items()}
        sides = {entry["content"]: (bool(entry["lstrip"]), bool(entry["rstrip"])) for entry in files.added.values()}
        self.swallows = {text: both for text, both in sides.items() if any(both)}
        self.cuts_as_gpt2 = files.cuts_as_gpt2
        self._library = tokenizers.Tokenizer.from_str(json.dumps(self._plain))
        if self.decode(self.encode(PROBE)) != PROBE:
            raise ValueError("it does not give a text back as it was")

    @cached_property
    def _plain(self) -> dict[str, Any]:
        """tokenizer.json with ordinary tokens alone."""
        stored, model = self.files.stored, self.files.stored["model"]
        vocabulary = {token: id for token, id in model["vocab"].items() if id in self.files.ordinary}
        unknown = model.get("unk_token") if model.get("unk_token") in vocabulary else None
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": stored.get("normalizer"),
            "pre_tokenizer": _without_prefix_space(stored.get("pre_tokenizer")),
            "post_processor": None,
            "decoder": None,
            "model": {**model, "type": "BPE", "dropout": None, "unk_token": unknown, "vocab": vocabulary},
        }

    def encode(self, text: str) -> list[int]:
        try:
            return self._library.encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeEncodeError):  # half a character, which no byte stands for: as tiktoken does
            whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            return self._library.encode(whole, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        return self.decode_bytes(ids).decode(errors="replace")

    def decode_bytes(self, ids: list[int]) -> bytes:
        return b"".join([self.files.bytes.get(id, b"") for id in ids])

    @cached_property
    def hash(self) -> str:
        added = sorted((id, self.files.bytes[id].decode()) for id in self.files.bytes if id not in self.files.ordinary)
        text = json.dumps([self._plain, added, self.end_of_text], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def save(self, folder: Path, *, context_length: int, chat_template: str | None = None) -> None:
        """As they were read: all tokens with their ids, and the end-of-text that training put."""
        added = [entry for _, entry in sorted(self.files.added.items())]
        cut = self._plain["pre_tokenizer"]
        written = {**self.files.stored, "added_tokens": added, "pre_tokenizer": cut, "post_processor": None}
        write_json(folder / "tokenizer.json", {**written, "truncation": None, "padding": None})
        config = tokenizer_config(self, context_length, chat_template)
        pad = _content(self.files.config.get("pad_token"))
        write_json(
            folder / "tokenizer_config.json",
            {**config, "tokenizer_class": "PreTrainedTokenizerFast", **({"pad_token": pad} if pad else {})},
        )

    def vocabulary(self) -> tuple[list[str], list[str]]:
        spelled = {id: token for token, id in self.files.stored["model"]["vocab"].items()}
        spelled |= {id: entry["content"] for id, entry in self.files.added.items()}
        words = [spelled.get(id, f"[unused{id}]") for id in range(self.vocab_size)]
        return words, [" ".join(pair) for pair in _pairs(self.files.stored["model"]["merges"])]


# ----------------------------------------------------------------------------------------------------------------------
# the files


def _object(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where there is none. Raises ValueError where it is no object."""
    if not path.exists():
        return {}
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is no JSON object")
    return value


def _from_vocabulary(path: Path) -> dict[str, Any]:
    """vocab.json and merges.txt as tokenizer.json."""
    lines = path.with_name("merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": BYTE_LEVEL,
        "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": _object(path), "merges": merges},
    }


def _pairs(merges: list[Any]) -> Iterator[tuple[str, str]]:
    """Merges as texts "a b" or as pairs, by the version of the library that wrote them."""
    for merge in merges:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield left, right


def _added(
    folder: Path, stored: Mapping[str, Any], config: Mapping[str, Any], vocabulary: Mapping[str, int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Id and entry of each special or added token, from all the files that may name some."""
    named = {END_OF_TEXT}
    for key, value in config.items():
        values = value if key == "additional_special_tokens" and isinstance(value, list) else [value]
        named |= {_content(each) for each in values if key.endswith(("_token", "_tokens"))} - {""}
    yield from ((vocabulary[token], added_token(token, vocabulary[token])) for token in named if token in vocabulary)
    for token, id in _object(folder / "added_tokens.json").items():
        yield id, added_token(token, id, special=token in named)
    for id, entry in (config.get("added_tokens_decoder") or {}).items():
        yield int(id), {**added_token(entry["content"], int(id)), **entry, "id": int(id)}
    for entry in stored.get("added_tokens") or []:
        yield entry["id"], {**added_token(entry["content"], entry["id"]), **entry}


def _content(token: Any) -> str:
    """A special token is written as its text, or as an object that holds it."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else ""


def _end_of_text(
    folder: Path, config: Mapping[str, Any], ids: Mapping[str, int], added: Mapping[int, dict[str, Any]]
) -> int:
    """eos_token of the tokenizer's files; else eos_token_id of the model's, where that is a special token; else
    GPT-2's name for it."""
    named = _content(config.get("eos_token"))
    if named in ids:
        return ids[named]
    try:
        given = _object(folder / "config.json").get("eos_token_id")
    except ValueError:  # reported where the model is read
        given = None
    given = given[0] if isinstance(given, list) and given else given
    if isinstance(given, int) and given in added:
        return given
    if END_OF_TEXT in ids:
        return ids[END_OF_TEXT]
    raise ValueError("it has no end-of-text (eos_token of tokenizer_config.json)")


def _beginning(stored: Mapping[str, Any], config: Mapping[str, Any], ids: Mapping[str, int]) -> int | None:
    """What add_bos_token says, and without it what the post-processor of tokenizer.json puts before a text."""
    bos, wanted = ids.get(_content(config.get("bos_token"))), config.get("add_bos_token")
    if wanted is False:
        return None
    put = _put_before(stored.get("post_processor"))
    return ids.get(put or "", bos if wanted else None)


def _put_before(processor: Any) -> str | None:
    """The special token that a post-processor puts before a single text."""
    if not isinstance(processor, dict):
        return None
    if processor.get("type") == "Sequence":
        return next(filter(None, map(_put_before, processor.get("processors", []))), None)
    if processor.get("type") in ("BertProcessing", "RobertaProcessing"):
        return str(processor["cls"][0])
    first = next(iter(processor.get("single") or []), {})
    return str(first["SpecialToken"]["id"]) if "SpecialToken" in first else None


def _without_prefix_space(cut: Any) -> Any:
    if not isinstance(cut, dict):
        return cut
    inner = {"pretokenizers": [_without_prefix_space(each) for each in cut.get("pretokenizers", [])]}
    cut = {**cut, **(inner if "pretokenizers" in cut else {})}
    return {**cut, "add_prefix_space": False} if cut.get("type") == "ByteLevel" else cut
