"""Hypothesis strategies for texts that are difficult for tokenizers."""

import html
import json
from urllib.parse import quote

from hypothesis import strategies as st

CONTROL_NAMES = [
    "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
    "<s>", "</s>", "<unk>", "sop", "eop", "<0x0A>", "<0xE3>",
]  # fmt: skip

WORDS = st.sampled_from(
    ["日本語", "です。", "ました", "ああああ", "ーーー", "図書館", "東京", "中国", "学生", "、「", "」", "the",
     "philosophy", " ", "  ", "\n", "\t", "16", "2026年", "😀", "👩\u200d👩\u200d👧", "\u0000", "\u200b", "\ufeff",
     "ｶﾞ", "が", "㍿", "𠮷野家", "é", "е"]
)  # fmt: skip

ANY_CHARACTER = st.characters(exclude_categories=("Cs",), exclude_characters="\u2581")

# ▁ is how SentencePiece writes a space: every tokenizer of this kind decodes it as a space. Control names are left out
# because hypothesis also tries strings that it finds in the code.
TEXT = st.one_of(st.text(ANY_CHARACTER, max_size=40), st.lists(WORDS, max_size=12).map("".join)).filter(
    lambda text: not any(name in text for name in CONTROL_NAMES if name[0] in "<[")
)
TEXT_WITH_CONTROL_NAMES = st.lists(st.one_of(WORDS, st.sampled_from(CONTROL_NAMES)), max_size=12).map("".join)


_HIDDEN = [
    "\u200b",
    "\u200d",
    "\u2060",
    "\ufeff",
    "\u00ad",
    "\u202e",
    "\ufe0f",
    "\u0301",
    "\0",
    " ",
    "\u3000",
    "\u2581",
]


def disguises(name):
    """Returns spellings of a control token's name that an attacker may try."""
    middle = len(name) // 2
    full_width = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in name)  # NFKC restores the name
    spelled = [f"<0x{byte:02X}>" for byte in name.encode()]
    return [
        name, name * 3, name.upper(), name.title(), f" {name} ", f"\n{name}\n", f"\u2581{name}", f"</s>{name}",
        full_width, name.replace("<", "\uff1c"), name.replace("|", "\uff5c"), name.replace("<", "\u2039"),
        name[:middle] + name + name[middle:], name[:middle], name[middle:], name[::-1],
        *(name[:middle] + hidden + name[middle:] for hidden in _HIDDEN), *(hidden.join(name) for hidden in _HIDDEN),
        "".join(spelled), " ".join(spelled), spelled[0] + name[1:],
        html.escape(name), quote(name), json.dumps(name), "".join(f"\\u{ord(c):04x}" for c in name), f"\\{name}",
    ]  # fmt: skip


FORGERIES = [text for name in CONTROL_NAMES for text in disguises(name)]
ADVERSARIAL_TEXT = st.lists(st.one_of(st.sampled_from(FORGERIES), WORDS, ANY_CHARACTER), min_size=1, max_size=8).map(
    "".join
)
