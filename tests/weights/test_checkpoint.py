import json
import pickle
import struct
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from glmja.errors import ModelError
from glmja.modeling.loading import load_model
from glmja.twin import build as twin
from glmja.weights import chatglm_layout
from glmja.weights import tensors as tensor_source
from glmja.weights.checkpoint import Checkpoint
from glmja.weights.config_spellings import with_dtype, with_older_spellings, without_older_spellings
from glmja.weights.dtypes import dtype_name, dtype_named
from glmja.weights.tensors import FileTensor
from glmja.weights.weight_files import open_weights
from tests.support.layouts import convert


def weights(folder):
    return {name: source.read_all() for name, source in Checkpoint.open(folder).tensors.items()}


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.fixture
def base(base_dir, tmp_path):
    """A copy of the twin's base to damage."""
    folder = tmp_path / "base"
    folder.mkdir()
    for path in base_dir.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def as_bin(folder, num_shards=1):
    """Rewrites the weights as `pytorch_model*.bin`."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if num_shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
        return
    names, weight_map = list(tensors), {}
    for i in range(num_shards):
        shard = {name: tensors[name] for name in names[i::num_shards]}
        torch.save(shard, folder / f"pytorch_model-{i}.bin")
        weight_map |= dict.fromkeys(shard, f"pytorch_model-{i}.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("max_shard_size", [10**9, 100_000, 1])
def test_there_and_back_is_bit_exact(base_dir, tmp_path, max_shard_size):
    convert(base_dir, tmp_path / "glm", "glm", max_shard_size=max_shard_size)
    convert(tmp_path / "glm", tmp_path / "back", "chatglm", max_shard_size=max_shard_size)
    assert same(weights(tmp_path / "back"), weights(base_dir))
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "back", base_dir))
    assert {key: ours[key] for key in theirs if key != "_name_or_path"} == {
        key: value for key, value in theirs.items() if key != "_name_or_path"
    }


def packed_again(path):
    """Writes the same archive with its records in the opposite order, as other programs may."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name in reversed(records):
            archive.writestr(name, records[name])


