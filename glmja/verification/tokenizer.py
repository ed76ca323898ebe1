"""Compares an extended tokenizer with its base on texts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from tokenizers import Tokenizer

from glmja.text.terminal import make_table
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.tokenization.vocabulary import Piece, contains_distinguishing

REPORT_FILE = "tokenizer_report.json"

_SENTENCES_PER_BATCH = 4096
_SENTENCE_END = re.compile(r"(?<=[。！？.!?])\s*|\n+")


@dataclass
class TextReport:
    """Counts of one language's text under both tokenizers.

    Attributes:
        characters: Characters of all sentences.
        tokens_before: Tokens with the base's tokenizer.
        tokens_after: Tokens with the extended tokenizer.
        sentences: Number of sentences.
        protected: Sentences without a distinguishing character; their ids must not change.
        changed: Sentences whose ids changed.
        protected_changed: Protected sentences whose ids changed.
        round_trip_before: Sentences that the base's tokenizer does not decode to themselves.
        round_trip_after: Sentences that the extended tokenizer does not decode to themselves.
        byte_tokens_before: Tokens that are bytes, with the base's tokenizer.
        byte_tokens_after: Tokens that are bytes, with the extended tokenizer.
        renyi_efficiency_before: Rényi efficiency of the base's tokenizer on the text, from 0 to 1.
        renyi_efficiency_after: Rényi efficiency of the extended tokenizer.
        hugging_face_differs: Sentences for which `tokenizer.json` yields other ids than SentencePiece.
        examples: Up to five protected sentences whose ids changed.
    """

    characters: int = 0
    tokens_before: int = 0
    tokens_after: int = 0
    sentences: int = 0
    protected: int = 0
    changed: int = 0
    protected_changed: int = 0
    round_trip_before: int = 0
    round_trip_after: int = 0
    byte_tokens_before: int = 0
    byte_tokens_after: int = 0
    renyi_efficiency_before: float = 0.0
    renyi_efficiency_after: float = 0.0
    hugging_face_differs: int = 0
    examples: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """Returns the counts, and the tokens per character."""
        before, after = self.tokens_per_character
        return {**asdict(self), "tokens_per_character_before": before, "tokens_per_character_after": after}

    @property
    def tokens_per_character(self) -> tuple[float, float]:
        """Tokens per character with the base's tokenizer and with the extended one."""
        characters = max(self.characters, 1)
        return self.tokens_before / characters, self.tokens_after / characters

    def failures(self, language: str, policy: str) -> list[str]:
        """Returns the conditions that the text violates, one line each."""
        found = []
        if self.protected_changed and policy != "none":
            found.append(f"{self.protected_changed} protected sentences of {language} changed: {self.examples}")
        if self.round_trip_after > self.round_trip_before:
            found.append(f"{self.round_trip_after} sentences of {language} are not decoded to themselves")
        if self.hugging_face_differs:
            found.append(f"tokenizer.json gives other ids to {self.hugging_face_differs} sentences of {language}")
        return found


@dataclass(frozen=True)
class TokenizerReport:
    """The verification of an extended tokenizer, as written to `tokenizer_report.json`.

    Attributes:
        policy: The policy that defines distinguishing characters.
        corpus: The counts of the corpus that the pieces were learned from; None if they were given.
        learning: What the pieces save on it, by their number; None if they were given.
        base_tokenizer_sha256: Fingerprint of the base's tokenizer.
        tokenizer_sha256: Fingerprint of the extended tokenizer.
        hugging_face_tokenizer: Whether Hugging Face's files were written, or why not.
        pieces_before: Number of ids of the base's tokenizer.
        pieces_after: Number of ids of the extended tokenizer.
        pieces_with_space: New pieces that begin with a space; each has a kana.
        control_tokens: Control tokens and their ids.
        special_tokens: Those that were added.
        premises: Whether the conditions of the proof hold for the saved file.
        unreachable_pieces: Number of new pieces that SentencePiece never produces.
        pieces_already_there: Number of given pieces that the base has.
        rejected_pieces: Number of given pieces that the policy rejects.
        rejected_examples: Up to twenty rejected pieces.
        left_out_pieces: Number of given pieces that no merges lead to.
        left_out_examples: Up to twenty of these.
        steps_added: Number of pieces that were not given, but lead to given words.
        texts: The comparison on the texts of each language.
    """

    policy: str
    corpus: dict[str, object] | None
    learning: dict[str, object] | None
    base_tokenizer_sha256: str
    tokenizer_sha256: str
    hugging_face_tokenizer: str
    pieces_before: int
    pieces_after: int
    pieces_with_space: int
    control_tokens: dict[str, int]
    special_tokens: list[str]
    premises: str
    unreachable_pieces: int
    pieces_already_there: int
    rejected_pieces: int
    rejected_examples: list[str]
    left_out_pieces: int
    left_out_examples: list[str]
    steps_added: int
    texts: dict[str, TextReport]

    def as_json(self) -> dict[str, object]:
        """Returns the content of `tokenizer_report.json`."""
        return asdict(self) | {"texts": {language: text.as_json() for language, text in self.texts.items()}}


