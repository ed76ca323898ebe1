"""Fine-tunes in LLaMA-Factory 0.9.5 for `python -m benchmarks.training.sft_throughput --llamafactory PYTHON`.

It imports nothing of glmja and runs in the environment that `benchmarks/data/llamafactory_peer.py` describes. A turn is
an epoch: it begins with a line on standard input, and ends with a line of JSON on standard output.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

NAME, EPOCHS = "chats", 1000


class Epochs(TrainerCallback):
    """Takes one epoch per turn."""

    def on_train_begin(self, *args: Any, train_dataloader: Any, **kwargs: Any) -> None:
        """Counts the tokens of an epoch and waits for the first turn."""
        self.tokens = self.computed = self.targets = 0
        for batch in train_dataloader.dataset:
            self.tokens += sum(document > 0 for document in batch["attention_mask"])
            self.computed += len(batch["input_ids"])
            self.targets += sum(label >= 0 for label in batch["labels"][1:])
        self._answer()

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        """Reports a turn and waits for the next one."""
        self._answer()

    def _answer(self) -> None:
        counts = {"tokens": self.tokens, "computed": self.computed, "targets": self.targets}
        print(json.dumps({"cpu": time.process_time() - getattr(self, "start", 0.0), **counts}), flush=True)
        if not sys.stdin.readline():
            sys.exit(0)
        self.start = time.process_time()


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings that a user would write as YAML, and writes the description of the data set."""
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    entry = {
        "file_name": str(args.chats.resolve()),
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": tags | {"system_tag": "system"},
    }
    (args.scratch / "dataset_info.json").write_text(json.dumps({NAME: entry}), encoding="utf-8")
    return {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": str(args.model),
        "template": "glm4",
        "finetuning_type": "lora",
        "lora_target": "all",
        "lora_rank": 8,
        "lora_alpha": 16,
        "dataset": NAME,
        "dataset_dir": str(args.scratch),
        "cutoff_len": args.row_len,
        "packing": True,
        "neat_packing": True,
        "flash_attn": "sdpa",
        "overwrite_cache": True,
        "output_dir": str(args.scratch / "output"),
        "per_device_train_batch_size": args.batch_size,
        "num_train_epochs": EPOCHS,
        "learning_rate": 1e-30,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "max_grad_norm": 1.0,
        "bf16": args.bf16,
        "gradient_checkpointing": False,
        "disable_gradient_checkpointing": True,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }


def main(args: Sequence[str] | None = None) -> None:
    """Runs LLaMA-Factory's own fine-tuning."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "chats", "scratch"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--row_len", type=int, required=True)
    parser.add_argument("--batch_size", type=int, required=True)
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args(args)
    from llamafactory.hparams import get_train_args  # type: ignore  # noqa: PLC0415  # not in glmja's environment
    from llamafactory.train.sft.workflow import run_sft  # type: ignore  # noqa: PLC0415

    options.scratch.mkdir(parents=True, exist_ok=True)
    run_sft(*get_train_args(settings(options)), callbacks=[Epochs()])


if __name__ == "__main__":
    main()
