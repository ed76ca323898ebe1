"""Fine-tuning ChatGLM-6B with the recipes for ADGEN."""

import json
from pathlib import Path

import pytest
import torch

from glmja import export, fit
from glmja.modeling.loading import load_model
from glmja.modeling.model_folder import ModelFolder
from glmja.runs.trained_state import TrainedState
from glmja.weights.checkpoint import Checkpoint
from tests.support.tiny_run import scalars

pytestmark = pytest.mark.usefixtures("forked_check")

ROOT = Path(__file__).parents[2]
COLORS = "红黑白蓝灰绿黄紫橙青"


@pytest.fixture(scope="module")
def adgen(tmp_path_factory):
    path = tmp_path_factory.mktemp("adgen") / "train.json"
    records = [
        {"content": f"类型#{kind}*颜色#{c}", "summary": f"这条{c}色的{kind}很好看。"}
        for c in COLORS
        for kind in "裤裙衫"
    ]
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def run_args(model, data, folder, recipe="adgen", **values):
    source = {"name": "adgen", "lang": "zh", "format": "adgen", "files": [str(data)], "val_files": []}
    values = {
        "config": ROOT / "configs" / f"{recipe}.yaml",
        "run_dir": folder / "run",
        "model.init_args.model_dir": model,
        "model.init_args.dtype": "float32",
        "model.init_args.optimizer.init_args.lr": 0.01,
        "model.init_args.optimizer.init_args.fused": "false",
        "data.init_args.sources": json.dumps([source]),
        "data.init_args.cache_dir": folder / "cache",
        "data.init_args.row_len": 64,
        "data.init_args.tokens_per_batch": 256,
        "data.init_args.val_share": 0.1,
        "data.init_args.epochs": "null",
        "trainer.accelerator": "cpu",
        "trainer.max_steps": 4,
        "trainer.val_check_interval": 2,
        "trainer.accumulate_grad_batches": 1,
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
    } | values
    return [f"--{key}={value}" for key, value in values.items()]


def losses(run):
    return [*scalars(run, "train/loss").values()]


def trained(run):
    return {name: source.read_all() for name, source in TrainedState.open(run).tensors.items()}


@pytest.fixture(scope="module")
def run(chatglm1_dir, adgen, tmp_path_factory):
    """A run with adapters, in packed rows, and its folder."""
    folder = tmp_path_factory.mktemp("fit")
    options = {"data.init_args.packing": "true", "trainer.max_steps": 12}
    fit.main(run_args(chatglm1_dir, adgen, folder, **options))
    return folder / "run"


def test_adapters_on_the_four_linear_layers_lower_the_loss(run):
    found = losses(run)
    assert sum(found[-3:]) < 0.8 * sum(found[:3])
    layers = {name.partition(".lora_")[0].rpartition(".")[2] for name in trained(run)}
    assert layers == {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}


def test_the_first_answers_are_sampled_in_the_format_of_the_family(run):
    chats = [json.loads(line) for line in (run / "chats.jsonl").read_text().splitlines()]
    assert chats[0]["step"] == 0 and chats[0]["prompt"].startswith("类型#裤")


def test_full_tuning_lowers_the_loss_and_resumes_bit_for_bit(chatglm1_dir, adgen, tmp_path):
    args = run_args(chatglm1_dir, adgen, tmp_path, "adgen_full")
    fit.main(args)
    whole = trained(tmp_path / "run")
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]
    assert {"transformer.final_layernorm.bias", "transformer.word_embeddings.weight"} <= whole.keys()
    parts = [*args, f"--run_dir={tmp_path / 'parts'}"]
    fit.main([*parts, "--trainer.callbacks+=tests.support.recorder.StopEarly", "--trainer.callbacks.at=2"])
    assert losses(tmp_path / "parts") == losses(tmp_path / "run")[:2]
    fit.main([*parts, "--ckpt_path=last"])
    resumed = trained(tmp_path / "parts")
    assert resumed.keys() == whole.keys() and all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.parametrize("format", ["glm", pytest.param("chatglm", marks=pytest.mark.slow)])
