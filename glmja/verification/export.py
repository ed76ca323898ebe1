"""What is checked on an exported model, read back from its files.

The trained model is put together a second time, by peft and in memory, and its adapters are merged by peft: nothing is
shared with `glmja.weights.merging` but the checkpoint. The exported one speaks in a process of its own, loaded by
transformers' own classes where they know the layout.

Dimensions: T tokens, V vocabulary
"""

from __future__ import annotations

import multiprocessing
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from glmja.conversation.messages import Message
from glmja.conversation.rendering import question_ids, render_prompt
from glmja.errors import ModelError
from glmja.modeling.adapters import Lora, apply_tuning
from glmja.modeling.generation import Continuation, generate_ids
from glmja.modeling.loading import load_model, model_of
from glmja.modeling.model_folder import ModelFolder
from glmja.modeling.sampling import Sampling
from glmja.runs.trained_state import TrainedState
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.weights.checkpoint import Checkpoint
from glmja.weights.tensors import Source

_PROMPTS = ("こんにちは。", "请用一句话介绍北京。", "Write a short poem about the sea.", "1 + 1 = ?")
_CHATS: tuple[list[Message], ...] = (
    [{"role": "user", "content": "こんにちは。"}],
    [
        {"role": "system", "content": "请简短回答。"},
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "你好！"},
        {"role": "user", "content": "What is 1 + 1?"},
    ],
)
_NEW_TOKENS = 16
_MOST_ULPS = 64  # of the stored dtype; 2 to 3 are seen
_NUM_RANDOM_IDS = 64


def trained_model(state: TrainedState, base: ModelFolder) -> Any:
    """Builds the model as it was in the run, adapters beside the weights, in fp32.

    Raises:
        ValueError: If the checkpoint does not fit the model.
    """
    facts = state.manifest.identity.as_json()
    lora = Lora(**facts["lora"]) if facts["lora"] else Lora()
    glm = load_model(base, torch.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft asks transformers
        model = apply_tuning(glm, facts["tuning"], facts["embeddings"], lora, base.tokenizer.new_ids).eval()
    prefix = "base_model.model." if hasattr(model, "get_base_model") else ""
    weights = {f"{prefix}{name}": source.read_all() for name, source in state.tensors.items()}
    if unknown := model.load_state_dict(weights, strict=False).unexpected_keys:
        raise ModelError(f"peft knows no {unknown[0]} ({len(unknown)} such names)")
    return model


@torch.inference_mode()
def compare(state: TrainedState, base: ModelFolder, exported: Checkpoint, run_it: bool = True) -> dict[str, Any]:
    """Compares an exported model, opened again, with the trained one.

    Args:
        state: What trained.
        base: The model that the run trained.
        exported: The exported model, under Glm's names.
        run_it: Whether to compare what the models say, too; the exported one must then lie in its folder.

    Returns:
        What was found, for the report. Logits and replies differ by the rounding to the stored dtype.

    Raises:
        ValueError: If a tensor is not the trained one, rounded.
    """
    tokenizer = base.tokenizer
    rows = _token_rows(tokenizer) if run_it else []
    trained: Any = trained_model(state, base)
    logits, replies = _logits(trained, rows), _greedy(trained, rows, tokenizer)
    if hasattr(trained, "merge_and_unload"):
        trained = trained.merge_and_unload()
    merged = {f"{name.partition('.lora_')[0]}.weight" for name in state.tensors if ".lora_" in name}
    weights = trained.state_dict()
    for name, source in exported.tensors.items():
        _check_tensor(name, source, weights[name], name in merged)
    del trained, weights  # before the next model is loaded
    found: dict[str, Any] = {
        "tensors_bit_equal": len(exported.tensors) - len(merged),
        "tensors_merged_and_rounded": len(merged),
    }
    if not run_it:
        return found
    tolerance = _MOST_ULPS * max(torch.finfo(source.dtype).eps for source in exported.tensors.values())
    return found | _compare_speech(exported.folder, tokenizer, rows, logits, replies, tolerance)


@torch.inference_mode()
def compare_written(written: Checkpoint, folder: Path, tokenizer: GLMTokenizer) -> dict[str, Any]:
    """Compares a model, opened again in a process of its own, with the weights that were written; to the bit.

    Raises:
        ModelError: If they differ.
    """
    rows, model = _token_rows(tokenizer), model_of(written, torch.float32)
    return _compare_speech(folder, tokenizer, rows, _logits(model, rows), _greedy(model, rows, tokenizer), 0)


def _compare_speech(
    folder: Path,
    tokenizer: GLMTokenizer,
    rows: list[list[int]],
    logits: list[Tensor],
    replies: list[Continuation],
    tolerance: float,
) -> dict[str, Any]:
    said = _in_new_process(folder, rows)
    if said.chat_ids is not None and said.chat_ids != [render_prompt(chat, tokenizer) for chat in _CHATS]:
        raise ModelError(f"the tokenizer as written renders chats otherwise than glmja: {said.chat_ids}")
    pairs = [(torch.from_numpy(ours), theirs) for ours, theirs in zip(said.logits, logits, strict=True)]
    same = [ours == theirs for ours, theirs in zip(said.replies, replies, strict=True)]
    _check_logits(pairs, tolerance)
    return {
        "chats_with_equal_ids": len(said.chat_ids or ()),
        "largest_logit": max(theirs.abs().max().item() for _, theirs in pairs),
        "largest_difference_of_logits": max((ours - theirs).abs().max().item() for ours, theirs in pairs),
        "greedy_replies": len(same),
        "greedy_replies_equal": sum(same),
    }


def _check_logits(pairs: list[tuple[Tensor, Tensor]], tolerance: float) -> None:
    """Rounding moves a logit by little beside the largest; weights that are other ones do not."""
    for ours, theirs in pairs:
        difference, largest = (ours - theirs).abs().max().item(), theirs.abs().max().item()
        if not difference <= tolerance * largest:  # NaN is not
            raise ModelError(f"logits of the export are up to {difference:.3g} off; the largest is {largest:.3g}")


class _Said(NamedTuple):
    """What a model said in another process."""

    logits: list[NDArray[np.float32]]  # (T, V) for each row
    replies: list[Continuation]
    chat_ids: list[list[int]] | None  # None without a Hugging Face tokenizer, or one that knows no roles


def _in_new_process(folder: Path, rows: list[list[int]]) -> _Said:
    context = multiprocessing.get_context("spawn")  # a fork would know all that this process knows
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(theirs, folder, rows, torch.get_num_threads()), daemon=True)
    process.start()
    theirs.close()  # or its end would not be seen
    try:
        said = ours.recv()
    except EOFError:
        process.join()
        raise ChildProcessError(
            f"the process that checks the export ended with exit code {process.exitcode}; if memory ran out, "
            "set `check` to false"
        ) from None
    process.join()
    if isinstance(said, Exception):
        raise said
    return said


