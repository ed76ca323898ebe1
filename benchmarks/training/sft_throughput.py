"""Conversations per second beside Hugging Face's ways to batch them: `python -m benchmarks.training.sft_throughput`.

The tiny GLM of `benchmarks.training.training_step`, adapters only, learns the same conversations, rendered once by
`glmja.conversation.rendering`, in each contender's batches; a turn is one epoch. Counted are tokens that are
not padding. The learning rate is 0, so that the mean loss over an epoch must be the same however conversations
are batched: it
would not be if one of them was left out, learnt elsewhere, or saw another one.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import Dataset
from transformers import DataCollatorWithFlattening

from benchmarks.harness.tables import Figures, data_folder, machine, publish
from benchmarks.harness.tiny_glm import (
    HFTurns,
    StepByStep,
    Turn,
    adamw,
    constant,
    furthest,
    hf_trainer,
    lightning_trainer,
    load_trainable,
    median_and_spread,
    planned,
    ratios,
    row,
    take_turns,
    write_model,
)
from data_modules import ChatSource, PaddedSFTData
from glmja.modeling.batch import IGNORE_INDEX
from glmja.tokenization.tokenizer import FILE_NAME
from glmja.twin import build as twin
from lit_modules import PaddedSFT

# Options of Hugging Face's Trainer; flattening is a collator.
HF: dict[str, dict[str, Any]] = {
    "HF, 8 rows padded": {"per_device_train_batch_size": 8},
    "HF, one row": {"per_device_train_batch_size": 1},
    "HF, grouped, 8 rows": {"per_device_train_batch_size": 8, "train_sampling_strategy": "group_by_length"},
    "HF, flattened, 8": {"per_device_train_batch_size": 8},
}
OURS = {"ours, padded": False, "ours, packed": True}
PADDED, ONE_ROW, GROUPED, FLATTENED = HF
TARGETS = {"ours, padded": "≥ 1.6, ≥ 1.0", "ours, packed": "≥ 2.0"}

_MANY_EPOCHS = 1000


def conversation_files(data: Path) -> dict[str, str]:
    """A file of each source; the package's own where there is no such folder."""
    files = {path.name.split(".")[0]: str(path) for path in sorted((data / "sft").glob("*.jsonl.gz"))}
    return files or {"chats": str(twin.text_file("conversations"))}


def sample(files: dict[str, str], count: int, output: Path, seed: int) -> None:
    """Writes conversations drawn from all files."""
    lines: list[str] = []
    for name in files.values():
        content = Path(name).read_bytes()
        text = (gzip.decompress(content) if name.endswith(".gz") else content).decode("utf-8")
        lines += [line for line in text.split("\n") if line and len(json.loads(line)["messages"]) > 1]
    chosen = random.Random(seed).sample(lines, min(count, len(lines)))
    output.write_text("".join(f"{line}\n" for line in chosen), encoding="utf-8")


def data_module(
    tokenizer: Path,
    files: dict[str, str],
    scratch: Path,
    row_len: int,
    tokens_per_batch: int,
    packing: bool,
    epochs: int,
) -> PaddedSFTData:
    """Our data, without validation."""
    sources = [ChatSource(name=name, lang="all", files=[file]) for name, file in files.items()]
    cache = str(scratch / "cache")
    # prompts longer than a row are left out on both sides
    options: dict[str, Any] = {"max_bad_share": 1.0, "val_share": 0.0, "cache_dir": cache}
    return PaddedSFTData(str(tokenizer), sources, row_len, tokens_per_batch, packing, epochs, **options)


class Conversations(Dataset[dict[str, list[int]]]):
    """The same ids and labels as lists, as Hugging Face's collators want them."""

    def __init__(self, data: PaddedSFTData) -> None:
        """Takes all conversations into memory."""
        rows: Any = planned(data).rows
        made = [rows[i] for i in range(len(rows))]
        self.items = [{"input_ids": r.input_ids.tolist(), "labels": r.labels.tolist()} for r in made]

    def __len__(self) -> int:
        """The number of conversations."""
        return len(self.items)

    def __getitem__(self, i: int) -> dict[str, list[int]]:
        """Conversation i."""
        return self.items[i]


def hugging_face(turn: Turn, scratch: Path, precision: str, name: str, row_len: int) -> None:
    """Epochs of Hugging Face's Trainer."""
    data = data_module(scratch / "model", {"chats": str(scratch / "chats.jsonl")}, scratch, row_len, row_len, False, 1)
    callback = HFTurns(turn, per_epoch=True)
    collator = DataCollatorWithFlattening() if name == FLATTENED else padded
    callback.trainer = hf_trainer(
        load_trainable(str(scratch / "model"), "frozen"),
        Conversations(data),
        scratch / "hf",
        precision,
        0.0,
        data_collator=collator,
        callbacks=[callback],
        arguments={"num_train_epochs": _MANY_EPOCHS, **HF[name]},
    )
    callback.trainer.train()


def padded(features: list[dict[str, Any]]) -> dict[str, Tensor]:
    """As DataCollatorForSeq2Seq: rows padded to the longest, rounded up to 8, with a mask; no slower."""
    lengths = torch.tensor([len(feature["input_ids"]) for feature in features])
    width = int(lengths.max()) + -int(lengths.max()) % 8

    def pad(key: str, value: int) -> Tensor:
        return torch.tensor([feature[key] + [value] * (width - len(feature[key])) for feature in features])

    mask = (torch.arange(width) < lengths[:, None]).long()
    return {"input_ids": pad("input_ids", 0), "attention_mask": mask, "labels": pad("labels", IGNORE_INDEX)}


