import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import capture_parser
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from glmja import fit, twin
from glmja.model import load_model

ROOT = Path(__file__).parents[1]
EMPTY = {"name": "a", "lang": "ja", "files": []}
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def run_args(zero_dir, folder, **trainer):
    sources = [{"name": x, "lang": x, "files": [str(twin.text_file(x))]} for x in twin.LANGUAGES]
    values = {
        "config": ROOT / "configs" / "demo_pretrain.yaml",
        "run_dir": folder / "run",
        "model.init_args.model_dir": zero_dir,
        "data.init_args.sources": json.dumps(sources),
        "data.init_args.cache_dir": folder / "cache",
        "data.init_args.row_len": 128,
        "data.init_args.batch_size": 4,
        "trainer.accelerator": "cpu",
        "trainer.max_steps": 4,
        "trainer.val_check_interval": 2,
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
    } | trainer
    return [f"--{key}={value}" for key, value in values.items()]


@pytest.fixture(scope="module")
def run(zero_dir, tmp_path_factory):
    """A short run and its folder."""
    folder = tmp_path_factory.mktemp("fit")
    trainer = fit.main(run_args(zero_dir, folder, **{"trainer.max_steps": 30, "trainer.val_check_interval": 10}))
    return trainer, folder / "run"


def scalars(folder, tag):
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [event.value for event in events.Scalars(tag)]


def test_japanese_is_learnt(run):
    _, folder = run
    japanese = scalars(folder, "val/ja/bits_per_char")
    assert len(japanese) == 4  # before training, and three validations
    assert japanese[-1] < japanese[0] - 1
    training = scalars(folder, "train/loss")
    assert sum(training[-5:]) < sum(training[:5]) - 2.5


def test_everything_of_a_run_is_in_its_folder(run):
    _, folder = run
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "checkpoints", "tensorboard"}
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"last.ckpt", "step=30.ckpt"}
    logged = EventAccumulator(str(folder / "tensorboard")).Reload().Tags()["scalars"]
    expected = {f"val/{x}/{kind}" for x in twin.LANGUAGES for kind in ("loss", "bits_per_char")}
    assert expected | {"train/loss", "lr-AdamW"} <= set(logged)


def test_a_checkpoint_holds_what_trains_and_nothing_else(run):
    trainer, folder = run
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert list(checkpoint["state_dict"]) == trainer.lightning_module.trainable_names()
    assert any("embed_tokens" in name for name in checkpoint["state_dict"])
    assert not any("gate_up_proj.base_layer" in name for name in checkpoint["state_dict"])


def test_the_frozen_weights_did_not_move(run, zero_dir):
    trainer, _ = run
    trained = trainer.lightning_module.model.get_base_model().state_dict()
    for name, weight in load_model(zero_dir, torch.float32).state_dict().items():
        now = trained.get(
            name, trained.get(name.replace(".weight", ".base_layer.weight").replace(".bias", ".base_layer.bias"))
        )
        assert torch.equal(now, weight) != name.startswith(("lm_head", "model.embed_tokens")), name


def test_bits_per_character_is_the_loss_of_the_held_out_text_over_its_characters(run, tokenizer):
    trainer, folder = run
    module, rows = trainer.lightning_module, trainer.datamodule.val_rows[0]
    nats, characters = 0.0, 0
    with torch.no_grad():
        for i in range(len(rows)):
            total, learnt = module.loss({key: value[None] for key, value in rows[i].items()})
            nats += total.item()
            characters += sum(tokenizer.num_characters[j] for j in learnt.tolist())
    expected = nats / torch.log(torch.tensor(2.0)).item() / characters
    assert scalars(folder, "val/ja/bits_per_char")[-1] == pytest.approx(expected, rel=1e-4)


def test_the_saved_configuration_reproduces_the_run(run, tmp_path):
    _, folder = run
    config = folder / "config.yaml"
    again = fit.main([f"--config={config}", f"--run_dir={tmp_path / 'again'}", "--trainer.enable_progress_bar=false"])
    assert again.global_step == 30
    assert scalars(tmp_path / "again", "train/loss") == scalars(folder, "train/loss")


def test_a_run_can_be_resumed(zero_dir, tmp_path):
    fit.main(run_args(zero_dir, tmp_path))
    longer = fit.main([*run_args(zero_dir, tmp_path, **{"trainer.max_steps": 6}), "--ckpt_path=last"])
    assert longer.global_step == 6
    steps = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload().Scalars("train/loss")
    assert [event.step for event in steps] == [0, 1, 2, 3, 4, 5]


def test_a_checkpoint_of_other_parameters_is_refused(run, zero_dir, tmp_path, capsys):
    _, folder = run
    args = [*run_args(zero_dir, tmp_path), f"--ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"]
    line = refused(capsys, [*args, "--model.init_args.embeddings=frozen"])
    assert "the checkpoint trains other parameters than this run (2 differ: " in line


