"""A folder of another kind, or without its content, is refused for what it is, in every command that takes one.

The default run tries each command and each kind of folder, but only some of the pairs.
"""

import itertools
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from glmja import build_tokenizer, chat, convert, evaluate, export, fit, resize_embeddings
from glmja.modeling.loading import load_model
from glmja.runs import manifest
from glmja.twin.build import text_file
from glmja.weights.checkpoint import Checkpoint
from tests.support.daily import drawn_pairs
from tests.support.demo_run import args as run_args

USAGE, MODEL = 2, 4
MOST_CHARACTERS = 300
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1018370\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>Log in</title></head></html>\n"
LAYER = "transformer.encoder.layers.0.mlp.dense_4h_to_h.weight"


@dataclass
class World:
    base: Path
    tokenizer: Path
    zero: Path
    run: Path
    pack: Path
    tmp: Path

    def copy(self, change: Callable[[Path], object] = lambda folder: None, of: Path | None = None) -> Path:
        """Copies a model (the base by default) and changes the copy."""
        folder = Path(shutil.copytree(of or self.base, self.tmp / "model"))
        change(folder)
        return folder


@pytest.fixture(scope="module")
def trained(zero_dir, tmp_path_factory) -> tuple[Path, Path]:
    """A run, and the language pack of it."""
    folder = tmp_path_factory.mktemp("runs")
    fit.main(run_args(zero_dir, folder, "demo_pretrain", **{"trainer.max_steps": 1, "trainer.limit_val_batches": 0}))
    export.export(str(folder / "pack"), checkpoint=str(folder / "run"), format="adapter", check=False)
    return folder / "run", folder / "pack"


@pytest.fixture
def world(base_dir, tokenizer_dir, zero_dir, trained, tmp_path) -> World:
    return World(base_dir, tokenizer_dir, zero_dir, *trained, tmp_path)


# every command, with a folder as its model
OF_A_MODEL = {
    "build_tokenizer --base": (
        build_tokenizer,
        lambda w, f: {"base": f, "corpus": text_file("ja"), "num_new_pieces": 8, "output": w.tmp / "o"},
    ),
    "resize_embeddings --base": (
        resize_embeddings,
        lambda w, f: {"base": f, "tokenizer": w.tokenizer, "output": w.tmp / "o"},
    ),
    "resize_embeddings --tokenizer": (
        resize_embeddings,
        lambda w, f: {"base": w.base, "tokenizer": f, "output": w.tmp / "o"},
    ),
    "fit model_dir": (fit, lambda w, f: {**of_a_run(w), "model.init_args.model_dir": f}),
    "export --model": (export, lambda w, f: {"checkpoint": w.run, "model": f, "output": w.tmp / "o"}),
    "export --base": (export, lambda w, f: {"pack": w.pack, "base": f, "output": w.tmp / "o"}),
    "evaluate --model": (evaluate, lambda w, f: {"model": f, "output": w.tmp / "o"}),
    "evaluate --baseline": (evaluate, lambda w, f: {"model": w.zero, "baseline": f, "output": w.tmp / "o"}),
    "chat --model": (chat, lambda w, f: {"model": f, "prompt": "x"}),
    "convert --model": (convert, lambda w, f: {"model": f, "output": w.tmp / "o"}),
}
# those that read no weights of the folder
OF_A_TOKENIZER = {"build_tokenizer --base", "resize_embeddings --tokenizer"}
WITH_WEIGHTS = sorted(OF_A_MODEL.keys() - OF_A_TOKENIZER)
WITH_TOKENIZER = sorted(OF_A_MODEL.keys() - {"export --base"})
OF_A_RUN = {
    "export --checkpoint": (export, lambda w, f: {"checkpoint": f, "output": w.tmp / "o"}),
    "evaluate --runs": (evaluate, lambda w, f: {"model": w.zero, "runs": f, "output": w.tmp / "o"}),
}
TO_RESUME = fit, lambda w, f: {**of_a_run(w), "ckpt_path": f}


