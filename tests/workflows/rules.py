"""What neither a linter nor act checks. A rule yields a line for each place of a workflow that breaks it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.workflows.parsed import Workflow, environment, runs_on_gpu, steps, strings
from tools.checkout import CHECKOUT

Rule = Callable[[Workflow], Iterator[str]]

TRIGGERS = {
    "validate": {"pull_request", "merge_group", "push"},
    "tune": {"workflow_dispatch", "workflow_run"},
    "measure": {"workflow_call"},
    "tune-on-request": {"workflow_dispatch"},
    "verify": {"push"},
    "nightly": {"schedule", "workflow_dispatch"},
    "release": {"schedule", "workflow_dispatch"},
    "pages": {"push", "workflow_dispatch"},
}
READ = {"contents": "read"}
NOTHING: dict[str, str] = {}
GRANTS = {
    "validate": {
        "evidence": READ,
        "configs": READ,
        "code": READ,
        "wheel": READ,
        "workflows": READ,
        "site": READ,
    },
    "tune": {
        "plan": {**READ, "pull-requests": "read"},
        "tune": NOTHING,
        "report": READ,
        "comment": {**READ, "pull-requests": "write"},
    },
    "measure": {"measure": NOTHING},
    "tune-on-request": {"tune": NOTHING, "prepare": READ, "propose": READ},
    "verify": {"plan": READ, "measure": NOTHING, "confirm": READ, "propose": READ},
    "nightly": {
        "sample": READ,
        "measure": NOTHING,
        "drift": READ,
        "drift-issue": {**READ, "issues": "write"},
        "canary": NOTHING,
        "canary-report": READ,
        "canary-issue": {**READ, "issues": "write"},
    },
    "release": {
        "plan": READ,
        "build": READ,
        "test": READ,
        "wheel": READ,
        "publish": {"id-token": "write"},
        "attest": {"id-token": "write", "attestations": "write"},
        "announce": {"contents": "write"},
    },
    "pages": {"build": READ, "deploy": {"pages": "write", "id-token": "write"}},
}
ENVIRONMENTS = {
    ("measure", "measure"): (
        "${{ inputs.environment == 'gpu-main' && inputs.triton == '' && 'gpu-main' || 'gpu-pull-request' }}"
    ),
    ("tune-on-request", "tune"): "gpu-main",
    ("tune-on-request", "propose"): "bot",
    ("verify", "propose"): "bot",
    ("release", "publish"): "pypi",
    ("pages", "deploy"): "github-pages",
}
PUBLISHES_AFTER = {"release": {"build", "test", "wheel"}, "pages": {"build"}}
"""The jobs whose work a job that can publish waits for."""
MEASURES_IN = {
    "tune": "gpu-pull-request",
    "verify": "gpu-main",
    "nightly": "${{ needs.sample.outputs.triton == '' && 'gpu-main' || 'gpu-pull-request' }}",
}
SHOWN = {
    "github.event.workflow_run.head_sha",
    "github.event.workflow_run.run_number",
    "inputs.head_sha",
    "inputs.number",
    "matrix.device",  # the registry's
    "matrix.python",
}
"""What may stand in the name of a run, a job or a step: a person reads it, and decides by it."""
DIGEST = r"\$\(find (?P<path>[\w.]+) -type f -exec sha256sum {} \+ \| sort \| sha256sum\)"
TAKE_DIGEST = rf'echo "(?P<name>\w+)={DIGEST}" >> "\$GITHUB_OUTPUT"'
CHECK_DIGEST = rf'test "{DIGEST}" = "\$SHA256"'
WRITE = r"python3 -m tools\.github (comment|issue|push|pull) [^;|&`<>]+"
RELEASE = r'gh release create "v\$VERSION" dist/\* data/\* [^;|&`<>]+'
COMMANDS = [
    r"nox -s (?P<session>[a-z-]+)( --(force-)?python \"\$PYTHON\")?( -- [^;|&`<>]+?)?"
    r"( > [\w/]+\.md| >> \"\$GITHUB_STEP_SUMMARY\")?",
    WRITE,
    TAKE_DIGEST,
    CHECK_DIGEST,
    r'git fetch --no-tags origin "\+refs/pull/\$NUMBER/head:refs/pull/\$NUMBER/head"',
    r'git checkout --quiet --detach "\$BASE"',
    r"python -m pip download --no-deps --only-binary=:all: --dest wheels/(?P<engine>\w+) (?P=engine)",
    RELEASE,
]
BESIDE_A_TOKEN = {
    "actions/checkout",
    "actions/download-artifact",
    "actions/create-github-app-token",
    "actions/attest-build-provenance",
    "actions/deploy-pages",
    "pypa/gh-action-pypi-publish",
}
"""Actions where something is written or published: with a command of WRITE, RELEASE and CHECK_DIGEST, all there is."""
PIN = re.compile(r"^\s*(?:- )?uses: (?P<action>[\w./-]+)@(?P<commit>[0-9a-f]{40}) # v\d+\.\d+\.\d+$")
GRANT = re.compile(r"^\s+(?:permission-)?[a-z-]+: (?:read|write)(?P<reason> # \S.*)?$")


def starts_only_where_it_is_meant_to(workflow: Workflow) -> Iterator[str]:
    if set(workflow.triggers) != TRIGGERS[workflow.name]:
        yield f"triggers: {sorted(workflow.triggers)}"
    for event in ("push", "workflow_run"):
        filters = workflow.triggers.get(event) or {}
        if event == "push" in workflow.triggers and filters.get("branches") != ["main"]:
            yield f"{event}: branches {filters.get('branches')}"
        if event == "workflow_run" in workflow.triggers and filters != {
            "workflows": ["validate"],
            "types": ["completed"],
        }:
            yield f"{event}: {filters}"


def grants_nothing_at_the_top_and_each_job_its_own(workflow: Workflow) -> Iterator[str]:
    if workflow.tree.get("permissions") != {}:
        yield f"permissions: {workflow.tree.get('permissions')}"
    found = {name: job.get("permissions") for name, job in workflow.jobs.items()}
    if found != GRANTS[workflow.name]:
        yield f"grants: {found}"


def gives_a_reason_beside_each_grant(workflow: Workflow) -> Iterator[str]:
    for line in workflow.text.splitlines():
        match = GRANT.match(line)
        if match and not match["reason"]:
            yield f"no reason: {line.strip()}"


def pins_every_action(workflow: Workflow) -> Iterator[str]:
    for line in workflow.text.splitlines():
        if "uses:" in line and "uses: ./.github/" not in line and not PIN.match(line):
            yield f"not pinned: {line.strip()}"


def limits_time_and_concurrency(workflow: Workflow) -> Iterator[str]:
    if "workflow_call" not in workflow.triggers and not workflow.tree.get("concurrency", {}).get("group"):
        yield "no concurrency group"
    for name, job in workflow.jobs.items():
        if "uses" not in job and not 1 <= job.get("timeout-minutes", 0) <= 120:
            yield f"{name}: timeout-minutes {job.get('timeout-minutes')}"


def holds_no_logic(workflow: Workflow) -> Iterator[str]:
    noxfile = (CHECKOUT / "noxfile.py").read_text("utf-8")
    for name, step in _all_steps(workflow):
        if "run" not in step:
            continue
        matches = [re.fullmatch(command, step["run"].strip()) for command in COMMANDS]
        match = next(filter(None, matches), None)
        if match is None or "${{" in step["run"]:
            yield f"{name}: {step['run']!r}"
        elif (session := match.groupdict().get("session")) and not re.search(
            rf'^def {session}\(session|name="{session}"', noxfile, re.MULTILINE
        ):
            yield f"{name}: no nox session {session}"


def checks_out_only_what_started_it_and_keeps_no_token(workflow: Workflow) -> Iterator[str]:
    for name, step in _all_steps(workflow):
        if "actions/checkout@" in step.get("uses", ""):
            options = step.get("with", {})
            if options.get("persist-credentials") is not False:
                yield f"{name}: persists credentials"
            if set(options) - {"persist-credentials", "fetch-depth"}:
                yield f"{name}: checks out {options}"


def takes_artifacts_of_its_own_run_only(workflow: Workflow) -> Iterator[str]:
    for name, step in _all_steps(workflow):
        options = set(step.get("with", {}))
        if "actions/download-artifact@" in step.get("uses", "") and options - {"artifact-ids", "pattern", "path"}:
            yield f"{name}: downloads with {options}"


def takes_what_was_handed_on_by_number_and_digest(workflow: Workflow) -> Iterator[str]:
    """Any job of a run may replace an artifact of its name. Results have no digest: legs of a matrix share outputs."""
    for name, job in workflow.jobs.items():
        for at, step in enumerate(steps(job)):
            options = step.get("with", {})
            if "actions/download-artifact@" not in step.get("uses", "") or options.get("pattern") == "results-*":
                continue
            check = steps(job)[at + 1] if at + 1 < len(steps(job)) else {}
            source = re.fullmatch(r"\$\{\{ (\S+)_id \}\}", options.get("artifact-ids", ""))
            given = check.get("env", {}).get("SHA256")
            if source is None or given != f"${{{{ {source[1]}_sha256 }}}}" or "if" in check:
                yield f"{name}: «{step['name']}» is not checked"
            elif (found := re.fullmatch(CHECK_DIGEST, check["run"])) is None or not _is_all(found["path"], options):
                yield f"{name}: «{step['name']}» is checked by {check['run']!r}"


def _is_all(path: str, options: Mapping[str, str]) -> bool:
    """A folder of its own is checked whole; what lands among the checkout's files is the one file that is named."""
    return path == options.get("path", path) and ("path" in options or "." in path)


