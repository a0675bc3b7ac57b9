"""The spread of runs that differ in their seeds alone."""

import statistics

from scipy.special import stdtrit  # Student's t; scipy.stats takes a second to import


def interval(values: list[float]) -> tuple[float, float] | None:
    """Where one more run would lie with 95 % confidence, if runs spread normally (Student's t); None for one value.

    The paper's number is of one run, so it is compared with this interval, not with the mean's narrower one.
    """
    if len(values) < 2:
        return None
    n, mean = len(values), statistics.mean(values)
    half = float(stdtrit(n - 1, 0.975)) * statistics.stdev(values) * (1 + 1 / n) ** 0.5
    return mean - half, mean + half


def mean_and_deviation(values: list[float], digits: int = 2) -> str:
    """Mean and standard deviation, "-" for none."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"
