"""The texts of the proof: documents split by their hashes, and held-out windows.

Parts: `held_out` to measure on, `base` to train the base on, `train` to train the arms on and to learn pieces from. The
Chinese and English documents of `train` come from sources of their own, so that the text that the arms replay is not of
the distribution that the base was trained on, as the text that is replayed to a published model is not its own.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.proof.settings import LANGUAGES, Scale
from glmja.files.documents import read_documents

REPLAYED = {
    "zh": {"cmrc2018", "deb:libreoffice-help", "deb:linux-doc-6.1"},
    "en": {"moby-dick", "electron-docs"},
}
_LEFT_OUT = {"chinese-poetry"}  # classical Chinese
_JOINED = 20  # documents that become one where no EOS may stand between them
_SEED = 1  # of the windows


class Window(NamedTuple):
    """A part of a document; every tokenizer splits it at the same character."""

    given: str
    predicted: str


def split(files: Mapping[str, Path], folder: Path, scale: Scale) -> None:
    """Writes `LANG.PART.jsonl`, and `LANG.joined.jsonl`: the documents of `train`, several as one.

    Raises:
        ValueError: If a language has too little text.
    """
    for lang, path in files.items():
        documents = sorted(_records(path), key=lambda record: hashlib.sha256(record[1].encode()).hexdigest())
        replayed = [text for source, text in documents if source in REPLAYED.get(lang, ())]
        others = iter([text for source, text in documents if source not in REPLAYED.get(lang, ())])
        for part, size in scale.characters[lang].items():
            texts = list(_up_to(iter(replayed) if part == "train" and replayed else others, size))
            if sum(map(len, texts)) < size:
                raise ValueError(f"{path}: only {sum(map(len, texts)):,} characters for {part}; {size:,} needed")
            _write(folder / f"{lang}.{part}.jsonl", texts)
            if part == "train":
                joined = ["\n".join(texts[i : i + _JOINED]) for i in range(0, len(texts), _JOINED)]
                _write(folder / f"{lang}.joined.jsonl", joined)


def windows(documents: Iterable[str], span: tuple[int, int], count: int) -> list[Window]:
    """Cuts documents into windows that do not overlap, and draws some; a window is cut at a space if one is near.

    Args:
        documents: The documents.
        span: Characters that are given, and that are predicted.
        count: Number of windows.

    Raises:
        ValueError: If the documents have fewer.
    """
    given, predicted = span
    near, found = predicted // 4, []
    size = given + near + predicted
    for text in documents:
        for start in range(0, len(text) - size + 1, size):
            cut = text.find(" ", start + given, start + given + near)
            cut = start + given if cut < 0 else cut
            found.append(Window(text[start:cut], text[cut : cut + predicted]))
    if len(found) < count:
        raise ValueError(f"the held-out text has {len(found)} windows of {size} characters, not {count}")
    return random.Random(_SEED).sample(found, count)


def held_out_windows(folder: Path, scale: Scale) -> dict[str, list[Window]]:
    """Returns the windows of each language."""
    return {
        lang: windows(read_documents([folder / f"{lang}.held_out.jsonl"]), scale.spans[lang], scale.windows)
        for lang in LANGUAGES
    }


def num_characters(path: Path) -> int:
    """Returns the number of characters of the documents of a file."""
    return sum(map(len, read_documents([path])))


def _records(path: Path) -> Iterator[tuple[str, str]]:
    """Yields source and text of each document."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            source = record.get("source", "")
            if source not in _LEFT_OUT and record["text"].strip():
                yield source, record["text"]


def _up_to(documents: Iterator[str], size: int) -> Iterator[str]:
    while size > 0 and (text := next(documents, None)) is not None:
        size -= len(text)
        yield text


def _write(path: Path, texts: Iterable[str]) -> None:
    lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    path.write_text("".join(lines), encoding="utf-8")
