"""What holds for every test."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

try:
    import hypothesis
except ImportError:  # a GPU machine may lack it; the tests that need it say so themselves
    pass
else:
    # How long an example takes, or is in the making, says more about the machine than about the code.
    slow = [hypothesis.HealthCheck.too_slow]
    hypothesis.settings.register_profile("any-machine", deadline=None, suppress_health_check=slow)
    hypothesis.settings.load_profile("any-machine")


@pytest.fixture(scope="session", autouse=True)
def _as_in_a_usual_shell() -> Iterator[None]:
    """Whatever started the suite: a background job ignores Ctrl-C, nohup a hang-up, and so would all that tests start;
    and what root makes under a strict umask, nobody else could read.
    """
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    ignored = [number for number in usual if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, usual[number])
    mask = os.umask(0o022)
    yield
    os.umask(mask)
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
