"""What GitHub enforces and act does not: triggers, grants, environments, groups, limits. Read off the files."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tomllib

from tests.workflows import rules
from tests.workflows.parsed import Workflow, read, workflow, workflows
from tests.workflows.rules import RULES, Rule
from tools.checkout import CHECKOUT


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("found", workflows(), ids=lambda found: found.name)
def test_every_workflow_keeps_every_rule(found: Workflow, rule: Rule) -> None:
    assert list(rule(found)) == []


BROKEN: list[tuple[Rule, str, str, str]] = [
    (rules.starts_only_where_it_is_meant_to, "validate", "  pull_request:", "  pull_request_target:"),
    (rules.starts_only_where_it_is_meant_to, "verify", "branches: [main]", "branches: ['**']"),
    (rules.starts_only_where_it_is_meant_to, "tune", "workflows: [validate]", "workflows: [validate, other]"),
    (rules.grants_nothing_at_the_top_and_each_job_its_own, "tune", "permissions: {}", "permissions: read-all"),
    (rules.grants_nothing_at_the_top_and_each_job_its_own, "measure", "    permissions: {}", "    # inherited"),
    (rules.gives_a_reason_beside_each_grant, "tune", "pull-requests: write # write or", "pull-requests: write\n#"),
    (rules.pins_every_action, "validate", "@de0fac2e4500dabe0009e67214ff5f5447ce83dd # v6.0.2", "@v6"),
    (rules.pins_every_action, "validate", " # v6.0.2", ""),
    (rules.limits_time_and_concurrency, "nightly", "    timeout-minutes: 30\n", ""),
    (rules.limits_time_and_concurrency, "release", "concurrency:\n  group: release", "concurrency:\n  group: ''"),
    (rules.holds_no_logic, "validate", '"$BASE" "$HEAD"', '"$BASE" "${{ github.head_ref }}"'),
    (rules.holds_no_logic, "validate", "run: nox -s lint", "run: nox -s lint && curl example.org"),
    (rules.holds_no_logic, "validate", "run: nox -s lint", "run: nox -s lent"),
    (rules.checks_out_only_what_started_it_and_keeps_no_token, "tune", "persist-credentials: false", "{}"),
    (
        rules.checks_out_only_what_started_it_and_keeps_no_token,
        "tune",
        "persist-credentials: false",
        "persist-credentials: false\n          ref: ${{ github.event.workflow_run.head_sha }}",
    ),
    (
        rules.takes_artifacts_of_its_own_run_only,
        "tune",
        "pattern: results-*",
        "pattern: results-*\n          run-id: ${{ github.event.workflow_run.id }}",
    ),
    (rules.keeps_gpus_behind_group_and_environment, "measure", "      group: gpu\n", ""),
    (rules.keeps_gpus_behind_group_and_environment, "measure", "    environment: ${{", "    other: ${{"),
    (
        rules.keeps_gpus_behind_group_and_environment,
        "measure",
        "inputs.environment == 'gpu-main' && inputs.triton == '' && 'gpu-main' || 'gpu-pull-request'",
        "inputs.environment",
    ),
    (rules.keeps_gpus_behind_group_and_environment, "measure", "&& inputs.triton == '' ", ""),
    (rules.keeps_gpus_behind_group_and_environment, "nightly", "== '' && 'gpu-main'", "!= '' && 'gpu-main'"),
    (rules.shows_numbers_and_commits_only, "tune", "workflow_run.run_number", "workflow_run.head_branch"),
    (
        rules.shows_numbers_and_commits_only,
        "measure",
        "name: Measure on ${{ matrix.device }}",
        "name: ${{ github.actor }}",
    ),
    (rules.shows_numbers_and_commits_only, "validate", "name: Tuned files", "name: ${{ github.head_ref }}"),
    (rules.keeps_gpus_behind_group_and_environment, "tune", "environment: gpu-pull-request", "environment: gpu-main"),
    (rules.keeps_gpus_behind_group_and_environment, "validate", "runs-on: ubuntu-24.04", "runs-on: [self-hosted]"),
    (rules.gives_secrets_and_tokens_to_single_steps, "verify", "    environment: bot", "    environment: other"),
    (rules.gives_secrets_and_tokens_to_single_steps, "tune", "permissions: {}\n", "env: {T: '${{ github.token }}'}\n"),
    (
        rules.publishes_what_others_built,
        "release",
        "      - name: Publish it with attestations\n",
        "      - run: ls dist\n      - name: Publish it with attestations\n",
    ),
    (rules.publishes_what_others_built, "release", "needs: [build, test, wheel]", "needs: [build, wheel]"),
    (
        rules.takes_what_was_handed_on_by_number_and_digest,
        "measure",
        "artifact-ids: ${{ inputs.plan_id }}",
        "name: plan",
    ),
    (rules.takes_what_was_handed_on_by_number_and_digest, "measure", "inputs.plan_sha256", "inputs.triton"),
    (
        rules.takes_what_was_handed_on_by_number_and_digest,
        "verify",
        "SHA256: ${{ needs.confirm.outputs.proposal_sha256 }}",
        "SHA256: ${{ needs.plan.outputs.plan_sha256 }}",
    ),
    (rules.takes_what_was_handed_on_by_number_and_digest, "verify", 'test "$(find proposal', 'test "$(find body.md'),
    (
        rules.takes_what_was_handed_on_by_number_and_digest,
        "release",
        "      - name: Check that it is what was handed on\n",
        "      - name: Check that it is what was handed on\n        if: false\n",
    ),
    (rules.hands_on_a_digest_of_each_artifact, "release", "dist=$(find dist ", "dist=$(find other "),
    (rules.hands_on_a_digest_of_each_artifact, "tune", "plan_sha256: ${{ steps.digest.outputs.plan }}", "other: ''"),
    (
        rules.installs_nothing_where_it_can_write,
        "verify",
        "run: python3 -m tools.github pull",
        "run: nox -s github -- pull",
    ),
    (
        rules.installs_nothing_where_it_can_write,
        "tune-on-request",
        "      - name: Take the commit and its description\n",
        "      - uses: ./.github/actions/setup\n      - name: Take the commit and its description\n",
    ),
    (
        rules.installs_nothing_where_it_can_write,
        "tune",
        "run: python3 -m tools.github comment",
        "run: nox -s github -- comment",
    ),
    (
        rules.installs_nothing_where_it_can_write,
        "nightly",
        "      issues: write # open or update the one issue\n    steps:\n",
        "      issues: write # open or update the one issue\n    steps:\n"
        "      - uses: actions/setup-python@a309ff8b426b58ec0e2a45f0f869d46889d02405 # v6.2.0\n",
    ),
    (
        rules.installs_nothing_where_it_can_write,
        "nightly",
        "      contents: read # check main out\n    outputs:\n      drift_id",
        "      contents: read # check main out\n      issues: write # no\n    outputs:\n      drift_id",
    ),
    (rules.runs_on_main_alone, "tune-on-request", "    if: github.ref == 'refs/heads/main'\n", ""),
    (rules.runs_on_main_alone, "measure", "    if: github.ref == 'refs/heads/main' # the caller's\n", ""),
    (rules.runs_on_main_alone, "measure", "github.ref == 'refs/heads/main'", "github.ref != ''"),
    (rules.runs_on_main_alone, "tune-on-request", "    needs: tune\n", "    needs: tune\n    if: ${{ always() }}\n"),
    (rules.runs_on_main_alone, "tune", "github.ref == 'refs/heads/main' && ", ""),
]


@pytest.mark.parametrize(("rule", "name", "right", "wrong"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
def test_a_workflow_that_breaks_a_rule_is_found(rule: Rule, name: str, right: str, wrong: str) -> None:
    found = workflow(name)
    assert right in found.text
    broken = replace(found, text=found.text.replace(right, wrong.replace("{}", "show-progress: false"), 1))
    assert list(rule(broken))


def test_every_rule_is_broken_once() -> None:
    assert {rule for rule, *_ in BROKEN} == set(RULES)


@pytest.mark.parametrize("name", ["validate", "release"])
def test_the_wheel_is_loaded_on_every_python_that_it_claims(name: str) -> None:
    classifiers = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]["classifiers"]
    claimed = [
        line.rpartition(" ")[2] for line in classifiers if line.startswith("Programming Language :: Python :: 3.")
    ]
    job = workflow(name).jobs["wheel"]
    assert job["strategy"]["matrix"]["python"] == claimed
    (python,) = [step["with"]["python"] for step in job["steps"] if step.get("uses") == "./.github/actions/setup"]
    assert python == job["env"]["PYTHON"] == "${{ matrix.python }}"


def test_the_slow_tests_run_on_every_pull_request() -> None:
    commands = [step.get("run") for step in workflow("validate").jobs["code"]["steps"]]
    assert "nox -s tests" in commands
    assert "nox -s tests -- -m slow -n auto" in commands


def test_the_shared_steps_are_pinned_too() -> None:
    action = read(CHECKOUT / ".github" / "actions" / "setup" / "action.yml")
    assert list(rules.pins_every_action(action)) == []


def test_an_action_has_one_version_everywhere() -> None:
    texts = [found.text for found in workflows()]
    texts.append((CHECKOUT / ".github" / "actions" / "setup" / "action.yml").read_text("utf-8"))
    lines = [line for text in texts for line in text.splitlines()]
    pins = {match.group("action", "commit") for line in lines if (match := rules.PIN.match(line))}
    assert len({action for action, _ in pins}) == len(pins)


def test_the_gpu_group_admits_the_workflows_that_ask_for_it() -> None:
    guide = (CHECKOUT / "docs" / "self-hosted-runners.md").read_text("utf-8")
    asking = {found.name for found in workflows() if "self-hosted" in found.text}
    assert asking == {"measure", "tune-on-request"}
    assert all(f"{name}.yml@refs/heads/main" in guide for name in asking)


def test_verify_starts_on_records_too() -> None:
    """Figures alone may change; what verify itself proposes plans nothing (test_verify.py)."""
    assert workflow("verify").triggers["push"]["paths"] == ["configs/**", "!configs/registry/**"]


def test_a_newer_push_ends_the_older_run() -> None:
    concurrency = workflow("tune").tree["concurrency"]
    assert concurrency["cancel-in-progress"] is True
    assert "head_repository.full_name" in concurrency["group"], "a stranger's branch of the same name is another"


def test_a_go_by_hand_and_one_after_validate_meet_where_they_measure() -> None:
    """Their runs have different names for the same pull request until its number is looked up."""
    found = workflow("tune")
    concurrency = found.jobs["tune"]["concurrency"]
    assert concurrency == {"group": "measure-pull-request-${{ needs.plan.outputs.number }}", "cancel-in-progress": True}
    assert found.jobs["tune"]["needs"] == "plan"
    assert not found.tree["concurrency"]["group"].startswith("measure-"), "a run would wait for itself"


def test_whoever_reviews_a_deployment_sees_what_waits() -> None:
    name = workflow("tune").tree["run-name"]
    for wanted in ("inputs.number", "inputs.head_sha", "workflow_run.run_number", "workflow_run.head_sha"):
        assert wanted in name


@pytest.mark.parametrize(
    ("name", "job"),
    [
        *(("tune", "report"), ("tune", "comment"), ("verify", "confirm"), ("verify", "propose")),
        *(("nightly", "drift"), ("nightly", "drift-issue")),
    ],
)
def test_what_comes_after_the_gpus_goes_on_without_one_of_them(name: str, job: str) -> None:
    """act goes no further after a job that failed, GitHub does."""
    assert "!cancelled()" in workflow(name).jobs[job]["if"]


@pytest.mark.parametrize("name", ["tune", "verify"])
def test_no_machine_is_asked_for_where_no_device_has_a_runner(name: str) -> None:
    (job,) = [job for job in workflow(name).jobs.values() if "uses" in job]
    assert "needs.plan.outputs.devices != '[]'" in job["if"], "an empty matrix is an error"


@pytest.mark.parametrize("name", ["tune", "verify", "nightly"])
def test_every_plan_asks_which_devices_have_a_runner(name: str) -> None:
    assert "RUNNERS: ${{ vars.GPU_DEVICES }}" in workflow(name).text
    assert '--runners "$RUNNERS"' in workflow(name).text


def test_no_merge_is_dropped_while_an_older_one_is_verified() -> None:
    assert workflow("verify").tree["concurrency"] == {"group": "verify", "cancel-in-progress": False, "queue": "max"}


def test_only_validate_writes_what_other_runs_restore() -> None:
    modes = {found.name: found.tree.get("cache-mode") for found in workflows()}
    assert {name for name, mode in modes.items() if mode not in ("read", "none")} == {"validate"}
    assert modes["release"] == modes["measure"] == modes["tune-on-request"] == "none"


def test_a_triton_that_waits_for_a_person_holds_no_night_up() -> None:
    concurrency = workflow("nightly").tree["concurrency"]
    weekly = "github.event.schedule == '47 4 * * 6'"
    assert f"- cron: {weekly.partition(chr(39))[2][:-1]}" in workflow("nightly").text.replace('"', "")
    assert concurrency["group"] == f"nightly-${{{{ {weekly} && 'triton' || 'sample' }}}}"
    assert concurrency["cancel-in-progress"] == f"${{{{ {weekly} }}}}", "a newer one takes the place of one that waits"
