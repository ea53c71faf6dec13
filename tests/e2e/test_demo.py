from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
from functools import partial
from pathlib import Path

import httpx
import pytest

from benchmarks.faults import SHARES, judge
from chaos.faults import KINDS
from tests.e2e.running import Running, command, headless, one_day, run
from tests.waiting import until

look_until = partial(until, pause_seconds=0.05)  # A look asks another process.
ROWS_OF_A_DAY = 3_108
REPORT_KEYS = {
    "events_produced", "rows_read", "dead_letters", "replicas", "consistent_ratio",
    "ordering_violations", "throughput_events_per_second", "faults", "findings",
}  # fmt: skip
REPLICA_KEYS = {
    "verdict", "applied", "position", "duplicates", "gaps", "propagation_latency_seconds",
    "markers_compared",
}  # fmt: skip
FAULT_KEYS = {
    "kind", "replica", "subject", "context_type", "field", "position", "at", "lost_with_process",
}  # fmt: skip
FINDING_KEYS = {
    "id", "state", "kind", "replica", "context_type", "subjects", "first_bad_position", "since",
    "detected_at", "resolved_at", "evidence",
}  # fmt: skip


def test_a_clean_run_proves_every_replica_and_accounts_for_every_row(tmp_path: Path) -> None:
    code, report = headless(tmp_path, "--data", one_day(tmp_path))

    assert code == 0
    assert report.keys() >= REPORT_KEYS
    assert report["rows_read"] == 3_108
    assert report["dead_letters"] == [{"reason": "stock adjustment", "count": 10}]
    assert report["findings"] == report["faults"] == []
    assert report["consistent_ratio"] == 1.0
    assert len(report["replicas"]) == 8
    for name, replica in report["replicas"].items():
        assert replica.keys() >= REPLICA_KEYS
        assert replica["verdict"] == "CONSISTENT"
        assert replica["applied"] == report["views"][name.split("@")[0]]["events"] > 0
        assert replica["duplicates"] == replica["gaps"] == 0
        assert replica["markers_compared"] >= 4
        assert set(replica["propagation_latency_seconds"]) == {"p50", "p95", "p99"}


@pytest.mark.parametrize("kind", KINDS)
def test_exactly_what_was_injected_is_found(kind: str, tmp_path: Path) -> None:
    replica = "fraud-scorer@2" if kind in ("drop", "corrupt") else "offer-pricer@1"
    share = SHARES[kind] * 2

    code, report = headless(
        tmp_path, "--data", one_day(tmp_path), "--fault", f"{kind}:{replica}:{share}", "--seed", "5"
    )

    assert report["faults"], "nothing was injected, so nothing was tested"
    assert all(fault.keys() == FAULT_KEYS for fault in report["faults"])
    assert all(finding.keys() == FINDING_KEYS for finding in report["findings"])
    assert judge(kind, replica, report) == []
    assert code == any(finding["state"] != "resolved" for finding in report["findings"])


def test_personal_values_stay_out_of_the_evidence(tmp_path: Path) -> None:
    _, report = headless(
        tmp_path, "--data", one_day(tmp_path), "--fault", "corrupt:fraud-scorer@1:0.01"
    )

    fields = [
        (finding["context_type"], name, pair)
        for finding in report["findings"]
        for name, pair in finding["evidence"]["fields"].items()
    ]
    assert fields
    for kind, name, pair in fields:
        assert ("seen_value" in pair) == ((kind, name) == ("geographic", "country"))


