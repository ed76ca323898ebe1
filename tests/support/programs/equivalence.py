"""Trains the same model with ZeRO-2 and with plain PyTorch in several configurations and writes the differences.

Options: `ranks`, `configurations` (each of `accumulate`, `clip`, `precision`), `output`.
"""

import json
import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from lit_modules.zero2 import ZeRO2

STEPS, BATCH, PIECES, WIDTH = 5, 4, 97, 32
X = torch.randint(0, PIECES, (400, 16), generator=torch.Generator().manual_seed(3))


class Toy(LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(11)
        self.embed, self.frozen = nn.Embedding(PIECES, WIDTH), nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.a, self.b = nn.Linear(WIDTH, 4, bias=False), nn.Linear(4, WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, PIECES, bias=False)
        self.norms, self.rates = [], []

    def loss(self, x):
        hidden = self.embed(x)
        hidden = self.frozen(hidden) + self.b(self.a(hidden))
        return F.cross_entropy(self.head(hidden[:, :-1]).float().flatten(0, 1), x[:, 1:].flatten())

    def train_dataloader(self):
        mine = list(X.split(BATCH))[self.trainer.global_rank :: self.trainer.world_size]
        return DataLoader(mine, batch_size=None, shuffle=False)

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.trainer.global_step > len(self.norms):
            self.norms.append(float(self.trainer.strategy.model.get_global_grad_norm()))
            self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    def optimizer_and_schedule(self):
        first, *others = (p for p in self.parameters() if p.requires_grad)
        groups = [{"params": [first], "weight_decay": 0.0}, {"params": others, "weight_decay": 0.1}]
        optimizer = torch.optim.AdamW(groups, lr=3e-2)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / 10)

    def configure_optimizers(self):
        optimizer, schedule = self.optimizer_and_schedule()
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def by_zero2(ranks, accumulate, clip, precision="32-true", **options):
    module = Toy()
    trainer = Trainer(
        accelerator="cpu", devices=ranks, precision=precision, max_steps=STEPS, accumulate_grad_batches=accumulate,
        gradient_clip_val=clip, strategy=ZeRO2(reduce_bucket_size=700, allgather_bucket_size=700, **options),
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, logger=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module)
    state = trainer.strategy.model.optimizer
    sizes = [sum(p.numel() for p in state.single_partition_of_fp32_groups), sum(state.partition_size)]
    return (
        module,
        trainer.global_rank,
        {
            "stage": trainer.strategy.model.zero_optimization_stage(),
            "partition": sizes,
            "sums": str(state.gradient_accumulation_dtype),
        },
    )


def by_torch(ranks, accumulate, clip):
    module = Toy()
    optimizer, schedule = module.optimizer_and_schedule()
    for batch in X.split(BATCH * ranks * accumulate)[:STEPS]:
        optimizer.zero_grad()
        module.loss(batch).backward()
        norm = nn.utils.clip_grad_norm_(module.parameters(), clip or float("inf"))
        optimizer.step()
        schedule.step()
        module.norms.append(float(norm))
        module.rates.append(schedule.get_last_lr()[0])
    return module


def main(options):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    results = []
    for configuration in options["configurations"]:
        ours, rank, seen = by_zero2(options["ranks"], **configuration)
        theirs = by_torch(options["ranks"], configuration["accumulate"], configuration["clip"])
        apart = [
            (a.float() - b).abs().max().item() for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)
        ]
        results.append(seen | {
            "apart": max(apart),
            "norms": [ours.norms, theirs.norms],
            "rates": [ours.rates, theirs.rates],
        })  # fmt: skip
    if rank == 0:
        Path(options["output"]).write_text(json.dumps(results))
