"""Readers refuse damaged files in one line or read valid content from them.

A failure names its seed; `FUZZ_SEED=17 pytest tests/system/test_fuzz.py -k tokenizer` repeats it.
"""

import faulthandler
import gc
import io
import itertools
import json
import logging
import multiprocessing
import os
import resource
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import yaml
from jsonargparse import capture_parser
from safetensors.torch import save_file
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from data_modules.sources import ChatSource, TextSource
from data_modules.stores import chat_rendering
from data_modules.stores.chat_store import ChatStore
from data_modules.stores.token_store import TokenStore
from glmja import fit
from glmja.cli.command import one_line_errors
from glmja.conversation import rendering as conversation
from glmja.errors import ExitCode
from glmja.families.recognition import load_tokenizer
from glmja.files.documents import read_documents
from glmja.files.records import read_chunks
from glmja.runs import manifest
from glmja.runs.identity import RunIdentity
from glmja.tokenization.tokenizer import FILE_NAME
from glmja.tokenization.vocabulary import parse_proto
from glmja.twin import build as twin
from glmja.weights.checkpoint import Checkpoint
from tests.support.daily import of_the_day
from tests.support.families import CHATGLM2_CODE
from tests.support.mutations import mutate_bytes, mutate_json, mutate_proto

SECONDS, BYTES = 20, 1 << 30  # maximum to read one file; the seconds are those of the processor
HANGS = 300  # seconds after which a reader is taken to wait for something

Mutator = Callable[[bytes, Random], bytes]


@dataclass
class Format:
    """A folder of valid files and its reader.

    `read` returns a function that asserts that the content is valid; that function may raise nothing else.
    """

    files: dict[str, bytes]
    structures: dict[str, Mutator]  # mutators that keep the container of some files valid
    read: Callable[[Path], Callable[[], None]]
    beside: dict[str, bytes] = field(default_factory=dict)  # files that are not mutated


def mutation(form, seed):
    """Returns the name and the mutated content of a file."""
    rng = Random(seed)
    name = rng.choice(list(form.files))
    mutate = form.structures.get(name, mutate_bytes)
    return name, (mutate if rng.random() < 0.5 else mutate_bytes)(form.files[name], rng)


def outcome(form, folder):
    """Returns `accepted`, `refused` (with one line), or a description of the failure."""
    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(io.StringIO()):
            with one_line_errors("fuzz"):
                check = form.read(folder)
            check()
    except SystemExit as stop:
        line = said.getvalue()
        if len(line.splitlines()) != 1 or stop.code == ExitCode.MACHINE:  # not an error of the machine
            return f"exit code {stop.code}, {line!r}"
        return "refused"
    except BaseException:
        return traceback.format_exc()
    return "accepted"


def sweep(form, seeds, folder):
    """Reads the valid folder, and one mutation per seed; returns the outcome, counts, and failures."""
    for name, content in (form.files | form.beside).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    whole, counts, bad = outcome(form, folder), Counter(), {}
    with (folder.parent / "log").open("w") as log:
        for seed in seeds:
            log.seek(0)
            log.write(f"seed {seed:>9}\n")
            log.flush()
            name, content = mutation(form, seed)
            (folder / name).write_bytes(content)
            faulthandler.dump_traceback_later(HANGS, exit=True, file=log)
            begin = time.process_time()
            result = outcome(form, folder)
            if (took := time.process_time() - begin) > SECONDS:
                result = f"{result} after {took:.0f} s"
            faulthandler.cancel_dump_traceback_later()
            counts[result if result in ("accepted", "refused") else "bad"] += 1
            if result not in ("accepted", "refused"):
                bad[f"{seed} in {name}"] = result
            (folder / name).write_bytes(form.files[name])
    return whole, counts, bad


def in_a_process(form, seeds, folder):
    """Runs `sweep` in a process; returns its results, its peak memory in bytes, and its processor seconds."""

    def work():
        # garbage of the tests before may not be finalized here: an error in a finalizer is formatted with `ast.parse`,
        # and within `ast.literal_eval` of numpy that is a SystemError (CPython issue 106905)
        gc.freeze()
        with open("/proc/self/clear_refs", "w") as refs:
            refs.write("5")  # resets the peak
        before = memory("VmRSS")
        resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + BYTES,) * 2)
        begin = time.process_time()
        logging.disable()
        result = sweep(form, seeds, folder)
        result = *result, memory("VmHWM") - before, time.process_time() - begin
        (folder.parent / "result").write_text(json.dumps(result))

    folder.mkdir()
    (folder.parent / "log").touch()
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == 0, f"exit code {process.exitcode} at {(folder.parent / 'log').read_text()}"
    return json.loads((folder.parent / "result").read_text())


