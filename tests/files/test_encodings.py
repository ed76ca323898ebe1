import gzip
import subprocess

import pytest

from glmja.errors import DataError
from glmja.files.documents import read_documents
from glmja.files.encodings import check_utf8

KANA, WINDOWS, CHINESE = "これはテストです。\n", "①髙橋さんは来ました。～\n", "这是一个测试，我们的。\n"


@pytest.mark.parametrize(
    ("content", "found", "encoding"),
    [
        (KANA.encode("shift_jis"), r"not UTF-8 \(byte 0x82 at column 1\)", "SHIFT_JIS"),
        ((KANA + WINDOWS).encode("cp932"), r"not UTF-8", "CP932"),
        (WINDOWS.encode("cp932"), r"not UTF-8 \(byte 0x87 at column 1\)", "CP932"),
        (("漢字\n" + KANA).encode("cp932"), r"not UTF-8", "SHIFT_JIS"),
        (KANA.encode("euc_jp"), r"not UTF-8", "EUC-JP"),
        (KANA.encode("utf-16"), r"not UTF-8 \(byte 0xff at column 1\)", "UTF-16"),
        (CHINESE.encode("gb18030"), r"not UTF-8", "GB18030"),
        (KANA.encode("iso2022_jp"), r"ISO-2022-JP, not UTF-8 \(escape sequence at column 1\)", "ISO-2022-JP"),
        ((KANA + "①\n").encode("iso2022_jp_3"), r"ISO-2022-JP, not UTF-8", "ISO-2022-JP-3"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.json"])
def test_other_encodings_are_refused_with_a_command_that_works_on_the_file(tmp_path, content, found, encoding, name):
    text = content.decode(encoding.replace("-", "_").replace("ISO_", "iso"))
    if name == "a.json":  # an array
        text = f'[{{"text": "{text.strip()}"}}]'.replace("\n", " ")
        content = text.encode(encoding.replace("-", "_").replace("ISO_", "iso"))
        found = found.split(r" \(")[0]
    path = tmp_path / name
    path.write_bytes(gzip.compress(content * 50 if name != "a.json" else content) if name.endswith(".gz") else content)
    with pytest.raises(ValueError, match=rf"{name}:1: {found}.*iconv -f {encoding} -t UTF-8$"):
        list(read_documents([path]))
    unpacked = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else content
    done = subprocess.run(["iconv", "-f", encoding, "-t", "UTF-8"], input=unpacked, capture_output=True, check=True)
    assert text.strip().lstrip("\ufeff")[:9].encode() in done.stdout


def test_no_encoding_is_named_that_does_not_fit_the_whole_file(tmp_path):
    (tmp_path / "a.txt").write_bytes(KANA.encode("shift_jis") + KANA.encode())
    with pytest.raises(ValueError, match=r"a.txt:1: not UTF-8 .*; convert the file to UTF-8$"):
        list(read_documents([tmp_path / "a.txt"]))


def test_escape_sequences_of_terminals_are_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\x1b[31mred\x1b[0m\n\x1b(Bx")
    assert list(read_documents([tmp_path / "a.txt"])) == ["\x1b[31mred\x1b[0m", "\x1b(Bx"]


def test_a_character_that_the_end_of_a_file_cuts_is_named_with_its_line(tmp_path):
    (tmp_path / "a.json").write_bytes(b'[\n{"text": "' + "あ".encode()[:2])
    with pytest.raises(ValueError, match=r"a.json:2: not UTF-8"):
        list(read_documents([tmp_path / "a.json"]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"ab\n{KANA}".encode("cp932"), r"^x:6: not UTF-8 \(byte 0x82 at column 1\); convert it .*iconv -f SHIFT_JIS"),
        (f"ab\n{KANA}".encode("iso2022_jp"), r"^x:6: ISO-2022-JP, not UTF-8 .*iconv -f ISO-2022-JP -t UTF-8$"),
        (b"ab\xff", r"^x:5: not UTF-8 \(byte 0xff at column 3\); convert it to UTF-8$"),
    ],
)
def test_text_of_a_stream_is_checked_like_that_of_a_file(content, message):
    with pytest.raises(DataError, match=message):
        check_utf8("x", content.decode("utf-8", "surrogateescape"), 5)


@pytest.mark.parametrize("text", ["", "日本語\n", "\x1b[31mred", "\ud800"])
def test_other_text_of_a_stream_is_accepted(text):
    check_utf8("x", text)
