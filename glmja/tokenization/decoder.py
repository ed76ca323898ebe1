"""The decoder of `tokenizer.json`, which keeps whole characters whole next to bytes that are none.

A text that ends within a character ends with some of its bytes. The usual decoder of a vocabulary with byte pieces,
`ByteFallback`, turns a run of byte pieces into replacement characters, one a byte, if the run as a whole is not UTF-8:
then whole characters next to a cut one, as 😀 in 😀𠮟, are lost, too. `ByteLevel` replaces only the bytes that belong
to no character, but reads bytes by the names that GPT-2's vocabulary has for them. So each byte piece is renamed to
that name; and since a piece such as é looks like the name of a byte, pieces that could be taken for one are marked
first. Every piece is compared with 128 names, so that decoding takes longer: see
`benchmarks.tokenizer.decoding`.
"""

from __future__ import annotations

_BEYOND_ASCII = range(0x80, 0x100)
_NAMED_BY_THEMSELVES = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_MARK = "\uffff\ufffe"  # noncharacters, which no text may contain


def byte_names() -> dict[int, str]:
    """Returns the character by which `ByteLevel` names each byte: itself if printable, others from U+0100 on."""
    others = [byte for byte in range(0x100) if byte not in _NAMED_BY_THEMSELVES]
    return {byte: chr(byte) for byte in _NAMED_BY_THEMSELVES} | {b: chr(0x100 + i) for i, b in enumerate(others)}


def decoder_json(word_boundary: str) -> dict[str, object]:
    """Returns the content of `decoder` in `tokenizer.json`.

    Args:
        word_boundary: The character that stands for a space in pieces.
    """
    names = byte_names()
    letters = f"[{chr(0xA1)}-{max(names.values())}]"
    return {
        "type": "Sequence",
        "decoders": [
            _replace({"String": word_boundary}, " "),
            _replace({"Regex": f"^(?=.*{letters})"}, _MARK),
            *(_replace({"String": f"<0x{byte:02X}>"}, names[byte]) for byte in _BEYOND_ASCII),
            {"type": "ByteFallback"},  # for ASCII, of which every byte is a character
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
            _replace({"String": _MARK}, ""),
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    }


def _replace(pattern: dict[str, str], content: str) -> dict[str, object]:
    return {"type": "Replace", "pattern": pattern, "content": content}