def memory(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{key}:"))


# --- the six formats


RUN = """\
run_dir: runs/x
seed_everything: 3
trainer:
  max_steps: 40
  gradient_clip_val: 1.0
  val_check_interval: null
  callbacks:
    - class_path: callbacks.NonFiniteGuard
    - class_path: lightning.pytorch.callbacks.LearningRateMonitor
      init_args: {logging_interval: step}
model:
  class_path: lit_modules.PackedPretraining
  init_args:
    model_dir: models/zero
    embeddings: full
    lora: {rank: 8, alpha: 16}
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 1.0e-4, betas: [0.9, 0.98]}}
data:
  class_path: data_modules.PackedPretrainingData
  init_args:
    sources:
      - {name: ja, lang: ja, weight: 0.76, files: [data/ja.jsonl.gz]}
      - {name: "zh", lang: zh, weight: 0.24, files: [data/zh.jsonl.gz]}
    tokens: 1_000_000
    row_len: 1024
"""


def configuration():
    parser = capture_parser(fit.main, ["--data=x"])

    def read(folder):
        config = parser.parse_args([f"--config={folder / 'run.yaml'}"])
        return lambda: parser.dump(config)

    def structured(content, rng):
        return mutate_json(json.dumps(yaml.safe_load(content)).encode(), rng)

    return Format({"run.yaml": RUN.encode()}, {"run.yaml": structured}, read)


CHATS = {
    "messages": [
        {"messages": [{"role": "user", "content": "こんにちは"}, {"role": "assistant", "content": "はい。"}]},
        {
            "tools": [{"name": "検索", "parameters": {"q": "語"}}],
            "messages": [
                {"role": "system", "content": "短く。"},
                {"role": "user", "content": "調べて"},
                {"role": "assistant", "content": None, "tool_calls": [
                    {"type": "function", "function": {"name": "検索", "arguments": '{"q": 1}'}}
                ]},
                {"role": "tool", "content": '{"n": 1}'},
                {"role": "assistant", "metadata": "", "content": "ありました。"},
            ],
        },
    ],
    "sharegpt": [{"system": "s", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}],
    "alpaca": [{"instruction": "a", "input": "b", "output": "c", "history": [["d", "e"]]}],
    "adgen": [{"content": "類型#裙", "summary": "これは。"}],
}  # fmt: skip


def lines_of(records):
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def damaged_line(content, rng):
    lines = content.splitlines()
    i = rng.randrange(len(lines))
    lines[i] = mutate_json(lines[i], rng)
    return b"\n".join(lines)


def corpora(tokenizer):
    files = {"text.jsonl": lines_of([{"text": "日本語。"}, {"text": "two\nlines", "id": 3}, {"text": " "}])}
    files |= {f"{name}.jsonl": lines_of(records) for name, records in CHATS.items()}
    files["array.json"] = json.dumps(CHATS["messages"]).encode()

    def read(folder):
        texts = list(read_documents([folder / "text.jsonl"]))
        paths = {folder / f"{name}.jsonl": name for name in CHATS} | {folder / "array.json": "messages"}
        rendered = [
            chat_rendering.render_chunk(chunk, tokenizer, chat_rendering.Reading(chat_format, {}, "all", 64))
            for path, chat_format in paths.items()
            for chunk in read_chunks([path])
        ]
        return lambda: check(texts, rendered)

    def check(texts, rendered):
        assert all(text.strip() and text.encode() for text in texts)
        for part in rendered:
            assert sum(part.lengths) == len(part.tokens) == len(part.loss_mask)
            assert not len(part.tokens) or part.tokens.max() < len(tokenizer)
            assert all(0 < length <= 64 for length in part.lengths)

    return Format(files, dict.fromkeys(files, damaged_line) | {"array.json": mutate_json}, read)


def tokenizers(tokenizer_dir):
    normalising = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["日本語の文です。", "ﾊﾝｶｸ fullwidth ＡＢＣ", "中文 hello world " * 3]),
        model_writer=normalising, vocab_size=330, model_type="bpe", byte_fallback=True, hard_vocab_limit=False,
        minloglevel=2,
    )  # fmt: skip
    # ChatGLM2 has five control tokens
    after_control_tokens = SentencePieceProcessor(model_proto=normalising.getvalue()).vocab_size() + 5
    files = {
        f"own/{FILE_NAME}": (tokenizer_dir / FILE_NAME).read_bytes(),
        f"other/{FILE_NAME}": normalising.getvalue(),
        "other/config.json": b'{"_name_or_path": "THUDM/chatglm2-6b", "model_type": "chatglm", "rotary_percent": 0.5}',
        "other/tokenizer_config.json": json.dumps(
            {"added_tokens_decoder": {str(after_control_tokens): {"content": "<|user|>", "special": True}}}
        ).encode(),
        "other/tokenization_chatglm.py": CHATGLM2_CODE.encode(),
    }

    def read(folder):
        opened = [load_tokenizer(folder / name) for name in ("own", "other")]
        return lambda: [check(tokenizer) for tokenizer in opened]

    def check(tokenizer):
        control = tokenizer.control_tokens
        for text in ("", "日本語 の、ﾊﾝｶｸ abc\n<|user|></s>\0\U0001f600", "あ" * 300):
            ids = tokenizer.encode(text)
            assert all(0 <= i < len(tokenizer) for i in ids) and not set(ids) & set(control.values())
            assert isinstance(tokenizer.decode(ids), str)
        assert all(0 <= i < len(tokenizer) for i in (*tokenizer.prefix_ids, *tokenizer.stop_ids, *tokenizer.new_ids))
        assert len(tokenizer.num_characters) == len(tokenizer)
        assert len(tokenizer.fingerprint) == 64 and tokenizer.piece(5) is not None
        if tokenizer.has_roles:
            conversation.render([{"role": "user", "content": "あ"}, {"role": "assistant", "content": "b"}], tokenizer)

    def structured(content, rng):
        proto = parse_proto(content)
        for _ in range(rng.choice([1, 1, 3])):
            mutate_proto(proto, rng)
        return proto.SerializeToString()

    structures = {name: structured for name in files if name.endswith(FILE_NAME)}
    structures |= {name: mutate_json for name in files if name.endswith(".json")}
    return Format(files, structures, read)


