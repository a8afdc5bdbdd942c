"""Everything that the package promises can be imported, and importing it loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import keeptune


def test_every_public_name_resolves():
    for name in keeptune.__all__:
        assert getattr(keeptune, name) is not None
    assert set(keeptune.__all__) <= set(dir(keeptune))


def test_importing_the_package_loads_neither_torch_nor_transformers():
    program = (
        "import sys, keeptune; heavy = {'torch', 'transformers', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
