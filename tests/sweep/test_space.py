from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from tuneledger.conf import conf_dir
from tuneledger.errors import UserError
from tuneledger.sweep.space import Interval, Space, read_space


@pytest.fixture(scope="module")
def loader() -> Iterator[Any]:
    """Hydra's config loader, over the real conf/."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@pytest.mark.parametrize(
    ("argument", "key", "values"),
    [
        ("optim.lr=1e-5,3e-5", "optim.lr", ["1e-05", "3e-05"]),
        ("seed=range(1,4)", "seed", ["1", "2", "3"]),
        ("optim.warmup=range(0,0.3,0.1)", "optim.warmup", ["0.0", "0.1", "0.2"]),
        ("loader=glob(*)", "loader", ["grouped", "padded"]),
        ("loader=glob(*,exclude=p*)", "loader", ["grouped"]),
        ("loader=padded,grouped", "loader", ["padded", "grouped"]),
        ("optim.betas=[0.9,0.99],[0.8,0.9]", "optim.betas", ["[0.9,0.99]", "[0.8,0.9]"]),
        ("data.label='is, or not','b=c'", "data.label", ["'is, or not'", "'b=c'"]),
        ("optim.schedule=linear,'constant'", "optim.schedule", ["linear", "'constant'"]),
        ("trainer.patience=null,2", "trainer.patience", ["null", "2"]),
        ("seed=sort(3,1,2)", "seed", ["1", "2", "3"]),
        ("+experiment=deck,smoke", "+experiment", ["deck", "smoke"]),
        ("++optim.lr=1,2", "++optim.lr", ["1", "2"]),
    ],
)
def test_choices(loader, argument, key, values):
    assert read_space([argument], loader) == Space([], {key: values}, {})


@pytest.mark.parametrize("argument", ["optim.lr=1e-4", "optim.betas=[0.9,0.99]", "data.label='a,b'", "~experiment"])
def test_one_value_is_shared_as_typed(loader, argument):
    assert read_space([argument], loader) == Space([argument], {}, {})


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("interval(0.1,0.5)", Interval(0.1, 0.5, log=False, whole=False)),
        ("tag(log,interval(1e-5,1e-3))", Interval(1e-5, 1e-3, log=True, whole=False)),
        ("int(interval(1,8))", Interval(1, 8, log=False, whole=True)),
        ("tag(log,int(interval(8,64)))", Interval(8, 64, log=True, whole=True)),
        ("interval(1,8)", Interval(1.0, 8.0, log=False, whole=False)),  # Hydra's own reading of it
    ],
)
def test_intervals(loader, text, interval):
    space = read_space([f"optim.lr={text}"], loader)
    assert space == Space([], {}, {"optim.lr": interval})
    assert isinstance(space.intervals["optim.lr"].low, int) is interval.whole


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("optim.lr=interval(3,1)", "optim.lr=interval(3.0,1.0): give two numbers, the smaller one first"),
        ("optim.lr=interval(1,1)", "optim.lr=interval(1.0,1.0): give two numbers, the smaller one first"),
        ("optim.lr=interval(1,inf)", "optim.lr=interval(1.0,inf): give two numbers, the smaller one first"),
        ("optim.lr=interval(nan,1)", "optim.lr=interval(nan,1.0): give two numbers, the smaller one first"),
        ("optim.lr=tag(log,interval(0,1))", "optim.lr=interval(0.0,1.0): a log scale needs numbers above 0"),
        ("seed=shuffle(1,2,3)", "seed: shuffle() gives another sweep each time; leave it out"),
        ("seed=shuffle(range(1,4))", "seed: shuffle() gives another sweep each time; leave it out"),
        ("seed=range(3,1)", "seed=range(3,1): there is no value in it"),
        ("seed=range(1,5,0)", "seed=range(1,5,0): range() arg 3 must not be zero"),
        ("loader=glob(pad_*)", "loader=glob(pad_*): there is no value in it"),
        ("seed=tag(log,range(1,4))", "seed: a range has fixed steps, so the tag log means nothing; use interval"),
    ],
)
def test_what_cannot_be_swept(loader, argument, message):
    with pytest.raises(UserError) as error:
        read_space([argument], loader)
    assert str(error.value) == message


def test_of_two_for_one_key_the_last_counts(loader):
    assert read_space(["seed=1,2", "seed=3"], loader) == Space(["seed=3"], {}, {})
    assert read_space(["seed=3", "seed=1,2"], loader) == Space([], {"seed": ["1", "2"]}, {})


def test_the_grid_is_in_the_order_in_which_hydra_numbers_its_jobs(loader):
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    arguments = ["optim.lr=1e-5,3e-5", "trainer.max_epochs=2", "loader=glob(*)", "seed=1,2"]
    space = read_space(arguments, loader)
    assert space.fixed == ["trainer.max_epochs=2"]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(arguments)
    (jobs,) = BasicSweeper.split_arguments(parsed, None)
    swept = [[text for text in job if text not in space.fixed] for job in jobs]
    assert [[f"{key}={value}" for key, value in values.items()] for values in space.grid()] == swept
    assert len(swept) == 8


def test_an_interval_is_no_grid(loader):
    with pytest.raises(UserError, match=r"^optim\.lr is an interval, .* use hydra/sweeper=search"):
        read_space(["seed=1,2", "optim.lr=interval(0,1)"], loader).grid()


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        (["seed=1"], 1),
        (["seed=1,2,3", "loader=glob(*)"], 6),
        (["seed=1,2,2"], 2),
        (["seed=1,2", "loader.batch_size=int(interval(8,10))"], 6),
        (["seed=1,2", "optim.lr=interval(1,2)"], inf),
    ],
)
def test_the_size_is_the_number_of_different_trials(loader, arguments, size):
    assert read_space(arguments, loader).size() == size
