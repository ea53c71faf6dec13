"""What the command `attach` refuses before it reads anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.sqlite_database import SqliteDatabase
from service.attached_command import LOCKED_FILE
from service.cli import cli, main
from synchroscope.errors import StorageError, UnavailableError
from tests.unit.test_attached_configuration import SOUND


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

    def second(configuration: object, folder: Path) -> None:
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
