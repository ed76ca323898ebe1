"""Sources of documents and conversations, as named in a configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar, get_args

from glmja.conversation.formats import KEYS, ChatFormat
from glmja.conversation.turns import Learn
from glmja.files.documents import check_document_files
from glmja.files.hub_datasets import HubDataset
from glmja.files.input_files import CONVERSATION_KINDS, DOCUMENT_KINDS, DataFile, find_files
from glmja.files.records import check_record_files


@dataclass(frozen=True)
class TextSource:
    """A named set of documents in one language, from files or from a Hugging Face dataset.

    Attributes:
        name: Name of the source, as in `val/NAME/loss`.
        lang: Language of the source, as in `val/LANG/bits_per_char`.
        files: Files, folders, or patterns such as `data/*.jsonl`, as `glmja.files.documents.read_documents` takes them.
            `FILE:KEY` names the key of the text in one of them, and `hub:NAME,split=SPLIT` is a dataset; see
            `glmja.files.hub_datasets.HubDataset.parse`.
        text_key: Key or column of the text; `translation.ja` is the key `ja` of the object `translation`.
        documents: What is a document of a text file: a `line`, or the whole `file`, as a book.
        limit: Maximum number of records of `files` or `hub` to read; None reads all.
        hub: Name of a dataset on the Hugging Face Hub, or of a local folder of data files or from
            `Dataset.save_to_disk`, instead of `files`.
        hub_config: Configuration of the dataset, if it has several.
        split: Split of the dataset; `train[:10%]` takes a part, but downloads all.
        data_files: Names or patterns of files of the dataset; only these are downloaded. All by default.
        revision: Branch, tag or commit of the dataset.
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
    data_files: list[str] = field(default_factory=list)
    revision: str | None = None
    weight: float | None = None
    val_files: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Checks the fields against each other and their ranges.

        Raises:
            ValueError: If there are both files and a dataset, or neither, a key of a dataset stands beside files,
                `documents` is unknown, or the weight or the limit is not a positive number.
        """
        _check_origin(self)
        if self.documents not in ("line", "file"):
            raise ValueError(f"documents of source {self.name!r} is {self.documents!r}; set line or file")
        _check_amounts(self)

    def find_files(self) -> list[DataFile]:
        """Returns the files to train on, sorted within a folder or pattern, or the dataset.

        Raises:
            FileNotFoundError: If a file does not exist.
            ValueError: If one is of an unknown kind.
        """
        return find_files(_origin_of(self), DOCUMENT_KINDS, self.documents == "file")

    def check_files(self) -> None:
        """Reads the first record of each file; of a dataset, only checks that it exists.

        Raises:
            FileNotFoundError: If a file does not exist.
            ValueError: If one is of an unknown kind or damaged, its first record is no document, or there is no such
                dataset.
        """
        check_document_files([*_origin_of(self), *self.val_files], self.text_key, self.documents == "file")


@dataclass(frozen=True)
class ChatSource:
    """A named set of conversations in one language.

    Attributes:
        name: Name of the source, as in `val/NAME/loss`.
        lang: Language of the source, as in `val/LANG/bits_per_char`; `code` for programs.
        files: Files, folders, or patterns: `.jsonl` and `.json` (an object per line, an array, or objects over several
            lines), `.csv`, `.parquet`, `.arrow`, and folders from `Dataset.save_to_disk`. `hub:NAME,split=SPLIT` is a
            dataset; see `glmja.files.hub_datasets.HubDataset.parse`.
        format: Format of the records: `messages` (role, content), `sharegpt` (conversations of from, value),
            `chatglm3` (conversations of role, content, as for ChatGLM3's own fine-tuning code), `alpaca` (instruction,
            input, output, history, system), `prompt_response` (prompt, response, history, system), or `adgen`
            (content, summary).
        columns: The names that the records have for keys of the format, as in `{prompt: question, response: answer}`;
            `a.b` is the key `b` of the object `a`.
        learn: Which answers are trained on: `all` of a conversation, or only the `last`, which is everything the
            assistant says after the user's last message. Messages with `loss: false` or `weight: 0` are excluded.
        limit: Maximum number of records of `files` or `hub` to read; None reads all.
        weight: Share of the source in the tokens of the run, or with `mix_by: conversations` in its conversations,
            relative to the weights of the other sources. None, for all sources, means shares in proportion to their
            sizes.
        val_files: Paths of files with validation conversations, instead of a held-out share of the source.
        hub: Name of a dataset on the Hugging Face Hub, or of a local folder of data files or from
            `Dataset.save_to_disk`, instead of `files`.
        hub_config: Configuration of the dataset, if it has several.
        split: Split of the dataset; `train[:10%]` takes a part, but downloads all.
        data_files: Names or patterns of files of the dataset; only these are downloaded. All by default.
        revision: Branch, tag or commit of the dataset.
    """

    name: str
    lang: str
    files: list[str] = field(default_factory=list)
    format: ChatFormat = "messages"
    columns: dict[str, str] = field(default_factory=dict)
    learn: Learn = "all"
    limit: int | None = None
    weight: float | None = None
    val_files: list[str] = field(default_factory=list)
    hub: str | None = None
    hub_config: str | None = None
    split: str = "train"
    data_files: list[str] = field(default_factory=list)
    revision: str | None = None

    def __post_init__(self) -> None:
        """Checks the ranges of the fields.

        Raises:
            ValueError: If there are both files and a dataset, or neither, a key of a dataset stands beside files, the
                format or a key of it is unknown, or the weight or the limit is not a positive number.
        """
        _check_origin(self)
        _check_amounts(self)
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

    def find_files(self) -> list[DataFile]:
        """Returns the files to train on, sorted within a folder or pattern, or the dataset.

        Raises:
            FileNotFoundError: If a file does not exist.
            ValueError: If one is of an unknown kind.
        """
        return find_files(_origin_of(self), CONVERSATION_KINDS)

    def check_files(self) -> None:
        """Reads the first record of each file, which may be a bad one: those are counted later.

        Of a dataset, only checks that it exists.

        Raises:
            FileNotFoundError: If a file does not exist.
            ValueError: If one is of an unknown kind or damaged, or there is no such dataset.
        """
        check_record_files([*_origin_of(self), *self.val_files], CONVERSATION_KINDS)


_Source = TypeVar("_Source", TextSource, ChatSource)
_NO_DATASET: dict[str, Any] = {"hub": None, "hub_config": None, "split": "train", "data_files": [], "revision": None}


def _origin_of(source: TextSource | ChatSource) -> Sequence[str | HubDataset]:
    """Returns the files of a source as they are named, or its dataset."""
    if source.hub is None:
        return source.files
    files = tuple(source.data_files)
    return [HubDataset(source.hub, source.hub_config, source.split, files, source.revision)]


def _check_origin(source: TextSource | ChatSource) -> None:
    if bool(source.files) == bool(source.hub):
        found = f"files {source.files} and hub {source.hub!r}" if source.files else "neither"
        raise ValueError(f"source {source.name!r} has {found}; set either files or hub")
    given = [key for key, unset in _NO_DATASET.items() if getattr(source, key) != unset]
    if given and source.hub is None:
        raise ValueError(f"source {source.name!r} has {given[0]}, a key of datasets, but files; set hub, or remove it")


def _check_amounts(source: TextSource | ChatSource) -> None:
    if source.limit is not None and source.limit < 1:
        raise ValueError(f"limit of source {source.name!r} is {source.limit}; set a positive number, or leave it out")
    if source.weight is not None and not 0 < source.weight < math.inf:
        raise ValueError(f"weight of source {source.name!r} is {source.weight}; set a positive number, or leave it out")


def with_validation(source: _Source) -> list[_Source]:
    """Returns a source and, if it has validation files, these as a source of their own."""
    if not source.val_files:
        return [source]
    return [source, replace(source, files=source.val_files, val_files=[], limit=None, **_NO_DATASET)]


def check_sources(sources: Sequence[TextSource | ChatSource]) -> None:
    """Checks names and weights of sources.

    Raises:
        ValueError: If there is no source, two have the same name, or only some have a weight.
    """
    if not sources:
        raise ValueError("sources is empty; name at least one")
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise ValueError(f"sources: every source needs a name of its own, but they are {names}")
    without = [source.name for source in sources if source.weight is None]
    if without and len(without) < len(sources):
        raise ValueError(f"sources: give all a weight or none; {', '.join(without)} has none")


def check_files(sources: Sequence[TextSource | ChatSource]) -> None:
    """Reads the first record of each file of some sources.

    Raises:
        ExceptionGroup: If several sources cannot be read.
        FileNotFoundError: If a file of one source does not exist.
        ValueError: If one is damaged or holds no such records.
    """
    problems: list[Exception] = []
    for source in sources:
        try:
            source.check_files()
        except (ValueError, OSError) as error:
            problems.append(error)
    if len(problems) > 1:
        raise ExceptionGroup("sources cannot be read", problems)
    for problem in problems:
        raise problem
