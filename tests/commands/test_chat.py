import io
import json
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from glmja import chat
from glmja.conversation.formats import to_messages
from tests.support.families import as_chatglm2, without_evidence
from tests.support.file_reads import counted_opens, reads_of
from tests.support.programs import command_line
from tests.support.taught import HELLO, TOOLS, WEATHER, taught_folder

ROOT = Path(__file__).parents[2]
ANSWERS = [message["content"].replace("\x1b", "\ufffd") for message in HELLO[1::2]]


@pytest.fixture(scope="module")
def model_dir(zero_dir, tmp_path_factory):
    return taught_folder(zero_dir, tmp_path_factory)


@pytest.fixture
def talk(model_dir, monkeypatch, capfd):
    """Runs the command and returns its result, stdout and stderr."""

    def run(*lines, model=model_dir, **flags):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        flags = {"model": model, "do_sample": "false", "max_new_tokens": 60, "device": "cpu"} | flags
        messages = chat.main([f"--{key}={value}" for key, value in flags.items()])
        out, err = capfd.readouterr()
        return messages, out, err

    return run


@pytest.fixture
def rejected(talk, capfd, monkeypatch):
    """Runs the command on bad input and returns its error, which is one line and comes before weights are loaded."""
    monkeypatch.setattr("glmja.modeling.loading.load_model", lambda *_: pytest.fail("loaded"))

    def run(*lines, **flags):
        with pytest.raises(SystemExit) as left:
            talk(*lines, **flags)
        assert left.value.code in (2, 3, 4)
        out, err = capfd.readouterr()
        assert out == "" and err.count("\n") == 1
        return err

    return run


@pytest.mark.parametrize(("prompt", "lines"), [(HELLO[0]["content"], []), ("-", [HELLO[0]["content"]])])
def test_with_a_prompt_only_its_answer_is_on_stdout(talk, model_dir, prompt, lines):
    messages, out, err = talk(*lines, prompt=prompt)
    assert out == ANSWERS[0] + "\n"
    assert err == f"loading {model_dir} on cpu\n"
    assert [message["content"] for message in messages] == [HELLO[0]["content"], ANSWERS[0]]


def test_config_and_tokenizer_are_read_once(talk, model_dir):
    with counted_opens() as opens:
        talk("海", max_new_tokens=2)
    assert reads_of(opens, model_dir) == (1, 1)


def test_lines_are_turns_of_one_conversation(talk):
    messages, out, _ = talk(HELLO[0]["content"], "", HELLO[2]["content"])
    assert out == "".join(answer + "\n" for answer in ANSWERS)
    assert [message["content"] for message in messages] == [message["content"] for message in HELLO]


def test_control_characters_of_an_answer_are_replaced_and_tabs_are_kept(talk):
    out = talk(HELLO[0]["content"], HELLO[2]["content"])[1]
    assert "\x1b" not in out and "\n\t[bold]𠮷[/bold]\ufffd[31m。\n" in out


def test_the_result_of_a_called_tool_is_the_next_line(talk, model_dir):
    messages, out, err = talk(WEATHER[1]["content"], WEATHER[3]["content"], tools=model_dir / "tools.json")
    assert out == f"get_weather\n{WEATHER[2]['content']}\n{WEATHER[4]['content']}\n"
    assert "the assistant calls the tool get_weather; enter its result\n" in err
    assert [message["role"] for message in messages] == [message["role"] for message in WEATHER]
    assert messages[0]["tools"] == TOOLS


def test_tools_may_be_those_of_openai(talk, tmp_path):
    tools = [{"type": "function", "function": TOOLS[0]}]
    (tmp_path / "tools.json").write_text(json.dumps(tools), encoding="utf-8")
    messages, *_ = talk("/system はい", tools=tmp_path / "tools.json")
    assert messages == [{"role": "system", "content": "はい", "tools": tools}]


def test_reset_starts_a_new_conversation_with_the_same_opening(talk):
    messages, _, err = talk("海", "/reset", HELLO[0]["content"], system="短く")
    assert [message["content"] for message in messages[:2]] == ["短く", HELLO[0]["content"]]
    assert "new conversation\n" in err


