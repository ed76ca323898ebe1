"""Trains a toy model with dropout on one or several devices, and stops, dies and resumes as requested.

`runs` is a list of consecutive runs. Each has `folder` and may have `strategy` (single, ddp, zero2), `ranks`,
`max_steps`, `precision`, `resume` (a checkpoint; default: the newest complete one of the folder), `keep` (number of
periodic checkpoints; default: all), `kill_at` (step at which each process kills itself), `announce_at` (step from which
it prints each step and waits), `order` and `frozen` (of the layers a, b, c), `largest_file` (maximum bytes of a file).

Writes `folder/log.RANK.jsonl`, one line per micro-batch, and `folder/weights.RANK` at the end.
"""

import hashlib
import json
import logging
import os
import resource
import signal
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from callbacks.exact_resume import ExactResume
from callbacks.final_checkpoint import FinalCheckpoint
from glmja.cli.command import one_line_errors
from glmja.runs import manifest
from glmja.runs.identity import RunIdentity
from lit_modules.checkpoint_folder import CheckpointFolders, check_resumed
from lit_modules.zero2 import ZeRO2

ROWS, BATCH, PIECES, WIDTH, ACCUMULATE = 48, 2, 97, 16, 2
X = torch.randint(0, PIECES, (ROWS, 12), generator=torch.Generator().manual_seed(3))


class Loader:
    """A loader that shuffles each epoch, and that resumes at its position."""

    def __init__(self, rank, world):
        self.rank, self.world, self.epoch, self.position, self.resumed = rank, world, 0, 0, False

    def __len__(self):
        return ROWS // (BATCH * self.world)

    def __iter__(self):
        if not self.resumed:
            self.position = 0
        self.resumed = False
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(self.epoch)).tolist()
        while self.position < len(self):
            first = (self.position * self.world + self.rank) * BATCH
            self.position += 1
            if self.position == len(self):
                self.epoch += 1
            yield order[first : first + BATCH], X[order[first : first + BATCH]]

    def state_dict(self):
        return {"epoch": self.epoch, "position": self.position % len(self)}

    def load_state_dict(self, state):
        self.epoch, self.position, self.resumed = state["epoch"], state["position"], True


class Toy(LightningModule):
    def __init__(self, options):
        super().__init__()
        torch.manual_seed(5)
        self.options = options
        layers = {"embed": nn.Embedding(PIECES, WIDTH)}
        layers |= {name: nn.Linear(WIDTH, WIDTH, bias=False) for name in ("a", "b", "c")}
        for name in options.get("order", "abc"):
            setattr(self, name, layers[name])
        self.embed, self.drop = layers["embed"], nn.Dropout(0.3)
        for name in options.get("frozen", "c"):
            getattr(self, name).requires_grad_(False)
        self.strict_loading = False

    def identity(self):
        trainable = tuple((name, tuple(p.shape)) for name, p in self.named_parameters() if p.requires_grad)
        return RunIdentity(self.trainer.world_size, str(self.trainer.precision), trainable=trainable)

    def configure_model(self):
        check_resumed(self.trainer, self.identity())

    def on_save_checkpoint(self, checkpoint):
        checkpoint[manifest.IDENTITY_KEY] = self.identity().as_json()

    def train_dataloader(self):
        return Loader(self.trainer.global_rank, self.trainer.world_size)

    def training_step(self, batch, batch_idx):
        rows, x = batch
        hidden = self.drop(self.embed(x[:, :-1]))
        for layer in (self.a, self.b, self.c):
            hidden = hidden + layer(hidden)
        loss = F.cross_entropy((hidden @ self.embed.weight.T).float().flatten(0, 1), x[:, 1:].flatten())
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        with Path(self.options["folder"], f"log.{self.trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps([self.trainer.global_step, rows, loss.item().hex(), rate]) + "\n")
        return loss

    def on_train_batch_end(self, outputs, batch, batch_idx):
        step = self.trainer.global_step
        if step == self.options.get("kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)
        if step >= self.options.get("announce_at", 1 << 30):
            print(f"AT {step}", flush=True)
            time.sleep(0.05)

    def configure_optimizers(self):
        decayed = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW([{"params": decayed[:1], "weight_decay": 0.0}, {"params": decayed[1:]}], lr=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def train(options):
    folder, ranks = Path(options["folder"]), options.get("ranks", 1)
    checkpoints = folder / "checkpoints"
    strategy = options.get("strategy", "single")
    kinds = {
        "single": lambda: {},
        "ddp": lambda: {"strategy": "ddp"},
        "zero2": lambda: {"strategy": ZeRO2(reduce_bucket_size=300, allgather_bucket_size=300)},
    }
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if "largest_file" in options:
        resource.setrlimit(resource.RLIMIT_FSIZE, (options["largest_file"], resource.RLIM_INFINITY))
    seed_everything(7)
    trainer = Trainer(
        **kinds[strategy](),
        plugins=None if strategy == "zero2" else [CheckpointFolders()],
        accelerator="cpu", devices=ranks, precision=options.get("precision", "32-true"),
        max_steps=options.get("max_steps", 14), accumulate_grad_batches=ACCUMULATE,
        gradient_clip_val=1.0, logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[
            ModelCheckpoint(
                checkpoints, "{step}", "step", mode="max", every_n_train_steps=3, save_top_k=options.get("keep", -1)
            ),
            ExactResume(), FinalCheckpoint(str(checkpoints)),
        ],
    )  # fmt: skip
    module = Toy(options)
    with one_line_errors("toy"):
        resume = options.get("resume") or (manifest.newest(checkpoints) if checkpoints.exists() else None)
        if resume:
            trainer.ckpt_path = resume
        trainer.fit(module, weights_only=True)
    digest = hashlib.sha256()
    for parameter in module.parameters():
        digest.update(parameter.detach().float().numpy().tobytes())
    (folder / f"weights.{trainer.global_rank}").write_text(digest.hexdigest())


def main(runs):
    for options in runs[:-1]:
        try:
            train(options)
        except SystemExit as stop:
            print(f"EXIT {stop.code}", flush=True)
    train(runs[-1])
