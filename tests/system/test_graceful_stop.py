import os
import random
import signal
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.exact_resume import random_state, set_random_state
from callbacks.final_checkpoint import FinalCheckpoint
from glmja.runs import manifest
from glmja.runs.identity import RunIdentity
from lit_modules.checkpoint_folder import CheckpointFolders
from tests.support.daily import drawn, drawn_pairs
from tests.support.programs.toy_runs import check_same, newest, stop, train

STEPS_PER_EPOCH = 12  # for the toy on one device


def draw():
    return random.gauss(), np.random.normal(), torch.randn(1).item()


def test_random_states_are_restored_without_running_code(tmp_path):
    draw()
    torch.save(random_state(), tmp_path / "state")
    expected = [draw() for _ in range(3)]
    set_random_state(torch.load(tmp_path / "state", weights_only=True))
    assert [draw() for _ in range(3)] == expected


def test_a_run_that_is_stopped_resumed_and_extended_equals_an_uninterrupted_one(tmp_path):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    stopped = stop(os.killpg, folder=broken)
    end_of_epoch = (stopped // STEPS_PER_EPOCH + 1) * STEPS_PER_EPOCH
    ends = [end_of_epoch, end_of_epoch + 4, end_of_epoch + 7]
    runs = [{"folder": broken, "max_steps": end} for end in ends]
    code, output = train(*runs, {"folder": straight, "max_steps": ends[-1]})
    assert code == 0, output
    check_same(straight, broken, 1, [(0, stopped), (stopped, ends[0]), *pairwise(ends)])
    assert newest(broken).name == f"step={ends[-1]}.ckpt"


@pytest.mark.slow
@pytest.mark.parametrize("killed", [2, 3, 4, 11, 12, 13])
@pytest.mark.parametrize(("strategy", "ranks"), [("single", 1), ("ddp", 2)])
def test_a_run_may_be_killed_after_any_step(tmp_path, strategy, ranks, killed):
    straight, broken = ({"folder": tmp_path / x, "strategy": strategy, "ranks": ranks} for x in ("straight", "broken"))
    code, output = train(broken | {"kill_at": killed, "max_steps": 14})
    assert code == -signal.SIGKILL, output
    code, output = train(*(options | {"max_steps": 14} for options in (broken, straight)))
    assert code == 0, output
    check_same(straight["folder"], broken["folder"], ranks, [(0, killed), (killed // 3 * 3, None)])


SIGNALS = [(send, number) for send in (os.kill, os.killpg) for number in (signal.SIGTERM, signal.SIGUSR1)]


@pytest.mark.parametrize(
    ("strategy", "send", "number"), drawn_pairs("signals", ["single-1", "ddp-2", "zero2-1", "zero2-2"], SIGNALS)
)
def test_all_ranks_save_and_stop_whichever_process_gets_the_signal(tmp_path, strategy, send, number):
    strategy, ranks = strategy.split("-")[0], int(strategy[-1])
    options = {"folder": tmp_path / "broken", "strategy": strategy, "ranks": ranks}
    stopped = stop(send, number, **options)
    straight = options | {"folder": tmp_path / "straight", "max_steps": stopped + 3}
    code, output = train(options | {"max_steps": stopped + 3}, straight)
    assert code == 0, output
    check_same(straight["folder"], options["folder"], ranks, [(0, stopped), (stopped, None)])


@pytest.mark.parametrize(("strategy", "ranks"), drawn("ctrl-c", [("single", 1), ("ddp", 2), ("zero2", 2)], 1))
def test_ctrl_c_saves_and_stops_and_the_rest_equals_that_of_an_uninterrupted_run(tmp_path, strategy, ranks):
    options = {"folder": tmp_path / "broken", "strategy": strategy, "ranks": ranks}
    stopped = stop(os.killpg, signal.SIGINT, 130, **options)
    output = (tmp_path / "broken" / "output").read_text()
    assert output.count("saving after this optimizer step; Ctrl-C again stops at once, without saving") == 1
    straight = options | {"folder": tmp_path / "straight", "max_steps": stopped + 3}
    code, output = train(options | {"max_steps": stopped + 3}, straight)
    assert code == 0, output
    check_same(straight["folder"], options["folder"], ranks, [(0, stopped), (stopped, None)])


def test_a_run_keeps_save_top_k_checkpoints_however_often_it_is_stopped(tmp_path):
    options = {"folder": tmp_path / "run", "keep": 2}
    stopped = stop(os.kill, **options)
    last = (stopped // 3 + 3) * 3
    code, output = train(options | {"max_steps": last})
    assert code == 0, output
    names = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert names == {f"step={step}.ckpt" for step in (last - 3, last)}


class Resumed:
    """The attributes of a Trainer, resumed after three steps, that the callback depends on."""

    is_global_zero, global_step = True, 3

    def __init__(self, folder, *monitors):
        self.checkpoint_callbacks = [ModelCheckpoint(folder / name, monitor=name, mode="max") for name in monitors]
        self.ckpt_path, self.strategy = str(folder / "step" / "step=3.ckpt"), self

    def broadcast(self, value):
        return value

    def reduce_boolean_decision(self, decision, all):
        return decision

    def remove_checkpoint(self, path):
        manifest.remove(path)


def save_steps(folder, *steps):
    for step in steps:
        final = folder / f"step={step}.ckpt"
        manifest.begin(final)
        manifest.complete(manifest.partial_folder(final), final, step, RunIdentity())


@pytest.fixture
def own_signal_handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("own_signal_handlers")
@pytest.mark.parametrize("monitors", [("step", "loss"), ("loss", "step"), ("loss",)])
def test_a_resumed_run_may_remove_the_checkpoint_that_it_resumed_from(tmp_path, monitors):
    save_steps(tmp_path / "step", 1, 2, 3)
    trainer = Resumed(tmp_path, *monitors)
    resumed_from = trainer.ckpt_path
    FinalCheckpoint(str(tmp_path / "step")).on_train_start(trainer, None)
    for callback in trainer.checkpoint_callbacks:
        assert callback.best_k_models == ({resumed_from: 3} if callback.monitor == "step" else {})
        folder = Path(callback.dirpath)
        new = str(folder / "step=6.ckpt")
        assert callback._should_remove_checkpoint(trainer, str(folder / "step=3.ckpt"), new)
    left = {path.name for path in (tmp_path / "step").iterdir()}
    assert left == {"step=3.ckpt"} if "step" in monitors else {"step=1.ckpt", "step=2.ckpt", "step=3.ckpt"}


@pytest.mark.usefixtures("own_signal_handlers")
@pytest.mark.parametrize(("save_top_k", "left"), [(10, {1, 3}), (1, {1, 3}), (-1, {1, 2, 3})])
def test_a_resumed_run_keeps_the_checkpoints_of_another_callback_in_its_folder(tmp_path, save_top_k, left):
    save_steps(tmp_path / "step", 1, 2, 3)
    trainer = Resumed(tmp_path, "step", "step")
    milestones, own = trainer.checkpoint_callbacks
    milestones.save_top_k, milestones.best_k_models = save_top_k, {str(tmp_path / "step" / "step=1.ckpt"): 1}
    FinalCheckpoint(str(tmp_path / "step")).on_train_start(trainer, None)
    assert {path.name for path in (tmp_path / "step").iterdir()} == {f"step={step}.ckpt" for step in left}
    assert {Path(path).name for path in milestones.best_k_models} == {"step=1.ckpt"}
    assert own.best_k_models == ({} if save_top_k == -1 else {str(tmp_path / "step" / "step=3.ckpt"): 3})


def test_nothing_is_saved_twice_and_a_damaged_checkpoint_does_not_count(tmp_path):
    callback = FinalCheckpoint(str(tmp_path))
    final = tmp_path / "step=3.ckpt"
    assert callback._free_path(3) == final
    manifest.begin(final).joinpath("weights").write_text("3")
    manifest.complete(manifest.partial_folder(final), final, 3, RunIdentity())
    assert callback._free_path(3) is None
    (final / "weights").write_text("4")
    assert callback._free_path(3) == tmp_path / "step=3-v1.ckpt"


class Line(LightningModule):
    def __init__(self, error):
        super().__init__()
        self.layer, self.error, self.handlers = torch.nn.Linear(1, 1), error, None

    def training_step(self, batch, batch_idx):
        self.handlers = handlers()
        if self.error:
            raise RuntimeError("out of memory")
        return self.layer(batch).sum()

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.ones(4, 1, 1), batch_size=None)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def handlers():
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]


@pytest.mark.parametrize("error", [False, True])
def test_signal_handlers_are_restored_however_a_run_ends(tmp_path, error):
    before, module, callback = handlers(), Line(error), FinalCheckpoint(str(tmp_path))
    trainer = Trainer(
        accelerator="cpu", max_steps=2, logger=False, callbacks=[callback], plugins=[CheckpointFolders()],
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="out of memory") if error else nullcontext():
        trainer.fit(module)
    assert module.handlers == [callback._set_flag] * 2
    assert handlers() == before
    assert [path.name for path in tmp_path.iterdir()] == ([] if error else ["step=2.ckpt"])
