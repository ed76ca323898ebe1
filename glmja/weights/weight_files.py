"""Weight files: reads and writes safetensors, reads `.bin` files without executing code."""

from __future__ import annotations

import json
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from glmja.errors import ModelError
from glmja.files.json_files import read_json
from glmja.files.placeholders import describe_placeholder
from glmja.weights.quantization import check_tensor_names
from glmja.weights.tensors import Advance, FileTensor, MemoryTensor, TensorSource

SAFETENSORS_INDEX = "model.safetensors.index.json"
_BIN_INDEX = "pytorch_model.bin.index.json"
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# what zipfile and torch raise for damaged files
_DAMAGED = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError,
    zipfile.BadZipFile, struct.error,
)  # fmt: skip
_DTYPE_CODES = {dtype: code for code, dtype in _DTYPES.items()}


def open_weights(folder: Path) -> dict[str, TensorSource]:
    """Opens all tensors of a folder; only headers are read.

    Raises:
        ModelError: If there are no weights, a shard of the index does not exist, or a file is damaged or could only be
            loaded by executing code.
    """
    tensors: dict[str, TensorSource] = {}
    for path, names in _shards(folder).items():
        found = _open_safetensors(path) if path.suffix == ".safetensors" else _open_bin(path)
        missing = sorted(names - found.keys())
        if missing:
            raise ModelError(f"{path} lacks {len(missing)} tensors of the index: {', '.join(missing[:5])}")
        tensors.update(found)
    return tensors


def _shards(folder: Path) -> dict[Path, set[str]]:
    """Returns the weight files, and the tensors that the index assigns to each."""
    for index_name, single in ((SAFETENSORS_INDEX, "model.safetensors"), (_BIN_INDEX, "pytorch_model.bin")):
        if (folder / index_name).is_file():
            weight_map = read_json(folder / index_name).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise ModelError(f"{folder / index_name}: no weight_map")
            shards: dict[Path, set[str]] = {}
            for tensor, name in weight_map.items():
                if not isinstance(name, str) or not re.fullmatch(r"[\w.\-]+\.(safetensors|bin)", name):
                    shown = repr(name) if len(repr(name)) < 100 else f"{repr(name)[:100]}…"
                    raise ModelError(f"{folder / index_name}: {shown} is not the name of a weight file in this folder")
                shards.setdefault(folder / name, set()).add(tensor)
            for path in shards:
                if not path.is_file():
                    raise ModelError(f"{path} does not exist, but {index_name} names it; download it")
            return shards
        if (folder / single).is_file():
            return {folder / single: set()}
    raise ModelError(f"no weights in {folder}: neither model.safetensors nor pytorch_model.bin, nor an index of either")


def _open_safetensors(path: Path) -> dict[str, TensorSource]:
    try:
        with safe_open(path, "pt"):  # raises if the header is invalid or the size is not the header's
            pass
    except (SafetensorError, OSError) as error:
        reason = describe_placeholder(path) or f"damaged safetensors file ({error})"
        raise ModelError(f"{path}: {reason}") from error
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    tensors: dict[str, TensorSource] = {}
    header.pop("__metadata__", None)
    check_tensor_names(path, header)
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise _unsupported(path, name, entry["dtype"])
        dtype, offset = _DTYPES[entry["dtype"]], 8 + length + entry["data_offsets"][0]
        tensors[name] = FileTensor(path, dtype, tuple(entry["shape"]), offset)
    return tensors


def _open_bin(path: Path) -> dict[str, TensorSource]:
    try:
        # torch before 1.6 wrote files that are no zip archives, and cannot be mapped
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # about the pickle's protocol
            is_zip = zipfile.is_zipfile(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
            outlines = torch.load(path, map_location="meta", weights_only=True) if is_zip else {}
    except _DAMAGED as error:
        raise ModelError(f"{path}: {describe_placeholder(path) or _why_not_loaded(path, error)}") from error
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ModelError(f"{path}: not a dictionary of tensors")
    check_tensor_names(path, content)
    for name, tensor in content.items():
        if tensor.dtype not in _DTYPE_CODES:
            raise _unsupported(path, name, str(tensor.dtype))
    base = _mapped_at(content, outlines)
    return {name: _source(path, tensor, base) for name, tensor in content.items()}


def _mapped_at(content: Mapping[str, Tensor], outlines: Mapping[str, Tensor]) -> int | None:
    """Returns the address at which a `.bin` file is mapped; None if it is not, or torch does not report its offsets.

    Args:
        content: The tensors.
        outlines: The same on the meta device; none if the file is not mapped.
    """
    found = set()
    for name, outline in outlines.items():
        if content[name].numel():
            offset = getattr(outline.untyped_storage(), "_checkpoint_offset", None)
            found.add(None if offset is None else content[name].untyped_storage().data_ptr() - offset)
    return found.pop() if len(found) == 1 else None  # in an archive that was packed again, the offsets may be guesses


def _source(path: Path, tensor: Tensor, base: int | None) -> TensorSource:
    """Returns a tensor of a mapped file as a range of the file: pages of a map that were read count as memory used."""
    if base is None or not tensor.numel() or not tensor.is_contiguous():
        return MemoryTensor(tensor)
    return FileTensor(path, tensor.dtype, tuple(tensor.shape), tensor.data_ptr() - base)


def _why_not_loaded(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(2)
    if start != b"PK" and start[:1] != b"\x80":  # neither a zip archive nor a pickle
        return "damaged: not a file of torch; download it again"
    needs_code = "weights_only" in str(error).lower()
    reason = "it can only be loaded by executing code" if needs_code else "damaged"
    return f"{reason}; convert it to safetensors on a machine where you trust it"


def _unsupported(path: Path, name: str, dtype: str) -> ModelError:
    return ModelError(
        f"{path}: {name} has dtype {dtype}; supported are {', '.join(_DTYPES)}: if the model is quantized, get the "
        "full one"
    )


def write_safetensors(path: Path, tensors: dict[str, TensorSource], advance: Advance) -> None:
    """Writes a safetensors file: length of the header, JSON header, bytes (https://huggingface.co/docs/safetensors).

    Args:
        path: The file.
        tensors: The tensors by name.
        advance: Called with each number of bytes written.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
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
