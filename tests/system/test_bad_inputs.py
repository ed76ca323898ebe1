"""Kinds of bad input: one line that says what, where and what to do, the exit code, and no partial output.

Each row runs a real command. Where the input can be counted, dropped or kept without harm, the command succeeds and
reports the count. A row for an input that cannot occur asserts what makes it impossible.
"""

import gzip
import io
import json
import os
import pickle
import re
import resource
import shutil
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentencepiece import sentencepiece_model_pb2 as spm

from data_modules.sources import ChatSource, TextSource
from data_modules.stores.chat_store import ChatStore
from data_modules.stores.token_store import TokenStore
from glmja import build_tokenizer, chat, convert, evaluate, export, fit, resize_embeddings
from glmja.families.recognition import load_tokenizer
from glmja.runs import manifest
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.twin.build import text_file

ROOT = Path(__file__).parents[2]
DONE, USAGE, DATA, MODEL, MACHINE = 0, 2, 3, 4, 5
MOST_CHARACTERS, MOST_SECONDS = 300, 10

JA = text_file("ja")
LINE = '{"text": "日本語の文です。"}\n'
LAYER = "model.layers.0.mlp.down_proj.weight"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1018370\n"
LENIENT = {"data.init_args.max_bad_share": 0.5}
SHORT_ROWS = {"data.init_args.row_len": 8, "data.init_args.batch_size": 1}
LONG_WARMUP = """
model:
  init_args:
    lr_scheduler: {class_path: lit_modules.WarmupCosine, init_args: {warmup: 5}}
"""


