"""The Microsoft Research Paraphrase Corpus: a folder with GLUE or original files, else the hub.

Source: Dolan and Brockett, "Automatically Constructing a Corpus of Sentential Paraphrases", IWP 2005.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from tuneledger.data import files
from tuneledger.data.read import read_tsv
from tuneledger.data.table import to_table
from tuneledger.errors import UserError

TEXT = ["sentence1", "sentence2"]
GLUE = {"train": "train.tsv", "validation": "dev.tsv"}
MSR = {"train": "msr_paraphrase_train.txt", "test": "msr_paraphrase_test.txt"}


def load(path: str, hub: str, revision: str) -> tuple[dict[str, pd.DataFrame], list[dict[str, Any]]]:
    """MRPC from the folder `path`, or from the hub while the folder holds none of its files.

    Returns:
        as `files.load`. GLUE files have no test labels, so no test split; the original ones no validation.

    Raises:
        UserError: no such folder, broken files, or the hub needed and out of reach.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"data.path={path} is no folder: put the MRPC files there or leave data.path as it was")
    layout = _layout(folder)
    if layout is None:
        return _from_hub(path, hub, revision)
    return files.load(path, layout, ["#1 String", "#2 String"], "Quality", reader=read_tsv)


def _layout(folder: Path) -> dict[str, str] | None:
    """Split to file name, or None. The original test file holds GLUE's test rows, with labels."""
    if any((folder / name).exists() for name in GLUE.values()):
        if (folder / MSR["test"]).exists():
            return GLUE | {"test": MSR["test"]}
        if (folder / "test.tsv").exists():
            print(f"{folder / 'test.tsv'} is left out: GLUE's test split has no labels")
        return GLUE
    return MSR if any((folder / name).exists() for name in MSR.values()) else None


def _from_hub(path: str, hub: str, revision: str) -> tuple[dict[str, pd.DataFrame], list[dict[str, Any]]]:
    print(
        f"no MRPC file in {path}: loading {hub} (mrpc) from the Hugging Face hub, revision {revision}",
        flush=True,
    )
    tables, sources = {}, []
    for split, columns in _download(path, hub, revision).items():
        if all(value == -1 for value in columns["label"]):  # how the hub marks rows without a label
            continue
        frame = pd.DataFrame(columns, dtype=object)
        frame.index += 1
        name = f"{hub}[{split}]"
        tables[split] = to_table(frame, name, text=TEXT, label="label")
        sources.append({"split": split, "file": name, "revision": revision, "rows": len(frame)})
    return tables, sources


def _download(path: str, hub: str, revision: str) -> dict[str, dict[str, list[Any]]]:
    """The hub's splits as lists by column, in the order train, validation, test."""
    from datasets import load_dataset  # seconds to import, and only needed here

    try:
        splits = load_dataset(hub, "mrpc", revision=revision)
    except Exception as error:  # network, proxy, cache and hub faults share no base class
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"cannot load {hub} (mrpc, revision {revision}) from the Hugging Face hub "
            f"({type(error).__name__}: {reason}): either put GLUE's train.tsv and dev.tsv or Microsoft's "
            f"msr_paraphrase_train.txt and msr_paraphrase_test.txt into {path}, or set data.path=FOLDER to "
            "where they are, or run once with a network, or set HF_HOME to a cache that holds it"
        ) from error
    return {name: splits[name].to_dict() for name in files.SPLITS if name in splits}
