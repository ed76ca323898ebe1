"""Memory and speed of common GPUs."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """Memory and speed of a GPU.

    Attributes:
        name: A part of the name that the driver gives to the device.
        memory: Memory in bytes.
        tflops: Peak in 10¹² operations per second on dense 16-bit matrices; None if it is unknown.
    """

    name: str
    memory: float
    tflops: float | None


# From NVIDIA's data sheets, dense bf16 with accumulation in fp32; the first whose name matches is used.
KNOWN = (
    Gpu("H200", 141e9, 989.0),
    Gpu("H100 PCIe", 80e9, 756.0),
    Gpu("H100 NVL", 94e9, 835.0),
    Gpu("H100", 80e9, 989.0),
    Gpu("A100", 80e9, 312.0),
    Gpu("L40S", 48e9, 362.0),
    Gpu("RTX 4090", 24e9, 165.0),
    Gpu("RTX 3090", 24e9, 71.0),
)


MACHINES = ("1xRTX 4090", "1xA100", "4xRTX 4090", "8xH100")  # of 24 or 80 GB each


def known_gpu(name: str) -> Gpu | None:
    """Returns the GPU of a device's name; None if it is not known."""
    return next((gpu for gpu in KNOWN if gpu.name.lower() in name.lower()), None)


def parse_machine(text: str) -> tuple[int, Gpu]:
    """Parses a number of GPUs and their name, or their memory in GB, such as `8xH100` or `4x24`.

    Raises:
        ValueError: If it has another form, or names no known GPU.
    """
    found = re.fullmatch(r"([1-9]\d*) *[x×] *(.+)", text.strip())
    count, name = (int(found[1]), found[2]) if found else (0, "")
    gpu = known_gpu(name) or next((gpu for gpu in KNOWN if gpu.name.lower().endswith(f" {name.lower()}")), None)
    if gpu is None and (size := re.fullmatch(r"(\d+(?:\.\d+)?) *(?:GB)?", name)):
        gpu = Gpu(f"{size[1]} GB", float(size[1]) * 1e9, None)
    if not count or gpu is None:
        raise ValueError(
            f"{text!r} names no GPUs; write a number and a name ({', '.join(gpu.name for gpu in KNOWN)}) or a size, as "
            "in 8xH100 or 4x24"
        )
    return count, gpu
