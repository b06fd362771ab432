"""Faults of a document against a schema, worded for people; and that the two validators are of one mind."""

from __future__ import annotations

import copy
import functools
import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders import entry, table
from tools import checkout
from tools.errors import MachineError
from tools.store import schemas
from tools.store.schemas import SchemaFault, TooManyStepsError, explainer, faults, is_valid

ROOT = schemas.SCHEMA_FOLDER.parent
FIXTURES = ROOT / "tests" / "schema" / "fixtures"
NAMES = sorted(path.name.removesuffix(".schema.json") for path in schemas.SCHEMA_FOLDER.glob("*.schema.json"))


@functools.cache
def text(path: Path) -> str:
    return path.read_text("utf-8")


def fixture(name: str, stem: str) -> Any:
    (path,) = FIXTURES.glob(f"{name}/*/{stem}.json")
    return json.loads(text(path))


def record(**changes: Any) -> dict[str, Any]:
    return {**fixture("record", "all_keys"), **changes}


def told(name: str, document: Any) -> list[str]:
    return [f"{fault.where}: {fault.message}" for fault in faults(name, document)]


@pytest.mark.parametrize("name", NAMES)
def test_every_schema_compiles_with_what_it_refers_to(name: str) -> None:
    assert faults(name, "no object")


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of schema/ to damage, read in place of it."""
    folder = tmp_path / "schema"
    shutil.copytree(schemas.SCHEMA_FOLDER, folder)
    monkeypatch.setattr(schemas, "SCHEMA_FOLDER", folder)
    monkeypatch.setattr(checkout, "CHECKOUT", tmp_path)
    for kept in (schemas._schemas, schemas._compiled):
        monkeypatch.setattr(schemas, kept.__name__, functools.cache(kept.__wrapped__))
    return folder


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"{", "schema/record.schema.json"),
        (b"\xff", "schema/record.schema.json"),
        (b"[]", "schema/record.schema.json"),
        (b"{}", "schema/record.schema.json"),
        (b'{"$schema": "x", "type": 7}', "schema"),
        (None, "schema"),
    ],
    ids=["cut", "not UTF-8", "a list", "no dialect", "no schema", "missing"],
)
def test_a_damaged_schema_is_one_line_with_a_fix_and_no_documents_fault(
    content: bytes | None, named: str, broken: Path
) -> None:
    path = broken / "record.schema.json"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(MachineError) as raised:
        is_valid("record", {})
    said = str(raised.value)
    assert said.startswith(f"{broken.parent / named}: expected what belongs to the checkout, found")
    assert said.endswith(f"Fix: git checkout HEAD -- {named}")


def test_a_valid_document_has_no_fault() -> None:
    assert faults("tuned_config", table()) == []


# ---------------------------------------------------------------
# Words


@pytest.mark.parametrize(
    ("name", "stem", "expected"),
    [
        # type
        ("tuned_config", "num_warps_not_integer", '1 / num_warps: expected an integer of at least 1, found "4"'),
        ("tuned_config", "USE_TMA_not_boolean", "1 / USE_TMA: expected true or false, found 1"),
        ("exceptions", "not_an_object", "top level: expected an object, found an empty list"),
        ("plan", "legs_not_array", "legs: expected a list, found an empty object"),
        ("record", "environment_driver_not_string", "environment / driver: "
         "expected a version of at most 40 letters, digits and . + -, or null, found 575"),
        ("record", "verified_with_worst_loss_pct_not_number",
         'verified_with / 0 / worst_loss_pct: expected a number above -100 and at most 100000, found "1"'),
        # required, additionalProperties
        ("record", "engine_checked_date_missing", "engine_checked / 0: date is missing"),
        ("record", "published_without_attribution", "top level: attribution is missing"),
        ("record", "published_with_rows",
         'top level: key "rows": expected a key of published figures, which were not measured here'),
        ("record", "shape_unknown_key", "shapes / 0: unknown key N"),
        ("landscape", "dense_per_s_missing", "device: dense_per_s is missing, which memory_bytes_per_s needs"),
        # enum, const
        ("record", "row_decision_unknown", 'rows / 1 / decision: expected "promote", "retain" or "baseline", '
         'found "reject"'),
        ("models", "schema_version_2", "schema_version: expected 1, found 2"),
        ("models", "per_channel_quant_false", "models / 0 / per_channel_quant: expected true, found false"),
        # bounds
        ("tuned_config", "num_stages_zero", "1 / num_stages: expected an integer of at least 1, found 0"),
        ("plan", "number_too_large", "number: expected an integer from 0 to 2147483647, found 2147483648"),
        ("plan", "median_us_zero", "legs / 0 / workloads / 0 / record / median_us / 64: "
         "expected a number above 0 and at most 1000000000, found 0"),
        ("results", "row_main_us_negative", "workloads / 0 / rows / 64 / main_us: "
         "expected null or a number above 0 and at most 1000000000, found -1"),
        # lengths and counts
        ("devices", "family_empty", 'devices / 0 / family: expected a text of 1 to 60 characters, found ""'),
        ("exceptions", "path_empty", 'exceptions / 0 / path: expected a text of at least 1 character, found ""'),
        ("models", "block_shape_three_numbers",
         "models / 0 / block_shape: expected a list of 2 items, found a list of 3 items"),
        ("plan", "shapes_over_32", "legs / 0 / workloads / 0 / shapes: expected a list of 1 to 32 items, "
         "found a list of 33 items"),
        ("plan", "median_us_empty", "legs / 0 / workloads / 0 / record / median_us: "
         "expected an object of at least 1 key, found an empty object"),
        ("results", "too_many_rows", "workloads / 0 / rows: expected an object of at most 256 keys, "
         "found an object of 257 keys"),
        ("devices", "aliases_repeated", 'devices / 0 / aliases: expected each item once, found "a" again'),
        # pattern, propertyNames
        ("record", "environment_python_two_parts", "environment / python: "
         'expected a version of three numbers, like 3.8.0 or 2.13.0+cu130, found "3.12"'),
        ("record", "date_of_april_31", 'date: expected a day of the calendar, like 2026-01-31, found "2026-04-31"'),
        ("tuned_config", "batch_size_leading_zero",
         'top level: key "064": expected a batch size from 1 to 9999999 without leading zeros'),
        ("record", "tuner_outcome_unknown", 'tuner / outcomes: key "lost": expected "ok", "constraints", "compile", '
         '"runtime", "timeout", "correctness" or "crash"'),
        # oneOf, anyOf
        ("workload", "block_shape_not_array", "block_shape: expected null or a list of 2 items, "
         'found "[128,128]"'),
        ("workload", "block_shape_zero", "block_shape / 1: expected an integer from 1 to 2147483647, found 0"),
        ("record", "verified_true", "verified: expected null or an object, found true"),
        ("record", "verified_commit_short",
         'verified / commit: expected 40 hexadecimal digits in lower case, found "0123abc"'),
        ("plan", "neither_claimed_nor_main", "legs / 0 / workloads / 0: "
         "claimed: expected an object, found null; or main: expected an object, found null"),
        ("landscape", "no_kind", "top level: format, compiled, screened, measured, confirmed or device is missing"),
        # if and then, not
        ("models", "block_shape_with_bf16", "models / 0 / dtype: "
         'expected fp8_w8a8 or int8_w8a8, which alone have block scales, found "bf16"'),
        ("models", "fused_and_fusable_shared_experts", "models / 0: "
         "expected only one of fused_shared_experts and fusable_shared_experts, found both"),
        ("results", "failed_with_rows", "workloads / 0 / rows: "
         "expected no rows, because the status is failed, found an object of 1 key"),
        ("results", "failed_without_reason", "workloads / 0 / reason: "
         "expected a reason, because the status is failed, found null"),
    ],
)  # fmt: skip
def test_a_fault_says_where_and_what_was_expected_and_found(name: str, stem: str, expected: str) -> None:
    assert told(name, fixture(name, stem)) == [expected]


def test_the_keys_that_one_entry_lacks_are_one_line() -> None:
    assert told("tuned_config", {"64": {"num_warps": 4}, "128": entry(num_stages=None)}) == [
        "64: BLOCK_SIZE_M, BLOCK_SIZE_N, BLOCK_SIZE_K, GROUP_SIZE_M and num_stages are missing",
        "128: num_stages is missing",
    ]
    document = record()
    for key in ("date", "tuner"):  # which two places of the schema require
        del document[key]
    assert told("record", document) == ["top level: date and tuner are missing"]


def test_a_misspelt_key_is_told_its_spelling() -> None:
    assert told("tuned_config", {"64": entry(num_wraps=4, waves=1)}) == [
        "64: unknown keys num_wraps (did you mean num_warps?) and waves"
    ]
    many = {f"key {i}": 1 for i in range(9)}
    assert told("tuned_config", {"64": entry(**many)}) == [
        '64: unknown keys "key 0", "key 1", "key 2", "key 3", "key 4" and 4 more'
    ]


def test_every_fault_is_listed() -> None:
    assert len(faults("tuned_config", table(num_warps=0))) == len(table())


DIALECT = re.compile(
    r"is not of type|does not match|required property|propert(y|ies)\b|\bschema|is not one of|under any|instance|"
    r"minimum|maximum|non-unique|pattern|regex|string|array|boolean|\$|\^"
)


@pytest.mark.parametrize("name", NAMES)
def test_no_fault_speaks_the_schemas_dialect(name: str) -> None:
    """Of every invalid fixture, so of every keyword: tests/schema shows that each has one."""
    paths = sorted((FIXTURES / name / "invalid").glob("*.json"))
    assert paths
    for path in paths:
        for fault in faults(name, json.loads(text(path))):
            said = re.sub(r'found ".*"|key ".*"|schema_version', "", fault.message)
            assert not DIALECT.search(said), path.name


# ---------------------------------------------------------------
# Numbers


class TestFloatsForIntegers:
    """JSON Schema lets 8.0 pass for an integer; the store doesn't."""

    def test_each_is_a_fault_with_its_place(self) -> None:
        document = record(schema_version=1.0)
        document["workload"]["E"] = 8.0
        document["workload"]["block_shape"] = [128, 64.0]
        assert told("record", document) == [
            "schema_version: expected 1, found 1.0",
            "workload / E: expected an integer from 1 to 2147483647, found 8.0",
            "workload / block_shape / 1: expected an integer from 1 to 2147483647, found 64.0",
        ]

    def test_times_and_ratios_may_be_whole(self) -> None:
        document = record()
        latency = {"median": 10.0, "p10": 9.0, "p90": 11.0, "samples": 20}
        document["rows"] = {"1": {"latency_us": latency, "baseline_us": latency, "decision": "promote"}}
        document["tuner"]["seconds"] = 3.0
        assert faults("record", document) == []

    def test_other_faults_are_listed_too_and_none_twice(self) -> None:
        found = faults("tuned_config", {"64": entry(num_warps=4.0, num_stages=-1.0, GROUP_SIZE_M="1")})
        assert [fault.where for fault in found] == ["64 / GROUP_SIZE_M", "64 / num_warps", "64 / num_stages"]

    def test_the_document_itself_stays_as_it_is(self) -> None:
        document = record(schema_version=1.0)
        before = copy.deepcopy(document)
        assert faults("record", document)
        assert document == before
        assert isinstance(document["schema_version"], float)

    @pytest.mark.parametrize("name", NAMES)
    def test_a_fraction_tells_an_integer_from_every_other_number(self, name: str) -> None:
        """0.5 stands for whole floats: a number's bounds must let it pass, and no choice may be a float."""
        for part in parts(json.loads(text(schemas.SCHEMA_FOLDER / f"{name}.schema.json"))):
            if part.get("type") == "number" or "number" in part.get("type", ()):
                assert part.get("minimum", 0) <= 0.5 <= part.get("maximum", 1)
                assert part.get("exclusiveMinimum", 0) < 0.5
            choices = [*part.get("enum", ()), part.get("const")]
            assert not [choice for choice in choices if isinstance(choice, float | list | dict)]


