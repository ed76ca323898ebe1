"""The models that the arms start from: a base, trained with `glmja.fit`, and Zero models of each kind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.harness.arguments import ROOT
from benchmarks.proof import texts
from benchmarks.proof.settings import LANGUAGES, ROW_LEN, Arm, Scale
from benchmarks.proof.vocabulary import prune
from benchmarks.tokenizer.recipes import append_known
from glmja import build_tokenizer, export, fit, resize_embeddings
from glmja.cli.config_safety import ALLOW_VARIABLE
from glmja.families.recognition import load_tokenizer
from glmja.files.documents import read_documents
from glmja.files.output_folder import atomic_output_folder
from glmja.runs.run_folder import RunFolder
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.tokenization.vocabulary import parse_proto
from glmja.twin import build as twin

BASE_MIX = {"ja": 0.2, "zh": 0.4, "en": 0.4}  # in characters
WINDOWS = "windows.json"
_HEAD = "lm_head.weight"


def prepare(work: Path, data: Path | None, scale: Scale) -> None:
    """Makes texts, windows, base and tokenizers, as far as they are not there.

    Args:
        work: Folder of all files.
        data: Folder with `text/` and `chatglm3/tokenizer.model`; None takes the texts of the package, and a vocabulary
            learned from them.
        scale: Sizes.
    """
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "texts").is_dir():
        files = {x: data / "text" / f"{x}.jsonl.gz" if data else twin.text_file(x) for x in LANGUAGES}
        with atomic_output_folder(work / "texts") as folder:
            texts.split(files, folder, scale)
    if not (work / WINDOWS).exists():
        cut = texts.held_out_windows(work / "texts", scale)
        (work / WINDOWS).write_text(json.dumps(cut, ensure_ascii=False), encoding="utf-8")
    if not (work / "random").is_dir():
        twin.write_base(work / "random", _vocabulary(work, data, scale), scale.width, scale.layers)
    if not (work / "base").is_dir():
        _train_base(work, scale)
    if not (work / "ours").is_dir():
        build_tokenizer.build_tokenizer(
            str(work / "base"), str(work / "ours"), [str(work / "texts" / "ja.train.jsonl")], scale.new_pieces
        )
    if not (work / "known_pieces").is_dir():
        base = load_tokenizer(work / "base").proto
        documents = read_documents([work / "texts" / "ja.train.jsonl"])
        grown = append_known(base, documents, scale.new_pieces, _known_size(scale))
        with atomic_output_folder(work / "known_pieces") as folder:
            GLMTokenizer(grown).save(folder)


def make_zero(work: Path, arm: Arm, seed: int, scale: Scale) -> tuple[Path, int]:
    """Makes the model that an arm starts from, unless it is there.

    Returns:
        Its folder, and the number of tokens that the base read for it.
    """
    if arm.tokenizer == "old":
        return work / "base", 0
    folder = work / (f"{arm.zero}-{seed}" if arm.tokenizer == "known" else arm.zero)
    tokenizer = work / ("known_pieces" if arm.tokenizer == "known" else "ours")
    if not folder.is_dir():
        made = folder.with_name(folder.name + ".partial")
        resize_embeddings.resize_embeddings(
            str(work / "base"), str(tokenizer), str(made), "mean" if arm.tokenizer == "known" else arm.init,
            text=[f"ja={work}/texts/ja.train.jsonl"] if arm.init == "calibrated" else [],
            check_greedy=False, calibration_tokens=scale.calibration_tokens, device="cpu", overwrite=True,
        )  # fmt: skip
        if arm.tokenizer == "known":
            _randomize_head(made, len(load_tokenizer(work / "base")), seed)
        made.rename(folder)
    report = json.loads((folder / resize_embeddings.REPORT).read_text(encoding="utf-8"))
    return folder, report["calibration"]["tokens"] if arm.init == "calibrated" else 0


def sources(work: Path, part: str, weights: Mapping[str, float]) -> str:
    """Returns the sources of a run as JSON."""
    return json.dumps([
        {"name": x, "lang": x, "files": [str(work / "texts" / f"{x}.{part}.jsonl")], "weight": weights[x]}
        for x in LANGUAGES
    ])  # fmt: skip


def run(folder: Path, model: Path, arguments: Mapping[str, str]) -> None:
    """Runs `glmja.fit`, from its last checkpoint if it was interrupted."""
    found = RunFolder(folder)
    resumed = ["--ckpt_path", "last"] if any(found.checkpoints.glob("step=*.ckpt")) else []
    if not resumed:
        shutil.rmtree(folder, ignore_errors=True)
    settings = {
        "run_dir": str(folder), "model.init_args.model_dir": str(model), "data.init_args.row_len": str(ROW_LEN),
        "data.init_args.val_share": "0", "trainer.limit_val_batches": "0", "trainer.enable_progress_bar": "false",
        "trainer.accelerator": "cpu", "checkpoint.every_n_train_steps": "100", "checkpoint.save_top_k": "1",
    } | dict(arguments)  # fmt: skip
    flags = [text for name, value in settings.items() for text in (f"--{name}", value)]
    with _allowed("benchmarks.proof"):
        fit.main(["--config", str(ROOT / "configs" / "demo_pretrain.yaml"), *flags, *resumed])


def tokens_per_character(tokenizer: GLMTokenizer, path: Path, limit: int = 200_000) -> float:
    """Returns the tokens of a character of a text, measured on its first characters."""
    characters = tokens = 0
    for text in read_documents([path]):
        characters, tokens = characters + len(text), tokens + len(tokenizer.encode(text))
        if characters >= limit:
            break
    return tokens / characters


@contextmanager
def _allowed(package: str) -> Iterator[None]:
    """Lets configurations name classes of one more package."""
    before = os.environ.get(ALLOW_VARIABLE, "")
    os.environ[ALLOW_VARIABLE] = ",".join(filter(None, (before, package)))
    try:
        yield
    finally:
        os.environ[ALLOW_VARIABLE] = before


def _vocabulary(work: Path, data: Path | None, scale: Scale) -> bytes:
    documents = {x: read_documents([work / "texts" / f"{x}.base.jsonl"]) for x in LANGUAGES}
    if data is None:
        return twin.train_vocabulary([text for found in documents.values() for text in found], scale.old_pieces)
    full = parse_proto((data / "chatglm3" / "tokenizer.model").read_bytes())
    return prune(full, documents, BASE_MIX, scale.old_pieces).SerializeToString()


def _train_base(work: Path, scale: Scale) -> None:
    """Trains the base in full; the mix is one of characters."""
    tokenizer = load_tokenizer(work / "random")
    weights = {x: BASE_MIX[x] * tokens_per_character(tokenizer, work / "texts" / f"{x}.base.jsonl") for x in LANGUAGES}
    steps = scale.base_tokens // (scale.batch_size * ROW_LEN)
    run(work / "base_run", work / "random", {
        "data.init_args.sources": sources(work, "base", weights), "data.init_args.cache_dir": str(work / "cache"),
        "data.init_args.batch_size": str(scale.batch_size), "trainer.max_steps": str(steps),
        "model.init_args.tuning": "full", "model.init_args.embeddings": "full",
        "model.init_args.optimizer.lr": str(scale.base_lr),
    })  # fmt: skip
    export.main(["--checkpoint", str(work / "base_run"), "--output", str(work / "base"), "--dtype", "float32"])


def _known_size(scale: Scale) -> int:
    """Returns the size of a vocabulary that has enough pieces which the base lacks."""
    return 2 * scale.new_pieces + scale.old_pieces


def _randomize_head(folder: Path, num_old: int, seed: int) -> None:
    """Sets new rows of the head as `torch.nn.Linear` does, which is what the known recipe leaves there."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    head_VD = tensors[_HEAD]
    bound = head_VD.shape[1] ** -0.5
    generator = torch.Generator().manual_seed(seed)
    head_VD[num_old:] = torch.empty_like(head_VD[num_old:]).uniform_(-bound, bound, generator=generator)
    save_file(tensors, path, {"format": "pt"})
