"""A callback that spoils what a run computes."""

from lightning import Callback


class Poison(Callback):
    def __init__(self, micro_batches: list[int], rank: int = 0, learnt: float = float("nan")) -> None:
        """Makes these micro-batches of a rank pretend to learn so many tokens, by which their loss is divided."""
        self.micro_batches, self.rank, self.learnt = micro_batches, rank, learnt

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx in self.micro_batches and trainer.global_rank == self.rank:
            batch["mean_target_tokens"].fill_(self.learnt)
