"""`python -m glmja.resize_embeddings`: extends ChatGLM's embeddings to an extended tokenizer: the Zero model.

Every new row of the output head is a convex combination of old rows (`glmja.weights.row_mixtures`), so the logit of a
new token is the same convex combination of old logits and never exceeds their maximum. As long as a prompt contains
only old tokens, greedy decoding is unchanged. This holds in exact arithmetic; rounding a row to 16 bits changes a logit
by about one part in 10⁴. With `positional`, half of each new row is the mean of all old rows, which keeps the logit
below the maximum by more than that. With `subtoken_mean`, a new token could win where old logits tie. The check at the
end compares the replies of both models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from glmja.cli.command import run_command
from glmja.errors import ModelError
from glmja.families.names import FamilyName
from glmja.families.recognition import load_tokenizer
from glmja.files.json_files import read_json, write_json
from glmja.files.output_folder import atomic_output_folder, check_free
from glmja.modeling.model_card import zero_card
from glmja.text.terminal import make_table, show
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.tokenization.vocabulary import isolated_processor
from glmja.verification.tokenizer import REPORT_FILE
from glmja.weights.options import MAX_SHARD_SIZE, DtypeName, Init

REPORT = "resize_report.json"


def resize_embeddings(
    base: str,
    tokenizer: str,
    output: str,
    init: Init = "positional",
    pad_to_multiple_of: int = 64,
    dtype: DtypeName | None = None,
    max_shard_size: int = MAX_SHARD_SIZE,
    check_greedy: bool = True,
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
            mean and half the mean of all old rows; `subtoken_mean`: their mean in both; `mean`: mean of all old rows;
            `random`: normal with standard deviation 0.02, for comparison.
        pad_to_multiple_of: Round the number of rows up to a multiple of this, for tensor cores; padding rows get the
            mean of the old rows.
        dtype: Dtype of the written weights; by default the base's.
        max_shard_size: Maximum bytes of a weight file.
        check_greedy: Load both models at the end and compare their greedy replies; takes twice the memory of the model.
        seed: Seed of the initialization `random`.
        family: Family of the base, `chatglm3` or `chatglm2` (CodeGeeX2 is a ChatGLM2); recognized by its files by
            default.
        overwrite: Replace the contents of `output`.

    Returns:
        The report as written to `resize_report.json`.

    Raises:
        ValueError: If base, tokenizer and weights do not belong together or are damaged, or a check at the end fails.
        OSError: If a file does not exist, or the disk is full.
    """
    from glmja.modeling.model_folder import ModelFolder, write_model
    from glmja.verification.zero import verify_zero
    from glmja.weights.dtypes import dtype_named
    from glmja.weights.embeddings import random_rows, read_embeddings, resize
    from glmja.weights.row_mixtures import mix_rows

    if pad_to_multiple_of < 1:
        raise ValueError(f"--pad_to_multiple_of {pad_to_multiple_of} must be at least 1")
    check_free(output, overwrite, (base, tokenizer))
    opened, new = ModelFolder.open(base, family), load_tokenizer(tokenizer, family)
    old = opened.tokenizer
    check_extends(old, new, tokenizer)
    means, base_sha256 = read_embeddings(opened.checkpoint, len(old), dtype_named(dtype) if dtype else None)
    source = opened.checkpoint.astype(dtype_named(dtype)) if dtype else opened.checkpoint
    num_rows = -(-len(new) // pad_to_multiple_of) * pad_to_multiple_of
    spelled = isolated_processor(old.proto).encode([p.piece for p in list(new.proto.pieces)[len(old) :]])
    mixtures = {} if init == "random" else mix_rows(init, spelled)
    resized = {}
    for name, mean_D in means.items():
        new_rows = mixtures[name] if mixtures else random_rows(len(spelled), len(mean_D), seed)
        resized[name] = resize(source.tensors[name], mean_D, len(old), new_rows, num_rows)
    config = source.config | {"vocab_size": num_rows, "eos_token_id": new.stop_ids}
    zero = replace(source, config=config, tensors=source.tensors | resized)
    with atomic_output_folder(output, overwrite, zero.num_bytes) as folder:
        written = write_model(folder, zero, new, "glm", max_shard_size)
        report: dict[str, object] = {
            "base": opened.path.resolve().name,
            "base_sha256": base_sha256,
            "base_tokenizer_sha256": old.fingerprint,
            **written,
            "init": init,
            "seed": seed if init == "random" else None,
            "rows_before": source.config["vocab_size"],
            "old_rows_kept": len(old),
            "new_rows": len(new) - len(old),
            "padding_rows": num_rows - len(new),
            "rows_after": num_rows,
            **verify_zero(opened, source, folder, mixtures, check_greedy).as_json(),
        }
        write_json(folder / REPORT, report)
        (folder / "README.md").write_text(zero_card(report, _policy(tokenizer)), encoding="utf-8")
    _print(report, output)
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


def _policy(tokenizer: str) -> str:
    path = Path(tokenizer) / REPORT_FILE
    return str(read_json(path).get("policy")) if path.is_file() else "unknown"


def _print(report: Mapping[str, object], output: str) -> None:
    rows = [
        (key.replace("_", " "), f"{value:,}" if isinstance(value, int) and value > 1 else str(value))
        for key, value in report.items()
    ]
    show(make_table(["check", ""], rows, title=f"Zero model in {output}"))


def main(args: list[str] | None = None) -> dict[str, object]:
    """Runs the command line."""
    return run_command(resize_embeddings, args)


if __name__ == "__main__":
    main()