def hands_on_a_digest_of_each_artifact(workflow: Workflow) -> Iterator[str]:
    for name, job in workflow.jobs.items():
        for at, step in enumerate(steps(job)):
            options = step.get("with", {})
            if "actions/upload-artifact@" not in step.get("uses", "") or options["name"].startswith("results-"):
                continue
            artifact, before, outputs = options["name"], steps(job)[at - 1], job.get("outputs", {})
            found = re.fullmatch(TAKE_DIGEST, before.get("run", ""))
            wanted = {
                f"{artifact}_id": f"${{{{ steps.{step.get('id')}.outputs.artifact-id }}}}",
                f"{artifact}_sha256": f"${{{{ steps.{before.get('id')}.outputs.{artifact} }}}}",
            }
            if found is None or found.group("name", "path") != (artifact, options["path"]):
                yield f"{name}: no digest of «{step['name']}»"
            elif wanted.items() - outputs.items():
                yield f"{name}: outputs {outputs}"


def shows_numbers_and_commits_only(workflow: Workflow) -> Iterator[str]:
    """Names of branches, repositories and people, and titles, may hold signs that change how a line reads."""
    names = [str(workflow.tree.get("run-name", ""))]
    for job in workflow.jobs.values():
        names += [str(job.get("name", "")), *(str(step.get("name", "")) for step in steps(job))]
    for expression in (found for name in names for found in re.findall(r"\$\{\{(.*?)\}\}", name, re.DOTALL)):
        words = set(re.findall(r"[a-z_]+(?:\.[a-z_]+)+", re.sub(r"'[^']*'", "", expression)))
        if words - SHOWN:
            yield f"shown: {sorted(words - SHOWN)}"


