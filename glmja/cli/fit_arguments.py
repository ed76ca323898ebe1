"""The help of `fit`, and its checks of the command line that do not need Lightning.

Lightning takes seconds to import. Its parser knows all keys of trainer, model and data; this one knows only what the
command line begins with, and answers a request for help, a missing file or a misspelled flag at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from glmja.cli.config_safety import check_file
from glmja.cli.home_paths import expand_arguments
from glmja.cli.parser import nearest, spell_flags
from glmja.errors import ExitCode
from glmja.text.printable import printable

CONFIG_HELP = "YAML file with any of these options. Several can be given; later files override earlier ones."
RUN_DIR_HELP = "New folder of the run, for its configuration, checkpoints, curves and ledger."
CKPT_PATH_HELP = "Checkpoint to resume from; `last` for the newest one of the run folder."
NEW_OPTIMIZER_HELP = "Resume the weights and the position in the data; start with a new optimizer and schedule."
INIT_FROM_HELP = (
    "Run, or checkpoint of a run, whose trained weights this run starts with. Optimizer, schedule and data position "
    "start from zero."
)
PREVIEW_HELP = "Show the first example of each source as it would be trained on, and exit. Target tokens are green."
ESTIMATE_HELP = (
    "Show memory, disk and hours that the run would need, and exit: on GPUs such as 4x24 (GB) or 8xH100, several "
    "separated by commas, by default on four machines. By arithmetic, without the GPUs, the weights and the data."
)
CHATS_HELP = "Sample chats where `callbacks.ChatSampler` is configured; false leaves it out, as in a smoke test."
HELP_ALL_HELP = "Show all options, those of trainer and checkpoint included; takes some seconds."
RUN_DIR = "runs/run"

# what a flag of fit can begin with
GROUPS = (
    "config", "run_dir", "ckpt_path", "model", "data", "trainer", "callbacks", "checkpoint", "seed_everything",
    "print_config", "help_all", "resume_with_new_optimizer", "init_from", "preview", "estimate",
    "chats",
)  # fmt: skip

_OPTIMIZER, _SCHEDULER = "model.optimizer", "model.lr_scheduler"
# the key that is meant by a name that other trainers use
USUAL_NAMES = {
    **dict.fromkeys(("lr", "learning_rate"), f"{_OPTIMIZER}.lr"),
    "weight_decay": f"{_OPTIMIZER}.weight_decay",
    **dict.fromkeys(("warmup", "warmup_ratio", "warmup_steps"), f"{_SCHEDULER}.warmup"),
    **dict.fromkeys(("batch_size", "per_device_train_batch_size", "micro_batch_size"), "data.batch_size"),
    "tokens_per_batch": "data.tokens_per_batch",
    **dict.fromkeys(("epochs", "num_epochs", "num_train_epochs", "max_epochs"), "data.epochs"),
    **dict.fromkeys(
        ("row_len", "max_length", "max_seq_length", "max_seq_len", "seq_len", "cutoff_len"), "data.row_len"
    ),
    **dict.fromkeys(
        ("sources", "dataset", "train_file", "train_files", "data_path", "files", "text_key"), "data.sources"
    ),
    "num_workers": "data.num_workers",
    "val_share": "data.val_share",
    "cache_dir": "data.cache_dir",
    "seed": "seed_everything",
    **dict.fromkeys(("output_dir", "output", "save_dir", "default_root_dir"), "run_dir"),
    **dict.fromkeys(("resume", "resume_from", "resume_from_checkpoint", "checkpoint_path"), "ckpt_path"),
    **dict.fromkeys(("model_dir", "model_name_or_path", "model_path", "base"), "model.model_dir"),
    **dict.fromkeys(("rank", "lora_rank", "lora_r"), "model.lora.rank"),
    "lora_alpha": "model.lora.alpha",
    "lora_dropout": "model.lora.dropout",
    **{name: f"model.{name}" for name in ("tuning", "embeddings", "gradient_checkpointing", "dtype")},
    "accumulate_grad_batches": "trainer.accumulate_grad_batches",
    "gradient_accumulation_steps": "trainer.accumulate_grad_batches",
    **dict.fromkeys(("steps", "num_steps", "max_steps", "max_train_steps"), "trainer.max_steps"),
    **dict.fromkeys(("gpus", "num_gpus", "devices"), "trainer.devices"),
    **dict.fromkeys(("precision", "bf16", "fp16", "mixed_precision"), "trainer.precision"),
    **dict.fromkeys(("strategy", "deepspeed"), "trainer.strategy"),
    **dict.fromkeys(("logging_steps", "log_every_n_steps"), "trainer.log_every_n_steps"),
    **dict.fromkeys(("eval_steps", "val_check_interval"), "trainer.val_check_interval"),
    **dict.fromkeys(("max_grad_norm", "gradient_clip_val"), "trainer.gradient_clip_val"),
    "fast_dev_run": "trainer.fast_dev_run",
    **dict.fromkeys(("save_steps", "save_every", "every_n_train_steps"), "checkpoint.every_n_train_steps"),
    **dict.fromkeys(("save_total_limit", "save_top_k"), "checkpoint.save_top_k"),
}  # fmt: skip

DESCRIPTION = "Trains a model on data, both named in the configuration."
_EXAMPLE = """\
examples:
  {prog} --config configs/sft.yaml --run_dir runs/sft --trainer.max_steps 1000
  {prog} --config configs/sft.yaml --run_dir runs/sft --ckpt_path last
  {prog} --config runs/sft/config.yaml --run_dir runs/more --init_from runs/sft --data.sources '[…]'
  {prog} --config configs/sft.yaml --data.sources.ja.weight 0.7 --callbacks.ChatSampler.every_n_steps 100
  {prog} --config configs/sft.yaml --preview
  {prog} --model.help lit_modules.PackedPretraining

