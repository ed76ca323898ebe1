"""Random mutations of valid files, reproducible by seed."""

import json
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

ODD_BYTES = [
    b"", b"\0", b"\0" * 64, b"\xff", b"\xff" * 8, b"\xed\xa0\x80", b"\xc0\xaf", b"\xef\xbb\xbf", b"\xe2\x80\xa8",
    b"\x1b[2J", b"\r", b"\n", b"\t", b'"', b"'", b"\\", b"\\ud800", b"\\u0000", b"{", b"}", b"[", b"]", b":", b": ",
    b",", b"- ", b"#", b"&a ", b"*a", b"<<: ", b"!!python/name:os.abort ", b"!!bool ", b"!!binary ", b"%", b"|", b">",
    b"---\n", b"...\n", b"null", b"true", b"no", b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"0x7f", b"1_000",
    b"9" * 5000, b"2147483648", b"9223372036854775808", b"18446744073709551616", b"[" * 20_000, b'{"a":' * 20_000,
    b"- " * 5_000, "日本".encode("euc-jp"), "日本".encode("utf-16"), (1 << 62).to_bytes(8, "little"),
    (1 << 31).to_bytes(4, "little"), b"PK\x03\x04", b"\x80\x04", b"\x1f\x8b",
]  # fmt: skip

_NESTED, _LONG_NUMBER = "nested-here", "long-number-here"  # replaced in the text, since `json.dumps` fails on them

ODD_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63, 2**64, 10**300, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", " ", "0", "a\nb", "\x1b[31m", "\0", "\ud800", "../../x", "/etc/passwd", "/" * 5000, "x" * 100_000, [], {}, [[]],
    [{}], {"": None}, [None] * 1000, {"class_path": "os.abort"}, _NESTED, _LONG_NUMBER,
]  # fmt: skip


def mutate_bytes(content: bytes, rng: Random) -> bytes:
    """Applies one to three mutations anywhere in the content."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        content = rng.choice(_DAMAGES)(content, rng)
    return content


def _span(content: bytes, rng: Random) -> slice:
    begin = rng.randint(0, len(content))
    return slice(begin, min(len(content), begin + rng.choice([1, 1, 2, 4, 8, 32, 256])))


def _replaced(content: bytes, place: slice, new: bytes) -> bytes:
    return content[: place.start] + new + content[place.stop :]


def _flip(content: bytes, rng: Random) -> bytes:
    flipped = bytearray(content)
    for _ in range(rng.choice([1, 1, 4, 64])):
        if flipped:
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def _splice(content: bytes, rng: Random) -> bytes:
    return _replaced(content, _span(content, rng), content[_span(content, rng)])


def _duplicate(content: bytes, rng: Random) -> bytes:
    place = _span(content, rng)
    return _replaced(content, place, content[place] * rng.choice([2, 2, 3, 1000]))


def _insert(content: bytes, rng: Random) -> bytes:
    place = rng.randint(0, len(content))
    return _replaced(content, slice(place, place), rng.choice(ODD_BYTES))


_DAMAGES: list[Callable[[bytes, Random], bytes]] = [
    _flip,
    _splice,
    _duplicate,
    _insert,
    lambda content, rng: _replaced(content, _span(content, rng), rng.choice(ODD_BYTES)),
    lambda content, rng: _replaced(content, _span(content, rng), b""),
    lambda content, rng: content[: rng.randint(0, len(content))],
]


def mutate_json(content: bytes, rng: Random) -> bytes:
    """Changes one to three values, keys or items of a JSON object; the result is JSON."""
    tree = json.loads(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        tree = _mutate_tree(tree, rng)
    depth, text = rng.choice([30, 500, 100_000]), json.dumps(tree, ensure_ascii=rng.random() < 0.5)
    nested = rng.choice(["[" * depth + "]" * depth, '{"a":' * depth + "0" + "}" * depth])
    text = text.replace(f'"{_NESTED}"', nested).replace(f'"{_LONG_NUMBER}"', "7" * 5000)
    return text.encode("utf-8", "surrogatepass")


def _mutate_tree(tree: Any, rng: Random) -> Any:
    """Changes a random node."""
    if not isinstance(tree, dict | list) or not tree or rng.random() < 0.15:
        return deepcopy(rng.choice(ODD_VALUES))
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key, act = rng.choice(keys), rng.random()
    if act < 0.7:
        tree[key] = _mutate_tree(tree[key], rng)
    elif act < 0.8:
        del tree[key]
    elif act < 0.9:
        tree[key], other = tree[rng.choice(keys)], tree[key]
        tree[rng.choice(keys)] = other
    elif isinstance(tree, list):
        tree *= rng.choice([2, 100])
    else:
        tree[str(rng.choice(ODD_VALUES))] = tree.pop(key)
    return tree


def mutate_proto(message: Any, rng: Random) -> None:
    """Changes a random field of a protobuf message or of a message inside it."""
    field = rng.choice(message.DESCRIPTOR.fields)
    if field.is_repeated:
        values = getattr(message, field.name)
        act = rng.random()
        if len(values) and act < 0.6 and field.message_type:
            mutate_proto(rng.choice(values), rng)
        elif len(values) and act < 0.8:
            first = rng.randrange(len(values))
            del values[first : first + rng.choice([1, 1, 1000])]
        elif field.message_type:
            mutate_proto(values.add(), rng)
        else:
            values.append(_odd_of(field, rng))
    elif field.message_type:
        mutate_proto(getattr(message, field.name), rng)
    elif rng.random() < 0.2:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _odd_of(field, rng))


def _odd_of(field: Any, rng: Random) -> Any:
    if field.enum_type:
        return rng.choice(list(field.enum_type.values_by_number))
    odd: dict[int, list[Any]] = {
        field.CPPTYPE_STRING: ["", " ", "\u2581", "\0", "a" * 50_000, "<0x00>", "<0xZZ>", "</s>", "[gMASK]", "日本"],
        field.CPPTYPE_BOOL: [True, False],
        field.CPPTYPE_FLOAT: [0.0, -1.0, 1e38, float("nan"), float("inf"), float("-inf")],
        field.CPPTYPE_UINT64: [0, 1, 2**64 - 1],
    }
    if field.type == field.TYPE_BYTES:
        return rng.choice(ODD_BYTES)
    return rng.choice(odd.get(field.cpp_type, [0, -1, 1, 2, 2**31 - 1, -(2**31)]))
