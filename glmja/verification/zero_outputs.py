"""Compares the replies of a Zero model and its base, and the likelihoods that they give to texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from glmja.conversation.rendering import question_ids
from glmja.errors import ModelError
from glmja.modeling.model_folder import ModelFolder
from glmja.tokenization.tokenizer import GLMTokenizer

if TYPE_CHECKING:
    from glmja.evaluation.likelihood import Likelihood
    from glmja.evaluation.new_pieces import NewPieceUse
    from glmja.modeling.generation import Continuation

PROMPTS = ("你好", "请用一句话介绍北京。", "Write a short poem about the sea.", "1 + 1 = ?")
_NEW_TOKENS = 16
_ROW_LEN = 1024
_BATCH_SIZE = 4
_ALL = 1 << 60  # positions


@dataclass(frozen=True)
class TextCheck:
    """A text of one language under base and Zero.

    Attributes:
        characters: Number of characters.
        base_bits_per_char: Bits per character under the base.
        zero_bits_per_char: Bits per character under Zero.
        positions: Number of tokens that Zero predicted.
        new_on_top: Number of these at which a new piece had the largest logit.
        smallest_lead: Smallest difference between the largest old and the largest new logit, in nats.
        mass_of_new: Mean probability of all new pieces together.
    """

    characters: int
    base_bits_per_char: float
    zero_bits_per_char: float
    positions: int
    new_on_top: int
    smallest_lead: float | None
    mass_of_new: float

    @property
    def change(self) -> float:
        """Relative change of bits per character; positive is worse."""
        return self.zero_bits_per_char / self.base_bits_per_char - 1 if self.base_bits_per_char else 0.0

    def cells(self) -> list[str]:
        """Returns the cells of a row of a table."""
        bits = [f"{value:.3f}" for value in (self.base_bits_per_char, self.zero_bits_per_char)]
        return [f"{self.characters:,}", *bits, f"{self.change:+.2%}", f"{self.new_on_top:,} of {self.positions:,}"]


@dataclass(frozen=True)
class Probe:
    """Prompts and texts on which base and Zero are compared.

    Attributes:
        greedy: Whether to compare greedy replies.
        texts: Documents by language.
        device: Device to measure texts on. Replies are computed on the CPU: on a GPU, the number of rows may change the
            order of additions, and with it a near tie in 16 bits.
    """

    greedy: bool
    texts: Mapping[str, Sequence[str]]
    device: str = "cpu"


@dataclass(frozen=True)
class _Outputs:
    replies: list[Continuation] = field(default_factory=list)
    likelihoods: dict[str, Likelihood] = field(default_factory=dict)
    uses: dict[str, NewPieceUse] = field(default_factory=dict)


def compare_outputs(base: ModelFolder, zero: ModelFolder, dtype: torch.dtype, probe: Probe) -> dict[str, TextCheck]:
    """Compares greedy replies, and measures texts; one model is in memory at a time.

    Args:
        base: The base. It chooses among the ids of its tokenizer only: further rows are padding that was never trained.
        zero: The Zero model.
        dtype: Dtype to compute in.
        probe: Prompts and texts.

    Raises:
        ModelError: If greedy replies differ, or a likelihood is not finite.
    """
    new_ids = range(len(base.tokenizer), len(zero.tokenizer))
    before = _run(base, zero.tokenizer, dtype, probe, range(0))
    after = _run(zero, base.tokenizer, dtype, probe, new_ids)
    for prompt, old, new in zip(PROMPTS, before.replies, after.replies, strict=False):
        if new != old:
            raise ModelError(f"greedy replies to {prompt!r} differ: {old.ids} became {new.ids}")
    return {lang: _check(before.likelihoods[lang], after, lang) for lang in probe.texts}


def _run(folder: ModelFolder, beside: GLMTokenizer, dtype: torch.dtype, probe: Probe, new_ids: range) -> _Outputs:
    # takes seconds and 0.1 GB, and the other checks of a Zero model do not need it
    from glmja.evaluation.likelihood import measure  # noqa: PLC0415
    from glmja.evaluation.new_pieces import use_of_new_pieces  # noqa: PLC0415
    from glmja.modeling.generation import generate_ids  # noqa: PLC0415
    from glmja.modeling.loading import load_model  # noqa: PLC0415
    from glmja.modeling.sampling import Sampling  # noqa: PLC0415

    model, tokenizer, outputs = load_model(folder, dtype), folder.tokenizer, _Outputs()
    if probe.greedy:
        prompts = [question_ids(prompt, tokenizer) for prompt in PROMPTS]
        replies = generate_ids(model, tokenizer, prompts, Sampling(_NEW_TOKENS), batch_size=1)
        outputs.replies.extend(replies)
    if probe.texts:
        model = model.to(probe.device)
    for lang, texts in probe.texts.items():
        outputs.likelihoods[lang], found = measure(
            model,
            tokenizer,
            texts,
            min(_ROW_LEN, folder.max_positions),
            _BATCH_SIZE,
            keep=_ALL if new_ids else 0,
            beside=[beside],
        )
        if new_ids:
            outputs.uses[lang] = use_of_new_pieces(found, new_ids, probe.device)
    return outputs


def _check(before: Likelihood, after: _Outputs, lang: str) -> TextCheck:
    found, use = after.likelihoods[lang], after.uses.get(lang)
    return TextCheck(
        characters=found.characters,
        base_bits_per_char=before.bits_per_char,
        zero_bits_per_char=found.bits_per_char,
        positions=found.tokens,
        new_on_top=use.on_top if use else 0,
        smallest_lead=use.smallest_lead if use else None,
        mass_of_new=use.mass if use else 0.0,
    )


def first_characters(documents: Iterable[str], num_characters: int) -> list[str]:
    """Returns the first documents, the last of them cut, which have `num_characters` characters together.

    Args:
        documents: Documents; read only as far as needed.
        num_characters: Number of characters; all documents are returned if they have fewer.
    """
    taken: list[str] = []
    left = num_characters
    for document in documents:
        taken.append(document[:left])
        left -= len(taken[-1])
        if left <= 0:
            break
    return taken
