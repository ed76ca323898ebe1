"""Gives ChatGLM3-6B Japanese without taking anything away, and proves it.

Nouns (`tokenizer`, `conversation`, `checkpoint`, …) are the library; verbs
(`build_tokenizer`, `resize_embeddings`, `fit`, …) are run as `python -m glmja.<verb>`.
Nothing here but `fit` knows of Lightning.
"""

__version__ = "0.1.0"
