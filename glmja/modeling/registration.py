"""Registers ChatGLM-6B with the auto classes of `transformers`, without importing it.

`import glmja` takes milliseconds and `transformers` takes seconds, so model and tokenizer are registered when
`transformers` has been imported, whichever of the two comes first.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_LIBRARY = "transformers"
_MODULES = ("glmja.modeling.chatglm1", "glmja.modeling.chatglm1_auto_tokenizer")


class _AfterLibrary(MetaPathFinder):
    """Finds `transformers` as it would be found without this finder, and registers the model once it is imported.

    Libraries also look for it without importing it, so the finder stays until it is.
    """

    is_searching = False

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        """Returns None for other modules."""
        if fullname != _LIBRARY or self.is_searching:
            return None
        self.is_searching = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self.is_searching = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                execute(module)
                _import()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def register() -> None:
    """Registers model and tokenizer now if `transformers` is imported, or as soon as it is."""
    if _LIBRARY in sys.modules:
        _import()
    else:
        sys.meta_path.insert(0, _AfterLibrary())


def _import() -> None:
    for name in _MODULES:
        importlib.import_module(name)
