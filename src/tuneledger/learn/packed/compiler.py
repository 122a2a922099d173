"""The C++ of this folder, compiled for this processor when it is first needed and kept in the user's cache."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

TORCH = Path(torch.__file__).parent
FOLDER = Path(__file__).parent
SOURCES = ("kernels.h", "kernels.cpp", "layer.cpp")
# Sums may be taken in any order, as vectors need it. Not -ffast-math, which also makes the whole process flush small
# numbers to zero, and would have a loss that is no number go unnoticed.
FLAGS = [
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fopenmp",
    "-fPIC",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-signed-zeros",
    "-fassociative-math",
    "-freciprocal-math",
]
WIDE = "-mprefer-vector-width=512"  # x86 only
TIMEOUT = 120  # seconds; it takes about 3


@cache
def kernels() -> ctypes.CDLL | None:
    """The compiled kernels, or None, and why on stderr, where there is no compiler or it cannot do it."""
    try:
        return _loaded(_compiler())
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip() or str(error)
        print(
            f"training on a CPU is slower than it could be, without compiled kernels: {said.splitlines()[0]}",
            file=sys.stderr,
        )
        return None


def _compiler() -> list[str]:
    if not torch.backends.openmp.is_available():
        raise OSError("this torch was built without OpenMP")
    compiler = shlex.split(os.environ.get("CXX", "")) or [shutil.which("c++")]
    if compiler == [None]:
        raise OSError("there is no C++ compiler (c++, or what $CXX names)")
    return compiler


def _loaded(compiler: list[str]) -> ctypes.CDLL:
    version = subprocess.run([*compiler, "--version"], capture_output=True, check=True, timeout=TIMEOUT).stdout
    flags = [*FLAGS, *([WIDE] if platform.machine() in ("x86_64", "AMD64") else []), f"-I{TORCH / 'include'}"]
    libraries = [*(TORCH / "lib").glob("libtorch_cpu.*"), _thread_library() or "-fopenmp"]
    # A home folder may be shared by machines with other processors.
    facts = (flags, [str(library) for library in libraries], torch.__version__, torch.cpu.get_capabilities())
    made_of = [*((FOLDER / source).read_bytes() for source in SOURCES), version, repr(facts).encode()]
    digest = hashlib.sha256(b"\0".join(made_of)).hexdigest()[:16]
    folder = _private_folder()
    library = folder and folder / f"kernels-{digest}.so"
    if library and library.exists():
        try:
            return _opened(library)
        except OSError:  # cut off by a power loss, say
            with suppress(OSError):  # another process did, or it is not ours to remove
                library.unlink()
    if folder and not os.access(folder, os.W_OK | os.X_OK):
        _not_kept(f"{folder} cannot be written")
        folder = library = None
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        linked = Path(temporary) / "kernels.so"
        compiled = []
        for unit in (source for source in SOURCES if source.endswith(".cpp")):
            compiled.append(Path(temporary) / f"{unit}.o")
            _run([*compiler, *flags, "-c", FOLDER / unit, "-o", compiled[-1]])
        _run([*compiler, "-shared", *compiled, "-o", linked, *libraries])
        opened = _opened(linked)
        if library:
            linked.replace(library)
    return opened


def _private_folder() -> Path | None:
    """The cache; None, and why on stderr, if there can be none, or if others could put a library there to run as us."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tuneledger"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.stat()
        if owner.st_uid != os.getuid() or owner.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(f"{folder} is not this user's alone")
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        _not_kept(error)
        return None
    return folder


def _not_kept(reason: object) -> None:
    print(f"kernels are compiled in each process anew, and not kept: {reason}", file=sys.stderr)


def _opened(library: Path) -> ctypes.CDLL:
    opened = ctypes.CDLL(str(library))
    opened.attention_cells.restype = opened.layer_bytes.restype = ctypes.c_int64
    opened.layer_forward.restype = opened.layer_backward.restype = ctypes.c_char_p
    return opened


def _thread_library() -> str | None:
    """torch's own copy of the OpenMP library: the threads of a second one would fight its threads for the cores."""
    found = sorted((TORCH / "lib").glob("libgomp*.so*"))
    return str(found[0]) if found else None


def _run(command: list[str | Path]) -> None:
    subprocess.run(command, capture_output=True, check=True, timeout=TIMEOUT)
