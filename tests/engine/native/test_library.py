"""The compiled file: made once, never seen half-made, and absent without an error where it cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from keeptune.engine.native import library
from keeptune.engine.native.kernels import READ

COMPILER = any(map(library.shutil.which, library.COMPILERS))
needs_compiler = pytest.mark.skipif(not COMPILER, reason="no C compiler here")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(library.SWITCH, raising=False)
    return tmp_path / "cache" / "keeptune" / "kernels"


@pytest.fixture
def compilations(monkeypatch):
    made, run = [], subprocess.run
    monkeypatch.setattr(library.subprocess, "run", lambda *given, **named: made.append(given) or run(*given, **named))
    return made


@needs_compiler
def test_the_kernels_are_compiled_once_and_tried_once(cache, compilations):
    tried = []
    for _ in range(2):
        assert library.loaded(lambda found: tried.append(found) or True) is not None
    assert len(compilations) == len(tried) == 1
    assert [path.suffix for path in cache.iterdir()] == [".so"]


@needs_compiler
def test_kernels_that_do_not_agree_are_never_used_and_not_made_again(cache, compilations):
    assert library.loaded(lambda _: False) is None
    assert library.loaded(lambda _: pytest.fail("asked again")) is None
    assert len(compilations) == 1


@needs_compiler
def test_other_sources_or_another_processor_make_another_file(cache, monkeypatch):
    assert library.loaded(lambda _: True) is not None
    monkeypatch.setattr(library, "_instructions", lambda: "another processor")
    assert library.loaded(lambda _: True) is not None
    assert len(list(cache.iterdir())) == 2


@needs_compiler
def test_each_kind_of_number_has_a_file_of_its_own(cache, compilations):
    for flags in READ.values():
        for _ in range(2):
            assert library.loaded(lambda _: True, flags) is not None
    assert len(compilations) == len(list(cache.iterdir())) == len(READ)


@needs_compiler
def test_processes_that_make_it_at_once_all_have_it(cache):
    code = """import torch
from keeptune.engine.native.kernels import compiled
raise SystemExit(compiled(torch.bfloat16) is None)"""
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda _: subprocess.run([sys.executable, "-c", code], check=False).returncode, range(3)))
    assert runs == [0, 0, 0]
    assert len(list(cache.iterdir())) == 1


def test_the_switch_leaves_them_out(monkeypatch, compilations):
    monkeypatch.setenv(library.SWITCH, "0")
    assert library.loaded(lambda _: True) is None
    assert not compilations


def test_without_a_compiler_there_are_none(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert library.loaded(lambda _: True) is None


def test_a_compiler_that_fails_leaves_nothing_behind(cache, tmp_path, monkeypatch):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    assert library.loaded(lambda _: True) is None
    assert not list(cache.iterdir())


def test_a_cache_that_cannot_be_written_means_none(cache):
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    assert library.loaded(lambda _: True) is None


@needs_compiler
@pytest.mark.parametrize("left", [0, 1000, -1])
def test_a_file_that_was_cut_short_is_made_again(cache, left, compilations):
    assert library.loaded(lambda _: True) is not None
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    path.unlink()  # it stays mapped in this process
    path.write_bytes(whole[:left])
    assert library.loaded(lambda _: True) is not None
    assert len(compilations) == 2
    assert path.stat().st_size == len(whole)
