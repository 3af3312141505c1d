"""Arrow's two formats and Parquet: rows come out as they went in, NaN as nothing, and what is cut off is said to be."""

import io
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ift.data.reading.containers import read_records
from ift.errors import DataError, MachineError

ROWS = [{"instruction": f"Say {i}", "input": None, "tools": [{"name": "x", "arguments": None}]} for i in range(5)]


def packed(rows, new, **options):
    sink, table = io.BytesIO(), pa.Table.from_pylist(rows)
    with new(sink, table.schema, **options) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue()


STREAM, FILE = packed(ROWS, pa.ipc.new_stream), packed(ROWS, pa.ipc.new_file)


@pytest.mark.parametrize(
    "content",
    [STREAM, FILE, packed(ROWS, pa.ipc.new_file, options=pa.ipc.IpcWriteOptions(compression="lz4"))],
    ids=["stream", "file", "Feather"],
)
def test_rows_of_arrow_come_out_as_they_went_in(write, content):
    path, used = write("a", content), []
    assert list(read_records(path, used.append)) == list(enumerate(ROWS, start=1))
    assert sum(used) == path.stat().st_size


@pytest.mark.parametrize("cut", [1, 8, 30, 150])
def test_a_cut_is_seen_wherever_it_is_also_between_two_batches(write, cut):
    for content in (STREAM, FILE):
        with pytest.raises(DataError, match=r"broken Arrow: .* \(was it cut off\?\)$"):
            list(read_records(write("a.arrow", content[:-cut])))


def test_no_rows_are_an_error(write):
    with pytest.raises(DataError, match=r"no rows \(it has columns, and nothing in them\)"):
        list(read_records(write("a.arrow", packed([{"a": "b"}], pa.ipc.new_stream)[:-8] and _empty())))


def _empty():
    sink, schema = io.BytesIO(), pa.schema([("a", pa.string())])
    with pa.ipc.new_stream(sink, schema):
        pass
    return sink.getvalue()


def test_nan_in_a_table_of_numbers_is_nothing(write):
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"a": "x", "score": float("nan"), "n": {"m": [float("nan"), 1.5]}}]), sink)
    assert list(read_records(write("a.parquet", sink.getvalue()))) == [
        (1, {"a": "x", "score": None, "n": {"m": [None, 1.5]}})
    ]


def test_arrow_without_its_package_says_what_to_install(write, monkeypatch):
    path = write("a.arrow", STREAM)
    monkeypatch.setitem(sys.modules, "pyarrow.ipc", None)
    with pytest.raises(MachineError, match=r'pyarrow \(pip install "ift\[parquet\]"\)'):
        list(read_records(path))
