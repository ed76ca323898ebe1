"""Survey of a corpus, counted while it is read: repeated lines, markup, decomposed characters, and scripts."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from glmja.text.aozora import count_aozora, strip_aozora
from glmja.text.normal_form import compose, count_decomposed
from glmja.text.scripts import is_han, is_kana, is_simplified_only
from glmja.text.seen_texts import SeenTexts

_WIKI = re.compile(r"\[\[[^\[\]\n]+\]\]|\{\{[^{}\n]|'''|^==+[^=\n]+==+\s*$|^\{\|", re.MULTILINE)
_HTML = re.compile(r"</?[A-Za-z][A-Za-z0-9]*(?:\s[^<>\n]{0,200})?/?>|&(?:[a-z]{2,6}|#\d{1,6});")
_ALL_CHARACTERS, _SAMPLED_EVERY = 1_000_000, 16


@dataclass
class CorpusSurvey:
    """Counts of a corpus; those of characters are of the text as it was cleaned, repeated lines included.

    Attributes:
        strip_markup: Whether Aozora's ruby and notes are left out.
        compose: Whether texts are brought to the normal form NFC, in which が is one character.
        once: Whether a line that occurs several times is yielded once.
        documents: Number of documents.
        repeated_documents: Documents that occurred before.
        lines: Number of lines that are not blank.
        repeated_lines: Lines that occurred before.
        characters: Number of characters.
        repeated_characters: Those of the repeated lines.
        decomposed_characters: Characters that NFC composes, such as か and the sign of voicing; before composing.
        decomposed_documents: Documents that have some.
        aozora_marks: Readings and notes of Aozora Bunko; before they are left out.
        wiki_marks: Links, templates, headings and bold type of a wiki.
        html_marks: Tags and entities.
    """

    strip_markup: bool = False
    compose: bool = False
    once: bool = True
    documents: int = 0
    repeated_documents: int = 0
    lines: int = 0
    repeated_lines: int = 0
    characters: int = 0
    repeated_characters: int = 0
    decomposed_characters: int = 0
    decomposed_documents: int = 0
    aozora_marks: int = 0
    wiki_marks: int = 0
    html_marks: int = 0
    _counts: Counter[str] = field(default_factory=Counter, repr=False)
    _sampled: Counter[str] = field(default_factory=Counter, repr=False)

    def read(self, documents: Iterable[str]) -> Iterator[str]:
        """Yields documents as they are to be learned from, and counts them; those of which nothing is left are not."""
        seen_lines, seen_documents = SeenTexts(), SeenTexts()
        for document in documents:
            text = self._clean(document)
            self.documents += 1
            self.repeated_documents += seen_documents.add(text)
            kept = [line for line in text.split("\n") if self._count_line(line, seen_lines) or not self.once]
            if any(map(str.strip, kept)):
                yield "\n".join(kept)

    def _clean(self, text: str) -> str:
        decomposed = count_decomposed(text)
        self.decomposed_characters += decomposed
        self.decomposed_documents += decomposed > 0
        self.aozora_marks += count_aozora(text)
        if self.compose:
            text = compose(text)
        if self.strip_markup:
            text = strip_aozora(text)
        self.wiki_marks += len(_WIKI.findall(text))
        self.html_marks += len(_HTML.findall(text))
        # counting a character takes as long as encoding it, and shares of scripts need no more than a sample
        if self.characters < _ALL_CHARACTERS:
            self._counts.update(text)
        else:
            self._sampled.update(text[self.documents % _SAMPLED_EVERY :: _SAMPLED_EVERY])
        return text

    def _count_line(self, line: str, seen: SeenTexts) -> bool:
        """Counts a line; returns whether it is the first of its kind, or blank."""
        if not line or line.isspace():
            return True
        repeated = seen.add(line)
        self.lines += 1
        self.characters += len(line)
        if repeated:
            self.repeated_lines += 1
            self.repeated_characters += len(line)
        return not repeated

    def scripts(self) -> dict[str, float]:
        """Returns the share of each kind of character; white space is not counted."""
        kinds: Counter[str] = Counter()
        for weight, counts in ((1, self._counts), (_SAMPLED_EVERY, self._sampled)):
            for character, count in counts.items():
                if not character.isspace():
                    kinds[_kind(character)] += weight * count
        total = max(1, kinds.total())
        return {kind: kinds[kind] / total for kind in _KINDS}

    def as_json(self) -> dict[str, object]:
        """Returns the counts, and the shares of repeated characters and of scripts."""
        counts = {name: value for name, value in vars(self).items() if type(value) is int}
        return {**counts, "repeated_share": self.repeated_share, "scripts": self.scripts()}

    @property
    def repeated_share(self) -> float:
        """Share of the characters that are in repeated lines."""
        return self.repeated_characters / max(1, self.characters)


_KINDS = ("kana", "ideographs", "simplified Chinese only", "Latin letters", "other letters", "digits and marks")


def _kind(character: str) -> str:
    if is_kana(character):
        return "kana"
    if is_han(character):
        return "simplified Chinese only" if is_simplified_only(character) else "ideographs"
    if not character.isalpha():
        return "digits and marks"
    return "Latin letters" if "LATIN" in unicodedata.name(character, "") else "other letters"
