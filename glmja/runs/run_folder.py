"""The folder of a training run: the names of all its files, and what can be read from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from glmja.errors import ModelError
from glmja.files import folder_kinds
from glmja.files.json_files import read_json

Curve = list[tuple[int, float]]  # (optimizer step, value)


class RunFolder:
    """Paths of the files that a training run writes.

    ```
    RUN_DIR/
      .lock                          process and host of the run, while it lasts; see `glmja.runs.run_lock`
      config.yaml                    resolved configuration, usable as configuration of another run
      ledger.json                    how many tokens of each source the run reads
      chats.jsonl                    answers of `callbacks.ChatSampler`
      tensorboard/                   scalars, texts
      bad_batch/                     micro-batches kept by `callbacks.NonFiniteGuard`
      checkpoints/step=N.ckpt/
        manifest.json                step, run identity, size and hash of every other file
        state.ckpt                   one device or DDP
        latest, checkpoint/          ZeRO stage 2
    ```
    """

    CONFIG = folder_kinds.RUN_CONFIG
    MANIFEST = folder_kinds.CHECKPOINT_MANIFEST
    LOCK = ".lock"
    STATE = "state.ckpt"
    ZERO_STATES = "checkpoint"
    PARTIAL = ".tmp-"  # prefix of a checkpoint that is being written or removed
    CHECKPOINTS = folder_kinds.CHECKPOINT

    def __init__(self, path: str | Path) -> None:
        """Creates the paths without reading the folder.

        Args:
            path: Folder of the run; it need not exist.
        """
        self.path = Path(path)

    @classmethod
    def of_checkpoint(cls, checkpoint: str | Path) -> RunFolder:
        """Returns the folder of the run that saved `RUN_DIR/checkpoints/NAME.ckpt`."""
        return cls(Path(checkpoint).resolve().parents[1])

    @property
    def config(self) -> Path:
        """Resolved configuration of the run."""
        return self.path / self.CONFIG

    @property
    def ledger(self) -> Path:
        """Table of the tokens that the run reads."""
        return self.path / "ledger.json"

    @property
    def chats(self) -> Path:
        """Sampled answers, one JSON object per line."""
        return self.path / "chats.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / folder_kinds.CHECKPOINTS

    @property
    def bad_batches(self) -> Path:
        """Folder of the micro-batches that made a step fail."""
        return self.path / "bad_batch"

    def has_begun(self) -> bool:
        """Returns whether a run has written here, even if it saved no checkpoint."""
        written = (self.config, self.ledger, self.chats, self.tensorboard, self.checkpoints, self.bad_batches)
        return any(path.exists() for path in written)

    def has_saved(self) -> bool:
        """Returns whether a run has saved a checkpoint here; it may be damaged by now."""
        return any(self.checkpoints.glob(f"{self.CHECKPOINTS}/{self.MANIFEST}"))

    @staticmethod
    def checkpoint_name(step: int, version: int = 0) -> str:
        """Returns the name of the checkpoint of an optimizer step; `version` counts names that are taken."""
        return f"step={step}-v{version}.ckpt" if version else f"step={step}.ckpt"

    def model_dir(self) -> Path:
        """Returns the model folder that the run started from, as its configuration names it.

        Raises:
            ValueError: If the configuration is missing or does not name a model, or the folder does not exist.
        """
        try:
            content = yaml.safe_load(self.config.read_text(encoding="utf-8"))
            named = Path(content["model"]["init_args"]["model_dir"])
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
            raise ValueError(
                f"{self.config} does not name the model that the run started from; give its folder as `model`"
            ) from None
        if not named.is_dir():
            raise ValueError(
                f"{self.config} names the model {named}, which does not exist here; give the folder as `model`"
            )
        return named

    def last_scores(self, step: int) -> dict[str, float]:
        """Returns the last validation metrics up to a step, by TensorBoard tag; empty if there are none."""
        scores = {}
        for tag, points in self._scalars().items():
            values = [value for at, value in points if at <= step]
            if tag.startswith("val/") and values:
                scores[tag] = round(values[-1], 6)
        return scores

    def curves(self) -> dict[str, Curve]:
        """Returns the training loss, and bits per character and drift of each language, by TensorBoard tag.

        Raises:
            FileNotFoundError: If the folder does not exist.
            ValueError: If the run logged none, or the folder is that of a model.
        """
        found = {
            tag: points
            for tag, points in self._scalars().items()
            if tag == "train/loss" or tag.endswith(("/bits_per_char", "/drift"))
        }
        if not found:
            folder_kinds.check_run_folder(self.path)
            raise ValueError(f"{self.path} has no curves: {self.tensorboard} holds no TensorBoard files of a run")
        return found

    def read_ledger(self) -> dict[str, Any] | None:
        """Returns the content of `ledger.json`; None if the run wrote none.

        Raises:
            ValueError: If it is not a ledger.
        """
        if not self.ledger.is_file():
            return None
        content = read_json(self.ledger)
        sources = content.get("sources", [])
        if not isinstance(sources, list) or not all(isinstance(source, dict) for source in sources):
            raise ModelError(f"{self.ledger}: sources is no list of objects; remove the file, or restore it")
        return content

    def _scalars(self) -> dict[str, Curve]:
        if not self.tensorboard.is_dir():
            return {}
        # importing it takes a second
        from tensorboard.backend.event_processing import event_accumulator  # type: ignore  # noqa: PLC0415

        # by default, TensorBoard keeps a random sample of a curve of more than 10,000 points
        events = event_accumulator.EventAccumulator(str(self.tensorboard), size_guidance={"scalars": 0}).Reload()
        return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in sorted(events.Tags()["scalars"])}
