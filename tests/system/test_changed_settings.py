"""What a resumed run does with other settings: they are honoured, or refused before the weights are loaded."""

import json
import shutil
import warnings

import pytest
import yaml

from callbacks.final_checkpoint import FinalCheckpoint
from glmja import fit
from glmja.runs import manifest
from glmja.runs.trained_state import read_tensors
from glmja.twin import build as twin
from tests.commands.test_fit import refused, run_args
from tests.support.daily import drawn
from tests.support.programs.launch import run as launch
from tests.support.tiny_run import events, scalars

RATE = "model.init_args.optimizer.init_args.lr"
LEARNING_RATES = json.dumps(
    [
        {
            "class_path": "lightning.pytorch.callbacks.LearningRateMonitor",
            "init_args": {"logging_interval": "step"},
        }
    ]
)
SHORT = {"trainer.max_steps": 2, "trainer.limit_val_batches": 0, "trainer.callbacks": LEARNING_RATES}
LONG = SHORT | {"trainer.max_steps": 6}


@pytest.fixture(scope="module")
def finished(zero_dir, tmp_path_factory):
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("finished")
    fit.main(run_args(zero_dir, folder, **SHORT))
    return folder / "run"


@pytest.fixture
def resumed(finished, zero_dir, tmp_path, monkeypatch):
    """Returns the arguments that resume a copy of the run."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # Lightning leaves the seed of a run behind
    shutil.copytree(finished, tmp_path / "run")

    def arguments(*more, **changes):
        return [*run_args(zero_dir, tmp_path, **LONG | changes), "--ckpt_path=last", *more]

    return arguments


def rates(folder):
    tags = [tag for tag in events(folder).Tags()["scalars"] if tag.startswith("lr-")]
    return {tag: [*scalars(folder, tag).values()] for tag in tags}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({RATE: 1e-6}, "was saved with optimizer {'lr': 0.003}, this run has {'lr': 1e-06}; set the saved values"),
        (
            {"model.init_args.optimizer.init_args.weight_decay": 0.5},
            "optimizer {'weight_decay': 0.0}, this run has {'weight_decay': 0.5}",
        ),
        (
            {"model.init_args.optimizer": "{class_path: torch.optim.SGD, init_args: {lr: 0.003}}"},
            "'class': 'torch.optim.sgd.SGD'",
        ),
        (
            {"model.init_args.lr_scheduler": "torch.optim.lr_scheduler.CosineAnnealingLR"},
            "was saved with schedule {'class': 'lit_modules.schedules.WarmupCosine'",
        ),
        (
            {"model.init_args.lr_scheduler": "{class_path: lit_modules.WarmupCosine, init_args: {warmup: 0.5}}"},
            "was saved with schedule {'warmup': 0.1}, this run has {'warmup': 0.5}",
        ),
    ],
    ids=["rate", "decay", "class", "schedule", "warmup"],
)
def test_a_setting_that_a_resume_cannot_honour_is_refused_with_both_values(resumed, capsys, changes, message):
    line = refused(capsys, resumed(**changes))
    assert message in line
    assert "--resume_with_new_optimizer true to go on with the weights and a new optimizer" in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed_everything": 7}, "was saved with seed 0, this run has 7; the random states go on from the checkpoint"),
        ({"data.init_args.row_len": 64}, "was saved with data {'row_len': 128}, this run has {'row_len': 64}; take"),
        ({"data.init_args.seed": 5}, "'seed': 0"),
        ({"data.init_args.isolate_documents": "false"}, "data {'isolate': True}, this run has {'isolate': False}"),
        (
            {"trainer.accumulate_grad_batches": 2},
            "was saved with micro_batches_per_step 1, this run has 2; set --trainer.accumulate_grad_batches so that",
        ),
    ],
    ids=["seed", "row_len", "data seed", "isolation", "accumulation"],
)
def test_a_refused_resume_names_the_setting_with_both_values_and_another_way(
    resumed, tmp_path, capsys, changes, message
):
    line = refused(capsys, resumed(**changes))
    assert message in line
    last = tmp_path / "run" / "checkpoints" / "step=2.ckpt"
    assert line.endswith(f"or start a new run from it with --init_from {last} and another --run_dir")


def test_a_new_optimizer_on_purpose_gets_its_rate_and_the_rest_of_the_run(resumed, finished, tmp_path, caplog):
    changes = {"model.init_args.optimizer": "{class_path: torch.optim.SGD, init_args: {lr: 0.01}}"}
    trainer = fit.main(resumed("--resume_with_new_optimizer=true", **changes))
    assert trainer.global_step == 6
    assert rates(tmp_path / "run")["lr-SGD"] == pytest.approx(
        [0.01 * x for x in (1, 0.853553, 0.5, 0.146447)], rel=1e-4
    )  # a schedule of the four steps that are left
    assert "step 2: new optimizer and schedule; the learning rate begins at 0.01" in caplog.text
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["resume_with_new_optimizer"] is False
    assert saved["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.01
    identity = manifest.read(manifest.newest(tmp_path / "run" / "checkpoints")).identity
    assert identity.optimizer["class"] == "torch.optim.sgd.SGD"
    assert identity.schedule_start == 2
    fit.main(resumed(**changes | {"trainer.max_steps": 8}))  # no need to say it again
    assert rates(tmp_path / "run")["lr-SGD"][4:] == pytest.approx([0.003455, 0.000955], rel=1e-3)


def test_a_lengthened_finished_run_follows_the_schedule_of_the_longer_run(resumed, zero_dir, tmp_path, caplog):
    fit.main(resumed())
    lengthened = rates(tmp_path / "run")["lr-AdamW"]
    (tmp_path / "whole").mkdir()
    fit.main(run_args(zero_dir, tmp_path / "whole", **LONG))
    assert lengthened[2:] == rates(tmp_path / "whole" / "run")["lr-AdamW"][2:]
    assert "step 2: the length of the run has changed; the learning rate goes on at 0.002" in caplog.text


SCHEDULES = [
    ("torch.optim.lr_scheduler.CosineAnnealingLR",),
    ("{class_path: torch.optim.lr_scheduler.OneCycleLR, init_args: {max_lr: 0.01}}",),
]


@pytest.mark.parametrize(("schedule",), drawn("longer schedules", SCHEDULES, 1))
def test_a_schedule_of_torch_follows_the_longer_run_as_well(zero_dir, tmp_path, schedule):
    changes = {"model.init_args.lr_scheduler": schedule}
    fit.main(run_args(zero_dir, tmp_path, **SHORT | changes))
    fit.main([*run_args(zero_dir, tmp_path, **LONG | changes), "--ckpt_path=last"])
    (tmp_path / "whole").mkdir()
    fit.main(run_args(zero_dir, tmp_path / "whole", **LONG | changes))
    assert rates(tmp_path / "run")["lr-AdamW"][2:] == rates(tmp_path / "whole" / "run")["lr-AdamW"][2:]


def test_a_checkpoint_that_does_not_record_its_optimizer_resumes_with_a_warning(resumed, tmp_path):
    path = manifest.newest(tmp_path / "run" / "checkpoints") / manifest.NAME
    content = json.loads(path.read_text())
    for name in ("optimizer", "schedule"):
        del content["facts"][name]
    path.write_text(json.dumps(content | {"sha256": manifest._seal(content)}))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert fit.main(resumed()).global_step == 6
    warned = " ".join(str(warning.message) for warning in seen)
    assert "does not record its optimizer and schedule: those of its state are used" in warned


def test_a_new_optimizer_needs_a_checkpoint_and_steps_that_are_left(resumed, zero_dir, tmp_path, capsys):
    line = refused(capsys, [*run_args(zero_dir, tmp_path / "x"), "--resume_with_new_optimizer=true"])
    assert "--resume_with_new_optimizer needs the checkpoint to resume from; add --ckpt_path last" in line
    line = refused(capsys, resumed("--resume_with_new_optimizer=true", **{"trainer.max_steps": 2}))
    assert "no step is left for a new optimizer; raise --trainer.max_steps" in line


def test_a_resume_with_fewer_steps_than_the_checkpoint_has_is_refused(resumed, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lit_modules.base.load_model", None)
    line = refused(capsys, resumed(**{"trainer.max_steps": 1}))
    assert "the run has 1 steps, and its checkpoint is of step 2: no step is left; raise --trainer.max_steps" in line
    assert manifest.newest(tmp_path / "run" / "checkpoints").name == "step=2.ckpt"


def test_a_fast_dev_run_is_a_planned_run_that_leaves_nothing(zero_dir, tmp_path):
    changes = {"trainer.fast_dev_run": 2, "trainer.callbacks": LEARNING_RATES, "trainer.accumulate_grad_batches": 2}
    trainer = fit.main(run_args(zero_dir, tmp_path, **changes))
    assert trainer.global_step == 2
    assert trainer.num_training_batches == 4
    assert trainer.num_val_batches == [2, 2, 1]
    assert not any(isinstance(callback, FinalCheckpoint) for callback in trainer.callbacks)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer.limit_train_batches": 1}, "trainer.limit_train_batches is 1, which contradicts the plan"),
        ({"trainer.overfit_batches": 1}, "trainer.overfit_batches is 1, which contradicts the plan"),
        ({"trainer.strategy": "deepspeed_stage_2"}, "--trainer.strategy deepspeed_stage_2: Lightning's DeepSpeed"),
        ({"trainer.val_check_interval": 0}, "--trainer.val_check_interval (0) must be positive"),
        ({"trainer.devices": -1}, "--trainer.devices (-1) must be a positive number on the CPU; set it to 1"),
        ({"trainer.accelerator": "tpu"}, "--trainer.accelerator tpu is not supported; set it to auto, cpu or gpu"),
        ({"trainer.strategy": "fsdp"}, "--trainer.strategy fsdp cannot save and resume a run"),
        ({"checkpoint.save_last": "true"}, "checkpoint.save_last (True) would overwrite a checkpoint"),
        ({"checkpoint.filename": "best"}, "checkpoint.filename (best) needs a {step}"),
        ({"checkpoint.save_weights_only": "true"}, "checkpoint.save_weights_only: the run could not be resumed"),
        ({"checkpoint.monitor": "val/loss"}, "nothing logs the monitor val/loss; logged are train/grad_norm, "),
        ({"model.init_args.optimizer": "torch.optim.LBFGS"}, "LBFGS computes the loss of a step several times"),
        ({"model.init_args.optimizer": "torch.optim.SparseAdam"}, "does not support dense gradients"),
        (
            {"model.init_args.lr_scheduler": "torch.optim.lr_scheduler.ReduceLROnPlateau"},
            "--model.lr_scheduler ReduceLROnPlateau: it waits for a metric",
        ),
        ({"model.init_args.lr_scheduler": "torch.optim.lr_scheduler.ExponentialLR"}, "are required: gamma"),
    ],
)
def test_what_cannot_work_is_refused_before_the_weights_are_loaded(
    zero_dir, tmp_path, capsys, monkeypatch, changes, message
):
    monkeypatch.setattr("lit_modules.base.load_model", None)
    assert message in refused(capsys, run_args(zero_dir, tmp_path, **changes))
    assert not (tmp_path / "run" / "config.yaml").exists()  # the corrected command may use the folder


@pytest.mark.slow
def test_a_new_optimizer_under_zero2_begins_empty(zero_dir, tmp_path):
    base = SHORT | {"trainer.strategy": '{"class_path": "lit_modules.ZeRO2"}'} | {"trainer.devices": 1}
    code, output = launch(tmp_path / "first", fit.main, run_args(zero_dir, tmp_path, **base))
    assert code == 0, output
    changes = base | {"trainer.max_steps": 6, RATE: 0.01}
    arguments = [*run_args(zero_dir, tmp_path, **changes), "--ckpt_path=last", "--resume_with_new_optimizer=true"]
    code, output = launch(tmp_path / "second", fit.main, arguments)
    assert code == 0, output
    assert rates(tmp_path / "run")["lr-AdamW"][-4:] == pytest.approx(
        [0.01 * x for x in (1, 0.853553, 0.5, 0.146447)], rel=1e-4
    )


def test_a_new_run_starts_with_the_weights_of_a_finished_one(finished, zero_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    other = json.dumps([{"name": "en", "lang": "en", "files": [str(twin.text_file("en"))]}])
    changes = LONG | {"data.init_args.sources": other, RATE: 1e-4, "model.init_args.lora.dropout": 0.1}
    trainer = fit.main([*run_args(zero_dir, tmp_path, **changes), f"--init_from={finished}"])
    assert trainer.global_step == 6
    path = manifest.newest(finished / "checkpoints")
    parent, child = manifest.read(path), manifest.read(manifest.newest(tmp_path / "run" / "checkpoints"))
    assert child.identity.parent == {"step": 2, "files": parent.fingerprint}
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["init_from"] == str(finished)
    before, after = (
        read_tensors(folder, saved)
        for folder, saved in ((path, parent), (tmp_path / "run" / "checkpoints" / "step=6.ckpt", child))
    )
    assert before.keys() == after.keys()
    moved = max((before[name].read_all() - after[name].read_all()).abs().max() for name in before)
    assert 0 < moved < 6.1e-4 * 2  # six steps of AdamW from the trained weights, with a rate of 1e-4
    # its own checkpoint is resumed, also if the parent is gone or not named again
    for more in ([], [f"--init_from={tmp_path / 'gone'}"], [f"--init_from={finished}"]):
        assert fit.main([*run_args(zero_dir, tmp_path, **changes), "--ckpt_path=last", *more]).global_step == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from": "gone"}, "--init_from gone: no such checkpoint: gone"),
        ({"model.init_args.lora.rank": 4}, "was saved with lora {'rank': 16}, this run has {'rank': 4}; set --model"),
        ({"model.init_args.embeddings": "frozen"}, "was saved with embeddings full, this run has frozen"),
        ({"ckpt_path": "last"}, "was saved with parent None, this run has {'step': 2, 'files': "),
    ],
    ids=["gone", "rank", "embeddings", "resumed"],
)
def test_weights_that_a_run_cannot_start_with_are_refused(
    resumed, finished, zero_dir, tmp_path, capsys, changes, message
):
    values = LONG | {"init_from": finished} | changes
    if "ckpt_path" not in changes:
        values["run_dir"] = tmp_path / "new"
    else:
        values["run_dir"] = tmp_path / "run"
    line = refused(capsys, run_args(zero_dir, tmp_path, **values))
    assert message in line
    assert not (tmp_path / "new").exists()