def parts(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from parts(inner)


# ---------------------------------------------------------------
# One mind


def documents() -> list[Any]:
    paths = sorted(FIXTURES.glob("*/*/*.json"))
    return [pytest.param(path.parent.parent.name, path, id=f"{path.parent.parent.name}-{path.stem}") for path in paths]


@pytest.mark.parametrize(("name", "path"), documents())
def test_both_validators_give_one_verdict_on_a_fixture(name: str, path: Path) -> None:
    document = json.loads(text(path))
    assert is_valid(name, document) is explainer(name).is_valid(document) is (path.parent.name == "valid")


def real_documents() -> dict[str, list[str]]:
    """The checkout's own files by their schema; of what it holds none, and of exceptions, the valid fixtures."""
    found: dict[str, list[str]] = {name: [] for name in NAMES}
    for path in sorted((ROOT / "configs").rglob("*.json")):
        folder = path.relative_to(ROOT / "configs").parts[0]
        name = {"records": "record", "registry": path.stem}.get(folder, "tuned_config")
        if name in found:
            found[name].append(text(path))
    found["exceptions"].append(text(schemas.SCHEMA_FOLDER / "exceptions.json"))
    for name, texts in found.items():
        if not texts or name == "exceptions":
            texts += [text(path) for path in sorted((FIXTURES / name / "valid").glob("*.json"))]
    return found


ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2**31 - 1, 2**31, 2**53 + 1, 2**64, 10**30, 0.5, 1.0, 8.0, -0.0, 1e18, 1e300, 5e-324,
    "", "1", "auto", "\n", "x\n", "\u2028", "\u00a0", "\u0661", "\U0001f600", "é" * 130, "3.8.0", "2026-02-29", "a/b",
    [], {}, [1], [[]], [128, 128], {"1": {}}, {"x": 1},
]  # fmt: skip


