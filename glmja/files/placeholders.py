"""Recognizes what may be stored in the place of a file: pointers of Git LFS, web pages, messages of servers."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_WEB_PAGE = re.compile(rb"\s*(<!doctype html|<html[\s>]|<\?xml[^>]*>\s*<Error>)", re.IGNORECASE)
_ERROR_PAGE = re.compile(  # all that the Hub, GitHub and others return instead of a file
    rb"\s*((404: )?not found|entry not found|repository not found|invalid (username or password|credentials)[^\n]*"
    rb"|access to (model|dataset) [^\n]*)\s*",
    re.IGNORECASE,
)
_ERROR_KEYS = {"error", "errors", "message", "detail", "status", "code", "error_code", "requestid", "documentation_url"}
_HEAD = 4096  # bytes


def describe_placeholder(path: str | os.PathLike[str]) -> str | None:
    """Describes what replaces a file, and how to get the file itself; None for any other content.

    Args:
        path: The file.
    """
    with Path(path).open("rb") as file:
        head = file.read(_HEAD).removeprefix(b"\xef\xbb\xbf")
    if head.startswith(_LFS_POINTER):
        return (
            "a Git LFS pointer, not the file itself; run `git lfs install` and `git lfs pull` in its repository, or "
            "download the file again"
        )
    if _WEB_PAGE.match(head) or _ERROR_PAGE.fullmatch(head):
        return _message(head[:60].decode("utf-8", "replace"))
    return None


def describe_error_object(content: Mapping[str, object]) -> str | None:
    """Describes a JSON object that is the error message of a server, as in `{"error": "Repository not found"}`."""
    keys = {key.lower() for key in content}
    if keys and keys <= _ERROR_KEYS and keys & {"error", "errors", "message"}:
        return _message(str(dict(content))[:60])
    return None


def _message(start: str) -> str:
    return (
        f"a web page or the message of a server, not data (it begins with {' '.join(start.split())!r}); download the "
        "file itself, after a login if it needs one"
    )
