"""`python -m glmja.export`: writes the model that a run trained, or a language pack of it.

A checkpoint holds the trained tensors; the others are in the folder that the run started from. The two are merged while
the files are written, so memory holds a few blocks of rows, and pages of the mapped checkpoint. The check at the end
loads the whole model: each tensor is compared with peft's merge of the same checkpoint, and logits and replies are
compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from glmja.cli.arguments import check_at_least_1
from glmja.cli.command import run_command
from glmja.cli.ending import Ending, Values
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
    from glmja.weights.checkpoint import Checkpoint

Format = Literal["glm", "chatglm", "adapter"]

REPORT = "export_report.json"


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
) -> dict[str, object]:
    """Writes the model that a run trained, adapters merged; or a language pack of it; or the model of a pack.

    Args:
        output: New folder; its `export_report.json` and model card record what it was made from.
        checkpoint: Checkpoint to export, or the folder of a run, of which the newest complete checkpoint is exported.
        model: Folder of the model that the run trained; by default the one in the run's `config.yaml`.
        format: `glm` for `AutoModelForCausalLM` without remote code; `chatglm` for the original layout and names of the
            model's family, be it ChatGLM3, ChatGLM2 or ChatGLM-6B; or `adapter` for a language pack: adapters, new rows
            and tokenizer, without the model.
        pack: Folder of a language pack to export instead of a checkpoint.
        base: Folder of the model to apply the pack to: the model that its run trained, or the stock model which that
            was extended from.
        dtype: Dtype of the written weights; by default that of the model that the run trained, or the pack's.
        max_shard_size: Maximum bytes of a weight file.
        check: Compare the export with the trained model; takes 4 bytes of memory per parameter of the model. The model
            of a pack is compared with the merged weights, since the pack was checked when it was written.
        family: Family of the model that the run trained, `chatglm3`, `chatglm2` or `chatglm`, if it was given to the
            run; recognized by its files by default.
        overwrite: Replace an earlier result of a command in `output`; a folder of other files is never replaced.

    Returns:
        The report as written to `export_report.json`.

    Raises:
        ValueError: If the checkpoint or pack is incomplete, damaged or of another model, or a check at the end fails.
        OSError: If a file does not exist, or the disk is full.
    """
    from glmja.runs.trained_state import TrainedState
    from glmja.weights.dtypes import dtype_named

    check_at_least_1(max_shard_size=max_shard_size)
    check_free(output, overwrite, [path for path in (checkpoint, model, pack, base) if path])
    to = _Output(output, format, dtype_named(dtype) if dtype else None, max_shard_size, check, overwrite)
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
    """Location and format of the result; see the arguments of `export`."""

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
                f"{model_dir} has {found[name][:16]}…; set `model` to the folder that the run trained"
            )
    return base


def _export_run(state: TrainedState, base: ModelFolder, to: _Output) -> dict[str, object]:
    from glmja.modeling.model_folder import write_model
    from glmja.runs import language_pack
    from glmja.weights.dtypes import dtype_name
    from glmja.weights.merging import LoraScaling, merge

    identity, dtype = state.manifest.identity.as_json(), to.dtype or base.checkpoint.dtype
    ledger = state.run.read_ledger()  # before the long work
    scaling = LoraScaling.of(identity["lora"]) if identity["lora"] else None
    merged = merge(base.checkpoint, state.tensors, scaling, base.tokenizer.new_ids, dtype)
    training = {key: identity[key] for key in ("lora", "tuning", "embeddings")}
    needed = 0 if to.format == "adapter" else merged.num_bytes
    with atomic_output_folder(to.folder, to.overwrite, needed) as folder:
        written: dict[str, object]
        if to.format == "adapter":
            tokenizer = base.tokenizer
            pack = language_pack.write(
                folder, base.checkpoint, state.tensors, **training, tokenizer=tokenizer, dtype=dtype
            )
            written = asdict(pack)
        else:
            written = write_model(folder, merged, base.tokenizer, to.format, to.max_shard_size)
        report: dict[str, object] = {
            "format": to.format,
            "dtype": dtype_name(dtype),
            "run": state.run.path.name,
            "step": state.manifest.step,
            "model": base.path.resolve().name,
            "model_fingerprint": identity["base"],
            **written,
            **{key: identity[key] for key in ("tuning", "embeddings", "lora")},
            **(_compare(state, base, folder, to.format) if to.check else {"compared": False}),
            "validation": state.run.last_scores(state.manifest.step),
            "ledger": ledger,
        }
        _write_report(folder, report, base.checkpoint)
    return report


def _export_pack(pack: str, base: str, to: _Output) -> dict[str, object]:
    from glmja.modeling.model_folder import write_model
    from glmja.runs import language_pack
    from glmja.verification.export import compare_written
    from glmja.weights.checkpoint import Checkpoint
    from glmja.weights.dtypes import dtype_name

    checkpoint = Checkpoint.open(base)
    merged, tokenizer = language_pack.apply_pack(pack, checkpoint.as_glm(), to.dtype)
    with atomic_output_folder(to.folder, to.overwrite, merged.num_bytes) as folder:
        layout: Layout = "chatglm" if to.format == "chatglm" else "glm"
        report: dict[str, object] = {
            **read_json(Path(pack) / REPORT),
            "format": to.format,
            "dtype": dtype_name(merged.dtype),
            **write_model(folder, merged, tokenizer, layout, to.max_shard_size),
            "pack_put_on": Path(base).resolve().name,
        }
        if to.check:
            report |= asdict(compare_written(merged, folder, tokenizer))
        _write_report(folder, report, checkpoint)
    return report


def _compare(state: TrainedState, base: ModelFolder, folder: Path, format: Format) -> dict[str, object]:
    from glmja.runs import language_pack
    from glmja.verification.export import compare
    from glmja.weights.checkpoint import Checkpoint

    if format == "adapter":
        exported, _ = language_pack.apply_pack(folder, base.checkpoint)
    else:
        exported = Checkpoint.open(folder).as_glm()
    tensors, outputs = compare(state, base, exported, run_it=format != "adapter")
    return asdict(tensors) | (asdict(outputs) if outputs else {})


def _write_report(folder: Path, report: Mapping[str, object], base: Checkpoint) -> None:
    write_json(folder / REPORT, {**report})
    card = model_card.export_card(report, model_card.hub_name(base.folder, base.config))
    (folder / "README.md").write_text(card, encoding="utf-8")


def _print(report: Mapping[str, object], output: str) -> None:
    rows = [
        (key.replace("_", " "), f"{value:,}" if isinstance(value, int) and value > 1 else str(value))
        for key, value in report.items()
        if key not in model_card.LONG_ENTRIES
    ]
    show(make_table(["export", ""], rows, title=f"{report['format']} in {output}"))
    if note := model_card.code_note(report["format"]):
        show(note)


def _ending(values: Values, report: Values) -> Ending:
    output, warnings = values["output"], []
    if not values["check"]:
        warnings.append("what was written was not compared with the trained model (--check false)")
    if (same := report.get("greedy_replies_equal")) != (replies := report.get("greedy_replies")):
        warnings.append(f"{same} of {replies} greedy replies equal those of the trained model")
    if values["format"] == "adapter":
        flags = {"pack": output, "base": "FOLDER", "output": "FOLDER"}
        return Ending(f"language pack in {output}", "export", flags, warnings)
    flags = {"model": output, "baseline": "FOLDER", "output": "FOLDER"}
    return Ending(f"model in {output}", "evaluate", flags, warnings)


def main(args: list[str] | None = None) -> dict[str, object]:
    """Runs the command line."""
    return run_command(export, args, _ending)


if __name__ == "__main__":
    main()
