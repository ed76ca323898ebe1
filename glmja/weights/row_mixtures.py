"""New embedding rows as convex combinations of old ones.

A piece that a tokenizer gains was spelled by several old pieces before. Its rows are computed from theirs:

- The **input row** of `positional` weights the subtokens by e^(2k), where k counts them, so that the last one
  dominates, as it does in the state that the model has after reading them. AdaptiVocab
  (https://arxiv.org/abs/2503.19693) uses these weights. A plain mean ignores the order: pieces that are permutations
  of each other get equal rows. Repetitions still do: weights that grow by a constant factor give か and かか the same
  row where both are new. `glmja.verification.row_copies` counts them.
- The **head row** of `positional` is half the mean of the subtokens' rows and half the mean of all old rows. The second
  half lowers the new logit towards the mean logit. The mean of the subtokens' logits alone ignores how unlikely it is
  that these subtokens follow each other, and takes too much probability from all other tokens.
- `calibrated` has the same input rows. Its **head row** mixes the row of the first subtoken with the mean of all old
  rows, with shares that the base determines on text (`glmja.modeling.calibration`).

Weights are at least 0 and add up to 1, so a new logit is the same combination of old logits and never exceeds all of
them. Everything is computed in fp64 and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from glmja.weights.options import Init
from glmja.weights.tensors import TensorSource

ROWS_PER_BLOCK = 64  # to compute at a time: 2 MB each in fp64 at width 4,096, and the rows that they are mixed from
_STEP = 2.0  # in the exponent, from one subtoken to the next


@dataclass(frozen=True)
class RowMixtures:
    """Weights of the old rows in each new row of a matrix.

    New row i is (1 - mean_shares[i]) · Σₖ weights[i][k] · row ids[i][k] + mean_shares[i] · mean of all old rows.

    Attributes:
        ids: Ids of old rows, a list for each new row.
        weights: Weights of these rows; they add up to 1.
        mean_shares: Share of the mean of all old rows in each new row, from 0 to 1.
    """

    ids: Sequence[Sequence[int]]
    weights: Sequence[Sequence[float]]
    mean_shares: Sequence[float]

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.weights) == len(self.mean_shares)
        assert all(0 <= share <= 1 for share in self.mean_shares)
        for weights in self.weights:
            assert min(weights) >= 0 and abs(math.fsum(weights) - 1) < 1e-12, weights

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, source: TensorSource, mean_D: Tensor, start: int, stop: int) -> Tensor:
        """Computes new rows `start` to `stop`, (stop - start, D), in fp64.

        Args:
            source: The matrix of the old rows.
            mean_D: Mean of all old rows, in fp64.
            start: First new row.
            stop: End of the new rows.
        """
        share_N1 = mean_D.new_tensor(self.mean_shares[start:stop])[:, None]
        rows_ND = source.weighted_sums_of(self.ids[start:stop], self.weights[start:stop])
        return (1 - share_N1) * rows_ND + share_N1 * mean_D


def mix_rows(
    names: tuple[str, str], init: Init, spelled: Sequence[Sequence[int]], calibrated_shares: Sequence[float] = ()
) -> dict[str, RowMixtures]:
    """Returns the mixtures of both matrices; nothing for `random`, whose rows are no mixtures.

    Args:
        names: Names of the input and the output embedding, which become the keys.
        init: Initialization of new rows.
        spelled: For each new piece, the ids of the old pieces that spell it.
        calibrated_shares: Share of the mean row in each new head row, for `calibrated`.
    """
    even = [_normalized([1.0] * len(ids)) for ids in spelled]
    rising = [_normalized([math.exp(_STEP * (k + 1 - len(ids))) for k in range(len(ids))]) for ids in spelled]
    if init == "random":
        return {}
    embedding, head = names
    none, half, whole = ([share] * len(spelled) for share in (0.0, 0.5, 1.0))
    if init == "calibrated":
        first = RowMixtures([ids[:1] for ids in spelled], [[1.0] for _ in spelled], calibrated_shares)
        return {embedding: RowMixtures(spelled, rising, none), head: first}
    if init == "positional":
        return {embedding: RowMixtures(spelled, rising, none), head: RowMixtures(spelled, even, half)}
    same = RowMixtures(spelled, even, whole if init == "mean" else none)
    return {embedding: same, head: same}


def _normalized(weights: Sequence[float]) -> list[float]:
    total = math.fsum(weights)
    return [weight / total for weight in weights]