def of_a_run(w: World) -> dict[str, object]:
    pairs = (arg.removeprefix("--").partition("=") for arg in run_args(w.zero, w.tmp, "demo_pretrain"))
    return {key: value for key, _, value in pairs}


def line_of(command, world: World, folder: object, capsys) -> tuple[int, str]:
    """Runs a command that must end with one line; returns its exit code and the line."""
    verb, arguments = command
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        verb.main([f"--{key}={value}" for key, value in arguments(world, folder).items()])
    said = capsys.readouterr().err.replace(str(world.tmp), "TMP")
    assert not (world.tmp / "o").exists() and "Traceback" not in said
    (line,) = [line for line in said.splitlines() if "error: " in line]
    assert len(line) <= MOST_CHARACTERS + len(str(world.run)), line
    return stop.value.code, line


def hub_cache(w: World) -> Path:
    snapshot = w.tmp / "hub" / "models--THUDM--chatglm3-6b" / "snapshots" / "f30825950ce00cb0577bf6a15e0d95de58e328dc"
    shutil.copytree(w.base, snapshot)
    return snapshot.parents[1]


def adapters(w: World) -> Path:
    (w.tmp / "adapters").mkdir()
    (w.tmp / "adapters" / "adapter_config.json").write_text("{}")
    return w.tmp / "adapters"


def gguf(w: World) -> Path:
    (w.tmp / "gguf").mkdir()
    (w.tmp / "gguf" / "chatglm3-q4_0.gguf").write_bytes(b"GGUF")
    return w.tmp / "gguf"


def around(w: World) -> Path:
    w.copy()
    return w.tmp


NO_MODEL = {
    "a model of the Hub": (
        lambda w: "THUDM/chatglm3-6b",
        USAGE,
        r"no such folder: THUDM/chatglm3-6b; for the model of this name on the Hugging Face Hub, run `hf download",
    ),
    "a model that is not made yet": (lambda w: "models/none", USAGE, r"no such folder: models/none$"),
    "nothing": (lambda w: w.tmp / "nothing", USAGE, r"no such folder: TMP/nothing$"),
    "a file": (
        lambda w: w.base / "config.json",
        MODEL,
        r"a file, not the folder of a model; give the folder",
    ),
    "an entry of the Hub's cache": (
        hub_cache,
        MODEL,
        r"an entry of the Hub's cache, not a model; give the snapshot in it, TMP/hub/models--\S+/snapshots/f308",
    ),
    "snapshots": (
        lambda w: hub_cache(w) / "snapshots",
        MODEL,
        r"holds the snapshots of a model; give one of them",
    ),
    "the Hub's cache": (
        lambda w: hub_cache(w).parent,
        MODEL,
        r"the Hub's cache, not a model; give the snapshot",
    ),
    "a run": (lambda w: w.run, MODEL, r"a training run, not a model; write its model with python -m glmja.export"),
    "a checkpoint": (
        lambda w: manifest.newest(w.run / "checkpoints"),
        MODEL,
        r"a checkpoint of a run, not a model; write its model with python -m glmja.export --checkpoint",
    ),
    "checkpoints": (lambda w: w.run / "checkpoints", MODEL, r"checkpoints of a run, not a model; write it with"),
    "adapters": (adapters, MODEL, r"adapters of peft without their model; merge them into it"),
    "GGUF": (gguf, MODEL, r"weights for llama.cpp \(chatglm3-q4_0.gguf\), which are not read; give the model that"),
    "the folder around a model": (around, MODEL, r"no config.json here; did you mean TMP/model\?"),
}


@pytest.mark.parametrize(("command", "kind"), drawn_pairs("no model", OF_A_MODEL, NO_MODEL))
def test_what_is_no_model_is_refused_for_what_it_is(command, kind, world, capsys):
    make, code, said = NO_MODEL[kind]
    found, line = line_of(OF_A_MODEL[command], world, make(world), capsys)
    assert re.search(said, line), line
    assert found == code


