"""Configuration: composing conf/, reading params.yaml, binding a section to the function it feeds.

Light on purpose (hydra and omegaconf only): the dvc process imports this module as a Hydra plugin.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import OmegaConf
from yaml import YAMLError

from tuneledger.errors import UserError
from tuneledger.paths import PARAMS, code_root

_CONSTANTS = {"null", "true", "false", "nan", "inf"}
COMPOSE = "python -m tuneledger.stages.config"  # `dvc repro` cannot: dvc.yaml takes data.path from params.yaml


def conf_dir() -> Path:
    return code_root() / "conf"


def conf_sha() -> str:
    """Fingerprint of conf/: 12 hex digits over the names and bytes of all its YAML files.

    Of the checkout in which the process stands: `dvc exp run` composes that one's conf/, but imports this module from
    wherever the package is installed, which may be another checkout.
    """
    here = Path.cwd()
    checkouts = (folder for folder in (here, *here.parents) if (folder / "dvc.yaml").exists())
    folder = next(checkouts, code_root()) / "conf"
    digest = hashlib.sha256()
    files = [path for path in folder.rglob("*") if path.suffix in {".yaml", ".yml"}]
    for path in sorted(files, key=lambda path: path.relative_to(folder).as_posix()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


OmegaConf.register_new_resolver("conf_sha", conf_sha, replace=True)


def compose(overrides: list[str] | None = None) -> dict[str, Any]:
    """conf/ composed and resolved, as plain containers, the way `dvc exp run` composes it.

    Raises:
        UserError: conf/ does not compose.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    overrides = overrides or []
    running = GlobalHydra.get_state()  # of a Hydra application that asks from inside, which Hydra would refuse
    GlobalHydra.instance().clear()
    try:
        with composition_errors(overrides), initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return plain(hydra_compose("config", overrides=overrides))
    finally:
        GlobalHydra.set_state(running)


@contextmanager
def composition_errors(overrides: list[str] | None = None) -> Iterator[None]:
    """Turn what Hydra raises for an unknown key, group or option into a UserError that names the nearest known one.

    Args:
        overrides: what was asked for, for messages; None: the command line.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except YAMLError as error:
        raise UserError(f"conf/ does not compose: {_one_line(error)}") from error
    except (HydraException, OmegaConfBaseException) as error:
        text = str(error).split("\nConfig search path")[0].strip()
        unknown = re.match(r"Could not override '([^']+)'", text)
        if unknown:
            text = _unknown(unknown[1])
        raise UserError(text) from error
    except ValueError as error:
        if not str(error).startswith("Config group override"):
            raise
        raise UserError(_no_option(sys.argv[1:] if overrides is None else overrides)) from error


def _unknown(name: str) -> str:
    """What to say of a key, or of a group where the name has no dot, that there is not."""
    settings = compose()
    groups = [path.relative_to(conf_dir()).as_posix() for path in sorted(conf_dir().rglob("*")) if path.is_dir()]
    groups.remove("hydra")  # holds groups, such as hydra/launcher
    near = difflib.get_close_matches(name, flatten(settings) if "." in name else [*groups, *settings], n=1)
    if near:
        return f"unknown key {name}: did you mean {near[0]}?"
    if "." in name:
        return f"unknown key {name}; --cfg job lists all keys"
    own = [group for group in groups if not group.startswith("hydra/")]
    return f"unknown key {name}: there are the groups {', '.join(own)}; --cfg job lists the keys in them"


def _no_option(overrides: list[str]) -> str:
    """What to say where a group was given a number, a truth value or null, which Hydra takes for no option's name."""
    for override in overrides:
        group, _, value = override.lstrip("+~").partition("=")
        options = sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))
        if options and not set(value.split(",")) <= set(options):
            none = f"; for none of them ~{group}" if value == "null" else ""
            return f"{group}={value}: the group {group} has the options {', '.join(options)}{none}"
    return "a group's option that reads as a number or a truth value must be quoted, as in 'tracking=\"off\"'"