def weights(folder):
    config = twin._config(64, 32, 1)
    tensors = twin._weights(config, 0)
    first = dict(list(tensors.items())[:3])
    second = {name: tensor for name, tensor in tensors.items() if name not in first}
    for name, part in (("a.safetensors", first), ("b.safetensors", second)):
        save_file(part, folder / name, {"format": "pt"})
    index = {"weight_map": dict.fromkeys(first, "a.safetensors") | dict.fromkeys(second, "b.safetensors")}
    files = {name: (folder / name).read_bytes() for name in ("a.safetensors", "b.safetensors")}
    files |= {"model.safetensors.index.json": json.dumps(index).encode(), "config.json": json.dumps(config).encode()}

    def read(folder):
        checkpoint = Checkpoint.open(folder)
        assert len(checkpoint.fingerprint()) == 64  # needs no known names
        glm = checkpoint.as_glm()
        return lambda: check(checkpoint, glm)

    def check(checkpoint, glm):
        assert len(glm.as_chatglm().fingerprint()) == 64
        for opened in (checkpoint, glm):
            for source in opened.tensors.values():
                tensor = source.read_all()
                assert (tuple(tensor.shape), tensor.dtype) == (source.shape, source.dtype)
                assert tensor.nbytes == source.num_bytes

    def structured(content, rng):
        length = int.from_bytes(content[:8], "little")
        header = mutate_json(content[8 : 8 + length], rng)
        return len(header).to_bytes(8, "little") + header + content[8 + length :]

    structures = {"a.safetensors": structured, "b.safetensors": structured}
    return Format(files, structures | dict.fromkeys(["model.safetensors.index.json", "config.json"], mutate_json), read)


IDENTITY = {
    "world_size": 2,
    "precision": "32",
    "base": "1f3a",
    "trainable": [["a.weight", [8, 8]], ["b.weight", [8, 8]]],
}


def checkpoints(folder):
    for step in (3, 6):
        partial = manifest.begin(folder / f"step={step}.ckpt")
        (partial / "checkpoint").mkdir()
        (partial / "latest").write_text("x")
        (partial / "checkpoint" / "mp_rank_00_model_states.pt").write_bytes(b"abc" * 99)
        manifest.complete(partial, folder / f"step={step}.ckpt", step, RunIdentity.from_json(IDENTITY))
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    name = f"step=6.ckpt/{manifest.NAME}"

    def read(folder):
        assert manifest.newest(folder).name in ("step=3.ckpt", "step=6.ckpt")  # whatever the damage
        found = manifest.read(folder / "step=6.ckpt")
        RunIdentity.from_json(IDENTITY).check_resumable(found.identity, "x.ckpt")
        return lambda: check(folder / "step=6.ckpt", found)

    whole = manifest.read(folder / "step=6.ckpt")

    def check(folder, found):
        if "sha256" in json.loads((folder / manifest.NAME).read_text()):
            assert found == whole
        assert isinstance(found.step, int) and found.step >= 0 and found.identity.as_json() == IDENTITY
        assert found.files and all(
            (folder / name).stat().st_size == file["bytes"] for name, file in found.files.items()
        )

    return Format({name: files.pop(name)}, {name: mutate_json}, read, files)


