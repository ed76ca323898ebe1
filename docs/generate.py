"""Writes `docs/configuration.md` from the signatures and docstrings of the classes: `python docs/generate.py`."""

from __future__ import annotations

import inspect
import sys
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from docstring_parser import parse
from jsonargparse import Namespace

sys.path.insert(0, str(Path(__file__).parents[1]))

import callbacks
import data_modules
import lit_modules
from glmja.cli import fit_arguments
from glmja.modeling.adapters import Lora
from glmja.modeling.retention import Retention
from lit_modules.fit_parser import CHECKPOINT_DEFAULTS, TRAINER_DEFAULTS

PAGE = Path(__file__).parent / "configuration.md"
_RUN = {
    "--config": fit_arguments.CONFIG_HELP,
    "--run_dir": fit_arguments.RUN_DIR_HELP,
    "--ckpt_path": fit_arguments.CKPT_PATH_HELP,
    "--resume_with_new_optimizer": fit_arguments.NEW_OPTIMIZER_HELP,
    "--init_from": fit_arguments.INIT_FROM_HELP,
    "--preview": fit_arguments.PREVIEW_HELP,
    "--estimate": fit_arguments.ESTIMATE_HELP,
    "--chats": fit_arguments.CHATS_HELP,
}
_SECTIONS: dict[str, tuple[type, ...]] = {
    "Model: `--model.…`": (lit_modules.PackedPretraining, Lora, Retention, lit_modules.WarmupCosine),
    "Data: `--data.…`": (
        data_modules.PackedPretrainingData,
        data_modules.TextSource,
        data_modules.PaddedSFTData,
        data_modules.ChatSource,
    ),
    "Strategy: `--trainer.strategy`": (lit_modules.ZeRO2,),
    "Callbacks: `--callbacks.NAME.…`": (
        callbacks.ChatSampler,
        callbacks.NonFiniteGuard,
        callbacks.RetentionGuard,
        callbacks.Throughput,
        callbacks.ValidationTable,
    ),
}
_HEAD = """\
# Configuration

A training run is configured by YAML files and flags: a key of a file is also a flag, `model: {init_args: {embeddings:
new_rows}}` is `--model.embeddings new_rows`. Later files and flags override earlier ones. `--print_config` shows the
result. Sources and callbacks have names: `--data.sources.ja.weight 0.5`, `--callbacks.ChatSampler.every_n_steps 100`.

This page is written by `python docs/generate.py` from the code.

## Why these defaults

- `embeddings: full`. Training only the new rows leaves all old rows exact and needs the least memory, but in the small
  models that were measured ([retention](retention.md#what-was-measured)) it learned less Japanese and still lost more
  Chinese and English than `full` with `retention`. Where nothing of the base may change, take `new_rows` with
  `tuning: frozen`: text without new pieces then has the base's hidden states and old logits.
- `checkpoint.every_n_train_steps: 500`. By the arithmetic of `--estimate`, 500 steps of `configs/pretrain.yaml` take
  1.5 minutes on 8 H100, 18 minutes on 4 RTX 4090, 39 minutes on an A100 and 74 minutes on one RTX 4090. A run that is
  killed loses at most these. Choose a number of steps that takes a quarter of an hour.
- `val_share: 0.01`, but at least 20 documents of a source, or 5 % of a small one: with fewer, `evaluate` gives no
  verdict ([evaluation](evaluation.md#retention)), and a change of the validation may be chance.
- `val_check_interval` counts micro-batches, as in Lightning; a run says at its start how many optimizer steps that is.
"""


def page() -> str:
    """Returns the page."""
    parts = [_HEAD, "## The run", _table([(f"`{flag}`", "", "", text) for flag, text in _RUN.items()])]
    for title, classes in _SECTIONS.items():
        parts += [f"## {title}", *(part for kind in classes for part in _described(kind))]
    defaults = {**{f"trainer.{key}": value for key, value in TRAINER_DEFAULTS.items()}, **CHECKPOINT_DEFAULTS}
    parts += [
        "## Defaults that differ from Lightning's",
        _table([(f"`{key}`", "", f"`{value}`", "") for key, value in defaults.items()]),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _described(kind: type) -> list[str]:
    """Returns heading, description and table of a class."""
    module = kind.__module__.partition(".")[0]
    shown = f"{module}.{kind.__name__}" if module != "glmja" else kind.__name__
    own = parse(inspect.getdoc(kind) or "")
    init = parse(inspect.getdoc(kind.__init__) or "")
    of_base = parse(inspect.getdoc(kind.__base__.__init__) or "") if _passes_on(kind) else init
    texts = {p.arg_name: p.description or "" for p in [*own.params, *of_base.params, *init.params]}
    length = next((part for part in (init.long_description or "").split("\n\n") if part.startswith("The run ends")), "")
    rows = [(f"`{name}`", *_type_and_default(kind, name), texts.get(name, "")) for name in _parameters(kind)]
    also = (
        " `lit_modules.PaddedSFT` takes the same, without `retention` and `embedding_pull`."
        if kind is lit_modules.PackedPretraining
        else ""
    )
    text = f"{own.short_description or ''}{also}"
    return [f"### {shown}", text, *([length] if length else []), _table(rows) if rows else "No arguments."]


def _parameters(kind: type) -> list[str]:
    given = ["tokenizer_dir", *(["optimizer", "num_steps"] if kind is lit_modules.WarmupCosine else [])]  # by `fit`
    return [name for name in _signature(kind) if name not in given]


def _passes_on(kind: type) -> bool:
    """Returns whether a class passes other arguments on to its base."""
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in inspect.signature(kind).parameters.values())


def _signature(kind: type) -> dict[str, inspect.Parameter]:
    """Returns the parameters of a class, and of its base if it passes them on."""
    own = {n: p for n, p in inspect.signature(kind).parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD}
    return {**_signature(kind.__base__), **own} if _passes_on(kind) else own


def _type_and_default(kind: type, name: str) -> tuple[str, str]:
    parameter = _signature(kind)[name]
    default = parameter.default
    if is_dataclass(kind):
        (field,) = [field for field in fields(kind) if field.name == name]
        default = field.default_factory() if field.default_factory is not MISSING else parameter.default
    if default is inspect.Parameter.empty:
        shown = "required"
    elif isinstance(default, type):
        shown = f"`{default.__name__}`"
    elif is_dataclass(default) or isinstance(default, Namespace):
        shown = "see below"
    else:
        shown = f"`{list(default) if isinstance(default, tuple) else default!r}`"
    hints = [get_type_hints(kind if is_dataclass(kind) else kind.__init__)]
    hints += [get_type_hints(kind.__base__.__init__)] if _passes_on(kind) else []
    hint = next((each[name] for each in hints if name in each), None)
    choices = [choice for part in (hint, *get_args(hint)) if get_origin(part) is Literal for choice in get_args(part)]
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices), shown
    return f"`{parameter.annotation}`", shown


def _table(rows: list[tuple[str, str, str, str]]) -> str:
    used = [number for number in range(4) if number in (0, 3) or any(row[number] for row in rows)]
    heads = ["name", "type", "default", "meaning"]
    used = [number for number in used if any(row[number] for row in rows)]
    lines = [" | ".join(heads[number] for number in used), " | ".join("---" for _ in used)]
    lines += [" | ".join(_cell(row[number]) for number in used) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
