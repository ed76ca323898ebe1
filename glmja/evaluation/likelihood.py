"""Likelihood of text under a model, and the KL divergence of two models.

Bits per character are comparable between tokenizers, unlike the loss per token. Each text is split into rows (see
`glmja.evaluation.rows`), and each row begins with `[gMASK] <sop>`, so that every token of the text is predicted. Ids
beyond the tokenizer (padding rows of the matrix) are excluded.

Dimensions: B rows, T tokens, D width, V vocabulary, N positions, C positions of a chunk
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from glmja.errors import ModelError
from glmja.evaluation.rows import Row, to_rows
from glmja.modeling.batch import IGNORE_INDEX, pad_sequences
from glmja.modeling.loss import next_token_loss
from glmja.tokenization.tokenizer import GLMTokenizer

_CHUNK_LEN = 512
_ROWS_SORTED = 512  # rows sorted by length at a time, so that batches have little padding


@dataclass
class Likelihood:
    """Likelihood of a text.

    Attributes:
        characters: Number of characters.
        tokens: Number of tokens.
        document_nats: Negative log-likelihood of each document, in nats.
    """

    characters: int = 0
    tokens: int = 0
    document_nats: list[float] = field(default_factory=list)

    @property
    def documents(self) -> int:
        """Number of documents."""
        return len(self.document_nats)

    @property
    def nats(self) -> float:
        """Total negative log-likelihood, in nats."""
        return math.fsum(self.document_nats)

    @property
    def bits_per_char(self) -> float:
        """Negative log-likelihood per character, in bits."""
        return self.nats / math.log(2) / max(1, self.characters)

    @property
    def tokens_per_char(self) -> float:
        """Tokens per character."""
        return self.tokens / max(1, self.characters)


@dataclass(frozen=True)
class Distributions:
    """Next-token distributions at some positions, stored as hidden states and output embeddings to save memory.

    Attributes:
        ids: Input ids of each row.
        states: Last hidden states of each row, (N, D), on the CPU.
        head_VD: Output embeddings of the tokenizer's ids, on the CPU.
    """

    ids: list[list[int]]
    states: list[Tensor]
    head_VD: Tensor


@torch.inference_mode()
def measure(
    model: PreTrainedModel,
    tokenizer: GLMTokenizer,
    documents: Iterable[str],
    row_len: int,
    batch_size: int,
    keep: int = 0,
    *,
    stride: int | None = None,
    beside: Sequence[GLMTokenizer] = (),
    on_characters: Callable[[int], None] | None = None,
) -> tuple[Likelihood, Distributions]:
    """Measures the likelihood of documents.

    Args:
        model: A model in eval mode.
        tokenizer: The model's tokenizer.
        documents: Documents; iterated once.
        row_len: Maximum length of a row, in tokens.
        batch_size: Rows per forward pass.
        keep: Minimum number of positions, from the first row on, whose distributions are kept (whole rows).
        stride: Number of tokens that each row but the first predicts; see `to_rows`.
        beside: Tokenizers of the models that this one is compared with.
        on_characters: Called after each forward pass with the number of characters that it predicted.

    Returns:
        The likelihood of all documents, and the distributions that were kept.

    Raises:
        ModelError: If the likelihood is not finite.
    """
    found = Likelihood()
    head_VD = model.get_output_embeddings().weight[: len(tokenizer)]
    kept_head_VD = head_VD.to("cpu", copy=True) if keep else head_VD[:0].cpu()
    kept: list[Row] = []
    kept_states: list[Tensor] = []
    rows = _count(documents, lambda document: to_rows(document, tokenizer, row_len, stride, beside), found)
    while numbered := list(islice(rows, _ROWS_SORTED)):
        block = [row for _, row in numbered]
        states: dict[int, Tensor] = {}
        num_kept = _num_rows(block, keep - sum(map(_num_predicted, kept)))
        order = sorted(range(len(block)), key=lambda i: -len(block[i].ids))
        for start in range(0, len(order), batch_size):
            numbers = order[start : start + batch_size]
            batch = [block[i] for i in numbers]
            ids_BT = pad_sequences([row.ids for row in batch], 0).to(model.device)
            # with causal attention, padding on the right needs no mask
            hidden_BTD = model.base_model(ids_BT, use_cache=False).last_hidden_state
            targets = [[IGNORE_INDEX] * row.num_given + row.ids[row.num_given :] for row in batch]
            labels_BT = pad_sequences(targets, IGNORE_INDEX).to(model.device)
            for i, nats in zip(numbers, _row_nats(hidden_BTD, head_VD, labels_BT), strict=True):
                found.document_nats[numbered[i][0]] += nats
            for i, hidden_TD in zip(numbers, hidden_BTD, strict=True):
                if i < num_kept:  # the state at a position predicts the next token; a view would keep the whole batch
                    predicting = slice(block[i].num_given - 1, len(block[i].ids) - 1)
                    states[i] = hidden_TD[predicting].to("cpu", copy=True)
            if on_characters:
                predicted = (token_id for row in batch for token_id in row.ids[row.num_given :])
                on_characters(sum(tokenizer.num_characters[token_id] for token_id in predicted))
        kept += block[:num_kept]
        kept_states += [states[i] for i in range(num_kept)]
    if not math.isfinite(found.nats):
        raise ModelError(
            f"the log-likelihood of a text is {-found.nats} nats; the weights are damaged or overflow in their dtype "
            "(set `dtype` to float32)"
        )
    return found, Distributions([row.ids for row in kept], kept_states, kept_head_VD)


@torch.inference_mode()
def mean_kl(old: Distributions, new: Distributions, device: torch.device | str = "cpu") -> tuple[float | None, int]:
    """Computes the mean KL divergence KL(old || new) of the next-token distributions, in nats per token.

    The sum runs over the old model's ids, so probability that the new model gives to appended pieces increases the
    divergence. Rows that the two models tokenize differently cannot be compared and are skipped.

    Args:
        old: Distributions of the baseline.
        new: Distributions of the model.
        device: Device to compute on.

    Returns:
        The mean, or None if there is nothing to compare, and the number of positions that it is over.

    Raises:
        ValueError: If the new model has fewer ids than the old one.
    """
    if len(old.head_VD) > len(new.head_VD):
        raise ValueError(f"the old model has {len(old.head_VD)} ids, the new one only {len(new.head_VD)}")
    # the same ids may be predicted after less context
    states_of = {(tuple(ids), len(q_ND)): q_ND for ids, q_ND in zip(new.ids, new.states, strict=True)}
    keys = [(tuple(ids), len(p_ND)) for ids, p_ND in zip(old.ids, old.states, strict=True)]
    pairs = [(p_ND, states_of[key]) for key, p_ND in zip(keys, old.states, strict=True) if key in states_of]
    total, num_old, num_positions = 0.0, len(old.head_VD), sum(len(p_ND) for p_ND, _ in pairs)
    old_head_VD, new_head_VD = old.head_VD.to(device), new.head_VD.to(device)
    for p_ND, q_ND in pairs:
        for start in range(0, len(p_ND), _CHUNK_LEN):
            chunk = slice(start, start + _CHUNK_LEN)
            log_p_CV = _log_probs(p_ND[chunk].to(device), old_head_VD)
            log_q_CV = _log_probs(q_ND[chunk].to(device), new_head_VD)[:, :num_old]
            total += float((log_p_CV.exp() * (log_p_CV - log_q_CV)).sum())
    return (total / num_positions if num_positions else None), num_positions


def _count(documents: Iterable[str], split: Callable[[str], list[Row]], found: Likelihood) -> Iterator[tuple[int, Row]]:
    """Yields the rows of the documents with the document's number, and adds up documents, characters and tokens."""
    for number, document in enumerate(documents):
        rows = split(document)
        found.document_nats.append(0.0)
        found.characters += len(document)
        found.tokens += sum(map(_num_predicted, rows))
        yield from ((number, row) for row in rows)


def _row_nats(hidden_BTD: Tensor, head_VD: Tensor, labels_BT: Tensor) -> list[float]:
    """Returns the negative log-likelihood of each row, in nats."""
    rows = zip(hidden_BTD.split(1), labels_BT.split(1), strict=True)
    return torch.stack([next_token_loss(hidden, head_VD, labels, _CHUNK_LEN)[0] for hidden, labels in rows]).tolist()


def _num_predicted(row: Row) -> int:
    return len(row.ids) - row.num_given


def _num_rows(rows: Sequence[Row], keep: int) -> int:
    """Returns the number of rows, from the first on, that together have `keep` positions."""
    taken = 0
    while taken < len(rows) and keep > 0:
        keep -= _num_predicted(rows[taken])
        taken += 1
    return taken


def _log_probs(states_CD: Tensor, head_VD: Tensor) -> Tensor:
    """Returns log-probabilities, (C, V), in fp32: 16 bits lose the tail."""
    return F.log_softmax(F.linear(states_CD, head_VD).float(), dim=-1)
