import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from safetensors.torch import load_file
from tiny_run import TinyRun, loader, make_batch, make_trainer

from callbacks.loss_sentry import LossSentry
from glmja.divergence import DivergedError

BATCHES = [make_batch(i, lengths=[16, 8]) for i in range(8)]


class Diverging(TinyRun):
    """Its loss is not finite at one micro-batch."""

    def __init__(self, folder, bad_idx, value):
        super().__init__(folder)
        self.bad_idx, self.value = bad_idx, value

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * self.value if batch_idx == self.bad_idx else loss


@pytest.mark.parametrize(("value", "shown"), [(float("nan"), "nan"), (float("inf"), "inf"), (-float("inf"), "-inf")])
def test_a_loss_that_is_no_number_ends_the_run_before_it_reaches_a_weight(zero_dir, tmp_path, value, shown):
    trainer, module = make_trainer(tmp_path, [LossSentry()], accumulate_grad_batches=2), Diverging(zero_dir, 5, value)
    with pytest.raises(DivergedError, match=rf"the loss is {shown} at step 2, batch 5, rank 0; no weight was changed"):
        trainer.fit(module, loader(BATCHES))
    assert trainer.global_step == 2
    assert all(p.isfinite().all() for p in module.parameters())
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


def test_the_batch_is_kept_as_it_was_and_as_text(zero_dir, tmp_path, tokenizer):
    module = Diverging(zero_dir, 5, float("nan"))
    with pytest.raises(DivergedError) as stop:
        make_trainer(tmp_path, [LossSentry()], accumulate_grad_batches=2).fit(module, loader(BATCHES))
    path = tmp_path / "bad_batch" / "step=2_rank=0"
    assert f"{path}.safetensors and .txt" in str(stop.value)
    assert "\n" not in str(stop.value)
    kept = load_file(f"{path}.safetensors")
    assert kept.keys() == BATCHES[5].keys()
    assert all(torch.equal(kept[key], BATCHES[5][key]) for key in kept)
    rows = [tokenizer.decode(row) for row in BATCHES[5]["input_ids"].tolist()]
    expected = f"# row 0\n{rows[0]}\n\n# row 1\n{rows[1]}\n"
    assert path.with_name("step=2_rank=0.txt").read_bytes().decode() == expected


def test_finite_losses_pass(zero_dir, tmp_path):
    sentry = LossSentry()
    trainer = make_trainer(tmp_path, [sentry])
    trainer.fit(TinyRun(zero_dir), loader(BATCHES))
    assert trainer.global_step == 4
    assert not (tmp_path / "bad_batch").exists()
    assert sentry._batch is None


def test_a_process_with_a_finite_loss_ends_with_the_others(zero_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(SingleDeviceStrategy, "reduce_boolean_decision", lambda self, decision, all: True)
    with pytest.raises(DivergedError, match="the loss of another process is not finite at step 0, batch 0"):
        make_trainer(tmp_path, [LossSentry()]).fit(TinyRun(zero_dir), loader(BATCHES))
    assert not (tmp_path / "bad_batch").exists()


def test_ids_without_a_piece_do_not_hide_what_happened(zero_dir, tmp_path, tokenizer):
    batch = make_batch(0)
    batch["input_ids"][0, 3] = len(tokenizer)  # the embeddings have a few rows more
    with pytest.raises(DivergedError, match="the loss is nan"):
        make_trainer(tmp_path, [LossSentry()]).fit(Diverging(zero_dir, 0, float("nan")), loader([batch]))
    assert (tmp_path / "bad_batch" / "step=0_rank=0.txt").exists()
