"""The texts of the demo: those that ship with the package, in two parts, for training and held out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from glmja.twin.build import LANGUAGES, text_file

CHAT_LANGUAGES = (*LANGUAGES, "code")

_HELD_OUT_EVERY = 10  # every tenth conversation is held out from training
_PARAGRAPH = "\n\n"


@dataclass(frozen=True)
class Split:
    """The two files of a text."""

    train: str
    held_out: str


@dataclass(frozen=True)
class Texts:
    """Files of the demo, by language.

    Attributes:
        prose: Documents.
        chats: Conversations.
    """

    prose: dict[str, Split]
    chats: dict[str, Split]


def split_texts(folder: Path) -> Texts:
    """Writes the shipped texts into files for training and held-out ones.

    Args:
        folder: Folder for the files; created if it does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prose = {lang: _write(*_split_paragraphs(lang), folder / f"{lang}.jsonl") for lang in LANGUAGES}
    chats: dict[str, dict[int, str]] = {lang: {} for lang in CHAT_LANGUAGES}
    for i, line in enumerate(_lines(text_file("conversations"))):
        record = json.loads(line)
        chats[record["lang"]][i] = json.dumps({"messages": record["messages"]}, ensure_ascii=False) + "\n"
    return Texts(prose, {lang: _write(*_every_tenth(x), folder / f"{lang}_chats.jsonl") for lang, x in chats.items()})


def read_messages(path: str) -> Iterator[str]:
    """Yields the contents of all messages of a file of conversations."""
    for line in _lines(Path(path)):
        yield from (message["content"] for message in json.loads(line)["messages"])


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines(keepends=True)


def _split_paragraphs(lang: str) -> tuple[list[str], list[str]]:
    """Holds out the last paragraph of each document: a verdict on retention needs 20 documents of a language."""
    parts = [json.loads(line)["text"].rpartition(_PARAGRAPH) for line in _lines(text_file(lang))]
    texts = [before or last for before, _, last in parts], [last for before, _, last in parts if before]
    train, held_out = ([json.dumps({"text": one}, ensure_ascii=False) + "\n" for one in part] for part in texts)
    return train, held_out


def _every_tenth(lines: Mapping[int, str]) -> tuple[list[str], list[str]]:
    """Returns lines, given with their numbers, that are trained on, and those that are held out."""
    held_out = {i: line for i, line in lines.items() if i % _HELD_OUT_EVERY == 0}
    return [line for i, line in lines.items() if i not in held_out], [*held_out.values()]


def _write(train: list[str], held_out: list[str], path: Path) -> Split:
    """Writes lines into a file for training and a held-out one."""
    split = Split(str(path), str(path.with_suffix(".held_out.jsonl")))
    Path(split.train).write_text("".join(train), encoding="utf-8")
    Path(split.held_out).write_text("".join(held_out), encoding="utf-8")
    return split
