"""Numbers as a reader takes them in."""

from __future__ import annotations

from dmpo.reporting.intervals import MeanInterval

__all__ = ["duration_text", "interval_text", "short_number"]

_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def duration_text(seconds: float) -> str:
    """Return a time in two or three digits, with the unit of its size.

    Example:
        >>> duration_text(2.34), duration_text(75), duration_text(4000), duration_text(90_000)
        ('2.3 s', '75 s', '67 min', '25 h')
    """
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        hours = seconds / 3600
        return f"{hours:.1f} h" if hours < 9.95 else f"{hours:.0f} h"
    return f"{seconds / 86400:.0f} d"


def interval_text(interval: MeanInterval) -> str:
    """Return ``mean ± half width``; the mean alone with a single seed."""
    half = interval.half_width
    largest = max(abs(interval.mean), half or 0.0)
    digits = 3 if largest < 10 else 2 if largest < 100 else 1
    text = f"{interval.mean:.{digits}f}"
    return text if half is None else f"{text} ± {half:.{digits}f}"


def short_number(value: float) -> str:
    """Return an amount in three digits, with the prefix of its size.

    Example:
        >>> short_number(1_234_567), short_number(12.0), short_number(999_999)
        ('1.23 M', '12', '1 M')
    """
    if abs(value) < 999.5:
        return f"{value:.3g}"
    rounded = float(f"{value:.3g}")
    size, prefix = next(pair for pair in _PREFIXES if abs(rounded) >= pair[0])
    return f"{rounded / size:.3g} {prefix}" if abs(rounded) < 1e21 else f"{value:.3g}"
