"""Measures tokenizers on text: tokens per character, changed sentences, agreement with `tokenizer.json`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from transformers import AutoTokenizer

from glmja.families.recognition import load_tokenizer
from glmja.files.documents import read_documents
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.tokenization.vocabulary import contains_distinguishing
from glmja.verification.tokenizer import sentences

_TEXTS_PER_BATCH = 4096


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yields the texts in batches of a few thousand."""
    stream = iter(texts)
    while batch := list(islice(stream, _TEXTS_PER_BATCH)):
        yield batch


def tokens_per_character(tokenizer: GLMTokenizer, documents: list[str]) -> float:
    """Returns the tokens per character of whole documents."""
    tokens = sum(len(ids) for batch in batches(documents) for ids in tokenizer.encode_batch(batch, num_threads=-1))
    return tokens / sum(map(len, documents))


class Sentences:
    """The sentences of a language and their ids in stock ChatGLM3."""

    def __init__(self, path: Path, stock: GLMTokenizer, policies: Iterable[str]) -> None:
        """Reads and encodes the sentences of a file, and finds those that each policy protects."""
        self.texts = list(sentences(read_documents([path])))
        self.stock_ids = [ids for batch in batches(self.texts) for ids in stock.encode_batch(batch, num_threads=-1)]
        self.protected = {
            policy: [not contains_distinguishing(text, policy) for text in self.texts] for policy in policies
        }

    def changed(self, tokenizer: GLMTokenizer, policy: str) -> tuple[int, int]:
        """Counts the sentences whose ids differ, and those of them that the policy protects."""
        num_changed = num_protected = 0
        old, protected = iter(self.stock_ids), iter(self.protected[policy])
        for batch in batches(self.texts):
            for ids in tokenizer.encode_batch(batch, num_threads=-1):
                changed, is_protected = ids != next(old), next(protected)
                num_changed += changed
                num_protected += changed and is_protected
        return num_changed, num_protected


@dataclass
class Agreement:
    """Number of lines on which SentencePiece and `tokenizer.json` differ.

    Attributes:
        lines: Compared lines, all that are not empty.
        parsed: Lines that differ when Hugging Face parses names of control tokens in text (its default).
        parsed_with_name: Those of `parsed` that contain such a name.
        split: Lines that differ with `split_special_tokens=True`.
    """

    lines: int = 0
    parsed: int = 0
    parsed_with_name: int = 0
    split: int = 0


def agreement(folder: Path, path: Path) -> Agreement:
    """Encodes every line of a file with both tokenizers of a folder."""
    ours = load_tokenizer(folder)
    theirs = AutoTokenizer.from_pretrained(folder)
    names = ["<unk>", *ours.control_tokens]
    backend, found = theirs.backend_tokenizer, Agreement()
    lines = (line for document in read_documents([path]) for line in document.split("\n") if line)
    for batch in batches(lines):
        expected = ours.encode_batch(batch, num_threads=-1)
        backend.encode_special_tokens = False
        parsed = backend.encode_batch_fast(batch, add_special_tokens=False)
        backend.encode_special_tokens = True
        split = backend.encode_batch_fast(batch, add_special_tokens=False)
        found.lines += len(batch)
        for text, ids, one, other in zip(batch, expected, parsed, split, strict=True):
            differs = one.ids != ids
            found.parsed += differs
            found.parsed_with_name += differs and any(name in text for name in names)
            found.split += other.ids != ids
    return found