def plain(config: Any) -> dict[str, Any]:
    """A Hydra object as dicts, lists and scalars, every interpolation resolved."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def load_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as plain containers; read by OmegaConf, for which 2e-5 is a number (to PyYAML it is a string)."""
    try:
        return plain(OmegaConf.load(path))
    except YAMLError as error:
        raise UserError(f"{path} is not YAML: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted keys; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def two_levels(params: dict[str, Any]) -> dict[str, Any]:
    """Sections as one level of keys "section.key"; what lies deeper stays a value."""
    flat: dict[str, Any] = {}
    for name, section in params.items():
        flat |= (
            {f"{name}.{key}": value for key, value in section.items()} if isinstance(section, dict) else {name: section}
        )
    return flat


def overrides(params: dict[str, Any]) -> list[str]:
    """The `-S` arguments that turn conf/ as it is now into these sections."""
    try:
        composed = compose()
    except UserError:  # conf/ is being edited; the report of a finished run must not fail for that
        return []
    return differences(two_levels({name: composed[name] for name in params if name in composed}), two_levels(params))


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Hydra overrides that turn settings `old` into `new`, both keyed "section.key"."""
    changed = [
        f"{'' if key in old else '++'}{key}={literal(value)}"
        for key, value in new.items()
        if key not in old or old[key] != value
    ]
    return changed + [f"~{key}" for key in old if key not in new]


def literal(value: Any) -> str:
    """A value in Hydra's override grammar."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{literal(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(literal(inner) for inner in value) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    # A bare word that looks like a number, a boolean or null is read as one, hence quotes for all but plain words.
    if re.fullmatch(r"[A-Za-z_/.][\w/.:-]*", value, re.ASCII) and value.lower() not in _CONSTANTS:
        return value
    # Backslashes count as escapes only where they stand before a quote.
    return "'" + re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value) + "'"


def read_params(*sections: str, path: Path = PARAMS) -> dict[str, Any]:
    """The named top-level sections of params.yaml, and only those: a stage sees what it declares."""
    if not path.exists():
        raise UserError(f"{path} is missing: run `{COMPOSE}` in the project root, which composes it from conf/")
    params = load_yaml(path)
    missing = [name for name in sections if name not in params]
    if missing:
        raise UserError(f"{path} has no section {', '.join(missing)}: delete it and run `{COMPOSE}`")
    return {name: params[name] for name in sections}


def bind(function: Callable[..., Any], section: str, values: dict[str, Any]) -> dict[str, Any]:
    """`values` if they are keyword arguments of `function`: the signature is the section's schema.

    Raises:
        UserError: an unknown key (with the nearest known one), a missing one, or a value of another type than the
            signature says, under its full name.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    parameters = inspect.signature(function).parameters
    known = {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {section}.{near[0]}?" if near else f"known: {', '.join(known)}"
            raise UserError(f"unknown key {section}.{key}: {hint}")
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in values:
            raise UserError(f"missing key {section}.{name}")
    hints = get_type_hints(function)
    for key, value in values.items():
        try:
            TypeAdapter(hints[key], config=ConfigDict(strict=True)).validate_python(value)
        except ValidationError as error:
            problem = error.errors()[0]["msg"].lower().replace("input ", "")
            raise UserError(f"{section}.{key} = {value}: {problem}") from error
    return values


def guard() -> None:
    """Stop a stage that DVC started in one checkout but that imports its code from another.

    Without it a queued experiment, run in a temporary copy, would silently use an editable install's code.
    """
    if os.environ.get("DVC_STAGE") and Path.cwd().resolve() != code_root():
        raise UserError(
            f"the stage runs in {Path.cwd()} but imports tuneledger from {code_root()}: "
            "start it with PYTHONPATH=src, as dvc.yaml does"
        )
