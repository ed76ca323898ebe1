import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from glmja import build_tokenizer, export, fit, resize_embeddings
from glmja.errors import ModelError
from glmja.modeling.loading import load_model
from glmja.modeling.model_folder import ModelFolder
from glmja.runs import language_pack, manifest
from glmja.runs.trained_state import TrainedState, read_tensors
from glmja.twin import build as twin
from glmja.verification import export as export_check
from glmja.weights.chatglm_layout import EMBEDDING, HEAD
from glmja.weights.checkpoint import Checkpoint
from tests.support.file_reads import counted_opens, reads_of
from tests.support.programs.toy_runs import newest, train

pytestmark = pytest.mark.usefixtures("forked_check")

ROOT = Path(__file__).parents[2]
IDS = torch.tensor([[5, 300, 7, 900, 2, 2600, 3100, 41]])

KINDS = {
    "lora": {},
    "rslora": {"embeddings": "frozen", "lora.rslora": "true"},
    "dora": {"embeddings": "new_rows", "lora.dora": "true", "lora.targets": "[q_proj, down_proj]"},
    "full": {"tuning": "full"},
    "full_rows": {"tuning": "full", "embeddings": "new_rows"},
    "frozen": {"tuning": "frozen"},
    "frozen_rows": {"tuning": "frozen", "embeddings": "new_rows"},
    "trunk": {"tuning": "full", "embeddings": "frozen"},
}
WITHOUT_ADAPTERS = [kind for kind in KINDS if "ora" not in kind]


def run_args(model_dir, run_dir, cache_dir, **of_model):
    source = {"name": "ja", "lang": "ja", "files": [str(twin.text_file("ja"))]}
    values = {
        "config": ROOT / "configs" / "demo_pretrain.yaml",
        "run_dir": run_dir,
        "model.init_args.model_dir": model_dir,
        "model.init_args.optimizer.init_args.lr": 3e-3,
        "data.init_args.sources": json.dumps([source]),
        "data.init_args.cache_dir": cache_dir,
        "data.init_args.row_len": 64,
        "data.init_args.batch_size": 2,
        "trainer.accelerator": "cpu",
        "trainer.max_steps": 2,
        "trainer.val_check_interval": 2,
        "trainer.limit_val_batches": 1,
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
    } | {f"model.init_args.{key}": value for key, value in of_model.items()}
    return [f"--{key}={value}" for key, value in values.items()]