def mutated(document: Any, chance: random.Random) -> Any:
    """Another value, key or item somewhere in the document."""
    box = holder = [document]
    key: Any = 0
    while isinstance(holder[key], dict | list) and holder[key] and chance.random() < 0.85:
        holder = holder[key]
        key = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    if holder is box:
        return nearly(document, chance)
    value = holder[key]
    match chance.randrange(5):
        case 0:
            del holder[key]
        case 1:
            holder[key] = chance.choice(ODD)
        case 2 if isinstance(holder, dict):
            renamed = chance.choice([f"{key}\n", f"0{key}", f" {key}", key.swapcase(), "x", "64"])
            holder[renamed] = holder.pop(key)
        case 2:
            holder.append(copy.deepcopy(value))
        case 3 if isinstance(holder, dict):
            holder[chance.choice([*holder, "x", "block_shape", "per_channel_quant", "64"])] = copy.deepcopy(value)
        case _:
            holder[key] = nearly(value, chance)
    return document


def nearly(value: Any, chance: random.Random) -> Any:
    match value:
        case bool() | None:
            return chance.choice([int(bool(value)), "null", not value])
        case str():
            return chance.choice([value + "\n", value + " ", "\n" + value, value.swapcase(), value * 9, value[:-1]])
        case int() | float():
            return chance.choice([value + 1, value - 1, -value, float(value), value * 10**9, str(value), value / 2])
        case list():
            return chance.choice([value + value, [value], value[:-1], dict.fromkeys("ab", value)])
        case dict():
            return chance.choice([[value], list(value), {**value, "x": 1}, {k: v for k, v in value.items() if v}])
    raise AssertionError(value)