@pytest.mark.parametrize("change", [None, packed_again])
def test_tensors_of_a_bin_file_are_read_from_its_bytes(tmp_path, change):
    whole = torch.randn(50, 7)
    stored = {
        "whole": whole, "turned": whole.T, "rows": whole[3:9], "none": torch.zeros(0, 3),
        "trained": torch.nn.Parameter(torch.randn(3, 2)),
    }  # fmt: skip
    torch.save(stored, tmp_path / "pytorch_model.bin")
    if change:
        change(tmp_path / "pytorch_model.bin")
    found = open_weights(tmp_path)
    for name, tensor in stored.items():
        assert torch.equal(found[name].read_all(), tensor), name
        assert torch.equal(found[name].read(0, len(tensor) // 2), tensor[: len(tensor) // 2]), name
    if not change:
        of_file = {name for name, source in found.items() if isinstance(source, FileTensor)}
        assert of_file == {"whole", "rows", "trained"}


def test_a_bin_file_with_a_damaged_directory_is_refused_in_one_line(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(2)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\6\7") + 16] = 9  # of nine disks
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"pytorch_model.bin: damaged; convert it to safetensors"):
        open_weights(tmp_path)


@pytest.mark.parametrize("num_shards", [1, 3])
def test_bin_files_are_read_like_safetensors(base_dir, base, tmp_path, num_shards):
    as_bin(base, num_shards)
    convert(base, tmp_path / "glm", "glm")
    convert(base_dir, tmp_path / "theirs", "glm")
    assert same(weights(tmp_path / "glm"), weights(tmp_path / "theirs"))


def test_written_files_are_what_safetensors_and_transformers_read(base_dir, tmp_path):
    convert(base_dir, tmp_path / "glm", "glm", max_shard_size=100_000)
    shards = sorted((tmp_path / "glm").glob("model-*-of-*.safetensors"))
    assert len(shards) > 2
    theirs = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    assert same(weights(tmp_path / "glm"), theirs)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "glm", dtype=torch.float32)
    ids = torch.tensor([[5, 300, 7, 9]])
    assert torch.equal(model(ids).logits, load_model(base_dir, torch.float32)(ids).logits)


def test_a_kernel_without_sendfile_writes_the_same(base_dir, tmp_path, monkeypatch):
    convert(base_dir, tmp_path / "kernel", "glm")

    def refuse(*args):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(tensor_source.os, "sendfile", refuse)
    convert(base_dir, tmp_path / "copied", "glm")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("kernel", "copied")]
    assert files[0] == files[1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_another_dtype_is_torchs_cast(base_dir, tmp_path, dtype):
    convert(base_dir, tmp_path / "glm", "glm", dtype=dtype)
    convert(base_dir, tmp_path / "theirs", "glm")
    expected = {name: tensor.to(getattr(torch, dtype)) for name, tensor in weights(tmp_path / "theirs").items()}
    assert same(weights(tmp_path / "glm"), expected)
    assert json.loads((tmp_path / "glm" / "config.json").read_text())["dtype"] == dtype


def test_any_rows_of_a_joined_tensor_are_those_of_the_whole(base_dir):
    source = Checkpoint.open(base_dir).as_glm().as_chatglm().tensors
    fused = source["transformer.encoder.layers.0.self_attention.query_key_value.weight"]
    whole = fused.read_all()
    for start in range(0, whole.shape[0] + 1, 7):
        for stop in range(start, whole.shape[0] + 1, 11):
            assert torch.equal(fused.read(start, stop), whole[start:stop])
    assert torch.equal(fused.gather([3, 0, 3]), whole[[3, 0, 3]])


def test_the_long_context_variant_keeps_its_rotary_base(base, tmp_path):
    change_config(base, rope_ratio=50)
    convert(base, tmp_path / "glm", "glm")
    assert json.loads((tmp_path / "glm" / "config.json").read_text())["rope_parameters"]["rope_theta"] == 500000
    convert(tmp_path / "glm", tmp_path / "back", "chatglm")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["rope_ratio"] == 50


def truncate(path, share=0.5):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def rename_tensor(folder, old, new):
    tensors = load_file(folder / "model.safetensors")
    tensors[new] = tensors.pop(old)
    save_file(tensors, folder / "model.safetensors")


class NeedsCode:
    def __reduce__(self):
        return print, ("ran",)


HEAD = "transformer.output_layer.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json in"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json: not a JSON object"),
        (lambda f: change_config(f, model_type="llama"), "unknown architecture: model_type is 'llama'"),
        (lambda f: change_config(f, rmsnorm=False), "has rmsnorm = False; only True can be converted"),
        (lambda f: change_config(f, quantization_bit=4), "config.json has quantization_bit 4.*get the full model"),
        (lambda f: (f / "config.json").write_text('{"model_type": "chatglm"}'), "config lacks padded_vocab_size"),
        (lambda f: (f / "config.json").write_text('{"model_type": "glm"}'), "the Glm config lacks vocab_size"),
        (lambda f: (f / "model.safetensors").unlink(), "no weights in"),
        (lambda f: truncate(f / "model.safetensors"), "model.safetensors: damaged safetensors file"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64), "model.safetensors: damaged safetensors file"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors: damaged safetensors file"),
        (lambda f: rename_tensor(f, HEAD, "other.weight"), "1 tensors are unknown to ChatGLM2/3: other.weight"),
        (lambda f: change_config(f, num_layers=3), r"lacks \d+ tensors: model.layers.2"),
        (lambda f: change_config(f, num_layers=1), r"has \d+ unexpected tensors: model.layers.1"),
        (
            lambda f: change_config(f, padded_vocab_size=64),
            r"the embeddings have \d+ rows, but config.json says 64: one was resized without the other; correct",
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name_and_nothing_is_written(base, tmp_path, damage, message):
    damage(base)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        convert(base, tmp_path / "out", "glm")
    assert not (tmp_path / "out").exists()


def index(folder, weight_map):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: index(f, {HEAD: "gone.safetensors"}),
            "gone.safetensors does not exist, but model.safetensors.index.json names it",
        ),
        (lambda f: index(f, {"x": "model.safetensors"}), "model.safetensors lacks 1 tensors of the index: x"),
        (lambda f: index(f, {HEAD: "../model.safetensors"}), "'../model.safetensors' is not the name of a weight file"),
        (lambda f: index(f, {HEAD: 3}), "3 is not the name of a weight file"),
        (lambda f: index(f, {}), "model.safetensors.index.json: no weight_map"),
        (lambda f: (f / "model.safetensors.index.json").write_text("{"), "index.json: not JSON"),
    ],
)
def test_a_damaged_index_is_refused(base, damage, message):
    damage(base)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Checkpoint.open(base)


