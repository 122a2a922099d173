from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from tuneledger.conf import bind, conf_dir
from tuneledger.errors import UserError
from tuneledger.ledger.price import OWN_PRICE, price

CARD = {
    "as_of": "2026-06-17",
    "source": "a price list",
    "gpu_usd_per_hour": {"NVIDIA A10G": 1.2, "4x NVIDIA A10G": 5.0},
}
NOTHING = {"usd": None, "usd_per_hour": None, "price_source": None, "price_as_of": None}


def hardware(gpu: str | None = "NVIDIA A10G", gpus: int = 1) -> dict:
    return {"gpu": gpu, "gpus": gpus}


def test_known_gpu():
    assert price(1800, hardware(), **CARD) == {
        "usd": 0.6,
        "usd_per_hour": 1.2,
        "price_source": "a price list",
        "price_as_of": "2026-06-17",
    }


def test_several_gpus_have_their_own_line_and_are_never_multiplied():
    assert price(3600, hardware(gpus=4), **CARD)["usd"] == 5.0
    assert price(3600, hardware(gpus=2), **CARD) == NOTHING


@pytest.mark.parametrize("machine", [hardware("NVIDIA A10"), hardware(None, 0), {}])
def test_unknown_hardware_gives_no_figure(machine):
    assert price(3600, machine, **CARD) == NOTHING


def test_own_price_wins_and_does_not_borrow_the_cards_date():
    result = price(7200, hardware(), **CARD, usd_per_hour=0.5)
    assert result == {"usd": 1.0, "usd_per_hour": 0.5, "price_source": OWN_PRICE, "price_as_of": None}


def test_a_free_machine_and_no_time_cost_nothing():
    assert price(3600, hardware(None, 0), **CARD, usd_per_hour=0)["usd"] == 0
    assert price(0, hardware(), **CARD)["usd"] == 0


@pytest.mark.parametrize("usd", [-1, float("nan"), float("inf"), "cheap", True])
def test_a_price_that_is_none(usd):
    with pytest.raises(UserError, match=r"cost\.usd_per_hour is .*: give US dollars per hour"):
        price(1, hardware(), **CARD, usd_per_hour=usd)


def test_a_wrong_line_of_the_card_is_named():
    with pytest.raises(UserError, match=r"cost\.gpu_usd_per_hour\.T4 is -2"):
        price(1, hardware(), **CARD | {"gpu_usd_per_hour": {"T4": -2}})


def test_a_date_that_is_none():
    with pytest.raises(UserError, match=r"cost\.as_of is 'June': give the day of the prices as YYYY-MM-DD"):
        price(1, hardware(), **CARD | {"as_of": "June"})


def test_every_card_in_conf_is_usable():
    cards = sorted((conf_dir() / "cost").glob("*.yaml"))
    assert cards
    for card in cards:
        section = bind(price, "cost", OmegaConf.to_container(OmegaConf.load(card)))
        assert price(3600, hardware("no such GPU"), **section) == NOTHING