@pytest.fixture(scope="module")
def trained(zero_dir, tmp_path_factory):
    """Makes a run of a kind once; its folder and the live model."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def of(kind):
        if kind not in made:
            trainer = fit.main(run_args(zero_dir, folder / kind, folder / "cache", **KINDS[kind]))
            made[kind] = folder / kind, trainer.lightning_module.model.eval()
        return made[kind]

    return of


def exported(checkpoint, output, **values):
    values = {"checkpoint": checkpoint, "output": output, "check": "false"} | values
    return export.main([f"--{key}={value}" for key, value in values.items() if value is not None])


@torch.inference_mode()
def logits(model):
    return model(IDS).logits


@pytest.mark.parametrize("kind", KINDS)
def test_the_exported_model_gives_the_logits_of_the_live_one(trained, zero_dir, tmp_path, monkeypatch, kind):
    if kind == "lora":
        monkeypatch.undo()  # in a process as users have it
    run, live = trained(kind)
    report = exported(run, tmp_path / "out", dtype="float32", check="true")
    ours, theirs = logits(load_model(tmp_path / "out")), logits(live)
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    assert torch.equal(ours, theirs) or kind not in WITHOUT_ADAPTERS
    assert not torch.allclose(theirs, logits(load_model(zero_dir, torch.float32)), rtol=1e-3)
    assert (report["tensors_merged_and_rounded"] == 0) == (kind in WITHOUT_ADAPTERS)
    assert report["greedy_replies_equal"] == report["greedy_replies"] == 5
    assert report["chats_with_equal_ids"] == 2
    assert report["largest_difference_of_logits"] <= 1e-5 * report["largest_logit"]


def test_an_export_has_the_dtype_of_the_trained_weights_not_of_their_config(zero_dir, tmp_path):
    """Norms in float32 and a config that says float16: one dtype holds all, and the export says so."""
    base = shutil.copytree(zero_dir, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    save_file(tensors | {"model.norm.weight": tensors["model.norm.weight"].float()}, base / "model.safetensors")
    fit.main(run_args(base, tmp_path / "run", tmp_path / "cache"))
    report = exported(tmp_path / "run", tmp_path / "out")
    assert report["dtype"] == json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"
    exported(tmp_path / "run", tmp_path / "pack", format="adapter")
    assert json.loads((tmp_path / "pack" / "pack.json").read_text())["base_dtype"] == "float32"
    report = exported(None, tmp_path / "of_pack", pack=tmp_path / "pack", base=base, check="true")
    assert report["dtype"] == "float32"


def test_weights_keep_the_dtype_of_the_base_and_untrained_ones_are_equal_to_it(trained, zero_dir, tmp_path):
    run, _ = trained("rslora")
    report = exported(run, tmp_path / "out", check="true")
    assert report["dtype"] == "float16"
    assert 0 < report["largest_difference_of_logits"] < 2e-3 * report["largest_logit"]
    ours, bases = Checkpoint.open(tmp_path / "out"), Checkpoint.open(zero_dir)
    equal = {name for name in ours.tensors if torch.equal(*(c.tensors[name].read_all() for c in (ours, bases)))}
    assert equal == {name for name in ours.tensors if not name.endswith("proj.weight")}


@pytest.mark.parametrize("name", [EMBEDDING, HEAD])
def test_old_rows_are_the_bases_bit_for_bit_if_only_new_ones_trained(trained, zero_dir, tokenizer, tmp_path, name):
    run, _ = trained("frozen_rows")
    exported(run, tmp_path / "out")
    ours, bases = (Checkpoint.open(folder).tensors[name].read_all() for folder in (tmp_path / "out", zero_dir))
    changed = (ours != bases).any(1).nonzero().flatten().tolist()
    assert changed and set(changed) <= set(tokenizer.new_ids)


def test_the_exported_model_loads_without_remote_code(trained, tokenizer, tmp_path):
    exported(trained("lora")[0], tmp_path / "out")
    model, fast = (auto.from_pretrained(tmp_path / "out") for auto in (AutoModelForCausalLM, AutoTokenizer))
    assert torch.equal(logits(model), logits(load_model(tmp_path / "out")))
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == tokenizer.stop_ids
    assert ModelFolder.open(tmp_path / "out").tokenizer.fingerprint == tokenizer.fingerprint
    chat = fast.apply_chat_template([{"role": "user", "content": "你好"}], add_generation_prompt=True)
    assert chat["input_ids"][:3] == [*tokenizer.prefix_ids, tokenizer.role_id("user")]


def test_the_original_layout_holds_the_same_model(trained, tmp_path):
    run, _ = trained("dora")
    exported(run, tmp_path / "glm", max_shard_size=300_000)
    assert len(list((tmp_path / "glm").glob("*.safetensors"))) > 2
    report = exported(run, tmp_path / "chatglm", format="chatglm", check="true")
    assert report["format"] == "chatglm"
    config = json.loads((tmp_path / "chatglm" / "config.json").read_text())
    assert config["model_type"] == "chatglm" and config["torch_dtype"] == "float16"
    assert torch.equal(*(logits(load_model(tmp_path / layout, torch.float32)) for layout in ("glm", "chatglm")))


def test_the_exported_model_is_a_base_for_training_and_for_growth(trained, zero_dir, tokenizer, tmp_path):
    exported(trained("lora")[0], tmp_path / "out")
    cache = trained("lora")[0].parent / "cache"
    fit.main(run_args(tmp_path / "out", tmp_path / "next", cache, tuning="frozen"))
    assert exported(tmp_path / "next", tmp_path / "again", check="true")["model"] == "out"
    corpus = ["--corpus", str(twin.text_file("ja")), "--num_new_pieces", "64"]
    build_tokenizer.main(["--base", str(tmp_path / "out"), *corpus, "--output", str(tmp_path / "t")])
    resized = resize_embeddings.main(
        ["--base", str(tmp_path / "out"), "--tokenizer", str(tmp_path / "t"), "--output", str(tmp_path / "grown")]
    )
    assert (resized["old_rows_kept"], resized["new_rows"]) == (len(tokenizer), 64)


def test_the_report_and_the_card_tell_where_the_model_is_from(trained, zero_dir, tokenizer, tmp_path):
    run, _ = trained("lora")
    report = exported(run, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "export_report.json").read_text()) == report
    assert (report["run"], report["step"], report["model"]) == ("lora", 2, "zero")
    assert report["model_fingerprint"] == Checkpoint.open(zero_dir).fingerprint()
    assert report["tokenizer_sha256"] == tokenizer.fingerprint
    assert (report["tuning"], report["embeddings"], report["lora"]["rank"]) == ("lora", "full", 16)
    assert report["compared"] is False
    assert report["ledger"] == json.loads((run / "ledger.json").read_text())
    assert set(report["validation"]) == {"val/ja/loss", "val/ja/bits_per_char"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert re.search(r"\| source \| ja \|\n\| --- \| --- \|\n\| lang \| ja \|\n\| documents \| \d+ \|", card)
    assert tokenizer.fingerprint in card and "| val/ja/bits_per_char |" in card and "step 2 of the run `lora`" in card


def test_a_run_without_records_is_exported_without_them(trained, zero_dir, tmp_path):
    run, _ = trained("lora")
    shutil.copytree(run / "checkpoints", tmp_path / "bare" / "checkpoints")
    report = exported(tmp_path / "bare" / "checkpoints" / "step=2.ckpt", tmp_path / "out", model=zero_dir)
    assert (report["ledger"], report["validation"]) == (None, {})


def refused(capsys, **values):
    with pytest.raises(SystemExit) as stop:
        exported(**values)
    assert stop.value.code in (2, 3, 4, 5)  # which one: tests/system/test_exit_codes.py
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert line.startswith("python -m glmja.export: error: ")
    return line


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a run, to be damaged."""
    return Path(shutil.copytree(trained("lora")[0], tmp_path / "run"))


