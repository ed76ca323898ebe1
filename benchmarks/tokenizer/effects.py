"""What tokenizers do to texts: tokens a character, sentences changed, agreement with `tokenizer.json`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from transformers import AutoTokenizer

from glmja.files.documents import read_documents
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.tokenization.vocabulary import contains_distinguishing
from glmja.verification.tokenizer import sentences

_TEXTS_PER_BATCH = 4096


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts, some thousands at a time."""
    stream = iter(texts)
    while batch := list(islice(stream, _TEXTS_PER_BATCH)):
        yield batch


def tokens_per_character(tokenizer: GLMTokenizer, documents: list[str]) -> float:
    """Over whole documents."""
    tokens = sum(len(ids) for batch in batches(documents) for ids in tokenizer.encode_batch(batch, num_threads=-1))
    return tokens / sum(map(len, documents))


class Sentences:
    """The sentences of a language, with the ids that stock ChatGLM3 gives them."""

    def __init__(self, path: Path, stock: GLMTokenizer, policies: Iterable[str]) -> None:
        """Reads and encodes the sentences of a file, and finds which of them each policy protects."""
        self.texts = list(sentences(read_documents([path])))
        self.stock_ids = [ids for batch in batches(self.texts) for ids in stock.encode_batch(batch, num_threads=-1)]
        self.protected = {
            policy: [not contains_distinguishing(text, policy) for text in self.texts] for policy in policies
        }

    def changed(self, tokenizer: GLMTokenizer, policy: str) -> tuple[int, int]:
        """How many sentences get other ids, and how many of those that the policy protects."""
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
    """SentencePiece and `tokenizer.json` on the lines of one language.

    Attributes:
        lines: Lines that are not empty.
        parsed: Lines that differ when Hugging Face reads the names of control tokens in text as tokens.
        parsed_with_name: Those of them that hold such a name.
        split: Lines that differ when it does not.
    """

    lines: int = 0
    parsed: int = 0
    parsed_with_name: int = 0
    split: int = 0


def agreement(folder: Path, path: Path) -> Agreement:
    """Encodes every line of a file with both readings of a tokenizer folder."""
    ours = GLMTokenizer.load(folder)
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
