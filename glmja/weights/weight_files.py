"""Files of weights: safetensors read and written, `.bin` read without running code."""

from __future__ import annotations

import json
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from glmja.errors import ModelError
from glmja.files.json_files import read_json
from glmja.weights.tensors import Advance, FileTensor, MemoryTensor, Source

SAFETENSORS_INDEX = "model.safetensors.index.json"
_BIN_INDEX = "pytorch_model.bin.index.json"
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_DTYPE_CODES = {dtype: code for code, dtype in _DTYPES.items()}


def open_weights(folder: Path) -> dict[str, Source]:
    """All tensors of a folder; only headers are read.

    Raises:
        ValueError: If there are no weights, a shard that the index names does not exist, or a file is damaged or would
            need code to load.
    """
    tensors: dict[str, Source] = {}
    for path, names in _shards(folder).items():
        found = _open_safetensors(path) if path.suffix == ".safetensors" else _open_bin(path)
        missing = sorted(names - found.keys())
        if missing:
            raise ModelError(f"{path} lacks {len(missing)} tensors that the index names: {', '.join(missing[:5])}")
        tensors.update(found)
    return tensors


def _shards(folder: Path) -> dict[Path, set[str]]:
    """The files of weights, and the tensors that an index promises of each."""
    for index_name, single in ((SAFETENSORS_INDEX, "model.safetensors"), (_BIN_INDEX, "pytorch_model.bin")):
        if (folder / index_name).is_file():
            weight_map = read_json(folder / index_name).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise ModelError(f"{folder / index_name}: no weight_map")
            shards: dict[Path, set[str]] = {}
            for tensor, name in weight_map.items():
                if not isinstance(name, str) or not re.fullmatch(r"[\w.\-]+\.(safetensors|bin)", name):
                    raise ModelError(f"{folder / index_name}: {name!r} is not the name of a shard in this folder")
                shards.setdefault(folder / name, set()).add(tensor)
            for path in shards:
                if not path.is_file():
                    raise ModelError(f"{path} is named in {index_name} but does not exist; get the missing file")
            return shards
        if (folder / single).is_file():
            return {folder / single: set()}
    raise ModelError(f"no weights in {folder}: neither model.safetensors nor pytorch_model.bin, nor an index of either")


def _open_safetensors(path: Path) -> dict[str, Source]:
    try:
        with safe_open(path, "pt"):  # refuses a header or size that does not fit
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: damaged safetensors file ({error})") from error
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    tensors: dict[str, Source] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _DTYPES:
            raise ModelError(f"{path}: {name} has dtype {entry['dtype']}; known are {', '.join(_DTYPES)}")
        dtype, offset = _DTYPES[entry["dtype"]], 8 + length + entry["data_offsets"][0]
        tensors[name] = FileTensor(path, dtype, tuple(entry["shape"]), offset)
    return tensors


def _open_bin(path: Path) -> dict[str, Source]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = "it needs code to load" if "weights_only" in str(error).lower() else "damaged"
        raise ModelError(f"{path}: {reason}; convert it to safetensors where you trust it") from error
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ModelError(f"{path}: not a dictionary of tensors")
    for name, tensor in content.items():
        if tensor.dtype not in _DTYPE_CODES:
            raise ModelError(f"{path}: {name} has dtype {tensor.dtype}; known are {', '.join(_DTYPES)}")
    return {name: MemoryTensor(tensor) for name, tensor in content.items()}


def write_safetensors(path: Path, tensors: dict[str, Source], advance: Advance) -> None:
    """Writes the format of https://huggingface.co/docs/safetensors: length, JSON header, bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, source in tensors.items():
        begin, end = end, end + source.num_bytes
        header[name] = {"dtype": _DTYPE_CODES[source.dtype], "shape": source.shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as out:
        out.write(struct.pack("<Q", len(encoded)) + encoded)
        for source in tensors.values():
            source.copy(0, source.shape[0], out, advance)