def sentences(documents: Iterable[str]) -> Iterator[str]:
    """Yields sentences, split at sentence ends and line feeds, without surrounding white space."""
    for document in documents:
        yield from (s.strip() for s in _SENTENCE_END.split(document) if s and not s.isspace())


def compare_on_texts(
    documents: Iterable[str], old: GLMTokenizer, new: GLMTokenizer, policy: str, fast: Tokenizer | None = None
) -> TextReport:
    """Encodes every sentence with both tokenizers and counts the differences.

    Args:
        documents: Documents of one language.
        old: The base's tokenizer.
        new: The extended tokenizer.
        policy: The policy that defines distinguishing characters.
        fast: The extended tokenizer's `tokenizer.json`, if it is to be compared, too.
    """
    report, stream = TextReport(), sentences(documents)
    uses_before, uses_after = np.zeros(len(old), np.int64), np.zeros(len(new), np.int64)
    while batch := list(islice(stream, _SENTENCES_PER_BATCH)):
        before, after = old.encode_batch(batch, num_threads=-1), new.encode_batch(batch, num_threads=-1)
        uses_before += _uses(before, len(old))
        uses_after += _uses(after, len(new))
        count: Counter[str] = Counter(sentences=len(batch))
        for text, ids, new_ids in zip(batch, before, after, strict=True):
            protected, changed = not contains_distinguishing(text, policy), ids != new_ids
            count["characters"] += len(text)
            count["tokens_before"] += len(ids)
            count["tokens_after"] += len(new_ids)
            count["protected"] += protected
            count["changed"] += changed
            count["protected_changed"] += protected and changed
            count["round_trip_before"] += old.decode(ids) != text
            count["round_trip_after"] += new.decode(new_ids) != text
            if protected and changed and len(report.examples) < 5:
                report.examples.append(text)
        if fast is not None:
            encodings = fast.encode_batch(batch, add_special_tokens=False)
            count["hugging_face_differs"] += sum(e.ids != ids for e, ids in zip(encodings, after, strict=True))
        for key, value in count.items():
            setattr(report, key, getattr(report, key) + value)
    report.byte_tokens_before, report.renyi_efficiency_before = _num_bytes(old, uses_before), efficiency(uses_before)
    report.byte_tokens_after, report.renyi_efficiency_after = _num_bytes(new, uses_after), efficiency(uses_after)
    return report


def _uses(encoded: Sequence[Sequence[int]], num_ids: int) -> NDArray[np.int64]:
    return np.bincount(np.fromiter(chain.from_iterable(encoded), np.int64), minlength=num_ids)


def _num_bytes(tokenizer: GLMTokenizer, uses: NDArray[np.int64]) -> int:
    """Returns the number of tokens that are single bytes."""
    return int(uses[[piece.type == Piece.BYTE for piece in tokenizer.proto.pieces]].sum())


def efficiency(uses: NDArray[np.int64], alpha: float = 2.5) -> float:
    """Computes the Rényi efficiency of a tokenizer on a text: its Rényi entropy / log of the vocabulary's size.

    Zouhar et al. 2023, "Tokenization and the Noiseless Channel", https://aclanthology.org/2023.acl-long.284, in which
    it correlates with translation quality at `alpha` 2.5.

    Args:
        uses: How often each id occurs in the text, (V,).
        alpha: Order of the entropy; not 1.

    Returns:
        A number from 0 (one token only) to 1 (all tokens equally often); 0 for an empty text.
    """
    shares = uses[uses > 0] / max(1, uses.sum())
    if len(shares) < 2:
        return 0.0
    return float(np.log((shares**alpha).sum()) / (1 - alpha) / np.log(len(uses)))


def table_of(reports: dict[str, TextReport], title: str) -> Table:
    """Returns a table with one row per language.

    `changed` counts sentences whose ids changed, of all and of the protected ones; `lossy` counts sentences that are
    not decoded to themselves.
    """
    headings = ["text", "sentences", "tokens/char", "changed", "protected", "… changed", "lossy"]
    rows = []
    for language, report in reports.items():
        before, after = report.tokens_per_character
        cells = (
            language,
            f"{report.sentences:,}",
            f"{before:.4f} → {after:.4f}",
            f"{report.changed:,}",
            f"{report.protected:,}",
            f"{report.protected_changed:,}",
            f"{report.round_trip_before:,} → {report.round_trip_after:,}",
        )
        rows.append(cells)
    return make_table(headings, rows, title=title, align="right")


def use_table(reports: dict[str, TextReport]) -> Table:
    """Returns a table of how texts use the vocabulary: tokens that are single bytes, and Rényi efficiency."""
    rows = []
    for language, report in reports.items():
        rates = (
            report.byte_tokens_before / max(1, report.tokens_before),
            report.byte_tokens_after / max(1, report.tokens_after),
        )
        efficiencies = report.renyi_efficiency_before, report.renyi_efficiency_after
        rows.append(
            (
                language,
                " → ".join(f"{100 * rate:.2f} %" for rate in rates),
                " → ".join(f"{e:.3f}" for e in efficiencies),
            )
        )
    return make_table(
        ["text", "tokens that are bytes", "Rényi efficiency"], rows, title="Use of the vocabulary", align="right"
    )
