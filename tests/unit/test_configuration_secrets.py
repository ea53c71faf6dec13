"""No secret of a configuration is ever shown, and none stands in the file itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from redis.connection import parse_url

from service.configuration_secrets import masked
from tests.configuration_world import (
    DSN,
    GOOD,
    URL,
    file,
    load,
    loaded_or_refused,
    problems,
    scratch,
    with_setting,
)

__all__ = ["file", "scratch"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (DSN, "postgresql://me:hunter2@host/db"),
        (DSN, "postgresql://me:hun%74er2@host/db"),
        (DSN, "postgresql://me:${PART}hunter2@host/db"),
        (DSN, "postgresql://me:${PASSWORD:-hunter2}@host/db"),
        (DSN, "${DSN:-postgresql://me:hunter2@host/db}"),
        (DSN, "postgresql://me@host/db?password=hunter2"),
        (DSN, "postgresql://me@host/db?sslpassword=hunter2"),
        (DSN, "host=h password=hunter2"),
        (DSN, "password = 'hunter2 x' host=h"),
        (DSN, "postgresql://me:hunter2/x@host/db"),
        (DSN, "postgresql://me:12/34@host/db"),
        (URL, "redis://:hunter2@host/0"),
        (URL, "redis://me:hunter2@host/0"),
        (URL, "redis://host/0?password=hunter2"),
        (("log", "kafka", "security", "password"), "hunter2"),
        (("log", "kafka", "security", "password"), "${PASSWORD:-hunter2}"),
        (("log", "kafka", "security", "key_password"), "hunter2"),
        (("validator", "digest", "key"), "hunter2-hunter2-hunter2"),
    ],
)
def test_a_secret_in_the_file_itself_is_refused_and_not_shown(
    file: Path, path: tuple[str | int, ...], value: str
) -> None:
    environ = {"PART": "a", "PASSWORD": "b", "DSN": "postgresql://h/db"}
    found = problems(file, with_setting(path, value), **environ)
    assert any("holds a secret in plain text" in one for one in found), found
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (DSN, "postgresql://me@host:5432/db"),
        (DSN, "postgresql://me:${PASSWORD}@host:5432/db?application_name=x"),
        (DSN, "postgresql://${USER:-me}:${PASSWORD:-}@host:${PORT:-5432}/db"),
        (DSN, "host=h user=me passfile=/x password=${PASSWORD}"),
        (DSN, "postgresql://h1:5432,h2:5432/db"),
        (URL, "redis://me@host:6379/0"),
        (URL, "redis://:${PASSWORD}@host:6379/0"),
        (URL, "unix:///run/redis.sock?db=1"),
        (("views", "scorer", "fields"), {"password": "*", "key": "*", "dsn": "*"}),
        (("views", "password"), {"fields": {"financial": ["key", "password"]}}),
    ],
)
def test_what_is_no_secret_is_not_refused(
    file: Path, path: tuple[str | int, ...], value: Any
) -> None:
    load(file, with_setting(path, value), PASSWORD="hunter2")


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0$"), max_size=12)


@given(TEXTS, TEXTS, TEXTS)
@example("postgresql://u", "p[w", "@h/db")
@example("postgresql://u", "p?w", "@h/db")
@example("host=h password", "= 'a b'", "")
def test_no_password_that_postgresql_would_see_passes_in_plain_text(
    scratch: Path, before: str, middle: str, after: str
) -> None:
    for dsn in (f"{before}:{middle}{after}", f"postgresql://{before}:{middle}@{after}"):
        try:
            password = psycopg.conninfo.conninfo_to_dict(dsn).get("password")
        except (psycopg.ProgrammingError, UnicodeDecodeError):
            password = None
        if password:
            found = problems(scratch, with_setting(DSN, dsn))
            assert any("holds a secret in plain text" in one for one in found), dsn


@given(TEXTS, TEXTS, TEXTS)
@example("@", "0", "")
@example("", "'", "")
def test_no_password_that_redis_would_see_passes_in_plain_text(
    scratch: Path, before: str, middle: str, after: str
) -> None:
    for url in (f"redis://{before}:{middle}@{after}", f"redis://h/0?{before}={middle}"):
        try:
            password = parse_url(url).get("password")  # type: ignore[no-untyped-call]
        except ValueError:
            password = None
        if password:
            found = problems(scratch, with_setting(URL, url))
            assert any("holds a secret in plain text" in one for one in found), url


SECRETS = st.text(
    st.sampled_from("abcXYZ0189@:/?#%&=+ '\"\\[]{}!*,;$~ü-_"), min_size=1, max_size=20
).map(lambda text: f"Q{text}Q")


def with_secrets(mistake: int) -> str:
    """A file that refers to a secret wherever one may be; most mistakes make it a wrong one."""
    data = yaml.safe_load(GOOD)
    data["log"]["kafka"]["security"] = {
        "protocol": "SASL_SSL",
        "mechanism": "PLAIN",
        "username": "me",
        "password": "${SECRET}",
    }
    data["event_store"]["postgresql"]["dsn"] = "postgresql://me:${SECRET}@host/db"
    data["replicas"][0]["redis"]["url"] = "redis://me:${SECRET}@host/0"
    data["validator"] = {"digest": {"algorithm": "blake2b-128", "key": "${KEY}"}}
    if mistake == 1:
        data["log"]["kafka"]["security"]["mechanism"] = "${SECRET}"
    elif mistake == 2:
        data["relay"] = {"batch_records": "${SECRET}"}
    elif mistake == 3:
        data["validator"]["digest"]["algorithm"] = "xxh3-128"
    elif mistake == 4:
        data["event_store"]["postgresql"]["dsn"] = "host=h password=${SECRET} nonsense"
    elif mistake == 5:
        data["http"] = {"${": "x"}
    return yaml.safe_dump(data)


@given(SECRETS, st.integers(0, 5))
@example("Q'@/ pQ", 0)
@example("Q%80Q", 0)
def test_no_secret_is_in_a_message_or_in_what_is_shown(
    scratch: Path, secret: str, mistake: int
) -> None:
    environ = {"SECRET": secret, "KEY": f"0123456789abcdef{secret}"}
    shown = loaded_or_refused(scratch, with_secrets(mistake), environ)
    assert secret not in shown, shown


def test_a_sound_configuration_shows_no_secret(file: Path) -> None:
    environ = {"SECRET": "hunter2", "KEY": "0123456789abcdef-hunter2"}
    assert load(file, with_secrets(0), **environ).validator.digest.key == environ["KEY"]
    shown = loaded_or_refused(file, with_secrets(0), environ)
    assert "hunter2" not in shown
    assert "postgresql://me:***@host/db" in shown


@pytest.mark.parametrize(
    "text",
    [
        "password: *Hunter2x",
        "password: !Hunter2x y",
        "password: !!int Hunter2x",
        "password: Hunter2x: y: z",
        "password: @Hunter2x",
        "password: 'Hunter2x",
        "password: &Hunter2x",
        "password: [Hunter2x",
        "? Hunter2x\n? Hunter2x y: z: a",
        "%Hunter2x",
    ],
)
def test_a_broken_line_with_a_secret_is_not_shown(file: Path, text: str) -> None:
    assert "unter2" not in str(problems(file, "log:\n  kafka: {}\n" + text))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://:x@h", "redis://:***@h"),
        ("redis://u:x@y@h", "redis://u:***@h"),
        ("postgresql://u:x/y@h/db?a=b", "postgresql://u:***@h/db?a=b"),
        ("postgresql://u@h/db?password=x&a=b", "postgresql://u@h/db?password=***&a=b"),
        ("host=h password='x y' user=u", "host=h password=*** user=u"),
        (r"host=h password = 'x\'y' user=u", "host=h password = *** user=u"),
        (r"sslpassword=x\ y user=u", "sslpassword=*** user=u"),
    ],
)
def test_a_masked_url_is_the_url_without_its_password(url: str, expected: str) -> None:
    assert masked(url) == expected
