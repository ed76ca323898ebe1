"""`python -m glmja.convert`: writes a model in the layout of transformers, or in ChatGLM's own, bit for bit.

A folder in the layout of transformers needs no remote code, so programs that load `AutoModelForCausalLM` and
`AutoTokenizer` (lm-evaluation-harness, vLLM) measure a ChatGLM as they measure what was made of it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from glmja.cli.arguments import check_at_least_1
from glmja.cli.command import run_command
from glmja.cli.ending import Ending, Values
from glmja.families.names import FamilyName
from glmja.files.output_folder import atomic_output_folder, check_free
from glmja.text.terminal import show
from glmja.weights.options import MAX_SHARD_SIZE, DtypeName


def convert(
    model: str,
    output: str,
    format: Literal["glm", "chatglm"] = "glm",
    dtype: DtypeName | None = None,
    max_shard_size: int = MAX_SHARD_SIZE,
    family: FamilyName | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a model in another layout, with its tokenizer: as transformers loads it, or as its original code does.

    Args:
        model: Folder of the model, in the original layout of its family or that of transformers.
        output: New folder.
        format: `glm` for `AutoModelForCausalLM` without remote code; `chatglm` for the original layout and names of the
            model's family, be it ChatGLM3, ChatGLM2 or ChatGLM-6B.
        dtype: Dtype of the written weights; by default as stored, bit for bit.
        max_shard_size: Maximum bytes of a weight file.
        family: Family of the model, `chatglm3`, `chatglm2` (CodeGeeX2 is one) or `chatglm`; recognized by its files by
            default.
        overwrite: Replace an earlier result of a command in `output`; a folder of other files is never replaced.

    Raises:
        ValueError: If the model is damaged or of another architecture, or the written weights differ from it.
        OSError: If a file does not exist, or the disk is full.
    """
    from glmja.modeling.model_card import code_note, converted_card, hub_name
    from glmja.modeling.model_folder import ModelFolder, write_model
    from glmja.verification.conversion import verify_conversion
    from glmja.weights.dtypes import dtype_name, dtype_named

    check_at_least_1(max_shard_size=max_shard_size)
    check_free(output, overwrite, (model,))
    opened = ModelFolder.open(model, family)
    source = opened.checkpoint.astype(dtype_named(dtype)) if dtype else opened.checkpoint
    # ChatGLM's config names the end of a document only; a reply also ends where the next turn begins
    source = replace(source, config=source.config | {"eos_token_id": opened.tokenizer.stop_ids})
    with atomic_output_folder(output, overwrite, source.num_bytes) as folder:
        written = write_model(folder, source, opened.tokenizer, format, max_shard_size)
        num_tensors = verify_conversion(source, folder)
        card = converted_card(
            opened.path.resolve().name, format, dtype_name(source.dtype), written,
            hub_name(opened.path, opened.checkpoint.config), extended=bool(opened.tokenizer.new_ids),
        )  # fmt: skip
        (folder / "README.md").write_text(card, encoding="utf-8")
    show(f"{Path(output)}: {num_tensors} tensors in the layout {format}, read back and compared with {model}")
    if note := code_note(format):
        show(note)


def _ending(values: Values, _: object) -> Ending:
    return Ending(f"model in {values['output']}", "evaluate", {"model": values["output"], "output": "FOLDER"})


def main(args: list[str] | None = None) -> None:
    """Runs the command line."""
    run_command(convert, args, _ending)


if __name__ == "__main__":
    main()