@pytest.mark.parametrize("command", WITH_WEIGHTS)
def test_a_language_pack_is_no_model(command, world, capsys):
    found, line = line_of(OF_A_MODEL[command], world, world.pack, capsys)
    assert "a language pack, not a model; python -m glmja.export --pack" in line
    assert found == MODEL


@pytest.mark.parametrize("command", ["convert --model", "export --base"])  # with and without its tokenizer
def test_a_tokenizer_is_no_model(command, world, capsys):
    found, line = line_of(OF_A_MODEL[command], world, world.tokenizer, capsys)
    said = "a tokenizer (tokenizer.model), not a model; python -m glmja.resize_embeddings --tokenizer"
    assert f"{world.tokenizer}: {said} {world.tokenizer} makes" in line
    assert found == MODEL


NO_RUN = {
    "nothing": (lambda w: w.tmp / "nothing", USAGE, r"no such (folder|checkpoint): TMP/nothing"),
    "a model": (lambda w: w.zero, MODEL, r"the folder of a model, not a run or a checkpoint; give the folder that the"),
    "a language pack": (lambda w: w.pack, MODEL, r"a language pack, not a run or a checkpoint"),
    "checkpoints": (lambda w: w.run / "checkpoints", MODEL, r"holds the checkpoints of a run; give the run .*/run, or"),
    "a file": (
        lambda w: manifest.newest(w.run / "checkpoints") / "state.ckpt",
        MODEL,
        r"a file, not the folder of a run or a checkpoint; give the folder that holds it",
    ),
}


NO_CHECKPOINT = {  # to resume from, where a run does not do
    **NO_RUN,
    "a model": (
        lambda w: w.zero,
        MODEL,
        r" is a model folder, not a checkpoint; give a folder in checkpoints/ of the run$",
    ),
    "a language pack": (
        lambda w: w.pack,
        MODEL,
        r" is a language pack, not a checkpoint; give a folder in checkpoints/ of",
    ),
    "checkpoints": (lambda w: w.run / "checkpoints", MODEL, r" holds checkpoints; give one of them, such as .*/step="),
    "a run": (lambda w: w.run, MODEL, r" holds checkpoints; give one of them, such as .*/run/checkpoints/step=\d"),
    "a file": (
        lambda w: manifest.newest(w.run / "checkpoints") / "state.ckpt",
        MODEL,
        r" is a file of a checkpoint; give its folder .*/step=\d+.ckpt$",
    ),
}


@pytest.mark.parametrize("kind", NO_CHECKPOINT)
def test_what_is_no_checkpoint_is_not_resumed_from(kind, world, capsys):
    make, code, said = NO_CHECKPOINT[kind]
    found, line = line_of(TO_RESUME, world, make(world), capsys)
    assert re.search(said, line), line
    assert found == code


@pytest.mark.parametrize("kind", NO_RUN)
@pytest.mark.parametrize("command", OF_A_RUN)
def test_what_is_no_run_is_refused_for_what_it_is(command, kind, world, capsys):
    make, code, said = NO_RUN[kind]
    found, line = line_of(OF_A_RUN[command], world, make(world), capsys)
    assert re.search(said, line), line
    assert found == code


