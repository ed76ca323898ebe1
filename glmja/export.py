"""`python -m glmja.export`: a checkpoint of a run → a model folder of its own, or a language pack.

A checkpoint holds what trained; the rest lies in the folder that the run began with. Both are put together as the files
are written, so the memory is that of a few blocks of rows, beside pages of the mapped checkpoint. The check at the end
holds the whole model: each tensor is compared with what peft makes of the same checkpoint, and both speak.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from glmja.cli.command import run_command
from glmja.errors import ModelError
from glmja.families.names import FamilyName
from glmja.files.json_files import read_json, write_json
from glmja.files.output_folder import atomic_output_folder, check_free
from glmja.modeling import model_card
from glmja.text.terminal import make_table, show
from glmja.weights.options import MAX_SHARD_SIZE, DtypeName

if TYPE_CHECKING:
    import torch

    from glmja.modeling.model_folder import ModelFolder
    from glmja.runs.trained_state import TrainedState
    from glmja.weights.chatglm_layout import Layout

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
    family: FamilyName | None = None,
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
        family: Family of the model that the run trained, `chatglm3` or `chatglm2`, as it was given to the run;
            recognized by its files by default.
        overwrite: Replace what `output` holds.

    Returns:
        The report as written to `export_report.json`.

    Raises:
        ValueError: If the checkpoint or pack is incomplete, damaged or of another model, or the check at the end fails.
        OSError: If a file does not exist, or the disk has no room.
    """
    import torch

    from glmja.runs.trained_state import TrainedState

    check_free(output, overwrite, [path for path in (checkpoint, model, pack, base) if path])
    to = _Output(output, format, getattr(torch, dtype) if dtype else None, max_shard_size, check, overwrite)
    if checkpoint and not pack and not base:
        state = TrainedState.open(checkpoint)
        model_dir = Path(model) if model else state.run.model_dir()
        check_free(output, overwrite, (model_dir,))
        report = _export_run(state, open_base(state, model_dir, family), to)
    elif pack and base and not checkpoint and not model and format != "adapter":
        report = _export_pack(pack, base, to)
    else:
        raise ValueError("give either --checkpoint, or --pack and --base and a --format other than adapter")
    _print(report, output)
    return report


@dataclass(frozen=True)
class _Output:
    """Where and how the result is written; see the arguments of `export`."""

    folder: str
    format: Format
    dtype: torch.dtype | None
    max_shard_size: int
    check: bool
    overwrite: bool


def open_base(state: TrainedState, model_dir: Path, family: FamilyName | None = None) -> ModelFolder:
    """Opens the model that a run trained.

    Raises:
        ValueError: If the folder holds another model or tokenizer.
        OSError: If it holds none.
    """
    from glmja.modeling.model_folder import ModelFolder

    base = ModelFolder.open(model_dir, family)
    found = {"base": base.fingerprint, "tokenizer": base.tokenizer.fingerprint}
    saved = state.manifest.identity.as_json()
    for name, what in (("base", "weights"), ("tokenizer", "a tokenizer")):
        if found[name] != saved[name]:
            raise ModelError(
                f"{state.folder} was trained from {what} with the hash {saved[name][:16]}…, but "
                f"{model_dir} has {found[name][:16]}…; give the folder that the run began with as --model"
            )
    return base


def _export_run(state: TrainedState, base: ModelFolder, to: _Output) -> dict[str, Any]:
    from glmja.modeling.model_folder import write_model
    from glmja.runs import language_pack
    from glmja.weights.chatglm_layout import EMBEDDING
    from glmja.weights.merging import merge

    facts, dtype = state.manifest.identity.as_json(), to.dtype or base.checkpoint.tensors[EMBEDDING].dtype
    merged = merge(base.checkpoint, state.tensors, facts["lora"], base.tokenizer.new_ids, dtype)
    needed = 0 if to.format == "adapter" else merged.num_bytes
    with atomic_output_folder(to.folder, to.overwrite, needed) as folder:
        if to.format == "adapter":
            written = language_pack.write(folder, base.checkpoint, state.tensors, facts, base.tokenizer, dtype)
        else:
            written = write_model(folder, merged, base.tokenizer, to.format, to.max_shard_size)
        report = {
            "format": to.format,
            "dtype": str(dtype).removeprefix("torch."),
            "run": state.run.path.name,
            "step": state.manifest.step,
            "model": base.path.resolve().name,
            "model_fingerprint": facts["base"],
            **written,
            **{key: facts[key] for key in ("tuning", "embeddings", "lora")},
            **(_compared(state, base, folder, to.format) if to.check else {"compared": False}),
            "validation": state.run.last_scores(state.manifest.step),
            "ledger": state.run.read_ledger(),
        }
        _write_report(folder, report)
    return report


def _export_pack(pack: str, base: str, to: _Output) -> dict[str, Any]:
    from glmja.modeling.model_folder import write_model
    from glmja.runs import language_pack
    from glmja.weights.chatglm_layout import EMBEDDING

    merged, tokenizer = language_pack.apply_pack(pack, base, to.dtype)
    with atomic_output_folder(to.folder, to.overwrite, merged.num_bytes) as folder:
        layout: Layout = "chatglm" if to.format == "chatglm" else "glm"
        written = write_model(folder, merged, tokenizer, layout, to.max_shard_size)
        dtype = str(merged.tensors[EMBEDDING].dtype).removeprefix("torch.")
        of_pack = read_json(Path(pack) / REPORT)
        report = of_pack | {"format": to.format, "dtype": dtype, **written, "pack_put_on": Path(base).resolve().name}
        if to.check:
            from glmja.verification.export import compare_written

            report |= compare_written(merged, folder, tokenizer)
        _write_report(folder, report)
    return report


def _compared(state: TrainedState, base: ModelFolder, folder: Path, format: Format) -> dict[str, Any]:
    from glmja.runs import language_pack
    from glmja.verification.export import compare
    from glmja.weights.checkpoint import Checkpoint

    if format == "adapter":
        reopened, _ = language_pack.apply_pack(folder, base.path)
        return compare(state, base, reopened, run_it=False)
    return compare(state, base, Checkpoint.open(folder).as_glm())


def _write_report(folder: Path, report: dict[str, Any]) -> None:
    write_json(folder / REPORT, report)
    card = model_card.export_card(
        report["format"],
        report["run"],
        report["step"],
        report["model"],
        {key: value for key, value in report.items() if key not in _LONG},
        report["validation"],
        (report["ledger"] or {}).get("sources", ()),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _print(report: dict[str, Any], output: str) -> None:
    rows = [
        (key.replace("_", " "), f"{value:,}" if isinstance(value, int) and value > 1 else str(value))
        for key, value in report.items()
        if key not in _LONG
    ]
    show(make_table(["export", ""], rows, title=f"{report['format']} in {output}"))


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Runs the command line."""
    return run_command(export, args)


if __name__ == "__main__":
    main()
