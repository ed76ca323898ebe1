"""Generation at the size of ChatGLM3-6B on one GPU.

Run with `python -m benchmarks.inference.gpu_caches`; `--tiny` runs it on a CPU.

Random bf16 weights of the exact shape; prompts of 256 random tokens, 256 new tokens, greedy. Compared: the growing
cache of transformers (what `glmja.modeling.generation` uses), and its static cache, whose forward pass
transformers compiles by itself on a GPU. The first run of each, in which anything is compiled, does not count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from transformers import GenerationConfig

from benchmarks.harness.tables import Figures, machine, publish
from benchmarks.training.gpu import SIX_B, TINY, device, random_model, synchronize

CACHES = ("dynamic", "static")
BATCH_SIZES = (1, 8, 32)


def rate(model: Any, cache: str, batch_size: int, prompt_len: int, new_tokens: int, repeats: int) -> float:
    """New tokens a second of all rows together, the prompt's time included; median."""
    config = GenerationConfig(
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=2,
        cache_implementation="static" if cache == "static" else None,
    )
    ids_BT = torch.randint(3, model.config.vocab_size, (batch_size, prompt_len), device=model.device)
    seconds = []
    for _ in range(repeats + 1):
        synchronize()
        start = time.perf_counter()
        model.generate(ids_BT, attention_mask=torch.ones_like(ids_BT), generation_config=config)
        synchronize()
        seconds.append(time.perf_counter() - start)
    return batch_size * new_tokens / statistics.median(seconds[1:])


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="A tiny model and few tokens, on whatever device there is.")
    parser.add_argument("--repeats", type=int, default=3, help="Runs of each that count.")
    parser.add_argument("--markdown", help="File to write the table to.")
    args = parser.parse_args()
    torch.manual_seed(0)
    model = random_model(TINY if args.tiny else SIX_B, "sdpa").eval()
    prompt_len, new_tokens = (16, 16) if args.tiny else (256, 256)
    table = Figures(
        f"Greedy generation on {device()}, bf16, {prompt_len} + {new_tokens} tokens",
        ["rows at a time", *(f"{cache} cache, tokens/s" for cache in CACHES), "static / dynamic"],
    )
    with torch.inference_mode():
        for batch_size in BATCH_SIZES:
            rates = [rate(model, cache, batch_size, prompt_len, new_tokens, args.repeats) for cache in CACHES]
            cells = [f"{value:,.0f}" for value in rates]
            table.rows.append([str(batch_size), *cells, f"{rates[1] / rates[0]:.2f}"])
    publish([machine(["torch", "transformers"]), table], args.markdown)


if __name__ == "__main__":
    main()
