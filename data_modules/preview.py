"""The first example of a source as it would be trained on, without tokenizing the rest of the source."""

from __future__ import annotations

from collections.abc import Sequence

from data_modules.batches.prefix_rows import NUM_ADDED, with_context
from data_modules.sources import ChatSource, TextSource
from data_modules.stores.chat_rendering import Reading, render_chunk, without_targets
from data_modules.stores.document_encoder import DocumentEncoder
from data_modules.stores.token_store import read_source_chunks
from glmja.errors import DataError
from glmja.files.records import read_chunks
from glmja.runs.contracts import Example
from glmja.tokenization.tokenizer import GLMTokenizer


def first_examples(sources: Sequence[TextSource | ChatSource], tokenizer: GLMTokenizer, row_len: int) -> list[Example]:
    """Returns the first example of each source.

    Args:
        sources: The sources.
        tokenizer: Tokenizer of the run.
        row_len: Maximum number of tokens of an example.

    Raises:
        OSError: If a file does not exist.
        ValueError: If a file is damaged, or a source has no example.
    """
    return [
        _conversation(source, tokenizer, row_len)
        if isinstance(source, ChatSource)
        else _document(source, tokenizer, row_len)
        for source in sources
    ]


def _conversation(source: ChatSource, tokenizer: GLMTokenizer, row_len: int) -> Example:
    reading, dropped = Reading(source.format, source.columns, source.learn, row_len), ""
    for chunk in read_chunks(source.find_files(), limit=source.limit):
        part = render_chunk(chunk, tokenizer, reading)
        if part.lengths:
            count = part.lengths[0]
            return Example(source.name, part.tokens[:count].tolist(), part.loss_mask[:count].tolist())
        dropped = dropped or next((f"{place}: {detail}" for _, place, detail in part.dropped), "")
    raise without_targets(source, dropped)


def _document(source: TextSource, tokenizer: GLMTokenizer, row_len: int) -> Example:
    encode = DocumentEncoder(tokenizer, source.text_key)
    for chunk in read_source_chunks(source):
        part = encode(chunk)
        if len(part.lengths):
            document = part.ids[: part.lengths[0]]
            if tokenizer.has_contexts:
                shown = with_context(document[: row_len - NUM_ADDED], 0, tokenizer.prefix_ids)
                assert shown.loss_mask is not None
                return Example(source.name, shown.ids.tolist(), shown.loss_mask.tolist())
            ids = document[:row_len].tolist()
            return Example(source.name, ids, [False] + [True] * (len(ids) - 1))  # nothing precedes the first token
    raise DataError(f"source {source.name!r} has no text; add documents, or remove it")
