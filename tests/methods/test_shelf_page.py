"""What the command line lists, what the folder holds and what the pages describe is the same shelf."""

from __future__ import annotations

import json
import re
from pathlib import Path

from typer.testing import CliRunner

from keeptune.cli import app

ROOT = Path(__file__).parents[2]


def test_the_list_of_methods_the_folder_and_the_pages_agree():
    told = CliRunner().invoke(app, ["list", "methods", "--json"])
    listed = {one["name"]: one["summary"] for one in json.loads(told.stdout)["methods"]}
    folder = {path.stem for path in (ROOT / "keeptune" / "methods").glob("[a-z]*.py")}
    pages = {path.stem for path in (ROOT / "docs" / "methods").glob("*.md")}
    overview = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8").split("## Which one")[0]
    assert set(listed) == folder == pages == set(re.findall(r"\(methods/(\w+)\.md\)", overview))
    assert all(listed.values())
