"""Whether main's own word in a record names the rest of it: then its figures are verified, else they are claimed.

The one place of that rule. It imports nothing of the loader, since the check «Evidence» and what runs beside a token
import it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_Json = Any  # a parsed JSON document


UNSIGNED = ("verified", "verified_with", "engine_checked", "between")
"""What a re-measurement says nothing of: main's own word, what contributors saw under another Triton or engine, and at
batch sizes between the entries."""


def evidence_sha256(record: Mapping[str, _Json]) -> str:
    """SHA-256 of what a re-measurement vouches for: all of the record but `UNSIGNED` and the models' names.

    The order of keys and the spaces between them are no matter. Any document does, a hostile one too.
    """
    evidence = {key: value for key, value in record.items() if key not in UNSIGNED}
    if isinstance(shapes := evidence.get("shapes"), list):
        evidence["shapes"] = [_without_models(shape) for shape in shapes]
    # In ASCII: half of a surrogate pair has no bytes of its own.
    return hashlib.sha256(json.dumps(evidence, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def is_signed(record: Mapping[str, _Json]) -> bool:
    """Whether the document's `verified` names the rest of it: main measured these figures, and no others."""
    said = record.get("verified")
    return isinstance(said, dict) and said.get("evidence_sha256") == evidence_sha256(record)


def _without_models(shape: _Json) -> _Json:
    return {key: value for key, value in shape.items() if key != "models"} if isinstance(shape, dict) else shape