def refused(capsys, args):
    with pytest.raises(SystemExit) as stop:
        fit.main(args)
    assert stop.value.code == 2
    return [line for line in capsys.readouterr().err.splitlines() if "error: " in line][-1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model.init_args.model_dir": "nowhere"}, "no config.json in nowhere"),
        ({"model.init_args.lora_rank": 0}, "lora_rank (0) must be at least 1"),
        ({"data.init_args.row_len": 1}, "row_len (1) must be at least 2"),
        ({"data.init_args.row_len": 10**6}, "source 'ja' holds fewer than row_len (1000000) tokens to train on"),
        ({"data.init_args.val_share": 0}, "val_share (0.0) must lie between 0 and 1"),
        ({"data.init_args.sources": "[]"}, "sources is empty; name at least one source of text"),
        ({"data.init_args.sources": '[{"name": "a", "lang": "ja", "files": ["gone.txt"]}]'}, "no such file: gone.txt"),
        ({"data.init_args.sources": json.dumps([EMPTY, EMPTY])}, "every source needs a name of its own, but they are"),
        ({"trainer.max_stepp": 3}, "max_stepp"),
        ({"trainer.max_steps": -1}, "give --trainer.max_steps or --trainer.max_epochs"),
    ],
)
def test_bad_input_is_refused_before_training(zero_dir, tmp_path, capsys, values, message):
    assert message in refused(capsys, run_args(zero_dir, tmp_path, **values))
    assert not (tmp_path / "run" / "config.yaml").exists()  # the corrected command may use the folder


def test_there_must_be_a_checkpoint_to_resume_from(zero_dir, tmp_path, capsys):
    line = refused(capsys, [*run_args(zero_dir, tmp_path), "--ckpt_path=last"])
    assert "--ckpt_path last: no such checkpoint: " in line
    line = refused(capsys, [*run_args(zero_dir, tmp_path), "--ckpt_path=gone.ckpt"])
    assert "--ckpt_path gone.ckpt: no such checkpoint: gone.ckpt" in line
    assert not (tmp_path / "run").exists()


class NeedsCode:
    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize("content", [b"", b"garbage", NeedsCode()])
def test_a_checkpoint_that_is_damaged_or_holds_code_is_refused(zero_dir, tmp_path, capsys, content):
    path = tmp_path / "bad.ckpt"
    torch.save({"a": content}, path) if isinstance(content, NeedsCode) else path.write_bytes(content)
    line = refused(capsys, [*run_args(zero_dir, tmp_path), f"--ckpt_path={path}"])
    assert "bad.ckpt is damaged or holds code; it was not loaded" in line
    assert "ran" not in capsys.readouterr().out


def test_a_source_of_one_document_cannot_be_split(zero_dir, tmp_path, capsys):
    (tmp_path / "one.txt").write_text("日本語の文書です。\n")
    sources = json.dumps([{"name": "one", "lang": "ja", "files": [str(tmp_path / "one.txt")]}])
    line = refused(capsys, run_args(zero_dir, tmp_path, **{"data.init_args.sources": sources}))
    assert "source 'one' has 1 document; one more is needed to hold one out" in line


def test_the_folder_of_a_run_is_not_overwritten(run, zero_dir, capsys):
    _, folder = run
    line = refused(capsys, run_args(zero_dir, folder.parent))
    assert f"--run_dir {folder} holds a run; choose another, or resume it with --ckpt_path last" in line


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_parses_and_tells_its_story(config):
    capture_parser(fit.main).parse_args([f"--config={config}"])
    story = config.read_text(encoding="utf-8").split("\n", 8)
    assert all(line.startswith("#") for line in story[:7])
    assert yaml.safe_load(config.read_text(encoding="utf-8"))["model"]["class_path"].startswith("lit_modules.")


def test_the_command_line_explains_the_arguments_of_a_module():
    command = [sys.executable, "-m", "glmja.fit", "--model.help", "lit_modules.PackedPretraining"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Rank of the adapters." in done.stdout


@pytest.mark.slow
def test_real_text_is_learnt_with_the_real_tokenizers(data, tmp_path):
    """The same command on a Zero model of ChatGLM3's own vocabulary and layout."""
    from glmja import build_tokenizer, resize_embeddings

    base, japanese = str(data / "chatglm3_tiny"), str(data / "text" / "ja.jsonl.gz")
    build_tokenizer.main(["--base", base, "--corpus", japanese, "--output", str(tmp_path / "tokenizer")])
    resize_embeddings.main(
        ["--base", base, "--tokenizer", str(tmp_path / "tokenizer"), "--output", str(tmp_path / "zero")]
    )
    sources = [{"name": x, "lang": x, "files": [str(data / "text" / f"{x}.jsonl.gz")]} for x in twin.LANGUAGES]
    changes = {
        "data.init_args.sources": json.dumps(sources),
        "data.init_args.val_share": 0.002,
        "trainer.max_steps": 40,
        "trainer.val_check_interval": 20,
    }
    fit.main(run_args(tmp_path / "zero", tmp_path, **changes))
    seen = scalars(tmp_path / "run", "val/ja/bits_per_char")
    assert seen[-1] < seen[0] - 0.2