A key of a YAML file is also a flag: `trainer: {{max_steps: 1000}}` is --trainer.max_steps 1000. Sources and callbacks
can also be written by name: `sources: {{ja: {{weight: 0.7}}}}` changes one value, and `en: false` removes a source.
"""


def check_fit_arguments(args: Sequence[str] | None, prog: str) -> None:
    """Ends the program if the arguments ask for help, name a file that cannot be read, or an unknown flag.

    Args:
        args: Arguments; those of the process if None.
        prog: Name of the command in messages.
    """
    parser = _EarlyParser(prog)
    known, others = parser.parse_known_args(spell_flags(expand_arguments(sys.argv[1:] if args is None else args), ()))
    for arg in others:
        flag = arg.partition("=")[0].rstrip("+")
        group, _, key = flag.removeprefix("--").partition(".")
        if arg.startswith("--") and group not in GROUPS:
            name = key if key.rpartition(".")[2] in USUAL_NAMES else group
            parser.error(f"unknown flag {flag}; {nearest(name, GROUPS, USUAL_NAMES, is_flag=True)}")
    if not (known.config or known.help_all or any(arg.startswith(("--model", "--data")) for arg in others)):
        parser.error("no configuration; give --config FILE, such as configs/sft.yaml (--help shows examples)")
    if "" in known.config:
        parser.error("--config is empty, perhaps from an unset variable of the shell; give a YAML file")
    for path in map(Path, known.config):
        if path.suffix in (".yaml", ".yml") and not path.is_file():
            parser.error(f"config: no such file: {path}; give a YAML file, as in configs/")
        if path.is_file():
            try:
                check_file(path)
            except ValueError as error:
                parser.error(str(error))


class _EarlyParser(argparse.ArgumentParser):
    """Knows what the command line of a run begins with."""

    def __init__(self, prog: str) -> None:
        super().__init__(
            prog=prog,
            usage=f"{prog} --config FILE [--config FILE ...] [--KEY VALUE ...]",
            description=DESCRIPTION,
            epilog=_EXAMPLE.format(prog=prog),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        add = self.add_argument
        add("-c", "--config", action="append", default=[], metavar="FILE", help=CONFIG_HELP)
        add("--run_dir", metavar="FOLDER", help=f"{RUN_DIR_HELP} (default: {RUN_DIR})")
        add("--ckpt_path", metavar="CHECKPOINT", help=CKPT_PATH_HELP)
        add("--resume_with_new_optimizer", nargs="?", metavar="true", help=NEW_OPTIMIZER_HELP)
        add("--init_from", metavar="RUN", help=INIT_FROM_HELP)
        add("--preview", nargs="?", metavar="true", help=PREVIEW_HELP)
        add("--estimate", nargs="?", metavar="GPUS", help=ESTIMATE_HELP)
        add("--chats", nargs="?", metavar="false", help=CHATS_HELP)
        add("--seed_everything", metavar="SEED", help="Seed of all random numbers.")
        for group, what, help_flag in (
            ("model", "what is trained and how", "--model.help CLASS"),
            ("data", "documents or conversations, and how they are batched", "--data.help CLASS"),
            ("trainer", "steps, devices, precision", "--help_all"),
            ("data.sources.NAME", "a source that the configuration names", "--data.help CLASS"),
            ("callbacks.NAME", "a callback that the configuration names", "--help_all"),
            ("checkpoint", "how often checkpoints are saved and how many are kept", "--help_all"),
        ):
            add(f"--{group}.KEY", metavar="VALUE", help=f"Key of `{group}`: {what}. {help_flag} lists the keys.")
        add(
            "--print_config",
            nargs="?",
            metavar="OPTIONS",
            help="Print the resulting configuration and exit.",
        )
        self.add_argument_group("more help").add_argument("--help_all", action="store_true", help=HELP_ALL_HELP)

    def error(self, message: str) -> NoReturn:
        """Reports a mistake in one line."""
        print(f"{self.prog}: error: {printable(message)}", file=sys.stderr)
        raise SystemExit(ExitCode.USAGE)
