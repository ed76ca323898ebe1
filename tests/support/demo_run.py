"""Small runs of the demo recipes with the real command, each in its own folder."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from torch.utils._pytree import keystr, tree_flatten_with_path

from glmja import fit
from glmja.runs import manifest
from glmja.twin import build as twin
from tests.support.daily import of_the_day
from tests.support.programs.launch import run
from tests.support.recorder import records
from tests.support.shared import made_once

ROOT = Path(__file__).parents[2]
NUM_STEPS, ACCUMULATE, SAVE_EVERY = 7, 2, 2
RECIPES = ("demo_pretrain", "demo_sft", "retention")
NUM_BATCHES = NUM_STEPS * ACCUMULATE
TWO_RANKS = {"trainer.strategy": json.dumps({"class_path": "lit_modules.ZeRO2"}), "trainer.devices": 2}
GUARD = {"class_path": "callbacks.RetentionGuard", "init_args": {"languages": ["zh", "en"], "max_drift": 10.0}}
RETENTION = {"model.init_args.retention.languages": '["zh", "en"]', "model.init_args.gradient_checkpointing": True}
KINDS = {
    "one_rank": {},
    "zero2_fp32": TWO_RANKS,
    "zero2_bf16": TWO_RANKS | {"trainer.precision": "bf16-mixed"},
}
RECIPE_OF_THE_DAY = of_the_day("recipes").choice(RECIPES)


def args(zero_dir, folder, recipe, callback=None, **others):
    """Returns arguments of a run that validates within and after steps, samples chats, drops out and writes records."""
    config = "demo_sft" if recipe == "demo_sft" else "demo_pretrain"
    sources = {
        "demo_pretrain": [{"name": x, "lang": x, "files": [str(twin.text_file(x))]} for x in twin.LANGUAGES],
        "demo_sft": [{"name": "chats", "lang": "all", "files": [str(twin.text_file("conversations"))]}],
    }[config]
    values = {
        "config": ROOT / "configs" / f"{config}.yaml",
        "run_dir": folder / "run",
        "model.init_args.model_dir": zero_dir,
        "model.init_args.lora.rank": 16,
        "model.init_args.lora.dropout": 0.2,
        "model.init_args.optimizer.init_args.lr": 3e-3,
        "data.init_args.sources": json.dumps(sources),
        "data.init_args.cache_dir": zero_dir.parent / "cache",
        "data.init_args.row_len": 128,
        "data.init_args.num_workers": 0,
        "trainer.accelerator": "cpu",
        "trainer.max_steps": NUM_STEPS,
        "trainer.accumulate_grad_batches": ACCUMULATE,
        "trainer.val_check_interval": 3,
        "trainer.limit_val_batches": 1,
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
        "trainer.callbacks": json.dumps([
            {"class_path": "callbacks.ValidationTable"},
            {"class_path": "callbacks.ChatSampler", "init_args": {"every_n_steps": 2, "max_new_tokens": 4}},
            *([GUARD] if recipe == "retention" else []),
            callback or recorder(folder),
        ]),
        "checkpoint.every_n_train_steps": SAVE_EVERY,
    } | (RETENTION if recipe == "retention" else {}) | others  # fmt: skip
    return [f"--{key}={value}" for key, value in values.items()]


def recorder(folder, **others):
    return {"class_path": "tests.support.recorder.Recorder", "init_args": {"path": str(folder / "record"), **others}}


def num_ranks(kind):
    return KINDS[kind].get("trainer.devices", 1)


def forked(zero_dir, folder, kind, recipe, *more, callback=None):
    """Runs the command in forked processes, which saves the imports; returns exit code and output."""
    workers = {"data.init_args.num_workers": 1 if recipe == "demo_pretrain" else 0}
    arguments = [*args(zero_dir, folder, recipe, callback or recorder(folder), **workers, **KINDS[kind]), *more]
    return run(folder / "output", fit.main, arguments, ranks=num_ranks(kind))


def unbroken(zero_dir, kind, recipe):
    """Returns the folder of an uninterrupted run, which is made once per session."""

    def make(folder):
        code, output = forked(zero_dir, folder, kind, recipe)
        assert code == 0, output
        for rank in range(num_ranks(kind)):
            assert sorted(records(folder / "record", rank)) == [*range(NUM_BATCHES)]

    return made_once(zero_dir.parent / f"{kind}-{recipe}", make)


@contextmanager
def started(arguments, stderr=subprocess.STDOUT):
    """Starts the command in a session of its own, and kills all of its processes at the end of the block."""
    own = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-m", "glmja.fit", *arguments], env=os.environ | own, cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=stderr, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def command(arguments):
    """Runs the command in a new process until it ends."""
    with started(arguments, stderr=subprocess.PIPE) as process:
        output, errors = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def check_same(folder, whole, unlogged=None):
    """Asserts that the last checkpoints, curves and chats of two runs are bit-identical.

    Args:
        folder: Folder of the interrupted run.
        whole: Folder of the uninterrupted run.
        unlogged: Step whose training loss the interrupted run may lack, since it was killed between save and log.
    """
    assert not _differences(_final_state(folder), _final_state(whole))
    assert _curves(folder, unlogged) == _curves(whole, unlogged)
    assert not logged_twice(folder)
    assert (folder / "run" / "chats.jsonl").read_bytes() == (whole / "run" / "chats.jsonl").read_bytes()
    assert not list(folder.glob(f"run/checkpoints/{manifest.PARTIAL}*"))


def _final_state(folder):
    """Returns the content of the last checkpoint without the callbacks' state, which names the run's folder."""
    path = manifest.newest(folder / "run" / "checkpoints")
    saved = manifest.read(path)
    assert saved.step == NUM_STEPS
    name = "state.ckpt" if "state.ckpt" in saved.files else "checkpoint/mp_rank_00_model_states.pt"
    state = torch.load(path / name, weights_only=True)
    assert state.pop("callbacks")
    assert state.pop("event_files")
    # Lightning counts validation batches here, which nothing reads
    del state["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
    # loading DeepSpeed's optimizer states would run code that they name
    return state, {name: entry["sha256"] for name, entry in saved.files.items() if "optim_states" in name}


def _curves(folder, unlogged):
    """Returns the scalars of TensorBoard by tag and step; Lightning counts steps from 0."""
    events = EventAccumulator(str(folder / "run" / "tensorboard")).Reload()
    return {
        tag: {e.step: e.value for e in events.Scalars(tag) if tag.startswith("val/") or e.step + 1 != unlogged}
        for tag in events.Tags()["scalars"]
    }


def logged_twice(folder):
    """Returns tags and steps that occur twice in the event files, whatever TensorBoard hides of them."""
    counts = Counter(
        (value.tag, event.step)
        for path in folder.glob("run/tensorboard/*")
        for event in LegacyEventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.tag != "epoch"
    )
    return {key for key, count in counts.items() if count > 1}


def _differences(ours, theirs):
    """Returns the places where two nested structures are not bit-identical."""
    (ours, form), (theirs, other_form) = tree_flatten_with_path(ours), tree_flatten_with_path(theirs)
    if form != other_form:
        return [f"{form} is not {other_form}"]
    return [
        f"{keystr(path)}: {a}, {b}"
        for (path, a), (_, b) in zip(ours, theirs, strict=True)
        if not (torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b)
    ]
