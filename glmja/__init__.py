"""Adds Japanese to ChatGLM3-6B; Chinese and English tokenization stays unchanged.

The root holds the commands (`build_tokenizer`, `resize_embeddings`, `fit`, …), run as `python -m glmja.<verb>`. The
library is in the sub-packages. Only `fit` imports Lightning. After `import glmja`, `AutoModelForCausalLM` of
`transformers` loads ChatGLM-6B in the layout that glmja writes.
"""

from glmja.modeling import registration

__version__ = "0.1.0"

registration.register()
