"""A minimal training of a GLM, for tests of callbacks."""

import torch
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from glmja.modeling.adapters import Lora
from glmja.modeling.batch import IGNORE_INDEX
from lit_modules.base import GLMModule


class TinyRun(GLMModule):
    """The module of a recipe without what it needs from a data module (number of steps, validation sources)."""

    def __init__(self, folder):
        super().__init__(str(folder), lora=Lora(rank=4, dropout=0.1), dtype="float32")

    def setup(self, stage):
        pass

    def validation_step(self, batch, batch_idx):
        total, labels = self.loss(batch)
        self.log("val/loss", total / max(1, labels.numel()))

    def on_validation_epoch_end(self):
        pass

    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-2)


def make_batch(seed, num_rows=2, row_len=16, lengths=None, num_prompt=0):
    """Makes a batch of random ids, right-padded to `row_len`; the first `num_prompt` of each row are no targets."""
    lengths = torch.tensor(lengths or [row_len] * num_rows)
    ids = torch.randint(100, 3000, (len(lengths), row_len), generator=torch.Generator().manual_seed(seed))
    positions = torch.arange(row_len).expand_as(ids).clone()
    is_target = (positions >= num_prompt) & (positions < lengths[:, None])
    labels = torch.where(is_target, ids, IGNORE_INDEX)
    batch = {"input_ids": ids, "labels": labels, "position_ids": positions, "lengths": lengths}
    batch["document_offsets"] = torch.arange(len(lengths) + 1, dtype=torch.int32) * row_len
    return batch | {"mean_target_tokens": is_target[:, 1:].sum().float()}


def make_trainer(folder, callbacks, **options):
    options = {
        "accelerator": "cpu",
        "max_steps": 4,
        "max_epochs": -1,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": TensorBoardLogger(folder, name="tensorboard", version=""),
    } | options
    return Trainer(default_root_dir=folder, callbacks=callbacks, **options)


def loader(batches):
    return DataLoader(batches, batch_size=None)


def events(folder):
    return EventAccumulator(str(folder / "tensorboard"), size_guidance={"tensors": 0}).Reload()


def scalars(folder, tag):
    """Returns the values of a scalar by step, in the order of steps, of which none may occur twice.

    TensorBoard reads files in the order of their names, which need not be that of the runs of one second.
    """
    found = sorted((event.step, event.value) for event in events(folder).Scalars(tag))
    assert len(dict(found)) == len(found)
    return dict(found)
