from dataclasses import replace
from pathlib import Path

import pytest
from jsonargparse import capture_parser
from lightning import Trainer

from glmja import fit
from glmja.modeling.gpus import KNOWN, MACHINES, known_gpu, parse_machine
from glmja.modeling.retention import Retention
from lit_modules import PackedPretraining
from lit_modules.estimate import RunShape, as_rows, estimate
from lit_modules.preflight import estimate_memory
from lit_modules.zero2 import ZeRO2

ROOT = Path(__file__).parents[2]


def shape_of(*args):
    args = [f"--config={ROOT}/configs/pretrain.yaml", f"--config={ROOT}/configs/presets/zero2.yaml", *args]
    return RunShape.of(capture_parser(lambda: fit.main(args)).parse_args(args))


@pytest.fixture(scope="module")
def of_chatglm3():
    """Estimates of the shipped recipe, whose model is not here."""
    shape = shape_of("--model.model_dir=/nowhere/zero")
    return shape, estimate(shape, [parse_machine(machine) for machine in (*MACHINES, "1x8")])


def test_an_estimate_agrees_with_the_check_before_a_run(zero_dir):
    shape = shape_of(f"--model.model_dir={zero_dir}")
    (one,) = estimate(shape, [(2, KNOWN[0])])
    module = PackedPretraining(str(zero_dir), dtype="bfloat16", retention=Retention(["zh", "en"]))
    trainer = Trainer(strategy=ZeRO2(), accelerator="cpu", devices=2, precision="bf16-mixed", logger=False)
    assert one.memory == estimate_memory(module, trainer)
    assert (one.remedies, one.fits) == ([], True)


def test_a_teacher_counts_in_memory_and_time(zero_dir):
    flags = ("--data.sources.zh.weight=0.12", "--data.sources.en.weight=0.12", "--data.sources.ja.weight=0.76")
    plain, distilled = (
        shape_of(f"--model.model_dir={zero_dir}", *flags, f"--model.retention.weight={w}") for w in (0, 10)
    )
    assert (plain.distilled_share, distilled.distilled_share) == (0, pytest.approx(0.24))
    (before,), (after,) = (estimate(shape, [(2, KNOWN[0])]) for shape in (plain, distilled))
    module = PackedPretraining(str(zero_dir), dtype="bfloat16", retention=Retention(["zh", "en"]))
    trainer = Trainer(strategy=ZeRO2(), accelerator="cpu", devices=2, precision="bf16-mixed", logger=False)
    assert after.memory == estimate_memory(module, trainer) != before.memory
    assert 1.05 < after.hours / before.hours < 1.12


def test_retention_at_6b_costs_what_the_page_says(of_chatglm3):
    shape, found = of_chatglm3
    for share, percent in ((0.06, 2.9), (0.12, 5.7), (0.24, 11.4)):
        (plain,), (distilled,) = (
            estimate(replace(shape, recompute=False, distilled_share=each, row_len=1024), [(8, found[3].gpu)])
            for each in (0.0, share)
        )
        assert 100 * (distilled.hours / plain.hours - 1) == pytest.approx(percent, abs=0.1)


def test_chatglm3_takes_its_known_sizes_without_a_folder(of_chatglm3):
    shape, found = of_chatglm3
    large = found[1].memory
    # 6.35 B parameters in 16 bits, and for the teacher the input rows and the old rows of the head again
    assert large.weights == pytest.approx(12.7e9 + 2 * 4096 * (78_592 + 64_798), rel=0.01)
    assert large.gradients == pytest.approx(4 * 658.6e6, rel=0.01)  # both embeddings and the adapters
    assert large.optimizer == pytest.approx(12 * 658.6e6, rel=0.01)
    assert found[3].memory.optimizer == large.optimizer // 8
    assert found[1].hours == found[1].hours_per_billion * shape.num_tokens / 1e9
    assert found[2].hours == pytest.approx(found[2].hours_per_billion)


def test_what_does_not_fit_is_given_flags_that_make_it_fit(of_chatglm3):
    *found, small = of_chatglm3[1]
    assert [(one.fits, list(one.remedies)) for one in found] == [
        (True, ["`embeddings` new_rows"]), (True, []), (True, []), (True, []),
    ]  # fmt: skip
    assert not small.fits and small.memory.optimizer == 0 < small.memory.host
    assert small.remedies[-1] == "configs/presets/zero2_offload.yaml"


def test_the_readme_shows_these_estimates(of_chatglm3):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, *cells in as_rows(of_chatglm3[1][:-1]):
        if name in ("weights", "gradients", "optimizer", "activations", "total", "disk, GB", "hours for 1 B tokens"):
            assert f"| {name} | {' | '.join(cells)} |" in readme
        if name == "flags to add":
            flags = [f"`--model.{cell.replace('`', '')}`" if "`" in cell else cell for cell in cells]
            assert f"| {name} | {' | '.join(flags)} |" in readme


def test_fit_shows_an_estimate_without_machine_weights_or_data(zero_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = [f"--config={ROOT}/configs/sft.yaml", f"--config={ROOT}/configs/presets/multi_node.yaml"]
    assert fit.main([*args, f"--model.model_dir={zero_dir}", "--estimate", "2x24,8xH100"]) is None
    said = capsys.readouterr().out
    assert "by arithmetic and not measured" in said and "2 × 24 GB" in said and "8 × H100" in said
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SystemExit):
        fit.main([*args, f"--model.model_dir={zero_dir}", "--estimate=many"])
    assert "'many' names no GPUs; write a number and a name (H200, " in capsys.readouterr().err


def test_the_hours_are_those_of_the_shortest_limit(zero_dir):
    shape = shape_of(f"--model.model_dir={zero_dir}", "--trainer.max_steps=1000")
    one, two = estimate(shape, [parse_machine("1xH100"), parse_machine("2xH100")])
    assert one.hours == pytest.approx(one.hours_per_billion * 1000 * 4 * 1024 / 1e9)  # accumulation 4, rows of 1,024
    assert one.hours == pytest.approx(two.hours)  # twice the tokens at twice the speed


def test_machines_are_named_by_card_or_size():
    assert parse_machine("8xH100") == (8, known_gpu("NVIDIA H100 80GB HBM3"))
    assert parse_machine("1×4090")[1].tflops == 165
    assert parse_machine("2 x 48GB")[1].memory == 48e9
    for text in ("H100", "0x24", "4xTPU"):
        with pytest.raises(ValueError, match="names no GPUs"):
            parse_machine(text)


def test_an_estimate_needs_classes_that_it_knows():
    config = capture_parser(fit.main, [f"--config={ROOT}/configs/demo_sft.yaml"]).parse_args(
        [f"--config={ROOT}/configs/demo_sft.yaml"]
    )
    del config.model.init_args["model_dir"]
    with pytest.raises(ValueError, match="`estimate` knows PackedPretraining and PaddedSFT with their data only"):
        RunShape.of(config)
