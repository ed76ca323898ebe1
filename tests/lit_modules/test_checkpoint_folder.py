import pickle
import resource

import pytest
import torch

from glmja.runs import manifest
from glmja.runs.identity import RunIdentity
from lit_modules.checkpoint_folder import STATE, CheckpointFolders

CHECKPOINT = {
    "global_step": 6,
    "state_dict": {"weight": torch.arange(1000.0)},
    "callbacks": {"ModelCheckpoint": {"best_model_path": "x"}},
    manifest.IDENTITY_KEY: {"world_size": 1},
}


@pytest.fixture
def saved(tmp_path):
    CheckpointFolders().save_checkpoint(CHECKPOINT, tmp_path / "step=6.ckpt")
    return tmp_path / "step=6.ckpt"


def test_a_checkpoint_is_loaded_as_it_was_saved(saved):
    loaded = CheckpointFolders().load_checkpoint(saved)
    assert torch.equal(loaded.pop("state_dict")["weight"], CHECKPOINT["state_dict"]["weight"])
    assert loaded == {key: value for key, value in CHECKPOINT.items() if key != "state_dict"}
    assert manifest.read(saved) == manifest.Manifest(6, RunIdentity(world_size=1), manifest.read(saved).files)
    assert {path.name for path in saved.iterdir()} == {STATE, manifest.NAME}


def test_on_a_full_disk_earlier_checkpoints_stay_complete(saved, tmp_path):
    large = CHECKPOINT | {"global_step": 7, "state_dict": {"weight": torch.zeros(100_000)}}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"step=7.ckpt could not be written; is the disk full\? Earlier"):
            CheckpointFolders().save_checkpoint(large, tmp_path / "step=7.ckpt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert manifest.newest(tmp_path) == saved
    CheckpointFolders().save_checkpoint(large, tmp_path / "step=7.ckpt")
    assert {path.name for path in tmp_path.iterdir()} == {"step=6.ckpt", "step=7.ckpt"}


def test_a_checkpoint_without_an_identity_is_loaded(tmp_path):
    CheckpointFolders().save_checkpoint({"global_step": 1}, tmp_path / "step=1.ckpt")
    assert manifest.read(tmp_path / "step=1.ckpt").identity == RunIdentity()


def test_a_flipped_bit_that_torch_does_not_detect_is_refused(saved):
    path = saved / STATE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert not torch.equal(torch.load(path)["state_dict"]["weight"], CHECKPOINT["state_dict"]["weight"])
    with pytest.raises(ValueError, match=r"step=6.ckpt/state.ckpt is damaged: its content is not what was saved"):
        CheckpointFolders().load_checkpoint(saved)


class NeedsCode:
    def __reduce__(self):
        return print, ("ran",)


def test_code_is_not_run(tmp_path, capsys):
    CheckpointFolders().save_checkpoint({"global_step": 1, "a": NeedsCode()}, tmp_path / "step=1.ckpt")
    with pytest.raises(ValueError, match=r"step=1.ckpt/state.ckpt holds code; it was not loaded"):
        CheckpointFolders().load_checkpoint(tmp_path / "step=1.ckpt", weights_only=None)
    assert "ran" not in capsys.readouterr().out


def test_a_checkpoint_of_another_strategy_is_refused(tmp_path):
    final = tmp_path / "step=6.ckpt"
    manifest.begin(final).joinpath("latest").write_text("checkpoint")
    manifest.complete(manifest.partial_folder(final), final, 6, RunIdentity())
    with pytest.raises(ValueError, match=r"step=6.ckpt holds no state.ckpt: another strategy saved it"):
        CheckpointFolders().load_checkpoint(final)


def test_a_failed_save_leaves_no_checkpoint(tmp_path):
    with pytest.raises((AttributeError, pickle.PicklingError), match=r"(?i)can't (get|pickle)"):
        CheckpointFolders().save_checkpoint({"global_step": 1, "a": lambda: None}, tmp_path / "step=1.ckpt")
    with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
        manifest.newest(tmp_path)


def test_a_removed_checkpoint_leaves_no_file(saved):
    CheckpointFolders().remove_checkpoint(saved)
    assert not list(saved.parent.iterdir())