def test_system_starts_a_new_conversation_and_keeps_the_tools(talk, model_dir):
    messages, *_ = talk("海", "/system  はい ", tools=model_dir / "tools.json")
    assert messages == [{"role": "system", "content": "はい", "tools": TOOLS}]
    messages, *_ = talk("/system はい", "海", "/system")
    assert messages == []


def test_retry_answers_the_last_message_again(talk):
    question = HELLO[0]["content"]
    messages, out, _ = talk(question, "/retry", HELLO[2]["content"])
    assert out.splitlines()[:2] == [ANSWERS[0]] * 2
    assert [message["content"] for message in messages[::2]] == [question, HELLO[2]["content"]]


def test_without_an_answer_there_is_nothing_to_retry(talk):
    messages, out, err = talk("/retry")
    assert (messages, out) == ([], "") and "there is no answer to replace yet" in err


def test_a_saved_conversation_is_a_record_to_train_on(talk, tmp_path):
    path = tmp_path / "my chat.jsonl"
    messages, _, err = talk(HELLO[0]["content"], f"/save {path}", f"/save {path}")
    assert f"saved 2 messages in {path}" in err and f"{path} exists; choose another name" in err
    assert to_messages(json.loads(path.read_text(encoding="utf-8")), "messages") == messages


def test_what_cannot_be_saved_is_said_and_the_chat_continues(talk, tmp_path):
    lines = ["/save x", "/save", HELLO[0]["content"], f"/save {tmp_path}/nowhere/x", HELLO[2]["content"]]
    messages, _, err = talk(*lines)
    assert len(messages) == 4
    assert "nothing to save yet" in err and "/save needs the name of a new file, as in /save chat.jsonl" in err
    assert "No such file or directory" in err


def test_the_temperature_can_be_shown_and_changed(talk):
    _, _, err = talk(
        "/temperature", "/temperature 0.3", "/temperature", "/temperature -1", "/temperature x", do_sample="true"
    )
    assert [line for line in err.splitlines() if line.startswith("temperature")] == [
        "temperature 0.8", "temperature 0.3", "temperature 0.3"
    ]  # fmt: skip
    assert "/temperature -1: it must be above 0 and finite; write it as in /temperature 0.5\n" in err
    assert "/temperature x: not a number; write it as in /temperature 0.5" in err


def test_greedy_decoding_has_no_temperature(talk):
    _, _, err = talk("/temperature", "/temperature 0.3")
    assert "greedy decoding, no temperature" in err
    assert "greedy decoding has no temperature; start the chat without --do_sample false to sample" in err


def test_tab_completes_the_names_of_commands():
    assert [chat._complete("/re", number) for number in range(3)] == ["/retry", "/reset", None]
    assert chat._complete("", 0) is None and chat._complete("re", 0) is None


def test_show_prints_the_tokens(talk):
    out = talk(HELLO[0]["content"], "/show")[1]
    assert "[gMASK]<sop><|user|>" in out.split("\n", 1)[1]
    assert "<0xF0><0x9F><0x98><0x80>" in out


def test_help_lists_every_command(talk):
    err = talk("/help")[2]
    assert [line.split()[0] for line in err.splitlines()[1:]] == chat._COMMANDS


def test_exit_leaves(talk):
    assert talk("/exit", "海")[:2] == ([], "")


@pytest.mark.parametrize(("line", "is_message"), [("/hlep", False), ("/usr/bin とは", True), ("/ とは", True)])
def test_an_unknown_command_is_not_sent_as_a_message(talk, line, is_message):
    messages, _, err = talk(line)
    assert [message["content"] for message in messages[:1]] == [line] * is_message
    assert (f"unknown command {line}; /help lists the commands\n" in err) is not is_message


def test_a_note_says_how_many_turns_were_dropped(talk):
    _, _, err = talk(*["海" * 600] * 3, max_new_tokens=200)
    assert err.count("dropped to make room: the oldest 1 turn\n") >= 1


