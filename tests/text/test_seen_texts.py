from glmja.text.seen_texts import SeenTexts


def test_a_text_is_new_once():
    seen = SeenTexts()
    texts = [str(number) for number in range(10_000)]
    assert not any(map(seen.add, texts))
    assert all(map(seen.add, texts))


def test_the_share_of_mistakes_is_as_documented():
    seen = SeenTexts(num_bits=8_000)
    for number in range(1_000):
        seen.add(str(number))
    new = [SeenTexts.add(seen, f"new {number}") for number in range(200)]
    assert 0.01 < sum(new) / len(new) < 0.08  # (1 - e^(-4 · 1,000 / 8,000))^4 = 2.4 %, and 3.9 % at the end
