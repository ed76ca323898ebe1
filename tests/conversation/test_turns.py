import pytest

from glmja.conversation.record_fields import BadConversation
from glmja.conversation.turns import check_turns, learning, without_unanswered

SYSTEM = {"role": "system", "content": "短く。"}
USER = {"role": "user", "content": "東京の天気は？"}
ANSWER = {"role": "assistant", "content": "晴れです。"}
CALL = {"role": "assistant", "metadata": "weather", "content": "```python\ntool_call(city='東京', days=1)\n```"}
SEEN = {"role": "observation", "content": '{"sky": "clear"}'}


@pytest.mark.parametrize(
    "messages",
    [
        [USER, ANSWER],
        [SYSTEM, USER, ANSWER, USER, ANSWER],
        [USER, CALL, SEEN, ANSWER],
        [USER, ANSWER, CALL, SEEN, ANSWER, CALL, SEEN, ANSWER, USER],  # PROMPT.md, "Code Execution"
        [USER, CALL, SEEN, CALL],
        [USER, ANSWER, SEEN, ANSWER],
    ],
)
def test_the_turn_orders_of_chatglm3_are_accepted(messages):
    check_turns(messages)


@pytest.mark.parametrize(
    ("messages", "reason", "message"),
    [
        ([], "no answer", "^no answer: 0 messages, none from the assistant$"),
        ([SYSTEM, USER], "no answer", "^no answer: 2 messages, none from the assistant$"),
        ([ANSWER], "turn order", "^turn order: message 0 is assistant after nothing, not "),
        ([SEEN, ANSWER], "turn order", "message 0 is observation after nothing, not "),
        ([CALL, SEEN], "turn order", "message 0 is assistant after nothing, not "),
        ([SYSTEM, ANSWER], "turn order", "message 1 is assistant after system, not "),
        ([SYSTEM, SYSTEM, USER, ANSWER], "turn order", "message 1 is system after system, not "),
        ([USER, SYSTEM, ANSWER], "turn order", "message 1 is system after user, not "),
        ([USER, USER, ANSWER], "turn order", "message 1 is user after user, not "),
        ([USER, SEEN, ANSWER], "turn order", "message 1 is observation after user, not "),
        ([USER, ANSWER, ANSWER], "turn order", "message 2 is assistant after assistant, not "),
        ([USER, CALL, ANSWER], "turn order", "message 2 is assistant after assistant, not "),
        ([USER, CALL, CALL, SEEN], "turn order", "message 2 is assistant after assistant, not "),
        ([USER, CALL, SEEN, USER], "turn order", "message 3 is user after observation, not "),
        ([USER, CALL, SEEN, SEEN], "turn order", "message 3 is observation after observation, not "),
        ([USER, ANSWER | {"content": " \n\u3000"}], "empty answer", "^empty answer: message 1$"),
        ([USER, CALL | {"content": ""}], "empty answer", "^empty answer: message 1$"),
        (
            [USER, ANSWER | {"loss": False}],
            "nothing to learn",
            "every message of the assistant is excluded from training$",
        ),
    ],
)
def test_other_turn_orders_are_rejected_with_a_reason(messages, reason, message):
    with pytest.raises(BadConversation, match=message) as rejected:
        check_turns(messages)
    assert rejected.value.reason == reason


@pytest.mark.parametrize(
    ("messages", "num_kept"),
    [([], 0), ([SYSTEM, USER], 0), ([USER, ANSWER], 2), ([USER, ANSWER, USER], 2), ([USER, CALL, SEEN, USER], 2)],
)
def test_unanswered_messages_at_the_end_are_removed(messages, num_kept):
    assert without_unanswered(messages) == messages[:num_kept]


@pytest.mark.parametrize(
    ("messages", "targets"),
    [
        ([USER, ANSWER], [1]),
        ([USER, ANSWER, USER, ANSWER], [3]),
        ([SYSTEM, USER, ANSWER, USER, ANSWER, CALL, SEEN, ANSWER], [4, 5, 7]),
        ([USER, ANSWER, USER, ANSWER | {"loss": False}, CALL], [4]),
    ],
)
def test_only_the_last_turn_of_the_assistant_is_trained_on_if_asked(messages, targets):
    last = learning(messages, "last")
    answers = [i for i, message in enumerate(last) if message["role"] == "assistant"]
    assert [i for i in answers if last[i].get("loss") is not False] == targets
    assert [{**message, "loss": None} for message in last] == [{**message, "loss": None} for message in messages]
    assert learning(messages, "all") == messages
