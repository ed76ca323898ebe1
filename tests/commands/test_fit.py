import json
import shutil
import signal
import socket
import typing
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import capture_parser
from lightning import Callback, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy

from callbacks import ChatSampler, for_every_run
from callbacks.final_checkpoint import FinalCheckpoint
from glmja import fit
from glmja.modeling.loading import load_model
from glmja.runs import manifest
from glmja.runs.run_folder import RunFolder
from glmja.twin import build as twin
from lit_modules.trainer_checks import check_trainer
from lit_modules.zero2 import ZeRO2
from tests.support.tiny_run import events, scalars

ROOT = Path(__file__).parents[2]
JAPANESE = str(twin.text_file("ja"))
PLAIN = {"name": "b", "lang": "ja", "files": [JAPANESE]}
WEIGHED = {"name": "a", "lang": "ja", "files": [JAPANESE], "weight": 0.5}
RECIPES = sorted((ROOT / "configs").glob("*.yaml"))
PRESETS = sorted((ROOT / "configs" / "presets").glob("*.yaml"))


def run_args(zero_dir, folder, **trainer):
    sources = [{"name": x, "lang": x, "files": [str(twin.text_file(x))]} for x in twin.LANGUAGES]
    values = {
        "config": ROOT / "configs" / "demo_pretrain.yaml",
        "run_dir": folder / "run",
        "model.init_args.model_dir": zero_dir,
        "model.init_args.optimizer.init_args.lr": 3e-3,
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


def test_training_lowers_the_loss_on_japanese(run):
    _, folder = run
    japanese = [*scalars(folder, "val/ja/bits_per_char").values()]
    assert len(japanese) == 4  # before training, and three validations
    assert japanese[-1] < japanese[0] - 1
    training = [*scalars(folder, "train/loss").values()]
    assert sum(training[-5:]) < sum(training[:5]) - 2.5


def test_all_files_of_a_run_are_in_its_folder(run):
    _, folder = run
    assert {p.name for p in folder.iterdir()} == {"config.yaml", "checkpoints", "tensorboard", "ledger.json"}
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step=30.ckpt"]
    logged = events(folder).Tags()["scalars"]
    expected = {f"val/{x}/{kind}" for x in twin.LANGUAGES for kind in ("loss", "bits_per_char")}
    assert expected | {"train/loss", "train/grad_norm", "lr-AdamW"} <= set(logged)


def test_a_checkpoint_holds_the_trainable_parameters_only(run):
    trainer, folder = run
    checkpoint = torch.load(folder / "checkpoints" / "step=30.ckpt" / "state.ckpt", weights_only=True)
    trainable = [name for name, p in trainer.lightning_module.named_parameters() if p.requires_grad]
    assert list(checkpoint["state_dict"]) == trainable
    assert any("embed_tokens" in name for name in checkpoint["state_dict"])
    assert not any("gate_up_proj.base_layer" in name for name in checkpoint["state_dict"])


def test_frozen_weights_do_not_change(run, zero_dir):
    trainer, _ = run
    trained = trainer.lightning_module.model.get_base_model().state_dict()
    for name, weight in load_model(zero_dir, torch.float32).state_dict().items():
        now = trained.get(
            name, trained.get(name.replace(".weight", ".base_layer.weight").replace(".bias", ".base_layer.bias"))
        )
        assert torch.equal(now, weight) != name.startswith(("lm_head", "model.embed_tokens")), name


def test_bits_per_character_is_the_loss_of_the_held_out_text_over_its_characters(run, tokenizer):
    trainer, folder = run
    module = trainer.lightning_module
    nats, characters = 0.0, 0
    with torch.no_grad():
        for batch in trainer.datamodule.val_dataloader()[0]:
            total, targets = module.loss(batch)
            nats += total.item()
            characters += sum(tokenizer.num_characters[j] for j in targets.tolist())
    expected = nats / torch.log(torch.tensor(2.0)).item() / characters
    assert scalars(folder, "val/ja/bits_per_char")[29] == pytest.approx(expected, rel=1e-4)


def test_a_finished_run_can_be_extended_by_more_epochs(zero_dir, tmp_path):
    args = run_args(zero_dir, tmp_path, **{"trainer.max_steps": -1})
    first = fit.main([*args, "--data.init_args.epochs=0.2"]).global_step
    assert fit.main([*args, "--data.init_args.epochs=0.4", "--ckpt_path=last"]).global_step == 2 * first
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["ckpt_path"] is None  # the file begins a run of its own


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
    assert list(scalars(tmp_path / "run", "train/loss")) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("presses", "said"), [(1, "step 2 is saved in"), (2, "the last step is not saved")])
