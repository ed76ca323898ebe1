r"""Adds pieces with the toolkit of arXiv 2512.03989, for `python -m benchmarks.tokenizer.peer --peer PYTHON`.

It is installed in an environment of its own, and this script imports nothing of glmja. The toolkit is not on PyPI, and
for SentencePiece it needs PyICU, which is built against ICU (Debian: `apt-get install g++ pkg-config libicu-dev`):

    python3 -m venv PEER && . PEER/bin/activate
    pip install git+https://github.com/taidopurason/tokenizer-extension@15e9ed7 PyICU

It is used as its scripts `train_extension.py` and `extend_tokenizer.py` do, with `is_sentencepiece` and the
implementation `sentencepiece`, and their defaults.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

PACKAGES = ["tokenizer_extension", "transformers", "tokenizers", "sentencepiece", "PyICU"]


def extend(base: Path, text: Path, num_new_pieces: int, output: Path) -> None:
    """Learns pieces and writes `tokenizer.model`, and `learned.json` with the pieces by rank and the versions."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # read on import
    from tokenizer_extension.extension import extend_sp_model  # type: ignore  # noqa: PLC0415
    from tokenizer_extension.train_vocab_extension import train_vocab_extension  # type: ignore  # noqa: PLC0415
    from transformers import AutoTokenizer  # noqa: PLC0415

    with text.open(encoding="utf-8") as lines:
        documents = [json.loads(line)["text"] for line in lines]
    tokenizer = AutoTokenizer.from_pretrained(base)
    vocabulary = train_vocab_extension(tokenizer, documents, num_new_pieces, is_sentencepiece=True)["vocab"]
    extend_sp_model(str(base / "tokenizer"), vocabulary, str(output / "tokenizer"), num_new_pieces)
    learned = {
        "pieces": sorted(vocabulary, key=vocabulary.__getitem__),
        "versions": ", ".join(f"{package} {version(package)}" for package in PACKAGES),
    }
    (output / "learned.json").write_text(json.dumps(learned), encoding="utf-8")


def main(args: Sequence[str] | None = None) -> None:
    """Extends a tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="Folder of tokenizer.model and tokenizer.json.")
    parser.add_argument("--text", type=Path, required=True, help="Training text as JSON lines with a field `text`.")
    parser.add_argument("--num_new_pieces", type=int, required=True, help="Number of pieces to learn.")
    parser.add_argument("--output", type=Path, required=True, help="Existing folder for the results.")
    extend(**vars(parser.parse_args(args)))


if __name__ == "__main__":
    main()
