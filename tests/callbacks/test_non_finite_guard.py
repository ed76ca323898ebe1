import json
import math

import pytest
import torch
from lightning import Callback
from lightning.pytorch.strategies import SingleDeviceStrategy
from safetensors.torch import load_file

from callbacks.non_finite_guard import NonFiniteGuard
from glmja.errors import DivergedError
from glmja.runs import manifest
from tests.support.demo_run import args, command
from tests.support.programs import command_line
from tests.support.tiny_run import TinyRun, loader, make_batch, make_trainer, scalars

BATCHES = [make_batch(i, lengths=[16, 8]) for i in range(24)]
VALUES = [float("nan"), float("inf"), -float("inf")]


class Diverging(TinyRun):
    """Multiplies the loss of some micro-batches, and keeps the weights after each optimizer step."""

    def __init__(self, folder, bad, value):
        super().__init__(folder)
        self.bad, self.value, self.calls, self.weights = bad, value, 0, []

    def step_loss(self, batch):
        loss = super().step_loss(batch)
        self.calls += 1
        if self.calls - 1 not in self.bad:
            return loss
        parts = [part._replace(nats=part.nats * self.value) for part in loss.parts]
        return loss._replace(total=loss.total * self.value, parts=parts)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.trainer.global_step != self._last_step:
            self.weights.append(torch.cat([p.detach().flatten() for p in self.parameters() if p.requires_grad]).clone())
        super().on_train_batch_end(outputs, batch, batch_idx)


class BadGradient(Callback):
    def __init__(self, at):
        self.at = at

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == self.at:
            next(p for p in pl_module.parameters() if p.grad is not None).grad[0, 0] = float("inf")


def kept(tmp_path):
    return sorted(path.name for path in (tmp_path / "bad_batch").glob("*"))


@pytest.mark.parametrize("clip", [{}, {"gradient_clip_val": 0.5}, {"gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"}])  # fmt: skip  # noqa: E501
@pytest.mark.parametrize("value", VALUES)
def test_a_step_whose_loss_is_not_finite_changes_no_weight_and_is_logged(zero_dir, tmp_path, caplog, value, clip):
    module = Diverging(zero_dir, {5}, value)
    trainer = make_trainer(tmp_path, [NonFiniteGuard()], accumulate_grad_batches=2, **clip)
    trainer.fit(module, loader(BATCHES))
    assert trainer.global_step == 4
    first, second, third, fourth = module.weights
    assert torch.equal(second, third) and not torch.equal(first, second) and not torch.equal(third, fourth)
    assert all(weights.isfinite().all() for weights in module.weights)
    assert kept(tmp_path) == ["step=3_batch=5_rank=0.safetensors", "step=3_batch=5_rank=0.txt"]
    assert [record.getMessage() for record in caplog.records if record.name == "callbacks.non_finite_guard"] == [
        "step 3 was skipped and changed no weight (1 in a row, 3 end the run): in batch 5 of rank 0 the loss is not "
        f"finite; it is kept in {tmp_path}/bad_batch/step=3_batch=5_rank=0.safetensors and .txt"
    ]
    assert not math.isfinite(scalars(tmp_path, "train/loss")[2])  # the curve, from 0, shows it


def test_a_step_that_is_skipped_leaves_the_optimizer_as_it_was(zero_dir, tmp_path):
    states = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, *args):
            states.append({k: v.clone() for k, v in next(iter(trainer.optimizers[0].state.values())).items()})

    make_trainer(tmp_path, [Watch()]).fit(Diverging(zero_dir, {2}, float("nan")), loader(BATCHES))
    assert all(torch.equal(states[1][key], states[2][key]) for key in states[1])
    assert not torch.equal(states[2]["exp_avg"], states[3]["exp_avg"])


def test_all_batches_of_a_step_whose_gradients_are_not_finite_are_logged(zero_dir, tmp_path, caplog):
    module = Diverging(zero_dir, (), 1)
    make_trainer(tmp_path, [NonFiniteGuard(), BadGradient(1)], accumulate_grad_batches=2).fit(module, loader(BATCHES))
    assert torch.equal(module.weights[0], module.weights[1]) and not torch.equal(*module.weights[1:3])
    assert {name.split("_rank")[0] for name in kept(tmp_path)} == {"step=2_batch=2", "step=2_batch=3"}
    assert "in batch 3 of rank 0 its gradients are not finite; it is kept in" in caplog.text


def test_three_skipped_steps_in_a_row_end_the_run_and_two_do_not(zero_dir, tmp_path):
    trainer = make_trainer(tmp_path, [NonFiniteGuard()], max_steps=12)
    module = Diverging(zero_dir, {2, 3, 5, 6, 8, 9, 10}, float("nan"))
    with pytest.raises(DivergedError, match=r"^3 steps in a row, up to step 11, were skipped: .* kept in .*bad_batch$"):
        trainer.fit(module, loader(BATCHES))
    assert all(p.isfinite().all() for p in module.parameters())
    assert len(kept(tmp_path)) == 14


def test_a_resumed_run_continues_counting(zero_dir, tmp_path):
    before, after = NonFiniteGuard(max_skipped=2), NonFiniteGuard(max_skipped=2)
    make_trainer(tmp_path, [before], max_steps=3).fit(Diverging(zero_dir, {2}, float("nan")), loader(BATCHES))
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    with pytest.raises(DivergedError, match="2 steps in a row, up to step 1"):
        make_trainer(tmp_path, [after]).fit(Diverging(zero_dir, {0}, float("nan")), loader(BATCHES))


