"""Reading the keys of a record: types, renamed columns, switches of the loss, and unknown keys."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping
from typing import Any, Literal

from glmja.errors import DataError
from glmja.tokenization.tokenizer import Role

Reason = Literal[
    "missing key", "wrong type", "unknown role", "unreadable tools", "unreadable call", "unanswered call",
    "unreadable weight", "unsupported key", "lone surrogate", "turn order", "empty answer", "no answer",
    "nothing to learn",
]  # fmt: skip

# Whether a message is trained on: "weight" in OpenAI's files, "loss" in ChatGLM3's and ms-swift's, the others in
# axolotl's and similar ones.
_SWITCHES = ("weight", "loss", "train", "trainable", "training", "learn")
# Change what is trained on in a way that a switch cannot express, or hold text for which ChatGLM3 has no place.
_UNSUPPORTED = (
    "mask", "masked", "loss_mask", "loss_scale", "train_detail", "training_detail", "reasoning_content", "reasoning",
    "thinking", "thinking_content", "thoughts", "refusal",
)  # fmt: skip


class BadConversation(DataError):
    """Raised for a record that is not a conversation, or not one to train on.

    Attributes:
        reason: Category of the error, for counting; the message adds the detail.
        detail: Place in the record, and the value found there.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        """Builds the message from reason and detail.

        Args:
            reason: Category of the error.
            detail: Place in the record, and the value found there.
        """
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Fields:
    """The keys of an object within a record, and a note of those that were read.

    Attributes:
        where: Place of the object in the record.
    """

    def __init__(
        self,
        holder: Any,
        columns: Mapping[str, str],
        where: str = "the record",
        family: list[Fields] | None = None,
    ) -> None:
        """Wraps an object of a record.

        Args:
            holder: The object.
            columns: The names under which the record has the keys of its format.
            where: Place of the object in the record.
            family: All objects of the record so far; the new one is added.

        Raises:
            BadConversation: If it is not an object.
        """
        if not isinstance(holder, Mapping):
            raise BadConversation("wrong type", f"{where} is {type(holder).__name__}, not an object")
        self._holder, self._columns, self.where = holder, columns, where
        self._family = [] if family is None else family
        self._family.append(self)
        self._read: set[str] = set()

    def object(self, holder: Any, where: str) -> Fields:
        """Wraps an object within this one; raises as the constructor."""
        return Fields(holder, self._columns, where, self._family)

    def raw(self, key: str) -> Any:
        """Returns the value of a key, None if it is absent; a column `a.b` is the key `b` of the object `a`."""
        name = self._columns.get(key, key)
        first, _, rest = (name, "", "") if name in self._holder else name.partition(".")
        self._read.add(first)
        value = self._holder.get(first)
        for part in rest.split(".") if rest else ():
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def peek(self, key: str) -> Any:
        """Returns the value of a key of this name, which remains unread."""
        return self._holder.get(key)

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """Returns the value of a key, which is required if there is no default; None counts as absent.

        Raises:
            BadConversation: If the key is absent without a default, or its value has another type.
        """
        value = self.raw(key)
        value = default if value is None else value
        if value is None:
            found = reprlib.repr([name for name, held in self._holder.items() if held is not None])
            raise BadConversation("missing key", f"{self.where} has no {self._columns.get(key, key)!r}; found {found}")
        if not isinstance(value, kind):
            name, found = self._columns.get(key, key), type(value).__name__
            raise BadConversation("wrong type", f"{self.where} has {found} as {name!r}, not {kind.__name__}")
        return value

    def each(self, key: str) -> list[Fields]:
        """Returns the objects of a list.

        Raises:
            BadConversation: If the key is absent or no list, or an item is no object.
        """
        return [self.object(item, f"{key}[{i}]") for i, item in enumerate(self.get(key, list))]

    def role(self, key: str, roles: Mapping[str, Role]) -> Role:
        """Returns the role that a name stands for.

        Raises:
            BadConversation: If the key is absent, or the name is unknown.
        """
        name = self.get(key, str)
        if name not in roles:
            raise BadConversation("unknown role", f"{self.where} is {reprlib.repr(name)}; known are {', '.join(roles)}")
        return roles[name]

    def parsed(self, key: str, reason: Reason) -> Any:
        """Returns the value of a key that may be JSON text; raises as `parse_value`."""
        value = self.raw(key)
        return parse_value(value, reason, self.where) if isinstance(value, str) and value else value

    def is_target(self, role: Role, *, forced: bool = False) -> bool:
        """Returns whether the keys of a message let the model train on its text.

        Args:
            role: Role of the message; only the assistant's can be trained on.
            forced: Whether a key that asks to train on another role has no effect, as in ChatGLM3's own code.

        Raises:
            BadConversation: If a key has another value than yes or no, contradicts another one, or cannot be honoured.
        """
        for key in _UNSUPPORTED:
            if self.raw(key):
                raise BadConversation(
                    "unsupported key", f"{self.where} has {key!r}, which cannot be trained on; remove it"
                )
        found = {key: value for key in _SWITCHES if (value := self.raw(key)) is not None}
        for key, value in found.items():
            if not isinstance(value, bool | int | float) or value not in (0, 1):
                raise BadConversation(
                    "unreadable weight", f"{self.where} has {key!r}: {reprlib.repr(value)}; 0 or 1, false or true"
                )
            if value and role != "assistant" and not forced:
                raise BadConversation(
                    "unreadable weight",
                    f"{self.where} is {role} with {key!r}: {value}; only the assistant is trained on",
                )
        if len({bool(value) for value in found.values()}) > 1:
            raise BadConversation("unreadable weight", f"{self.where} contradicts itself: {found}")
        return all(found.values())

    def unread(self) -> list[str]:
        """Returns the keys of the record and of its objects that no format knows, without their positions."""
        names = {
            f"{_place(fields.where)}{name}"
            for fields in self._family
            for name, value in fields._holder.items()
            if value is not None and name not in fields._read
        }
        return sorted(names)


def parse_value(text: str, reason: Reason, where: str) -> Any:
    """Parses JSON within a record.

    Args:
        text: The JSON.
        reason: Category of the error.
        where: Place of the text in the record.

    Raises:
        BadConversation: If the text is not JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadConversation(reason, f"{where} has {reprlib.repr(text)}, not JSON: {error}") from None


def _place(where: str) -> str:
    return "" if where == "the record" else f"{re.sub(r'[0-9]+', '', where)}."
