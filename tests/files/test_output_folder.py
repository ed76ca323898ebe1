import errno
from pathlib import Path

import pytest

from glmja.files.output_folder import atomic_output_folder, check_free


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_is_renamed_when_it_is_complete(tmp_path):
    with atomic_output_folder(tmp_path / "deep" / "out") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "deep" / "out").exists()
    assert names(tmp_path / "deep") == ["out"]
    assert (tmp_path / "deep" / "out" / "a").read_text() == "1"


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_output_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_the_replaced_folder_stays_until_the_new_one_is_complete(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").touch()
    with pytest.raises(RuntimeError), atomic_output_folder(tmp_path / "out", overwrite=True):
        raise RuntimeError
    assert names(tmp_path / "out") == ["config.json"]
    with atomic_output_folder(tmp_path / "out", overwrite=True) as folder:
        (folder / "scores.json").touch()
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["scores.json"]


def test_the_replaced_folder_is_restored_if_the_new_one_cannot_be_renamed(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").touch()
    rename = Path.rename

    def refuse(self, target):
        if ".partial-" in self.name:
            raise OSError(errno.EIO, "broken disk")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="broken disk"), atomic_output_folder(tmp_path / "out", overwrite=True):
        pass
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["config.json"]


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(FileExistsError, match=r"`output` .* exists and is not empty; set `overwrite` to replace"):
        check_free(tmp_path, overwrite=False)
    with pytest.raises(ValueError, match=r"`output` .*a is a file, not a folder"):
        check_free(tmp_path / "a", overwrite=True)


def test_too_small_a_disk_is_refused_before_anything_is_written(tmp_path):
    with (
        pytest.raises(OSError, match=r"1000000000.00 GB needed, but .* GB free"),
        atomic_output_folder(tmp_path / "out", needed_bytes=10**18),
    ):
        pass
    assert names(tmp_path) == []


def test_an_output_that_contains_an_input_is_refused(tmp_path):
    (tmp_path / "out" / "in").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"`output` .*out contains the input .*in and would replace it"):
        check_free(tmp_path / "out", overwrite=True, inputs=[tmp_path / "out" / "in"])
    check_free(tmp_path / "out" / "in", overwrite=True, inputs=[tmp_path / "out" / "other"])


def test_the_process_that_finishes_second_fails(tmp_path):
    with pytest.raises(FileExistsError), atomic_output_folder(tmp_path / "out") as slow:
        (slow / "slow").touch()
        with atomic_output_folder(tmp_path / "out") as fast:
            (fast / "fast").touch()
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["fast"]


def test_the_working_directory_is_no_output(tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    for output in (".", "..", tmp_path):
        with pytest.raises(ValueError, match=r"`output` \S+ is or contains the working directory; choose a new folder"):
            check_free(output, overwrite=True)


def test_a_folder_of_other_files_is_never_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    for name in "abcd":
        (tmp_path / "out" / name).touch()
    refusal = r"`output` \S+out holds no result of glmja that could be replaced \(a, b, c, …\); choose another folder"
    with pytest.raises(FileExistsError, match=refusal), atomic_output_folder(tmp_path / "out", overwrite=True):
        pass
    assert names(tmp_path / "out") == ["a", "b", "c", "d"]
    check_free(tmp_path / "out", overwrite=True, keeps_others=True)
    (tmp_path / "out" / "scores.json").touch()
    check_free(tmp_path / "out", overwrite=True)
