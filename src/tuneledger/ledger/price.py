"""Seconds to US dollars, from a dated price card. Hardware that the card does not name gives no figure."""

from __future__ import annotations

from datetime import date
from typing import Any

from tuneledger.errors import UserError

OWN_PRICE = "your own price (cost.usd_per_hour)"


def price(
    seconds: float,
    hardware: dict[str, Any],
    *,
    as_of: str,
    source: str,
    gpu_usd_per_hour: dict[str, float],
    usd_per_hour: float | None = None,
) -> dict[str, Any]:
    """What `seconds` on this machine cost. The keyword arguments are the `cost` section.

    Args:
        seconds: wall time, 0 or more.
        hardware: `gpu` (name as the driver reports it, None without one) and `gpus` (how many).
        as_of: day on which the card's prices were looked up, YYYY-MM-DD.
        source: where, and for which machine.
        gpu_usd_per_hour: US dollars an hour of a machine with exactly this GPU; with several, the key is
            "4x <name>", since such machines are not priced at a multiple of one.
        usd_per_hour: US dollars an hour of the machine at hand, which wins over the card.

    Returns:
        usd, usd_per_hour, price_source, price_as_of; all None for hardware without a price, and price_as_of
        None for one's own price, whose date is not known.

    Raises:
        UserError: a price that is no number of 0 or more, or a date that is none.
    """
    _check_date(as_of)
    card = {name: _checked(f"gpu_usd_per_hour.{name}", usd) for name, usd in gpu_usd_per_hour.items()}
    hourly, origin, day = card.get(_machine(hardware)), source, as_of
    if usd_per_hour is not None:
        hourly, origin, day = _checked("usd_per_hour", usd_per_hour), OWN_PRICE, None
    if hourly is None:
        return {"usd": None, "usd_per_hour": None, "price_source": None, "price_as_of": None}
    return {
        "usd": round(hourly * seconds / 3600, 6),
        "usd_per_hour": hourly,
        "price_source": origin,
        "price_as_of": day,
    }


def _machine(hardware: dict[str, Any]) -> str | None:
    name, count = hardware.get("gpu"), hardware.get("gpus") or 0
    if not name or count < 1:
        return None
    return name if count == 1 else f"{count}x {name}"


def _checked(key: str, usd: Any) -> float:
    if isinstance(usd, bool) or not isinstance(usd, int | float) or not 0 <= usd < float("inf"):
        raise UserError(f"cost.{key} is {usd!r}: give US dollars per hour, a number of 0 or more")
    return float(usd)


def _check_date(as_of: str) -> None:
    try:
        date.fromisoformat(as_of)
    except (TypeError, ValueError):
        raise UserError(f"cost.as_of is {as_of!r}: give the day of the prices as YYYY-MM-DD, quoted") from None
