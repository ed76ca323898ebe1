"""A value of another type in a JSON file of a folder is one line that names it: for every key that is read."""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glmja import chat, convert, evaluate, export, fit, resize_embeddings
from glmja.errors import ModelError
from glmja.files.input_files import find_files
from glmja.modeling.loading import load_model
from glmja.modeling.model_folder import ModelFolder
from glmja.runs import language_pack, manifest
from glmja.runs.run_folder import RunFolder
from glmja.runs.trained_state import TrainedState
from glmja.weights.checkpoint import Checkpoint
from tests.support.demo_run import args as run_args

NAN, INFINITY = float("nan"), float("inf")
ODD = [None, True, False, 0, 1, -1, 2.5, 1e400, NAN, INFINITY, -INFINITY, 10**30, -(10**30), "", "2", "x", [], [1], {}]
ODD += [{"a": 1}, [[2]], [None], "9" * 5000]

COUNTS = [None, True, 0, -1, 2.5, "2", [], {}, [1], 10**30, NAN]
EPSILONS = [None, True, 0, 0.0, -1e-5, 1, "1e-5", NAN, INFINITY, [], {}]
BOOLS = [None, 0, 1, "true", [], {}]
POSITIVE = [None, True, 0, -1.0, "1", NAN, INFINITY, -INFINITY, 10**40, [], {}]
SHARES = [None, True, -0.1, 1, "0", NAN, INFINITY, [], {}]
STOPS = [None, True, -1, 2.5, "2", [], [None], [2, "2"], [[2]], {}, 10**30, 10**6]
PADDINGS = [True, -1, 2.5, "0", [], [0], {}, NAN, 10**6]
CONFIGS = {
    "chatglm": {
        **dict.fromkeys(
            ["padded_vocab_size", "hidden_size", "ffn_hidden_size", "num_layers", "num_attention_heads",
             "kv_channels", "multi_query_group_num", "seq_length"], COUNTS),
        "layernorm_epsilon": EPSILONS, "add_qkv_bias": BOOLS, "rope_ratio": POSITIVE, "attention_dropout": SHARES,
        "eos_token_id": STOPS, "pad_token_id": PADDINGS, "pre_seq_len": [0, False, "x", []],
        "add_bias_linear": [None, 0, True], "rmsnorm": [None, 1, "true", False], "original_rope": [None, 1, False],
        "multi_query_attention": [None, 1, False], "post_layer_norm": [None, 1, False],
        "apply_residual_connection_post_layernorm": [None, 0, True], "tie_word_embeddings": [None, 0, True],
        "model_type": [None, 3, [], {}, "ChatGLM"], "quantization_bit": [True, 4, "4", [8]],
    },
    "glm": {
        **dict.fromkeys(
            ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim",
             "num_key_value_heads", "max_position_embeddings"], COUNTS),
        "rms_norm_eps": EPSILONS, "attention_bias": BOOLS, "attention_dropout": SHARES, "rope_theta": POSITIVE,
        "partial_rotary_factor": [*POSITIVE, 1.5], "rope_parameters": [3, "x", [], [1], True],
        "hidden_act": [None, 3, "gelu", ["silu"], {}], "tie_word_embeddings": [None, 0, True],
        "eos_token_id": STOPS, "pad_token_id": PADDINGS, "model_type": [None, 3, [], {}, "llama"],
    },
}  # fmt: skip
ROPE = {"rope_theta": POSITIVE, "partial_rotary_factor": [*POSITIVE, 1.5], "rope_type": [None, 3, "yarn", [], {}]}

KEYS = [(layout, key) for layout, keys in CONFIGS.items() for key in keys]


def write(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def refused(act: Callable[[], object], value: Any = None) -> str:
    """Returns the message, which is one line and not a whole file; `value` is named if there is none."""
    try:
        act()
    except (ModelError, FileNotFoundError) as error:
        message = str(error)
    else:
        pytest.fail(f"{value!r} is accepted")
    assert "\n" not in message and len(message) < 500
    return message


def copy_or_link(source: str, target: str) -> None:
    """Links the weights, which no test of this file changes."""
    (os.link if source.endswith((".safetensors", ".bin")) else shutil.copy2)(source, target)


@pytest.fixture
def copies(base_dir, zero_dir, tmp_path):
    def copy(layout: str) -> Path:
        source = base_dir if layout == "chatglm" else zero_dir
        return Path(shutil.copytree(source, tmp_path / "model", copy_function=copy_or_link))

    return copy


@pytest.mark.parametrize(("layout", "key"), KEYS)
def test_a_setting_of_another_type_is_refused_by_name(copies, layout, key):
    folder = copies(layout)
    for value in CONFIGS[layout][key]:
        write(folder / "config.json", lambda config: config.update({key: value}))  # noqa: B023
        for act in (lambda: ModelFolder.open(folder), lambda: Checkpoint.open(folder).as_glm()):
            message = refused(act, value)
            assert (key in message and str(folder) in message) or key == "model_type", value


@pytest.mark.parametrize("key", ROPE)
def test_a_rotary_setting_of_another_type_is_refused_by_name(copies, key):
    folder = copies("glm")
    for value in ROPE[key]:
        write(folder / "config.json", lambda config: config["rope_parameters"].update({key: value}))  # noqa: B023
        assert f"the config has rope_parameters.{key} = " in refused(lambda: ModelFolder.open(folder), value)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("num_key_value_heads", 3, "4 attention heads in 3 groups, which do not share them evenly"),
        ("head_dim", 18, "heads of width 18; it must be a multiple of 4, of which half rotates"),
    ],
)
def test_counts_that_do_not_divide_are_refused_with_both(copies, key, value, said):
    folder = copies("glm")
    write(folder / "config.json", lambda config: config.update({key: value}))
    assert said in refused(lambda: ModelFolder.open(folder))


