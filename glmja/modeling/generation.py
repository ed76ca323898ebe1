"""Replies of a model to conversations.

Works on a bare `GlmForCausalLM` or a `PeftModel`, in the middle of training or not: what it changes it puts back, and
it leaves every global random state alone. Sampling adds noise from a private generator of each prompt to the logits
and takes the largest (the Gumbel-max trick), so a prompt's reply depends on its seed and not on the batch around it.
The price: noise for the whole vocabulary at each token, which is nothing beside a forward pass.

Dimensions: B prompts, T tokens, V vocabulary
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Required, TypedDict

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    GlmForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer

from glmja.modeling.adapters import unwrap_peft
from glmja.modeling.batch import pad_sequences
from glmja.tokenization.tokenizer import GLMTokenizer


def check_sampling(max_new_tokens: int, temperature: float, top_p: float) -> None:
    """Checks the numbers that steer generation.

    Raises:
        ValueError: If one is out of its range.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens ({max_new_tokens}) must be at least 1")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature ({temperature}) must be above 0; for the likeliest tokens do not sample")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p ({top_p}) must be above 0 and at most 1")


class Settings(TypedDict, total=False):
    """How `generate_ids` goes on."""

    max_new_tokens: Required[int]
    do_sample: bool
    temperature: float
    top_p: float
    seed: int | None
    batch_size: int
    on_ids: Callable[[list[int]], None] | None


def generate_ids(
    model: GlmForCausalLM | PeftModel,
    tokenizer: GLMTokenizer,
    rows: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    do_sample: bool = False,
    temperature: float = 0.8,
    top_p: float = 0.8,
    seed: int | None = None,
    batch_size: int = 8,
    on_ids: Callable[[list[int]], None] | None = None,
) -> list[tuple[list[int], bool]]:
    """What the model says after each row of ids, and whether it ended it itself.

    Args:
        model: Its mode (train or eval) is as before afterwards.
        tokenizer: The one of the model.
        rows: Ids of each prompt.
        max_new_tokens: A reply ends after so many tokens.
        do_sample: Sample instead of taking the likeliest token each time.
        temperature: Divides the logits before sampling.
        top_p: Sample from the fewest tokens that hold this share of the probability.
        seed: Of the sampling; the same seed gives the same replies, another for each prompt. Drawn if None.
        batch_size: Prompts that are answered at a time.
        on_ids: Called with each new id of a single prompt as it is said, the one that stops it included.

    Returns:
        The ids, without the one that stopped them.

    Raises:
        ValueError: If a prompt and `max_new_tokens` are more than the model's positions, or a number is out of its
            range.
    """
    check_sampling(max_new_tokens, temperature, top_p)
    if batch_size < 1:
        raise ValueError(f"batch_size ({batch_size}) must be at least 1")
    for i, row in enumerate(rows):
        if len(row) + max_new_tokens > model.config.max_position_embeddings:
            raise ValueError(
                f"prompt {i} has {len(row)} tokens; with max_new_tokens ({max_new_tokens}) that is more than the "
                f"model's {model.config.max_position_embeddings} positions"
            )
    glm = unwrap_peft(model)
    first_seed = random.SystemRandom().getrandbits(62) if seed is None else seed
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,  # the noise of `_Sampling` does it
        eos_token_id=tokenizer.stop_ids,
        pad_token_id=tokenizer.eos_id,
        use_cache=True,
    )
    stops = set(tokenizer.stop_ids)
    continued: list[tuple[list[int], bool]] = []
    # layers that are compiled for training would be compiled again for each length
    with _eval_mode(glm), torch.no_grad(), torch.compiler.set_stance("force_eager"):
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            input_ids_BT, mask_BT = _pad_left(batch, tokenizer.eos_id, glm.device)
            processors = LogitsProcessorList([_InVocabulary(len(tokenizer))])
            if do_sample:
                seeds = range(first_seed + start, first_seed + start + len(batch))
                processors += [
                    TemperatureLogitsWarper(temperature),
                    TopPLogitsWarper(top_p),
                    _Sampling(seeds, glm.device),
                ]
            output_BT = glm.generate(
                input_ids_BT,
                attention_mask=mask_BT,
                generation_config=config,
                logits_processor=processors,
                synced_gpus=False,  # one rank may generate alone
                streamer=_Listener(on_ids) if on_ids else None,
            )
            for said in output_BT[:, input_ids_BT.shape[1] :].tolist():
                end = next((i for i, token_id in enumerate(said) if token_id in stops), len(said))
                continued.append((said[:end], end < len(said)))
    return continued


class _Listener(BaseStreamer):
    """Passes each id on as it comes; transformers hands it the prompt first."""

    def __init__(self, on_ids: Callable[[list[int]], None]) -> None:
        self.on_ids, self.has_seen_prompt = on_ids, False

    def put(self, value: Tensor) -> None:
        if self.has_seen_prompt:
            self.on_ids(value.tolist())
        self.has_seen_prompt = True

    def end(self) -> None:
        pass


class _InVocabulary(LogitsProcessor):
    """Keeps to ids that the tokenizer has: the embeddings of ChatGLM3 are longer."""

    def __init__(self, num_ids: int) -> None:
        self.num_ids = num_ids

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, self.num_ids :] = -torch.inf
        return scores


class _Sampling(LogitsProcessor):
    """Adds Gumbel noise, so that the largest score is a sample of the distribution; a generator for each row."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        noise_BV = torch.empty_like(scores, dtype=torch.float32)
        for noise_V, generator in zip(noise_BV, self.generators, strict=True):
            noise_V.exponential_(generator=generator)
        # 0 would make NaN of a score of -inf
        return scores - noise_BV.clamp_(min=torch.finfo(torch.float32).tiny).log_()


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Without dropout, nor the gradient checkpointing that would drop the cache; afterwards every module as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        torch.clear_autocast_cache()  # it holds casts of weights made without gradients


def _pad_left(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask, (B, T) int64 each; transformers counts the positions from the first unmasked id."""
    mask_BT = pad_sequences([[1] * len(row) for row in rows], 0, "left")
    return pad_sequences(rows, pad_id, "left").to(device), mask_BT.to(device)
