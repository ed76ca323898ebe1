"""Checkpoints: folders of weights in ChatGLM2/3's layout or `transformers`' Glm, and conversion between the two."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from glmja.errors import ModelError
from glmja.files.folder_kinds import check_model_folder, check_not_a_tokenizer
from glmja.files.json_files import read_json, write_json
from glmja.files.progress import progress
from glmja.weights.architecture import Architecture
from glmja.weights.architectures import architecture_of, layout_of
from glmja.weights.chatglm_layout import Config, Layout
from glmja.weights.config_spellings import with_dtype
from glmja.weights.dtypes import common_dtype, dtype_name
from glmja.weights.quantization import check_not_quantized
from glmja.weights.tensors import TensorSource, cast
from glmja.weights.weight_files import SAFETENSORS_INDEX, open_weights, write_safetensors

# A copy is limited by one processor of the kernel, so copying two files at a time is faster.
_NUM_WRITERS = min(4, os.cpu_count() or 1)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """The config and the tensors of a model folder.

    Attributes:
        folder: The folder.
        config: The content of its `config.json`.
        tensors: The tensors, by their names in the folder's layout.
    """

    folder: Path
    config: Config
    tensors: dict[str, TensorSource]

    @classmethod
    def open(cls, folder: str | Path, config: Config | None = None) -> Checkpoint:
        """Opens a folder of safetensors, or of `.bin` files without code; reads headers only.

        Args:
            folder: Folder of weights, in either layout.
            config: The content of its `config.json`; read if None.

        Raises:
            FileNotFoundError: If the folder or its config does not exist.
            ValueError: If weights are missing or damaged, could only be loaded by executing code, or the architecture
                is unknown.
        """
        folder = Path(folder)
        check_model_folder(folder)
        check_not_a_tokenizer(folder)
        config = read_json(folder / "config.json") if config is None else config
        architecture_of(config)
        check_not_quantized(folder, config)
        opened = cls(folder, config, open_weights(folder))
        if len(found := opened.dtypes) > 1:
            names = " and ".join(sorted(map(dtype_name, found)))
            _log.warning(
                "%s holds %s; read as %s, which holds all values exactly", folder, names, dtype_name(opened.dtype)
            )
        return opened

    @property
    def architecture(self) -> Architecture:
        """The architecture of the model."""
        return architecture_of(self.config)

    @property
    def layout(self) -> Layout:
        """The layout, which determines the names of the tensors."""
        return layout_of(self.config)

    def as_glm(self) -> Checkpoint:
        """Returns the same weights under the names of the running model and settings; nothing is copied.

        Raises:
            ValueError: If a tensor is missing or unexpected, or its shape is not the config's.
        """
        try:
            config, tensors = self.architecture.runtime_config(self.config), self.tensors
            if self.layout == "chatglm":
                tensors = self.architecture.to_runtime(tensors, config)
        except ModelError as error:
            raise ModelError(f"{self.folder}: {error}") from error
        glm = replace(self, config=config, tensors=tensors)
        _check_shapes(glm)
        return glm

    def as_chatglm(self) -> Checkpoint:
        """Returns the same weights under ChatGLM's names and settings; raises as `as_glm`."""
        if self.layout == "chatglm":
            return self
        config = self.architecture.original_config(self.as_glm().config)
        return Checkpoint(self.folder, config, self.architecture.to_original(self.tensors, config))

    def fingerprint(self) -> str:
        """Returns a hash that identifies the weights: of the config and each tensor's name, dtype, shape and 16 rows.

        Training changes every row of a trained tensor, so a sample of the rows suffices, and reading it takes a moment
        instead of the minutes for 12 GB. The hash does not protect against manipulation.
        """
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        for name, source in sorted(self.tensors.items()):
            digest.update(f"{name} {source.dtype} {source.shape}".encode())
            step = -(-source.shape[0] // 16)
            rows = source.gather(range(0, source.shape[0], step))
            digest.update(rows.contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def astype(self, dtype: torch.dtype) -> Checkpoint:
        """Returns the same weights in another dtype, converted when they are read; tensors that stay in fp32 do."""
        stays = self.architecture.stays_fp32
        tensors = {name: source if stays(name) else cast(source, dtype) for name, source in self.tensors.items()}
        return replace(self, tensors=tensors)

    @property
    def dtypes(self) -> set[torch.dtype]:
        """The dtypes of the tensors, whatever the config says, without those that are computed or stay in fp32."""
        left_out = (self.architecture.is_computed, self.architecture.stays_fp32)
        return {source.dtype for name, source in self.tensors.items() if not any(test(name) for test in left_out)}

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the tensors; if they have several, one that holds all values exactly."""
        return common_dtype(self.dtypes)

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(source.num_bytes for source in self.tensors.values())

    def save(self, folder: Path, max_shard_size: int) -> None:
        """Writes config and weights as safetensors into an existing folder, with a progress bar.

        The config names the dtype of the tensors, or, if they differ, one that holds all values exactly.

        Args:
            folder: The folder to write into.
            max_shard_size: Maximum bytes of a shard; a larger tensor gets its own. Shards are written in parallel.
        """
        shards = _assign(self.tensors, max_shard_size)
        with progress("writing weights", self.num_bytes) as advance, ThreadPoolExecutor(_NUM_WRITERS) as writers:
            jobs = [
                writers.submit(write_safetensors, folder / name, tensors, advance) for name, tensors in shards.items()
            ]
            for job in jobs:
                job.result()
        if len(shards) > 1:
            weight_map = {tensor: name for name, tensors in shards.items() for tensor in tensors}
            index = {"metadata": {"total_size": self.num_bytes}, "weight_map": weight_map}
            write_json(folder / SAFETENSORS_INDEX, index)
        config = with_dtype(self.architecture.written_config(self.config), dtype_name(self.dtype))
        write_json(folder / "config.json", config)


def _check_shapes(checkpoint: Checkpoint) -> None:
    expected = checkpoint.architecture.expected_shapes(checkpoint.config)
    missing, extra = sorted(expected.keys() - checkpoint.tensors), sorted(checkpoint.tensors.keys() - expected)
    if missing or extra:
        names, what = (missing, "lacks {} tensors") if missing else (extra, "has {} unexpected tensors")
        raise ModelError(f"{checkpoint.folder} {what.format(len(names))}: {', '.join(names[:5])}")
    _check_rows(checkpoint)
    for name, shape in expected.items():
        if (found := tuple(checkpoint.tensors[name].shape)) != shape:
            raise ModelError(f"{checkpoint.folder}: {name} has the shape {found}, but config.json says {shape}")


def _check_rows(checkpoint: Checkpoint) -> None:
    """Recognizes a base whose embeddings were resized, but not its config, or the other way round."""
    rows = {checkpoint.tensors[name].shape[0] for name in checkpoint.architecture.both_embeddings}
    vocab_size = checkpoint.config["vocab_size"]
    if len(rows) == 1 and rows != {vocab_size}:
        raise ModelError(
            f"{checkpoint.folder}: the embeddings have {rows.pop()} rows, but config.json says {vocab_size}: one was "
            "resized without the other; correct padded_vocab_size (vocab_size in the layout of transformers), or get "
            "the weights again"
        )


def _assign(tensors: dict[str, TensorSource], max_shard_size: int) -> dict[str, dict[str, TensorSource]]:
    shards: list[dict[str, TensorSource]] = [{}]
    size = 0
    for name, source in tensors.items():
        num_bytes = source.num_bytes
        if shards[-1] and size + num_bytes > max_shard_size:
            shards.append({})
            size = 0
        shards[-1][name] = source
        size += num_bytes
    if len(shards) == 1:
        return {"model.safetensors": shards[0]}
    return {f"model-{i:05d}-of-{len(shards):05d}.safetensors": shard for i, shard in enumerate(shards, start=1)}
