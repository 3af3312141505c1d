"""What the files of a model folder say about its tokenizer: tokenizer.json, or vocab.json and merges.txt with
added_tokens.json, and the settings beside them.

A vocabulary is spelled in one of two ways. Byte-level BPE (GPT-2, Llama 3, Qwen) has a character for each byte.
SentencePiece's (Llama 2, Mistral, Gemma, Phi-3) spells text as it is, a space as "▁" and a byte of what it lacks as
<0x0A>.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ift.text.added_tokens import added_token, is_mark, is_word
from ift.text.bpe import byte_to_unicode

END_OF_TEXT = "<|endoftext|>"
SPACE = "▁"  # of SentencePiece
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


@dataclass(frozen=True)
class Published:
    """
    raw       tokenizer.json as it lies in the folder, or what it would be
    bytes     of each id
    ordinary  ids that text can become: bytes, what merges make, words
    added     id -> entry of tokenizer.json, of special tokens and marks, which no text becomes
    words     id -> entry of tokenizer.json, of the added tokens that are ordinary
    beginning the id that the published tokenizer puts before every text, if it puts one
    bos       the id that it names for that, whether it puts it or not
    gpt2      whether it is a vocabulary numbered and cut as GPT-2's: 0 to n - 1 in the order of merging, then the end
    """

    raw: bytes
    config: Mapping[str, Any]
    bytes: Mapping[int, bytes]
    ordinary: frozenset[int]
    added: Mapping[int, dict[str, Any]]
    words: Mapping[int, dict[str, Any]]
    end: int
    beginning: int | None
    bos: int | None
    name: str
    byte_level: bool
    cuts_as_gpt2: bool
    gpt2: bool

    @property
    def stored(self) -> dict[str, Any]:
        """tokenizer.json as values: read anew each time, for it is many times as large as the file."""
        return dict(json.loads(self.raw))


def read_published(path: Path) -> Published:
    """Of tokenizer.json or vocab.json. Raises ValueError, KeyError or OSError where it is another kind."""
    folder = path.parent
    config = {**_object(folder / "special_tokens_map.json"), **_object(folder / "tokenizer_config.json")}
    if path.name == "tokenizer.json":
        raw = path.read_bytes()
        stored = json.loads(raw)
        if not isinstance(stored, dict):
            raise ValueError(f"{path.name} is no JSON object")
    else:
        stored = _from_vocabulary(path, config)
        raw = json.dumps(stored, ensure_ascii=False).encode()
    model, byte_level = stored["model"], has_part(stored, "ByteLevel")
    vocabulary = vocabulary_of(model)
    spell = _spelling_of_bytes() if byte_level else _spelling_of_text(bool(model.get("byte_fallback")))
    reached = _reached(model, vocabulary, byte_level)
    entries = dict(_added(folder, stored, config, vocabulary))
    # "!" as padding is a word of the text too and stays one; "<s>" that merges could make does not
    own = {id for id, entry in entries.items() if reached.get(entry["content"]) == id and not is_mark(entry["content"])}
    words = {id: entry for id, entry in entries.items() if is_word(entry)}
    added = {id: entry for id, entry in entries.items() if id not in own and id not in words}
    spelled = {id: spell(token) for token, id in reached.items() if id not in added and id not in words}
    spelled |= {id: entry["content"].encode() if byte_level else spell(entry["content"]) for id, entry in words.items()}
    others = {id: token.encode() for token, id in vocabulary.items() if id not in spelled}
    others |= {id: entry["content"].encode() for id, entry in added.items()}
    ids = [*vocabulary.values(), *(id for id in entries if vocabulary.get(entries[id]["content"]) != id)]
    if len(set(ids)) < len(ids) or any(not isinstance(id, int) or id < 0 for id in ids):
        raise ValueError("two tokens have one id, or an id is no number")
    end = _end_of_text(folder, config, {**vocabulary, **{e["content"]: id for id, e in added.items()}}, added)
    if end in spelled:
        raise ValueError(f"its end-of-text is the ordinary word {spelled[end].decode(errors='replace')!r}")
    added = {**added, end: added.get(end) or added_token(others[end].decode(), end)}
    numbers = {entry["content"]: id for id, entry in added.items()}
    beginning = _beginning(stored, config, numbers)
    known, ordinary = {**others, **spelled}, frozenset(spelled)
    return Published(
        raw=raw,
        config=config,
        bytes=known,
        ordinary=ordinary,
        added=added,
        words=words,
        end=end,
        beginning=beginning,
        bos=numbers.get(content(config.get("bos_token"))),
        name=str(config.get("name_or_path") or folder.resolve().name),
        byte_level=byte_level,
        cuts_as_gpt2=_cuts_as_gpt2(stored),
        gpt2=beginning is None and not words and _is_gpt2(stored, known, ordinary, end),
    )


# ----------------------------------------------------------------------------------------------------------------------
# the vocabulary


def vocabulary_of(model: Mapping[str, Any]) -> dict[str, int]:
    """Token -> id. Raises ValueError for a kind of model that is not read."""
    kind = model.get("type", "BPE")
    if kind == "BPE":
        return dict(model["vocab"])
    if kind == "Unigram":
        return {token: id for id, (token, _) in enumerate(model["vocab"])}
    raise ValueError(f"its model is {kind}")


def pairs(merges: list[Any]) -> Iterator[tuple[str, str]]:
    """Merges as texts "a b" or as pairs, by the version of the library that wrote them."""
    for merge in merges:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield left, right


def has_part(stored: Mapping[str, Any], kind: str) -> bool:
    """Whether its pre-tokenizer or its decoder is of a kind, or has a part that is."""
    return any(part.get("type") == kind for name in ("pre_tokenizer", "decoder") for part in parts_of(stored.get(name)))


def parts_of(part: Any) -> list[dict[str, Any]]:
    """A normalizer, pre-tokenizer, post-processor or decoder as the parts that it is a sequence of."""
    if not isinstance(part, dict):
        return []
    if part.get("type") != "Sequence":
        return [part]
    names = ("normalizers", "pretokenizers", "processors", "decoders")
    inner: list[Any] = next((part[name] for name in names if name in part), [])
    return [leaf for each in inner for leaf in parts_of(each)]


def _reached(model: Mapping[str, Any], vocabulary: Mapping[str, int], byte_level: bool) -> dict[str, int]:
    """The tokens that the model itself can make of text."""
    if model.get("type") == "Unigram":
        return {token: id for token, id in vocabulary.items() if id != model.get("unk_id")}
    if model.get("ignore_merges") and byte_level:  # a word that is a token is that token, whatever the merges make
        characters = set(byte_to_unicode().values())
        return {token: id for token, id in vocabulary.items() if characters.issuperset(token)}
    made = {"".join(pair) for pair in pairs(model["merges"])}
    fallback = bool(model.get("byte_fallback"))
    return {
        token: id
        for token, id in vocabulary.items()
        if len(token) == 1 or token in made or (fallback and BYTE.fullmatch(token))
    }


def _spelling_of_bytes() -> Callable[[str], bytes]:
    byte_of = {character: byte for byte, character in byte_to_unicode().items()}
    return lambda token: bytes(byte_of[character] for character in token)


def _spelling_of_text(fallback: bool) -> Callable[[str], bytes]:
    def spell(token: str) -> bytes:
        byte = BYTE.fullmatch(token) if fallback else None
        return bytes([int(byte[1], 16)]) if byte else token.replace(SPACE, " ").encode()

    return spell


def _is_gpt2(stored: Mapping[str, Any], known: Mapping[int, bytes], ordinary: frozenset[int], end: int) -> bool:
    count, model = len(ordinary), stored["model"]
    if known.get(end) != END_OF_TEXT.encode() or end != count or sorted(known) != list(range(count + 1)):
        return False
    longer = [known[id] for id in sorted(ordinary) if len(known[id]) > 1]
    spell = _spelling_of_bytes()
    return (
        count - len(longer) == 256
        and _cuts_as_gpt2(stored)
        and not model.get("ignore_merges")
        and [spell("".join(pair)) for pair in pairs(model["merges"])] == longer
    )


def _cuts_as_gpt2(stored: Mapping[str, Any]) -> bool:
    cut = stored.get("pre_tokenizer") or {}
    plain = cut.get("type") == "ByteLevel" and cut.get("use_regex", True) and not cut.get("add_prefix_space")
    return bool(plain) and not parts_of(stored.get("normalizer"))


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


def _from_vocabulary(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """vocab.json, merges.txt and added_tokens.json as tokenizer.json."""
    lines = path.with_name("merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    vocabulary = _object(path)
    stored: dict[str, Any] = {"added_tokens": [], "model": {"type": "BPE", "vocab": vocabulary, "merges": merges}}
    reached = _reached(stored["model"], vocabulary, True)
    entries = sorted(dict(_added(path.parent, stored, config, vocabulary)).items())
    stored["added_tokens"] = [e for _, e in entries if is_mark(e["content"]) or e["content"] not in reached]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": stored["added_tokens"],
        "normalizer": None,
        "pre_tokenizer": BYTE_LEVEL,
        "post_processor": None,
        "decoder": BYTE_LEVEL,
        "model": stored["model"],
    }


def _added(
    folder: Path, stored: Mapping[str, Any], config: Mapping[str, Any], vocabulary: Mapping[str, int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Id and entry of each special or added token, from all the files that may name some."""
    named = {END_OF_TEXT}
    for key, value in config.items():
        values = value if key == "additional_special_tokens" and isinstance(value, list) else [value]
        named |= {content(each) for each in values if key.endswith(("_token", "_tokens"))} - {""}
    yield from ((vocabulary[token], added_token(token, vocabulary[token])) for token in named if token in vocabulary)
    for token, id in _object(folder / "added_tokens.json").items():
        yield id, added_token(token, id, special=token in named)
    for id, entry in (config.get("added_tokens_decoder") or {}).items():
        yield int(id), {**added_token(entry["content"], int(id)), **entry, "id": int(id)}
    for entry in stored.get("added_tokens") or []:
        yield entry["id"], {**added_token(entry["content"], entry["id"]), **entry}


def content(token: Any) -> str:
    """A special token is written as its text, or as an object that holds it."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def _end_of_text(
    folder: Path, config: Mapping[str, Any], ids: Mapping[str, int], added: Mapping[int, dict[str, Any]]
) -> int:
    """eos_token of the tokenizer's files; else eos_token_id of the model's, where that is a special token; else
    GPT-2's name for it."""
    named = content(config.get("eos_token"))
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
    bos, wanted = ids.get(content(config.get("bos_token"))), config.get("add_bos_token")
    if wanted is False:
        return None
    put = next(filter(None, map(_put_before, parts_of(stored.get("post_processor")))), "")
    return ids.get(put, bos if wanted else None)


def _put_before(processor: Mapping[str, Any]) -> str:
    """The special token that a post-processor puts before a single text; "" for none."""
    if processor["type"] in ("BertProcessing", "RobertaProcessing"):
        return str(processor["cls"][0])
    first: Mapping[str, Any] = next(iter(processor.get("single") or []), {})
    return str(first["SpecialToken"]["id"]) if "SpecialToken" in first else ""
