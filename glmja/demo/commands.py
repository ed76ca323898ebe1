"""The commands of the README: what the demo does on the twin, for ChatGLM3-6B."""

BUILD_TOKENIZER = (
    "python -m glmja.build_tokenizer --base models/chatglm3-6b --corpus data/pretrain/ja --output models/tokenizer "
    "--check ja=data/heldout/ja.jsonl zh=data/heldout/zh.jsonl en=data/heldout/en.jsonl"
)
RESIZE_EMBEDDINGS = (
    "python -m glmja.resize_embeddings --base models/chatglm3-6b --tokenizer models/tokenizer --output models/zero"
)
EVALUATE_ZERO = (
    "python -m glmja.evaluate --model models/zero --baseline models/chatglm3-6b --output models/zero_test "
    "--text ja=data/heldout/ja.jsonl zh=data/heldout/zh.jsonl en=data/heldout/en.jsonl"
)
PRETRAIN = "python -m glmja.fit --config configs/pretrain.yaml --config configs/presets/zero2.yaml"
EXPORT_PRETRAINED = "python -m glmja.export --checkpoint runs/pretrain --output models/pretrained"
EVALUATE_PRETRAINED = (
    "python -m glmja.evaluate --model models/pretrained --baseline models/chatglm3-6b --output models/pretrained_test "
    "--text ja=data/heldout/ja.jsonl zh=data/heldout/zh.jsonl en=data/heldout/en.jsonl"
)
FINE_TUNE = "python -m glmja.fit --config configs/sft.yaml --config configs/presets/zero2.yaml"
EXPORT_CHAT = "python -m glmja.export --checkpoint runs/sft --output models/chat"
EVALUATE = (
    "python -m glmja.evaluate --model models/chat --baseline models/chatglm3-6b --output models/evaluation "
    "--text ja=data/heldout/ja.jsonl zh=data/heldout/zh.jsonl en=data/heldout/en.jsonl "
    "--generate ja=data/heldout/ja_chats.jsonl --runs runs/pretrain runs/sft"
)
