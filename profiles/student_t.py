"""Student's t distribution: its quantile gives the confidence interval of a few noisy medians.

With six processes the normal quantile would be a third too small. It is computed from the incomplete beta function,
so that no statistics library is required.
"""

from __future__ import annotations

import math
from functools import cache


@cache
def quantile(probability: float, freedom: int) -> float:
    """Value that is not exceeded with this probability; ``freedom``: number of samples minus one."""
    if not 0 < probability < 1 or freedom < 1:
        raise ValueError(f"no quantile for probability {probability:g} and {freedom} degrees of freedom")
    if probability < 0.5:
        return -quantile(1 - probability, freedom)
    low, high = 0.0, 1.0
    while cumulative(high, freedom) < probability:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if cumulative(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def cumulative(value: float, freedom: int) -> float:
    """Probability of at most ``value``."""
    if value < 0:
        return 1 - cumulative(-value, freedom)
    return 1 - _incomplete_beta(freedom / (freedom + value * value), freedom / 2, 0.5) / 2


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, by its continued fraction (Lentz's method)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # here the fraction of the complement converges quickly
        return 1 - _incomplete_beta(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    tiny = 1e-300
    c, d = 1.0, 1 / _off_zero(1 - (a + b) * x / (a + 1), tiny)
    fraction = d
    for m in range(1, 500):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _off_zero(1 + numerator * d, tiny)
            c = _off_zero(1 + numerator / c, tiny)
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * fraction / a


def _off_zero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
