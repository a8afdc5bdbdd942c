"""Triton's compiler takes every kernel, for a GPU of Ampere's and of Hopper's kind, though none is here."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from keeptune.engine.gpu import gated, next_token, norm, rotation

FLOAT, INT, FIXED = "fp32", "i32", "constexpr"
KERNELS = {
    "norm": (norm.value, {"epsilon": FLOAT, "width": INT, "BLOCK": 4096}, {"num_warps": 8}),
    "norm_back": (
        norm.back,
        {"epsilon": FLOAT, "width": INT, "AGAIN": True, "ONTO": True, "BLOCK": 4096},
        {"num_warps": 8},
    ),
    "gated": (gated.value, {"count": INT, "BLOCK": 1024}, {}),
    "gated_back": (gated.back, {"count": INT, "AGAIN": True, "BLOCK": 1024}, {}),
    "rotate": (
        rotation.rotate,
        {"stride": INT, "sign": FLOAT, "heads": INT, "half": INT, "HEADS": 32, "HALF": 64},
        {"enable_fp_fusion": False},
    ),
    "next_token": (
        next_token.next_token,
        {"targets": "*i64", "weights": "*fp32", "losses": "*fp32", "vocabulary": INT, "WEIGHED": True, "BLOCK": 4096},
        {"num_warps": 8},
    ),
}
found = {}
for capability in (80, 90):
    for name, (kernel, own, options) in KERNELS.items():
        for number in ("bf16", "fp16", "fp32"):
            fixed = {key: value for key, value in own.items() if not isinstance(value, str)}
            given = {key: FIXED if key in fixed else own.get(key, f"*{number}") for key in kernel.arg_names}
            source = ASTSource(kernel, signature=given, constexprs=fixed)
            made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
            found[f"{name} {number} {capability}"] = [made.asm["ptx"].count("fma.rn.f32"), len(made.asm["cubin"])]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """(fused products and sums, bytes) by kernel, number and capability."""
    kept = str(tmp_path_factory.mktemp("triton"))
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": kept}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_kernel_compiles_for_every_number(compiled):
    assert len(compiled) == 6 * 3 * 2
    assert all(size > 0 for _, size in compiled.values())


def test_a_rotation_rounds_its_products_before_it_adds_them(compiled):
    assert all(fused == 0 for name, (fused, _) in compiled.items() if name.startswith("rotate"))
    assert any(fused > 0 for name, (fused, _) in compiled.items() if name.startswith("norm"))