def keeps_gpus_behind_group_and_environment(workflow: Workflow) -> Iterator[str]:
    for name, job in workflow.jobs.items():
        if (workflow.name, name) in ENVIRONMENTS or runs_on_gpu(job):
            wanted = ENVIRONMENTS.get((workflow.name, name))
            if wanted is None or environment(job) != wanted:
                yield f"{name}: environment {environment(job)}"
        if runs_on_gpu(job) and not (isinstance(job["runs-on"], dict) and job["runs-on"].get("group") == "gpu"):
            yield f"{name}: runs on {job['runs-on']}"
        if runs_on_gpu(job) and ("secrets." in str(job) or "github.token" in str(job)):
            yield f"{name}: a secret on a GPU machine"
        if job.get("uses") == "./.github/workflows/measure.yml" and (
            job["with"]["environment"] != MEASURES_IN[workflow.name] or "secrets" in job
        ):
            yield f"{name}: {job['with']}"


def gives_secrets_and_tokens_to_single_steps(workflow: Workflow) -> Iterator[str]:
    for name, job in workflow.jobs.items():
        for step in steps(job):
            secret = any("secrets." in text for text in strings(step))
            if secret and not (environment(job) == "bot" and "create-github-app-token@" in step.get("uses", "")):
                yield f"{name}: a secret in «{step['name']}»"
        outside = {key: value for key, value in job.items() if key not in ("steps", "outputs")}
        if re.search(r"secrets[.\[]|github\.token", str(outside)):
            yield f"{name}: a secret or token for the whole job"
    if re.search(r"secrets[.\[]|github\.token", str({**workflow.tree, "jobs": None})):
        yield "a secret or token for the whole workflow"


