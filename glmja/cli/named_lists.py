"""Lists of a configuration whose entries can also be written, and overridden, by name.

`sources` of the data and `callbacks` of the trainer are lists. In a file they may be mappings by name, which change the
entries of earlier files or add new ones; on the command line, `--data.sources.ja.weight 0.5` and
`--callbacks.ChatSampler.every_n_steps 100` change one value. `false` removes an entry. What is given in this way is
merged here, in the order in which it is given, and handed to the parser as one list.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from jsonargparse import set_loader

from glmja.cli.config_safety import load_yaml

MODE = "yaml_with_named_lists"  # `parser_mode` of parsers that leave mappings by name to `merge_named`

Entry = dict[str, Any]


@dataclass
class _NamedList:
    """A list, as it is after the files and flags that were read so far.

    Attributes:
        spellings: Flag of the whole list, and a short form of it; without dashes, its key in a file.
        what: Word for an entry.
        inner: Key of an entry that holds its values; empty if the entry itself does.
        entries: The entries so far.
        is_named: Whether anything was given by name.
    """

    spellings: tuple[str, str]
    what: str
    inner: str = ""
    entries: list[Entry] = field(default_factory=list)
    is_named: bool = False

    @property
    def flag(self) -> str:
        """Flag of the whole list."""
        return self.spellings[0]

    @property
    def shown(self) -> str:
        """The short form, for messages."""
        return self.spellings[1]

    def name_of(self, entry: Entry) -> str:
        """Returns the name of an entry: its `name`, or that of its class."""
        return str(entry.get("class_path", "")).rpartition(".")[2] if self.inner else str(entry.get("name", ""))

    def find(self, name: str) -> Entry | None:
        """Returns the entry of a name, or of the path of a class; None if there is none.

        Raises:
            ValueError: If there are several.
        """
        found = [entry for entry in self.entries if name in (self.name_of(entry), entry.get("class_path", ""))]
        if len(found) > 1:
            raise ValueError(f"{self.shown}: {len(found)} entries have the name {name!r}; write the list instead")
        return found[0] if found else None

    def replace(self, value: Any, append: bool = False) -> None:
        """Takes a list, or a mapping by name, in the place of the entries or in addition to them."""
        if _is_by_name(value):
            for name, given in value.items():
                self.merge(str(name), given, may_add=True)
            return
        items = value if isinstance(value, list) else [] if value is None else [value]
        new = [copy.deepcopy(item) if isinstance(item, dict) else {"class_path": item} for item in items]
        self.entries = [*self.entries, *new] if append else new

    def merge(self, name: str, given: Any, may_add: bool = False) -> None:
        """Merges values into the entry of a name.

        Raises:
            ValueError: If there is no such entry and none may be added, or `given` is no mapping.
        """
        self.is_named = True
        entry = self.find(name)
        if entry is None and (not may_add or given is False):
            raise ValueError(f"{self.shown}: no {self.what} {name!r}; {self._known(name)}")
        if given is False:
            self.entries = [other for other in self.entries if other is not entry]
            return
        if given is None or given is True:
            given = {}
        if not isinstance(given, Mapping):
            raise ValueError(f"{self.shown}.{name} is {given!r}; write `key: value` lines, or false to remove it")
        if entry is None:
            if not self.inner and "lang" not in given:
                raise ValueError(
                    f"{self.shown}: no {self.what} {name!r}; {self._known(name)}, and a new one needs `lang`"
                )
            entry = {"class_path": name} if self.inner else {"name": name}
            self.entries.append(entry)
        for key, value in given.items():
            self._set(entry, [str(key)], value)

    def set_value(self, path: Sequence[str], values: Sequence[str]) -> bool:
        """Sets what a flag names after the list: a name and a key, or a name alone.

        Returns:
            Whether an entry was named; if not, the flag is a key of the last entry, which the parser knows.
        """
        name, *keys = path
        entry = self.find(name)
        if not values and not (self.inner and keys):  # only a boolean of a callback may stand alone
            raise ValueError(f"argument {self.shown}.{'.'.join(path)}: expected one argument")
        loaded = [load_yaml(value) for value in values]
        value = True if not loaded else loaded[0] if len(loaded) == 1 else loaded
        if entry is None and self.inner and not name[:1].isupper():
            if self.entries:
                self._set(self.entries[-1], path, value)
            return False
        if entry is None:
            raise ValueError(f"{self.shown}: no {self.what} {name!r}; {self._known(name)}")
        self.is_named = True
        if keys:
            self._set(entry, keys, value)
        else:
            self.merge(name, value)
        return True

    def _set(self, entry: Entry, keys: Sequence[str], value: Any) -> None:
        if self.inner and keys[0] not in ("class_path", self.inner):
            keys = [self.inner, *keys]
        for key in keys[:-1]:
            entry = entry.setdefault(key, {})
            if not isinstance(entry, dict):
                raise ValueError(f"{self.shown}: {key!r} holds {entry!r} and has no key {keys[-1]!r}")
        last = keys[-1]
        if isinstance(value, Mapping) and isinstance(entry.get(last), dict):
            entry[last].update(value)
            return
        is_list = isinstance(entry.get(last), list) or last.endswith("files")
        entry[last] = [value] if is_list and isinstance(value, str) else copy.deepcopy(value)

    def _known(self, name: str) -> str:
        names = [self.name_of(entry) for entry in self.entries]
        near = get_close_matches(name, names, n=1)
        return f"did you mean {near[0]}?" if near else f"known are {', '.join(names) or 'none'}"


SOURCES = "--data.init_args.sources", "--data.sources"
_CALLBACKS = "--trainer.callbacks", "--callbacks"


def _new_lists() -> list[_NamedList]:
    return [_NamedList(SOURCES, "source"), _NamedList(_CALLBACKS, "callback", inner="init_args")]


def merge_named(args: Sequence[str]) -> list[str]:
    """Returns arguments in which lists whose entries are given by name are whole lists.

    Args:
        args: Arguments of a training run, with `_` in the names of flags.

    Raises:
        ValueError: If there is no entry of a name, or several, or a value is not what the list needs.
        YAMLError: If a value is not YAML.
    """
    lists = _new_lists()
    kept: list[str] = []
    position = 0
    while position < len(args):
        flag, equals, value = args[position].partition("=")
        rest = args[position + 1 :] if flag.startswith("-") and not equals else []
        values = [value] if equals else list(takewhile(lambda arg: not arg.startswith("--") and arg != "-c", rest))
        end = position + 1 + (0 if equals else len(values))
        if not _read_flag(lists, flag, values):
            kept += args[position:end]
        position = end
    return [*kept, *(f"{one.flag}={json.dumps(one.entries, ensure_ascii=False)}" for one in lists if one.is_named)]


def _read_flag(lists: Sequence[_NamedList], flag: str, values: Sequence[str]) -> bool:
    """Applies a flag to the lists; returns whether nothing of it is left for the parser."""
    if flag in ("--config", "-c"):
        for path in map(Path, values[:1]):
            if path.is_file():
                for number, holder, key, is_left_out in _places(load_yaml(path.read_text(encoding="utf-8"))):
                    lists[number].is_named |= is_left_out
                    lists[number].replace(holder[key])
        return False
    for one in lists:
        for spelling in one.spellings:
            if flag.removesuffix("+") == spelling and values:
                value = load_yaml(values[0])
                one.replace(value, append=flag.endswith("+"))
                return _is_by_name(value)
            if flag.startswith(f"{spelling}."):
                return one.set_value(flag.removeprefix(f"{spelling}.").split("."), values)
    return False


def _places(content: Any) -> Iterator[tuple[int, Entry, str, bool]]:
    """Yields where a file has one of the lists.

    Yields:
        The number of the list, the mapping that holds it, its key there, and whether the parser does not know this
        form: a mapping by name, or a short key.
    """
    for number, one in enumerate(_new_lists()):
        for spelling in one.spellings:
            *path, last = spelling.removeprefix("--").split(".")
            holder = content
            for key in path:
                holder = holder.get(key) if isinstance(holder, dict) else None
            if isinstance(holder, dict) and last in holder:
                yield number, holder, last, spelling != one.flag or _is_by_name(holder[last])


def _is_by_name(value: Any) -> bool:
    return isinstance(value, dict) and "class_path" not in value


def _load_without_named(text: str) -> Any:
    """Loads YAML as `load_yaml`, without what `merge_named` gives to the parser in another form."""
    content = load_yaml(text)
    for _, holder, key, is_left_out in list(_places(content)):
        if is_left_out:
            del holder[key]
    return content


set_loader(MODE, _load_without_named, (yaml.YAMLError,))