@pytest.mark.parametrize("layout", CONFIGS)
def test_settings_that_nothing_reads_may_be_anything(copies, layout):
    folder = copies(layout)
    names = ["use_cache", "initializer_range", "id2label", "bos_token_id", "dtype", "torch_dtype", "auto_map"]
    for name, value in zip(names, random.Random(0).sample(ODD, len(names)), strict=True):
        write(folder / "config.json", lambda config: config.update({name: value}))  # noqa: B023
    assert load_model(folder).dtype.is_floating_point


TOKENS = {
    "added_tokens.json": [{"<|law|>": value} for value in (None, True, 2.0, "2509", [2509], {}, NAN, -1)],
    "special_tokens_map.json": [{"additional_special_tokens": value} for value in (3, "x", True, {}, [3], [{}], [[]])],
    "tokenizer_config.json": [
        *({"added_tokens_decoder": value} for value in (3, "x", True, [], {"x": "<a>"}, {"-1": "<a>"}, {"5": 3})),
        *({"added_tokens_decoder": {"2509": {"content": value}}} for value in (None, 3, True, [], {})),
        *({"extra_special_tokens": value} for value in (3, "x", True, [3], {"a": 3})),
    ],
}


@pytest.mark.parametrize("name", TOKENS)
def test_tokens_of_another_type_are_refused_with_their_file(copies, name):
    folder = copies("chatglm")
    for content in TOKENS[name]:
        (folder / name).write_text(json.dumps(content))
        assert str(folder / name) in refused(lambda: ModelFolder.open(folder), content)


def test_a_hash_of_another_type_in_a_report_is_refused(copies):
    folder = copies("glm")
    for value in [value for value in ODD if value is not None]:
        write(folder / "resize_report.json", lambda report: report.update({"tokenizer_sha256": value}))  # noqa: B023
        message = refused(lambda: ModelFolder.open(folder), value)
        assert "the weights were made for a tokenizer with the hash" in message, value


def test_a_place_of_another_type_in_an_index_is_refused(copies):
    folder = copies("glm")
    for value in ODD:
        for content in ({"weight_map": value}, {"weight_map": {"lm_head.weight": value}}):
            (folder / "model.safetensors.index.json").write_text(json.dumps(content))
            assert "model.safetensors.index.json" in refused(lambda: Checkpoint.open(folder), content)


# Packs, runs, data sets


