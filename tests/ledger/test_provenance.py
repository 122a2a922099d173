from __future__ import annotations

import hashlib
import os
import re
import socket
import subprocess
from pathlib import Path

import pytest
import scratch

from tuneledger.ledger import provenance
from tuneledger.ledger.provenance import file_digests, git_commit, run_key, run_tags, tokens_md5

LOCK = "stages:\n  tokenize:\n    outs:\n    - path: data/tokenized\n      hash: md5\n      md5: 12ab.dir\n"


@pytest.fixture
def repository(tmp_path) -> Path:
    root = tmp_path / "repository"
    (root / "results" / "train").mkdir(parents=True)
    for name in ("code.py", "dvc.lock", "results/train/metrics.json"):
        (root / name).write_text("{}\n")
    scratch.git(root, "init", "--quiet")
    scratch.git(root, "add", "--all")
    scratch.git(root, "commit", "--quiet", "--message", "start")
    return root


def head(root: Path) -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True).stdout.strip()


class TestGitCommit:
    def test_a_clean_checkout(self, repository):
        assert git_commit(repository) == (head(repository), False)
        assert re.fullmatch("[0-9a-f]{40}", head(repository))

    @pytest.mark.parametrize("staged", [False, True])
    def test_an_edited_file_is_dirt(self, repository, staged):
        (repository / "code.py").write_text("2\n")
        if staged:
            scratch.git(repository, "add", "code.py")
        assert git_commit(repository) == (head(repository), True)

    @pytest.mark.parametrize("name", ["data/raw/files/train.csv", "conf/model/x.yaml", "src/tuneledger/new.py"])
    def test_a_new_input_is_dirt_unless_it_is_ignored(self, repository, name):
        (repository / name).parent.mkdir(parents=True)
        (repository / name).write_text("new\n")
        assert git_commit(repository) == (head(repository), True)
        (repository / ".gitignore").write_text(f"/{name}\n")
        assert git_commit(repository) == (head(repository), False)

    def test_what_the_pipeline_writes_and_other_new_files_are_not(self, repository):
        (repository / "dvc.lock").write_text("stages: {}\n")
        (repository / "results" / "train" / "metrics.json").write_text("2\n")
        (repository / "new.txt").write_text("new\n")
        assert git_commit(repository) == (head(repository), False)

    def test_outside_git(self, tmp_path):
        assert git_commit(tmp_path) == (None, False)

    def test_before_the_first_commit(self, tmp_path):
        scratch.git(tmp_path, "init", "--quiet")
        assert git_commit(tmp_path) == (None, False)

    def test_without_git(self, repository, monkeypatch):
        monkeypatch.setenv("PATH", "")
        assert git_commit(repository) == (None, False)


class TestTokensMd5:
    def test_is_that_of_the_lock(self, tmp_path):
        (tmp_path / "dvc.lock").write_text(LOCK)
        assert tokens_md5(tmp_path) == "12ab.dir"

    @pytest.mark.parametrize(
        "lock", [None, "schema: '2.0'\n", "stages:\n  prepare: {}\n", LOCK.replace("tokenized", "other")]
    )
    def test_none_where_it_is_not_known(self, tmp_path, lock):
        if lock:
            (tmp_path / "dvc.lock").write_text(lock)
        assert tokens_md5(tmp_path) is None


def clear(monkeypatch) -> None:
    for name in ("DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "MLFLOW_PARENT_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


class TestRunTags:
    def test_by_hand_outside_git(self, tmp_path, monkeypatch):
        clear(monkeypatch)
        assert run_tags(tmp_path, "key", "sha") == {
            "mlflow.source.name": "tuneledger.stages.train",
            "conf_sha": "sha",
            "run_key": "key",
            "host": socket.gethostname(),
            "pid": str(os.getpid()),
        }

    def test_everything_in_a_dvc_experiment_of_a_sweep(self, repository, monkeypatch):
        monkeypatch.setenv("DVC_STAGE", "train")
        monkeypatch.setenv("DVC_EXP_NAME", "odd-name")
        monkeypatch.setenv("DVC_EXP_BASELINE_REV", "abc")
        monkeypatch.setenv("MLFLOW_PARENT_RUN_ID", "parent")
        (repository / "dvc.lock").write_text(LOCK)
        (repository / "code.py").write_text("2\n")
        tags = run_tags(repository, "key", "sha")
        assert tags["mlflow.source.git.commit"] == head(repository)
        assert tags["git.dirty"] == "true"
        assert (tags["dvc.stage"], tags["dvc.exp_name"], tags["dvc.exp_baseline_rev"]) == ("train", "odd-name", "abc")
        assert tags["dvc.tokens_md5"] == "12ab.dir"
        assert tags["mlflow.parentRunId"] == "parent"

    def test_a_clean_commit_says_so(self, repository, monkeypatch):
        clear(monkeypatch)
        assert run_tags(repository, "key", "sha")["git.dirty"] == "false"


def test_file_digests(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b").write_bytes(b"b")
    (tmp_path / "sub" / "a").write_bytes(b"")
    assert file_digests(tmp_path) == {
        "b": hashlib.sha256(b"b").hexdigest(),
        "sub/a": hashlib.sha256(b"").hexdigest(),
    }


SETTINGS = {"optim": {"lr": 1e-4}, "seed": 1}
DIGESTS = {"train.arrow": "ab"}


class TestRunKey:
    @pytest.fixture
    def code(self, tmp_path, monkeypatch) -> Path:
        """A source folder that a test may edit."""
        source = tmp_path / "src" / "tuneledger"
        source.mkdir(parents=True)
        (source / "module.py").write_text("one\n")
        monkeypatch.setattr(provenance, "code_root", lambda: tmp_path)
        return source

    def key(self, **settings) -> str:
        return run_key({**SETTINGS, **settings}, DIGESTS)

    def test_is_16_hex_digits_and_stable(self):
        assert re.fullmatch("[0-9a-f]{16}", self.key())
        assert run_key({"seed": 1, "optim": {"lr": 1e-4}}, DIGESTS) == self.key()

    def test_changes_with_settings_and_data(self):
        keys = {
            self.key(),
            self.key(seed=2),
            self.key(optim={"lr": 2e-4}),
            run_key(SETTINGS, {"train.arrow": "ac"}),
            run_key(SETTINGS, {}),
        }
        assert len(keys) == 5

    def test_changes_with_code(self, code):
        before = self.key()
        (code / "notes.txt").write_text("notes")
        assert self.key() == before
        (code / "module.py").write_text("two\n")
        changed = self.key()
        assert changed != before
        keys = [before, changed]
        for name in ("kernels.cpp", "kernels.h"):
            (code / name).write_text("three\n")
            keys.append(self.key())
        assert len(set(keys)) == 4

    @pytest.mark.parametrize("library", ["torch", "transformers", "lightning", "numpy"])
    def test_changes_with_the_libraries(self, monkeypatch, library):
        before, version = self.key(), provenance.version
        monkeypatch.setattr(provenance, "version", lambda name: "0" if name == library else version(name))
        assert self.key() != before