def test_ctrl_c_saves_the_step_and_pressed_again_stops_at_once(presses, said, zero_dir, tmp_path, capsys, monkeypatch):
    def press(self, trainer, *args):
        for _ in range(presses if trainer.global_step == 2 else 0):
            signal.raise_signal(signal.SIGINT)
        after_batch(self, trainer, *args)

    after_batch = FinalCheckpoint.on_train_batch_end
    monkeypatch.setattr(FinalCheckpoint, "on_train_batch_end", press)
    with pytest.raises(SystemExit) as stop:
        fit.main(run_args(zero_dir, tmp_path))
    assert stop.value.code == 130
    assert said in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "run" / "checkpoints").exists() == (presses == 1)


def test_ctrl_c_before_the_first_step_leaves_nothing(zero_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(FinalCheckpoint, "on_validation_start", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(SystemExit) as stop:
        fit.main(run_args(zero_dir, tmp_path))
    assert stop.value.code == 130
    said = capsys.readouterr()
    assert "stopped: before the first step, nothing is saved" in said.out
    assert "KeyboardInterrupt" not in said.out + said.err
    assert not (tmp_path / "run").exists()


def refused(capsys, args):
    with pytest.raises(SystemExit) as stop:
        fit.main(args)
    assert stop.value.code in (2, 3, 4, 5)  # which one: tests/system/test_exit_codes.py
    return [line for line in capsys.readouterr().err.splitlines() if "error: " in line][-1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model.init_args.model_dir": "nowhere"}, "no such folder: nowhere"),
        ({"model.init_args.lora.rank": 0}, "--model.lora: rank (0) and alpha (32) must be at least 1"),
        (
            {"model.init_args.lora.targets": "[query_key_value]"},
            "--model.lora: targets (query_key_value) must be among q_proj, ",
        ),
        ({"model.init_args.tuning": "frozen", "model.init_args.embeddings": "frozen"}, "nothing would train"),
        ({"model.init_args.loss_chunk_len": 0}, "--model.loss_chunk_len (0) must be at least 1"),
        ({"model.class_path": "lit_modules.Pretraining"}, "lit_modules.Pretraining"),
        (
            {"model.init_args.dtype": "bfloat16"},
            "set --trainer.precision to bf16-mixed, or --model.dtype to float32",
        ),
        ({"data.init_args.row_len": 1}, "--data.row_len (1) must be at least 2"),
        ({"data.init_args.row_len": 10**6}, "--data.row_len (1000000) exceeds the model's 2048 positions"),
        ({"data.init_args.val_share": 1}, "--data.val_share (1.0) must be at least 0 and below 1"),
        ({"data.init_args.tokens": 100}, "--data.tokens (100) must be at least --data.row_len (128), a row"),
        ({"data.init_args.epochs": 0}, "--data.epochs (0.0) must be positive"),
        ({"data.init_args.num_workers": -1}, "--data.num_workers (-1) must not be negative"),
        (
            {"data.init_args.epochs": 0.01},
            "fewer than one optimizer step takes (4: --data.batch_size 4 × 1 micro-batches",
        ),
        (
            {"trainer.precision": "bf16-true"},
            "would train in 16 bits, in which most updates are rounded to nothing; set it to bf16-mixed",
        ),
        ({"trainer.limit_train_batches": 5}, "trainer.limit_train_batches is 5, which contradicts"),
        ({"trainer.max_epochs": 3}, "trainer.max_epochs is 3, but the whole run is one epoch of the trainer; "),
        ({"data.init_args.sources": "[]"}, "sources is empty; name at least one"),
        ({"data.init_args.sources": json.dumps([WEIGHED, PLAIN])}, "give all a weight or none; b has none"),
        ({"data.init_args.sources": json.dumps([WEIGHED | {"weight": 0}])}, "weight"),
        ({"data.init_args.sources": '[{"name": "a", "lang": "ja", "files": ["gone.txt"]}]'}, "no such file: gone.txt"),
        ({"data.init_args.sources": json.dumps([PLAIN, PLAIN])}, "every source needs a name of its own, but they are"),
        ({"trainer.max_stepp": 3}, "max_stepp"),
    ],
)
def test_bad_input_is_refused_before_training(zero_dir, tmp_path, capsys, values, message):
    assert message in refused(capsys, run_args(zero_dir, tmp_path, **values))
    assert not (tmp_path / "run").exists()  # the corrected command may use the folder


def test_there_must_be_a_checkpoint_to_resume_from(zero_dir, tmp_path, capsys):
    line = refused(capsys, [*run_args(zero_dir, tmp_path), "--ckpt_path=last"])
    assert "--ckpt_path last: no complete checkpoint in " in line
    line = refused(capsys, [*run_args(zero_dir, tmp_path), "--ckpt_path=gone.ckpt"])
    assert "--ckpt_path gone.ckpt: no such checkpoint: gone.ckpt" in line
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_refused_by_path_and_skipped_by_last(run, zero_dir, tmp_path, capsys, caplog):
    _, folder = run
    checkpoints = tmp_path / "run" / "checkpoints"
    shutil.copytree(folder / "checkpoints", checkpoints)
    shutil.copytree(folder / "checkpoints" / "step=30.ckpt", checkpoints / "step=40.ckpt")
    path = checkpoints / "step=40.ckpt" / manifest.NAME
    content = json.loads(path.read_text()) | {"step": 40}
    path.write_text(json.dumps(content | {"sha256": manifest._seal(content)}))
    state = checkpoints / "step=40.ckpt" / "state.ckpt"
    state.write_bytes(state.read_bytes()[:-1])
    args = run_args(zero_dir, tmp_path, **{"trainer.max_steps": 31})
    line = refused(capsys, [*args, f"--ckpt_path={state.parent}"])
    assert f"--ckpt_path {state.parent}: {state} " in line
    fit.main([*args, "--ckpt_path=last"])
    assert f"skipped a checkpoint: {state} " in caplog.text
    assert "step=31.ckpt" in {path.name for path in checkpoints.iterdir()}


def test_a_source_of_one_document_cannot_be_split(zero_dir, tmp_path, capsys):
    (tmp_path / "one.txt").write_text("日本語の文書です。\n")
    sources = json.dumps([{"name": "one", "lang": "ja", "files": [str(tmp_path / "one.txt")]}])
    line = refused(capsys, run_args(zero_dir, tmp_path, **{"data.init_args.sources": sources}))
    assert "source 'one' has 1 document; one more is needed to hold one out" in line


def test_a_source_must_fill_a_row(zero_dir, tmp_path, capsys):
    (tmp_path / "two.txt").write_text("日本語の文書です。\nもう一つです。\n")
    sources = json.dumps([{"name": "two", "lang": "ja", "files": [str(tmp_path / "two.txt")]}])
    line = refused(capsys, run_args(zero_dir, tmp_path, **{"data.init_args.sources": sources}))
    assert (
        "source 'two' holds fewer than --data.row_len (128) tokens to train on; give more text or shorter rows" in line
    )


def test_a_port_that_is_in_use_is_refused(zero_dir, tmp_path, capsys, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        two = {"trainer.devices": 2, "trainer.strategy": "ddp"}
        assert f"MASTER_PORT {port} is in use; set it to a free port" in refused(
            capsys, run_args(zero_dir, tmp_path, **two)
        )


def test_the_folder_of_a_run_is_not_overwritten(run, zero_dir, capsys):
    _, folder = run
    line = refused(capsys, run_args(zero_dir, folder.parent))
    assert f"--run_dir {folder} holds a run; choose another folder, or resume it with --ckpt_path last" in line


@pytest.fixture(scope="module")
def parser():
    return capture_parser(fit.main, ["--data=x"])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize("preset", [None, *PRESETS], ids=lambda path: path.stem if path else "alone")
def test_every_stack_of_configs_parses(parser, recipe, preset):
    config = parser.parse_args([f"--config={path}" for path in (recipe, preset) if path])
    assert config.model.class_path.startswith("lit_modules.")
    if preset and preset.stem == "smoke":
        assert config.trainer.max_steps == 5


@pytest.mark.parametrize("name", ["limit_train_batches", "limit_val_batches"])
def test_a_limit_of_one_is_one_batch_whatever_was_imported_first(monkeypatch, name):
    other_order = typing.Union[float, int, None]  # noqa: UP007 - `|` is not kept by typing
    monkeypatch.setitem(Trainer.__init__.__annotations__, name, other_order)
    parser = capture_parser(fit.main, ["--data=x"])
    for given, limit in (("1", 1), ("1.0", 1.0), ("0.5", 0.5), ("0", 0)):
        found = parser.parse_args([f"--config={RECIPES[0]}", f"--trainer.{name}={given}"]).trainer[name]
        assert (found, type(found)) == (limit, type(limit))


@pytest.mark.parametrize("config", RECIPES + PRESETS, ids=lambda path: path.stem)
def test_every_configuration_states_its_command_needs_and_expected_result(config):
    story = [line for line in config.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    for word in ("python -m glmja.", "# Needs   ", "# Expect  "):
        assert any(word in line for line in story)
    assert all(not line.startswith("  callbacks") for line in config.read_text().splitlines()) or config in RECIPES


def test_the_command_line_explains_the_arguments_of_a_module(capsys):
    with pytest.raises(SystemExit) as stop:
        fit.main(["--model.help", "lit_modules.PackedPretraining"])
    assert not stop.value.code
    assert "Numerator of the scale `alpha / rank` of the update." in capsys.readouterr().out


@pytest.mark.slow
def test_training_on_real_text_with_the_real_tokenizers_lowers_the_loss(data, tmp_path):
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
    seen = [*scalars(tmp_path / "run", "val/ja/bits_per_char").values()]
    assert seen[-1] < seen[0] - 0.2


class Gradients(Callback):
    """Records after each micro-batch whether there are gradients."""

    def __init__(self):
        self.found = []

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.found.append(any(p.grad is not None for p in pl_module.parameters()))


def test_gradients_are_freed_after_each_step(zero_dir, tmp_path, monkeypatch):
    gradients = Gradients()
    monkeypatch.setattr("callbacks.for_every_run", lambda *args: [*for_every_run(*args), gradients])
    fit.main(run_args(zero_dir, tmp_path, **{"trainer.accumulate_grad_batches": 2, "trainer.max_steps": 2}))
    assert gradients.found == [True, False] * 2


@pytest.mark.parametrize(("old", "new"), [("LossSentry", "NonFiniteGuard"), ("Rehearsal", "LargestBatchCheck")])
def test_a_renamed_callback_is_found_under_its_old_name_with_a_warning(zero_dir, tmp_path, old, new):
    config = tmp_path / "old.yaml"
    config.write_text(f"trainer:\n  callbacks:\n  - class_path: callbacks.{old}\n")
    args = [*run_args(zero_dir, tmp_path, **{"trainer.max_steps": 1}), f"--config={config}"]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        trainer = fit.main(args)
    told = {str(warning.message) for warning in seen if warning.category is FutureWarning}
    assert f"callbacks.{old} is now callbacks.{new}; change class_path, the old name will be removed" in told
    assert new in [type(callback).__name__ for callback in trainer.callbacks]


@pytest.mark.parametrize("chats", [True, False])
def test_chats_are_sampled_unless_they_are_left_out(zero_dir, tmp_path, chats):
    sampler = "[{class_path: callbacks.ChatSampler, init_args: {max_new_tokens: 1}}]"
    changes = {"trainer.max_steps": 1, "trainer.callbacks": sampler, "chats": str(chats).lower()}
    trainer = fit.main(run_args(zero_dir, tmp_path, **changes))
    assert any(isinstance(callback, ChatSampler) for callback in trainer.callbacks) is chats
    assert RunFolder(tmp_path / "run").chats.exists() is chats


def test_an_unknown_callback_is_refused(zero_dir, tmp_path, capsys):
    line = refused(capsys, [*run_args(zero_dir, tmp_path), "--trainer.callbacks=[{class_path: callbacks.Sentry}]"])
    assert "callbacks.Sentry" in line


def test_another_deepspeed_strategy_is_refused(zero_dir, tmp_path, monkeypatch):
    trainer = Trainer(strategy=ZeRO2(), accelerator="cpu", devices=1, logger=False)
    check_trainer(trainer)
    monkeypatch.setattr(trainer.strategy, "__class__", DeepSpeedStrategy)
    with pytest.raises(ValueError, match=r"divides accumulated gradients twice .*; set it to lit_modules\.ZeRO2"):
        check_trainer(trainer)
