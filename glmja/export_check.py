"""What is checked on an exported model, read back from its files.

The trained model is put together a second time, by peft and in memory, and its adapters are merged by peft: nothing is
shared with `glmja.merging` but the checkpoint.

Dimensions: T tokens, V vocabulary
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glmja.checkpoint import Checkpoint
from glmja.conversation import question_ids
from glmja.generation import continue_rows
from glmja.model import load_model
from glmja.tensor_source import Source
from glmja.tokenizer import GLMTokenizer
from glmja.trainable import Lora, choose_trainable
from glmja.trained_state import TrainedState

_PROMPTS = ("こんにちは。", "请用一句话介绍北京。", "Write a short poem about the sea.", "1 + 1 = ?")
_NEW_TOKENS = 16
_NUM_RANDOM_IDS = 64


def trained_model(state: TrainedState, model_dir: Path, tokenizer: GLMTokenizer) -> Any:
    """The model as it stood in the run, adapters beside the weights, in fp32.

    Raises:
        ValueError: If the checkpoint does not fit the model.
    """
    facts = state.manifest.facts
    lora = Lora(**facts["lora"]) if facts["lora"] else Lora()
    base = load_model(model_dir, torch.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft asks transformers
        model = choose_trainable(base, facts["tuning"], facts["embeddings"], lora, tokenizer.new_ids).eval()
    prefix = "base_model.model." if hasattr(model, "get_base_model") else ""
    weights = {f"{prefix}{name}": source.read_all() for name, source in state.tensors.items()}
    if unknown := model.load_state_dict(weights, strict=False).unexpected_keys:
        raise ValueError(f"peft knows no {unknown[0]} ({len(unknown)} such names)")
    return model


@torch.inference_mode()
def compare(
    state: TrainedState, model_dir: Path, exported: Checkpoint, tokenizer: GLMTokenizer, run_it: bool = True
) -> dict[str, Any]:
    """Compares an exported model, opened again, with the trained one.

    Args:
        state: What trained.
        model_dir: Folder of the model that the run began with.
        exported: The exported model, as Glm.
        tokenizer: Of both.
        run_it: Whether to compare what the models say, too; the exported one must then lie in its folder.

    Returns:
        What was found, for the report. Logits and replies differ by the rounding to the stored dtype.

    Raises:
        ValueError: If a tensor is not the trained one, rounded.
    """
    rows = _token_rows(tokenizer) if run_it else []
    trained: Any = trained_model(state, model_dir, tokenizer)
    logits, replies = _logits(trained, rows), _greedy(trained, rows, tokenizer)
    if hasattr(trained, "merge_and_unload"):
        trained = trained.merge_and_unload()
    merged = {f"{name.partition('.lora_')[0]}.weight" for name in state.tensors if ".lora_" in name}
    weights = trained.state_dict()
    for name, source in exported.tensors.items():
        _check_tensor(name, source, weights[name], name in merged)
    del trained, weights  # before the next model is loaded
    found = {
        "tensors_bit_equal": len(exported.tensors) - len(merged),
        "tensors_merged_and_rounded": len(merged),
    }
    if not run_it:
        return found
    model = load_model(exported.folder, torch.float32)
    pairs = list(zip(_logits(model, rows), logits, strict=True))
    same = [ours == theirs for ours, theirs in zip(_greedy(model, rows, tokenizer), replies, strict=True)]
    return found | {
        "largest_logit": max(theirs.abs().max().item() for _, theirs in pairs),
        "largest_difference_of_logits": max((ours - theirs).abs().max().item() for ours, theirs in pairs),
        "greedy_replies": len(same),
        "greedy_replies_equal": sum(same),
    }


def _check_tensor(name: str, source: Source, trained: Tensor, merged: bool) -> None:
    """Bit-equal once rounded; or, where an adapter was merged, as near as the order of the sums lets it be."""
    info = torch.finfo(source.dtype)
    noise = 1e-6 * trained.abs().max().item() + info.smallest_normal * info.eps
    start = 0
    for block in source.blocks(0, source.shape[0]):
        expected = trained[start : start + len(block)]
        if merged:
            equal = bool(((block.float() - expected).abs() <= info.eps * expected.abs() + noise).all())
        else:
            equal = torch.equal(block.view(torch.uint8), expected.to(source.dtype).view(torch.uint8))
        if not equal:
            raise ValueError(f"{name} as written is not what was trained, in rows {start} to {start + len(block) - 1}")
        start += len(block)


def _token_rows(tokenizer: GLMTokenizer) -> list[list[int]]:
    """Prompts, and ids from all over the vocabulary: appended pieces occur in no fixed prompt."""
    prompts = [question_ids(prompt, tokenizer) for prompt in _PROMPTS]
    generator = torch.Generator().manual_seed(0)
    return [*prompts, torch.randint(len(tokenizer), (_NUM_RANDOM_IDS,), generator=generator).tolist()]


def _logits(model: nn.Module, rows: list[list[int]]) -> list[Tensor]:
    """(T, V) for each row."""
    return [model(torch.tensor([row])).logits[0] for row in rows]


def _greedy(model: Any, rows: list[list[int]], tokenizer: GLMTokenizer) -> list[tuple[list[int], bool]]:
    return continue_rows(model, tokenizer, rows, max_new_tokens=_NEW_TOKENS, batch_size=1)
