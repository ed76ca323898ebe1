"""Sources of documents and conversations, as named in a configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from glmja.conversation.formats import KEYS, ChatFormat
from glmja.conversation.turns import Learn
from glmja.files.documents import check_document_files
from glmja.files.input_files import CONVERSATION_KINDS, DOCUMENT_KINDS, InputFile, find_files
from glmja.files.records import check_record_files


@dataclass(frozen=True)
class TextSource:
    """A named set of documents in one language, from files or from a Hugging Face dataset.

    Attributes:
        name: Name of the source, as in `val/NAME/loss`.
        lang: Language of the source, as in `val/LANG/bits_per_char`.
        files: Files, folders, or patterns such as `data/*.jsonl`, as `glmja.files.documents.read_documents` takes them.
            `FILE:KEY` names the key of the text in one of them.
        text_key: Key or column of the text; `translation.ja` is the key `ja` of the object `translation`.
        documents: What is a document of a text file: a `line`, or the whole `file`, as a book.
        limit: Maximum number of records of `files` or `hub` to read; None reads all.
        hub: Name of a dataset on the Hugging Face Hub, or of a local folder of data files or from
            `Dataset.save_to_disk`, instead of `files`.
        hub_config: Configuration of the dataset, if it has several.
        split: Split of the dataset; `train[:10%]` takes a part.
        weight: Share of the source in the tokens of the run, relative to the weights of the other sources. None, for
            all sources, means shares in proportion to their sizes.
        val_files: Paths of files with validation documents, instead of a held-out share of the source.
    """

    name: str
    lang: str
    files: list[str] = field(default_factory=list)
    text_key: str = "text"
    documents: Literal["line", "file"] = "line"
    limit: int | None = None
    hub: str | None = None
    hub_config: str | None = None
    split: str = "train"
    weight: float | None = None
    val_files: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Checks the fields against each other and their ranges.

        Raises:
            ValueError: If there are both files and a dataset, or neither, `documents` is unknown, or the weight or the
                limit is not a positive number.
        """
        if bool(self.files) == bool(self.hub):
            found = f"files {self.files} and hub {self.hub!r}" if self.files else "neither"
            raise ValueError(f"source {self.name!r} has {found}; set either `files` or `hub`")
        if self.documents not in ("line", "file"):
            raise ValueError(f"documents of source {self.name!r} is {self.documents!r}; set line or file")
        _check_limit(self.name, self.limit)
        if self.weight is not None and not 0 < self.weight < math.inf:
            raise ValueError(f"weight of source {self.name!r} is {self.weight}; set a positive number, or leave it out")

    def find_files(self) -> list[InputFile]:
        """Returns the files to train on, sorted within a folder or pattern.

        Raises:
            FileNotFoundError: If a file does not exist.
            ValueError: If one is of an unknown kind.
        """
        return find_files(self.files, DOCUMENT_KINDS, self.documents == "file")

    def check_files(self) -> None:
        """Reads the first record of each file.

        Raises:
            FileNotFoundError: If a file does not exist.
            ValueError: If one is of an unknown kind or damaged, or its first record is no document.
        """
        check_document_files([*self.files, *self.val_files], self.text_key, self.documents == "file")

    def validation(self) -> TextSource:
        """Returns the validation files as a source of their own."""
        return replace(self, files=self.val_files, hub=None, val_files=[], limit=None)


@dataclass(frozen=True)
class ChatSource:
    """A named set of conversations in one language.

    Attributes:
        name: Name of the source, as in `val/NAME/loss`.
        lang: Language of the source, as in `val/LANG/bits_per_char`; `code` for programs.
        files: Files, folders, or patterns: `.jsonl` and `.json` (an object per line, an array, or objects over several
            lines), `.csv`, `.parquet`, `.arrow`, and folders from `Dataset.save_to_disk`.
        format: Format of the records: `messages` (role, content), `sharegpt` (conversations of from, value),
            `chatglm3` (conversations of role, content, as for ChatGLM3's own fine-tuning code), `alpaca` (instruction,
            input, output, history, system), `prompt_response` (prompt, response, history, system), or `adgen`
            (content, summary).
        columns: The names that the records have for keys of the format, as in `{prompt: question, response: answer}`;
            `a.b` is the key `b` of the object `a`.
        learn: Which answers are trained on: `all` of a conversation, or only the `last`, which is everything the
            assistant says after the user's last message. Messages with `loss: false` or `weight: 0` are excluded.
        limit: Maximum number of records of `files` to read; None reads all.
        weight: Share of the source in the tokens of the run, relative to the weights of the other sources. None, for
            all sources, means shares in proportion to their sizes.
        val_files: Paths of files with validation conversations, instead of a held-out share of the source.
    """

    name: str
    lang: str
    files: list[str]
    format: ChatFormat = "messages"
    columns: dict[str, str] = field(default_factory=dict)
    learn: Learn = "all"
    limit: int | None = None
    weight: float | None = None
    val_files: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Checks the ranges of the fields.

        Raises:
            ValueError: If there is no file, the format or a key of it is unknown, or the weight or the limit is not a
                positive number.
        """
        if not self.files:
            raise ValueError(f"source {self.name!r} has no files")
        _check_limit(self.name, self.limit)
        if self.format not in get_args(ChatFormat):
            raise ValueError(
                f"source {self.name!r} has format {self.format!r}; known are {', '.join(get_args(ChatFormat))}"
            )
        if self.learn not in get_args(Learn):
            raise ValueError(f"source {self.name!r} has learn {self.learn!r}; all or last")
        known = [*KEYS[self.format][0], *KEYS[self.format][1]]
        if unknown := [key for key in self.columns if key not in known]:
            raise ValueError(
                f"columns of source {self.name!r}: {unknown[0]!r} is no key of the format {self.format}, which has "
                f"{', '.join(known)}; write them as {{key of the format: name in the file}}"
            )
        if self.weight is not None and not 0 < self.weight < math.inf:
            raise ValueError(f"weight of source {self.name!r} is {self.weight}; set a positive number, or leave it out")

    def find_files(self) -> list[InputFile]:
        """Returns the files to train on, sorted within a folder or pattern.

        Raises:
            FileNotFoundError: If a file does not exist.
            ValueError: If one is of an unknown kind.
        """
        return find_files(self.files, CONVERSATION_KINDS)

    def check_files(self) -> None:
        """Reads the first record of each file, which may be a bad one: those are counted later.

        Raises:
            FileNotFoundError: If a file does not exist.
            ValueError: If one is of an unknown kind or damaged.
        """
        check_record_files([*self.files, *self.val_files], CONVERSATION_KINDS)

    def validation(self) -> ChatSource:
        """Returns the validation files as a source of their own."""
        return replace(self, files=self.val_files, val_files=[], limit=None)


def _check_limit(name: str, limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise ValueError(f"limit of source {name!r} is {limit}; set a positive number, or leave it out")
