"""No version known to be malicious or vulnerable satisfies the requirements of setup.cfg."""

import configparser
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

OPTIONS = configparser.ConfigParser()
OPTIONS.read(Path(__file__).parents[2] / "setup.cfg", encoding="utf-8")
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
    "lightning": "2.6.6", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2", "deepspeed": "0.19.8",
    "jsonargparse": "4.53.0",
}  # fmt: skip
PRIVATE = ("lightning", "peft", "deepspeed", "jsonargparse")


@pytest.mark.parametrize(("name", "version", "why"), BAD)
def test_a_malicious_or_vulnerable_version_is_never_installed(name, version, why):
    assert version not in REQUIRED[name].specifier, why


def test_the_tested_versions_can_be_installed():
    for name, version in TESTED.items():
        assert version in REQUIRED[name].specifier


@pytest.mark.parametrize("name", PRIVATE)
def test_where_private_interfaces_are_used_no_later_minor_version_is_installed(name):
    major, minor, _ = map(int, TESTED[name].split("."))
    assert f"{major}.{minor}.999" in REQUIRED[name].specifier
    assert f"{major}.{minor + 1}.0" not in REQUIRED[name].specifier
    assert f"{major + 1}.0.0" not in REQUIRED[name].specifier
