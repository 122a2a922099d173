"""`dvc repro pictures/dvc.yaml`: what a plain `dvc repro` does not pay for."""

from __future__ import annotations

import re
from pathlib import Path

import scratch

STAGES = ["lr_find", "descent", "structure", "report"]
PAGES = ("lr_find", "descent", "structure", "illustrated")


def test_the_pictures_are_made_when_asked_for_and_part_of_the_report(project: Path):
    assert not any((project / f"reports/{name}.html").exists() for name in PAGES)
    done = scratch.run(project, "dvc", "repro", "pictures/dvc.yaml").stdout
    ran = re.findall(r"Running stage '(.*)'", done)
    assert sorted(ran) == sorted(f"pictures/dvc.yaml:{name}" for name in STAGES)
    pages = {name: (project / f"reports/{name}.html").read_text(encoding="utf-8") for name in PAGES}
    assert {name: len(page) < 3_000_000 for name, page in pages.items()} == dict.fromkeys(PAGES, True)
    for name in STAGES[:3]:
        assert (project / f"reports/{name}/section.html").read_text(encoding="utf-8") in pages["illustrated"]
    # The address of a namespace or a licence is no reference.
    assert not re.search(r"""(?:src|href)=["']https?:""", "".join(pages.values()))

    again = scratch.run(project, "dvc", "repro", "pictures/dvc.yaml").stdout
    assert "Running stage" not in again
    new = scratch.run(project, "git", "status", "--porcelain", "results", "reports").stdout
    assert new == ""
    assert "Running stage" not in scratch.run(project, "dvc", "repro").stdout
