"""What must agree across files: conf/ and the functions it feeds, dvc.yaml and the imports, params.yaml and conf/."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
import scratch
import yaml
from omegaconf import OmegaConf

from tuneledger import paths
from tuneledger.conf import bind, compose, flatten, plain

CONF = scratch.ROOT / "conf"
SOURCE = scratch.ROOT / "src"


def stages(file: str) -> dict[str, dict[str, Any]]:
    return yaml.safe_load((scratch.ROOT / file).read_text(encoding="utf-8"))["stages"]


STAGES = stages("dvc.yaml")
PICTURES = stages("pictures/dvc.yaml")
ALL = {**STAGES, **{f"pictures/{name}": stage for name, stage in PICTURES.items()}}
TRACKING = {"enabled", "uri", "experiment", "log_model", "system_metrics"}
FED = {  # section -> module and function whose keyword-only arguments it is
    "data": "stages.prepare:prepare",
    "tokenizer": "text.tokenize:load_tokenizer",
    "model": "learn.encoder:load_encoder",
    "optim": "learn.optimizer:make_optimizer",
    "loss": "learn.loss:summed_loss",
    "loader": "learn.datamodule:Batches.__init__",
    "trainer": "learn.fit:fit",
    "cost": "ledger.price:price",
    "descent": "explore.descent:check_descent",
    "lr_find": "explore.ramp:ramp",
}
OPTIONS = [
    (folder.name, file.stem)
    for folder in sorted(CONF.iterdir())
    if folder.is_dir() and folder.name != "hydra"
    for file in sorted(folder.glob("*.yaml"))
]


def function(section: str) -> Callable[..., Any]:
    module, _, name = FED[section].partition(":")
    found: Any = importlib.import_module(f"tuneledger.{module}")
    for part in name.split("."):
        found = getattr(found, part)
    return found


def check_sections(config: dict[str, Any]) -> None:
    """Every section binds, every other key is known, and so are the keys inside trainer.select."""
    assert set(config) == {*FED, "tracking", "seed", "conf_sha"}
    for section in FED:
        bind(function(section), section, config[section])
    assert set(config["tracking"]) == TRACKING
    assert set(config["trainer"]["select"]) == {"metric", "mode"}
    assert isinstance(config["seed"], int)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_is_what_its_function_takes(group, option):
    check_sections(compose([f"{group}={option}"]))


def test_every_group_of_options_is_known():
    assert {group for group, _ in OPTIONS} == {*FED, "tracking", "experiment"}


def test_every_key_of_tracking_is_read():
    read = {
        node.slice.value
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant)
    }
    assert read >= TRACKING


def test_params_yaml_is_what_conf_composes_to():
    file = scratch.ROOT / "params.yaml"
    if not file.exists():
        pytest.skip("params.yaml is not committed yet")
    assert flatten(plain(OmegaConf.load(file))) == flatten(compose())


def stage_file(name: str) -> Path:
    """The module of a stage of either dvc.yaml."""
    return SOURCE / "tuneledger" / "stages" / f"{name.rpartition('/')[2]}.py"


def module_file(name: str) -> Path | None:
    """The file of a first-party module or package, None for anything else."""
    path = SOURCE / Path(*name.split("."))
    if path.with_suffix(".py").exists():
        return path.with_suffix(".py")
    return path / "__init__.py" if (path / "__init__.py").exists() else None


def imported(file: Path) -> set[Path]:
    """First-party files that a module imports anywhere, also inside functions, or starts by `python -m`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.List):
            words = [getattr(element, "value", None) for element in node.elts]
            names |= {module for flag, module in pairwise(words) if flag == "-m"}
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inside if all(map(module_file, inside)) else {node.module, *inside}
    return {found for name in names if name.startswith("tuneledger") and (found := module_file(name))}


def closure(file: Path) -> set[Path]:
    """A module and all that it imports, through any number of others."""
    seen, waiting = set(), [file]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting += imported(current)
    return seen