def test_both_validators_give_one_verdict_on_mutated_documents() -> None:
    """A thousand mutated configs, records, registries and exceptions, and 200 documents of each other schema.

    And whatever is invalid has faults that are short, printable, and found a second time in the same order.
    """
    real = real_documents()
    slow = {name: explainer(name) for name in NAMES}
    verdicts = []
    for seed in range(200 * len(NAMES)):
        chance = random.Random(seed)
        name = NAMES[seed % len(NAMES)]
        document = json.loads(chance.choice(real[name]))
        for _ in range(chance.choice([1, 1, 2, 3])):
            document = mutated(document, chance)
        verdicts.append(is_valid(name, document))
        assert slow[name].is_valid(document) is verdicts[-1], seed
        found = faults(name, document)
        assert bool(found) is not verdicts[-1], seed
        assert all(len(fault.message) <= 300 for fault in found), seed
        assert all(f"{fault.where}{fault.message}".isprintable() for fault in found), seed
        assert found == faults(name, document), seed
    assert min(verdicts.count(True), verdicts.count(False)) >= 100


# ---------------------------------------------------------------
# Hostile documents


def nested(levels: int) -> Any:
    document: Any = 1
    for _ in range(levels):
        document = {"a": document}
    return document


ROW = {
    "latency_us": {"median": 1.5, "p10": 1.5, "p90": 1.5, "samples": 2},
    "baseline_us": {"median": 1.5, "p10": 1.5, "p90": 1.5, "samples": 2},
    "decision": "promote",
}
WIDE = {f"k{i}": 0 for i in range(80_000)}
EMPTY = {str(i): {} for i in range(1, 80_000)}


