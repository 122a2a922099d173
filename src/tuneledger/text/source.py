"""Where a model's files are: in an installed package, in a folder, or on the hub."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

from safetensors import SafetensorError

from tuneledger.errors import UserError

PACKAGE = "package://"


def locate(path: str, key: str = "model.path") -> str:
    """A path or hub id that transformers can open.

    Args:
        key: the setting that holds `path`, for messages.
        path: `package://NAME/FOLDER` inside an installed Python package, a local folder, or a hub id `owner/name`.

    Raises:
        UserError: the package is not installed, or the folder is missing or holds no config.json.
    """
    if path.startswith(PACKAGE):
        name, _, inside = path.removeprefix(PACKAGE).partition("/")
        spec = _find_package(name)
        if spec is None or not spec.submodule_search_locations:
            raise UserError(f"{key} = {path}: the package {name} is not installed; `pip install {name}`")
        return _folder(Path(spec.submodule_search_locations[0]) / inside, path, key)
    folder = Path(path).expanduser()
    looks_local = path.startswith(("/", ".", "~")) or path.count("/") != 1
    if folder.exists() or looks_local:
        return _folder(folder, path, key)
    return path


def _find_package(name: str) -> ModuleSpec | None:
    try:
        return find_spec(name)
    except (ImportError, ValueError):
        return None


def _folder(folder: Path, path: str, key: str) -> str:
    if not folder.is_dir():
        raise UserError(f"{key} = {path}: no such folder; give a model folder or a hub id owner/name")
    if not (folder / "config.json").exists():
        raise UserError(f"{key} = {path}: {folder} holds no config.json, so it is no Hugging Face model")
    return str(folder)


def verify(folder: str, sha256: str) -> None:
    """Check a local folder's model.safetensors against its expected SHA-256 (64 hex digits).

    Raises:
        UserError: another digest, or the file is missing.
    """
    weights = Path(folder) / "model.safetensors"
    if not weights.exists():
        raise UserError(f"model.sha256 is set, but {weights} does not exist; set model.sha256=null to skip it")
    found = _sha256(weights)
    if found != sha256:
        raise UserError(f"{weights}: SHA-256 is {found}, but model.sha256 expects {sha256}; reinstall the model")


def weight_digests(path: str) -> dict[str, str]:
    """SHA-256 of the files that a local model is built from, by name; none of a hub id, whose revision says it.

    Raises:
        UserError: see `locate`.
    """
    folder = Path(locate(path))
    if not folder.is_dir():
        return {}
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    return {file.name: _sha256(file) for file in files}


def _sha256(file: Path) -> str:
    state = file.stat()
    return _sha256_of(file, state.st_mtime_ns, state.st_ctime_ns, state.st_size)


@cache
def _sha256_of(file: Path, *state: int) -> str:
    """A file in an unchanged state is read once: a training asks twice, each job of a sweep again."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def hub_errors(path: str) -> Iterator[None]:
    """Turn what transformers raises for an unreachable or unusable model into one clear message."""
    try:
        yield
    except Exception as error:
        # The tokenizers library raises no class of its own.
        if not isinstance(error, OSError | ValueError | SafetensorError) and type(error) is not Exception:
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if Path(path).is_dir():
            raise UserError(f"model folder {path} cannot be loaded: {first}") from error
        raise UserError(
            f"model {path} is neither in the local cache nor to be had from the hub ({first}); "
            f"go online once, or run `hf download {path}` elsewhere and copy HF_HOME, "
            "or choose a model that is installed: model=minilm"
        ) from error
