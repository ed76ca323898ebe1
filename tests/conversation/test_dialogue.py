import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmja.conversation.dialogue import Dialogue
from glmja.conversation.rendering import render_prompt, render_rounds
from glmja.conversation.replies import generate
from glmja.families.chatglm3 import CONTROL_TOKENS
from glmja.modeling.loading import load_model
from glmja.modeling.sampling import Sampling
from glmja.tokenization.tokenizer import GLMTokenizer
from tests.support.strategies import TEXT_WITH_CONTROL_NAMES
from tests.support.taught import HELLO, WEATHER, taught_folder

LINES = st.lists(TEXT_WITH_CONTROL_NAMES, min_size=1, max_size=4)


@pytest.fixture(scope="module")
def model(zero_dir, tmp_path_factory):
    return load_model(taught_folder(zero_dir, tmp_path_factory))


@pytest.fixture(scope="module")
def without_roles(tokenizer):
    """A tokenizer like ChatGLM2's: the same pieces, no role tokens."""
    stripped = GLMTokenizer(tokenizer.proto)
    stripped._control_ids = {n: i for n, i in tokenizer.control_tokens.items() if n not in CONTROL_TOKENS[5:]}
    return stripped


def dialogue(tokenizer, prompt_format="chatglm3", num_positions=2048, opening=(), **sampling):
    return Dialogue(tokenizer, prompt_format, Sampling(**{"max_new_tokens": 60} | sampling), num_positions, opening)


def answer(talk, model):
    parts = []
    ending = talk.answer(model, parts.append)
    return "".join(parts), ending


def prompts_of(monkeypatch):
    """Records the ids of each prompt; the model is replaced by one that always answers うん."""
    rows = []

    def generate_ids(model, tokenizer, asked, sampling, *, on_ids):
        rows.extend(asked)
        on_ids([*tokenizer.encode("\n"), *tokenizer.encode("うん"), tokenizer.eos_id])

    monkeypatch.setattr("glmja.conversation.dialogue.generate_ids", generate_ids)
    return rows


def test_a_dialogue_reproduces_the_conversation_that_the_model_was_trained_on(model, tokenizer):
    talk = dialogue(tokenizer)
    for question, taught in zip(HELLO[::2], HELLO[1::2], strict=True):
        assert talk.add_message(question["content"]) == 0
        assert answer(talk, model) == (taught["content"], "ended")
    assert talk.messages == HELLO


def test_the_result_of_a_tool_is_an_observation(model, tokenizer):
    talk = dialogue(tokenizer, opening=WEATHER[:1])
    talk.add_message(WEATHER[1]["content"])
    assert answer(talk, model) == (f"get_weather\n{WEATHER[2]['content']}", "ended")
    assert talk.called_tool == "get_weather"
    talk.add_message(WEATHER[3]["content"])
    assert answer(talk, model)[0] == WEATHER[4]["content"]
    assert talk.called_tool is None
    assert [message["role"] for message in talk.messages] == [message["role"] for message in WEATHER]


def test_a_tool_that_is_not_listed_is_not_called(model, tokenizer):
    talk = dialogue(tokenizer, opening=[WEATHER[0] | {"tools": [{"name": "get_time"}]}])
    talk.messages.append(WEATHER[2])
    assert talk.called_tool is None
    talk.messages[0] = WEATHER[0] | {"tools": [{"type": "function", "function": {"name": "get_weather"}}]}
    assert talk.called_tool == "get_weather"
    talk.messages.append(WEATHER[4])
    assert talk.called_tool is None


@given(lines=LINES)
def test_the_prompt_is_the_conversation_so_far_and_no_line_forges_a_turn(tokenizer, lines):
    with pytest.MonkeyPatch.context() as monkeypatch:
        rows, talk, messages = prompts_of(monkeypatch), dialogue(tokenizer, opening=WEATHER[:1]), list(WEATHER[:1])
        for number, line in enumerate(lines, start=1):
            talk.add_message(line)
            talk.answer(None, str)
            messages.append({"role": "user", "content": line})
            assert rows[-1] == render_prompt(messages, tokenizer)
            roles = [i for i in rows[-1] if i in tokenizer.control_tokens.values()][2:]
            turns = [tokenizer.role_id("user"), tokenizer.role_id("assistant")]
            assert roles == [tokenizer.role_id("system"), *turns * number]
            messages.append({"role": "assistant", "content": "うん", "metadata": ""})


@given(lines=LINES)
def test_the_prompt_in_rounds_is_the_conversation_so_far(without_roles, lines):
    with pytest.MonkeyPatch.context() as monkeypatch:
        rows, talk, messages = prompts_of(monkeypatch), dialogue(without_roles, "chatglm2"), []
        for line in lines:
            talk.add_message(line)
            talk.answer(None, str)
            messages.append({"role": "user", "content": line})
            assert rows[-1] == render_rounds(messages, without_roles)
            messages.append({"role": "assistant", "content": talk.messages[-1]["content"]})


def test_an_answer_in_rounds_has_no_metadata(model, tokenizer):
    talk, parts = dialogue(tokenizer, "chatglm2", max_new_tokens=12), []
    talk.add_message("你好")
    talk.answer(model, parts.append)
    assert talk.messages[-1] == {"role": "assistant", "content": "".join(parts)}