@pytest.fixture(scope="module")
def run(zero_dir, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    fit.main(run_args(zero_dir, folder, "demo_pretrain", **{"trainer.max_steps": 1, "trainer.limit_val_batches": 0}))
    export.export(str(folder / "pack"), checkpoint=str(folder / "run"), format="adapter", check=False)
    return folder / "run"


PACK_KEYS = ["pack_format", "shared_sha256", "rows_kept_of_stock_model", "first_row", "rows_dtype", "base_dtype"]
PACK_KEYS += ["weights_sha256", "tokenizer_sha256", "config", "lora"]


@pytest.mark.parametrize("key", PACK_KEYS)
def test_a_value_of_another_type_in_a_language_pack_is_refused(run, zero_dir, tmp_path, key):
    pack = Path(shutil.copytree(run.parent / "pack", tmp_path / "pack"))
    model = Checkpoint.open(zero_dir).as_glm()
    written = (pack / "pack.json").read_text()
    known = json.loads(written)[key]
    for value in ODD:
        if value != known and not (key == "lora" and value is None):  # a pack may have no adapters
            (pack / "pack.json").write_text(json.dumps(json.loads(written) | {key: value}))
            assert str(pack) in refused(lambda: language_pack.apply_pack(pack, model)) or key in ("config", "lora")


@pytest.mark.parametrize("key", ["rank", "alpha", "rslora", "dora"])
def test_a_setting_of_another_type_of_the_adapters_of_a_pack_is_refused(run, zero_dir, tmp_path, key):
    pack = Path(shutil.copytree(run.parent / "pack", tmp_path / "pack"))
    model = Checkpoint.open(zero_dir).as_glm()
    written = json.loads((pack / "pack.json").read_text())
    for value in ODD:
        wrong = type(value) is not type(written["lora"][key]) or (type(value) is int and not 0 < value < 2**31)
        if wrong:
            changed = written | {"lora": written["lora"] | {key: value}}
            (pack / "pack.json").write_text(json.dumps(changed))
            assert f"lora settings with {key} = " in refused(lambda: language_pack.apply_pack(pack, model))


IDENTITY_KEYS = ["world_size", "precision", "strategy", "base", "tokenizer", "data", "trainable", "embeddings", "lora"]
IDENTITY_KEYS += ["tuning", "optimizer", "schedule", "schedule_start"]


@pytest.mark.parametrize("key", ["step", "format", "files", "facts", *IDENTITY_KEYS])
def test_a_value_of_another_type_in_a_manifest_is_refused_although_its_hash_is_right(run, tmp_path, key):
    """As a tool might write it: the manifest's hash of itself only detects accidents."""
    checkpoint = Path(
        shutil.copytree(manifest.newest(run / "checkpoints"), tmp_path / "run" / "checkpoints" / "a.ckpt")
    )
    written = json.loads((checkpoint / "manifest.json").read_text())
    del written["sha256"]
    for value in ODD:
        where = written["facts"] if key in IDENTITY_KEYS else written
        if value is None or (type(value) is type(where.get(key)) and value not in ([1], [[2]], [None], {"a": 1})):
            continue
        changed = written | ({"facts": where | {key: value}} if key in IDENTITY_KEYS else {key: value})
        seal = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()
        (checkpoint / "manifest.json").write_text(json.dumps(changed | {"sha256": seal}))
        if (key in ("lora", "optimizer", "schedule") and value == {"a": 1}) or (key, type(value)) == (
            "schedule_start",
            int,
        ):
            continue  # these may have been saved
        assert "manifest.json" in refused(lambda: TrainedState.open(checkpoint))


@pytest.mark.parametrize("value", [value for value in ODD if value != []])
def test_sources_of_another_type_in_a_ledger_are_refused(tmp_path, value):
    (tmp_path / "ledger.json").write_text(json.dumps({"sources": value}))
    assert "sources is no list of objects" in refused(RunFolder(tmp_path).read_ledger)


@pytest.mark.parametrize("value", ODD)
def test_files_of_another_type_in_a_saved_dataset_are_refused(tmp_path, value):
    for content in (value, {"_data_files": value}, {"_data_files": [{"filename": value}]}):
        (tmp_path / "state.json").write_text(json.dumps(content))
        if content in [{"_data_files": [{"filename": name}]} for name in ("x", "2", "9" * 5000)]:
            continue  # names of files that do not exist
        with pytest.raises(ValueError, match=r"state.json: no list of names in _data_files") as raised:
            find_files([tmp_path])
        assert "\n" not in str(raised.value)


COMMANDS = {
    resize_embeddings: lambda folder, w: {"base": folder, "tokenizer": w["tokenizer"], "output": w["out"]},
    fit: lambda folder, w: {**w["run"], "model.init_args.model_dir": folder},
    evaluate: lambda folder, w: {"model": folder, "output": w["out"]},
    chat: lambda folder, w: {"model": folder, "prompt": "x"},
    convert: lambda folder, w: {"model": folder, "output": w["out"]},
    export: lambda folder, w: {"pack": w["pack"], "base": folder, "output": w["out"]},
}
OF_COMMANDS = [("hidden_act", 3), ("rms_norm_eps", 0), ("rope_theta", -1.0), ("vocab_size", True), ("eos_token_id", {})]


@pytest.mark.parametrize(("key", "value"), OF_COMMANDS)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_every_command_ends_with_4_and_one_line(command, key, value, copies, run, tokenizer_dir, tmp_path, capsys):
    folder = copies("glm")
    write(folder / "config.json", lambda config: config.update({key: value}))
    pairs = (arg.removeprefix("--").partition("=") for arg in run_args(folder, tmp_path, "demo_pretrain"))
    world = {"tokenizer": tokenizer_dir, "out": tmp_path / "out", "pack": run.parent / "pack"}
    world |= {"run": {name: value for name, _, value in pairs}}
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        command.main([f"--{name}={given}" for name, given in COMMANDS[command](folder, world).items()])
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if "error: " in line]
    assert f"{folder}: the config has {key} = " in line and "Traceback" not in said
    assert stop.value.code == 4
