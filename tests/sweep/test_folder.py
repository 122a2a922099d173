from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import scratch

from tuneledger.errors import UserError
from tuneledger.sweep.folder import STATE, SweepFolder, claim

# What another process does: claim, say where, hold on until the other end of the pipe closes.
CLAIM = """
import sys, time
from pathlib import Path
from tuneledger.sweep.folder import claim
root, start = Path(sys.argv[1]), float(sys.argv[2])
time.sleep(max(0, start - time.time()))
folder = claim(root, root / "2026-11-24" / "09-30-00", "same", "command", given=False)
print(folder.path.name, folder.resumed, flush=True)
sys.stdin.read()
"""


def claimed(root: Path, identity: str = "same", time: str = "09-30-00") -> SweepFolder:
    return claim(root, root / "2026-11-24" / time, identity, "train --multirun seed=1,2", given=False)


def released(folder: SweepFolder) -> SweepFolder:
    """As after the end of the process that held it, however it ended."""
    folder.lock.release()
    return folder


def another_process(root: Path, start: float = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(root), str(start)],
        env=scratch.environment(PYTHONPATH=str(scratch.ROOT / "src")),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_new_sweep_gets_the_folder_hydra_meant_for_it(tmp_path):
    folder = claimed(tmp_path / "multirun")
    assert folder.path == tmp_path / "multirun" / "2026-11-24" / "09-30-00"
    assert not folder.resumed
    state = json.loads((folder.path / STATE).read_text())
    assert state == {"identity": "same", "command": "train --multirun seed=1,2", "finished": False}


def test_the_same_command_with_another_identity_says_what_it_leaves(tmp_path, capsys):
    first = released(claimed(tmp_path))
    assert claimed(tmp_path, identity="another", time="10-00-00").path != first.path
    said = f"not going on with {first.path}: conf/, the data or the code has changed since\n"
    assert capsys.readouterr().out == said


def test_the_same_sweep_goes_on_in_its_folder_on_another_day(tmp_path):
    first = released(claimed(tmp_path))
    (first.path / "0").mkdir()
    again = claim(tmp_path, tmp_path / "2026-11-25" / "08-00-00", "same", "command", given=False)
    assert (again.path, again.resumed) == (first.path, True)
    assert (first.path / "0").is_dir()


def test_another_sweep_starts_anew(tmp_path):
    first = released(claimed(tmp_path))
    other = claimed(tmp_path, "other")
    assert other.path == first.path.with_name("09-30-00-2")
    assert not other.resumed


def test_a_finished_one_starts_anew_and_names_its_winner(tmp_path):
    first = released(claimed(tmp_path))
    first.finish(7)
    state = json.loads((first.path / STATE).read_text())
    assert (state["finished"], state["winner"], state["identity"]) == (True, 7, "same")
    again = claimed(tmp_path, time="10-00-00")
    assert (again.path.name, again.resumed) == ("10-00-00", False)


def test_one_that_is_running_elsewhere_is_left_alone(tmp_path):
    process = another_process(tmp_path)
    assert process.stdout.readline() == "09-30-00 False\n"
    own = claimed(tmp_path)
    assert (own.path.name, own.resumed) == ("09-30-00-2", False)
    own.lock.release()
    process.kill()
    process.wait()
    assert claimed(tmp_path).path.name == "09-30-00"  # the kill has freed it


def test_two_at_the_same_moment_get_different_folders(tmp_path):
    start = time.time() + 1.5
    processes = [another_process(tmp_path, start) for _ in range(2)]
    assert sorted(process.stdout.readline() for process in processes) == ["09-30-00 False\n", "09-30-00-2 False\n"]
    for process in processes:
        process.communicate()


def test_killed_in_the_middle_of_the_claim_the_folder_serves_the_next_one(tmp_path):
    (tmp_path / "2026-11-24" / "09-30-00").mkdir(parents=True)
    assert claimed(tmp_path).path.name == "09-30-00-2"


class TestNamed:
    """hydra.sweep.dir given by hand."""

    @staticmethod
    def claim(path: Path, identity: str = "same") -> SweepFolder:
        return claim(path.parent, path, identity, "command", given=True)

    def test_a_new_or_empty_folder_is_taken(self, tmp_path):
        assert self.claim(tmp_path / "a").path == tmp_path / "a"
        (tmp_path / "b").mkdir()
        assert self.claim(tmp_path / "b").path == tmp_path / "b"

    def test_the_same_sweep_goes_on(self, tmp_path):
        released(self.claim(tmp_path / "a"))
        assert self.claim(tmp_path / "a").resumed

    @pytest.mark.parametrize("occupied", ["by another", "finished", "running", "by other things"])
    def test_one_that_is_taken_is_refused(self, tmp_path, occupied):
        path = tmp_path / "a"
        if occupied == "by other things":
            path.mkdir()
            (path / "thesis.txt").write_text("x")
        else:
            first = self.claim(path, "another" if occupied == "by another" else "same")
            if occupied == "finished":
                first.finish(0)
            if occupied != "running":
                released(first)
        before = {file: file.read_bytes() for file in path.iterdir()}
        with pytest.raises(UserError, match=r"^hydra\.sweep\.dir = .* holds another sweep, .*: name another folder"):
            self.claim(path)
        assert {file: file.read_bytes() for file in path.iterdir()} == before

    def test_an_unfinished_one_elsewhere_is_not_gone_on_with(self, tmp_path):
        released(claimed(tmp_path))
        assert not self.claim(tmp_path / "a").resumed
