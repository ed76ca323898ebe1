"""`python -m glmja.export`: a checkpoint of a run → a model folder of its own, or a language pack.

A checkpoint holds what trained; the rest lies in the folder that the run began with. Both are put together as the files
are written, so the memory is that of a few blocks of rows, beside pages of the mapped checkpoint. The check at the end
holds the whole model: each tensor is compared with what peft makes of the same checkpoint, and both speak.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table

from glmja import __version__
from glmja.cli.command import run_command
from glmja.errors import ModelError
from glmja.files.json_files import read_json, write_json
from glmja.files.output_folder import atomic_output_folder, check_free
from glmja.modeling.model_folder import check_folder
from glmja.runs import language_pack, run_folder
from glmja.runs.trained_state import TrainedState
from glmja.tokenization import huggingface as fast_tokenizer
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.weights.chatglm_layout import EMBEDDING
from glmja.weights.checkpoint import MAX_SHARD_SIZE, Checkpoint, DtypeName
from glmja.weights.merging import merge

Format = Literal["glm", "chatglm", "adapter"]

REPORT = "export_report.json"

_LONG = ("lora", "validation", "ledger")  # not for a table


def export(
    output: str,
    checkpoint: str | None = None,
    model: str | None = None,
    format: Format = "glm",
    pack: str | None = None,
    base: str | None = None,
    dtype: DtypeName | None = None,
    max_shard_size: int = MAX_SHARD_SIZE,
    check: bool = True,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes the model that a run has trained, adapters merged; or a language pack of it; or the model of a pack.

    Args:
        output: New folder; `export_report.json` and a model card tell where its content is from.
        checkpoint: A checkpoint, or the folder of a run, whose newest whole checkpoint is taken.
        model: Folder of the model that the run began with; by default the one that the run's `config.yaml` names.
        format: `glm`, for `AutoModelForCausalLM` without remote code; `chatglm`, ChatGLM3's own layout and names; or
            `adapter`, a language pack: adapters, new rows and tokenizer, without the model.
        pack: A language pack, in place of a checkpoint.
        base: What the pack is put on: the model that its run began with, or the stock model which that grew from.
        dtype: Of the written weights; by default that of the model the run began with, or the pack's.
        max_shard_size: Bytes a file of weights.
        check: Compare what was written with the trained model; takes 4 bytes of memory for each parameter of the model.
            What is made of a pack is compared with the weights that were put together: the pack was compared itself.
        overwrite: Replace what `output` holds.

    Returns:
        The report as written to `export_report.json`.

    Raises:
        ValueError: If the checkpoint or pack is incomplete, damaged or of another model, or the check at the end fails.
        OSError: If a file does not exist, or the disk has no room.
    """
    check_free(output, overwrite, [path for path in (checkpoint, model, pack, base) if path])
    wanted = getattr(torch, dtype) if dtype else None
    if checkpoint and not pack and not base:
        state = TrainedState.open(checkpoint)
        model_dir = Path(model) if model else run_folder.model_dir(state.run_dir)
        check_free(output, overwrite, (model_dir,))
        report = _export_run(state, model_dir, output, format, wanted, max_shard_size, check, overwrite)
    elif pack and base and not checkpoint and not model and format != "adapter":
        report = _export_pack(pack, base, output, format, wanted, max_shard_size, check, overwrite)
    else:
        raise ValueError("give either --checkpoint, or --pack and --base and a --format other than adapter")
    _print(report, output)
    return report


def open_base(state: TrainedState, model_dir: Path) -> tuple[Checkpoint, GLMTokenizer]:
    """The model that a run began with, as Glm, and its tokenizer.

    Raises:
        ValueError: If the folder holds another model or tokenizer.
        OSError: If it holds none.
    """
    tokenizer, opened = check_folder(model_dir), Checkpoint.open(model_dir)
    found = {"base": opened.fingerprint(), "tokenizer": tokenizer.fingerprint}
    for name, what in (("base", "weights"), ("tokenizer", "a tokenizer")):
        if found[name] != state.manifest.facts[name]:
            raise ModelError(
                f"{state.folder} was trained from {what} with the hash {state.manifest.facts[name][:16]}…, but "
                f"{model_dir} has {found[name][:16]}…; give the folder that the run began with as --model"
            )
    return opened.as_glm(), tokenizer


