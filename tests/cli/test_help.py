"""The list of commands in `--help` is whole sentences, on a terminal of eighty columns."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from keeptune import __version__
from keeptune.cli import app


@pytest.mark.parametrize("group", [[], ["data"]], ids=str)
def test_no_command_is_described_by_a_sentence_that_breaks_off(group):
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(app, [*group, "--help"])
    assert shown.exit_code == 0
    commands = shown.output.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert len(commands) >= 6
    assert all(line.endswith(".") and not line.endswith("...") for line in commands), commands


def test_the_version_is_shown_without_a_command():
    shown = CliRunner().invoke(app, ["--version"])
    assert (shown.exit_code, shown.output) == (0, f"keeptune {__version__}\n")
