"""Runs an arm: as many steps as its budget buys, measured at shares of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from benchmarks.proof import models
from benchmarks.proof.arm_results import BASE, Result, describe
from benchmarks.proof.curve import read_windows, window_bits
from benchmarks.proof.settings import ARMS, ROW_LEN, SHARES, Arm, Scale
from benchmarks.proof.texts import num_characters
from glmja.families.recognition import load_tokenizer
from glmja.modeling.adapters import Lora, apply_tuning
from glmja.modeling.flops import forward_flops_per_token, training_flops_per_token
from glmja.modeling.loading import load_model, outline
from glmja.runs.run_folder import RunFolder

LORA = Lora(rank=8, alpha=16)  # of the recipe


class Plan(NamedTuple):
    """The length of a run, and the operations of a token."""

    steps: int
    training: float
    teacher: float  # mean over all tokens
    calibration: float  # of the whole run


def plan(work: Path, arm: Arm, model: Path, calibration_tokens: int, scale: Scale) -> Plan:
    """Computes how many steps the budget buys. The teacher and the calibration are paid from it.

    Args:
        work: Folder of all files.
        arm: The arm.
        model: Folder of the model that it starts from.
        calibration_tokens: Tokens that the base read to make it.
        scale: Sizes.
    """
    tokenizer, shape = load_tokenizer(model), outline(model)
    config, num_old = shape.config, len(load_tokenizer(work / "base"))
    embeddings = arm.flags.get("model.init_args.embeddings", "full")
    tuned = apply_tuning(shape, "lora", embeddings, LORA, list(tokenizer.new_ids))  # type: ignore[arg-type]
    training = training_flops_per_token(tuned, ROW_LEN)
    forward = forward_flops_per_token(config, ROW_LEN, num_old)
    teacher = arm.kept * forward if arm.retention else 0.0
    calibration = calibration_tokens * forward
    tokens = (arm.budgets * scale.flops - calibration) / (training + teacher)
    if arm.match == "characters":
        text = work / "texts" / "ja.train.jsonl"
        like = next(other for other in ARMS if other.name == "calibrated")
        grown = plan(work, like, *models.make_zero(work, like, 0, scale), scale)
        spelled = models.tokens_per_character(tokenizer, text) / models.tokens_per_character(
            load_tokenizer(work / "ours"), text
        )
        tokens = grown.steps * scale.batch_size * ROW_LEN * spelled
    return Plan(int(tokens / (scale.batch_size * ROW_LEN)), training, teacher, calibration)


def run_arm(work: Path, arm: Arm, seed: int, scale: Scale) -> Result:
    """Trains an arm, or continues it, and returns its figures."""
    model, calibration_tokens = models.make_zero(work, arm, seed, scale)
    planned = plan(work, arm, model, calibration_tokens, scale)
    points = {share: max(1, round(share * planned.steps)) for share in SHARES[1:]}
    run = RunFolder(work / "runs" / f"{arm.key}-{seed}")
    curve = work / "curves" / run.path.name
    callback = {
        "class_path": "benchmarks.proof.curve.Curve",
        "init_args": {"windows": str(work / models.WINDOWS), "output": str(curve), "steps": list(points.values()),
                      "windows_between": scale.windows_between},
    }  # fmt: skip
    retention = {
        "model.init_args.retention.languages": '["zh", "en"]',
        "model.init_args.retention.weight": str(arm.retention),
    }
    part = "joined" if arm.tokenizer == "known" else "train"
    models.run(run.path, model, {
        "seed_everything": str(seed), "data.init_args.seed": str(seed),
        "data.init_args.sources": models.sources(work, part, arm.mix), "data.init_args.cache_dir": str(work / "cache"),
        "data.init_args.batch_size": str(scale.batch_size), "trainer.max_steps": str(planned.steps),
        "model.init_args.lora.rank": str(LORA.rank), "model.init_args.lora.alpha": str(LORA.alpha),
        "model.init_args.optimizer.lr": str(arm.lr), "trainer.callbacks": json.dumps([callback]),
        **(retention if arm.retention else {}), **arm.flags,
    })  # fmt: skip
    measured = {share: json.loads((curve / f"{step}.json").read_text("utf-8")) for share, step in points.items()}
    tokens = planned.steps * scale.batch_size * ROW_LEN
    flops = {"training": planned.training * tokens, "teacher": planned.teacher * tokens}
    return Result(
        arm.name, seed, describe(scale), planned.steps, tokens, flops | {"calibration": planned.calibration},
        _characters(work, run, part), measured[SHARES[-1]]["cpu_seconds"],
        {"0.0": start(work, model)} | {str(share): found["bits"] for share, found in measured.items()},
    )  # fmt: skip


def base_result(work: Path, scale: Scale) -> Result:
    """Returns the figures of the base."""
    characters = {
        lang: [len(cut.predicted) for cut in found] for lang, found in read_windows(work / models.WINDOWS).items()
    }
    steps = scale.base_tokens // (scale.batch_size * ROW_LEN)
    tokens = steps * scale.batch_size * ROW_LEN
    tuned = apply_tuning(outline(work / "base"), "full", "full", LORA, [])
    flops = {"training": training_flops_per_token(tuned, ROW_LEN) * tokens}
    bits = {"0.0": start(work, work / "base")}
    return Result(BASE, 0, describe(scale), steps, tokens, flops, characters, 0.0, bits)


def start(work: Path, model: Path) -> dict[str, list[float]]:
    """Measures a model before training, unless that is done."""
    path = work / "starts" / f"{model.name}.json"
    if not path.exists():
        bits = window_bits(load_model(model), load_tokenizer(model), read_windows(work / models.WINDOWS))
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(bits), encoding="utf-8")
    found: dict[str, list[float]] = json.loads(path.read_text("utf-8"))
    return found


def _characters(work: Path, run: RunFolder, part: str) -> dict[str, list[int]]:
    """Returns how many characters the run has read, by language."""
    ledger = run.read_ledger()
    assert ledger is not None
    found = {}
    for source in ledger["sources"]:
        characters = num_characters(work / "texts" / f"{source['lang']}.{part}.jsonl")
        found[source["lang"]] = [round(source["tokens_read"] / source["tokens"] * characters)]
    return found
