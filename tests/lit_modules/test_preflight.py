"""Memory and disk that a run needs: estimated before it starts, and measured."""

import json
import math
import resource
import shutil
import struct
from pathlib import Path

import pytest
import torch
from lightning import Trainer

from callbacks.largest_batch_check import LargestBatchCheck
from glmja import fit
from glmja.modeling.adapters import Lora
from glmja.runs import manifest
from glmja.weights.chatglm_layout import expected_shapes
from lit_modules import PackedPretraining
from lit_modules.preflight import check_disk, estimate_memory
from lit_modules.zero2 import ZeRO2
from tests.support.daily import drawn
from tests.support.demo_run import args, command
from tests.support.recorder import records
from tests.support.tiny_run import TinyRun, make_batch, make_trainer

ZERO2 = {"trainer.strategy": json.dumps({"class_path": "lit_modules.ZeRO2"})}
NO_CALLBACKS = {"trainer.callbacks": "[]", "trainer.max_steps": 2, "trainer.limit_val_batches": 0}


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def trained(zero_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("preflight")
    return folder, fit.main(args(zero_dir, folder, "demo_pretrain", **NO_CALLBACKS))


def test_memory_and_checkpoints_are_as_predicted(trained):
    folder, trainer = trained
    needs = estimate_memory(trainer.lightning_module, trainer)
    parameters = list(trainer.model.parameters())
    assert needs.weights == sum(p.numel() * p.element_size() for p in parameters)
    assert needs.gradients == sum(4 * p.numel() for p in parameters if p.requires_grad)
    states = [t for state in trainer.optimizers[0].state.values() for t in state.values() if t.numel() > 1]
    assert needs.optimizer == sum(t.numel() * t.element_size() for t in states)
    saved = size(manifest.newest(folder / "run" / "checkpoints"))
    assert needs.checkpoint <= saved <= needs.checkpoint * 1.02 + 100_000


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_checkpoints_under_zero2_are_as_predicted(zero_dir, tmp_path, ranks, precision):
    done = command(args(zero_dir, tmp_path, "demo_pretrain", **NO_CALLBACKS, **ZERO2,
                        **{"trainer.devices": ranks, "trainer.precision": precision}))  # fmt: skip
    assert done.returncode == 0, done.stderr
    module = PackedPretraining(str(zero_dir), lora=Lora(rank=16, alpha=32), dtype="float32")
    trainer = Trainer(strategy=ZeRO2(), accelerator="cpu", devices=ranks, precision=precision, logger=False)
    saved, needs = size(manifest.newest(tmp_path / "run" / "checkpoints")), estimate_memory(module, trainer)
    assert needs.checkpoint <= saved <= needs.checkpoint * 1.02 + 300_000


def test_zero2_partitions_gradients_and_optimizer_state_and_can_offload_them(zero_dir):
    module = PackedPretraining(str(zero_dir))

    def needs(ranks, **options):
        strategy = ZeRO2(**options)
        return estimate_memory(module, Trainer(strategy=strategy, accelerator="cpu", devices=ranks, precision="bf16-mixed", logger=False))  # fmt: skip  # noqa: E501

    one, two, offloaded = needs(1), needs(2), needs(2, offload_optimizer=True)
    trained = sum(p.numel() for p in module.outline().parameters() if p.requires_grad)
    assert one.weights == two.weights == 2 * sum(p.numel() for p in module.outline().parameters())
    assert (one.gradients, one.optimizer) == (4 * trained, 12 * trained)
    assert (two.gradients, two.optimizer) == (2 * trained, 6 * trained)
    assert (offloaded.gradients, offloaded.optimizer, offloaded.host) == (0, 0, 16 * trained)
    assert one.checkpoint == two.checkpoint == offloaded.checkpoint == 14 * trained


@pytest.fixture
def huge(zero_dir, tmp_path):
    """A model of 340 GB whose sparse files take no room on the disk."""
    folder = tmp_path / "huge"
    shutil.copytree(zero_dir, folder, ignore=shutil.ignore_patterns("*.safetensors*", "*report*"))
    config = json.loads((folder / "config.json").read_text())
    width, heads = 16384, config["num_attention_heads"]
    config |= {"hidden_size": width, "intermediate_size": 3 * width, "head_dim": width // heads}
    config |= {"num_hidden_layers": 60}
    (folder / "config.json").write_text(json.dumps(config))
    file_of, size = {}, 0
    for name, shape in expected_shapes(config).items():
        file_of[name] = f"{name}.safetensors"
        num_bytes = 2 * math.prod(shape)
        header = json.dumps({name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, num_bytes]}}).encode()
        with (folder / file_of[name]).open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + num_bytes)
        size += num_bytes
    index = {"metadata": {"total_size": size}, "weight_map": file_of}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_all_problems_are_reported_together_before_weights_are_read(huge, tmp_path, capsys):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"txt": "b"}\n')
    changes = {"model.init_args.tuning": "full", "model.init_args.dtype": "null", "data.init_args.row_len": 4096,
               "data.init_args.sources": json.dumps([{"name": "x", "lang": "ja", "files": [str(bad)]}])}  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        fit.main(args(huge, tmp_path, "demo_pretrain", **changes))
    said = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert len(said) == 4 and all(line.startswith("python -m glmja.fit: error: ") for line in said)
    assert "--data.row_len (4096) exceeds the model's 2048 positions" in said[0]
    assert f"--run_dir {tmp_path}/run needs room for 4 checkpoints of " in said[1]
    assert "GB are free; make room, choose another disk" in said[1]
    assert (
        "the host needs " in said[2]
        and "(weights " in said[2]
        and "use fewer trainable parameters, or another " in said[2]
    )
    assert "bad.jsonl:1" in said[3]
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
def test_a_model_that_does_not_fit_on_a_gpu_is_refused(huge, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        fit.main(args(huge, tmp_path, "demo_pretrain", **{"trainer.accelerator": "gpu", "trainer.devices": 1}))
    assert stop.value.code == 5
    assert "each GPU needs " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("num_steps", "every", "keep", "count"), [(7, 2, 2, 4), (7, 2, -1, 4), (3, 2, 2, 2), (-1, 500, 2, 1), (10, 1, 2, 4)]
)
def test_the_disk_must_hold_the_checkpoints_that_exist_at_the_same_time(
    trained, tmp_path, num_steps, every, keep, count
):
    needs = estimate_memory(trained[1].lightning_module, trained[1])
    free = shutil.disk_usage(tmp_path).free
    fits, not_quite = (type(needs)(0, 0, 0, 0, int(free / count * share)) for share in (0.9, 1.1))
    check_disk(fits, tmp_path / "run", num_steps, every, keep)
    with pytest.raises(
        OSError, match=rf"run needs room for {count} checkpoints of .* free; make room, choose another disk"
    ):
        check_disk(not_quite, tmp_path / "run", num_steps, every, keep)