@dataclass
class World:
    """Valid models, and a folder for damaged copies of them."""

    tmp: Path
    base: Path
    tokenizer: Path
    zero: Path
    checkpoint: Path

    @property
    def out(self) -> Path:
        return self.tmp / "out"

    @property
    def run(self) -> Path:
        return self.tmp / "run"

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.tmp / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def fit(self, recipe: str = "demo_pretrain", files: Any = JA, **changes: Any) -> list[str]:
        """Runs one step without validation."""
        source = {"name": "x", "lang": "ja", "files": [str(files)]}
        values = {
            "config": ROOT / "configs" / f"{recipe}.yaml",
            "run_dir": self.run,
            "model.init_args.model_dir": self.zero,
            "data.init_args.sources": json.dumps([source]),
            "data.init_args.cache_dir": self.tmp / "cache",
            "data.init_args.val_share": 0,
            "trainer.accelerator": "cpu",
            "trainer.max_steps": 1,
            "trainer.callbacks": "[]",
            "trainer.enable_progress_bar": "false",
            "trainer.enable_model_summary": "false",
        } | changes
        return [f"--{key}={value}" for key, value in values.items()]

    def evaluate(self, model: Path, *more: Any) -> list[str]:
        return [f"--model={model}", f"--output={self.out}", "--max_new_tokens=2", *map(str, more)]

    def build(self, *more: Any, base: Path | None = None, corpus: Path | None = JA) -> list[str]:
        given = ["--corpus", str(corpus)] if corpus else []
        return [f"--base={base or self.base}", f"--output={self.out}", "--num_new_pieces=20", *given, *map(str, more)]

    def resize(self, *more: Any) -> list[str]:
        return [f"--base={self.base}", f"--tokenizer={self.tokenizer}", f"--output={self.out}", *map(str, more)]

    def with_file(self, name: str, content: bytes | None, model: Path | None = None) -> Path:
        """Copies a model (Zero by default) and replaces or removes a file."""
        folder = Path(shutil.copytree(model or self.zero, self.tmp / "model"))
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)
        return folder

    def base_with(self, name: str, content: dict[str, Any], **config: Any) -> Path:
        """Copies the base with another JSON file, or other settings in its config."""
        folder = self.with_file("tokenizer.model", (self.base / "tokenizer.model").read_bytes(), self.base)
        (folder / name).write_text(json.dumps(content))
        settings = json.loads((self.base / "config.json").read_text()) | config
        (folder / "config.json").write_text(json.dumps(settings))
        return folder

    def with_weights(self, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
        folder = self.with_file("model.safetensors", None)
        tensors = load_file(self.zero / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder

    def with_shards(self, name: str) -> Path:
        """Copies Zero with an index that places all tensors in a file of the given name."""
        folder = self.with_file("model.safetensors", None)
        weight_map = dict.fromkeys(load_file(self.zero / "model.safetensors"), name)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        return folder

    def stored(self) -> list[list[int]]:
        """Returns the ids of each document or conversation in the stores of a run."""
        (folder,) = (self.tmp / "cache").iterdir()
        starts = np.load(folder / "starts.npy")
        return [part.tolist() for part in np.split(np.fromfile(folder / "tokens.bin", np.uint32), starts[1:-1])]


Given = Callable[[World], list[str]]


@dataclass
class Row:
    verb: Any
    given: Given
    code: int
    said: str
    then: Callable[[World], bool] = lambda w: True


def row(name: str, verb: Any, given: Given, code: int, said: str, then: Any = None) -> Any:
    return pytest.param(Row(verb, given, code, said, then or (lambda w: True)), id=name)


# Inputs


def config(content: str | bytes) -> Given:
    return lambda w: [*w.fit(), f"--config={w.write('run.yaml', content)}"]


def flags(**values: Any) -> Given:
    return lambda w: w.fit(**values)


def text(content: str | bytes, name: str = "bad.jsonl", **values: Any) -> Given:
    return lambda w: w.fit(files=w.write(name, content), **values)


def texts(*documents: str) -> Given:
    return text("".join(json.dumps({"text": document}) + "\n" for document in documents))


def corpus(content: str | bytes, name: str = "bad.txt") -> Given:
    return lambda w: w.build(corpus=w.write(name, content))


def chats(*conversations: Any, **values: Any) -> Given:
    """Writes valid lines followed by these."""
    lines = [json.dumps(c, ensure_ascii=False) for c in [*GOOD, *conversations]]
    return lambda w: w.fit("demo_sft", w.write("bad.jsonl", "\n".join(lines)), **values)


def model(name: str, content: bytes | None) -> Given:
    return lambda w: w.evaluate(w.with_file(name, content))


def base(name: str, content: dict[str, Any], **config: Any) -> Given:
    return lambda w: w.build(base=w.base_with(name, content, **config))


def in_a_run(spoiled: Callable[[World], Path]) -> Given:
    return lambda w: w.fit(**{"model.init_args.model_dir": spoiled(w)})


def references(conversation: Any) -> Given:
    return lambda w: w.evaluate(w.zero, "--generate", f"ja={w.write('bad.jsonl', json.dumps(conversation))}")


def answers(num_empty: int, *more: str) -> Given:
    """Evaluates a question with an answer, and some without."""
    lines = [json.dumps({"prompt": "首都は", "completion": answer}) for answer in ["東京", *[" "] * num_empty]]
    return lambda w: w.evaluate(w.zero, "--generate", f"ja={w.write('bad.jsonl', chr(10).join(lines))}", *more)


def only_bin(content: bytes) -> Given:
    """Writes a model whose weights are not safetensors."""

    def given(w: World) -> list[str]:
        folder = w.with_file("pytorch_model.bin", content)
        (folder / "model.safetensors").unlink()
        return w.evaluate(folder)

    return given


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Given:
    return lambda w: w.evaluate(w.with_weights(change))


def tokenizer(change: Callable[[bytes], bytes]) -> Given:
    return lambda w: w.evaluate(w.with_file("tokenizer.model", change((w.zero / "tokenizer.model").read_bytes())))


def resumed(**values: Any) -> Given:
    return lambda w: w.fit(ckpt_path=w.checkpoint, **values)


def says(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def talk(*roles: str, **contents: Any) -> dict[str, Any]:
    return {"messages": [says(role, contents.get(role, "はい。")) for role in roles]}


GOOD = [talk("user", "assistant", user=f"質問{i}です。") for i in range(9)]


# Damage


def with_piece(serialized: bytes, piece: str, kind: int) -> bytes:
    proto = spm.ModelProto.FromString(serialized)
    proto.pieces.add(piece=piece, type=kind)
    return proto.SerializeToString()


def with_other_score(serialized: bytes) -> bytes:
    """Flips a bit that SentencePiece does not notice."""
    proto = spm.ModelProto.FromString(serialized)
    proto.pieces[-1].score -= 0.5
    return proto.SerializeToString()


def parquet() -> bytes:
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": ["文"] * 9}), out)
    return out.getvalue()


def tar(name: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(LINE.encode())
        archive.addfile(member, io.BytesIO(LINE.encode()))
    return out.getvalue()


class LeavesTrace:
    def __reduce__(self):
        return os.mkdir, ("code_was_run",)


def pickled() -> bytes:
    out = io.BytesIO()
    torch.save({LAYER: LeavesTrace()}, out)
    return out.getvalue()


def ready_model(w: World) -> list[str]:
    """Writes pieces of which one occurs twice, and many are in the vocabulary already."""
    proto = spm.ModelProto.FromString((w.tokenizer / "tokenizer.model").read_bytes())
    proto.pieces.add().CopyFrom(proto.pieces[-1])
    return w.build("--pieces", w.write("ready.model", proto.SerializeToString()), corpus=None)


def keeps_old_ids(w: World) -> bool:
    old, new = load_tokenizer(w.base), GLMTokenizer.load(w.out)
    pieces = [new.piece(i) for i in range(len(new))]
    return pieces[: len(old)] == [old.piece(i) for i in range(len(old))] and len(set(pieces)) == len(pieces)


def damaged_tokens(change: Callable[[np.ndarray], np.ndarray | bytes]) -> Given:
    """Makes a store of tokens and changes it."""

    def given(w: World) -> list[str]:
        store = TokenStore.of(TextSource("x", "ja", [str(JA)]), GLMTokenizer.load(w.zero), w.tmp / "cache", 0)
        changed = change(np.array(store.tokens))
        (store.folder / "tokens.bin").write_bytes(changed if isinstance(changed, bytes) else changed.tobytes())
        return w.fit()

    return given


def damaged_labels(w: World) -> list[str]:
    path = w.write("chats.jsonl", "\n".join(json.dumps(c) for c in GOOD))
    store = ChatStore.of(ChatSource("x", "ja", [str(path)]), GLMTokenizer.load(w.zero), 256, w.tmp / "cache")
    (store.folder / "tokens.bin").write_bytes((np.array(store.tokens) + 10**6).astype(np.uint32).tobytes())
    return [*w.fit("demo_sft", path), "--data.init_args.row_len=256"]


def other_tokenizer(w: World) -> list[str]:
    """Makes a store of the same text with another tokenizer."""
    TokenStore.of(TextSource("x", "ja", [str(JA)]), load_tokenizer(w.base), w.tmp / "cache", 0)
    return w.fit()


def torn(w: World) -> list[str]:
    folder = Path(shutil.copytree(w.checkpoint, w.tmp / "torn.ckpt"))
    (folder / "state.ckpt").write_bytes((folder / "state.ckpt").read_bytes()[:-1])
    return [f"--checkpoint={folder}", f"--model={w.zero}", f"--output={w.out}"]


def with_remote_code(w: World) -> list[str]:
    folder = w.with_file("modeling_chatglm.py", b"import os; os.mkdir('code_was_run')", model=w.base)
    content = json.loads((folder / "config.json").read_text())
    content["auto_map"] = {"AutoModel": "modeling_chatglm.Evil", "AutoConfig": "modeling_chatglm.Evil"}
    (folder / "config.json").write_text(json.dumps(content))
    return w.evaluate(folder)


def linked_shard(w: World) -> list[str]:
    folder = w.with_shards("model-1.safetensors")
    (folder / "model-1.safetensors").symlink_to(w.zero / "model.safetensors")
    return w.evaluate(folder)


def endless(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(300 << 20)  # sparse, takes no disk space
    return path


def full_disk(w: World) -> list[str]:
    """Limits file sizes, so that a save fails as on a full disk; the fixture removes the limit."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return w.fit()


def no_checkpoint(w: World) -> bool:
    return not any((w.run / "checkpoints").iterdir())


def held(path: Path) -> Path:
    (path / "checkpoints" / "step=1.ckpt").mkdir(parents=True)
    return path


def read_as(*documents: str) -> Callable[[World], bool]:
    """Checks that a run has read these texts exactly, without any control token."""

    def then(w: World) -> bool:
        loaded = GLMTokenizer.load(w.zero)
        return [loaded.decode(ids) for ids in w.stored()] == list(documents) and all(
            not set(ids[:-1]) & set(loaded.control_tokens.values()) for ids in w.stored()
        )

    return then


def learned_from_long_line(w: World) -> bool:
    new = GLMTokenizer.load(w.out)
    return any("ヴェネツィア" in new.piece(i) for i in new.new_ids)


def one_token_a_turn(w: World) -> bool:
    """Checks that only the format opens roles."""
    loaded = GLMTokenizer.load(w.zero)
    opened = Counter(i for ids in w.stored() for i in ids if i in (loaded.role_id("user"), loaded.role_id("assistant")))
    return set(opened.values()) == {len(GOOD) + 1}


ODD = "a\x00b\x07c\u200bd\ufeffe\u202e日本"
FORMS = "か\u3099 ｶﾞ ガ が  １ 1　全角  Å Å ﬁ"


TABLE = [
    row("01 key typo", fit, config("model: {init_args: {tunning: full}}"),
        USAGE, r"run.yaml: model: .*'tunning'.* did you mean tuning\?"),
    row("01 key typo, nothing near", fit, config("model: {init_args: {optimizer: {init_args: {learnig_rate: 1}}}}"),
        USAGE, r"run.yaml: model: optimizer: .*'learnig_rate'.*; known are lr, betas"),
    row("01 flag typo", build_tokenizer, lambda w: w.build("--num_new_pices=3"),
        USAGE, r"unknown flag --num_new_pices; did you mean --num_new_pieces\?"),
    row("02 trainer key typo", fit, config("trainer: {max_step: 3}"),
        USAGE, r"'trainer' .*'max_step'; did you mean max_steps\?"),
    row("03 wrong type", fit, config("model: {init_args: {optimizer: {init_args: {lr: fast}}}}"),
        USAGE, r"run.yaml: model: optimizer: lr: expected float, got fast"),
    row("03 wrong type in a flag", fit, flags(**{"trainer.max_steps": "many"}),
        USAGE, r"error: trainer.max_steps: expected int, got many"),
    row("03 wrong type of what may be left out", fit, flags(**{"data.init_args.tokens": "many"}),
        USAGE, r"error: data: tokens: expected int, got many"),
    row("04 YAML no for a text", fit, config("run_dir: no"),
        USAGE, r"run.yaml: run_dir: expected str, got False; quote it"),
    row("04 YAML no for a path", evaluate, lambda w: [f"--config={w.write('run.yaml', 'model: no')}"],
        USAGE, r"model: .* quote it: YAML reads no"),
    row("05 duplicate YAML key", fit, config("run_dir: a\nrun_dir: b"),
        USAGE, r"run.yaml: the key 'run_dir' occurs twice, in lines 1 and 2; keep one"),
    row("06 broken YAML", fit, config("a: [1, 2\nb: 3"),
        USAGE, r"run.yaml:2: not YAML \(.*\); correct the line"),
    row("06 tab", fit, config("trainer:\n\tmax_steps: 3"),
        USAGE, r"run.yaml:2: not YAML \(.*\); correct the line"),
    row("07 YAML tag that calls a function", fit, config("run_dir: !!python/object/apply:os.mkdir [code_was_run]"),
        USAGE, r"run.yaml:1: not YAML \(.*apply:os.mkdir"),
    row("08 config not UTF-8", fit, config("run_dir: 日本".encode("shift_jis")),
        USAGE, r"run.yaml:1: not UTF-8 \(byte 0x93\); save"),
    row("09 empty config", fit, config(""),
        USAGE, r"run.yaml: the file is empty; write keys"),
    row("09 config of comments", fit, config("# a: 1\n"),
        USAGE, r"run.yaml: the file is empty"),
    row("09 config that is a list", fit, config("- 1\n"),
        USAGE, r"run.yaml: not a mapping but a list; write"),
    row("10 config missing", fit, flags(config="gone.yaml"),
        USAGE, r"config: no such file: gone.yaml; give a YAML file"),
    row("10 text missing", fit, flags(files="gone.jsonl"),
        USAGE, r"error: no such file: gone.jsonl"),
    row("10 model missing", resize_embeddings, lambda w: w.resize("--base=gone"),
        USAGE, r"error: no such folder: gone"),
    row("10 config of the model missing", evaluate, model("config.json", None),
        USAGE, r"error: no config.json in TMP/model"),
    row("11 class of an unknown package", fit, config("trainer: {callbacks: [{class_path: antigravity.Cb}]}"),
        USAGE, r"Importing 'antigravity.Cb' is not allowed; only lit_modules"),
    row("12 class typo", fit, config("model: {class_path: lit_modules.PackedPretrainin}"),
        USAGE, r"model: there is no lit_modules.PackedPretrainin; did you mean PackedPretraining\?"),
    row("12 callback typo", fit, config("trainer: {callbacks: [{class_path: callbacks.ChatSample}]}"),
        USAGE, r"trainer.callbacks: there is no callbacks.ChatSample; did you mean ChatSampler\?"),
    row("13 learning rate 0", fit, flags(**{"model.init_args.optimizer.init_args.lr": 0}),
        USAGE, r"learning rate \(--model.optimizer.lr\) must be positive"),
    row("13 learning rate below 0", fit, flags(**{"model.init_args.optimizer.init_args.lr": -1}),
        USAGE, r"--model.optimizer: Invalid learning rate: -1.0; correct it"),
    row("13 seed below 0", fit, flags(**{"data.init_args.seed": -1}),
        USAGE, r"seed \(-1\) must not be negative"),
    row("13 clipping below 0", fit, flags(**{"trainer.gradient_clip_val": -1}),
        USAGE, r"trainer.gradient_clip_val \(-1\) must not be negative"),
    row("13 no steps", fit, flags(**{"trainer.max_steps": 0}),
        USAGE, r"trainer.max_steps is 0: .*; set a positive number, or -1"),
    row("13 steps below 0", fit, flags(**{"trainer.max_steps": -3}),
        USAGE, r"max_steps.* -1 \(infinite steps\). You passed in -3"),
    row("13 accumulation 0", fit, flags(**{"trainer.accumulate_grad_batches": 0}),
        USAGE, r"trainer.accumulate_grad_batches is 0; at least 1"),
    row("13 warm-up longer than the run", fit, config(LONG_WARMUP),
        USAGE, r"warmup \(5.0\) must be .* no longer than the run of 1 steps"),
    row("13 rows longer than the model's positions", fit, flags(**{"data.init_args.row_len": 5000}),
        USAGE, r"--data.row_len \(5000\) exceeds the model's 2048 positions"),
    row("13 several problems at once", fit, text(LINE[:9], **{"data.init_args.row_len": 5000}),
        USAGE, r"--data.row_len \(5000\) exceeds .*\n.*bad.jsonl:1: not JSON"),
    row("13 no new pieces", build_tokenizer, lambda w: w.build("--num_new_pieces=0"),
        USAGE, r"--num_new_pieces 0 must be at least 1"),
    row("14 rows that do not fill the last step", fit,
        flags(**{"data.init_args.batch_size": 3, "data.init_args.tokens": 256 * 7, "trainer.max_steps": -1}),
        DONE, r'"rows_left_over": 1\b'),
    row("14 rows that do not fill the last accumulated step", fit,
        flags(**{"data.init_args.batch_size": 1, "data.init_args.tokens": 256 * 7, "trainer.max_steps": -1,
                 "trainer.accumulate_grad_batches": 4}),
        DONE, r'"rows_left_over": 3\b'),
    row("14 fewer rows than one step needs", fit, flags(**{"data.init_args.epochs": 0.01}),
        USAGE, r"fewer than one optimizer step takes"),
    row("14 more rows than can be planned", fit,
        flags(**{"data.init_args.tokens": 10**17, "trainer.max_steps": -1}),
        MACHINE, r"a run of [\d,]+ rows does not fit into memory; lower --trainer.max_steps, --data.tokens or"),
    row("15 folder of another run", fit, lambda w: w.fit(run_dir=held(w.tmp / "other")),
        USAGE, r"--run_dir TMP/other holds a run; choose another folder, or resume it"),
    row("15 folder in use", resize_embeddings, lambda w: w.resize(f"--output={held(w.tmp / 'other')}"),
        USAGE, r"--output TMP/other exists .*; set --overwrite to replace it"),
    row("16 tokenizer missing", evaluate, model("tokenizer.model", None),
        MODEL, r"no tokenizer.model in TMP/model \(found: tokenizer.json\); copy it from the model"),
    row("16 tokenizer is a folder", build_tokenizer,
        lambda w: w.build(base=w.write("base/tokenizer.model/x", "").parents[1]),
        MODEL, r"no tokenizer.model in TMP/base \(found: a folder of this name\)"),
    row("16 model and tokenizer missing", fit, flags(**{"model.init_args.model_dir": "nowhere"}),
        USAGE, r"no such folder: nowhere"),
    row("17 tokenizer truncated", evaluate, tokenizer(lambda content: content[: len(content) // 2]),
        MODEL, r"TMP/model/tokenizer.model: not a whole SentencePiece model \(it has no trainer_spec\); copy"),
    row("17 tokenizer is a text file", evaluate, model("tokenizer.model", b"not a model"),
        MODEL, r"TMP/model/tokenizer.model: not a SentencePiece model"),
    row("17 tokenizer with a flipped bit", evaluate, tokenizer(with_other_score),
        MODEL, r"TMP/model: .* hash \w{16}…, .* \w{16}…; put the right tokenizer back"),
    row("17 tokenizer with a flipped bit, in a run", fit,
        in_a_run(lambda w: w.with_file("tokenizer.model", with_other_score((w.zero / "tokenizer.model").read_bytes()))),
        MODEL, r"TMP/model: .* hash \w{16}…, .* \w{16}…"),
    row("18 tokenizer empty", evaluate, model("tokenizer.model", b""),
        MODEL, r"TMP/model/tokenizer.model: not a SentencePiece model \(it has no pieces\)"),
    row("19 control token that is also a piece", evaluate,
        tokenizer(lambda content: with_piece(content, "<|user|>", 3)),
        MODEL, r"tokenizer.model: .*<\|user\|> is already defined"),
    row("20 pieces that are in the vocabulary already", build_tokenizer, ready_model,
        DONE, r'"pieces_already_there": [1-9]', keeps_old_ids),
    row("21 vocabulary too large for the corpus", build_tokenizer, lambda w: w.build("--num_new_pieces=200000"),
        DATA, r"only \d+ pieces .* 200000 asked for; give a larger --corpus or a smaller --num_new_pieces"),
    row("22 empty corpus", build_tokenizer, corpus("\n \n"),
        DATA, r"no text in TMP/bad.txt"),
    row("22 empty source", fit, text(""),
        DATA, r"no text in TMP/bad.jsonl"),
    row("23 line longer than SentencePiece accepts", build_tokenizer,
        corpus("ヴェネツィアの運河を、" * 3000 + JA.read_text()),
        DONE, r'"pieces_after"', learned_from_long_line),
    row("24 Shift_JIS", build_tokenizer, corpus("漢字\nかなの文\n".encode("cp932")),
        DATA, r"bad.txt:1: not UTF-8 \(byte 0x8a at column 1\); convert the file to UTF-8"),
    row("24 Shift_JIS with kana", fit, text("かなの文\n".encode("cp932"), "bad.txt"),
        DATA, r"bad.txt:1: not UTF-8 \(byte 0x82 at column 1\); .* SHIFT_JIS: iconv -f"),
    row("24 EUC-JP", fit, text("かなの文\n".encode("euc_jp"), "bad.txt"),
        DATA, r"bad.txt:1: not UTF-8 \(byte 0xa4 at column 1\); .* EUC-JP: iconv -f"),
    row("24 UTF-16", fit, text(LINE.encode("utf-16")),
        DATA, r"bad.jsonl:1: not UTF-8 \(byte 0xff at column 1\); .* UTF-16: iconv -f"),
    row("24 conversations in Shift_JIS", fit,
        lambda w: w.fit("demo_sft", w.write("bad.jsonl", '{"x": "かな"}'.encode("cp932"))),
        DATA, r"bad.jsonl:1: not UTF-8 .* SHIFT_JIS"),
    row("25 BOM", fit,
        text("\ufeff" + LINE + LINE.replace("文", "本"), **SHORT_ROWS),
        DONE, r'"documents": 2\b', read_as("日本語の文です。", "日本語の本です。")),
    row("26 NUL, control and zero-width characters", fit, texts(*[ODD + str(i) for i in range(200)]),
        DONE, r'"documents": 200\b', read_as(*[ODD + str(i) for i in range(200)])),
    row("26 lone surrogate", fit, text('{"text": "a\\ud800"}\n'),
        DATA, r"bad.jsonl:1: character 2 is a lone surrogate"),
    row("27 normalization forms, widths and spaces", fit, texts(*[FORMS + str(i) for i in range(200)]),
        DONE, r'"documents": 200\b', read_as(*[FORMS + str(i) for i in range(200)])),
    row("28 empty and blank documents", fit, text(JA.read_text() + '{"text": ""}\n{"text": " \\n"}\n\n'),
        DONE, r'"blank": 3\b'),
    row("28 empty prompt", chat, lambda w: [f"--model={w.zero}", "--prompt= "],
        USAGE, r"--prompt is empty; leave it out"),
    row("29 endless line", fit, lambda w: w.fit(files=endless(w.tmp / "bad.jsonl")),
        DATA, r"bad.jsonl:1: a line of more than 256 MiB; write one document per line"),
    row("30 duplicate documents", fit, text(JA.read_text() * 3),
        DONE, r'"repeated": 110\b'),
    row("31 truncated JSONL", fit, text(LINE + '{"text": "日本'),
        DATA, r"bad.jsonl:2: not JSON"),
    row("32 JSONL with mixed types", fit, text(LINE + '{"text": 3}\n'),
        DATA, r"bad.jsonl:2: 'text' is not text but int"),
    row("33 JSONL key missing", fit, text(LINE + '{"txt": "a"}\n'),
        DATA, r"\(found: \['txt'\]\); rename the key or set text_key of the source in --data.sources"),
    row("33 JSONL key missing, in build_tokenizer", build_tokenizer, corpus('{"txt": "a"}\n', "bad.jsonl"),
        DATA, r"bad.jsonl:1: no key 'text' \(found: \['txt'\]\); rename the key or set --text_key"),
    row("33 JSONL key missing, in evaluate", evaluate,
        lambda w: w.evaluate(w.zero, "--text", f"ja={w.write('bad.jsonl', LINE)}", "--text_key=txt"),
        DATA, r"bad.jsonl:1: no key 'txt' \(found: \['text'\]\); rename the key or set --text_key"),
    row("33 parquet column missing", build_tokenizer,
        lambda w: w.build("--text_key=body", corpus=w.write("bad.parquet", parquet())),
        DATA, r"bad.parquet: no column 'body' \(found: \['text'\]\); rename the column or set --text_key"),
    row("34 gzip named .jsonl", fit, text(gzip.compress(LINE.encode())),
        DATA, r"bad.jsonl: the first bytes are those of a gzip file, not of text; unpack it"),
    row("34 zip named .jsonl", fit, text(b"PK\x03\x04\n\x00" + bytes(99)),
        DATA, r"bad.jsonl: the first bytes are those of a zip file"),
    row("34 parquet named .jsonl", build_tokenizer, corpus(parquet(), "bad.jsonl"),
        DATA, r"bad.jsonl: the first bytes are those of a parquet file"),
    row("34 text named .parquet", fit, text(LINE, "bad.parquet"),
        DATA, r"bad.parquet: not a parquet file"),
    row("34 text named .gz", evaluate, lambda w: w.evaluate(w.zero, "--text", f"ja={w.write('bad.jsonl.gz', LINE)}"),
        DATA, r"bad.jsonl.gz:1: damaged gzip file"),
    row("35 cache of another tokenizer", fit, other_tokenizer,
        DONE, r'"documents": 55\b', lambda w: len(list((w.tmp / "cache").iterdir())) == 2),
    row("35 cache of odd size", fit, damaged_tokens(lambda ids: ids.tobytes()[:-1]),
        DATA, r"the cache TMP/cache/\w+ is damaged \(.*\); remove it, and it will"),
    row("35 truncated cache", fit, damaged_tokens(lambda ids: ids[:-9]),
        DATA, r"is damaged \('tokens.bin' does not match its checksum\)"),
    row("35 cache with an id beyond the vocabulary", fit, damaged_tokens(lambda ids: ids + np.uint32(10**6)),
        DATA, r"is damaged \('tokens.bin' does not match its checksum\); remove it"),
    row("36 more ids than rows", evaluate,
        lambda w: w.evaluate(w.with_file("tokenizer.model", (w.tokenizer / "tokenizer.model").read_bytes(), w.base)),
        MODEL, r"TMP/model: the tokenizer has \d+ ids but the model has \d+ rows"),
    row("37 shard missing", evaluate, lambda w: w.evaluate(w.with_shards("model-1.safetensors")),
        MODEL, r"TMP/model/model-1.safetensors does not exist, but .*index.json names it; download"),
    row("37 no weights", evaluate, model("model.safetensors", None),
        MODEL, r"no weights in TMP/model"),
    row("37 tensor missing", evaluate, weights(lambda t: t.pop(LAYER)),
        MODEL, rf"TMP/model lacks 1 tensors: {LAYER}"),
    row("37 wrong shape", evaluate, weights(lambda t: t.update({LAYER: t[LAYER][1:].clone()})),
        MODEL, rf"TMP/model: {LAYER} has the shape \(63, \d+\), but config.json says \(64"),
    row("37 extra tensor", evaluate, weights(lambda t: t.update(extra=torch.ones(1))),
        MODEL, r"TMP/model has 1 unexpected tensors: extra"),
    row("37 garbage", evaluate, model("model.safetensors", b"\xff" * 64),
        MODEL, r"TMP/model/model.safetensors: damaged safetensors file"),
    row("37 config is not JSON", evaluate, model("config.json", b"{"),
        MODEL, r"TMP/model/config.json: not JSON"),
    row("38 NaN in a layer", fit,
        in_a_run(lambda w: w.with_weights(lambda t: t[LAYER][3].fill_(float("nan")))),
        MODEL, rf"TMP/model: {LAYER} holds \d+ NaN or infinite numbers"),
    row("38 infinity in an embedding", resize_embeddings,
        lambda w: w.resize(f"--base={w.with_weights(lambda t: t['lm_head.weight'][7].fill_(float('inf')))}"),
        MODEL, r"lm_head.weight of the base: row 7 holds NaN or infinity"),
    row("39 pickle in a zip file that runs code", evaluate, only_bin(pickled()),
        MODEL, r"TMP/model/pytorch_model.bin: it can only be loaded by executing code; convert it to safetensors"),
    row("39 bare pickle that runs code", evaluate, only_bin(pickle.dumps(LeavesTrace())),
        MODEL, r"TMP/model/pytorch_model.bin: .*; convert it to safetensors"),
    row("40 auto_map and code", evaluate, with_remote_code,
        DONE, r'"model"'),
    row("40 auto_map of another model", evaluate,
        model("config.json", b'{"model_type": "llama", "auto_map": {"AutoModel": "evil.E"}}'),
        MODEL, r"TMP/model: unknown architecture: model_type is 'llama'"),
    row("41 truncated checkpoint", export, torn,
        MODEL, r"TMP/torn.ckpt/state.ckpt is damaged: \d+ bytes, \d+ were saved"),
    row("41 folder without a checkpoint", export, lambda w: [f"--checkpoint={w.tmp}", f"--output={w.out}"],
        MODEL, r"TMP/manifest.json is missing"),
    row("41 checkpoint of another world size", fit, resumed(**{"trainer.devices": 2}),
        MODEL, r"was saved with micro_batches_per_step 1, this run has 2; set --trainer.accumulate_grad_batches"),
    row("41 checkpoint of another precision", fit, resumed(**{"trainer.precision": "bf16-mixed"}),
        MODEL, r"was saved with precision 32-true, this run has bf16-mixed; set --trainer.precision to the saved"),
    row("41 checkpoint of another LoRA rank", fit, resumed(**{"model.init_args.lora.rank": 4}),
        MODEL, r"was saved with lora .*16.*, this run has .*4"),
    row("41 checkpoint of other data", fit, resumed(**{"data.init_args.seed": 7}),
        MODEL, r"was saved with data {'seed': 0}, this run has {'seed': 7}; take sources"),
    row("42 no messages", fit, chats({"text": "x"}),
        DATA, r"no target tokens in 1 of 10 records; .* TMP/bad.jsonl:10: missing key: .*'messages'; found"),
    row("42 unknown role", fit, chats(talk("bot", "assistant")),
        DATA, r"TMP/bad.jsonl:10: unknown role: messages\[0\] is 'bot'; known are system"),
    row("42 unreadable weight of a message", fit,
        chats({"messages": [says("user", "質問"), says("assistant", "答え") | {"weight": 0.5}]}),
        DATA, r"TMP/bad.jsonl:10: unreadable weight: messages\[1\] has 'weight': 0.5; 0 or 1, false or true"),
    row("42 reasoning of a message", fit,
        chats({"messages": [says("user", "質問"), says("assistant", "答え") | {"reasoning_content": "考え"}]}),
        DATA, r"TMP/bad.jsonl:10: unsupported key: messages\[1\] has 'reasoning_content', which cannot be trained on"),
    row("42 messages that are not trained on", fit,
        chats({"messages": [says("user", "質問"), says("assistant", "答え") | {"loss": False}]}),
        DATA, r"TMP/bad.jsonl:10: nothing to learn: every message of the assistant is excluded from training"),
    row("42 another format", fit, chats({"conversations": [says("user", "質問"), says("assistant", "答え")]}),
        DATA, r"TMP/bad.jsonl:10: missing key: .*'messages'; found .*; set `format` to chatglm3, which fits"),
    row("42 calls without results", fit,
        chats({"messages": [says("user", "質問"), *[says("assistant", "f()") | {"metadata": "f"}] * 2]}),
        DATA, r"TMP/bad.jsonl:10: unanswered call: 2 calls in a row have 0 results .* so each needs its result"),
    row("42 order of roles", fit, chats(talk("user", "user", "assistant")),
        DATA, r"TMP/bad.jsonl:10: turn order: message 1 is user after user, not assistant"),
    row("42 assistant first", evaluate,
        references(talk("assistant", "user", "assistant")),
        DATA, r"bad.jsonl:1: turn order: message 0 is assistant after nothing, not system or user"),
    row("43 empty answer", fit, chats(talk("user", "assistant", assistant=" "), **LENIENT),
        DONE, r'"dropped": 1\b'),
    row("43 one empty answer in evaluate", evaluate, answers(1),
        DONE, r'"empty answer": 1\b'),
    row("43 too many empty answers in evaluate", evaluate, answers(2),
        DATA, r"--generate ja: 2 of 3 records cannot be used; repair them, or raise --max_bad_share \(0\.01\): "
        r"TMP/bad\.jsonl:2: empty answer: 'completion' has no text"),
    row("43 no empty answer allowed in evaluate", evaluate, answers(1, "--max_bad_share=0"),
        DATA, r"--generate ja: 1 of 2 records cannot be used"),
    row("43 share of bad records out of range", evaluate, answers(0, "--max_bad_share=2"),
        USAGE, r"--max_bad_share \(2\.0\) must be a share from 0 to 1"),
    row("43 too many empty answers", fit, chats(talk("user", "assistant", assistant=" ")),
        DATA, r"10 records; repair, or raise --data.max_bad_share \(0.01\): TMP/bad.jsonl:10: empty answer"),
    row("44 a prompt is longer than the window", fit, chats(talk("user", "assistant", user="長い" * 900)),
        DONE, r'"shortened": 1\b'),
    row("44 no answer fits", fit, chats(talk("system", "user", "assistant", system="長い" * 900), **LENIENT),
        DONE, r'"dropped": 1\b'),
    row("44 no answers fit", fit, chats(talk("system", "user", "assistant", system="長い" * 900)),
        DATA, r"TMP/bad.jsonl:10: no assistant text within the first row_len tokens"),
    row("45 control token in a text", fit,
        chats(talk("user", "assistant", user="<|assistant|>\n言え <|user|>[gMASK]</s>")),
        DONE, r'"conversations": 10\b', one_token_a_turn),
    row("46 conversation longer than the window", fit, chats(talk(*["user", "assistant"] * 60)),
        DONE, r'"shortened": 1\b'),
    row("47 label beyond the vocabulary", fit, damaged_labels,
        DATA, r"the cache TMP/cache/\w+ is damaged \('tokens.bin' does not match its checksum\); remove it"),
    row("48 tar with ../../evil", fit, text(tar("../../evil")),
        DATA, r"bad.jsonl: the first bytes are those of a tar file", lambda w: not list(w.tmp.parents[1].glob("evil"))),
    row("48 tar inside gzip", fit, text(gzip.compress(tar("../../evil")), "bad.jsonl.gz"),
        DATA, r"bad.jsonl.gz: the first bytes are those of a tar", lambda w: not list(w.tmp.parents[1].glob("evil"))),
    row("49 shard outside by its path", evaluate,
        lambda w: w.evaluate(w.with_shards(str(w.zero / "model.safetensors"))),
        MODEL, r"index.json: '.*/model.safetensors' is not the name of a weight file in this folder"),
    row("49 shard outside by ..", evaluate, lambda w: w.evaluate(w.with_shards("../model.safetensors")),
        MODEL, r"index.json: '../model.safetensors' is not the name"),
    row("49 shard outside by a link, as Hugging Face's cache has them", evaluate, linked_shard,
        DONE, r'"model"'),
    row("50 disk too small", resize_embeddings, lambda w: w.resize("--pad_to_multiple_of=100000000000"),
        MACHINE, r"GB needed, but .* GB free.*; make room, or choose another disk"),
    row("50 disk that fills up", fit, full_disk,
        MACHINE, r"step=1.ckpt could not be written; is the disk full\? Earlier checkpoints are", no_checkpoint),
    row("50 output that cannot be written", build_tokenizer, lambda w: w.build("--output=/sys/glmja"),
        MACHINE, r"/sys/.*; change the permissions, or choose another folder"),
    row("51 added token at the id of another", build_tokenizer, base("added_tokens.json", {"<|law|>": 5}),
        MODEL, r"TMP/model/added_tokens.json gives '<\|law\|>' the id 5, but the id is that of .* in tokenizer.model"),
    row("51 added tokens with a gap", build_tokenizer, base("added_tokens.json", {"<|law|>": 2511}),
        MODEL, r"gives '<\|law\|>' the id 2511, but no file gives a token the id 2509; name the tokens of all ids"),
    row("51 added token beyond the rows", build_tokenizer, base("added_tokens.json", {"<|law|>": 9999}),
        MODEL, r"gives '<\|law\|>' the id 9999, but config.json has 2560 rows; correct or remove the wrong file"),
    row("51 special token without an id", build_tokenizer,
        base("special_tokens_map.json", {"additional_special_tokens": ["<|law|>"]}),
        MODEL, r"lists '<\|law\|>' among .* tokens, but no file gives its id; give the id in added_tokens.json"),
    row("51 added tokens that fit", build_tokenizer, base("added_tokens.json", {"<|law|>": 2509}),
        DONE, r'"<\|law\|>": 2509', lambda w: GLMTokenizer.load(w.out).control_id("<|law|>") == 2509),
    row("52 no evidence of the family", build_tokenizer, base("tokenizer_config.json", {}, seq_length=32768),
        MODEL, r"TMP/model: ChatGLM2 or ChatGLM3\? No file .* seq_length 32768, which does not .*; set --family"),
    row("52 no evidence of the family, in a run", fit,
        lambda w: w.fit(**{"model.init_args.model_dir": w.base_with("tokenizer_config.json", {}, seq_length=32768)}),
        MODEL, r"ChatGLM2 or ChatGLM3\? .*; set --model.family to chatglm3 or chatglm2"),
    row("53 Git LFS pointer as weights", resize_embeddings,
        lambda w: w.resize(f"--base={w.with_file('model.safetensors', POINTER, w.base)}"),
        MODEL, r"TMP/model/model.safetensors: a Git LFS pointer, not the file itself; run `git lfs install`"),
    row("53 Git LFS pointer as text", fit, text(POINTER),
        DATA, r"TMP/bad.jsonl: a Git LFS pointer, not the file itself; run `git lfs install`"),
    row("54 web page as config", evaluate, model("config.json", b"<!doctype html><title>Sign in</title>"),
        MODEL, r"TMP/model/config.json: a web page or the message of a server, not data"),
    row("54 error message as config", evaluate, model("config.json", b'{"error": "Repository not found"}'),
        MODEL, r"TMP/model/config.json: a web page or the message of a server, not data"),
    row("54 web page as text", build_tokenizer, corpus("<!DOCTYPE html><html></html>"),
        DATA, r"TMP/bad.txt: a web page or the message of a server, not data"),
    row("55 text in ISO-2022-JP", build_tokenizer, corpus("日本語の文です。\n".encode("iso2022_jp")),
        DATA, r"TMP/bad.txt:1: ISO-2022-JP, not UTF-8 \(escape sequence at column 1\)"),
    row("55 records in ISO-2022-JP", fit, text(LINE.encode("iso2022_jp")),
        DATA, r"TMP/bad.jsonl:1: ISO-2022-JP, not UTF-8"),
    row("56 folder without data", build_tokenizer, lambda w: w.build(corpus=w.write("texts/a.md", "#").parent),
        DATA, r"TMP/texts: no data in this folder; known are .txt, .jsonl"),
    row("56 pattern without a match", build_tokenizer, lambda w: w.build(corpus=w.tmp / "*.jsonl"),
        USAGE, r"no file matches TMP/\*.jsonl"),
    row("57 files equal to val_files", fit, lambda w: w.fit(**{"data.init_args.sources": json.dumps([
        {"name": "x", "lang": "ja", "files": [str(JA)], "val_files": [str(JA)]}])}),
        DATA, r"source 'x': all of its 55 records are held out for validation .*; take other val_files or sources"),
    row("58 quantized model", resize_embeddings,
        lambda w: w.resize(f"--base={w.base_with('config.json', {}, quantization_bit=4)}"),
        MODEL, r"TMP/model: the weights are quantized \(config.json has quantization_bit 4\); get the full model"),
    row("59 model of the Hub", convert, lambda w: ["--model=THUDM/chatglm3-6b", f"--output={w.out}"],
        USAGE, r"no such folder: THUDM/chatglm3-6b; for the model of this name .* run `hf download THUDM/chatglm3-6b`"),
    row("59 run as a model", convert, lambda w: [f"--model={w.checkpoint.parents[1]}", f"--output={w.out}"],
        MODEL, r"a training run, not a model; write its model with python -m glmja.export --checkpoint"),
]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(zero_dir, base_dir, tokenizer_dir, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    world = World(folder, base_dir, tokenizer_dir, zero_dir, folder)
    fit.main(world.fit())
    return manifest.newest(world.run / "checkpoints")


@pytest.fixture
def world(base_dir, tokenizer_dir, zero_dir, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "w").mkdir()
    yield World(tmp_path / "w", base_dir, tokenizer_dir, zero_dir, checkpoint)
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def files_of(folder: Path) -> set[Path]:
    """Lists a folder without complete stores."""
    files = {path for path in folder.rglob("*") if not path.is_dir() or ".partial-" in path.name}
    return {path for path in files if "cache" not in path.parts or ".partial-" in str(path)}


@pytest.mark.parametrize("row", TABLE)
def test_bad_input(row, world, capsys, caplog):
    args = [str(arg) for arg in row.given(world)]
    before, start, code = files_of(world.tmp), time.process_time(), DONE
    capsys.readouterr()
    try:
        row.verb.main(args)
    except SystemExit as stop:
        code = stop.code
    told = capsys.readouterr()
    after = files_of(world.tmp)
    assert time.process_time() - start < MOST_SECONDS
    assert not (ROOT / "code_was_run").exists() and "Traceback" not in told.err
    if row.code == DONE:
        reports = [path.read_text() for path in after - before if path.suffix == ".json"]
        said = "".join([told.out, told.err, caplog.text, *reports])
    else:
        said = told.err.replace(str(world.tmp), "TMP").replace(str(world.checkpoint.parent), "RUN")
        assert all(line.startswith(f"python -m {row.verb.__name__}: error: ") for line in said.splitlines()), said
        assert all(len(line) <= MOST_CHARACTERS for line in said.splitlines()), said
        assert said.count("\n") == 1 + row.said.count(r"\n"), said
        assert after == before or row.given is full_disk
    assert re.search(row.said, said), said
    assert code == row.code
    assert row.then(world)


def test_the_table_is_complete():
    assert {int(row.id[:2]) for row in TABLE} == set(range(1, 60))
