"""Figures about the pieces that a tokenizer gained, and their table."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from glmja.text.terminal import make_table


@dataclass(frozen=True)
class NewPieceUse:
    """Predictions of new pieces in a text.

    Attributes:
        positions: Number of predicted tokens.
        targets: Number of these that are new pieces.
        on_top: Number of positions at which a new piece has the largest logit.
        smallest_lead: Smallest difference between the largest old and the largest new logit of a position, in nats;
            negative if a new piece is on top somewhere.
        mass: Mean probability of all new pieces together.
        median_rank: Median rank of the right token where it is a new piece; 1 is the best. None if it never is.
    """

    positions: int
    targets: int
    on_top: int
    smallest_lead: float
    mass: float
    median_rank: float | None


@dataclass(frozen=True)
class RowScores:
    """Norms and effective rank of rows of a matrix.

    Attributes:
        mean_norm: Mean Euclidean norm.
        effective_rank: exp of the entropy of the singular values, scaled to add up to 1 (Roy & Vetterli, The effective
            rank, EUSIPCO 2007); 1 if all rows are multiples of one.
    """

    mean_norm: float
    effective_rank: float


@dataclass(frozen=True)
class NewRows:
    """New rows of a matrix beside as many old ones; at most 2,048 of each, evenly spaced, for the rank."""

    new: RowScores
    old: RowScores


@dataclass(frozen=True)
class NewPieces:
    """Use of the new pieces of a tokenizer by a model.

    Attributes:
        pieces: Number of new pieces.
        rows: Their rows, of the `input` embedding and the `head`.
        text: Predictions in the texts of each language.
        greedy: Share of new pieces among the tokens of greedy continuations of the texts and of answers, by language.
    """

    pieces: int
    rows: dict[str, NewRows]
    text: dict[str, NewPieceUse]
    greedy: dict[str, float]


def tables_of_new_pieces(found: NewPieces) -> list[Table]:
    """Formats the figures.

    Args:
        found: The figures.
    """
    texts = [
        [
            lang,
            f"{use.targets:,} of {use.positions:,}",
            rank_of(use),
            f"{use.mass:.2%}",
            f"{use.on_top:,}",
            greedy_of(found, lang),
        ]
        for lang, use in found.text.items()
    ]
    headings = ["", "new of all\ntokens", "median\nrank", "mean\nprobability", "on top", "share of\ngreedy tokens"]
    rows = [
        [matrix, *(f"{value:.2f}" for value in (rows.new.mean_norm, rows.old.mean_norm)),
         *(f"{value:,.0f}" for value in (rows.new.effective_rank, rows.old.effective_rank))]
        for matrix, rows in found.rows.items()
    ]  # fmt: skip
    row_headings = ["", "norm,\nnew", "norm,\nold", "effective rank,\nnew", "effective rank,\nold"]
    shown = [make_table(headings, texts, title=f"{found.pieces:,} new pieces in text", align="right")] if texts else []
    return [*shown, make_table(row_headings, rows, title="Rows of the new pieces", align="right")]


def rank_of(use: NewPieceUse) -> str:
    """Formats the median rank of the right new piece."""
    return "–" if use.median_rank is None else f"{use.median_rank:,.0f}"


def greedy_of(found: NewPieces, lang: str) -> str:
    """Formats the share of new pieces in greedy text of a language."""
    return f"{found.greedy[lang]:.1%}" if lang in found.greedy else "–"