def stores(folder, tokenizer):
    (folder / "a.jsonl").write_bytes(lines_of({"text": text} for text in ("日本語。", "中文", "abc" * 20)))
    (folder / "b.jsonl").write_bytes(lines_of(CHATS["messages"] + [{"messages": []}]))
    kinds = {"text": TokenStore, "chat": ChatStore}
    opened = {
        "text": TokenStore.of(TextSource("a", "ja", [str(folder / "a.jsonl")]), tokenizer, folder / "text", 0),
        "chat": ChatStore.of(ChatSource("b", "ja", [str(folder / "b.jsonl")]), tokenizer, 64, folder / "chat"),
    }
    files = {
        f"{kind}/{path.name}": path.read_bytes() for kind, store in opened.items() for path in store.folder.iterdir()
    }

    def read(folder):
        text, chat = (kind.open(folder, name) for name, kind in kinds.items())
        return lambda: [check(text), check(chat), check_chat(chat)]

    def check(store):
        assert store.starts.dtype == np.int64 and store.starts[0] == 0 and (store.lengths > 0).all()
        assert store.starts[-1] == len(store.tokens) and store.tokens.max() < len(tokenizer)

    def check_chat(store):
        assert len(store.loss_mask) == len(store.tokens) and set(store.loss_mask.view(np.uint8).tolist()) <= {0, 1}
        sums = [store.loss_mask[a:b].sum() for a, b in zip(store.starts[:-1], store.starts[1:], strict=True)]
        assert store.num_target_tokens.tolist() == sums
        store.check_dropped("b", 1.0)

    def structured(content, rng):
        values = np.load(io.BytesIO(content))
        for _ in range(rng.choice([1, 1, 3])):
            odd = rng.choice([0, 1, -1, 5, 2**31, 2**62, -(2**63), len(values)])
            values[rng.randrange(len(values))] = np.int64(odd).astype(values.dtype)
        out = io.BytesIO()
        np.save(
            out, rng.choice([values, values[:-1], values[None], values.astype(rng.choice(["f8", "i4", ">i8", "?"]))])
        )
        return out.getvalue()

    structures = dict.fromkeys([name for name in files if name.endswith(".npy")], structured)
    return Format(files, structures | {"chat/report.json": mutate_json}, read)


@pytest.fixture(scope="module")
def formats(tmp_path_factory, tokenizer_dir, tokenizer):
    return {
        "config": configuration(),
        "corpus": corpora(tokenizer),
        "tokenizer": tokenizers(tokenizer_dir),
        "safetensors": weights(tmp_path_factory.mktemp("weights")),
        "manifest": checkpoints(tmp_path_factory.mktemp("checkpoints")),
        "store": stores(tmp_path_factory.mktemp("stores"), tokenizer),
    }


NAMES = ["config", "corpus", "tokenizer", "safetensors", "manifest", "store"]


# the drawn ones are among all
DRAWN, ALL = dict.fromkeys(NAMES, 80) | {"config": 30}, 10_000  # a configuration takes longest to read


@pytest.mark.parametrize("which", ["drawn", pytest.param("all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_refused_in_one_line_or_harmless(formats, tmp_path, name, which):
    seeds = of_the_day(name).sample(range(ALL), DRAWN[name] if which == "drawn" else ALL)
    if "FUZZ_SEED" in os.environ:
        seeds = [int(os.environ["FUZZ_SEED"])]
    whole, counts, bad, peak, seconds = in_a_process(formats[name], seeds, tmp_path / name)
    print(f"{name}: {len(seeds)} mutations, {counts}, {peak >> 20} MB, {seconds:.1f} s")
    for seed, found in bad.items():
        print(f"--- FUZZ_SEED={seed}\n{found}")
    assert not bad
    assert whole == "accepted"
    assert peak < BYTES


TWICE = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghij"))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("a: &a [1]\n" + TWICE, id="aliases of aliases"),
        pytest.param("a: &a [*a]\n", id="an alias of itself"),
        pytest.param("a: " + "[" * 100_000, id="brackets"),
        pytest.param("- " * 100_000, id="dashes"),
        pytest.param("trainer: {max_steps: !!bool x}", id="a tag that lies"),
        pytest.param("trainer: {max_steps: " + "9" * 5000 + "}", id="a long number"),
    ],
)
def test_an_endless_configuration_is_refused(formats, tmp_path, content):
    form = replace(formats["config"], files={"run.yaml": content.encode()})
    whole, *_, seconds = in_a_process(form, [], tmp_path / "config")
    assert (whole, seconds < 5) == ("refused", True)
