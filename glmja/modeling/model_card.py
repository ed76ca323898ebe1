"""Model cards: the README.md of the folders that glmja writes, with the metadata that the Hugging Face Hub reads."""

from __future__ import annotations

from collections.abc import Mapping

from glmja import __version__
from glmja.text.markdown import markdown_code, markdown_row, markdown_text

LONG_ENTRIES = ("lora", "validation", "ledger")  # of a report; too long for a table

_COPIES = {"of_old_rows": "new rows equal to an old row", "shared": "new rows equal to another new row"}

_METADATA = "---\nlibrary_name: transformers\npipeline_tag: text-generation\nlanguage: [zh, en, ja]\n---\n\n"


def zero_card(report: Mapping[str, object], policy: object) -> str:
    """Returns the card of a Zero model.

    Args:
        report: The content of `resize_report.json`.
        policy: The policy that the tokenizer was built with, from `tokenizer_report.json`.
    """
    new_rows = (
        "New rows are random and serve for comparison only; the model's replies are undefined."
        if report["init"] == "random"
        else "Each new row is computed from old ones, so the model replies as its base does and has not been trained "
        "on Japanese yet."
    )
    return (
        f"{_METADATA}# Zero: ChatGLM with embedding rows for Japanese, not yet trained\n\n"
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


def export_card(report: Mapping[str, object]) -> str:
    """Returns the card of an exported model or language pack.

    Args:
        report: The content of `export_report.json`.
    """
    adapter, validation, ledger = report["format"] == "adapter", report.get("validation"), report.get("ledger")
    return (
        f"{_METADATA}# {'A language pack: Japanese for ChatGLM' if adapter else 'ChatGLM with Japanese'}\n\n"
        f"Written by glmja {__version__} (`python -m glmja.export`) from step {report.get('step')} of the run "
        f"{markdown_code(str(report.get('run')))}, which trained the model {markdown_code(str(report.get('model')))}.\n"
        + ("\n`python -m glmja.export --pack THIS --base MODEL --output NEW` makes the model.\n" if adapter else "")
        + _table("provenance", {key: value for key, value in report.items() if key not in LONG_ENTRIES})
        + (_table("validation", validation) if isinstance(validation, dict) and validation else "")
        + (_table_of_sources(ledger.get("sources")) if isinstance(ledger, dict) else "")
    )


def converted_card(model: str, layout: str, dtype: str, tokenizer: Mapping[str, object]) -> str:
    """Returns the card of a converted model.

    Args:
        model: Name of the folder that was converted.
        layout: `glm` or `chatglm`.
        dtype: Name of the dtype of the weights.
        tokenizer: Entries that describe the tokenizer, as `glmja.modeling.model_folder.write_model` returns them.
    """
    facts = {"model": model, "layout": layout, "dtype": dtype, **tokenizer}
    return (
        f"{_METADATA}# {markdown_text(model)} in the layout {layout}\n\n"
        f"Written by glmja {__version__} (`python -m glmja.convert`). The weights are those of the model."
        f"\n{_table('provenance', facts)}"
    )


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
