from __future__ import annotations

import subprocess
import sys

import pytest
import scratch

from tuneledger.errors import Interrupted, UserError, exit_code


def raising(error: BaseException):
    def main() -> None:
        raise error

    return main


def test_success_is_0(capsys):
    assert exit_code(lambda: 5) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("optim.lr = -1: give a positive number"), 2, "error: optim.lr = -1: give a positive number\n"),
        (Interrupted(15), 143, ""),
        (Interrupted(2), 130, ""),
        (KeyboardInterrupt(), 130, ""),
        (
            OSError(28, "No space left on device", "results/x.json"),
            2,
            "error: No space left on device: results/x.json\n",
        ),
        (OSError("nothing goes"), 2, "error: nothing goes\n"),
    ],
)
def test_what_happened_becomes_a_code_and_at_most_one_line(error, code, said, capsys):
    assert exit_code(raising(error)) == code
    assert capsys.readouterr() == ("", said)


def test_a_mistake_in_the_code_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 / 0)


def test_a_reader_that_has_gone_ends_quietly():
    program = (
        "import sys\nfrom tuneledger.errors import exit_code\n"
        "def main():\n    while True: print('line', flush=True)\nsys.exit(exit_code(main))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=scratch.environment(PYTHONPATH=str(scratch.ROOT / "src")),
    )
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), said) == (141, b"")


def test_interrupted_names_its_signal():
    stop = Interrupted(15)
    assert stop.signum == 15
    assert str(stop) == "interrupted by signal 15"
