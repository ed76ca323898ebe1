import bz2
import gzip
import json
import logging
import lzma
import shutil

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict

from glmja.files.documents import check_document_files, read_documents
from glmja.files.input_files import (
    CONVERSATION_KINDS,
    check_is_data,
    find_files,
)
from glmja.files.records import check_record_files

TEXTS = ["一つ目。", 'two, "quoted"\nlines', "三つ目"]
LINES = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in TEXTS).encode()
CSV = 'text,id\n一つ目。,1\n"two, ""quoted""\nlines",2\n\n三つ目,3\n'.encode()
PRETTY = json.dumps([{"text": text} for text in TEXTS], ensure_ascii=False, indent=1).encode()
OBJECTS = b"\n".join(json.dumps({"text": text}, indent=2).encode() for text in TEXTS)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4665a5ea423c2713d436b5ee50593a96\nsize 12345\n"


def zstd(content):
    return pyarrow.Codec("zstd").compress(content, asbytes=True)


PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstd, ".bz2": bz2.compress, ".xz": lzma.compress}


def table(kind):
    rows = pyarrow.table({"text": TEXTS, "id": [1, 2, 3]})
    sink = pyarrow.BufferOutputStream()
    if kind == "parquet":
        pyarrow.parquet.write_table(rows, sink)
    else:
        writer = pyarrow.ipc.new_file if kind == "arrow file" else pyarrow.ipc.new_stream
        with writer(sink, rows.schema) as out:
            out.write_table(rows)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.json", LINES),
        ("a.jsonl", b"\xef\xbb\xbf" + LINES),
        ("array.json", PRETTY),
        ("array.jsonl", PRETTY),
        ("array.json", b"\xef\xbb\xbf" + PRETTY),
        ("one_line.jsonl", json.dumps([{"text": text} for text in TEXTS]).encode()),
        ("objects.json", OBJECTS),
        ("objects.jsonl", b"\xef\xbb\xbf\n" + OBJECTS),
        ("comma.json", b"[\n" + b"".join(line + b",\n" for line in LINES.splitlines()) + b"]\n"),
        ("a.csv", CSV),
        ("a.CSV", b"\xef\xbb\xbf" + CSV.replace(b"\n", b"\r\n").replace(b'""\r\n', b'""\n')),
        ("part-00000", LINES),
    ],
)  # fmt: skip
def test_every_kind_of_file_and_compression_gives_the_same_documents(tmp_path, name, content, packed):
    path = tmp_path / f"{name}{packed}"
    path.write_bytes(PACK[packed](content))
    assert [text.replace("\r", "") for text in read_documents([path])] == TEXTS
    assert [file.path for file in check_document_files([path])] == [path]


@pytest.mark.parametrize("kind", ["parquet", "arrow file", "arrow stream"])
def test_tables_give_their_column_with_any_suffix_or_none(tmp_path, kind):
    names = ["a.parquet" if kind == "parquet" else "a.arrow", "part-00000"]
    for name in names[: 2 if kind != "arrow stream" else 1]:
        (tmp_path / name).write_bytes(table(kind))
        assert list(read_documents([tmp_path / name])) == TEXTS


