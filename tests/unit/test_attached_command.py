"""What the command `attach` refuses before it reads anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.sqlite_database import SqliteDatabase
from service.attached_command import LOCKED_FILE
from service.cli import cli, main
from synchroscope.errors import StorageError, UnavailableError
from tests.unit.test_attached_configuration import SOUND
from validator.attached.book import Book, make_finding
from validator.attached.reference import KeyedReference
from validator.finding import Finding


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["attach", *map(str, arguments)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a sound file; nobody listens where it says."""
    path = tmp_path / "attached.yaml"
    path.write_text(SOUND.replace("kafka:9092", "127.0.0.1:1"), encoding="utf-8")
    return path


@pytest.mark.parametrize("seconds", ["nan", "inf", "-inf", "-1", "0", "1e999"])
def test_a_timeout_that_is_no_span_of_time_is_a_usage_error(file: Path, seconds: str) -> None:
    result = run(file, "--once", "--timeout", seconds)

    assert result.exit_code == 2
    assert "Invalid value for '--timeout'" in result.stderr


def test_a_second_process_on_one_data_folder_is_refused_as_by_the_demo(
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reached: list[Path] = []

    def second(configuration: object, folder: Path, waiting: object) -> None:
        reached.append(folder)
        if len(reached) == 1:
            result = run(file, "--once", "--data-dir", folder)
            assert isinstance(result.exception, StorageError)
            assert "in use by another writer" in str(result.exception)
        raise UnavailableError("kafka", "is away")

    monkeypatch.setattr("service.attached_command.open_attached", second)
    folder = tmp_path / "new" / "attached"
    for _ in range(2):  # The first one gives the folder back when it ends.
        result = run(file, "--once", "--data-dir", folder)
        assert isinstance(result.exception, UnavailableError)
    assert reached == [folder, folder]

    database = SqliteDatabase(folder / LOCKED_FILE)
    monkeypatch.setattr(
        "sys.argv", ["synchroscope", "attach", str(file), "--data-dir", str(folder)]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    database.close()
    assert ended.value.code == 3
    assert "use another data folder" in capsys.readouterr().err


# -- listing what a data folder holds --------------------------------------------------------------


def synchroscope(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def found(book: Book, number: int) -> Finding:
    finding = make_finding(
        "cache",
        "missed",
        [("customer", f"c-{number}")],
        partition=1,
        first_bad=40 + number,
        since=None,
        evidence={},
        now=1_700_000_000.0 + number,
        mark=number,
    )
    book.open_finding(finding)
    return finding


def test_findings_lists_those_of_a_folder_that_is_in_use(tmp_path: Path) -> None:
    lock = SqliteDatabase(tmp_path / LOCKED_FILE)
    reference = KeyedReference(tmp_path, "some topic")
    listed = synchroscope("findings", "--data-dir", tmp_path)
    assert (listed.returncode, listed.stdout) == (0, "no findings\n")

    book = Book(reference)
    later, earlier = found(book, 2), found(book, 1)
    book.resolve(earlier.id, 1_700_000_009.0)
    listed = synchroscope("findings", "--data-dir", tmp_path, "--output", "json")
    assert listed.returncode == 1
    shown = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [(one["id"], one["state"]) for one in shown] == [
        (earlier.id, "resolved"),
        (later.id, "open"),
    ]
    assert shown[1]["first_bad_position"] == {"partition": 1, "offset": 42}
    open_ones = synchroscope("findings", "--data-dir", tmp_path, "--open")
    assert later.id in open_ones.stdout
    assert earlier.id not in open_ones.stdout

    book.resolve(later.id, 1_700_000_010.0)
    assert synchroscope("findings", "--data-dir", tmp_path).returncode == 0
    reference.close()
    lock.close()


def test_repair_says_that_attached_stores_are_only_read(tmp_path: Path) -> None:
    SqliteDatabase(tmp_path / LOCKED_FILE).close()
    KeyedReference(tmp_path, "some topic").close()
    refused = synchroscope("repair", "F-1", "--data-dir", tmp_path)
    assert refused.returncode == 2
    assert "only reads the stores" in refused.stderr


def test_an_error_that_nobody_thought_of_is_no_finding(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise ZeroDivisionError("in the depths")

    monkeypatch.setattr("service.attached_command.open_attached", fail)
    result = run(file, "--once")
    assert result.exit_code == 3
    assert "in the depths" in result.stderr