class EpochByEpoch(StepByStep):
    """One epoch over the conversations a turn."""

    def __init__(self, turn: Turn, tokens_per_epoch: int) -> None:
        """Not yet its turn."""
        super().__init__(turn)
        self.tokens_per_epoch = tokens_per_epoch
        self.tokens = self.computed = self.learnt = 0
        self.nats = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts; an epoch ends with its last token."""
        learnt = int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())
        self.tokens += int(batch["lengths"].sum())
        self.computed += batch["input_ids"].numel()
        self.learnt += learnt
        self.nats += float(outputs["loss"]) * learnt
        if self.tokens < self.tokens_per_epoch:
            return
        assert self.tokens == self.tokens_per_epoch
        loss = self.nats / self.learnt
        counts = {"tokens": self.tokens, "computed": self.computed, "learnt": self.learnt}
        self.tokens = self.computed = self.learnt = 0
        self.nats = 0.0
        self.turn.end(loss=loss, **counts)


def ours(turn: Turn, scratch: Path, precision: str, packing: bool, row_len: int, tokens_per_batch: int) -> None:
    """Epochs of our module and data."""
    files = {"chats": str(scratch / "chats.jsonl")}
    given = (scratch / "model", files, scratch, row_len, tokens_per_batch, packing)
    tokens = int(planned(data_module(*given, 1)).ledger.facts["tokens"])
    module = PaddedSFT(
        str(scratch / "model"), embeddings="frozen", dtype="float32", optimizer=adamw(0.0), lr_scheduler=constant
    )
    torch.manual_seed(0)
    module.configure_model()
    trainer = lightning_trainer(scratch, precision, [EpochByEpoch(turn, tokens)], max_steps=-1)
    trainer.fit(module, datamodule=data_module(*given, _MANY_EPOCHS))


def compare(scratch: Path, args: argparse.Namespace) -> list[Figures]:
    """Speed of all contenders."""
    given = {"scratch": scratch, "precision": args.precision, "row_len": args.row_len}
    contenders: dict[str, Any] = {name: partial(hugging_face, name=name, **given) for name in HF}
    for name, packing in OURS.items():
        contenders[name] = partial(ours, packing=packing, tokens_per_batch=args.tokens_per_batch, **given)
    measured, load = take_turns(contenders, args.rounds, warmup=0)
    first = measured[PADDED][0]
    table = Figures(
        f"{args.conversations} conversations, {first['tokens']:,} tokens a turn, {args.precision}, one thread",
        ["batches", "useful tokens/s", "CPU s per 1,000", "useful share", "times HF padded", "times HF grouped",
         "target", "mean loss"],
    )  # fmt: skip
    for name, done in measured.items():
        share = sum(turn["tokens"] for turn in done) / sum(turn["computed"] for turn in done)
        times = [median_and_spread(ratios(measured[peer], done)) for peer in (PADDED, GROUPED)]
        table.rows.append([*row(name, done), f"{share:.1%}", *times, TARGETS.get(name, ""), f"{done[0]['loss']:.5f}"])
    losses = [[done[0]["loss"]] for done in measured.values()]
    apart = max(furthest(losses[0], other) for other in losses)
    same = {(turn["tokens"], turn["learnt"]) for done in measured.values() for turn in done}
    assert len(same) == 1, f"contenders read different tokens: {same}"
    table.notes += [
        f"{load}; mean losses differ by {apart:.1e} of their value at most; all learn {int(first['learnt']):,} tokens.",
        f"Ours: tokens_per_batch {args.tokens_per_batch}, row_len {args.row_len}.",
    ]
    return [table]


def fill(data: Path, scratch: Path, row_len: int, tokens_per_batch: int) -> Figures:
    """Tokens that are not padding, of those computed, over all conversations; nothing is trained."""
    files = conversation_files(data)
    tokenizer = data / "chatglm3" if (data / "chatglm3" / FILE_NAME).is_file() else scratch / "model"
    table = Figures(
        f"All of {', '.join(files)}: fill, row_len {row_len}, tokens_per_batch {tokens_per_batch}",
        ["mode", "conversations", "tokens", "rows", "micro-batches", "fill", "target"],
    )
    for packing, target in ((False, "≥ 95 %"), (True, "≥ 99.9 %")):
        made = planned(data_module(tokenizer, files, scratch, row_len, tokens_per_batch, packing, 1))
        facts, read = made.ledger.facts, sum(int(entry["read"]) for entry in made.ledger.entries)
        cells = [f"{read:,}", *(f"{facts[key]:,}" for key in ("tokens", "rows", "micro_batches"))]
        table.rows.append(["packed" if packing else "padded", *cells, f"{facts['fill']:.3%}", target])
    return table


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(data_folder()), help="Folder of conversations and models.")
    parser.add_argument("--conversations", type=int, default=64, help="Conversations of an epoch.")
    parser.add_argument("--rounds", type=int, default=5, help="Epochs of each contender that count.")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--row_len", type=int, default=1024)
    parser.add_argument("--tokens_per_batch", type=int, default=2048, help="Of ours; about 8 conversations' worth.")
    parser.add_argument("--fill_only", action="store_true", help="Train nothing.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--markdown", help="File to write the tables to.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        write_model(scratch / "model", args.data)
        tables = [fill(args.data.resolve(), scratch, args.row_len, 4096)]
        if not args.fill_only:
            sample(conversation_files(args.data), args.conversations, scratch / "chats.jsonl", args.seed)
            tables = compare(scratch, args) + tables
    publish([machine(["torch", "transformers", "peft", "lightning"]), *tables], args.markdown)


if __name__ == "__main__":
    main()