@pytest.fixture
def checkpoint(run):
    return run / "checkpoints" / "step=2.ckpt"


def test_a_checkpoint_of_another_base_is_refused_with_both_hashes(checkpoint, zero_dir, base_dir, tmp_path, capsys):
    hashes = [Checkpoint.open(folder).fingerprint() for folder in (zero_dir, base_dir)]
    line = refused(capsys, checkpoint=checkpoint, output=tmp_path / "out", model=base_dir)
    assert f"was trained from weights with the hash {hashes[0][:16]}…, but {base_dir} has {hashes[1][:16]}…" in line
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_tokenizer_is_refused_with_both_hashes(checkpoint, zero_dir, tmp_path, capsys):
    content = json.loads((checkpoint / manifest.NAME).read_text())
    content["facts"]["tokenizer"] = "0" * 64
    content["sha256"] = manifest._seal(content)
    (checkpoint / manifest.NAME).write_text(json.dumps(content))
    line = refused(capsys, checkpoint=checkpoint, output=tmp_path / "out")
    assert f"was trained from a tokenizer with the hash {'0' * 16}…, but " in line


def test_a_half_written_checkpoint_is_refused(checkpoint, tmp_path, capsys):
    (checkpoint / manifest.NAME).unlink()
    line = refused(capsys, checkpoint=checkpoint, output=tmp_path / "out")
    assert "manifest.json is missing: the save was interrupted" in line