def test_a_pickle_that_needs_code_is_refused_and_its_code_does_not_run(base, capsys):
    (base / "model.safetensors").unlink()
    torch.save({"a": NeedsCode()}, base / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"pytorch_model.bin: it can only be loaded by executing code; convert it to safetensors"
    ):
        Checkpoint.open(base)
    (base / "pytorch_model.bin").write_bytes(pickle.dumps(NeedsCode()))
    with pytest.raises(ValueError, match=r"pytorch_model.bin: it can only be loaded by executing code"):
        Checkpoint.open(base)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_a_damaged_pickle_is_refused(base, content):
    (base / "model.safetensors").unlink()
    (base / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"pytorch_model.bin: damaged: not a file of torch; download it again"):
        Checkpoint.open(base)


def test_a_pickle_of_something_else_is_refused(base):
    (base / "model.safetensors").unlink()
    torch.save([torch.zeros(2)], base / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin: not a dictionary of tensors"):
        Checkpoint.open(base)


def test_an_unknown_dtype_in_a_pickle_is_refused(base):
    (base / "model.safetensors").unlink()
    torch.save({"x": torch.zeros(2, dtype=torch.float64)}, base / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"x has dtype torch.float64; supported are F32, F16, BF16"):
        Checkpoint.open(base)


def test_a_glm_config_that_lacks_a_key_is_refused_on_the_way_back(zero_dir, tmp_path):
    (tmp_path / "zero").mkdir()
    for path in zero_dir.iterdir():
        (tmp_path / "zero" / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "zero" / "config.json").read_text())
    del config["pad_token_id"]
    (tmp_path / "zero" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="the Glm config lacks pad_token_id"):
        convert(tmp_path / "zero", tmp_path / "out", "chatglm")


def test_an_unknown_dtype_is_refused(base):
    tensors = load_file(base / "model.safetensors")
    save_file(tensors | {"x": torch.zeros(2, dtype=torch.int8)}, base / "model.safetensors")
    with pytest.raises(ValueError, match=r"x has dtype I8; supported are F32, F16, BF16"):
        Checkpoint.open(base)


def test_a_file_that_shrinks_while_it_is_copied_is_refused(base, tmp_path):
    opened = Checkpoint.open(base).as_glm()
    truncate(base / "model.safetensors")
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=r"model.safetensors: the file ends at byte \d+, inside a tensor"):
        opened.save(tmp_path / "out", 10**9)
    with pytest.raises(ValueError, match=r"model.safetensors: the file ends before row \d+ of a tensor"):
        opened.tensors[chatglm_layout.HEAD].read_all()


def test_a_glm_that_was_not_converted_from_chatglm_cannot_be_converted_to_it(zero_dir):
    config = json.loads((zero_dir / "config.json").read_text())
    config["rope_parameters"]["partial_rotary_factor"] = 1.0
    with pytest.raises(ValueError, match="have no counterpart in ChatGLM3"):
        chatglm_layout.to_chatglm_config(config)
    with pytest.raises(ValueError, match="1 tensors are unknown to Glm: x"):
        chatglm_layout.plan_to_chatglm(["x"])


