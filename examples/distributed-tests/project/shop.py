"""A few lines of a shop, to have something to test."""

import time


def price(items: dict[str, int], prices: dict[str, float]) -> float:
    """Sum of a basket."""
    return round(sum(count * prices[name] for name, count in items.items()), 2)


def slowly(seconds: float) -> float:
    """Stands for work that takes its time."""
    time.sleep(seconds)
    return seconds
