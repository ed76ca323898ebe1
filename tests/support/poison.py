"""A callback that makes the loss of chosen micro-batches non-finite."""

from lightning import Callback


class Poison(Callback):
    def __init__(self, micro_batches: list[int], rank: int = 0, mean_target_tokens: float = float("nan")) -> None:
        """Replaces the number of target tokens, by which the loss is divided, in these micro-batches of a rank."""
        self.micro_batches, self.rank, self.value = micro_batches, rank, mean_target_tokens

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx in self.micro_batches and trainer.global_rank == self.rank:
            batch["mean_target_tokens"].fill_(self.value)
