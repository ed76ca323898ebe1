"""No weight is ever updated with a loss that is not a number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from safetensors.torch import save_file
from torch import Tensor

from glmja.batch import Batch
from glmja.divergence import DivergedError


class LossSentry(Callback):
    """Ends a run at the first loss that is NaN or infinite, before its gradients, and keeps the batch that caused it.

    All processes end together: each asks the others at each micro-batch, which also waits for the loss to be computed.
    The batch goes to `RUN_DIR/bad_batch`: `step=N_rank=R.safetensors`, and its texts as `.txt`.
    """

    def __init__(self) -> None:
        """Starts without a batch."""
        self._batch: Any = None
        self._batch_idx = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """Remembers the batch, in case."""
        self._batch, self._batch_idx = batch, batch_idx

    def on_train_batch_end(self, *args: Any) -> None:
        """Lets the batch go."""
        self._batch = None

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Asks whether the loss is a number, everywhere.

        Raises:
            DivergedError: If it is not; names the file of the batch.
        """
        is_bad = not bool(torch.isfinite(loss).all())
        if not trainer.strategy.reduce_boolean_decision(is_bad, all=False):
            return
        where = f"at step {trainer.global_step}, batch {self._batch_idx}"
        if not is_bad:
            raise DivergedError(f"the loss of another process is not finite {where}; its batch is kept there")
        path = Path(trainer.default_root_dir) / "bad_batch" / f"step={trainer.global_step}_rank={trainer.global_rank}"
        self._save(path, pl_module.tokenizer)
        raise DivergedError(
            f"the loss is {loss.item()} {where}, rank {trainer.global_rank}; no weight was changed by it, and its "
            f"batch is kept in {path}.safetensors and .txt"
        )

    def _save(self, path: Path, tokenizer: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # cloned: safetensors refuses tensors that share memory
        tensors = {k: v.cpu().clone().contiguous() for k, v in self._batch.items() if isinstance(v, Tensor)}
        save_file(tensors, f"{path}.safetensors")
        rows = [[i for i in row if 0 <= i < len(tokenizer)] for row in tensors["input_ids"].tolist()]
        texts = [f"# row {number}\n{tokenizer.decode(row)}\n" for number, row in enumerate(rows)]
        Path(f"{path}.txt").write_text("\n".join(texts), encoding="utf-8")