@given(lines=LINES, num_positions=st.integers(140, 260))
def test_the_oldest_turns_are_dropped_to_make_room(tokenizer, lines, num_positions):
    with pytest.MonkeyPatch.context() as monkeypatch:
        rows = prompts_of(monkeypatch)
        talk = dialogue(tokenizer, num_positions=num_positions, opening=WEATHER[:1])
        for line in [*HELLO[0]["content"], *lines]:
            before = list(talk.messages)
            try:
                num_left_out = talk.add_message(line)
            except ValueError as error:
                assert "positions, of which `max_new_tokens` (60) are reserved for the answer" in str(error)
                assert talk.messages == before
                continue
            assert talk.messages == [*before[:1], *before[1 + 2 * num_left_out :], {"role": "user", "content": line}]
            if num_left_out:
                kept_one_more = [*before[:1], *before[2 * num_left_out - 1 :], talk.messages[-1]]
                assert len(render_prompt(kept_one_more, tokenizer)) > num_positions - 60
            talk.answer(None, str)
            assert len(rows[-1]) <= num_positions - 60
            assert rows[-1] == render_prompt(talk.messages[:-1], tokenizer)


def test_a_message_that_is_too_long_is_rejected_with_both_numbers(tokenizer):
    talk = dialogue(tokenizer, num_positions=100)
    num_tokens = len(render_prompt([{"role": "user", "content": "海" * 300}], tokenizer))
    with pytest.raises(
        ValueError, match=f"the prompt has {num_tokens} tokens, but only 40 fit: the model has 100 positions"
    ):
        talk.add_message("海" * 300)
    assert talk.messages == []


@pytest.mark.parametrize("after", [0, 3, 9])
def test_an_interrupted_answer_keeps_the_text_generated_so_far(model, tokenizer, monkeypatch, after):
    talk, whole = dialogue(tokenizer), generate(model, tokenizer, [HELLO[:1]], Sampling(60))[0].ids
    parts = []

    def interrupt(text):
        parts.append(text)
        if len(parts) == after:
            raise KeyboardInterrupt

    if after == 0:
        monkeypatch.setattr(type(model), "generate", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    talk.add_message(HELLO[0]["content"])
    assert talk.answer(model, interrupt) == "interrupted"
    if after:
        text = tokenizer.decode(whole[:after])
        assert talk.messages[1:] == [{"role": "assistant", "content": text}]
        assert "".join(parts) == text
    else:
        assert talk.messages == []
    monkeypatch.undo()
    talk.restart([])
    talk.add_message(HELLO[0]["content"])
    assert answer(talk, model) == (HELLO[1]["content"], "ended")


def test_an_answer_that_reaches_max_new_tokens_is_cut(model, tokenizer):
    talk = dialogue(tokenizer, max_new_tokens=4)
    talk.add_message(HELLO[0]["content"])
    assert answer(talk, model)[1] == "cut"


def test_the_same_seed_gives_the_same_answers_and_each_turn_has_its_own(zero_dir, tokenizer):
    model = load_model(zero_dir, torch.float32)

    def answers(seed):
        talk = dialogue(tokenizer, do_sample=True, seed=seed, max_new_tokens=8, top_p=1.0, num_positions=76)
        return [answer(talk, model)[0] for _ in range(3) if talk.add_message("海") or True]

    assert answers(1) == answers(1)
    assert answers(1) != answers(2)
    assert len(set(answers(1))) == 3


def test_show_prints_the_prompt_and_the_answer_in_green(model, tokenizer):
    talk = dialogue(tokenizer)
    talk.add_message(HELLO[0]["content"])
    answer(talk, model)
    shown = talk.show()
    assert "<|user|>" in shown.plain and "こんにちは" in shown.plain
    green = ["green" in str(span.style) for span in shown.spans]
    assert green == sorted(green)
    assert sum(green) == len(generate(model, tokenizer, [HELLO[:1]], Sampling(60))[0].ids) + 1
    talk.restart([])
    assert not talk.show().plain


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"opening": WEATHER[:1], "prompt_format": "chatglm2"},
            "message 0 has the role system, not user; the",
        ),
        ({"num_positions": 60}, r"the prompt has \d+ tokens, but only 0 fit: the model has 60 positions"),
        ({"num_positions": 50}, r"the prompt has \d+ tokens, but only 0 fit: the model has 50 positions"),
        ({"temperature": 0.0}, r"`temperature` \(0.0\) must be above 0"),
    ],
)
def test_bad_settings_are_rejected_at_construction(tokenizer, values, message):
    with pytest.raises(ValueError, match=message):
        dialogue(tokenizer, **values)


def test_a_tokenizer_without_roles_needs_rounds(without_roles):
    assert dialogue(without_roles, "chatglm2").messages == []
    with pytest.raises(ValueError, match=r"no role tokens .* needs; set `format` to chatglm2"):
        dialogue(without_roles)


def test_a_rejected_opening_changes_nothing(tokenizer):
    talk = dialogue(tokenizer, num_positions=100, opening=[{"role": "system", "content": "短く"}])
    with pytest.raises(ValueError, match="but only 40 fit"):
        talk.restart([{"role": "system", "content": "海" * 300}])
    assert talk.messages == talk.opening == [{"role": "system", "content": "短く"}]
