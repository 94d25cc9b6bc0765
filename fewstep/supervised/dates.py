"""Dates and times written as text: detection of formats, parsing, and time zones."""

from __future__ import annotations

import re

import polars as pl

CLOCKS = (" %H:%M:%S%.f", " %H:%M", "T%H:%M:%S%.f", "T%H:%M")
DAYS = ("%Y-%m-%d", "%Y/%m/%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%d %B %Y", "%B %d, %Y", "%d-%B-%Y")
SHORT_DAYS = ("%d/%m/%y", "%m/%d/%y", "%d.%m.%y", "%d-%B-%y")
DATES = tuple(day + clock for day in (*DAYS, *SHORT_DAYS) for clock in ("", *CLOCKS, *(f"{clock}%#z" for clock in CLOCKS)))
"""recognized formats of dates (%B matches abbreviated months too); if several fit a column, the first is used, with a note"""
LIKELY_DATE = "|".join(
    (
        r"^\d{4}[-/.]\d{1,2}[-/.]\d{1,2}",
        r"^\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}",
        r"^\d{1,2}[ -]\p{L}{3,9}[ -]\d{2,4}",
        r"^\p{L}{3,9} \d{1,2}, \d{4}",
    )
)
FIRST_YEAR = 1000
"""earliest year, since %Y parses 16 as a year of the first century"""
OFFSET = r"(?:(Z)|([+-])(\d\d):?(\d\d)?)$"
"""a zone at the end of a text, as an offset from UTC"""


class OddDate(ValueError):
    """A `value` that is not a date in the format of its column."""

    def __init__(self, message: str, value: str) -> None:
        super().__init__(message)
        self.value = value


def date_formats(series: pl.Series) -> list[str]:
    """The formats in which all values of a text column are dates; [] if there are none.

    Raises `OddDate`, with an example of each, if at least half of the values are dates, but not all in one format.
    """
    texts = series.drop_nulls().str.strip_chars().unique(maintain_order=True)
    head = texts.head(100)
    if head.is_empty() or 2 * head.str.contains(LIKELY_DATE).sum() < head.len():
        return []
    likely = [format for format in DATES if parse_dates(head, format).is_not_null().any()]
    fits = {format: parse_dates(texts, format).is_not_null() for format in likely}
    whole = [format for format, fit in fits.items() if fit.all()]
    if whole or not fits or 2 * pl.select(pl.any_horizontal(*fits.values())).to_series().sum() < texts.len():
        return whole
    best = max(likely, key=lambda format: fits[format].sum())
    date, other = texts.filter(fits[best])[0], texts.filter(~fits[best])[:1]
    if any(parse_dates(other, format).is_not_null().all() for format in DATES):
        message = f"dates in two formats, such as {date!r} and {other[0]!r}. Write all of them in one, best 2016-01-31"
        raise OddDate(message, other[0])
    raise OddDate(f"dates such as {date!r} beside {other[0]!r}, which is none. Empty such cells", other[0])


def parse_dates(series: pl.Series, format: str) -> pl.Series:
    """Parses a text column; null for values that are not dates in this `format`. Converts dates with a zone to UTC."""
    parsed = series.str.strip_chars().str.strptime(pl.Datetime("us"), format, strict=False)
    parsed = parsed.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if "%#z" in format else parsed
    return pl.select(pl.when(parsed.dt.year() >= FIRST_YEAR).then(parsed).alias(series.name)).to_series()


def order_of_day(format: str) -> str:
    """The order of day, month and year in a format: dmy, mdy or ymd."""
    return "".join(re.findall("%([dmbByY])", format)).lower().replace("b", "m")


def names_zone(format: str | None) -> bool:
    """Whether a format of dates has a zone."""
    return re.search("%:*#?z", format or "") is not None


def offsets(series: pl.Series) -> pl.Series:
    """UTC offsets of texts in seconds, Int64; null if a text has no zone."""
    parts = series.str.strip_chars().str.extract_groups(OFFSET).struct.unnest()
    utc, sign, hours, minutes = (parts.to_series(place) for place in range(4))
    ahead = hours.cast(pl.Int64) * 3600 + minutes.fill_null("0").cast(pl.Int64) * 60
    signed = pl.when(utc == "Z").then(0).when(sign == "-").then(-ahead).otherwise(ahead)
    return pl.select(signed.cast(pl.Int64).alias(series.name)).to_series()


def shown_offset(seconds: int) -> str:
    """Formats a UTC offset in seconds: 3600 as +01:00."""
    hours, minutes = divmod(abs(seconds) // 60, 60)
    return f"{'-' if seconds < 0 else '+'}{hours:02}:{minutes:02}"