def test_a_message_that_is_too_long_is_rejected_and_the_chat_continues(talk):
    _, out, err = talk("海" * 3000, HELLO[0]["content"])
    assert out == ANSWERS[0] + "\n"
    assert "tokens, but only 1988 fit: the model has 2048 positions, of which --max_new_tokens (60) are reserved" in err
    assert "for the answer; shorten the prompt or lower --max_new_tokens\n" in err


def test_invalid_unicode_is_rejected_and_the_chat_continues(talk):
    _, out, err = talk("\ud800", HELLO[0]["content"])
    assert out == ANSWERS[0] + "\n"
    assert "a lone surrogate" in err


@pytest.mark.parametrize("format", ["chatglm2", "chatglm"])
def test_rounds_need_no_roles(talk, model_dir, tmp_path, format):
    folder = tmp_path / "chatglm2-6b"
    shutil.copytree(model_dir, folder)
    messages, *_ = talk("海", "山", model=folder, format=format, max_new_tokens=8)
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert "metadata" not in messages[1]


def test_an_interrupted_prompt_exits_with_the_code_of_ctrl_c(talk, monkeypatch):
    monkeypatch.setattr("glmja.conversation.dialogue.Dialogue.answer", lambda *_: "interrupted")
    with pytest.raises(SystemExit) as left:
        talk(prompt="海")
    assert left.value.code == 130


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"temperature": 0}, "--temperature (0.0) must be above 0"),
        ({"top_p": 1.5}, "--top_p (1.5) must be above 0 and at most 1"),
        ({"max_new_tokens": 0}, "--max_new_tokens (0) must be at least 1"),
        (
            {"max_new_tokens": 2048},
            "tokens, but only 0 fit: the model has 2048 positions, of which --max_new_tokens (2048)",
        ),
        ({"device": "cuda:99"}, "--device cuda:99: not on this machine"),
        ({"model": "nowhere"}, "no such folder: nowhere"),
        ({"prompt": " "}, "--prompt is empty; leave it out for an interactive chat"),
        ({"prompt": "海" * 3000}, "tokens, but only 1988 fit: the model has 2048 positions"),
        ({"tools": "nowhere.json"}, "nowhere.json"),
        ({"format": "chatglm2", "system": "短く"}, "message 0 has the role system, not user; the format chatglm2"),
        ({"format": "chatglm4"}, "got chatglm4"),
    ],
)
def test_bad_input_is_one_line_before_weights_are_loaded(rejected, flags, message):
    assert message in rejected(**flags)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("{}", "expected a list of tools, as in"),
        ("[]", "expected a list of tools, as in"),
        ('[{"description": "a"}]', "expected a list of tools, as in"),
        ("\x80", "not UTF-8"),
    ],
)
def test_a_file_without_tools_is_rejected(rejected, tmp_path, content, message):
    path = tmp_path / "tools.json"
    path.write_bytes(content.encode("latin-1"))
    assert f"--tools {path}: {message}" in rejected(tools=path)


def test_an_empty_stdin_is_rejected(rejected):
    assert "--prompt is empty" in rejected(prompt="-")


@pytest.mark.parametrize(("flags", "first"), [(["--prompt=-"], ""), ([], "/help\n")])
def test_standard_input_in_another_encoding_is_refused(zero_dir, monkeypatch, capsys, flags, first):
    content = f"{first}これは①です。\n".encode("cp932")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    with pytest.raises(SystemExit) as left:
        chat.main([f"--model={zero_dir}", "--device=cpu", *flags])
    assert left.value.code == 3
    said = f"standard input:{len(first.splitlines()) + 1}: not UTF-8 (byte 0x82 at column 1); convert it to UTF-8"
    assert f"{said}, it may be CP932: iconv -f CP932 -t UTF-8\n" in capsys.readouterr().err


def test_a_model_without_role_tokens_is_rejected_with_a_solution(rejected, base_dir, tmp_path):
    folder = tmp_path / "chatglm2-6b"
    shutil.copytree(base_dir, folder)
    as_chatglm2(folder)
    assert "the tokenizer has no role tokens" in rejected(model=folder, format="chatglm3")


