from __future__ import annotations

import shutil
import stat
import tomllib
from pathlib import Path

import pytest
import scratch

from tuneledger.learn.packed import compiler

SLOWER = "training on a CPU is slower than it could be, without compiled kernels"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and a compiler, if there is one, that is not asked yet and in a hurry."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if shutil.which("c++"):
        monkeypatch.setenv("CXX", str(script(tmp_path / "quick", 'exec c++ "$@" -O0')))
    compiler.kernels.cache_clear()
    yield tmp_path / "cache"
    compiler.kernels.cache_clear()


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.skipif(shutil.which("c++") is None, reason="no compiler")
def test_kernels_are_compiled_once_and_leave_nothing_else(cache, tmp_path, monkeypatch):
    assert compiler.kernels() is not None
    [library] = list(cache.rglob("*"))[1:]
    assert library.name.startswith("kernels-") and library.suffix == ".so"
    calls = tmp_path / "calls"
    monkeypatch.setenv("CXX", str(script(tmp_path / "watched", f'echo "$@" >> {calls}\nexec c++ "$@" -O0')))
    compiler.kernels.cache_clear()
    assert compiler.kernels() is not None
    assert calls.read_text() == "--version\n"


def test_a_library_cut_off_is_compiled_again(cache):
    if compiler.kernels() is None:
        pytest.skip("no compiler")
    [library] = (cache / "tuneledger").iterdir()
    whole = library.stat().st_size
    library.unlink()  # and not cut off in place: it is loaded
    library.write_bytes(b"\x7fELF")
    compiler.kernels.cache_clear()
    assert compiler.kernels() is not None
    assert library.stat().st_size == whole


@pytest.mark.skipif(shutil.which("c++") is None, reason="no compiler")
def test_a_folder_that_others_can_write_to_is_not_used(cache, capsys):
    (cache / "tuneledger").mkdir(parents=True)
    (cache / "tuneledger").chmod(0o777)
    assert compiler.kernels() is not None
    assert not list((cache / "tuneledger").iterdir())
    assert capsys.readouterr().err == (
        f"kernels are compiled in each process anew, and not kept: {cache}/tuneledger is not this user's alone\n"
    )


def test_another_source_or_torch_is_another_file(cache, monkeypatch, tmp_path):
    if compiler.kernels() is None:
        pytest.skip("no compiler")
    shutil.copytree(compiler.FOLDER, tmp_path / "packed")
    monkeypatch.setattr(compiler, "FOLDER", tmp_path / "packed")
    for count, source in enumerate(compiler.SOURCES, start=2):
        with (tmp_path / "packed" / source).open("a") as file:
            file.write("// changed\n")
        compiler.kernels.cache_clear()
        assert compiler.kernels() is not None
        assert len(list((cache / "tuneledger").iterdir())) == count
    monkeypatch.setattr(compiler.torch, "__version__", "0.0")
    compiler.kernels.cache_clear()
    assert compiler.kernels() is not None
    assert len(list((cache / "tuneledger").iterdir())) == len(compiler.SOURCES) + 2


@pytest.mark.parametrize("text", ["exit 1", 'test "$1" = --version && exit 0; exit 1', "exit 0"])
def test_without_a_compiler_that_can_there_are_none(cache, tmp_path, monkeypatch, text, capsys):
    monkeypatch.setenv("CXX", str(script(tmp_path / "poor", text)))
    assert compiler.kernels() is None
    assert not list(cache.rglob("*.so"))
    assert capsys.readouterr().err.startswith(f"{SLOWER}: ")


def test_what_the_compiler_said_is_told(cache, tmp_path, monkeypatch, capsys):
    text = 'test "$1" = --version && exit 0; echo "fatal error: no shim.h" >&2; echo more >&2; exit 1'
    monkeypatch.setenv("CXX", str(script(tmp_path / "poor", text)))
    assert compiler.kernels() is None
    assert capsys.readouterr().err == f"{SLOWER}: fatal error: no shim.h\n"


def test_a_compiler_that_is_not_there(cache, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert compiler.kernels() is None
    assert "/nowhere/c++" in capsys.readouterr().err
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "/nowhere")
    compiler.kernels.cache_clear()
    assert compiler.kernels() is None
    assert capsys.readouterr().err == f"{SLOWER}: there is no C++ compiler (c++, or what $CXX names)\n"


def test_the_source_comes_with_the_package():
    patterns = tomllib.loads((scratch.ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for source in compiler.SOURCES:
        path = compiler.FOLDER / source
        assert any(path.match(f"tuneledger/{pattern}") for pattern in patterns["tuneledger"]), source


@pytest.mark.skipif(shutil.which("c++") is None, reason="no compiler")
class TestWithoutACache:
    """Kernels are there all the same, for this process."""

    said = "kernels are compiled in each process anew, and not kept: "

    def test_without_a_home(self, cache, monkeypatch, capsys):
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", nobody)
        assert compiler.kernels() is not None
        assert capsys.readouterr().err == f"{self.said}Could not determine home directory.\n"

    def test_a_cache_that_cannot_be_made(self, cache, monkeypatch, tmp_path, capsys):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        assert compiler.kernels() is not None
        assert capsys.readouterr().err.startswith(self.said)

    def test_what_is_in_a_cache_that_cannot_be_written_is_used(self, cache, monkeypatch, capsys):
        assert compiler.kernels() is not None
        compiler.kernels.cache_clear()
        monkeypatch.setattr(compiler.os, "access", lambda *_: False)
        monkeypatch.setattr(compiler, "_run", None)  # calling it would fail
        assert compiler.kernels() is not None
        assert capsys.readouterr().err == ""

    def test_a_cache_that_cannot_be_written(self, cache, monkeypatch, capsys):
        monkeypatch.setattr(compiler.os, "access", lambda *_: False)  # root may write anywhere
        assert compiler.kernels() is not None
        assert not list((cache / "tuneledger").iterdir())
        assert capsys.readouterr().err == f"{self.said}{cache}/tuneledger cannot be written\n"


def nobody():
    raise RuntimeError("Could not determine home directory.")
