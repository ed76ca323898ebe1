import os
import subprocess
import sys

import pytest
import torch

from lit_modules import cpu
from lit_modules.cpu import has_bf16_instructions, prepare_cpu
from tests.support.tiny_run import make_trainer

PROGRAM = """
import resource, sys
import torch
from lit_modules.cpu import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(min(faults() for _ in range(3)))
"""


def measure(how):
    command = [sys.executable, "-c", PROGRAM, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow  # two processes that import torch
@pytest.mark.skipif(
    not hasattr(os, "confstr") or "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""), reason="glibc"
)
def test_memory_that_is_freed_and_allocated_again_causes_no_page_faults():
    assert measure("keep") < 100 < measure("return")


def test_a_slow_precision_is_warned_of(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, [], precision="bf16-mixed")
    monkeypatch.setattr(cpu, "has_bf16_instructions", lambda: False)
    with pytest.warns(
        UserWarning, match="^precision bf16-mixed is emulated on this CPU, which has .*; set it to 32-true$"
    ):
        prepare_cpu(trainer)


def test_no_other_precision_is_warned_of(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(cpu, "has_bf16_instructions", lambda: False)
    prepare_cpu(make_trainer(tmp_path, []))
    assert not recwarn.list


def test_a_cpu_with_avx_512_for_bfloat16_has_the_instructions():
    assert has_bf16_instructions() or not torch.cpu._is_avx512_bf16_supported()
