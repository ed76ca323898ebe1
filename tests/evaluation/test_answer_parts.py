import pytest

from glmja.evaluation.answer_parts import answer_parts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("はい。", [("prose", "はい。")]),
        ("一\n\n二", [("prose", "一\n\n二")]),
        ("\n\n一\n \n\u3000\n\n二\n\n\n", [("prose", "一\n\n二")]),
        ("\n \n 一\n \u3000", [("prose", " 一")]),
        ("", [("failure", "empty")]),
        ("\n \n", [("failure", "blank")]),
        ("見て：\n```python\nif a:\n\tb()\n\n\n\nc()\n```\n終わり",
         [("prose", "見て："), ("code", "```python\nif a:\n    b()\n\n\n\nc()\n```"), ("prose", "終わり")]),
        ("```\ncut off\n\n\n\n  here", [("code", "```\ncut off\n\n\n\n  here")]),
        ("今日は" * 8, [("failure", "looping"), ("prose", "今日は" * 8)]),
        ("a\x1b[31m", [("prose", "a\ufffd[31m")]),
    ],
)  # fmt: skip
def test_blank_lines_are_collapsed_code_is_kept_and_failures_are_marked(text, expected):
    assert [(part.kind, part.text) for part in answer_parts(text)] == expected
