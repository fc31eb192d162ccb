"""Hints name the program the way it was called."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from amal.runtime.program import program


def test_hints_are_printed_as_the_program_was_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "bin dir" / "amal"
    installed.parent.mkdir()
    installed.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(installed.parent))
    for called, told in (
        ("cli.py", "python cli.py"),
        ("../my checkout/cli.py", "python '../my checkout/cli.py'"),
        (str(installed), "amal"),
        ("/usr/lib/ipykernel_launcher.py", "amal"),
    ):
        monkeypatch.setattr(sys, "argv", [called, "fit"])
        assert program() == told
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "argv", [str(installed)])
    assert program() == f"'{installed}'", "where the shell would not find it"