def publishes_what_others_built(workflow: Workflow) -> Iterator[str]:
    for name, job in workflow.jobs.items():
        if "id-token" not in (job.get("permissions") or {}):
            continue
        for step in steps(job):
            if ("run" in step and not re.fullmatch(CHECK_DIGEST, step["run"])) or "checkout" in str(step):
                yield f"{name}: runs something where it can publish"
        needs = {job["needs"]} if isinstance(job["needs"], str) else set(job["needs"])
        if not PUBLISHES_AFTER[workflow.name] <= needs:
            yield f"{name}: publishes what {job['needs']} left"


def installs_nothing_where_it_can_write(workflow: Workflow) -> Iterator[str]:
    """What a package index serves today runs in other jobs: beside a token that writes, or the app's key, none of it.

    So what such a job may run at all is a short list.
    """
    for name, job in workflow.jobs.items():
        if environment(job) != "bot" and "write" not in (job.get("permissions") or {}).values():
            continue
        for step in steps(job):
            allowed = step.get("uses", "").partition("@")[0] in BESIDE_A_TOKEN
            if "run" in step:
                allowed = any(re.fullmatch(what, step["run"].strip()) for what in (WRITE, RELEASE, CHECK_DIGEST))
            if not allowed:
                yield f"{name}: may install something in «{step.get('name')}»"


def runs_on_main_alone(workflow: Workflow) -> Iterator[str]:
    """A dispatch may name any branch, and the group admits a called file whoever calls it."""
    if not {"workflow_dispatch", "workflow_call"} & set(workflow.triggers):
        return
    for name, job in workflow.jobs.items():
        privileged = runs_on_gpu(job) or "uses" in job or environment(job) or "write" in str(job.get("permissions"))
        if privileged and not _guarded(workflow.jobs, name):
            yield f"{name}: not held to main"


def _guarded(jobs: Mapping[str, Any], name: str) -> bool:
    job = jobs[name]
    if "github.ref == 'refs/heads/main'" in job.get("if", ""):
        return True
    if re.search(r"\b(always|cancelled|failure)\(\)", job.get("if", "")) and "needs." not in job["if"]:
        return False  # it runs though what it needs was skipped
    needs = job.get("needs", [])
    return any(_guarded(jobs, needed) for needed in ([needs] if isinstance(needs, str) else needs))


def _all_steps(workflow: Workflow) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, job in workflow.jobs.items():
        for step in steps(job):
            yield name, step


RULES: list[Rule] = [
    starts_only_where_it_is_meant_to,
    grants_nothing_at_the_top_and_each_job_its_own,
    gives_a_reason_beside_each_grant,
    pins_every_action,
    limits_time_and_concurrency,
    holds_no_logic,
    checks_out_only_what_started_it_and_keeps_no_token,
    takes_artifacts_of_its_own_run_only,
    takes_what_was_handed_on_by_number_and_digest,
    hands_on_a_digest_of_each_artifact,
    shows_numbers_and_commits_only,
    keeps_gpus_behind_group_and_environment,
    gives_secrets_and_tokens_to_single_steps,
    publishes_what_others_built,
    installs_nothing_where_it_can_write,
    runs_on_main_alone,
]
