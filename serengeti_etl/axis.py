"""Round numbers along the axis of a chart."""

import math


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values from ``low`` to ``high``: steps of 1, 2 or 5 times a power of ten.

    Args:
        low: where the axis begins.
        high: where it ends.
        most: at most so many values, from 2 up.
    """
    if not high > low:
        return [low]
    rough = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * one for one in (1, 2, 5, 10) if power * one >= rough * (1 - 1e-9))
    # Of the step, not of the value: an axis may show little of a large number.
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    # 3 * 0.1 is not 0.3.
    num_decimals = max(0, -math.floor(math.log10(step)))
    return [round(number * step, num_decimals) for number in range(first, last + 1)]
