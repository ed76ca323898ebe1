"""Names of model families and chat formats, without heavy imports: the help of the commands lists them."""

from __future__ import annotations

from typing import Literal

FamilyName = Literal["chatglm3", "chatglm2", "chatglm"]
PromptFormat = Literal["chatglm3", "chatglm2", "chatglm"]
