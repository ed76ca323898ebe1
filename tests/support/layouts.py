"""Weights in another layout, without a tokenizer."""

from glmja.files.output_folder import atomic_output_folder
from glmja.weights.checkpoint import Checkpoint
from glmja.weights.dtypes import dtype_named
from glmja.weights.options import MAX_SHARD_SIZE


def convert(source, output, to, dtype=None, max_shard_size=MAX_SHARD_SIZE):
    """Writes the weights of a folder in the layout `to`, as stored or in another dtype."""
    opened = Checkpoint.open(source)
    converted = opened.as_glm() if to == "glm" else opened.as_chatglm()
    if dtype:
        converted = converted.astype(dtype_named(dtype))
    with atomic_output_folder(output, False, converted.num_bytes) as folder:
        converted.save(folder, max_shard_size)
