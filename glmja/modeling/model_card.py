"""Model cards: the README.md of the folders that glmja writes, with the metadata that the Hugging Face Hub reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from glmja import __version__
from glmja.text.markdown import markdown_code, markdown_row, markdown_text

LONG_ENTRIES = ("lora", "validation", "ledger")  # of a report; too long for a table

_COPIES = {"of_old_rows": "new rows equal to an old row", "shared": "new rows equal to another new row"}

_BASE_LANGUAGES, _ADDED_LANGUAGE = ("zh", "en"), "ja"
_OWNERS = ("THUDM", "zai-org")  # the old and the new name of the owner of ChatGLM on the Hub
_NAME = re.compile(r"base_model: ([\w.-]+/[\w.-]+)")  # in the card of a folder that glmja wrote


def hub_name(folder: Path, config: Mapping[str, object]) -> str | None:
    """Returns the name on the Hugging Face Hub of the model that a folder holds or was made from.

    Args:
        folder: A model folder. Its card says the name if glmja wrote one.
        config: The content of its `config.json`, which may say it otherwise.

    Returns:
        A name such as `zai-org/chatglm3-6b`; None if the folder does not say it.
    """
    card = folder / "README.md"
    if card.is_file() and (found := _NAME.search(card.read_text(encoding="utf-8", errors="replace")[:1000])):
        return found[1]
    owner, _, name = str(config.get("_name_or_path", "")).partition("/")
    return f"{_OWNERS[-1]}/{name}" if owner in _OWNERS and re.fullmatch(r"[\w.-]+", name) else None


def code_note(layout: object) -> str | None:
    """Returns what a folder in ChatGLM's layout needs to be loaded by ChatGLM's own code; None for other layouts."""
    if layout != "chatglm":
        return None
    return (
        "The code of ChatGLM is not part of this folder. To load it with that code, copy the .py files of the original "
        "model beside config.json, which names some of them in auto_map."
    )


def zero_card(report: Mapping[str, object], policy: object, base_model: str | None = None) -> str:
    """Returns the card of a Zero model.

    Args:
        report: The content of `resize_report.json`.
        policy: The policy that the tokenizer was built with, from `tokenizer_report.json`.
        base_model: Name of the base on the Hugging Face Hub, if it is known.
    """
    new_rows = (
        "New rows are random and serve for comparison only; the model's replies are undefined."
        if report["init"] == "random"
        else "Each new row is computed from old ones, so the model replies as its base does and has not been trained "
        "on Japanese yet."
    )
    return (
        f"{_metadata(base_model, [*_BASE_LANGUAGES, _ADDED_LANGUAGE])}"
        "# Zero: ChatGLM with embedding rows for Japanese, not yet trained\n\n"
        f"Written by glmja {__version__} (`python -m glmja.resize_embeddings`). The rows of old tokens are unchanged. "
        f"{new_rows}\n{_table('provenance', {**zero_facts(report), 'policy': policy})}{_table_of_texts(report)}"
    )


def zero_facts(report: Mapping[str, object]) -> dict[str, object]:
    """Returns the entries of a `resize_report.json` that fit into one line of a table each."""
    facts = {key: value for key, value in report.items() if not isinstance(value, dict)}
    calibration, copies = report.get("calibration"), report.get("row_copies")
    if isinstance(calibration, dict):
        facts |= {f"calibration: {key.replace('_', ' ')}": value for key, value in calibration.items()}
    if isinstance(copies, dict):
        for key, title in _COPIES.items():
            facts[title] = ", ".join(f"{matrix} {count[key]:,}" for matrix, count in copies.items())
    return facts


def export_card(report: Mapping[str, object], base_model: str | None = None) -> str:
    """Returns the card of an exported model or language pack.

    Args:
        report: The content of `export_report.json`.
        base_model: Name of the base on the Hugging Face Hub, if it is known.
    """
    adapter, validation, ledger = report["format"] == "adapter", report.get("validation"), report.get("ledger")
    title = "A language pack: Japanese for ChatGLM" if adapter else "ChatGLM with Japanese"
    note = code_note(report["format"])
    return (
        f"{_metadata(base_model, _languages(ledger))}# {title}\n\n"
        f"Written by glmja {__version__} (`python -m glmja.export`) from step {report.get('step')} of the run "
        f"{markdown_code(str(report.get('run')))}, which trained the model {markdown_code(str(report.get('model')))}.\n"
        + ("\n`python -m glmja.export --pack THIS --base MODEL --output NEW` makes the model.\n" if adapter else "")
        + (f"\n{note}\n" if note else "")
        + _table("provenance", {key: value for key, value in report.items() if key not in LONG_ENTRIES})
        + (_table("validation", validation) if isinstance(validation, dict) and validation else "")
        + (_table_of_sources(ledger.get("sources")) if isinstance(ledger, dict) else "")
    )


def converted_card(
    model: str, layout: str, dtype: str, tokenizer: Mapping[str, object], base_model: str | None = None,
    extended: bool = False,
) -> str:  # fmt: skip
    """Returns the card of a converted model.

    Args:
        model: Name of the folder that was converted.
        layout: `glm` or `chatglm`.
        dtype: Name of the dtype of the weights.
        tokenizer: Entries that describe the tokenizer, as `glmja.modeling.model_folder.write_model` returns them.
        base_model: Name of the model on the Hugging Face Hub, if it is known.
        extended: Whether the tokenizer has pieces for Japanese.
    """
    languages, note = [*_BASE_LANGUAGES, *([_ADDED_LANGUAGE] if extended else [])], code_note(layout)
    facts = {"model": model, "layout": layout, "dtype": dtype, **tokenizer}
    return (
        f"{_metadata(base_model, languages)}# {markdown_text(model)} in the layout {layout}\n\n"
        f"Written by glmja {__version__} (`python -m glmja.convert`). The weights are those of the model."
        f"\n{f'{chr(10)}{note}{chr(10)}' if note else ''}{_table('provenance', facts)}"
    )


def _metadata(base_model: str | None, languages: Sequence[str]) -> str:
    """Returns the metadata that the Hub reads; the license of the weights is that of the base."""
    lines = ["library_name: transformers", "pipeline_tag: text-generation", f"language: [{', '.join(languages)}]"]
    lines.append("license: other")
    if base_model:
        name = base_model.partition("/")[2]
        lines.append(f"license_name: {name.lower()}-license")
        lines.append(f"license_link: https://huggingface.co/{base_model}/blob/main/MODEL_LICENSE")
        lines.append(f"base_model: {base_model}")
    else:
        lines.append("license_name: license-of-the-base-model")
    return "\n".join(["---", *lines, "---", "", ""])


def _languages(ledger: object) -> list[str]:
    """Returns the languages of a trained model: those of the base and of the sources."""
    sources = ledger.get("sources") if isinstance(ledger, dict) else None
    named = [str(source.get("lang")) for source in sources or [] if isinstance(source, dict)] or [_ADDED_LANGUAGE]
    return list(dict.fromkeys([*_BASE_LANGUAGES, *(lang for lang in named if re.fullmatch("[a-z]{2,3}", lang))]))


def _table(title: str, rows: Mapping[str, object]) -> str:
    lines = [(title, ""), ("---", "---"), *rows.items()]
    return "\n" + "\n".join(map(markdown_row, lines)) + "\n"


def _table_of_texts(report: Mapping[str, object]) -> str:
    """A row for each text that base and Zero read; nothing if they read none."""
    texts = report.get("texts")
    if not isinstance(texts, dict) or not texts:
        return ""
    headings = ["text", *(key.replace("_", " ") for key in next(iter(texts.values())))]
    rows = [[lang, *(f"{v:.4g}" if isinstance(v, float) else v for v in text.values())] for lang, text in texts.items()]
    return "\n" + "\n".join(map(markdown_row, [headings, ["---"] * len(headings), *rows])) + "\n"


def _table_of_sources(sources: object) -> str:
    """A column for each source; nothing if a report holds no sources."""
    if not isinstance(sources, list) or not sources or not all(isinstance(source, dict) for source in sources):
        return ""
    rows = [[key, *(source.get(key, "") for source in sources)] for key in sources[0]]
    lines = [rows[0], ["---"] * (len(sources) + 1), *rows[1:]]
    return "\n" + "\n".join(map(markdown_row, lines)) + "\n"
