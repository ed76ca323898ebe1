"""`python -m glmja.resize_embeddings`: extends ChatGLM's embeddings to an extended tokenizer: the Zero model.

Every new row of the output head is a convex combination of old rows (`glmja.weights.row_mixtures`), so the logit of a
new token is the same convex combination of old logits and never exceeds their maximum. As long as a prompt contains
only old tokens, greedy decoding is unchanged. This holds in exact arithmetic; rounding a row to 16 bits changes a logit
by about one part in 10⁴. With `positional`, half of each new row is the mean of all old rows, which keeps the logit
below the maximum by more than that. With `subtoken_mean`, a new token could win where old logits tie. The check at the
end compares the replies of both models.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from glmja.cli.arguments import check_at_least_1, check_device, files_by_language
from glmja.cli.command import run_command
from glmja.cli.ending import Ending, Values
from glmja.errors import ModelError
from glmja.families.names import FamilyName
from glmja.families.recognition import load_tokenizer
from glmja.files.documents import check_document_files, read_documents
from glmja.files.input_files import DataFile, InputFile, InputPath
from glmja.files.json_files import read_json, write_json
from glmja.files.output_folder import atomic_output_folder, check_free
from glmja.files.progress import progress
from glmja.modeling.model_card import hub_name, zero_card, zero_facts
from glmja.text.scripts import LANGUAGES
from glmja.text.terminal import make_table, show
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.tokenization.vocabulary import isolated_processor
from glmja.verification.tokenizer import REPORT_FILE
from glmja.weights.options import MAX_SHARD_SIZE, DtypeName, Init

if TYPE_CHECKING:
    from glmja.modeling.calibration import Calibration
    from glmja.modeling.model_folder import ModelFolder
    from glmja.verification.zero import ZeroChecks
    from glmja.weights.checkpoint import Checkpoint

REPORT, CALIBRATION = "resize_report.json", "calibration.jsonl"
_NEEDED_MEMORY = 1.2  # times the weights, to read texts with a model
_CALIBRATED = "ja"  # language of the text that `calibrated` reads
_SHIPPED = ("zh", "en")  # languages of the package's texts that are read if there is no `text`


def resize_embeddings(
    base: str,
    tokenizer: str,
    output: str,
    init: Init = "positional",
    pad_to_multiple_of: int = 64,
    dtype: DtypeName | None = None,
    max_shard_size: int = MAX_SHARD_SIZE,
    check_greedy: bool = True,
    text: list[str] = [],  # noqa: B006
    text_key: str = "text",
    documents: Literal["line", "file"] = "line",
    check_characters: int = 1000,
    calibration_tokens: int = 1_000_000,
    device: str = "auto",
    seed: int = 0,
    family: FamilyName | None = None,
    overwrite: bool = False,
) -> dict[str, object]:
    """Extends the embeddings of a ChatGLM model to an extended tokenizer: the Zero model.

    Args:
        base: Folder of the base model, in ChatGLM2/3's layout or as written by this command.
        tokenizer: Folder of the tokenizer that extends the base's.
        output: New folder, loadable with `AutoModelForCausalLM` and `AutoTokenizer` without remote code.
        init: Initialization of new rows in both embeddings. `positional`: of the old pieces that spell the new piece,
            the input row is the mean with weights that rise by e² from each to the next, and the head row is half their
            mean and half the mean of all old rows; `calibrated`: the same input row, and a head row from the first old
            piece and the mean of all old rows, with shares that the base determines on `text` ja=FILE;
            `subtoken_mean`: the mean of the old pieces in both; `mean`: mean of all old rows; `random`: normal with
            standard deviation 0.02, for comparison.
        pad_to_multiple_of: Round the number of rows up to a multiple of this, for tensor cores; padding rows get the
            mean of the old rows.
        dtype: Dtype of the written weights; by default the base's.
        max_shard_size: Maximum bytes of a weight file.
        check_greedy: Load both models at the end, one after the other, to compare their greedy replies, and to read
            `text`, or Chinese and English text of this package.
        text: Texts that both models read at the end, for bits per character, LANG=FILE each, also without
            `check_greedy`. LANG is ja, zh, en or code; FILE is a file, folder or pattern of .txt (a document a line),
            .jsonl, .json, .csv, .parquet or .arrow, also with .gz, .zst, .bz2 or .xz. FILE:KEY names the key of the
            text in it.
        text_key: Key or column of the text; a.b is the key b of the object a.
        documents: What is a document of a .txt file: a `line`, or the whole `file`, as a book.
        check_characters: Number of characters of each language that both models read at the end.
        calibration_tokens: Maximum number of tokens that the base reads for `calibrated`, from the Japanese documents
            after those that are read at the end.
        device: Device to read texts on, such as cuda, cuda:1 or cpu; auto selects the first GPU if there is one that
            holds the model.
        seed: Seed of the initialization `random`.
        family: Family of the base, `chatglm3`, `chatglm2` (CodeGeeX2 is one) or `chatglm`; recognized by its files by
            default.
        overwrite: Replace an earlier result of a command in `output`; a folder of other files is never replaced.

    Returns:
        The report as written to `resize_report.json`.

    Raises:
        ValueError: If base, tokenizer and weights do not belong together or are damaged, or a check at the end fails.
        OSError: If a file does not exist, or the disk is full.
    """
    from glmja.modeling.model_folder import ModelFolder, write_model
    from glmja.verification.zero import Probe, verify_zero
    from glmja.verification.zero_outputs import first_characters
    from glmja.weights.dtypes import dtype_named
    from glmja.weights.embeddings import random_rows, read_embeddings, resize
    from glmja.weights.row_mixtures import mix_rows

    check_at_least_1(pad_to_multiple_of=pad_to_multiple_of, max_shard_size=max_shard_size)
    check_at_least_1(check_characters=check_characters, calibration_tokens=calibration_tokens)
    files = _find_texts(text, text_key, documents, init)
    local = [file.path for found in files.values() for file in found if isinstance(file, InputFile)]
    check_free(output, overwrite, (base, tokenizer, *local))
    check_device(device)
    opened, new = ModelFolder.open(base, family), load_tokenizer(tokenizer, family)
    opened.family.check_can_grow(base)
    check_extends(opened.tokenizer, new, tokenizer)
    read = _documents(files, text_key, check_greedy)
    texts = {lang: first_characters(found, check_characters) for lang, found in read.items()}
    probe = Probe(check_greedy, texts, _place(device, opened.checkpoint.num_bytes))
    num_old = len(opened.tokenizer)
    means, base_sha256 = read_embeddings(opened.checkpoint, num_old, dtype_named(dtype) if dtype else None)
    source = opened.checkpoint.astype(dtype_named(dtype)) if dtype else opened.checkpoint
    num_rows = -(-len(new) // pad_to_multiple_of) * pad_to_multiple_of
    spelled, text_to_read = _spell(opened.tokenizer, new), read[_CALIBRATED] if init == "calibrated" else None
    calibration = _calibrate(opened, new, spelled, text_to_read, calibration_tokens, probe.device)
    shares = calibration.mean_shares if calibration else ()
    mixtures = mix_rows(source.architecture.both_embeddings, init, spelled, shares)
    resized = resize(source, means, num_old, mixtures or random_rows(means, len(spelled), seed), num_rows)
    config = source.config | {"vocab_size": num_rows, "eos_token_id": new.stop_ids}
    zero = replace(source, config=config, tensors=source.tensors | resized)
    with atomic_output_folder(output, overwrite, zero.num_bytes) as folder:
        report = _describe(opened, new, zero) | write_model(folder, zero, new, "glm", max_shard_size)
        report |= {"base_sha256": base_sha256, "init": init, "seed": seed if init == "random" else None}
        report |= _write_calibration(folder, calibration, new)
        checks = verify_zero(opened, source, folder, mixtures, probe)
        report |= checks.as_json()
        write_json(folder / REPORT, report)
        (folder / "README.md").write_text(_card(report, tokenizer, opened), encoding="utf-8")
    _print(report, checks, output)
    return report


def check_extends(old: GLMTokenizer, new: GLMTokenizer, folder: str) -> None:
    """Checks that each id of the base's tokenizer is the same piece in the extended one.

    Raises:
        ModelError: If one is not; names the first.
    """
    for i, piece in enumerate(old.proto.pieces):
        after = new.proto.pieces[i].piece if i < len(new) else "nothing"
        if after != piece.piece:
            raise ModelError(
                f"--tokenizer {folder} ({len(new)} pieces) does not extend the base's ({len(old)} pieces): id {i} is "
                f"{piece.piece!r} in the base and {after!r} in the new one; build it from this base"
            )


def _spell(old: GLMTokenizer, new: GLMTokenizer) -> list[list[int]]:
    """Returns for each new piece the ids of the old pieces that spell it."""
    return isolated_processor(old.proto).encode([piece.piece for piece in list(new.proto.pieces)[len(old) :]])


def _describe(base: ModelFolder, new: GLMTokenizer, zero: Checkpoint) -> dict[str, object]:
    num_rows = zero.config["vocab_size"]
    return {
        "base": base.path.resolve().name,
        "base_tokenizer_sha256": base.tokenizer.fingerprint,
        "rows_before": base.config["vocab_size"],
        "old_rows_kept": len(base.tokenizer),
        "new_rows": len(new) - len(base.tokenizer),
        "padding_rows": num_rows - len(new),
        "rows_after": num_rows,
    }


def _card(report: Mapping[str, object], tokenizer: str, base: ModelFolder) -> str:
    path = Path(tokenizer) / REPORT_FILE
    policy = str(read_json(path).get("policy")) if path.is_file() else "unknown"
    return zero_card(report, policy, hub_name(base.path, base.checkpoint.config))


def _place(device: str, num_bytes: int) -> str:
    """Returns the device; for `auto`, the CPU if the model does not fit into the free memory of the GPU."""
    import torch

    place = check_device(device)
    too_large = device == "auto" and place == "cuda" and torch.cuda.mem_get_info()[0] < _NEEDED_MEMORY * num_bytes
    return "cpu" if too_large else place


def _find_texts(
    items: Sequence[str], text_key: str, documents: Literal["line", "file"], init: Init
) -> dict[str, list[DataFile]]:
    find = partial(check_document_files, text_key=text_key, whole_texts=documents == "file")
    files = files_by_language("--text", items, find, LANGUAGES)
    if init == "calibrated" and _CALIBRATED not in files:
        raise ValueError("--init calibrated needs Japanese text: give --text ja=FILE, or set --init positional")
    return files


def _documents(files: Mapping[str, Sequence[InputPath]], text_key: str, shipped: bool) -> dict[str, Iterator[str]]:
    """Opens the texts of each language: those of the user, or else of the package if `shipped`."""
    from glmja.twin.build import text_file

    if not files and shipped:
        files, text_key = {lang: [text_file(lang)] for lang in _SHIPPED}, "text"
    return {lang: read_documents(found, text_key) for lang, found in files.items()}


def _calibrate(
    base: ModelFolder,
    new: GLMTokenizer,
    spelled: Sequence[Sequence[int]],
    documents: Iterator[str] | None,
    num_tokens: int,
    device: str,
) -> Calibration | None:
    """Calibrates the rows of the head if there are documents, and says how long that takes if there is no GPU."""
    if not documents or not spelled:
        return None
    from glmja.modeling.calibration import calibrate
    from glmja.modeling.loading import choose_dtype, load_model

    def show_duration(seconds: float) -> None:
        if device == "cpu":
            duration = timedelta(seconds=round(seconds))
            show(
                f"Reading {num_tokens:,} tokens with the base takes about {duration} on the CPU. --calibration_tokens "
                "sets how many; --init positional reads none.",
                style="bold yellow",
            )

    model = load_model(base, choose_dtype(None, device)).to(device)
    with progress("calibrating new rows", num_tokens, "tokens") as advance:
        return calibrate(model, new, spelled, documents, num_tokens, advance, show_duration)


def _write_calibration(folder: Path, calibration: Calibration | None, new: GLMTokenizer) -> dict[str, object]:
    """Writes a line for each new piece, and returns the entry of the report; nothing without a calibration."""
    if calibration is None:
        return {}
    pieces = list(new.proto.pieces)[len(new) - len(calibration.mean_shares) :]
    lines = [
        json.dumps({"piece": piece.piece, "mean_share": share, "occurrences": count}, ensure_ascii=False)
        for piece, share, count in zip(pieces, calibration.mean_shares, calibration.occurrences, strict=True)
    ]
    (folder / CALIBRATION).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"calibration": calibration.summary()}


def _print(report: Mapping[str, object], checks: ZeroChecks, output: str) -> None:
    rows = [
        (key.replace("_", " "), f"{value:,}" if isinstance(value, int) and value > 1 else str(value))
        for key, value in zero_facts(report).items()
    ]
    show(make_table(["check", ""], rows, title=f"Zero model in {output}"))
    if checks.texts:
        cells = [[lang, *text.cells()] for lang, text in checks.texts.items()]
        headings = ["", "characters", "base", "Zero", "change", "new pieces on top"]
        show(make_table(headings, cells, title="Bits per character before training", align="right"))


def _ending(values: Values, report: Values) -> Ending:
    warnings = [
        f"a new piece is the likeliest token at {found['new_on_top']:,} of {found['positions']:,} positions of {lang}"
        for lang, found in report.get("texts", {}).items()
        if found["new_on_top"] and lang != _CALIBRATED
    ]
    if not report["new_rows"]:
        warnings.append(f"{values['tokenizer']} has no ids that the base does not have; give that of build_tokenizer")
    if shared := sum(report["row_copies"]["both"].values()):
        warnings.append(f"{shared:,} new pieces equal another piece in both rows, until they are trained")
    warnings += [] if values["check_greedy"] else ["base and Zero were not asked anything (--check_greedy false)"]
    flags = {"config": "configs/pretrain.yaml", "model.model_dir": values["output"]}
    return Ending(f"Zero model in {values['output']}", "fit", flags, warnings)


def main(args: list[str] | None = None) -> dict[str, object]:
    """Runs the command line."""
    return run_command(resize_embeddings, args, _ending)


if __name__ == "__main__":
    main()