def test_the_folder_of_a_model_does_not_become_a_run(world, capsys):
    model = world.copy()
    command = fit, lambda w, f: {**of_a_run(w), "run_dir": f}
    found, line = line_of(command, world, model, capsys)
    assert f"--run_dir {model} holds a model; choose a new folder for the run".replace(str(world.tmp), "TMP") in line
    assert found == USAGE
    assert {path.name for path in model.iterdir()} == {path.name for path in world.base.iterdir()}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("a model", r"a model, not a language pack; python -m glmja.export --format adapter writes one"),
        ("a run", r"a training run, not a language pack"),
        ("a tokenizer", r"no pack.json here: not a language pack"),
    ],
)
def test_what_is_no_language_pack_is_refused_for_what_it_is(kind, said, world, capsys):
    folder = {"a model": world.zero, "a run": world.run, "a tokenizer": world.tokenizer}[kind]
    command = export, lambda w, f: {"pack": f, "base": w.base, "output": w.tmp / "o"}
    found, line = line_of(command, world, folder, capsys)
    assert re.search(said, line), line
    assert found == MODEL


# Files without their content


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def without_safetensors(folder: Path) -> dict[str, torch.Tensor]:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    return tensors


def as_bin(content: bytes) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        without_safetensors(folder)
        (folder / "pytorch_model.bin").write_bytes(content)

    return change


SMALL_FILES = ["config.json", "tokenizer.model", "tokenizer_config.json"]
WEIGHT_FILES = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"]
PLACEHOLDERS = {
    "pointer": (POINTER, r"a Git LFS pointer, not the file itself; run `git lfs install` and `git lfs pull`"),
    "page": (PAGE, r"a web page or the message of a server, not data \(it begins with '<!DOCTYPE html>"),
    "message": (b"Entry not found", r"a web page or the message of a server, .*'Entry not found'\); download the file"),
}
JSON_MESSAGES = {
    "error": b'{"error": "Invalid username or password."}',
    "message": b'{"message": "Not Found", "status": "404"}',
}


@pytest.mark.parametrize(
    ("command", "name", "what"),
    drawn_pairs("small files", WITH_TOKENIZER, itertools.product(SMALL_FILES, PLACEHOLDERS)),
)
def test_a_placeholder_of_a_small_file_is_recognized(command, name, what, world, capsys):
    content, said = PLACEHOLDERS[what]
    found, line = line_of(OF_A_MODEL[command], world, world.copy(write(name, content)), capsys)
    assert re.search(rf"TMP/model/{name}: {said}", line), line
    assert found == MODEL


@pytest.mark.parametrize(("command", "what"), drawn_pairs("JSON", WITH_WEIGHTS, JSON_MESSAGES))
def test_the_message_of_a_server_as_json_is_recognized(command, what, world, capsys):
    folder = world.copy(write("config.json", JSON_MESSAGES[what]))
    found, line = line_of(OF_A_MODEL[command], world, folder, capsys)
    assert re.search(r"TMP/model/config.json: a web page or the message of a server, not data \(it begins with", line)
    assert found == MODEL


@pytest.mark.parametrize(
    ("command", "name", "what"), drawn_pairs("weights", WITH_WEIGHTS, itertools.product(WEIGHT_FILES, PLACEHOLDERS))
)
def test_a_placeholder_of_weights_is_recognized_before_anything_is_computed(command, name, what, world, capsys):
    content, said = PLACEHOLDERS[what]
    folder = world.copy(as_bin(content) if name.endswith(".bin") else write(name, content))
    found, line = line_of(OF_A_MODEL[command], world, folder, capsys)
    assert re.search(rf"TMP/model/{name}: {said}", line), line
    assert found == MODEL


