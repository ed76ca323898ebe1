"""Continuations of token ids by a model.

Works on a bare model or a `PeftModel`, during training or outside it: the mode of every module is restored
and no global random state is touched. Sampling adds noise from a private generator of each prompt to the logits and
takes the largest (the Gumbel-max trick), so a continuation depends on its seed and not on the other rows of the batch.
The cost is noise for the whole vocabulary at each token, which is negligible beside a forward pass.

Dimensions: B prompts, T tokens, V vocabulary
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer

from glmja.modeling.adapters import unwrap_peft
from glmja.modeling.batch import pad_sequences
from glmja.modeling.sampling import Sampling
from glmja.tokenization.tokenizer import GLMTokenizer


class Continuation(NamedTuple):
    """Generated ids.

    Attributes:
        ids: The new ids, without the stop token.
        stopped: Whether the model generated a stop token; if not, `max_new_tokens` was reached.
    """

    ids: list[int]
    stopped: bool


def generate_ids(
    model: PreTrainedModel | PeftModel,
    tokenizer: GLMTokenizer,
    rows: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    batch_size: int = 8,
    on_ids: Callable[[list[int]], None] | None = None,
) -> list[Continuation]:
    """Continues each row of ids.

    Args:
        model: The model; its mode (train or eval) is restored afterwards.
        tokenizer: The model's tokenizer.
        rows: Ids of each prompt.
        sampling: How tokens are chosen. Row i is sampled with the seed `sampling.seed + i`.
        batch_size: Number of prompts per forward pass.
        on_ids: Called with each new id of a single prompt as soon as it is generated, including the stop token.

    Returns:
        One continuation per row.

    Raises:
        ValueError: If a prompt with `max_new_tokens` exceeds the model's positions, or `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` ({batch_size}) must be at least 1")
    _check_lengths(rows, sampling.max_new_tokens, model.config.max_position_embeddings)
    glm = unwrap_peft(model)
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=False,  # `_GumbelNoise` does the sampling
        eos_token_id=tokenizer.stop_ids,
        pad_token_id=tokenizer.eos_id,
        use_cache=True,
    )
    first_seed = random.SystemRandom().getrandbits(62) if sampling.seed is None else sampling.seed
    continuations: list[Continuation] = []
    # eager: layers compiled for training would be compiled again for each length
    with _eval_mode(glm), torch.no_grad(), torch.compiler.set_stance("force_eager"):
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            input_ids_BT, mask_BT = _pad_left(batch, tokenizer.eos_id, glm.device)
            seeds = range(first_seed + start, first_seed + start + len(batch))
            output_BT = glm.generate(
                input_ids_BT,
                attention_mask=mask_BT,
                generation_config=config,
                logits_processor=_logits_processors(sampling, seeds, len(tokenizer), glm.device),
                synced_gpus=False,  # a single rank may generate
                streamer=_Listener(on_ids) if on_ids else None,
            )
            new_ids_BT = output_BT[:, input_ids_BT.shape[1] :]
            continuations += [_until_stop(ids, tokenizer.stop_ids) for ids in new_ids_BT.tolist()]
    return continuations


def _check_lengths(rows: Sequence[Sequence[int]], max_new_tokens: int, num_positions: int) -> None:
    for i, row in enumerate(rows):
        if len(row) + max_new_tokens > num_positions:
            raise ValueError(
                f"prompt {i} has {len(row)} tokens; with `max_new_tokens` ({max_new_tokens}) that exceeds the model's "
                f"{num_positions} positions"
            )


def _until_stop(ids: list[int], stop_ids: Sequence[int]) -> Continuation:
    end = next((i for i, token_id in enumerate(ids) if token_id in stop_ids), len(ids))
    return Continuation(ids[:end], end < len(ids))


def _logits_processors(
    sampling: Sampling, seeds: Sequence[int], num_ids: int, device: torch.device
) -> LogitsProcessorList:
    processors = LogitsProcessorList([_InVocabulary(num_ids)])
    if sampling.do_sample:
        processors.append(TemperatureLogitsWarper(sampling.temperature))
        processors.append(TopPLogitsWarper(sampling.top_p))
        processors.append(_GumbelNoise(seeds, device))
    return processors


class _Listener(BaseStreamer):
    """Forwards each new id to a callback; transformers passes the prompt first, which is skipped."""

    def __init__(self, on_ids: Callable[[list[int]], None]) -> None:
        self.on_ids, self.has_seen_prompt = on_ids, False

    def put(self, value: Tensor) -> None:
        if self.has_seen_prompt:
            self.on_ids(value.tolist())
        self.has_seen_prompt = True

    def end(self) -> None:
        pass


class _InVocabulary(LogitsProcessor):
    """Masks ids beyond the tokenizer: ChatGLM3's embedding matrix has padding rows."""

    def __init__(self, num_ids: int) -> None:
        self.num_ids = num_ids

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, self.num_ids :] = -torch.inf
        return scores


class _GumbelNoise(LogitsProcessor):
    """Adds Gumbel noise, so that the argmax is a sample of the distribution. Each row has its own generator."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        noise_BV = torch.empty_like(scores, dtype=torch.float32)
        for noise_V, generator in zip(noise_BV, self.generators, strict=True):
            noise_V.exponential_(generator=generator)
        # log(0) would turn a score of -inf into NaN
        return scores - noise_BV.clamp_(min=torch.finfo(torch.float32).tiny).log_()


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Disables dropout, and gradient checkpointing, which would disable the cache; restores every module's mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        torch.clear_autocast_cache()  # it holds weight casts made without gradients


def _pad_left(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns ids and mask, (B, T) int64 each; transformers counts positions from the first unmasked id."""
    mask_BT = pad_sequences([[1] * len(row) for row in rows], 0, "left")
    return pad_sequences(rows, pad_id, "left").to(device), mask_BT.to(device)
