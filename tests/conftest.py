"""What holds for every test."""

from __future__ import annotations

try:
    import hypothesis
except ImportError:  # a GPU machine may lack it; the tests that need it say so themselves
    pass
else:
    # How long one example takes says more about the machine than about the code.
    hypothesis.settings.register_profile("any-machine", deadline=None)
    hypothesis.settings.load_profile("any-machine")
