import json
import re
from collections import Counter

import pytest

from glmja.conversation.messages import check_messages
from glmja.evaluation.questions import QUESTIONS
from glmja.text.scripts import is_kana
from glmja.tokenization.vocabulary import contains_distinguishing
from glmja.twin import build as twin


@pytest.mark.parametrize(("language", "num_bytes"), [("ja", 40_000), ("zh", 15_000), ("en", 15_000)])
def test_the_shipped_texts_are_large_enough_and_never_repeat_a_sentence(texts, language, num_bytes):
    assert sum(len(text.encode()) for text in texts[language]) >= num_bytes
    parts = (part.strip() for text in texts[language] for part in re.split(r"[。！？.!?\n「」“”\"]", text))
    counts = Counter(part for part in parts if len(part) > 12)
    assert counts.most_common(1)[0][1] == 1


def test_the_shipped_texts_are_in_their_languages(texts):
    assert all(any(map(is_kana, text)) for text in texts["ja"])
    assert not any(contains_distinguishing(text, "japanese") for text in texts["zh"] + texts["en"])


def test_the_shipped_conversations_are_well_formed_and_varied():
    lines = twin.text_file("conversations").read_text(encoding="utf-8").splitlines()
    conversations = [json.loads(line) for line in lines]
    assert len(conversations) >= 120
    assert set(Counter(c["lang"] for c in conversations)) == {"ja", "zh", "en", "code"}
    for conversation in conversations:
        check_messages(conversation["messages"])
        assert conversation["messages"][-1]["role"] == "assistant"
    contents = Counter(m["content"] for c in conversations for m in c["messages"] if m["role"] != "system")
    assert contents.most_common(1)[0][1] == 1


def test_the_shipped_conversations_answer_greetings_and_the_eight_questions():
    lines = twin.text_file("conversations").read_text(encoding="utf-8").splitlines()
    opened = {json.loads(line)["messages"][0]["content"] for line in lines}
    assert {"こんにちは。", "你好", "Hello", *QUESTIONS} <= opened
