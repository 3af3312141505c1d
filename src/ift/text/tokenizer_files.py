"""Which tokenizer a model folder brings along: tokenizer.json, or vocab.json and merges.txt with added_tokens.json."""

from __future__ import annotations

from pathlib import Path

from ift.errors import WeightsError
from ift.text.folder_tokenizer import FolderTokenizer
from ift.text.published import read_published

OTHER_KINDS = {  # files of tokenizers that are not read themselves
    "spiece.model": "SentencePiece",
    "tokenizer.model": "SentencePiece",
    "sentencepiece.bpe.model": "SentencePiece",
    "vocab.txt": "WordPiece",
}
FILES = (  # what is fetched of a model on the Hub to read its tokenizer, or to say what it is
    "tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json",
    "tokenizer_config.json", *OTHER_KINDS,
)  # fmt: skip
ADVICE = {
    "SentencePiece": "its tokenizer.json is read: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) of "
    "transformers, with sentencepiece, writes one",
    "WordPiece": "models that write text have none",
}


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("tokenizer.json", "vocab.json", *OTHER_KINDS))


def read_tokenizer(folder: Path) -> FolderTokenizer:
    """Raises WeightsError where there is none, or none that gives each text back as it was."""
    path = next((p for p in (folder / "tokenizer.json", folder / "vocab.json") if p.exists()), None)
    if path is None:
        for name, kind in OTHER_KINDS.items():
            if (folder / name).exists():
                raise WeightsError(f"{folder / name}: a {kind} vocabulary without tokenizer.json ({ADVICE[kind]})")
        raise WeightsError(f"{folder}/tokenizer.json: no such file (a model folder needs its tokenizer)")
    try:
        return FolderTokenizer(read_published(path))
    except WeightsError:
        raise
    except Exception as error:  # of a file that is anything; the library raises plain Exceptions
        raise WeightsError(f"{path}: not a tokenizer that can be read: {type(error).__name__} {error}") from error