def test_a_folder_and_a_pattern_are_their_sorted_files(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    hidden = (".git/x.txt", "_SUCCESS", "dataset_infos.json")
    for name in ("b.jsonl", "sub/a.txt.gz", "a.jsonl", "README.md", "LICENSE", *hidden):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(gzip.compress(b"x") if name.endswith("gz") else LINES)
    names = [file.path.relative_to(tmp_path).as_posix() for file in find_files([tmp_path])]
    assert names == ["a.jsonl", "b.jsonl", "sub/a.txt.gz"]
    assert (
        f"{tmp_path}: 3 files" in caplog.text and "2 files are of other kinds and left out, as LICENSE" in caplog.text
    )
    assert [file.path.name for file in find_files([f"{tmp_path}/*.jsonl"])] == ["a.jsonl", "b.jsonl"]
    assert len(find_files([f"{tmp_path}/**/*.jsonl", tmp_path / "a.jsonl"])) == 3
    assert [file.path.name for file in find_files([tmp_path], CONVERSATION_KINDS)] == ["a.jsonl", "b.jsonl"]


def test_a_home_folder_and_variables_expand(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_bytes(LINES)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_files(["~/a.jsonl", "$HOME/*.jsonl"])[0].path == find_files([tmp_path])[0].path


def test_wikiextractor_s_files_have_a_document_between_marks(tmp_path):
    wiki = '<doc id="1" url="https://x" title="日本">\n日本\n\n日本は国。\n</doc>\n<doc id="2" title="a">\nb\n</doc>\n'
    for name in ("wiki_00", "wiki_01.bz2", "w.txt"):
        (tmp_path / name).write_bytes(PACK[".bz2" if "bz2" in name else ""](wiki.encode()))
        assert list(read_documents([tmp_path / name])) == ["日本\n\n日本は国。", "b"]
    (tmp_path / "wiki_00").write_text(wiki + "more")
    with pytest.raises(ValueError, match=r"wiki_00:9: text outside of <doc …> and </doc>"):
        list(read_documents([tmp_path / "wiki_00"]))
    (tmp_path / "wiki_00").write_text(wiki[:-8])
    with pytest.raises(ValueError, match=r"wiki_00: the last document has no </doc>; the file is not complete"):
        list(read_documents([tmp_path / "wiki_00"]))


def test_a_book_is_one_document(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeff一行目\r\n\r\n二行目\r\n".encode())
    (file,) = check_document_files([tmp_path / "a.txt"], whole_texts=True)
    assert list(read_documents([file])) == ["一行目\n\n二行目\n"]
    (tmp_path / "b.jsonl").write_bytes(LINES)
    with pytest.raises(ValueError, match=r"b.jsonl: only a text file can be one document as a whole; this is a json"):
        find_files([tmp_path / "b.jsonl"], whole_texts=True)


def test_a_saved_dataset_is_read_in_its_order(tmp_path):
    dataset = Dataset.from_dict({"text": TEXTS * 5})
    dataset.save_to_disk(tmp_path / "saved", num_shards=3)
    assert list(read_documents([tmp_path / "saved"])) == TEXTS * 5
    DatasetDict({"train": dataset, "test": dataset}).save_to_disk(tmp_path / "both")
    with pytest.raises(ValueError, match=r"both has the splits train, test; name one of them, as in .*both/train"):
        find_files([tmp_path / "both"])
    assert list(read_documents([tmp_path / "both" / "test"])) == TEXTS * 5


def test_a_key_may_be_nested_or_one_file_s_own_and_null_is_skipped(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    rows = [{"translation": {"ja": "一", "zh": "y"}}, {"translation": None}, {"translation": {"ja": None, "zh": None}}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "b.parquet")
    for name in ("a.jsonl", "b.parquet"):
        assert list(read_documents([tmp_path / name], "translation.ja")) == ["一"]
    assert "2 of 3 records are null, empty or white space, and left out" in caplog.text
    (tmp_path / "c:d.jsonl").write_bytes(LINES)
    files = check_document_files([f"{tmp_path}/a.jsonl:translation.zh", f"{tmp_path}/c:d.jsonl"])
    assert list(read_documents(files)) == ["y", *TEXTS]
    with pytest.raises(ValueError, match=r"a.jsonl:1: no key 'translation.en' \(found: \['ja', 'zh'\]\); rename"):
        check_document_files([f"{tmp_path}/a.jsonl:translation.en"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", LFS, r"a.parquet: a Git LFS pointer, not the file itself; run .* `git lfs pull`"),
        ("a.jsonl.gz", LFS, r"a.jsonl.gz: a Git LFS pointer"),
        ("a.txt", LFS, r"a.txt: a Git LFS pointer"),
        ("a.json", b"\n<!DOCTYPE html>\n<html>", r"a.json: a web page or the message of a server, not data"),
        ("a.txt", b"<html><head>", r"a.txt: a web page"),
        ("a.jsonl", b"Entry not found", r"\(it begins with 'Entry not found'\); download the file itself"),
        ("a.csv", b"404: Not Found", r"a.csv: a web page or the message of a server"),
        ("a.txt", b"Access to dataset x/y is restricted. You must be authenticated.", r"a.txt: a web page"),
        ("a.xml.json", b"<?xml version='1.0'?>\n<Error><Code>NoSuchKey</Code></Error>", r"a.xml.json: a web page"),
        ("a.zip", b"PK\x03\x04", r"a.zip: unknown kind of file; unpack it, or known are .txt"),
        ("a.tar.gz", gzip.compress(b"x"), r"a.tar.gz: unknown kind of file; unpack it, or"),
        ("a.parquet.gz", gzip.compress(table("parquet")), r"a.parquet.gz: a parquet file within .gz; unpack it"),
        ("a.arrow", b"x", r"a.arrow: not an Arrow file"),
        ("a.arrow", table("arrow stream")[:-300], r"a.arrow: (damaged Arrow file after row 0|not an Arrow file)"),
        ("a.csv", b"text,text\n1,2\n", r"a.csv: a column occurs twice in the header \(text, text\)"),
        ("a.csv", b"id,text\n1\n", r"a.csv:2: 1 cells, but the header has 2"),
        ("a.csv", b'text\n"a\nb\n', r"a.csv:3: not CSV \(unexpected end of data\)"),
        ("a.csv", b"id\n1\n", r"a.csv: row 1: no key 'text' \(found: \['id'\]\)"),
        ("a.json", b'[{"text": "a"}\n{"text": "b"}]', r"a.json:2: not JSON \(Expecting ',' or '\]' at column 1\)"),
        ("a.json", b'[{"text": "a"}', r"a.json:1: not JSON \(Expecting ',' or '\]' at column 15\)"),
        ("a.json", b'[{"text": "a"}]\n[]', r"a.json:2: not JSON \(Extra data after the array at column 1\)"),
        ("a.json", b'{\n"text": "a",\n"b": tru}', r"a.json:3: not JSON \(Expecting value at column 6\)"),
        ("a.json", b'{\n"text": "a\n"}', r"a.json:2: not JSON \(Invalid control character at at column 11\)"),
        ("a.jsonl.zst", zstd(LINES)[:-9], r"a.jsonl.zst:\d: damaged zstd file"),
        ("a.jsonl.bz2", bz2.compress(LINES)[:-9], r"a.jsonl.bz2:\d: damaged bzip2 file"),
        ("a.jsonl.xz", lzma.compress(LINES)[:-9], r"a.jsonl.xz:\d: damaged xz file"),
        ("array.json.xz", lzma.compress(PRETTY)[:-9], r"array.json.xz:\d+: damaged xz file"),
    ],
)  # fmt: skip
def test_files_that_are_not_data_are_recognized_and_the_error_names_the_remedy(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_documents([tmp_path / name]))


def test_a_pattern_or_folder_without_data_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file matches .*/\*.jsonl"):
        find_files([f"{tmp_path}/*.jsonl"])
    (tmp_path / "README.md").touch()
    with pytest.raises(ValueError, match=r"no data in this folder; known are .txt, .jsonl"):
        find_files([tmp_path])
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=r"a.txt: unknown kind of file \(text\); known are .jsonl, .json, .csv"):
        check_record_files([tmp_path / "a.txt"], CONVERSATION_KINDS)


def test_the_check_for_any_file_passes_other_files(tmp_path):
    shutil.copy(__file__, tmp_path / "a")
    check_is_data(tmp_path / "a")


def test_the_first_record_of_each_file_is_checked_before_the_long_work(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINES + b"{")
    (tmp_path / "b.jsonl").write_text('{"body": "x"}\n')
    check_document_files([tmp_path / "a.jsonl"])
    with pytest.raises(ValueError, match=r"b.jsonl:1: no key 'text'"):
        check_document_files([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])


def test_an_empty_path_is_no_file():
    with pytest.raises(ValueError, match="the path of a file is empty, perhaps from an unset variable of the shell"):
        find_files([""])