def test_a_batch_is_kept_as_it_was_and_as_text(zero_dir, tmp_path, tokenizer):
    make_trainer(tmp_path, [NonFiniteGuard()]).fit(Diverging(zero_dir, {1}, float("nan")), loader(BATCHES))
    path = tmp_path / "bad_batch" / "step=2_batch=1_rank=0"
    tensors = load_file(f"{path}.safetensors")
    assert tensors.keys() == BATCHES[1].keys()
    assert all(torch.equal(tensors[key], BATCHES[1][key]) for key in tensors)
    rows = [tokenizer.decode(row) for row in BATCHES[1]["input_ids"].tolist()]
    assert path.with_suffix(".txt").read_bytes().decode() == f"# row 0\n{rows[0]}\n\n# row 1\n{rows[1]}\n"


def test_finite_losses_pass(zero_dir, tmp_path, caplog):
    trainer = make_trainer(tmp_path, [NonFiniteGuard()])
    trainer.fit(TinyRun(zero_dir), loader(BATCHES))
    assert trainer.global_step == 4
    assert not (tmp_path / "bad_batch").exists() and "callbacks.non_finite_guard" not in caplog.text


def test_a_rank_counts_the_skipped_steps_of_another(zero_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(SingleDeviceStrategy, "reduce_boolean_decision", lambda self, decision, all: True)
    with pytest.raises(DivergedError, match="3 steps in a row, up to step 3"):
        make_trainer(tmp_path, [NonFiniteGuard()]).fit(Diverging(zero_dir, {0, 1, 2}, float("nan")), loader(BATCHES))


def test_a_batch_with_ids_beyond_the_vocabulary_is_kept(zero_dir, tmp_path, tokenizer):
    batch = make_batch(0)
    batch["input_ids"][0, 3] = len(tokenizer)  # the embeddings have a few rows more
    make_trainer(tmp_path, [NonFiniteGuard()], max_steps=1).fit(Diverging(zero_dir, {0}, float("nan")), loader([batch]))
    assert (tmp_path / "bad_batch" / "step=1_batch=0_rank=0.txt").exists()


@pytest.mark.parametrize(("bad", "files"), [(71, ["step=36_batch=71_rank=0.txt"]), (51, [])])  # 26 steps are too few
def test_a_loss_spike_is_logged_and_its_step_is_not_skipped(zero_dir, tmp_path, caplog, bad, files):
    module = Diverging(zero_dir, {bad}, 1e4)
    options = {"max_steps": 36, "accumulate_grad_batches": 2, "gradient_clip_val": 1.0}
    make_trainer(tmp_path, [NonFiniteGuard()], **options).fit(module, loader([make_batch(i % 7) for i in range(72)]))
    assert [name for name in kept(tmp_path) if name.endswith(".txt")] == files
    told = [record.getMessage() for record in caplog.records if record.name == "callbacks.non_finite_guard"]
    assert len(told) == len(files)
    for line in told:
        assert line.startswith("loss spike: step 36 has ") and "in the 35 steps before), most of it in batch 71" in line
    assert not torch.equal(module.weights[bad // 2], module.weights[bad // 2 - 1])


@pytest.mark.parametrize("bad", [{"max_skipped": 0}, {"spike_deviations": 0.0}])
def test_the_limits_must_be_positive(bad):
    with pytest.raises(
        ValueError, match=r"NonFiniteGuard: max_skipped \(\d\) must be at least 1 and spike_deviations \("
    ):
        NonFiniteGuard(**bad)


def poisoned(zero_dir, folder, micro_batches, rank=0, **more):
    callbacks = [
        {"class_path": "callbacks.NonFiniteGuard"},
        {"class_path": "tests.support.poison.Poison", "init_args": {"micro_batches": micro_batches, "rank": rank}},
    ]
    return args(zero_dir, folder, "demo_pretrain", **{"trainer.callbacks": json.dumps(callbacks)}, **more)


def test_a_diverged_run_ends_with_6_and_one_line(zero_dir, tmp_path):
    done = command_line.run(tmp_path, "glmja.fit", poisoned(zero_dir, tmp_path, [4, 6, 8]))
    assert done.returncode == 6, done.stderr
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1 and "fit: error: 3 steps in a row, up to step 5, were skipped" in errors[0]
    assert "Traceback" not in done.stderr
    assert manifest.read(manifest.newest(tmp_path / "run" / "checkpoints")).step == 4


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_bad_loss_of_one_rank_skips_the_step_of_all_and_ends_all(zero_dir, tmp_path, precision):
    zero2 = {"trainer.strategy": json.dumps({"class_path": "lit_modules.ZeRO2"}), "trainer.devices": 2}
    done = command(poisoned(zero_dir, tmp_path, [3, 6, 8, 10], rank=1, **zero2, **{"trainer.precision": precision}))
    assert done.returncode == 6, done.stderr
    assert done.stderr.count("3 steps in a row, up to step 6, were skipped") == 1
    names = sorted((tmp_path / "run" / "bad_batch").glob("*.txt"))
    assert [path.stem for path in names] == [
        f"step={step}_batch={batch}_rank=1" for step, batch in ((2, 3), (4, 6), (5, 8), (6, 10))
    ]
    checkpoint = manifest.newest(tmp_path / "run" / "checkpoints") / "checkpoint" / "mp_rank_00_model_states.pt"
    module = torch.load(checkpoint, weights_only=True)["module"]
    assert all(tensor.isfinite().all() for tensor in module.values())
