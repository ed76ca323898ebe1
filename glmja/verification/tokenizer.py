"""What a new tokenizer does to texts, beside the one that it extends."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from rich.table import Table
from tokenizers import Tokenizer

from glmja.text.terminal import make_table
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.tokenization.vocabulary import contains_distinguishing

FILE_NAME = "tokenizer_report.json"

_SENTENCES_PER_BATCH = 4096
_SENTENCE_END = re.compile(r"(?<=[。！？.!?])\s*|\n+")


@dataclass
class TextReport:
    """What the two tokenizers make of one language's text.

    Attributes:
        characters: Of all sentences.
        tokens_before: Tokens of the old tokenizer.
        tokens_after: Tokens of the new one.
        sentences: Sentences read.
        protected: Sentences without a distinguishing character; their ids must not change.
        changed: Sentences whose ids changed.
        protected_changed: Of the protected ones.
        round_trip_before: Sentences that the old tokenizer does not decode to what was encoded.
        round_trip_after: The same for the new one.
        hugging_face_differs: Sentences to which `tokenizer.json` gives other ids than SentencePiece.
        examples: Protected sentences that changed, a few.
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
    hugging_face_differs: int = 0
    examples: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The counts and the tokens per character."""
        rates = {
            "tokens_per_character_before": self.tokens_before / max(self.characters, 1),
            "tokens_per_character_after": self.tokens_after / max(self.characters, 1),
        }
        return asdict(self) | rates

    def failures(self, language: str, policy: str) -> list[str]:
        """What must not be, one line each."""
        found = []
        if self.protected_changed and policy != "none":
            found.append(f"{self.protected_changed} protected sentences of {language} changed: {self.examples}")
        if self.round_trip_after > self.round_trip_before:
            found.append(f"{self.round_trip_after} sentences of {language} are not decoded to themselves")
        if self.hugging_face_differs:
            found.append(f"tokenizer.json gives other ids to {self.hugging_face_differs} sentences of {language}")
        return found


def sentences(documents: Iterable[str]) -> Iterator[str]:
    """Splits documents after sentence ends and at line feeds; white space at the ends is dropped."""
    for document in documents:
        yield from (s.strip() for s in _SENTENCE_END.split(document) if s and not s.isspace())


def compare(
    documents: Iterable[str], old: GLMTokenizer, new: GLMTokenizer, policy: str, fast: Tokenizer | None = None
) -> TextReport:
    """Encodes every sentence with both tokenizers.

    Args:
        documents: Texts of one language.
        old: The tokenizer that was extended.
        new: The extended one.
        policy: Which characters count as distinguishing.
        fast: The new one's `tokenizer.json`, if it is to be compared.
    """
    report, stream = TextReport(), sentences(documents)
    while batch := list(islice(stream, _SENTENCES_PER_BATCH)):
        before, after = old.encode_batch(batch, num_threads=-1), new.encode_batch(batch, num_threads=-1)
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
    return report


def as_table(reports: dict[str, TextReport], title: str) -> Table:
    """The reports as a table, a language a row.

    `changed` counts sentences whose ids changed, of all and of the protected ones; `lossy` those that
    are not decoded to themselves.
    """
    headings = ["text", "sentences", "tokens/char", "changed", "protected", "… changed", "lossy"]
    rows = []
    for language, report in reports.items():
        rates = report.as_dict()
        cells = (
            language,
            f"{report.sentences:,}",
            f"{rates['tokens_per_character_before']:.4f} → {rates['tokens_per_character_after']:.4f}",
            f"{report.changed:,}",
            f"{report.protected:,}",
            f"{report.protected_changed:,}",
            f"{report.round_trip_before:,} → {report.round_trip_after:,}",
        )
        rows.append(cells)
    return make_table(headings, rows, title=title, align="right")