def test_the_header_is_aligned_as_safetensors_wants_it(base_dir, tmp_path):
    convert(base_dir, tmp_path / "glm", "glm")
    with (tmp_path / "glm" / "model.safetensors").open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
    assert length % 8 == 0


def test_the_twin_has_the_shapes_of_its_config(base_dir):
    opened = Checkpoint.open(base_dir)
    assert opened.layout == "chatglm"
    assert opened.as_glm().tensors.keys() == chatglm_layout.expected_shapes(opened.as_glm().config).keys()


def test_too_few_texts_for_a_twins_vocabulary_are_refused():
    with pytest.raises(ValueError, match="the texts do not yield 2500 pieces"):
        twin.train_vocabulary(["only this"], 2500)


@pytest.fixture(scope="module")
def real_glm(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real") / "glm"
    convert(data / "chatglm3_tiny", folder, "glm")
    return folder


def test_the_real_layout_survives_a_conversion_in_both_directions(data, real_glm, tmp_path):
    convert(real_glm, tmp_path / "back", "chatglm")
    assert same(weights(tmp_path / "back"), weights(data / "chatglm3_tiny"))


def test_logits_are_those_of_chatglm3s_own_code(data, real_glm):
    """On one machine they are bit-identical (benchmarks/RESULTS.md); the stored ones are from another CPU."""
    theirs = load_file(data / "chatglm3_tiny" / "expected.safetensors")
    model = load_model(real_glm, torch.float32)
    with torch.no_grad():
        ours = model(theirs["input_ids"]).logits
    torch.testing.assert_close(ours[..., theirs["columns"]], theirs["logits"], atol=2e-5, rtol=0)
    assert torch.equal(ours.argmax(-1), theirs["argmax"])
    greedy = model.generate(theirs["greedy"][None, :12], do_sample=False, max_new_tokens=24, eos_token_id=None)
    assert torch.equal(greedy[0], theirs["greedy"])


@pytest.mark.parametrize("count", [0, -1, "2", 2.0, True, 10**9])
def test_a_config_of_impossible_counts_is_refused(base_dir, count):
    config = json.loads((base_dir / "config.json").read_text()) | {"num_layers": count}
    with pytest.raises(ValueError, match=r"num_layers = .*; it must be a whole number from 1 to 10000"):
        chatglm_layout.to_glm_config(config)


@pytest.mark.parametrize("name", ["int9", "Tensor", ""])
def test_a_name_that_is_not_a_dtype_of_torch_is_refused(name):
    with pytest.raises(ModelError, match="is not a dtype of torch"):
        dtype_named(name)


def test_dtypes_and_names_are_inverse():
    assert [dtype_named(dtype_name(dtype)) for dtype in (torch.float32, torch.bfloat16)] == [
        torch.float32,
        torch.bfloat16,
    ]


def test_a_written_config_has_the_spellings_of_transformers_4_and_5(base, tmp_path):
    change_config(base, rope_ratio=50)
    convert(base, tmp_path / "glm", "glm")
    config = json.loads((tmp_path / "glm" / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 500_000
    assert config["partial_rotary_factor"] == config["rope_parameters"]["partial_rotary_factor"] == 0.5
    assert config["torch_dtype"] == config["dtype"]
    read = Checkpoint.open(tmp_path / "glm").as_glm().config
    assert with_dtype(with_older_spellings(read), "float16") == config


def test_a_config_of_transformers_4_is_read(zero_dir):
    config = json.loads((zero_dir / "config.json").read_text())
    older = {key: value for key, value in config.items() if key not in ("rope_parameters", "dtype")}
    assert without_older_spellings(older) == without_older_spellings(config)


def test_spellings_of_a_setting_that_differ_are_refused(zero_dir):
    config = json.loads((zero_dir / "config.json").read_text()) | {"rope_theta": 1.0}
    with pytest.raises(ValueError, match=r"rope_theta = 1.0, but 10000.0 in rope_parameters; make them equal"):
        without_older_spellings(config)