def test_prompts_are_in_the_format_of_the_models_family(talk, base_dir, tmp_path):
    folder = as_chatglm2(shutil.copytree(base_dir, tmp_path / "model"))
    _, out, err = talk("海", "/show", model=folder, max_new_tokens=2)
    assert "Round 1" in out + err


def test_the_family_of_a_model_can_be_given(talk, base_dir, tmp_path):
    folder = without_evidence(shutil.copytree(base_dir, tmp_path / "model"))
    _, out, err = talk("海", "/show", model=folder, max_new_tokens=2, family="chatglm2")
    assert "Round 1" in out + err


def test_messages_can_be_piped(model_dir, tmp_path):
    lines = "".join(f"{message['content']}\n" for message in HELLO[::2])
    flags = ["--device=cpu", f"--model={model_dir}", "--do_sample=false", "--max_new_tokens=60"]
    done = command_line.run(tmp_path, "glmja.chat", flags, stdin=lines)
    assert (done.returncode, done.stdout) == (0, "".join(answer + "\n" for answer in ANSWERS)), done.stderr


# A session leader without a controlling terminal gets one by opening it; Ctrl-C then sends SIGINT.
# SIGINT is ignored where pytest itself was started in the background of a shell.
ADOPT = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.close(os.open(os.ttyname(0), os.O_RDWR)); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


class Terminal:
    """The command in a terminal of its own."""

    def __init__(self, *flags):
        self.screen, theirs = pty.openpty()
        adopting = [sys.executable, "-c", ADOPT, "-m", "glmja.chat", "--device=cpu", *flags]
        self.process = subprocess.Popen(
            adopting, stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, start_new_session=True,
            env=os.environ | {"TERM": "xterm"},
        )  # fmt: skip
        os.close(theirs)
        self.seen = b""

    def wait_for(self, text=None):
        """Waits for a text, or for any output, after the text that was waited for before."""
        wanted, end = (text or "").encode(), time.monotonic() + 60
        while not self.seen or wanted not in self.seen:
            assert time.monotonic() < end, f"no {text!r} in {self.seen.decode(errors='replace')!r}"
            if select.select([self.screen], [], [], 0.1)[0]:
                self.seen += os.read(self.screen, 4096)
        self.seen = self.seen.split(wanted, 1)[1] if wanted else b""

    def type(self, text):
        os.write(self.screen, text.encode())

    def leave(self, key):
        """Presses a key until the command exits, since a key before the prompt is lost; returns the exit code.

        Python may take seconds to exit, and Ctrl-C would end it with another exit code then.
        """
        for _ in range(6):
            self.type(key)
            with suppress(subprocess.TimeoutExpired):
                return self.process.wait(10)
        return pytest.fail(f"{key!r} does not leave")

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.screen)


@pytest.mark.parametrize("key", ["\x03", pytest.param("\x04", marks=pytest.mark.slow)], ids=["ctrl-c", "ctrl-d"])
def test_ctrl_c_stops_an_answer_and_leaves_at_the_prompt_as_ctrl_d_does(zero_dir, key):
    terminal = Terminal(f"--model={zero_dir}", "--max_new_tokens=1900", "--format=chatglm2", "--do_sample=false")
    try:
        terminal.wait_for("/help lists the commands")
        terminal.wait_for("> ")
        terminal.type("海\n")
        terminal.wait_for("海\r\n")
        terminal.wait_for()
        terminal.type("\x03")
        terminal.wait_for("stopped\r\n")
        terminal.wait_for("> ")
        terminal.type("/h海\x7f\x1b[Dx\x1b[C\x7flep\n")  # erases 海, which is two columns wide, and edits before h
        terminal.wait_for("海\x08\x08")
        terminal.wait_for("unknown command /xlep; /help lists the commands")
        terminal.type("\x1b[A\n")  # the line before
        terminal.wait_for("unknown command /xlep; /help lists the commands")
        terminal.wait_for("> ")
        assert terminal.leave(key) == 0
    finally:
        terminal.close()
