"""Checks an exported model, read back from its files.

The trained model is built a second time in memory and its adapters are merged by peft, so that the reference shares
only the checkpoint with `glmja.weights.merging`. The exported model runs in its own process, loaded by transformers'
classes where these support the layout.

Dimensions: T tokens, V vocabulary
"""

from __future__ import annotations

import multiprocessing
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging

from glmja.conversation.messages import Message
from glmja.conversation.rendering import question_ids, render_prompt
from glmja.errors import ModelError
from glmja.modeling.adapters import Lora, apply_tuning
from glmja.modeling.generation import Continuation, generate_ids
from glmja.modeling.loading import load_model, model_class_of, model_of
from glmja.modeling.model_folder import ModelFolder
from glmja.modeling.sampling import Sampling
from glmja.runs.trained_state import TrainedState
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.weights import peft_names
from glmja.weights.checkpoint import Checkpoint
from glmja.weights.tensors import TensorSource

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
_MAX_ULPS = 64  # of the stored dtype; 2 to 3 were measured
_NUM_RANDOM_IDS = 64


def trained_model(state: TrainedState, base: ModelFolder) -> Any:
    """Builds the model as it was in the run, with unmerged adapters, in fp32.

    Raises:
        ModelError: If the checkpoint does not fit the model.
    """
    identity = state.manifest.identity.as_json()
    lora = Lora(**identity["lora"]) if identity["lora"] else Lora()
    glm = load_model(base, torch.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft asks transformers
        model = apply_tuning(glm, identity["tuning"], identity["embeddings"], lora, base.tokenizer.new_ids).eval()
    named = peft_names.with_prefix if hasattr(model, "get_base_model") else str
    weights = {named(name): source.read_all() for name, source in state.tensors.items()}
    if unknown := model.load_state_dict(weights, strict=False).unexpected_keys:
        raise ModelError(f"peft does not know the parameter {unknown[0]} ({len(unknown)} unknown parameters)")
    return model


@dataclass(frozen=True)
class TensorChecks:
    """Results of comparing the tensors of an export."""

    tensors_bit_equal: int
    tensors_merged_and_rounded: int


@dataclass(frozen=True)
class OutputChecks:
    """Results of comparing logits, replies and rendered chats of an export.

    Attributes:
        chats_with_equal_ids: Chats for which the written tokenizer's template gives the ids of glmja.
        largest_logit: Largest absolute logit of the trained model.
        largest_difference_of_logits: Largest absolute difference between the two models.
        greedy_replies: Number of compared replies.
        greedy_replies_equal: How many of them are equal.
    """

    chats_with_equal_ids: int
    largest_logit: float
    largest_difference_of_logits: float
    greedy_replies: int
    greedy_replies_equal: int


@torch.inference_mode()
def compare(
    state: TrainedState, base: ModelFolder, exported: Checkpoint, run_it: bool = True
) -> tuple[TensorChecks, OutputChecks | None]:
    """Compares an exported model, opened again, with the trained model.

    Args:
        state: The trained tensors.
        base: The model that the run trained.
        exported: The exported model, under the names of the running model.
        run_it: Whether to compare logits and replies, too; the exported model must then be in its folder.

    Returns:
        The checks of tensors and of replies. Logits and replies differ by the rounding to the stored dtype.

    Raises:
        ModelError: If a tensor differs from the trained one by more than its rounding.
    """
    tokenizer = base.tokenizer
    rows = _token_rows(tokenizer) if run_it else []
    trained: Any = trained_model(state, base)
    logits, replies = _logits(trained, rows), _greedy(trained, rows, tokenizer)
    if hasattr(trained, "merge_and_unload"):
        trained = trained.merge_and_unload()
    merged = {f"{part[0]}.weight" for name in state.tensors if (part := peft_names.lora_part(name))}
    weights = trained.state_dict()
    for name, source in exported.tensors.items():
        _check_tensor(name, source, weights[name], name in merged)
    del trained, weights  # before the next model is loaded
    tensors = TensorChecks(len(exported.tensors) - len(merged), len(merged))
    if not run_it:
        return tensors, None
    tolerance = _MAX_ULPS * max(torch.finfo(source.dtype).eps for source in exported.tensors.values())
    return tensors, _compare_outputs(exported.folder, tokenizer, rows, logits, replies, tolerance)


@torch.inference_mode()
def compare_written(written: Checkpoint, folder: Path, tokenizer: GLMTokenizer) -> OutputChecks:
    """Compares a model, loaded in another process, with the weights that were written, bit for bit.

    Raises:
        ModelError: If they differ.
    """
    rows, model = _token_rows(tokenizer), model_of(written, torch.float32)
    return _compare_outputs(folder, tokenizer, rows, _logits(model, rows), _greedy(model, rows, tokenizer), 0)


def _compare_outputs(
    folder: Path,
    tokenizer: GLMTokenizer,
    rows: list[list[int]],
    logits: list[Tensor],
    replies: list[Continuation],
    tolerance: float,
) -> OutputChecks:
    outputs = _in_new_process(folder, rows)
    if outputs.chat_ids is not None and outputs.chat_ids != [render_prompt(chat, tokenizer) for chat in _CHATS]:
        raise ModelError(f"the written chat template renders chats differently from glmja: {outputs.chat_ids}")
    pairs = [(torch.from_numpy(found), expected) for found, expected in zip(outputs.logits, logits, strict=True)]
    same = [found == expected for found, expected in zip(outputs.replies, replies, strict=True)]
    _check_logits(pairs, tolerance)
    return OutputChecks(
        len(outputs.chat_ids or ()),
        max(expected.abs().max().item() for _, expected in pairs),
        max((found - expected).abs().max().item() for found, expected in pairs),
        len(same),
        sum(same),
    )


def _check_logits(pairs: list[tuple[Tensor, Tensor]], tolerance: float) -> None:
    """Rounding changes a logit by little relative to the largest one; wrong weights change it more."""
    for found, expected in pairs:
        difference, largest = (found - expected).abs().max().item(), expected.abs().max().item()
        if not difference <= tolerance * largest:  # also true for NaN
            raise ModelError(
                f"logits of the export differ by up to {difference:.3g}; the largest logit is {largest:.3g}"
            )


class _Outputs(NamedTuple):
    """Output of a model in another process."""

    logits: list[NDArray[np.float32]]  # (T, V) for each row
    replies: list[Continuation]
    chat_ids: list[list[int]] | None  # None without a Hugging Face tokenizer or without roles


def _in_new_process(folder: Path, rows: list[list[int]]) -> _Outputs:
    context = _new_processes()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, folder, rows, torch.get_num_threads()), daemon=True)
    process.start()
    sender.close()  # otherwise `recv` would not see the end of the process
    try:
        outputs = receiver.recv()
    except EOFError:
        process.join()
        raise ChildProcessError(
            f"the process that checks the export ended with exit code {process.exitcode}; if memory ran out, "
            "set `check` to false"
        ) from None
    process.join()
    if isinstance(outputs, Exception):
        raise outputs
    return outputs


