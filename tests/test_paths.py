from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import scratch

from tuneledger.paths import code_root, remove, replacing, store_root, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_code_root_is_the_checkout():
    assert code_root() == scratch.ROOT
    assert (code_root() / "dvc.yaml").exists()


def test_history_lies_where_dvc_says_the_main_checkout_is(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert store_root() == scratch.ROOT
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert store_root() == tmp_path.resolve()


def test_replacing_a_file_makes_its_folder_and_leaves_nothing_beside(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with replacing(target) as partial:
        partial.write_text("new")
        assert partial.parent == target.parent
        assert not target.exists()
    assert target.read_text() == "new"
    assert names(target.parent) == ["file.txt"]


def test_replacing_a_folder_drops_its_old_content(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").write_text("old")
    with replacing(target) as partial:
        partial.mkdir()
        (partial / "new").write_text("new")
        assert (target / "old").exists()
    assert names(tmp_path) == ["folder"]
    assert names(target) == ["new"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_on_failure_nothing_changed(tmp_path, kind):
    target = tmp_path / "target"
    if kind == "folder":
        target.mkdir()
        (target / "old").write_text("old")
    else:
        target.write_text("old")
    with pytest.raises(RuntimeError, match="midway"), replacing(target) as partial:
        if kind == "folder":
            partial.mkdir()
            (partial / "new").write_text("half")
        else:
            partial.write_text("half")
        raise RuntimeError("midway")
    assert names(tmp_path) == ["target"]
    assert (target / "old" if kind == "folder" else target).read_text() == "old"


def test_a_leftover_of_the_same_process_is_no_part_of_the_result(tmp_path):
    leftover = tmp_path / f".target.{os.getpid()}.partial"
    leftover.mkdir()
    (leftover / "stale").write_text("stale")
    with replacing(tmp_path / "target") as partial:
        partial.mkdir()
        (partial / "fresh").write_text("fresh")
    assert names(tmp_path / "target") == ["fresh"]


def test_data_reach_the_disk_before_the_rename(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append((tmp_path / "target").exists()))
    with replacing(tmp_path / "target") as partial:
        partial.mkdir()
        (partial / "one").write_text("1")
        (partial / "two").write_text("2")
    assert synced == [False, False, True]  # both files, then the folder that the rename changed


def test_remove_takes_files_folders_links_and_absence(tmp_path):
    folder = tmp_path / "folder"
    (folder / "inside").mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(folder)
    remove(link)
    assert folder.exists()
    remove(folder)
    remove(folder)
    assert names(tmp_path) == []


def test_write_text_is_utf8(tmp_path):
    write_text(tmp_path / "text", "Füße\n")
    assert (tmp_path / "text").read_bytes() == "Füße\n".encode()


def test_write_json_is_indented_and_plain(tmp_path):
    write_json(tmp_path / "a.json", {"größe": 1.5})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "größe": 1.5\n}\n'


def test_write_json_refuses_nan_and_keeps_the_old_file(tmp_path):
    file = tmp_path / "a.json"
    write_json(file, {"loss": 0.5})
    with pytest.raises(ValueError, match="JSON"):
        write_json(file, {"loss": float("nan")})
    assert json.loads(file.read_text()) == {"loss": 0.5}
    assert names(tmp_path) == ["a.json"]


def test_what_a_killed_process_left_is_cleared_and_what_a_living_one_writes_is_not(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / f".target.{dead.pid}.partial").write_text("half")
    living = tmp_path / f".target.{os.getppid()}.partial"
    living.write_text("being written")
    other = tmp_path / f".other.{dead.pid}.partial"
    other.write_text("not ours to clear")
    write_text(tmp_path / "target", "whole")
    assert names(tmp_path) == sorted(["target", living.name, other.name])
