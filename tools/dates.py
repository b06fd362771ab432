"""Which day it is."""

from __future__ import annotations

import datetime


def today() -> datetime.date:
    """In UTC: what is written at one time has one date, wherever it is written."""
    return datetime.datetime.now(datetime.UTC).date()
