import logging
import os
import shutil

import pytest

from glmja.errors import ModelError
from glmja.runs import manifest
from glmja.runs.identity import RunIdentity
from tests.support.damages import empty, flip, truncate

SINGLE = ("state.ckpt",)
ZERO = (
    "latest",
    "checkpoint/mp_rank_00_model_states.pt",
    "checkpoint/zero_pp_rank_0_mp_rank_00_optim_states.pt",
    "checkpoint/zero_pp_rank_1_mp_rank_00_optim_states.pt",
)
IDENTITY = RunIdentity.from_json({
    "world_size": 2, "precision": "bf16-mixed", "strategy": "ZeRO2", "base": "1f3a", "tokenizer": "77bc",
    "trainable": [["a.weight", [8, 8]], ["b.weight", [8, 8]]],
})  # fmt: skip


def save(parent, step, names=ZERO, identity=IDENTITY):
    final = parent / f"step={step}.ckpt"
    partial = manifest.begin(final)
    for name in names:
        (partial / name).parent.mkdir(exist_ok=True)
        (partial / name).write_bytes(f"{name} of step {step:03}".encode() * 100)
    manifest.complete(partial, final, step, identity)
    return final


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    final = save(tmp_path / "checkpoints", 6)
    read = manifest.read(final)
    assert (read.step, read.identity) == (6, IDENTITY)
    assert sorted(read.files) == sorted(ZERO)
    assert read.files["latest"]["bytes"] == (final / "latest").stat().st_size
    assert [path.name for path in final.parent.iterdir()] == ["step=6.ckpt"]


def test_a_checkpoint_is_never_overwritten(tmp_path):
    final = save(tmp_path, 6)
    with pytest.raises(FileExistsError, match=r"step=6\.ckpt exists; a checkpoint is never overwritten"):
        manifest.begin(final)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(FileExistsError, match="never overwritten"):
        manifest.complete(other, final, 6, RunIdentity())
    assert manifest.read(final).identity == IDENTITY


def test_a_save_removes_the_remains_of_killed_saves(tmp_path):
    (manifest.begin(tmp_path / "step=3.ckpt") / "state.ckpt").write_text("half")
    save(tmp_path, 6)
    assert [path.name for path in tmp_path.iterdir()] == ["step=6.ckpt"]


def of_step_3(path):
    shutil.copy(str(path).replace("step=6", "step=3"), path)


DAMAGES = [
    (truncate, "{name} is damaged: [0-9]+ bytes, [0-9]+ were saved; use another checkpoint"),
    (empty, "{name} is damaged: 0 bytes, [0-9]+ were saved; use another checkpoint"),
    (os.remove, "{name} is missing; use another checkpoint"),
    (flip, "{name} is damaged: its content is not what was saved; use another checkpoint"),
    (of_step_3, "{name} is damaged: its content is not what was saved; use another checkpoint"),
]


@pytest.mark.parametrize(("names", "name"), [*((ZERO, name) for name in ZERO), (SINGLE, SINGLE[0])])
@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_a_damaged_checkpoint_is_refused_with_the_name_of_the_file_and_skipped(
    tmp_path, caplog, names, name, damage, message
):
    whole, damaged = save(tmp_path, 3, names), save(tmp_path, 6, names)
    assert manifest.newest(tmp_path) == damaged
    assert not caplog.records
    damage(damaged / name)
    with pytest.raises(ValueError, match="^[^\n]*step=6.ckpt/" + message.format(name=name) + "$"):
        manifest.read(damaged)
    assert manifest.newest(tmp_path) == whole
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"skipped a checkpoint: {damaged / name} is " in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing: the save was interrupted; use another checkpoint"),
        ("", "is damaged; use another checkpoint"),
        ("[]", "is damaged; use another checkpoint"),
        ('{"format": 2, "step": 6}', "is damaged; use another checkpoint"),
        (b"\xff\x00", "is damaged; use another checkpoint"),
        (
            '{"format": 1, "step": 6, "facts": {}, "files": {}}',
            "has format 1, not 2: another version of glmja saved it",
        ),
    ],
)
def test_a_checkpoint_without_a_valid_manifest_is_refused_and_skipped(tmp_path, caplog, content, message):
    whole, damaged = save(tmp_path, 3), save(tmp_path, 6)
    (damaged / manifest.NAME).unlink()
    if content is not None:
        (damaged / manifest.NAME).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=f"step=6.ckpt/manifest.json {message}"):
        manifest.read(damaged)
    assert manifest.newest(tmp_path) == whole
    assert len(caplog.records) == 1


def test_a_file_or_a_missing_path_is_refused_as_a_checkpoint(tmp_path):
    (tmp_path / "old.ckpt").write_text("weights")
    with pytest.raises(ValueError, match=r"old.ckpt is a file; a checkpoint is a folder"):
        manifest.read(tmp_path / "old.ckpt")
    with pytest.raises(FileNotFoundError, match=r"no such checkpoint: .*gone.ckpt"):
        manifest.read(tmp_path / "gone.ckpt")
    with pytest.raises(FileNotFoundError, match=r"no complete checkpoint in "):
        manifest.newest(tmp_path)


def test_a_path_beside_a_checkpoint_is_refused_with_the_one_to_give(tmp_path):
    parent = tmp_path / "checkpoints"
    for step in (9, 100, 20):
        save(parent, step)
    newest = parent / "step=100.ckpt"
    (newest / "checkpoint").mkdir(exist_ok=True)
    (newest / "checkpoint" / "x.pt").write_text("")
    for path, message in (
        (parent, f"holds checkpoints; give one of them, such as {newest}$"),
        (tmp_path, f"holds checkpoints; give one of them, such as {newest}$"),
        (newest / "manifest.json", f"is a file of a checkpoint; give its folder {newest}$"),
        (newest / "checkpoint" / "x.pt", f"is a file of a checkpoint; give its folder {newest}$"),
        (newest / "checkpoint", f"is a part of a checkpoint; give its folder {newest}$"),
    ):
        with pytest.raises(ModelError, match=message):
            manifest.read(path)
    with pytest.raises(FileNotFoundError, match=r"step=7.ckpt; there are step=9.ckpt, step=20.ckpt, step=100.ckpt$"):
        manifest.read(parent / "step=7.ckpt")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="model is a model folder, not a checkpoint"):
        manifest.read(model)


def test_the_newest_checkpoint_is_that_of_the_last_step_not_of_the_last_date(tmp_path, caplog):
    for step in (9, 10, 100, 20):
        save(tmp_path, step)
    (tmp_path / "last.ckpt").symlink_to(tmp_path / "step=20.ckpt")
    (manifest.begin(tmp_path / "step=101.ckpt") / "state.ckpt").write_text("half")
    assert manifest.newest(tmp_path) == tmp_path / "step=100.ckpt"
    partial = tmp_path / ".tmp-step=101.ckpt"
    assert [record.message for record in caplog.records] == [
        f"skipped {partial}: its save or its removal was interrupted"
    ]


def test_a_removal_renames_the_folder_first(tmp_path, monkeypatch):
    final = save(tmp_path, 6)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # killed before it
        manifest.remove(final)
    assert not final.exists()
    with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
        manifest.newest(tmp_path)
    manifest.remove(save(tmp_path, 7))
    assert not list(tmp_path.iterdir())
