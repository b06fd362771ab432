"""One date for what is written at one time, wherever it is written."""

from __future__ import annotations

import datetime
import time
from types import SimpleNamespace

import pytest

from tools import dates


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_a_day_is_that_of_utc(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class HalfPastEleven(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return datetime.datetime(2026, 3, 9, 23, 30, tzinfo=datetime.UTC).astimezone(tz)

    monkeypatch.setattr(dates, "datetime", SimpleNamespace(datetime=HalfPastEleven, UTC=datetime.UTC))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        assert dates.today() == datetime.date(2026, 3, 9)
    time.tzset()
