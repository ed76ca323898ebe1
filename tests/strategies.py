"""Texts that tokenizers get wrong."""

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

# ▁ is how SentencePiece writes a space: a text that holds one is decoded with a space instead, in every tokenizer
# of this kind.
# hypothesis also tries strings that it finds in the code
TEXT = st.one_of(st.text(ANY_CHARACTER, max_size=40), st.lists(WORDS, max_size=12).map("".join)).filter(
    lambda text: not any(name in text for name in CONTROL_NAMES if name[0] in "<[")
)
TEXT_WITH_CONTROL_NAMES = st.lists(st.one_of(WORDS, st.sampled_from(CONTROL_NAMES)), max_size=12).map("".join)