def _send(connection: Connection, folder: Path, rows: list[list[int]], num_threads: int) -> None:
    try:
        said: _Said | Exception = _speak(folder, rows, num_threads)
    except (ValueError, OSError) as error:
        said = ModelError(f"the export does not load: {error}")
    connection.send(said)


def _speak(folder: Path, rows: list[list[int]], num_threads: int) -> _Said:
    torch.set_num_threads(num_threads)  # sums in another order would differ
    opened, chat_ids = ModelFolder.open(folder), None
    tokenizer = opened.tokenizer
    if opened.layout == "glm":
        model, loading = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        if wrong := {key: sorted(found)[:3] for key, found in loading.items() if found}:
            raise ModelError(f"transformers finds other weights than it wants: {wrong}")
        model.eval()
    else:
        model = load_model(opened, torch.float32)
    if (folder / "tokenizer.json").is_file() and opened.family.has_roles:
        written = AutoTokenizer.from_pretrained(folder)
        chat_ids = [written.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) for chat in _CHATS]
    with torch.inference_mode():
        return _Said([one.numpy() for one in _logits(model, rows)], _greedy(model, rows, tokenizer), chat_ids)


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
            raise ModelError(f"{name} as written is not what was trained, in rows {start} to {start + len(block) - 1}")
        start += len(block)


def _token_rows(tokenizer: GLMTokenizer) -> list[list[int]]:
    """Prompts, and ids from all over the vocabulary: appended pieces occur in no fixed prompt."""
    prompts = [question_ids(prompt, tokenizer) for prompt in _PROMPTS]
    generator = torch.Generator().manual_seed(0)
    return [*prompts, torch.randint(len(tokenizer), (_NUM_RANDOM_IDS,), generator=generator).tolist()]


def _logits(model: nn.Module, rows: list[list[int]]) -> list[Tensor]:
    """(T, V) for each row."""
    return [model(torch.tensor([row])).logits[0] for row in rows]


def _greedy(model: Any, rows: list[list[int]], tokenizer: GLMTokenizer) -> list[Continuation]:
    return generate_ids(model, tokenizer, rows, Sampling(_NEW_TOKENS), batch_size=1)
