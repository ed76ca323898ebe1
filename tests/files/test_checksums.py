import hashlib

import pytest

from glmja.files.checksums import changed_files, sha256_of_file, write_checksums


def test_the_checksum_is_that_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256_of_file(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_missing_new_and_changed_files_are_found(tmp_path):
    for name in ("changed", "missing", "same"):
        (tmp_path / name).write_text(name)
    write_checksums(tmp_path)
    assert changed_files(tmp_path) == []
    (tmp_path / "changed").write_text("other")
    (tmp_path / "missing").unlink()
    (tmp_path / "new").touch()
    assert changed_files(tmp_path) == ["changed", "missing", "new"]


def test_a_folder_without_checksums_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no seal.json in"):
        changed_files(tmp_path)
