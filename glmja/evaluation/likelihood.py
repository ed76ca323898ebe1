"""How likely a model finds text: bits per character, and how far two models are apart.

Bits per character can be compared between tokenizers, where a loss per token cannot. Each text is cut into rows, and
each row begins with `[gMASK] <sop>`, so that every token of the text is predicted; the price of a cut is that what
stands before it is not seen. Ids beyond the tokenizer's (padding of the matrix) take no part.

Dimensions: B rows, T tokens, D width, V vocabulary, N positions, C positions of a chunk
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GlmForCausalLM

from glmja.errors import ModelError
from glmja.modeling.batch import IGNORE_INDEX, pad_sequences
from glmja.modeling.loss import next_token_loss
from glmja.tokenization.tokenizer import GLMTokenizer

_CHUNK_LEN = 512
_ROWS_SORTED = 512  # rows that are put in the order of their lengths, so that batches have little padding


@dataclass
class Likelihood:
    """Of some text.

    Attributes:
        documents: In it.
        characters: In it.
        tokens: That it makes.
        nats: By which the model is surprised, in all.
    """

    documents: int = 0
    characters: int = 0
    tokens: int = 0
    nats: float = 0.0

    @property
    def bits_per_char(self) -> float:
        """Of the text."""
        return self.nats / math.log(2) / max(1, self.characters)

    @property
    def tokens_per_char(self) -> float:
        """Of the text."""
        return self.tokens / max(1, self.characters)


@dataclass(frozen=True)
class Distributions:
    """What a model expected at some positions, as what it is computed from, which takes less room.

    Attributes:
        ids: The tokens that it saw, row by row.
        states: Last hidden states of each row, (N, D), on the CPU.
        head_VD: Output embeddings of the tokenizer's ids, on the CPU.
    """

    ids: list[list[int]]
    states: list[Tensor]
    head_VD: Tensor


def to_rows(document: str, tokenizer: GLMTokenizer, row_len: int) -> list[list[int]]:
    """The ids of a text in rows of at most `row_len`, each with the prefix before it."""
    prefix, ids = tokenizer.prefix_ids, tokenizer.encode(document)
    step = row_len - len(prefix)
    return [prefix + ids[start : start + step] for start in range(0, len(ids), step)]


@torch.inference_mode()
def measure(
    model: GlmForCausalLM,
    tokenizer: GLMTokenizer,
    documents: Iterable[str],
    row_len: int,
    batch_size: int,
    keep: int = 0,
) -> tuple[Likelihood, Distributions]:
    """How likely the model finds the documents.

    Args:
        model: In eval mode.
        tokenizer: The one of the model.
        documents: Read once.
        row_len: Longest row, in tokens.
        batch_size: Rows of a forward pass.
        keep: Positions whose distributions are kept, from the first rows on.

    Raises:
        ModelError: If a likelihood is no number.
    """
    found, num_prefix = Likelihood(), len(tokenizer.prefix_ids)
    head_VD = model.lm_head.weight[: len(tokenizer)]
    kept_head_VD = head_VD.to("cpu", copy=True) if keep else head_VD[:0].cpu()
    kept_ids: list[list[int]] = []
    kept_states: list[Tensor] = []
    rows = _count(documents, tokenizer, row_len, found)
    while block := list(islice(rows, _ROWS_SORTED)):
        states: dict[int, Tensor] = {}
        wanted = _first_rows(block, keep - sum(map(len, kept_ids)))
        order = sorted(range(len(block)), key=lambda i: -len(block[i]))
        for start in range(0, len(order), batch_size):
            numbers = order[start : start + batch_size]
            batch = [block[i] for i in numbers]
            # a causal model does not see what follows, so that padding needs no mask
            hidden_BTD = model.model(pad_sequences(batch, 0).to(model.device), use_cache=False).last_hidden_state
            labels_BT = pad_sequences(batch, IGNORE_INDEX).to(model.device)
            labels_BT[:, :num_prefix] = IGNORE_INDEX
            found.nats += next_token_loss(hidden_BTD, head_VD, labels_BT, _CHUNK_LEN)[0].item()
            for i, hidden_TD in zip(numbers, hidden_BTD, strict=True):
                if i < wanted:  # the state at a position expects the next token; a view would hold the whole batch
                    states[i] = hidden_TD[num_prefix - 1 : len(block[i]) - 1].to("cpu", copy=True)
        kept_ids += block[:wanted]
        kept_states += [states[i] for i in range(wanted)]
    if not math.isfinite(found.nats):
        raise ModelError(
            f"the model gives a text the likelihood {-found.nats} nats; its weights are damaged, or too large "
            "for their dtype; set `dtype` to float32"
        )
    return found, Distributions(kept_ids, kept_states, kept_head_VD)


@torch.inference_mode()
def mean_kl(old: Distributions, new: Distributions, device: torch.device | str = "cpu") -> tuple[float | None, int]:
    """Mean Kullback-Leibler divergence of the new model's distributions from the old one's, in nats a token.

    The sum runs over the old model's ids; what the new model gives to appended pieces is lost to them and so counts.
    Rows that the two tokenise differently cannot be compared and are left out.

    Returns:
        The mean, None if there is nothing to compare; and the positions that it is over.

    Raises:
        ValueError: If the old model has ids that the new one lacks.
    """
    if len(old.head_VD) > len(new.head_VD):
        raise ValueError(f"the old model has {len(old.head_VD)} ids, the new one {len(new.head_VD)}; none may be lost")
    states_of = {tuple(ids): states_ND for ids, states_ND in zip(new.ids, new.states, strict=True)}
    pairs = [
        (p_ND, states_of[tuple(ids)]) for ids, p_ND in zip(old.ids, old.states, strict=True) if tuple(ids) in states_of
    ]
    total, num_old, num_positions = 0.0, len(old.head_VD), sum(len(p_ND) for p_ND, _ in pairs)
    old_head_VD, new_head_VD = old.head_VD.to(device), new.head_VD.to(device)
    for p_ND, q_ND in pairs:
        for start in range(0, len(p_ND), _CHUNK_LEN):
            chunk = slice(start, start + _CHUNK_LEN)
            log_p_CV = _log_probs(p_ND[chunk].to(device), old_head_VD)
            log_q_CV = _log_probs(q_ND[chunk].to(device), new_head_VD)[:, :num_old]
            total += float((log_p_CV.exp() * (log_p_CV - log_q_CV)).sum())
    return (total / num_positions if num_positions else None), num_positions


def _count(documents: Iterable[str], tokenizer: GLMTokenizer, row_len: int, found: Likelihood) -> Iterator[list[int]]:
    """Yields the rows of the documents, and counts what is in them."""
    num_prefix = len(tokenizer.prefix_ids)
    for document in documents:
        rows = to_rows(document, tokenizer, row_len)
        found.documents += 1
        found.characters += len(document)
        found.tokens += sum(len(row) - num_prefix for row in rows)
        yield from rows


def _first_rows(rows: Sequence[Sequence[int]], keep: int) -> int:
    """How many rows from the first on it takes to have so many positions."""
    taken = 0
    while taken < len(rows) and keep > 0:
        keep -= len(rows[taken])
        taken += 1
    return taken


def _log_probs(states_CD: Tensor, head_VD: Tensor) -> Tensor:
    """(C, V), in fp32: 16 bits lose the tail."""
    return F.log_softmax(F.linear(states_CD, head_VD).float(), dim=-1)