def test_weights_that_torch_wrote_before_1_6_are_read(base_dir, tmp_path):
    folder = Path(shutil.copytree(base_dir, tmp_path / "model"))
    torch.save(without_safetensors(folder), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    ids = torch.tensor([[5, 300, 7]])
    assert torch.equal(load_model(folder, torch.float32)(ids).logits, load_model(base_dir, torch.float32)(ids).logits)


# Weights that cannot be used


def configured(**values: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    return change


def int4(folder: Path) -> None:
    tensors = without_safetensors(folder)
    tensors[LAYER] = torch.zeros(64, 96, dtype=torch.int8)
    tensors[f"{LAYER}_scale"] = torch.ones(64, dtype=torch.float16)
    save_file(tensors, folder / "model.safetensors")


def packed(suffix: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        tensors = without_safetensors(folder)
        tensors[LAYER.replace("weight", suffix)] = tensors.pop(LAYER).to(torch.int32)
        torch.save(tensors, folder / "pytorch_model.bin")

    return change


QUANTIZED = {
    "int4": (configured(quantization_bit=4), r"quantization_bit 4"),
    "int8": (configured(quantization_bit=8), r"quantization_bit 8"),
    "GPTQ": (configured(quantization_config={"quant_method": "gptq", "bits": 4}), r"a quantization_config gptq"),
    "AWQ": (configured(quantization_config={"quant_method": "awq"}), r"a quantization_config awq"),
    "bitsandbytes": (configured(quantization_config={"load_in_4bit": True}), r"a quantization_config load_in_4bit"),
    "GPTQ's file": (write("quantize_config.json", b"{}"), r"quantize_config.json, GPTQ"),
}
QUANTIZED_TENSORS = {
    "int4": (int4, r"\S+_scale|dtype I8"),
    "GPTQ": (packed("qweight"), r"qweight, as of GPTQ or AWQ"),
    "bitsandbytes": (packed("SCB"), r"SCB, as of bitsandbytes"),
}


@pytest.mark.parametrize(("command", "method"), drawn_pairs("quantized", WITH_WEIGHTS, QUANTIZED))
def test_quantized_folders_are_refused_for_what_they_are(command, method, world, capsys):
    change, said = QUANTIZED[method]
    found, line = line_of(OF_A_MODEL[command], world, world.copy(change), capsys)
    assert re.search(rf"TMP/model: the weights are quantized \(.*{said}\); get the full model, in float16", line), line
    assert found == MODEL


@pytest.mark.parametrize("method", QUANTIZED_TENSORS)
def test_quantized_tensors_are_recognized_where_no_file_says_it(method, world):
    change, said = QUANTIZED_TENSORS[method]
    with pytest.raises(ValueError, match=rf"model\S*: the weights are quantized \(.*({said}).*; get the full model"):
        Checkpoint.open(world.copy(change))


def test_a_setting_that_says_not_quantized_is_accepted(world):
    assert Checkpoint.open(world.copy(configured(quantization_bit=0, quantization_config=None))).as_glm().tensors


@pytest.mark.parametrize("command", WITH_TOKENIZER)
def test_a_folder_that_transformers_saved_without_tokenizer_model_is_refused_with_the_remedy(command, world, capsys):
    def change(folder: Path) -> None:
        (folder / "tokenizer.model").unlink()

    found, line = line_of(OF_A_MODEL[command], world, world.copy(change, world.zero), capsys)
    said = "no tokenizer.model in TMP/model (found: tokenizer.json); copy it from the model that this one was made from"
    assert said in line
    assert found == MODEL


@pytest.mark.parametrize(
    ("command", "resized"),
    drawn_pairs("resized", sorted(set(WITH_WEIGHTS) - {"export --model"}), ["the weights", "the config"]),
)
def test_embeddings_that_were_resized_without_the_config_are_refused_with_both_numbers(command, resized, world, capsys):
    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        for name in ("embedding.word_embeddings", "output_layer"):
            rows = tensors[f"transformer.{name}.weight"]
            tensors[f"transformer.{name}.weight"] = torch.cat([rows, rows[:6]])
        save_file(tensors, folder / "model.safetensors")

    rows = json.loads((world.base / "config.json").read_text())["padded_vocab_size"]
    change = change if resized == "the weights" else configured(padded_vocab_size=rows + 6)
    has, said = (rows + 6, rows) if resized == "the weights" else (rows, rows + 6)
    found, line = line_of(OF_A_MODEL[command], world, world.copy(change), capsys)
    assert f"TMP/model: the embeddings have {has} rows, but config.json says {said}: one was resized" in line
    assert found == MODEL
