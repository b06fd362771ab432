"""The rules, one module each. A new rule is a new module, a line here, and a test under the same name."""

from __future__ import annotations

from tools.validate.model import Rule
from tools.validate.rules import (
    ascending_keys,
    block_shape,
    canonical_bytes,
    copied_file,
    coverage,
    device,
    down_twin,
    file_name,
    foreign_file,
    one_spelling,
    orphan_record,
    readable_folder,
    record,
    registry,
    same_as_default,
    schema,
    shared_memory,
    skipped_file,
    strict_json,
    triton_version,
    values,
    version_folder,
)

RULES: tuple[Rule, ...] = (
    file_name.RULE,
    device.RULE,
    one_spelling.RULE,
    version_folder.RULE,
    strict_json.RULE,
    triton_version.RULE,
    schema.RULE,
    ascending_keys.RULE,
    coverage.RULE,
    values.RULE,
    block_shape.RULE,
    shared_memory.RULE,
    down_twin.RULE,
    record.RULE,
    orphan_record.RULE,
    canonical_bytes.RULE,
    foreign_file.RULE,
    skipped_file.RULE,
    readable_folder.RULE,
    same_as_default.RULE,
    copied_file.RULE,
    registry.RULE,
)
