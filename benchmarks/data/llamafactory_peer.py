r"""Measures LLaMA-Factory 0.9.5 for `python -m benchmarks.data.token_store --llamafactory PYTHON`: text to packed rows.

It needs other versions of transformers and datasets than glmja, so it is installed in an environment of its own, and
this script imports nothing of glmja. The commands below install all that preparing data needs. An empty file stands for
torchaudio, which is imported but not used; torchvision is not needed:

    python3 -m venv LF && . LF/bin/activate
    echo torch==2.13.0 > constraints.txt
    pip install -c constraints.txt torch 'transformers<=5.6.0' 'datasets<=4.0.0' 'accelerate<=1.11.0' \
        'peft>=0.18.0,<=0.18.1' 'trl<=0.24.0' omegaconf
    pip install --no-deps llamafactory==0.9.5
    touch "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torchaudio.py"
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

NAME = "ja"
PACKAGES = ["llamafactory", "transformers", "datasets", "tokenizers"]


def cpu_seconds() -> float:
    """Returns the processor time of this process and its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings that a user would write as YAML, and writes the description of the data set."""
    entry = {NAME: {"file_name": str(args.text.resolve()), "columns": {"prompt": "text"}}}
    (args.scratch / "dataset_info.json").write_text(json.dumps(entry), encoding="utf-8")
    return {
        "stage": "pt",
        "packing": True,
        "cutoff_len": args.row_len,
        "dataset": NAME,
        "dataset_dir": str(args.scratch),
        "model_name_or_path": str(args.tokenizer),
        "cache_dir": str(args.scratch),
        "output_dir": str(args.scratch),
        "overwrite_cache": True,
        "preprocessing_num_workers": args.workers,
        "preprocessing_batch_size": args.batch_size,
        "use_cpu": True,  # otherwise it refuses to start without torchrun on a machine with several GPUs
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Times `get_dataset` as LLaMA-Factory's own pretraining calls it.

    The call also loads the JSON, so `load_dataset` is timed by itself and subtracted.
    """
    os.environ["LLAMAFACTORY_VERBOSITY"] = "WARNING"  # read on import
    import datasets  # noqa: PLC0415
    from llamafactory.data import get_template_and_fix_tokenizer, loader  # type: ignore  # noqa: PLC0415
    from llamafactory.hparams import get_train_args  # type: ignore  # noqa: PLC0415
    from llamafactory.model import load_tokenizer  # type: ignore  # noqa: PLC0415

    datasets.disable_progress_bars()
    model_args, data_args, training_args, _, _ = get_train_args(settings(args))
    loaded = load_tokenizer(model_args)
    assert loaded["tokenizer"].is_fast
    template = get_template_and_fix_tokenizer(loaded["tokenizer"], data_args)
    loading = {"seconds": 0.0, "cpu": 0.0}

    def watched(*positional: Any, **named: Any) -> Any:
        start, before = time.perf_counter(), cpu_seconds()
        made = datasets.load_dataset(*positional, **named)
        loading.update(seconds=time.perf_counter() - start, cpu=cpu_seconds() - before)
        return made

    loader.load_dataset = watched
    start, before = time.perf_counter(), cpu_seconds()
    rows = loader.get_dataset(template, model_args, data_args, training_args, stage="pt", **loaded)["train_dataset"]
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - before
    assert loading["seconds"], "load_dataset was not called"
    return {
        "seconds": seconds - loading["seconds"],
        "with_loading": seconds,
        "cpu": cpu - loading["cpu"],
        "tokens": len(rows) * len(rows[0]["input_ids"]),  # with packing, a row has one token less than cutoff_len
        "versions": ", ".join(f"{package} {version(package)}" for package in PACKAGES),
    }


def main(args: Sequence[str] | None = None) -> None:
    """Measures once and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="JSON lines with a field `text`.")
    parser.add_argument("--tokenizer", type=Path, required=True, help="Folder of a fast tokenizer.")
    parser.add_argument("--scratch", type=Path, required=True, help="Empty folder for temporary files.")
    parser.add_argument("--workers", type=int, default=2, help="Number of processes.")
    parser.add_argument("--batch_size", type=int, default=1000, help="Documents per preprocessing call.")
    parser.add_argument("--row_len", type=int, default=1024, help="Tokens per row (`cutoff_len`).")
    print(json.dumps(measure(parser.parse_args(args))))


if __name__ == "__main__":
    main()
