"""One JSON object that holds all rows: under a key, as columns, or as pandas writes a table.

Here it is decided what such an object is. That needs no more of it than its keys and the first value of each list.

{"data": [{...}, ...], "version": 1}                      a list of rows under one key, whatever stands beside it
{"instruction": [...], "output": [...]}                   columns as lists of one length
{"instruction": {"0": ...}, "output": {"0": ...}}         pandas, orient="columns"
{"0": {"instruction": ...}, "1": {...}}                   pandas, orient="index"; rows by their ids
{"columns": [...], "index": [...], "data": [[...], ...]}  pandas, orient="split" or "tight"
{"schema": {...}, "data": [{...}, ...]}                   pandas, orient="table"
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ift.data.reading.names import FORMS, MESSAGES, ROLE_KEYS

TEXTS = frozenset(name for _, first, last in FORMS for name in (first, last))
# where an object holds objects, these tell names of columns from labels of rows
ROW_NAMES = TEXTS.union(
    MESSAGES, "text chosen rejected system context target reply human assistant bot gpt user content".split()
)
PARTS_OF_A_ROW = frozenset(("tools", "functions", "segments", "messages", "conversations", "images", "choices"))
INTEGER = re.compile(r"-?\d{1,18}")


class Ambiguous(ValueError):
    """An object that could be read in several ways: what it is, and what to do."""


def is_message(value: Any) -> bool:
    """Whether it is one message of a conversation and no row."""
    return isinstance(value, dict) and any(name in value for name in ROLE_KEYS) and not TEXTS & value.keys()


def is_list_of_rows(key: str, first: Any) -> bool:
    """Whether a list under this key holds rows, going by its first value."""
    return isinstance(first, dict) and bool(first) and key not in PARTS_OF_A_ROW and not is_message(first)


def is_row(members: Mapping[str, Any]) -> bool:
    """Whether an object is a row itself: it has texts, or a list of messages, as rows have them."""
    if sum(isinstance(value, str) and key.lower() in TEXTS for key, value in members.items()) > 1:
        return True
    talk = [members.get(key) for key in ("messages", "conversations")]
    if any(isinstance(value, list) and value and isinstance(value[0], str) for value in talk):
        return True
    return any(isinstance(value, list) and value and is_message(value[0]) for value in members.values())


def rows_of(value: dict[str, Any]) -> tuple[Iterator[Any], list[str]] | None:
    """The rows that an object holds and the keys beside them, or None if it is a row itself. Raises Ambiguous."""
    if is_row(value) or not value:
        return None
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):
        known = ("columns", "data", "index", "index_names", "column_names")
        return _split(value), [key for key in value if key not in known]
    lists = {key: inside for key, inside in value.items() if isinstance(inside, list)}
    holders = [key for key, inside in lists.items() if inside and is_list_of_rows(key, inside[0])]
    if len(holders) > 1:
        raise several(holders)
    if holders:
        return iter(lists[holders[0]]), [key for key in value if key != holders[0]]
    sizes = {len(inside) for inside in lists.values()}
    if len(lists) == len(value) > 1 and len(sizes) == 1 and 0 not in sizes:
        return _columns(value, range(sizes.pop())), []
    of_objects = all(isinstance(inside, dict) and inside for inside in value.values())
    if of_objects and (found := _of_objects(value)):
        return found
    empty = [key for key, inside in lists.items() if not inside]
    if empty and len(lists) == 1 and empty[0] not in PARTS_OF_A_ROW:
        return iter(()), [key for key in value if key != empty[0]]
    nameless = [key for key, inside in lists.items() if inside and isinstance(inside[0], list)]
    if nameless and len(lists) == 1 and nameless[0] not in PARTS_OF_A_ROW and nameless[0].lower() not in ROW_NAMES:
        raise Ambiguous(f'lists of values without names under "{nameless[0][:40]}" (write each row as an object)')
    if not any(isinstance(inside, str) and key.lower() in ROW_NAMES for key, inside in value.items()):
        for key, inside in value.items():
            for below, rows in inside.items() if isinstance(inside, dict) else ():
                if isinstance(rows, list) and rows and is_list_of_rows(below, rows[0]):
                    raise Ambiguous(
                        f'its rows under "{key[:40]}", in there under "{below[:40]}" (save that list alone)'
                    )
    return None


def several(keys: Sequence[str]) -> Ambiguous:
    named = ", ".join(f'"{key[:40]}"' for key in keys[:4])
    return Ambiguous(
        f"lists of rows under {len(keys)} keys: {named} (save each in a file of its own: train.json, test.json)"
    )


def _split(value: Mapping[str, Any]) -> Iterator[Any]:
    names, data = value["columns"], value["data"]
    index = value.get("index")
    if len(set(map(str, names))) < len(names):
        raise Ambiguous('a name stands twice in "columns" (rename one)')
    if any(not isinstance(values, list) or len(values) != len(names) for values in data):
        raise Ambiguous('rows under "data" that have not one value for each of "columns" (save the rows alone)')
    columns = {str(name): [values[place] for values in data] for place, name in enumerate(names)}
    labels = index if isinstance(index, list) and len(index) == len(data) else range(len(data))
    return _columns(columns, labels)


def _columns(columns: Mapping[str, Sequence[Any]], labels: Sequence[Any]) -> Iterator[Any]:
    """Rows of columns. Their labels come along as a column where they are more than 0, 1, 2, ..."""
    if "index" not in columns and [str(label) for label in labels] != [str(n) for n in range(len(labels))]:
        columns = {"index": labels, **columns}
    return (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))


def _of_objects(value: dict[str, dict[str, Any]]) -> tuple[Iterator[Any], list[str]] | None:
    """Rows of an object of objects: which level has the names of columns, the outer or the inner?"""
    inner = list(next(iter(value.values())))
    outer_is_names = any(key.lower() in ROW_NAMES for key in value)
    inner_is_names = any(key.lower() in ROW_NAMES for key in inner)
    same = all(each.keys() == value[next(iter(value))].keys() for each in value.values())
    if outer_is_names == inner_is_names:  # no name is known: labels are numbers, names are not
        outer_is_names = all(INTEGER.fullmatch(key) for key in inner)
        inner_is_names = all(INTEGER.fullmatch(key) for key in value)
    if inner_is_names and not outer_is_names:
        labels = list(value)
        numbered = labels == [str(n) for n in range(len(labels))]
        return (each if numbered or "index" in each else {"index": key, **each} for key, each in value.items()), []
    texts = len(value) > 1 and not any(
        isinstance(cell, dict | list) for each in value.values() for cell in each.values()
    )
    if outer_is_names and not inner_is_names and same and (texts or all(INTEGER.fullmatch(key) for key in inner)):
        return _columns({name: list(column.values()) for name, column in value.items()}, inner), []
    return None
