"""Arguments that several commands take: files by language, numbers, and a device."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from glmja.files.input_files import DataFile


def files_by_language(
    flag: str,
    items: Sequence[str],
    find: Callable[[Sequence[str]], list[DataFile]],
    known: Collection[str] | None = None,
) -> dict[str, list[DataFile]]:
    """Groups files by language.

    Args:
        flag: Flag that the items were given to, for error messages.
        items: LANG=FILE each, such as `ja=data/ja.jsonl`, where FILE may be a folder, a pattern or `hub:NAME`; a
            language may occur several times.
        find: Finds and checks the files of an item.
        known: Languages that are accepted; all if None.

    Returns:
        The files of each language, in the given order.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If an item has another form, or names an unknown language or a file of an unsupported type.
    """
    files: dict[str, list[DataFile]] = {}
    for item in items:
        language, separator, path = item.partition("=")
        if not (language and separator and path):
            raise ValueError(f"{flag} {item!r} must be LANG=FILE, as in ja=data/ja.jsonl")
        if known is not None and language not in known:
            raise ValueError(f"{flag} {item!r}: unknown language {language!r}; known are {', '.join(known)}")
        files.setdefault(language, []).extend(find([path]))
    return files


def check_at_least_1(**values: int) -> None:
    """Checks the numbers of flags, by the names of the flags.

    Raises:
        ValueError: If one is less than 1.
    """
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"--{name} {value} must be at least 1")


def check_device(name: str) -> str:
    """Checks that this machine has a device.

    Args:
        name: `cpu`, `cuda`, `cuda:1` or another device of torch, or `auto`.

    Returns:
        The name; for `auto`, `cuda` if there is a GPU and `cpu` otherwise.

    Raises:
        ValueError: If the machine has no such device.
    """
    import torch  # noqa: PLC0415 - takes seconds, which --help should not

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # "meta" has no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ValueError(f"`device` {name}: not on this machine ({reason}); set cpu, cuda or auto") from error
    return name
