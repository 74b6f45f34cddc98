"""Write numbers the way the page, the terminal and the verdict show them."""

from __future__ import annotations

from datetime import UTC, datetime

#: A plus-minus sign, and no line break after it.
PLUS_MINUS = " \N{PLUS-MINUS SIGN}\N{NO-BREAK SPACE}"


def percent(fraction: float) -> str:
    """A fraction in percent with one decimal, without the sign: `0.7834` is `78.3`."""
    return f"{100 * fraction:.1f}"


def points(fraction: float) -> str:
    """A difference in percent points with its sign: `-0.018` is `-1.8`, with a true minus."""
    text = f"{100 * fraction:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\N{MINUS SIGN}")


def plural(count: int, noun: str) -> str:
    """A count in words, such as `2 seeds`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def thousands(number: float) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{int(number):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def duration(seconds: float) -> str:
    """Such as `0.03 s`, `41.2 s`, `5 min 56 s` or `3 h 07 min`."""
    if seconds < 9.95:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def moment(text: object) -> str:
    """A date and time to the minute; any other text as it is."""
    try:
        parsed = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text)
    return str(text) if parsed.tzinfo is None else f"{parsed.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
