"""Runs the whole pipeline on a tiny model, with the texts that ship with the package: `python -m glmja.demo`."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from glmja.cli.arguments import check_at_least_1, check_device
from glmja.cli.command import run_command
from glmja.evaluation.scores import Scores
from glmja.files.output_folder import check_free

PARTS = (
    "texts", "random", "base_text", "base_chats", "base", "tokenizer", "zero", "zero_test", "token_store", "pretrain",
    "pretrained", "pretrained_test", "sft", "chat", "evaluation",
)  # fmt: skip


def demo(
    output: str = "demo",
    teach_steps: int = 150,
    pretrain_steps: int = 80,
    pretrain_lr: float = 3e-4,
    sft_steps: int = 300,
    overwrite: bool = False,
) -> Scores:
    """Runs all steps on a tiny ChatGLM3 and compares its replies; takes two to three minutes on two cores.

    The base is first taught Chinese and English, so that it has something to lose when Japanese is added.

    Args:
        output: New folder for all results: base model, tokenizer, models, runs and reports.
        teach_steps: Optimizer steps in which the base learns Chinese and English conversations; half as many
            before that for texts.
        pretrain_steps: Optimizer steps of pretraining.
        pretrain_lr: Learning rate of pretraining.
        sft_steps: Optimizer steps of fine-tuning on conversations.
        overwrite: Replace the results of an earlier demo in `output`.

    Returns:
        The scores of the final model.

    Raises:
        ValueError: If a number is out of range, `output` is not empty, or a step fails.
    """
    import torch

    from glmja.demo.steps import Steps
    from glmja.demo.texts import split_texts

    check_at_least_1(teach_steps=teach_steps, pretrain_steps=pretrain_steps, sft_steps=sft_steps)
    if pretrain_lr <= 0:
        raise ValueError(f"--pretrain_lr {pretrain_lr} must be greater than 0")
    check_free(output, overwrite, keeps_others=True)
    start = time.monotonic()
    for part in PARTS:
        shutil.rmtree(Path(output) / part, ignore_errors=True)
    # one thread suffices for matrices this small, and does not wait for another one where other programs use the cores
    torch.set_num_threads(1)
    steps = Steps(Path(output), split_texts(Path(output) / "texts"), check_device("auto"))
    steps.teach_base(teach_steps)
    steps.build_tokenizer()
    steps.resize_embeddings()
    steps.pretrain(pretrain_steps, pretrain_lr)
    steps.evaluate_pretrained()
    steps.fine_tune(sft_steps)
    scores = steps.evaluate()
    steps.show_results(time.monotonic() - start)
    return scores


def main(args: list[str] | None = None) -> Scores:
    """Runs the command line."""
    return run_command(demo, args)