def test_a_damaged_checkpoint_is_refused(checkpoint, tmp_path, capsys):
    content = bytearray((checkpoint / "state.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (checkpoint / "state.ckpt").write_bytes(content)
    line = refused(capsys, checkpoint=checkpoint, output=tmp_path / "out")
    assert "state.ckpt is damaged: its content is not what was saved" in line
    with pytest.raises(
        ModelError, match=r"no complete checkpoint in .*: each is incomplete, damaged or of another ver"
    ):
        TrainedState.open(checkpoint.parents[1])


def test_a_run_whose_model_was_removed_asks_for_it(run, zero_dir, tmp_path, capsys):
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(zero_dir), "/gone"))
    line = refused(capsys, checkpoint=run, output=tmp_path / "out")
    assert "config.yaml names the model /gone, which does not exist here; give the folder as --model" in line
    (run / "config.yaml").write_text("[1")
    line = refused(capsys, checkpoint=run, output=tmp_path / "out")
    assert "config.yaml does not name the model that the run started from; give its folder as --model" in line


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"checkpoint": "nowhere"}, "no such folder: nowhere"),
        ({"checkpoint": "configs"}, "configs/manifest.json is missing"),
        ({"model": "nowhere"}, "no such folder: nowhere"),
        ({"max_shard_size": 0}, "--max_shard_size 0 must be at least 1"),
        ({"output": "tests"}, "--output tests exists and is not empty"),
    ],
)
def test_bad_input_is_one_line(checkpoint, tmp_path, capsys, values, message):
    line = refused(capsys, **{"checkpoint": checkpoint, "output": tmp_path / "out"} | values)
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_output_may_not_contain_an_input(run, checkpoint, tmp_path, capsys):
    line = refused(capsys, checkpoint=checkpoint, output=run, overwrite="true")
    assert "contains the input" in line and checkpoint.is_dir()


