"""The command line starts at once and never shows a traceback for a user's mistake."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest

QUICK = [["--help"], ["plan", "--help"], ["list"], ["list", "methods", "--json"], ["show", "sft"]]


def processor_seconds() -> float:
    """Processor time of finished children: what a start costs, however busy the machine is."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def keeptune(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "keeptune.cli", *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("arguments", QUICK, ids=" ".join)
def test_a_quick_command_needs_neither_torch_nor_half_a_second(arguments):
    program = (
        "import sys; sys.argv=['keeptune',*sys.argv[1:]]\n"
        "from keeptune.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'scipy', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    fastest = 9.0
    for _ in range(3):
        before = processor_seconds()
        result = subprocess.run(
            [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
        )
        fastest = min(fastest, processor_seconds() - before)
        assert result.returncode == 0, result.stderr
    assert fastest < 0.5


def test_an_unknown_command_is_answered_in_one_line():
    result = keeptune("trian")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "E-USAGE" in result.stderr


def test_with_json_an_error_is_exactly_one_object_on_stdout():
    result = keeptune("list", "metods", "--json")
    assert result.returncode == 2
    error = json.loads(result.stdout)["error"]
    assert error["code"] == "E-USAGE"
    assert "methods" in error["fix"]


def test_show_names_the_nearest_member():
    result = keeptune("show", "sftt")
    assert result.returncode == 2
    assert "Did you mean 'sft'?" in result.stderr