def says_something(file: Path) -> bool:
    """Whether a file holds code, unlike an __init__.py of a docstring only."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in body)


def names(entries: list[Any]) -> list[str]:
    """Paths of deps, outs, metrics or plots, with or without options."""
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def outs(stage: dict[str, Any]) -> list[str]:
    return names(list(chain.from_iterable(stage.get(kind, []) for kind in ("outs", "metrics", "plots"))))


@pytest.mark.parametrize("name", ALL)
def test_deps_cover_every_module_that_the_stage_imports(name):
    deps = [scratch.ROOT / dep for dep in names(ALL[name]["deps"]) if dep.startswith("src/")]
    needed = {file for file in closure(stage_file(name)) if says_something(file)}
    missing = {file for file in needed if not any(file.is_relative_to(dep) for dep in deps)}
    assert {file.relative_to(scratch.ROOT).as_posix() for file in missing} == set()


@pytest.mark.parametrize("name", ALL)
def test_no_dep_on_code_that_the_stage_does_not_use(name):
    used = closure(stage_file(name))
    for dep in names(ALL[name]["deps"]):
        path = scratch.ROOT / dep
        if dep.startswith("src/"):
            assert path.exists(), dep
            # MLflow runs this file as a script of its own; tracking.py names it by its path.
            assert any(file.is_relative_to(path) for file in used) or path.name == "served_model.py", dep


@pytest.mark.parametrize("name", ALL)
def test_the_command_runs_the_stage_of_its_name_from_this_checkout(name):
    assert ALL[name]["cmd"].startswith(f"PYTHONPATH=src python -m tuneledger.stages.{stage_file(name).stem}")
    assert stage_file(name).exists()


def test_every_stage_module_is_a_stage():
    modules = {file.stem for file in (SOURCE / "tuneledger" / "stages").glob("*.py")} - {"__init__"}
    assert modules == {*STAGES, *PICTURES}


def test_picture_stages_run_in_the_project_root():
    assert {stage["wdir"] for stage in PICTURES.values()} == {".."}


def constants(tree: ast.Module) -> dict[str, Any]:
    """Module-level names bound to tuples of strings."""
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Tuple)
    }


def sections_read(file: Path) -> set[str]:
    """Sections that a stage hands to read_params, by name or as *CONSTANT."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "read_params":
            for argument in node.args:
                if isinstance(argument, ast.Starred):
                    found |= set(constants(tree)[argument.value.id])
                else:
                    found.add(ast.literal_eval(argument))
    return found


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("config", "train")])
def test_params_are_the_sections_that_the_stage_reads(name):
    declared = {key.partition(".")[0] for key in names(ALL[name].get("params", []))}
    assert sections_read(stage_file(name)) - {"tracking"} == declared


def test_evaluate_declares_the_keys_it_reads():
    assert STAGES["evaluate"]["params"] == ["loader.eval_batch_size", "trainer.accelerator"]
    text = (SOURCE / "tuneledger" / "stages" / "evaluate.py").read_text(encoding="utf-8")
    keys = re.findall(r'params\["(\w+)"\]\["(\w+)"\]', text)
    assert [".".join(key) for key in keys] == STAGES["evaluate"]["params"]


def test_train_declares_every_section_that_decides_its_weights_or_its_record():
    file = SOURCE / "tuneledger" / "stages" / "train.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    used = {
        node.slice.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id == "config"
        and isinstance(node.slice, ast.Constant)
    }
    declared = set(STAGES["train"]["params"])
    assert declared == set(constants(tree)["WEIGHT_SECTIONS"])
    # data and tokenizer reach it through data/tokenized, which meta.json ties to them; the others change no result.
    assert used - declared <= {"data", "tokenizer", "tracking", "conf_sha"}


def test_every_out_has_one_writer():
    written = [Path(out) for stage in ALL.values() for out in outs(stage)]
    for one in written:
        assert [other for other in written if other.is_relative_to(one)] == [one]


def test_every_dep_that_is_no_source_is_an_out_or_there():
    written = {Path(out) for stage in ALL.values() for out in outs(stage)}
    for name, stage in ALL.items():
        for dep in names(stage["deps"]):
            known = dep == "${data.path}" or (scratch.ROOT / dep).exists()
            assert known or any(out.is_relative_to(dep) for out in written), f"{name}: {dep}"


def test_the_places_of_dvc_yaml_are_those_of_paths():
    assert outs(STAGES["config"]) == [str(paths.PARAMS)]
    assert outs(STAGES["prepare"]) == [str(paths.PREPARED), str(paths.AUDIT)]
    assert outs(STAGES["tokenize"]) == [str(paths.TOKENIZED)]
    for name, places in (
        ("train", (paths.BEST_MODEL, paths.TRAIN_RESULTS)),
        ("evaluate", (paths.EVAL_RESULTS,)),
        ("report", (paths.REPORTS,)),
    ):
        for out in outs(STAGES[name]):
            assert any(Path(out).is_relative_to(place) for place in places), out


def test_stages_never_import_each_other_and_nothing_imports_upwards():
    layers = {
        "stages": 4,
        "explore": 3,
        "sweep": 3,
        "learn": 2,
        "ledger": 2,
        "show": 2,
        "judge": 1,
        "text": 1,
        "data": 1,
    }
    for file in (SOURCE / "tuneledger").rglob("*.py"):
        own = file.relative_to(SOURCE / "tuneledger").parts[0]
        if own not in layers or file.name == "__init__.py":
            continue
        for other in imported(file):
            part = other.relative_to(SOURCE / "tuneledger").parts[0]
            if other.name != "__init__.py" and part in layers:
                assert layers[part] < layers[own] or (part == own != "stages"), f"{file} imports {other}"
