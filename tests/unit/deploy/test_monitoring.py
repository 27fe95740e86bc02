"""Alert rules and dashboard: every alert has its cases, every name is a metric of the documents."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from testing.server import ROOT
from tests.support.metric_table import (
    DASHBOARD,
    FOLDER,
    RULES,
    documented_metrics,
    expressions,
    read,
    series_of,
)

pytestmark = pytest.mark.slow

OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
CASES = [case for test in read("rules_test.yml")["tests"] for case in test["alert_rule_test"]]


def promtool(*arguments: str, folder: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (apt install prometheus)")
    return subprocess.run(
        [program, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "--syntax-only", "prometheus.yml"),
        ("check", "rules", "rules.yml"),
        ("test", "rules", "rules_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    done = promtool(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "expression", ["vector(0) > 1", 'label_replace(vector(1), "instance", "x", "", "")']
)
def test_cases_detect_alerts_that_never_or_always_fire(expression: str, tmp_path: Path) -> None:
    """No rule reads another, so that all are broken in one run."""
    shutil.copy(FOLDER / "rules_test.yml", tmp_path)
    broken = read("rules.yml")
    for group in broken["groups"]:
        for rule in group["rules"]:
            rule["expr"] = expression
            rule.pop("for", None)
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(broken), encoding="utf-8")
    done = promtool("test", "rules", "rules_test.yml", folder=tmp_path)
    assert done.returncode != 0
    told = re.findall(r"alertname: (\w+),", done.stdout + done.stderr)
    assert set(told) == set(RULES)
    assert not [name for rule in RULES.values() for name in RULES if name in rule["expr"]]


@pytest.mark.parametrize("alert", RULES)
def test_every_alert_has_a_firing_and_a_silent_case(alert: str) -> None:
    fires = {bool(case["exp_alerts"]) for case in CASES if case["alertname"] == alert}
    assert fires == {True, False}


@pytest.mark.parametrize("alert", RULES)
def test_every_alert_has_a_runbook_section(alert: str) -> None:
    rule = RULES[alert]
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["runbook"] == f"docs/operations.md#{alert.lower()}"
    section = OPERATIONS.partition(f"### {alert}\n")[2].partition("\n#")[0]
    assert len(section.split()) > 20


def test_every_runbook_section_has_an_alert() -> None:
    assert set(re.findall(r"^### (Experimance\w+)$", OPERATIONS, re.M)) == set(RULES)
    assert {case["alertname"] for case in CASES} == set(RULES)


def test_every_name_is_in_the_table() -> None:
    known = {series for metric in documented_metrics() for series in series_of(metric)}
    used = {name for text in expressions() for name in re.findall(r"\bexperimance_\w+", text)}
    assert len(used) > 25
    assert used <= known, used - known


def test_the_dashboard_asks_whichever_prometheus_is_chosen() -> None:
    (chosen, _) = DASHBOARD["templating"]["list"]
    assert chosen["type"] == "datasource"
    source = {"type": "prometheus", "uid": f"${{{chosen['name']}}}"}
    for panel in DASHBOARD["panels"]:
        assert panel["datasource"] == source
        assert all(target["datasource"] == source for target in panel["targets"])
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids)) > 10
    assert "__inputs" not in DASHBOARD


def test_the_scrape_sends_a_token_from_a_file() -> None:
    (job,) = read("prometheus.yml")["scrape_configs"]
    assert job["authorization"]["type"] == "Bearer"
    assert job["authorization"]["credentials_file"] in OPERATIONS
    assert read("prometheus.yml")["rule_files"] == ["rules.yml"]
    assert RULES["ExperimanceDown"]["expr"].startswith(f'up{{job="{job["job_name"]}"}}')