def test_a_run_is_exported_in_both_layouts_with_its_adapters_merged(format, run, chatglm1_dir, tmp_path):
    report = export.export(str(tmp_path / "out"), checkpoint=str(run), format=format)
    assert report["greedy_replies"] == report["greedy_replies_equal"]
    assert report["tensors_merged_and_rounded"] == 4 * 2
    opened = ModelFolder.open(tmp_path / "out")
    assert (
        opened.layout == format and opened.tokenizer.fingerprint == ModelFolder.open(chatglm1_dir).tokenizer.fingerprint
    )
    norm = "transformer.final_layernorm.weight"
    assert opened.stored.tensors[norm].dtype == torch.float32
    assert torch.equal(opened.stored.tensors[norm].read_all(), Checkpoint.open(chatglm1_dir).tensors[norm].read_all())
    name = "transformer.layers.0.attention.dense.weight"
    weights = load_model(opened, torch.float32).state_dict()
    assert not torch.equal(weights[name], load_model(chatglm1_dir, torch.float32).state_dict()[name])


@pytest.mark.slow
def test_a_language_pack_of_a_run_makes_the_model_again(run, chatglm1_dir, tmp_path):
    export.export(str(tmp_path / "pack"), checkpoint=str(run), format="adapter")
    export.export(str(tmp_path / "whole"), checkpoint=str(run), check=False)
    export.export(str(tmp_path / "made"), pack=str(tmp_path / "pack"), base=str(chatglm1_dir))
    made, whole = (ModelFolder.open(tmp_path / name).stored.tensors for name in ("made", "whole"))
    assert made.keys() == whole.keys()
    assert all(torch.equal(made[name].read_all(), whole[name].read_all()) for name in whole)


@pytest.fixture(scope="module")
def documents(texts, tmp_path_factory):
    """Arguments of a run on packed documents."""
    folder = tmp_path_factory.mktemp("pretrain")
    for lang in ("zh", "en"):
        lines = (json.dumps({"text": text}) + "\n" for text in texts[lang])
        (folder / f"{lang}.jsonl").write_text("".join(lines), encoding="utf-8")
    sources = [{"name": f"{x}s", "lang": x, "files": [str(folder / f"{x}.jsonl")]} for x in ("zh", "en")]

    def create(model, run_dir, **values):
        recipe = ROOT / "configs" / "demo_pretrain.yaml"
        values = {
            "data.init_args.row_len": 96,
            "data.init_args.batch_size": 4,
            "trainer.val_check_interval": 3,
        } | values
        args = run_args(model, "", folder, **{"config": recipe, "data.init_args.sources": json.dumps(sources)} | values)
        args = [arg for arg in args if "tokens_per_batch" not in arg and "fused" not in arg]
        return [*args, "--model.init_args.tuning=full", f"--run_dir={run_dir}"]

    return create


def test_packed_pretraining_lowers_the_loss_and_resumes_bit_for_bit(documents, chatglm1_dir, tmp_path):
    steps = {"trainer.max_steps": 6, "model.init_args.optimizer.init_args.lr": 0.003}
    fit.main(documents(chatglm1_dir, tmp_path / "run", **steps))
    found = losses(tmp_path / "run")
    assert sum(found[-2:]) < 0.98 * sum(found[:2])
    for lang in ("zh", "en"):
        values = [*scalars(tmp_path / "run", f"val/{lang}/bits_per_char").values()]
        assert len(values) == 3 and values[-1] < values[0]  # before the first step, and after the third and the sixth
    parts = documents(chatglm1_dir, tmp_path / "parts", **steps)
    fit.main([*parts, "--trainer.callbacks+=tests.support.recorder.StopEarly", "--trainer.callbacks.at=3"])
    fit.main([*parts, "--ckpt_path=last"])
    resumed, whole = trained(tmp_path / "parts"), trained(tmp_path / "run")
    assert losses(tmp_path / "parts") == found
    assert resumed.keys() == whole.keys() and all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_preview_shows_the_target_tokens_of_a_document(documents, chatglm1_dir, tmp_path, capsys):
    fit.main([*documents(chatglm1_dir, tmp_path / "run"), "--preview"])
    shown = capsys.readouterr().out
    assert "[gMASK]" in shown and "<sop>" in shown


def test_another_attention_is_refused(chatglm1_dir, adgen, tmp_path, capsys):
    with pytest.raises(SystemExit):
        fit.main(run_args(chatglm1_dir, adgen, tmp_path, **{"model.init_args.attn_implementation": "eager"}))
    assert "ChatGLM-6B has no attention eager; set --model.attn_implementation to documents" in capsys.readouterr().err