def _new_processes() -> SpawnContext:
    return multiprocessing.get_context("spawn")  # a fork would inherit the state of this process


def _send(connection: Connection, folder: Path, rows: list[list[int]], num_threads: int) -> None:
    try:
        outputs: _Outputs | Exception = _compute_outputs(folder, rows, num_threads)
    except (ValueError, OSError) as error:
        outputs = ModelError(f"the export does not load: {error}")
    connection.send(outputs)


def _compute_outputs(folder: Path, rows: list[list[int]], num_threads: int) -> _Outputs:
    torch.set_num_threads(num_threads)  # the order of sums, and so their rounding, depends on it
    logging.set_verbosity_error()  # transformers warns of ChatGLM's model type, which it does not load here
    logging.disable_progress_bar()
    opened, chat_ids = ModelFolder.open(folder), None
    tokenizer = opened.tokenizer
    if opened.layout == "glm":
        model_class_of(opened.architecture)  # registers it with the auto classes, if transformers does not know it
        model, loading = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        if wrong := {key: sorted(found)[:3] for key, found in loading.items() if found}:
            raise ModelError(f"transformers does not load all weights of the export: {wrong}")
        model.eval()
    else:
        model = load_model(opened, torch.float32)
    if (folder / "tokenizer.json").is_file() and tokenizer.has_roles:
        # AutoTokenizer would ask whether to run the code that ChatGLM's config names
        loader = AutoTokenizer if opened.layout == "glm" else PreTrainedTokenizerFast
        written = loader.from_pretrained(folder)
        chat_ids = [written.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) for chat in _CHATS]
    with torch.inference_mode():
        return _Outputs([one.numpy() for one in _logits(model, rows)], _greedy(model, rows, tokenizer), chat_ids)


def _check_tensor(name: str, source: TensorSource, trained: Tensor, merged: bool) -> None:
    """Checks for bit equality after rounding; where an adapter was merged, the order of sums may differ."""
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
            raise ModelError(f"{name} differs from the trained tensor in rows {start} to {start + len(block) - 1}")
        start += len(block)


def _token_rows(tokenizer: GLMTokenizer) -> list[list[int]]:
    """Prompts, and random ids of the whole vocabulary, since no fixed prompt contains appended pieces."""
    prompts = [question_ids(prompt, tokenizer) for prompt in _PROMPTS]
    generator = torch.Generator().manual_seed(0)
    random_ids = torch.randint(len(tokenizer), (_NUM_RANDOM_IDS,), generator=generator).tolist()
    return [*prompts, [*tokenizer.prefix_ids, *random_ids]]


def _logits(model: nn.Module, rows: list[list[int]]) -> list[Tensor]:
    """Returns the logits of each row, (T, V)."""
    return [model(torch.tensor([row])).logits[0] for row in rows]


def _greedy(model: Any, rows: list[list[int]], tokenizer: GLMTokenizer) -> list[Continuation]:
    return generate_ids(model, tokenizer, rows, Sampling(_NEW_TOKENS), batch_size=1)
