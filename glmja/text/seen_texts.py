"""Remembers which texts occurred before, in a fixed amount of memory."""

from __future__ import annotations

import struct
from hashlib import blake2b

_PROBES = struct.Struct("<4I")


class SeenTexts:
    """A Bloom filter (Bloom 1970, https://doi.org/10.1145/362686.362692) with four probes.

    A text that was added is always recognized. After n texts, another one is mistaken for one of them with the
    probability (1 - e^(-4n / num_bits))^4: below 1 % for 100 million texts in the default 128 MiB.
    """

    def __init__(self, num_bits: int = 1 << 30) -> None:
        """Creates an empty set; memory is taken as it fills.

        Args:
            num_bits: Size, a multiple of 8.
        """
        self._num_bits = num_bits
        self._bits = bytearray(num_bits // 8)

    def add(self, text: str) -> bool:
        """Adds a text.

        Returns:
            Whether it was in the set before.
        """
        seen = True
        for probe in _PROBES.unpack(blake2b(text.encode(), digest_size=_PROBES.size).digest()):
            place, mask = probe % self._num_bits >> 3, 1 << (probe & 7)
            seen = seen and self._bits[place] & mask != 0
            self._bits[place] |= mask
        return seen
