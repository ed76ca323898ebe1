"""Origin of the figures of an evaluation: date, commands, versions, files and samples."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

from glmja import __version__
from glmja.files.checksums import sha256_of_file
from glmja.files.input_files import DataFile, InputFile

if TYPE_CHECKING:
    import torch

    from glmja.evaluation.tasks import EvalTasks

_MAX_HASHED = 1 << 28  # bytes; an evaluation reads the beginning of a corpus, and hashing all of it would take longer
_LIBRARIES = ("torch", "transformers", "tokenizers", "sentencepiece")


@dataclass(frozen=True)
class SourceFile:
    """A file of a sample.

    Attributes:
        name: The path as it was given, or the name of a dataset of the Hugging Face Hub.
        size: Size in bytes; None for a dataset.
        sha256: SHA-256 of the file; None for a dataset, and for a file of more than 256 MiB.
    """

    name: str
    size: int | None
    sha256: str | None


@dataclass(frozen=True)
class Sample:
    """Documents or conversations of one language that an evaluation used.

    Attributes:
        lang: The language.
        use: What it was used for.
        records: Number of documents or conversations that were used.
        characters: Number of characters of the documents; None for conversations.
        sha256: SHA-256 of the documents or conversations that were used, whatever else the files hold.
        files: The files that they come from.
    """

    lang: str
    use: Literal["text", "conversations"]
    records: int
    characters: int | None
    sha256: str
    files: list[SourceFile]


@dataclass(frozen=True)
class Provenance:
    """Origin of the figures of an evaluation.

    Attributes:
        date: Time of the evaluation in UTC, ISO 8601.
        commands: The command that repeats the evaluation, and one for each training run whose curves are shown.
        versions: Version of each library.
        device: Device that the models ran on.
        dtype: Dtype of the weights; as stored if None.
        samples: What was read of each language.
    """

    date: str
    commands: list[str]
    versions: dict[str, str]
    device: str
    dtype: str | None
    samples: list[Sample]


def provenance(
    commands: Sequence[str],
    tasks: EvalTasks,
    texts: Mapping[str, Sequence[DataFile]],
    chats: Mapping[str, Sequence[DataFile]],
    device: str,
    dtype: torch.dtype | None,
) -> Provenance:
    """Describes an evaluation.

    Args:
        commands: The commands to show.
        tasks: Inputs of the evaluation.
        texts: Files of the texts of each language.
        chats: Files of the conversations of each language.
        device: Device that the models run on.
        dtype: Dtype of the weights.
    """
    import torch  # noqa: PLC0415 - takes seconds, which --help should not

    samples = [
        Sample(lang, "text", len(found), sum(map(len, found)), _digest(found), _source_files(texts[lang]))
        for lang, found in tasks.texts.items()
    ]
    for lang, references in tasks.references.items():
        records = [json.dumps([one.prompt, one.answers], ensure_ascii=False) for one in references.kept]
        samples.append(Sample(lang, "conversations", len(records), None, _digest(records), _source_files(chats[lang])))
    return Provenance(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commands=list(commands),
        versions={"glmja": __version__, "python": platform.python_version()} | {n: version(n) for n in _LIBRARIES},
        device=torch.cuda.get_device_name(device) if device.startswith("cuda") else f"{device} ({platform.machine()})",
        dtype=None if dtype is None else str(dtype).removeprefix("torch."),
        samples=samples,
    )


def _digest(records: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for record in records:
        data = record.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))  # so that records cannot be moved between each other
        digest.update(data)
    return digest.hexdigest()


def _source_files(files: Sequence[DataFile]) -> list[SourceFile]:
    return [_source_file(file) for file in files]


def _source_file(file: DataFile) -> SourceFile:
    if not isinstance(file, InputFile):
        return SourceFile(str(file), None, None)
    size = file.path.stat().st_size
    return SourceFile(str(file.path), size, sha256_of_file(file.path) if size <= _MAX_HASHED else None)