def test_a_run_killed_at_random_moments_loses_nothing_and_finds_nothing(tmp_path: Path) -> None:
    rng = random.Random(7)
    data, folder = one_day(tmp_path), tmp_path / "state"
    _, whole = headless(tmp_path, "--data", data)
    for _ in range(4):
        process = subprocess.Popen(
            command(
                "demo", "--headless", "--speed", "max", "--http-port", "0", "--data", data,
                "--data-dir", folder,
            ),
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            process.wait(rng.uniform(0.4, 1.5))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    code, report = headless(tmp_path, "--data", data, "--data-dir", folder)

    assert code == 0
    assert report["findings"] == []
    for key in ("events_produced", "rows_read", "dead_letters", "views"):
        assert report[key] == whole[key], key
    for name, replica in report["replicas"].items():
        assert replica["position"] == whole["replicas"][name]["position"]
        assert replica["applied"] == whole["replicas"][name]["applied"]
        assert replica["duplicates"] == replica["gaps"] == 0


def test_it_serves_metrics_health_and_an_api_until_interrupted(tmp_path: Path) -> None:
    arguments = ("--data", one_day(tmp_path), "--speed", "max")
    with (
        Running(*arguments, "--fault", "drop:recommender@1:0.01") as demo,
        httpx.Client(base_url=demo.url) as client,
    ):

        def is_over() -> bool:
            report = client.get("/api/report").json()
            verdicts = {name: one["verdict"] for name, one in report["replicas"].items()}
            diverged = [name for name, verdict in verdicts.items() if verdict == "DIVERGED"]
            # Before the end of the day a later event may heal what was lost.
            return (
                report["rows_read"] == ROWS_OF_A_DAY
                and diverged == ["recommender@1"]
                and "UNKNOWN" not in verdicts.values()
            )

        look_until(is_over, "the end of the day, and the divergence")
        look_until(lambda: client.get("/readyz").status_code == 200, "readiness")
        metrics = client.get("/metrics").text
        findings = client.get("/api/findings", params={"state": "open"}).json()
        report = client.get("/api/report").json()
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/").status_code == 200
        assert client.get("/api/replicas").json().keys() == report["replicas"].keys()
        assert client.get("/nothing").status_code == 404
        code, printed = demo.stop()

    assert 'synchroscope_replica_verdict{replica="recommender@1",verdict="DIVERGED"} 1.0' in metrics
    assert findings and {finding["replica"] for finding in findings} == {"recommender@1"}
    assert report["events_produced"] > 0
    assert code == 1
    assert "open findings" in printed or "open: recommender@1 missed" in printed


def test_an_interrupt_in_the_middle_ends_cleanly_with_a_summary(tmp_path: Path) -> None:
    with (
        Running("--speed", "600", "--data-dir", tmp_path / "state") as demo,
        httpx.Client(base_url=demo.url) as client,
    ):
        look_until(lambda: client.get("/api/report").json()["events_produced"] > 50, "some events")
        code, printed = demo.stop(signal.SIGTERM)

    assert code == 0
    assert any("done: " in line and "8/8" in line for line in printed.splitlines())


def test_the_duration_ends_the_run(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    ended = run(
        "demo",
        "--headless",
        "--speed",
        "1",
        "--duration",
        "1",
        "--http-port",
        "0",
        "--report",
        report,
    )

    assert ended.returncode == 0, ended.stdout
    assert 0 < json.loads(report.read_text(encoding="utf-8"))["rows_read"] < ROWS_OF_A_DAY


def test_broken_rows_are_dead_letters_with_their_reason(tmp_path: Path) -> None:
    data = one_day(tmp_path)
    lines = (data / "2010-12-01.csv").read_bytes().splitlines(keepends=True)[:41]
    lines[5] = b'536365,"unbalanced\n'
    lines[7] = b"\xff\xfe\x00garbage\n"
    lines[9] = lines[9].replace(b",6,", b",six,")
    lines[11] = b"1,2,3\n"
    (data / "2010-12-01.csv").write_bytes(b"".join(lines))

    code, report = headless(tmp_path, "--data", data)

    assert code == 0
    assert report["rows_read"] == 40
    assert report["dead_letters"] == [{"reason": "broken row", "count": 4}]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fault", "drop:nobody@1:0.1"], "REPLICA is one of"),
        (["--fault", "explode:fraud-scorer@1:0.1"], "KIND is one of"),
        (["--fault", "drop:fraud-scorer@1:2"], "SHARE is a number from 0 to 1"),
        (["--fault", "drop"], "KIND:REPLICA:SHARE"),
        (["--speed", "0"], "a number over 0, or max"),
        (["--duration", "-1"], "duration"),
        (["--data", "nowhere"], "nowhere"),
        (["--report", "no/such/folder/report.json"], "no folder"),
        (["--http-port", "70000"], "http-port"),
        (["--unknown"], "--unknown"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_accepted(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    ended = run("demo", "--headless", "--data-dir", tmp_path / "state", *arguments)

    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_that_is_taken_is_a_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = run("demo", "--headless", "--http-port", str(taken.getsockname()[1]))

    assert ended.returncode == 2
    assert "choose another --http-port" in ended.stderr


def test_two_processes_cannot_write_one_folder(tmp_path: Path) -> None:
    with Running("--data-dir", tmp_path / "state", "--speed", "600"):
        second = run("demo", "--headless", "--http-port", "0", "--data-dir", tmp_path / "state")

    assert second.returncode in (2, 3)
    assert "Traceback" not in second.stderr
    assert str(tmp_path / "state") in second.stderr


def test_what_was_not_judged_at_the_head_is_undecided(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    arguments = ("--speed", "max", "--fault", "delay:fraud-scorer@2:0.9", "--report", report)
    with Running(*arguments) as demo, httpx.Client(base_url=demo.url) as client:
        look_until(lambda: client.get("/api/report").json()["events_produced"] > 500, "some events")
        demo.process.send_signal(signal.SIGINT)
        look_until(lambda: client.get("/api/report").status_code == 200, "an answer")
        code, _ = demo.stop()

    assert code == 3
    replica = json.loads(report.read_text(encoding="utf-8"))["replicas"]["fraud-scorer@2"]
    assert replica["verdict"] == "UNKNOWN"
    assert "head" in replica["reason"]