def plan(claimed: Any) -> Any:
    document = fixture("plan", "added")
    document["legs"][0]["workloads"][0]["claimed"] = claimed
    return document


HOSTILE: dict[str, tuple[str, Any]] = {
    "wide": ("tuned_config", WIDE),
    "empty rows": ("tuned_config", EMPTY),
    "unknown keys": ("tuned_config", {"1": entry(**WIDE)}),
    "a long key": ("record", record(rows={"k" * 500_000: {"by_shape": [0] * 200_000}})),
    "a long key of whole floats": ("tuned_config", {"k" * 500_000: [1.0] * 100_000}),
    "a long text": ("tuned_config", {"1": entry(num_warps="w" * 1_000_000)}),
    "a long line": ("record", record(attribution="x" * 1_000_000 + "\n")),
    "a fault behind thousands of rows": (
        "record",
        record(rows={**{str(i): ROW for i in range(1, 6000)}, "9999": {**ROW, "decision": "x"}}),
    ),
    "wide, where it may be null": ("plan", plan(WIDE)),
    "empty rows, where it may be null": ("plan", plan(EMPTY)),
    "many items that cannot be sorted": (
        "devices",
        {"schema_version": 1, "devices": [{"aliases": [[i] if i % 2 else "a" for i in range(100_000)]}]},
    ),
    "many empty items": ("models", {"schema_version": 1, "models": [{}] * 150_000}),
    "deep": ("tuned_config", {"1": nested(900)}),
    "many digits": ("tuned_config", {"1": entry(num_warps=-(10**4000))}),
    "signs": ("tuned_config", {"a\n::error::b\x1b[31m\u202e": 0, "##[group]": "\u2028"}),
    "half a pair": ("tuned_config", {"\ud800": {"grf_mode": "\udfff"}}),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_document_makes_few_short_lines(kind: str) -> None:
    found = faults(*HOSTILE[kind])
    assert 1 <= len(found) <= 101
    assert all(len(fault.where) <= 300 and len(fault.message) <= 300 for fault in found)
    assert all(f"{fault.where}{fault.message}".isprintable() for fault in found)


@pytest.mark.parametrize("keys", [3_000, 80_000])
def test_a_document_of_nothing_but_faults_is_cut_short(keys: int) -> None:
    found = faults("tuned_config", {f"a/b~c{i}": 0 for i in range(keys)})
    assert len(found) == 101
    assert found[:2] == [
        SchemaFault("top level", f"expected an object of 1 to 256 keys, found an object of {keys} keys"),
        SchemaFault(
            "top level", 'key "a/b~c0": expected a batch size from 1 to 9999999 without leading zeros'
        ),
    ]  # fmt: skip
    assert found[-1] == SchemaFault("top level", "only the first 100 faults are listed")


def test_a_key_is_shown_as_it_is_written() -> None:
    assert told("tuned_config", {"a/b~c": 0})[1] == "a/b~c: expected an object, found 0"


def test_messages_are_short_whatever_the_document_holds() -> None:
    assert told("tuned_config", {"64": entry(num_warps="x" * 10**6)}) == [
        f'64 / num_warps: expected an integer of at least 1, found "{"x" * 80}…" (1000000 characters)'
    ]


def test_signs_that_print_nothing_are_escaped() -> None:
    assert told("tuned_config", {"\x1b[31m": entry(num_warps="##[group]\u202e")}) == [
        'top level: key "\\u001b[31m": expected a batch size from 1 to 9999999 without leading zeros',
        '\\x1b[31m / num_warps: expected an integer of at least 1, found "#\\x23\\x5bgroup]\\u202e"',
    ]


def test_what_is_too_large_for_better_words_is_still_refused() -> None:
    plan = fixture("plan", "changed")
    leg = plan["legs"][0]
    assert told("plan", {**plan, "legs": [*([leg] * 20_000), 7]}) == [
        "top level: expected a document as in schema/plan.schema.json, "
        "found one that is too large to say where it differs"
    ]


def test_the_explainer_stops_where_it_is_told_to() -> None:
    errors = explainer("tuned_config", 100).iter_errors(EMPTY)
    assert next(errors).validator == "maxProperties"
    with pytest.raises(TooManyStepsError):
        list(errors)