def _export_run(
    state: TrainedState,
    model_dir: Path,
    output: str,
    format: Format,
    wanted: torch.dtype | None,
    max_shard_size: int,
    check: bool,
    overwrite: bool,
) -> dict[str, Any]:
    base, tokenizer = open_base(state, model_dir)
    facts, dtype = state.manifest.facts, wanted or base.tensors[EMBEDDING].dtype
    merged = merge(base, state.tensors, facts["lora"], tokenizer.new_ids, dtype)
    needed = 0 if format == "adapter" else merged.num_bytes
    with atomic_output_folder(output, overwrite, needed) as folder:
        if format == "adapter":
            written = language_pack.write(folder, base, state.tensors, facts, tokenizer, dtype)
        else:
            written = _write_model(folder, merged, tokenizer, format, max_shard_size)
        report = {
            "format": format,
            "dtype": str(dtype).removeprefix("torch."),
            "run": state.run_dir.name,
            "step": state.manifest.step,
            "model": model_dir.resolve().name,
            "model_fingerprint": facts["base"],
            **written,
            **{key: facts[key] for key in ("tuning", "embeddings", "lora")},
            **(_compared(state, model_dir, folder, tokenizer, format) if check else {"compared": False}),
            "validation": run_folder.last_scores(state.run_dir, state.manifest.step),
            "ledger": run_folder.ledger(state.run_dir),
        }
        _write_report(folder, report)
    return report


def _export_pack(
    pack: str,
    base: str,
    output: str,
    format: Format,
    wanted: torch.dtype | None,
    max_shard_size: int,
    check: bool,
    overwrite: bool,
) -> dict[str, Any]:
    merged, tokenizer = language_pack.apply_pack(pack, base, wanted)
    with atomic_output_folder(output, overwrite, merged.num_bytes) as folder:
        written = _write_model(folder, merged, tokenizer, format, max_shard_size)
        dtype = str(merged.tensors[EMBEDDING].dtype).removeprefix("torch.")
        of_pack = read_json(Path(pack) / REPORT)
        report = of_pack | {"format": format, "dtype": dtype, **written, "pack_put_on": Path(base).resolve().name}
        if check:
            from glmja.verification.export import compare_written  # noqa: PLC0415  # as below

            report |= compare_written(merged, folder, tokenizer)
        _write_report(folder, report)
    return report


def _write_model(
    folder: Path, merged: Checkpoint, tokenizer: GLMTokenizer, layout: Format, max_shard_size: int
) -> dict[str, Any]:
    written = merged.as_chatglm() if layout == "chatglm" else merged
    written.save(folder, max_shard_size)
    left_out = fast_tokenizer.save(tokenizer, folder, merged.config["max_position_embeddings"])
    generation = {key: merged.config[key] for key in ("eos_token_id", "pad_token_id")}
    write_json(folder / "generation_config.json", generation)
    return {
        "tokenizer_sha256": tokenizer.fingerprint,
        "hugging_face_tokenizer": f"left out: {left_out[0]}" if left_out else "written",
    }


def _compared(
    state: TrainedState, model_dir: Path, folder: Path, tokenizer: GLMTokenizer, format: Format
) -> dict[str, Any]:
    # transformers and peft take seconds and 0.3 GB, and writing does without
    from glmja.verification.export import compare  # noqa: PLC0415

    if format == "adapter":
        reopened, _ = language_pack.apply_pack(folder, model_dir)
        return compare(state, model_dir, reopened, tokenizer, run_it=False)
    return compare(state, model_dir, Checkpoint.open(folder).as_glm(), tokenizer)


def _write_report(folder: Path, report: dict[str, Any]) -> None:
    write_json(folder / REPORT, report)
    (folder / "README.md").write_text(_card(report), encoding="utf-8")


def _card(report: dict[str, Any]) -> str:
    rows = "\n".join(f"| {key} | {value} |" for key, value in report.items() if key not in _LONG)
    scores = "\n".join(f"| {key} | {value} |" for key, value in report["validation"].items())
    adapter = report["format"] == "adapter"
    return (
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\nlanguage: [zh, en, ja]\n---\n\n"
        f"# {'A language pack: Japanese for ChatGLM' if adapter else 'ChatGLM with Japanese'}\n\n"
        f"Written by glmja {__version__} (`python -m glmja.export`) from step {report['step']} of the run "
        f"`{report['run']}`, which began with the model `{report['model']}`.\n\n"
        + ("`python -m glmja.export --pack THIS --base MODEL --output NEW` makes the model.\n\n" if adapter else "")
        + f"| provenance | |\n|---|---|\n{rows}\n"
        + (f"\n| validation | |\n|---|---|\n{scores}\n" if scores else "")
        + _sources(report["ledger"])
    )


def _sources(ledger: dict[str, Any] | None) -> str:
    """What the run read, a column for each source."""
    if not ledger:
        return ""
    sources = ledger["sources"]
    rows = [" | ".join(["", key, *(str(source[key]) for source in sources), ""]).strip() for key in sources[0]]
    return "\n" + "\n".join([rows[0], "|---" * (len(sources) + 1) + "|", *rows[1:]]) + "\n"


def _print(report: dict[str, Any], output: str) -> None:
    table = Table("export", "", title=f"{report['format']} in {output}")
    for key, value in report.items():
        if key not in _LONG:
            table.add_row(key.replace("_", " "), f"{value:,}" if isinstance(value, int) and value > 1 else str(value))
    Console().print(table)


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Runs the command line."""
    return run_command(export, args)


if __name__ == "__main__":
    main()
