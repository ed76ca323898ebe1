"""No version known to be malicious or vulnerable, nor one with other private interfaces, satisfies setup.cfg."""

import ast
import configparser
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
OPTIONS = configparser.ConfigParser()
OPTIONS.read(ROOT / "setup.cfg", encoding="utf-8")
REQUIRED = {r.name: r for r in map(Requirement, re.findall(r"^[a-z].*", OPTIONS["options"]["install_requires"], re.M))}

BAD = [
    ("lightning", "2.6.0", "CVE-2026-31221"),
    ("lightning", "2.6.2", "GHSA-w37p-236h-pfx3: malware that runs when it is imported"),
    ("lightning", "2.6.3", "GHSA-w37p-236h-pfx3"),
    ("torch", "2.9.1", "CVE-2026-24747"),
    ("torch", "2.5.1", "CVE-2025-32434"),
    ("transformers", "5.2.0", "CVE-2026-4372, CVE-2026-5241"),
    ("transformers", "4.57.0", "CVE-2026-4372"),
    ("deepspeed", "0.15.0", "CVE-2024-43497"),
    ("sentencepiece", "0.2.0", "CVE-2026-1260"),
    ("jsonargparse", "4.52.0", "no import_path_allowlist"),
]

TESTED = {
    "lightning": "2.6.6", "torch": "2.13.0", "transformers": "5.24.0", "peft": "0.21.2", "deepspeed": "0.19.8",
    "jsonargparse": "4.53.0",
}  # fmt: skip
# names with an underscore that the code reads from a library
PRIVATE_NAMES = {
    "deepspeed": {"_hp_mapping"},
    "lightning": {
        "_data_fetcher", "_format_config", "_init_deepspeed_distributed", "_interval", "_last_global_step_saved",
        "_should_check_val_fx", "_start_method",
    },
    "peft": {"_disable_adapters", "_register_custom_module"},
    "torch": {"_checkpoint_offset", "_is_mkldnn_bf16_supported", "_step_supports_amp_scaling"},
    "transformers": {"_attn_implementation"},  # where model classes, its own and others', find it
}  # fmt: skip
CAPPED = {*PRIVATE_NAMES, "jsonargparse"} - {"transformers"}


@pytest.mark.parametrize(("name", "version", "why"), BAD)
def test_a_malicious_or_vulnerable_version_is_never_installed(name, version, why):
    assert version not in REQUIRED[name].specifier, why


def test_the_tested_versions_can_be_installed():
    for name, version in TESTED.items():
        assert version in REQUIRED[name].specifier


def _private_names():
    """Returns names with an underscore that the code reads and does not define."""
    packages = ("glmja", "data_modules", "lit_modules", "callbacks")
    found, of_self, defined_anywhere = set(), set(), set()
    for path in [path for name in packages for path in (ROOT / name).rglob("*.py")]:
        defined, read = set(), set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr=name):
                    found.add(name)
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                    defined.add(name)
                case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                    defined.add(name)
                case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name):
                    of_self.add(name)
                case (
                    ast.Attribute(attr=name)
                    | ast.Call(func=ast.Name(id="getattr" | "hasattr"), args=[_, ast.Constant(value=str(name)), *_])
                ):
                    read.add(name)
        found |= read - defined
        defined_anywhere |= defined
    return {name for name in found | (of_self - defined_anywhere) if re.match("_[a-z]", name)}


def test_the_private_interfaces_in_use_are_listed():
    ours = {"_boolean_flags", "_exit"}  # a base class of this project; of os, where it is public
    assert _private_names() - ours == set().union(*PRIVATE_NAMES.values())


@pytest.mark.parametrize("name", sorted(CAPPED))
def test_where_private_interfaces_are_used_no_later_minor_version_is_installed(name):
    major, minor, _ = map(int, TESTED[name].split("."))
    assert f"{major}.{minor}.999" in REQUIRED[name].specifier
    assert f"{major}.{minor + 1}.0" not in REQUIRED[name].specifier
    assert f"{major + 1}.0.0" not in REQUIRED[name].specifier