def test_a_full_disk_leaves_nothing_behind(checkpoint, tmp_path, capsys, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("glmja.weights.checkpoint.write_safetensors", full)
    assert "No space left on device" in refused(capsys, checkpoint=checkpoint, output=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_check_finds_a_tensor_that_is_not_the_trained_one(trained, zero_dir, tokenizer, tmp_path):
    run, _ = trained("lora")
    exported(run, tmp_path / "out")
    state = TrainedState.open(run)
    weights = tmp_path / "out" / "model.safetensors"
    whole = weights.read_bytes()
    for name, message in (
        (EMBEDDING, "model.embed_tokens.weight differs from the trained tensor in rows 0 to"),
        ("model.layers.0.self_attn.q_proj.weight", "q_proj.weight differs from the trained tensor"),
    ):
        content = bytearray(whole)
        content[Checkpoint.open(tmp_path / "out").tensors[name].offset + 1] ^= 4  # an exponent
        weights.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            export_check.compare(state, ModelFolder.open(zero_dir), Checkpoint.open(tmp_path / "out"))


def test_the_check_finds_weights_that_transformers_does_not_find(trained, zero_dir, tokenizer, tmp_path):
    run, _ = trained("lora")
    exported(run, tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    tensors["model.another.weight"] = tensors.pop("model.norm.weight")
    save_file(tensors, tmp_path / "out" / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ModelError, match=r"transformers does not load all weights of the export: .*model\.norm\.weight"
    ):
        export_check._in_new_process(tmp_path / "out", [[1, 2, 3]])


def test_an_export_that_does_not_load_is_an_error(tmp_path):
    with pytest.raises(ModelError, match=r"the export does not load: no config\.json in"):
        export_check._in_new_process(tmp_path, [[1, 2, 3]])


def test_a_check_whose_process_dies_is_an_error(monkeypatch, zero_dir):
    monkeypatch.setattr(export_check, "_send", os._exit)  # is called with a pipe, which is no exit code: it raises
    with pytest.raises(ChildProcessError, match=r"ended with exit code 1; if memory ran out, set `check` to false"):
        export_check._in_new_process(zero_dir, [[1, 2, 3]])


def test_logits_that_are_far_or_no_numbers_are_refused():
    ours, near = torch.tensor([[1.0, 100.0]]), torch.tensor([[1.0001, 100.0]])
    export_check._check_logits([(ours, near)], 1e-5)
    for other in (torch.tensor([[1.1, 100.0]]), torch.tensor([[torch.nan, 1.0]])):
        with pytest.raises(ModelError, match="logits of the export differ by up to"):
            export_check._check_logits([(other, ours)], 1e-5)


def test_the_check_finds_a_chat_template_that_renders_otherwise(trained, zero_dir, tokenizer, tmp_path):
    run, _ = trained("lora")
    exported(run, tmp_path / "out")
    template = tmp_path / "out" / "chat_template.jinja"
    template.write_text(template.read_text().replace("[gMASK]", "[sMASK]"))
    with pytest.raises(ValueError, match="the written chat template renders chats differently from glmja"):
        export_check.compare(TrainedState.open(run), ModelFolder.open(zero_dir), Checkpoint.open(tmp_path / "out"))


PACKED = ["lora", "rslora", "dora", "frozen", "frozen_rows"]


@pytest.mark.parametrize("kind", PACKED)
def test_a_pack_makes_the_exported_model_of_the_stock_model_and_of_the_grown_one(
    trained, base_dir, zero_dir, tmp_path, kind
):
    run, _ = trained(kind)
    exported(run, tmp_path / "direct")
    report = exported(run, tmp_path / "pack", format="adapter", check="true")
    assert report["tensors_bit_equal"] + report["tensors_merged_and_rounded"] == 25
    assert not (tmp_path / "pack" / "config.json").exists()
    for name, base in (("stock", base_dir), ("grown", zero_dir)):
        restored(tmp_path / "pack", base, tmp_path / name)
        ours, theirs = (files(tmp_path / folder) for folder in (name, "direct"))
        assert ours.keys() == theirs.keys()
        assert {n for n in ours if ours[n] != theirs[n]} == {"README.md", "export_report.json"}


def restored(pack, base, output, **values):
    values = {"pack": pack, "base": base, "output": output, "check": "false"} | values
    return export.main([f"--{key}={value}" for key, value in values.items()])


def test_a_model_made_from_a_pack_gives_the_logits_of_the_merged_weights(trained, base_dir, tmp_path):
    exported(trained("dora")[0], tmp_path / "pack", format="adapter")
    for layout in ("glm", "chatglm"):
        report = restored(tmp_path / "pack", base_dir, tmp_path / layout, format=layout, check="true")
        assert report["largest_difference_of_logits"] == 0
        assert report["greedy_replies_equal"] == report["greedy_replies"] == 5


def test_a_pack_holds_what_the_stock_model_lacks_and_nothing_else(trained, tokenizer, tmp_path):
    exported(trained("dora")[0], tmp_path / "pack", format="adapter")
    held = load_file(tmp_path / "pack" / "pack.safetensors")
    for name in (EMBEDDING, HEAD):
        assert held.pop(name).shape == (3136 - tokenizer.new_ids.start, 64)
    assert {name.split(".")[4] for name in held} == {"q_proj", "down_proj"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_pack_is_made_and_put_on_in_the_dtype_asked_for(trained, base_dir, tmp_path, dtype):
    exported(trained("dora")[0], tmp_path / "direct", dtype=dtype)
    exported(trained("dora")[0], tmp_path / "pack", format="adapter", dtype=dtype, check="true")
    report = restored(tmp_path / "pack", base_dir, tmp_path / "model")
    assert (report["dtype"], report["pack_put_on"], report["run"]) == (dtype, "base", "dora")
    assert torch.equal(*(logits(load_model(tmp_path / folder)) for folder in ("direct", "model")))
    report = restored(tmp_path / "pack", base_dir, tmp_path / "other", dtype="float32", format="chatglm")
    assert (report["dtype"], report["format"]) == ("float32", "chatglm")


@pytest.fixture
def pack(trained, tmp_path):
    exported(trained("dora")[0], tmp_path / "pack", format="adapter")
    return tmp_path / "pack"


def pack_refused(capsys, pack, base, output, **values):
    with pytest.raises(SystemExit) as stop:
        restored(pack, base, output, **values)
    assert stop.value.code in (2, 3, 4, 5)  # which one: tests/system/test_exit_codes.py
    assert not output.exists()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    return line


def test_a_pack_of_another_model_is_refused_with_both_hashes(pack, base_dir, texts, tmp_path, capsys):
    twin.build_base(tmp_path / "other", texts["zh"] + texts["en"], hidden_size=64, seed=1)
    line = pack_refused(capsys, pack, tmp_path / "other", tmp_path / "out")
    content = json.loads((pack / "pack.json").read_text())
    other = Checkpoint.open(tmp_path / "other").as_glm()
    found = language_pack.shared_sha256(other, content["rows_kept_of_stock_model"], torch.float16)
    shown = f"{content['shared_sha256'][:16]}…, but {tmp_path / 'other'} has {found[:16]}"
    assert f"belongs to a model with the hash {shown}" in line


def test_a_pack_is_not_put_on_a_model_with_fewer_rows(pack, texts, tmp_path, capsys):
    twin.build_base(tmp_path / "other", texts["en"], vocab_size=900, hidden_size=64)
    assert "belongs to a model with the hash" in pack_refused(capsys, pack, tmp_path / "other", tmp_path / "out")


@pytest.mark.parametrize("name", ["pack.safetensors", "tokenizer.model"])
def test_a_damaged_pack_is_refused(pack, base_dir, zero_dir, tmp_path, capsys, name):
    if name == "tokenizer.model":
        shutil.copy(base_dir / name, pack)
    else:
        content = bytearray((pack / name).read_bytes())
        content[-1] ^= 1
        (pack / name).write_bytes(content)
    line = pack_refused(capsys, pack, base_dir, tmp_path / "out")
    assert f"{name} is damaged: its hash is " in line and "but the pack was written with" in line


def test_a_folder_that_is_not_a_pack_is_refused(pack, base_dir, zero_dir, tmp_path, capsys):
    assert "a model, not a language pack" in pack_refused(capsys, zero_dir, base_dir, tmp_path / "out")
    (pack / "pack.json").write_text('{"pack_format": 1}')
    line = pack_refused(capsys, pack, base_dir, tmp_path / "out")
    assert "pack.json does not describe a language pack of format 1" in line
    (pack / "pack.json").unlink()
    shutil.copy(zero_dir / "config.json", pack / "pack.json")
    assert "does not describe a language pack" in pack_refused(capsys, pack, base_dir, tmp_path / "out")


def test_a_pack_without_weights_is_refused(pack, base_dir, tmp_path, capsys):
    (pack / "pack.safetensors").unlink()
    assert "no pack.safetensors in" in pack_refused(capsys, pack, base_dir, tmp_path / "out")


def test_a_transformer_that_trained_in_full_makes_no_pack(trained, tmp_path, capsys):
    line = refused(capsys, checkpoint=trained("full")[0], output=tmp_path / "out", format="adapter")
    assert "the run trained the transformer in full, so a pack would be the model; set --format to glm" in line


@pytest.mark.parametrize("given", [[], ["--pack=a"], ["--pack=a", "--base=b", "--format=adapter"], ["--base=b"],
                                   ["--checkpoint=c", "--base=b"], ["--pack=a", "--base=b", "--model=m"]])  # fmt: skip
def test_either_a_checkpoint_or_a_pack_is_required(tmp_path, capsys, given):
    with pytest.raises(SystemExit):
        export.main([f"--output={tmp_path / 'out'}", *given])
    assert "give either --checkpoint, or --pack and --base and a --format other than adapter" in capsys.readouterr().err


def partitions(tensors, num_ranks):
    """As ZeRO divides a group: one flat vector, padded, cut into equal parts."""
    flat = torch.cat([tensor.flatten() for tensor in tensors.values()])
    width = -(-len(flat) // (2 * num_ranks)) * 2
    return torch.cat([flat, torch.zeros(width * num_ranks - len(flat))]).split(width)


def save_as_zero(plain, final, num_ranks, groups=2, count=None, extra=None, kept=None):
    """A checkpoint of ZeRO with the tensors of a plain one."""
    saved = manifest.read(plain)
    tensors = list(torch.load(plain / "state.ckpt", weights_only=True)["state_dict"].items())
    divided = [dict(tensors[i::groups]) for i in range(groups)]
    folder = manifest.begin(final) / "checkpoint"
    folder.mkdir()
    shapes = [{name: tensor.shape for name, tensor in group.items()} for group in divided]
    torch.save({"param_shapes": shapes}, folder / "mp_rank_00_model_states.pt")
    cut = [partitions(group, num_ranks) for group in divided]
    for rank in range(num_ranks if count is None else count):
        state = {
            "single_partition_of_fp32_groups": [group[rank][:kept].clone() for group in cut],
            "partition_count": [num_ranks] * groups,
            "loss_scaler": extra,
        }
        torch.save({"optimizer_state_dict": state}, folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    manifest.complete(folder.parent, final, saved.step, saved.identity)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_checkpoint_of_many_processes_is_exported_as_that_of_one(run, checkpoint, tmp_path):
    exported(checkpoint, tmp_path / "one")
    save_as_zero(checkpoint, checkpoint.parent / "step=3.ckpt", 11)  # more than 9: their names do not sort as numbers
    exported(checkpoint.parent / "step=3.ckpt", tmp_path / "many")
    assert files(tmp_path / "one") == files(tmp_path / "many")


def test_a_checkpoint_without_all_partitions_is_refused(checkpoint, tmp_path, capsys):
    final = checkpoint.parent / "step=3.ckpt"
    save_as_zero(checkpoint, final, 3, count=2)
    line = refused(capsys, checkpoint=final, output=tmp_path / "out")
    assert f"{final} holds the partitions of 2 processes, but [3, 3] saved" in line


def test_partitions_that_are_too_short_are_refused(checkpoint, tmp_path, capsys):
    final = checkpoint.parent / "step=3.ckpt"
    save_as_zero(checkpoint, final, 2, kept=-100)
    line = refused(capsys, checkpoint=final, output=tmp_path / "out")
    assert re.search(rf"{final}: the partitions hold \d+ numbers, but \d+ are needed$", line)


def test_a_missing_partition_is_named(checkpoint, tmp_path, capsys):
    final = checkpoint.parent / "step=3.ckpt"
    save_as_zero(checkpoint, final, 2)
    (final / "checkpoint" / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    line = refused(capsys, checkpoint=final, output=tmp_path / "out")
    assert "zero_pp_rank_1_mp_rank_00_optim_states.pt is missing" in line


class NeedsCode:
    def __reduce__(self):
        return print, ("ran",)


def test_a_checkpoint_that_holds_code_is_refused_and_the_code_is_not_run(checkpoint, tmp_path, capsys):
    final = checkpoint.parent / "step=3.ckpt"
    save_as_zero(checkpoint, final, 2, extra=NeedsCode())
    line = refused(capsys, checkpoint=final, output=tmp_path / "out")
    assert "zero_pp_rank_0_mp_rank_00_optim_states.pt holds code or is damaged; it was not loaded" in line
    assert "ran" not in capsys.readouterr().out


def test_a_checkpoint_that_holds_other_tensors_than_it_tells_is_refused(checkpoint, tmp_path, capsys):
    path = checkpoint / manifest.NAME
    content = json.loads(path.read_text())
    name, shape = content["facts"]["trainable"].pop()
    content["sha256"] = manifest._seal(content)
    path.write_text(json.dumps(content))
    line = refused(capsys, checkpoint=checkpoint, output=tmp_path / "out")
    assert f"the manifest lists {name} none, but the files hold {shape} (1 differ)" in line


def test_the_partitions_of_two_ranks_are_put_together_as_deepspeed_does_it(tmp_path, capsys):
    options = {"folder": tmp_path / "run", "strategy": "zero2", "ranks": 2, "max_steps": 3, "precision": "bf16-mixed"}
    code, output = train(options)
    assert code == 0, output
    path = newest(tmp_path / "run")
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    theirs = get_fp32_state_dict_from_zero_checkpoint(str(path))
    ours = {name: source.read_all() for name, source in read_tensors(path, manifest.read(path)).items()}
    assert ours.keys() == theirs.keys() == {"a.weight", "b.weight", "embed.weight"}
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert any((tensor != tensor.bfloat16()).any() for tensor in ours.values())  # not what the model holds
    capsys.readouterr()
    line = refused(capsys, checkpoint=path, output=tmp_path / "out")
    assert "does not come from a GLM training: its manifest lacks base, tokenizer, tuning" in line


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dora", "full"])
def test_a_run_on_two_ranks_in_half_precision_is_exported(zero_dir, tmp_path, kind):
    of_run = run_args(zero_dir, tmp_path / "run", tmp_path / "cache", **KINDS[kind])
    strategy = json.dumps({"class_path": "lit_modules.zero2.ZeRO2"})
    of_ranks = ["--trainer.devices=2", f"--trainer.strategy={strategy}", "--trainer.precision=bf16-mixed"]
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "glmja.fit", *of_run, *of_ranks]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=300)
    report = exported(tmp_path / "run", tmp_path / "out", check="true")
    assert report["greedy_replies_equal"] == 5


def test_the_model_that_a_run_trained_is_read_once(trained, zero_dir, tmp_path):
    run, _ = trained("lora")
    with counted_opens() as opens:
        exported(run, tmp_path / "out")
    assert reads_of(opens, zero_dir) == (1, 1)
