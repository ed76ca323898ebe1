"""Adds Japanese to ChatGLM3-6B; Chinese and English tokenization stays unchanged.

The root holds the commands (`build_tokenizer`, `resize_embeddings`, `fit`, …), run as `python -m glmja.<verb>`. The
library is in the sub-packages. Only `fit` imports Lightning.
"""

__version__ = "0.1.0"
