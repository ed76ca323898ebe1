import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from glmja.files.records import read_chunks, read_records, records_of

ROWS = [{"text": f"text {i}", "number": i} for i in range(600)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def written(folder, name):
    path = folder / name
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    else:
        content = json.dumps(ROWS).encode() if name.startswith("array") else LINES
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("size", [1, 100, 1 << 18])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "array.json", "a.parquet"])
def test_every_kind_of_file_gives_the_same_records_in_chunks_of_any_size(tmp_path, name, size, monkeypatch):
    for module in ("chunks", "records"):
        monkeypatch.setattr(f"glmja.files.{module}.CHUNK_BYTES", size)
    path = written(tmp_path, name)
    is_table = name in ("array.json", "a.parquet")
    places = [f"{path}: row {i}" if is_table else f"{path}:{i}" for i in range(1, 601)]
    chunks = list(read_chunks([path, path]))
    assert [pair for chunk in chunks for pair in records_of(chunk)] == list(zip(places, ROWS, strict=True)) * 2
    assert all(len(chunk.raw) == 1 for chunk in chunks) or size > 1
    done = [chunk.done for chunk in chunks[: len(chunks) // 2]]
    assert done == sorted(done) and done[-1] <= path.stat().st_size


def test_one_column_of_a_table_may_be_read(tmp_path):
    (chunk, *_) = read_chunks([written(tmp_path, "a.parquet")], column="number")
    assert chunk.raw[:2] == [{"number": 0}, {"number": 1}]


def test_a_line_of_text_is_a_record_as_it_is(tmp_path):
    (tmp_path / "a.txt").write_bytes('\ufeff{"a": 1}\r\n\n \u3000\n二\n'.encode())
    assert list(read_records([tmp_path / "a.txt"])) == [
        (f"{tmp_path}/a.txt:1", '{"a": 1}'),
        (f"{tmp_path}/a.txt:4", "二"),
    ]


def test_records_before_a_damaged_line_are_read(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{')
    found = read_records([tmp_path / "a.jsonl"])
    assert next(found)[1] == {"a": 1}
    with pytest.raises(ValueError, match=r"a.jsonl:2: not JSON \(Expecting property name .* at column 2\)"):
        next(found)
