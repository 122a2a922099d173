"""The machine that measures: what it is, whether it is idle, and what a process took on it."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from tuneledger.errors import Interrupted, UserError
from tuneledger.learn.packed.compiler import kernels
from tuneledger.ledger.measure import cpu_name

LIBRARIES = ("torch", "transformers", "accelerate", "lightning", "mlflow", "tokenizers", "numpy")
# What changes speed; other variables are nobody's business.
VARIABLES = re.compile(r"(G?OMP|KMP|MKL|DNNL|ONEDNN|TORCH\w*|ATEN|MALLOC|GLIBC)_|LD_PRELOAD|PYTHONDONT|CXX$")
BUSY = 0.05  # of a core
LOOK_SECONDS = 2.0
PATIENCE_SECONDS = 600.0


def environment() -> dict[str, Any]:
    """Processor with its vector and matrix instructions, memory, versions, variables that change speed.

    Also whether our kernels can be compiled here: what is measured as ours must not be its fallback unnoticed.
    """
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return {
        "cpu": cpu_name(),
        "flags": sorted(flag for flag in flags if flag.startswith(("avx", "amx", "fma"))),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "compiled_kernels": kernels() is not None,
        "versions": {name: version(name) for name in LIBRARIES},
        "variables": {name: value for name, value in sorted(os.environ.items()) if VARIABLES.match(name)},
    }


def end_with_children() -> None:
    """From here on SIGTERM ends the runs under way too; a terminal's Ctrl-C reaches them by itself."""

    def end(signum: int, frame: FrameType | None) -> None:
        for child in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):  # which has ended just now
                child.terminate()
        raise Interrupted(signum, saved=False)

    signal.signal(signal.SIGTERM, end)


def wait_until_idle() -> None:
    """Return once no other process takes more than BUSY of a core; UserError if that takes PATIENCE_SECONDS."""
    until, told = time.monotonic() + PATIENCE_SECONDS, False
    while others := busy_processes():
        if time.monotonic() > until:
            raise UserError(f"the machine is not idle: {others}; end that, or measure --anyway")
        if not told:
            print(f"waiting for an idle machine: {others}", flush=True)
        told = True


def busy_processes() -> str:
    """Other processes above BUSY, as "name (pid) share", watched for LOOK_SECONDS; empty if there is none."""
    before = _cpu_seconds()
    time.sleep(LOOK_SECONDS)
    shares = {pid: (seconds - before.get(pid, 0.0)) / LOOK_SECONDS for pid, seconds in _cpu_seconds().items()}
    return ", ".join(f"{_name(pid)} ({pid}) {share:.0%}" for pid, share in shares.items() if share > BUSY)


def _cpu_seconds() -> dict[int, float]:
    """So far, by process, this one left out."""
    infos = [process.info for process in psutil.process_iter(["pid", "cpu_times"])]
    known = [info for info in infos if info["pid"] != os.getpid() and info["cpu_times"]]
    return {info["pid"]: info["cpu_times"].user + info["cpu_times"].system for info in known}


def _name(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:  # it has ended meanwhile
        return "?"


def measured(command: list[str], folder: Path, log: Path, environ: dict[str, str]) -> dict[str, Any]:
    """Run a command in `folder` to its end, its words into `log`; nothing looks at it meanwhile.

    Returns:
        exit_code; started (nanoseconds since 1970); exit_seconds; load (of one minute, before it); cpu_seconds of it
        and its children; other_cpu_seconds, what the machine computed beside it; stolen_seconds, what its host gave
        to others; disturbed: if these two are above BUSY of a core.
    """
    load, before, started = os.getloadavg()[0], psutil.cpu_times(), time.time_ns()
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, cwd=folder, env=environ, stdout=output, stderr=subprocess.STDOUT)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)  # or Popen would look for a process that is gone
    seconds, after = (time.time_ns() - started) / 1e9, psutil.cpu_times()
    own = usage.ru_utime + usage.ru_stime
    computed = sum(
        getattr(after, name) - getattr(before, name) for name in ("user", "nice", "system", "irq", "softirq")
    )
    other, stolen = computed - own, after.steal - before.steal
    return {
        "exit_code": process.returncode,
        "started": started,
        "exit_seconds": seconds,
        "load": load,
        "cpu_seconds": own,
        "other_cpu_seconds": other,
        "stolen_seconds": stolen,
        "disturbed": other + stolen > BUSY * seconds,
    }
