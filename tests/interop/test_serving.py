"""What Hugging Face's own tools make of a model folder."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
import torch
from transformers import AutoTokenizer, pipeline
from transformers.utils.import_utils import is_serve_available

from glmja.conversation.rendering import render
from glmja.conversation.replies import generate
from glmja.modeling.loading import load_model
from glmja.modeling.model_folder import write_model
from glmja.modeling.sampling import Sampling
from glmja.weights.checkpoint import Checkpoint
from glmja.weights.options import MAX_SHARD_SIZE
from tests.support.taught import HELLO, TOOLS, WEATHER, taught_folder

CHATS = [
    HELLO[:1],
    HELLO[:3],
    [{"role": "system", "content": "短く"}, {"role": "user", "content": "魚の種類はどっち？"}],
]
MAX_NEW_TOKENS = 40


@pytest.fixture(scope="module")
def model_dir(zero_dir, tmp_path_factory):
    return taught_folder(zero_dir, tmp_path_factory)


@pytest.fixture(scope="module")
def exported_dir(model_dir, tokenizer, tmp_path_factory):
    """As `python -m glmja.export` writes a model."""
    folder = tmp_path_factory.mktemp("exported")
    write_model(folder, Checkpoint.open(model_dir).as_glm(), tokenizer, "glm", MAX_SHARD_SIZE)
    return folder


def ours(folder, tokenizer, chats):
    return generate(load_model(folder, torch.float32), tokenizer, chats, Sampling(MAX_NEW_TOKENS))


@pytest.mark.parametrize("made_by", ["zero_dir", "exported_dir"])
def test_a_pipeline_returns_the_replies_of_generate(request, tokenizer, made_by):
    folder = request.getfixturevalue(made_by)
    speak = pipeline("text-generation", model=str(folder), dtype=torch.float32, device="cpu")
    replies = ours(folder, tokenizer, CHATS)
    for chat, reply in zip(CHATS, replies, strict=True):
        theirs = speak(chat, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)[0]["generated_text"]
        # bytes that are no character: one replacement a byte, or one for all
        text, said = (re.sub("\ufffd+", "\ufffd", found) for found in (reply.text, theirs[-1]["content"]))
        assert said == text
        assert theirs == [*chat, {"role": "assistant", "content": theirs[-1]["content"]}]


@pytest.mark.parametrize("end", ["</s>", "<|user|>"])
@pytest.mark.parametrize("tools", [None, TOOLS])
def test_an_answer_is_shown_without_its_empty_metadata_line(model_dir, tokenizer, end, tools):
    fast = AutoTokenizer.from_pretrained(model_dir)
    prompt = fast.apply_chat_template(HELLO[:1], tools=tools, add_generation_prompt=True, return_dict=False)
    for content in ("やあ", " 二つ  の空白 ", "一\n\n二\n", "\n改行", "\n 改行", ""):
        body = render([{"role": "assistant", "content": content}], tokenizer)[0][3:-1]
        ids = [*body[0 if tools else len(tokenizer.encode("\n")) :], tokenizer.control_id(end)]
        assert fast.parse_response(ids, prefix=prompt) == {"role": "assistant", "content": content}


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("city='東京'", {"city": "東京"}),
        ("", {}),
        ("n=-1, at=[1.5, 'a'], of={'x': 1}", {"n": -1, "at": [1.5, "a"], "of": {"x": 1}}),
        (r"text='a\n'", None),
        ("exact=True", None),
        ('''name="it's"''', None),
    ],
)
def test_a_call_of_a_tool_is_parsed_if_that_loses_nothing(model_dir, tokenizer, code, arguments):
    fast = AutoTokenizer.from_pretrained(model_dir)
    call = {"role": "assistant", "metadata": "get_weather", "content": f"```python\ntool_call({code})\n```"}
    ids = [*render([call], tokenizer)[0][3:-1], tokenizer.role_id("observation")]
    function = {"name": "get_weather", "arguments": arguments}
    parsed = {"content": "", "tool_calls": [{"type": "function", "function": function}]}
    as_text = {"content": f"get_weather\n {call['content']}"}
    expected = {"role": "assistant", **(as_text if arguments is None else parsed)}
    assert fast.parse_response(ids, prefix="<|assistant|>") == expected


@pytest.fixture(scope="module")
def server(exported_dir, tmp_path_factory):
    """`transformers serve`, without network; its address."""
    if not is_serve_available():
        pytest.skip("transformers serve needs fastapi, uvicorn and openai: pip install -e '.[serve]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", exported_dir]
    flags = ["--device=cpu", "--dtype=float32", "--host=127.0.0.1", f"--port={port}"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as file:
        process = subprocess.Popen([*program, *flags], stdout=file, stderr=file, env=environment)
    try:
        wait_until_up(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1/chat/completions"
    finally:
        process.kill()
        process.wait()


def wait_until_up(address, process, log):
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        try:
            return urlopen(address, timeout=5).read()
        except URLError:
            time.sleep(0.1)
    pytest.fail(f"the server is not up: {log.read_text(encoding='utf-8')[-2000:]}")


def post(address, messages, **body):
    body = {"messages": messages, "temperature": 0, "max_tokens": MAX_NEW_TOKENS} | body
    request = Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as response:
        return response.read().decode()


def test_a_server_returns_the_replies_of_generate(server, exported_dir, tokenizer):
    for chat, reply in zip(CHATS, ours(exported_dir, tokenizer, CHATS), strict=True):
        answer = json.loads(post(server, chat, model=str(exported_dir)))
        assert answer["choices"][0]["message"]["content"] == reply.text
        assert answer["choices"][0]["finish_reason"] == ("stop" if reply.stopped else "length")
        assert answer["usage"]["prompt_tokens"] == reply.num_prompt_tokens


def test_a_server_returns_the_calls_of_a_tool(server, exported_dir):
    _, question, _, result, answer = WEATHER
    body = {"model": str(exported_dir), "tools": TOOLS}
    first = json.loads(post(server, [{"role": "user", "content": question["content"]}], **body))["choices"][0]
    assert first["finish_reason"] == "tool_calls"
    (call,) = first["message"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("get_weather", {"city": "東京"})
    round_two = [question, first["message"], {"role": "tool", "tool_call_id": call["id"], "content": result["content"]}]
    second = json.loads(post(server, round_two, **body))["choices"][0]["message"]
    assert second["content"] == answer["content"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_ends_within_a_character_keeps_those_before_it(server, exported_dir, tokenizer, stream):
    (reply,) = ours(exported_dir, tokenizer, CHATS[:1])
    pieces = [tokenizer.piece(i) for i in reply.ids]
    first = pieces.index("<0xF0>")  # of 😀
    for num_bytes in range(5):
        said = post(server, CHATS[0], model=str(exported_dir), stream=stream, max_tokens=first + num_bytes)
        if stream:
            lines = [json.loads(line.removeprefix("data: ")) for line in said.splitlines() if "{" in line]
            text = "".join(line["choices"][0]["delta"].get("content", "") for line in lines)
        else:
            text = json.loads(said)["choices"][0]["message"]["content"]
        assert text.rstrip("\ufffd").strip() == ("やあ、 😀" if num_bytes == 4 else "やあ、")


def test_a_server_streams_the_replies_of_generate(server, exported_dir, tokenizer):
    for chat, reply in zip(CHATS, ours(exported_dir, tokenizer, CHATS), strict=True):
        lines = post(server, chat, model=str(exported_dir), stream=True).splitlines()
        deltas = [json.loads(line.removeprefix("data: "))["choices"][0]["delta"] for line in lines if "{" in line]
        assert "".join(delta.get("content", "") for delta in deltas) == reply.text
        assert len(deltas) > 5
