import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from glmja.files.documents import documents_of, read_document_chunks, read_documents

COMPRESSED = gzip.compress(
    b"".join(b'{"text": "%d"}\n' % i for i in range(999)), mtime=0
)  # equal in all processes, because it is part of test ids
DAMAGED = COMPRESSED[:12] + bytes([COMPRESSED[12] ^ 0xFF]) + COMPRESSED[13:]


def write(path, lines, opener=open):
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
    return path


TEXTS = ["一つ目。\n二行目。", "  two  ", "三つ目"]


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
def test_each_kind_of_file_gives_its_documents_in_order(tmp_path, kind):
    path = tmp_path / f"texts.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"body": TEXTS}), path)
    else:
        write(path, [json.dumps({"body": t}) for t in TEXTS], gzip.open if kind.endswith("gz") else open)
    assert list(read_documents([path], text_key="body", description="reading")) == TEXTS


def test_a_text_file_has_a_document_a_line(tmp_path):
    path = write(tmp_path / "a.txt", ["一つ目。", "", "  ", "二つ目。"])
    assert list(read_documents([path, path])) == ["一つ目。", "二つ目。"] * 2


def test_empty_documents_and_a_byte_order_mark_are_dropped(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('\ufeff{"text": "a"}\r\n{"text": "  "}\n\n{"text": "b"}', encoding="utf-8")
    assert list(read_documents([path])) == ["a", "b"]


@pytest.mark.parametrize("size", [1, 20, 1 << 18])
@pytest.mark.parametrize("kind", ["txt", "jsonl", "jsonl.gz", "parquet"])
def test_chunks_of_any_size_hold_every_unit_once_with_its_number(tmp_path, kind, size, monkeypatch):
    for module in ("chunks", "records"):
        monkeypatch.setattr(f"glmja.files.{module}.CHUNK_BYTES", size)
    path, texts = tmp_path / f"a.{kind}", [f"text {i}" for i in range(600)]
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)
    else:
        lines = texts if kind == "txt" else [json.dumps({"text": t}) for t in texts]
        write(path, lines, gzip.open if kind.endswith("gz") else open)
    chunks = list(read_document_chunks([path, path]))
    assert [text for chunk in chunks for text in documents_of(chunk)] == texts * 2
    assert [chunk.first + i for chunk in chunks for i in range(len(chunk.raw))] == [*range(1, 601)] * 2
    assert chunks[-1].done == path.stat().st_size or kind == "jsonl.gz"
    assert all(len(chunk.raw) == 1 for chunk in chunks) or size > 1


def test_documents_before_damage_are_read(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\nno json\n' + b"x" * 100_000)[:-20])
    documents = read_documents([path])
    assert next(documents) == "a"
    with pytest.raises(ValueError, match=r"a.jsonl.gz:2: not JSON"):
        next(documents)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": ', r"a.jsonl:2: not JSON"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"body": "b"}',
            r"a.jsonl:2: no key 'text' \(found: \['body'\]\); rename the key or set `text_key`",
        ),
        ("a.jsonl", b'["text"]', r"a.jsonl: row 1: no key 'text' \(found: str\)"),
        ("a.jsonl", b'{"text": 3}', r"a.jsonl:1: 'text' is not text but int"),
        ("a.txt", "日本\n日本".encode("shift_jis"), r"a.txt:1: not UTF-8 \(byte 0x93 at column 1\); convert the file"),
        ("a.txt", b"fine\n\xff\xfe", r"a.txt:2: not UTF-8 \(byte 0xff at column 1\)"),
        ("a.jsonl.gz", b"no gzip", r"a.jsonl.gz:1: damaged gzip file"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 9, mtime=0)[:-20], r"a.jsonl.gz:\d+: damaged gzip file"),
        ("a.jsonl.gz", DAMAGED, r"a.jsonl.gz:\d+: damaged gzip file"),
        (
            "a.jsonl",
            b'{"text": "a\\ud800"}',
            r"a.jsonl:1: character 2 is a lone surrogate, which is not a valid",
        ),
        ("a.parquet", b"no parquet", r"a.parquet: not a parquet file"),
        ("a.txt", b"", r"no text in .*a.txt"),
        ("a.jsonl", b'{"text": ""}', r"no text in .*a.jsonl"),
        ("a.pdf", b"", r"a.pdf: unknown kind of file; known are .txt, .jsonl, .json, .csv \(also with"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_documents([tmp_path / name]))


def test_a_bad_parquet_column_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"body": ["a", None]}), path)
    with pytest.raises(ValueError, match=r"a.parquet: no column 'text' \(found: \['body'\]\)"):
        list(read_documents([path]))


def test_a_parquet_text_that_is_not_utf8_is_named(tmp_path):
    values = pyarrow.Array.from_buffers(pyarrow.string(), 2, pyarrow.array([b"a", b"\xff"]).buffers())
    pyarrow.parquet.write_table(pyarrow.table({"text": values}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a.parquet: damaged parquet file after row 0 \('utf-8' codec"):
        list(read_documents([tmp_path / "a.parquet"]))


def test_a_parquet_column_of_bytes_is_refused_as_text(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": [b"a"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a.parquet: row 1: 'text' is not text but bytes"):
        list(read_documents([tmp_path / "a.parquet"]))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*gone.txt"):
        list(read_documents([tmp_path / "gone.txt"]))


def test_a_damaged_parquet_page_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [f"text {i}" * 50 for i in range(500)]}), path)
    content = bytearray(path.read_bytes())
    content[60:160] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a.parquet: damaged parquet file after row 0"):
        list(read_documents([path]))