LARGEST_BATCH = {"trainer.callbacks+": "callbacks.LargestBatchCheck", "trainer.callbacks.on_cpu": "true"}


@pytest.mark.parametrize(("recipe",), drawn("largest batch", [("demo_pretrain",), ("demo_sft",)], 1))
def test_trying_the_largest_batch_does_not_change_the_run(zero_dir, tmp_path, recipe):
    folders = [tmp_path / "with", tmp_path / "without"]
    for folder, more in zip(folders, (LARGEST_BATCH, {}), strict=True):
        folder.mkdir()
        fit.main(args(zero_dir, folder, recipe, **{"trainer.max_steps": 3}) + [f"--{k}={v}" for k, v in more.items()])
    assert records(folders[0] / "record") == records(folders[1] / "record")
    states = [torch.load(manifest.newest(f / "run" / "checkpoints") / "state.ckpt", weights_only=True) for f in folders]
    weights = [state["state_dict"] for state in states]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.slow
def test_trying_the_largest_batch_under_zero2_does_not_change_the_run(zero_dir, tmp_path):
    folders = [tmp_path / "with", tmp_path / "without"]
    for folder, more in zip(folders, (LARGEST_BATCH, {}), strict=True):
        folder.mkdir()
        changes = ZERO2 | {"trainer.devices": 2, "trainer.max_steps": 3}
        arguments = args(zero_dir, folder, "demo_sft", **changes) + [f"--{k}={v}" for k, v in more.items()]
        done = command(arguments)
        assert done.returncode == 0, done.stderr
        assert ("tried the largest micro-batch" in done.stderr) == bool(more)
    for rank in (0, 1):
        assert records(folders[0] / "record", rank) == records(folders[1] / "record", rank)


class Loader(list):
    """Small micro-batches, and a large one that never comes."""

    def largest(self):
        return make_batch(0, num_rows=128, row_len=2048)


def test_a_largest_batch_that_does_not_fit_ends_the_run_before_the_first_step(zero_dir, tmp_path):
    trainer = make_trainer(tmp_path, [LargestBatchCheck(on_cpu=True)])
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000, limits[1]))
    try:
        with pytest.raises(OSError, match="the largest micro-batch, 128 × 2048 tokens, does not fit into"):
            trainer.fit(TinyRun(zero_dir), Loader([make_batch(0)]))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert trainer.global_step == 0
