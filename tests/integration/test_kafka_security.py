"""Certificates and logins: what works with both clients, and what is said of a mistake."""

from __future__ import annotations

import gc
import logging
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest
from msgspec import Struct
from msgspec.structs import replace

from pipeline.division_kafka import KafkaDivision
from pipeline.kafka_settings import KafkaSecurity, KafkaSettings
from pipeline.kafka_topics import check_topics, ensure_topics
from pipeline.log_kafka import KafkaLog
from synchroscope.errors import ConfigurationError, UnavailableError
from synchroscope.ports import EVENTS, NewRecord
from tests.private_kafka import PASSWORD, PrivateKafka
from tests.secured_kafka import (
    ELSEWHERE,
    EXPIRED,
    KEY_PASSWORD,
    LOGIN,
    MECHANISMS,
    MUTUAL,
    SecuredKafka,
    secured_kafka,
)
from tests.topics import KAFKA_CLIENTS, kafka_settings
from tests.waiting import until

#: The least there is, for mistakes that a client takes for a broker that is away; and more than any
#: test takes, for those that have to be told before.
SHORT_SECONDS, LONG_SECONDS = 1.0, 60.0
PATIENCE_SECONDS = 2.0
#: More than a mistake takes to be told, on a busy machine; it takes half a second.
SOON_SECONDS = 15.0
WRONG_PASSWORD = "-".join(("wrong", "password"))  # Not as it would stand in a traceback's source.

# kafka-python leaves the socket of a refused connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <(socket|ssl):ResourceWarning")


@pytest.fixture(autouse=True)
def refused_sockets_are_collected(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    caplog.get_records("call").clear()  # They hold exceptions, whose frames hold sockets.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def started(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[SecuredKafka, PrivateKafka]]:
    folder: Path = tmp_path_factory.mktemp("secured")
    with secured_kafka(folder) as found:
        yield found


@pytest.fixture
def secured(started: tuple[SecuredKafka, PrivateKafka]) -> SecuredKafka:
    return started[0]


@pytest.fixture
def broker(started: tuple[SecuredKafka, PrivateKafka]) -> PrivateKafka:
    return started[1]


# -- what works ----------------------------------------------------------------------------------

Choice = Callable[[SecuredKafka], KafkaSecurity]


def with_encrypted_key(secured: SecuredKafka) -> KafkaSecurity:
    key_file = str(secured.encrypted_key_file)
    return secured.by_certificate(key_file=key_file, key_password=KEY_PASSWORD)


def with_one_file(secured: SecuredKafka) -> KafkaSecurity:
    file = str(secured.certificate.both_file)
    return secured.by_certificate(certificate_file=file, key_file="")


def with_login(mechanism: str) -> Choice:
    return lambda secured: secured.by_login(mechanism=mechanism)


@pytest.mark.parametrize(
    ("listener", "choice"),
    [
        pytest.param(MUTUAL, SecuredKafka.by_certificate, id="certificate"),
        pytest.param(MUTUAL, with_encrypted_key, id="encrypted key"),
        pytest.param(MUTUAL, with_one_file, id="key in the certificate's file"),
        *(pytest.param(LOGIN, with_login(name), id=name) for name in MECHANISMS),
    ],
)
def test_topics_are_made_and_records_are_appended_and_read(
    secured: SecuredKafka,
    broker: PrivateKafka,
    client: str,
    to_close: ExitStack,
    listener: str,
    choice: Choice,
) -> None:
    address = broker.addresses[listener]
    settings = kafka_settings(client, bootstrap_servers=address, security=choice(secured))
    assert len(ensure_topics(settings)) == 6
    assert check_topics(settings) == []
    log = to_close.enter_context(closing(KafkaLog(settings, writer="w")))
    log.append([NewRecord(EVENTS, 1, b"k", b"v")], 1.0, consumer="c", positions={(EVENTS, 0): 7})
    assert [record.value for record in log.read(EVENTS, 1, 0, 10).records] == [b"v"]
    assert log.positions("c") == {(EVENTS, 0): 7}


def test_a_member_of_a_group_owns_its_partitions_over_tls(
    secured: SecuredKafka, broker: PrivateKafka, client: str, to_close: ExitStack
) -> None:
    address, security = broker.addresses[MUTUAL], secured.by_certificate()
    settings = kafka_settings(client, bootstrap_servers=address, security=security)
    ensure_topics(settings)
    division = to_close.enter_context(closing(KafkaDivision(settings, "g", EVENTS)))
    until(lambda: len(division.owned()) == 2, "both partitions")


# -- mistakes ------------------------------------------------------------------------------------


class Mistake(Struct, frozen=True):
    """A listener of the broker, settings that do not fit it, and what is to be said of that."""

    listener: str
    choice: Choice
    told: str
    always_seen_by: tuple[str, ...] = KAFKA_CLIENTS
    """Which clients know it for sure: it is a matter of configuration then, and told at once.
    The others may take the broker for one that is away."""


def with_stranger(**files: str) -> Choice:
    """Return a choice with files that a stranger made in place of the right ones."""

    def choice(secured: SecuredKafka) -> KafkaSecurity:
        made = secured.strangers_certificate
        return secured.by_certificate(
            **{setting: str(getattr(made, name)) for setting, name in files.items()}
        )

    return choice


def with_file(setting: str, text: str | None) -> Choice:
    """Return a choice with a file of that text, or one that is not there."""

    def choice(secured: SecuredKafka) -> KafkaSecurity:
        file = secured.folder / f"{setting}-other.pem"
        if text is not None:
            file.write_text(text)
        else:
            file.unlink(missing_ok=True)
        return secured.by_certificate(**{setting: str(file)})

    return choice


def encrypted_key_with(password: str) -> Choice:
    return lambda secured: replace(with_encrypted_key(secured), key_password=password)


MISTAKES = {
    "an authority that is not trusted": Mistake(
        MUTUAL,
        lambda secured: secured.by_certificate(ca_file=str(secured.stranger.certificate_file)),
        r"unable to get local issuer certificate.*: set kafka security\.ca_file",
    ),
    "the system's authorities": Mistake(
        LOGIN, lambda secured: secured.by_login(ca_file=""), r": set kafka security\.ca_file"
    ),
    "a host that the certificate does not hold": Mistake(
        ELSEWHERE,
        SecuredKafka.by_certificate,
        r"not valid for '127\.0\.0\.1'.*: name in kafka bootstrap_servers a host",
    ),
    "an expired certificate": Mistake(
        EXPIRED, SecuredKafka.by_certificate, "certificate has expired.*certificate renewed"
    ),
    "no certificate of the client's": Mistake(
        MUTUAL,
        lambda secured: secured.by_certificate(certificate_file="", key_file=""),
        r"set kafka security\.certificate_file and security\.key_file",
    ),
    "a certificate that the broker does not trust": Mistake(
        MUTUAL,
        with_stranger(certificate_file="certificate_file", key_file="key_file"),
        r"set kafka security\.certificate_file and security\.key_file",
    ),
    "a wrong password": Mistake(
        LOGIN,
        lambda secured: secured.by_login(mechanism="SCRAM-SHA-256", password=WRONG_PASSWORD),
        r"security\.password",
        always_seen_by=("confluent",),
    ),
    "a login where none is asked for": Mistake(
        MUTUAL,
        lambda secured: secured.by_certificate(
            protocol="SASL_SSL", mechanism="PLAIN", username="u", password=WRONG_PASSWORD
        ),
        r"set kafka security\.protocol and security\.mechanism",
    ),
    "TLS to a plaintext listener": Mistake(
        "PLAINTEXT", SecuredKafka.by_certificate, r"security\.protocol", always_seen_by=()
    ),
    "plaintext to a TLS listener": Mistake(
        MUTUAL, lambda secured: KafkaSecurity(), r"security\.protocol", always_seen_by=()
    ),
    # What files hold is seen before anything is sent.
    "a wrong key password": Mistake(
        MUTUAL,
        encrypted_key_with(WRONG_PASSWORD),
        r": security\.key_password does not open the key in ",
    ),
    "no key password": Mistake(
        MUTUAL, encrypted_key_with(""), r": security\.key_password is needed to open the key in "
    ),
    "another certificate's key": Mistake(
        MUTUAL, with_stranger(key_file="key_file"), r": security\.key_file .* is not the key of "
    ),
    "no authorities' file": Mistake(
        MUTUAL, with_file("ca_file", None), r": security\.ca_file .* cannot be read \(No such file"
    ),
    "no key file": Mistake(
        MUTUAL, with_file("key_file", None), r": security\.key_file .* cannot be read \(No such"
    ),
    **{
        f"no PEM in {setting}": Mistake(
            MUTUAL, with_file(setting, "-"), rf": security\.{setting} .* holds no .* in PEM"
        )
        for setting in ("ca_file", "certificate_file", "key_file")
    },
}


@pytest.mark.parametrize("mistake", [pytest.param(one, id=name) for name, one in MISTAKES.items()])
def test_a_mistake_is_told_soon_with_the_setting_and_without_secrets(
    secured: SecuredKafka,
    broker: PrivateKafka,
    client: str,
    mistake: Mistake,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    is_seen = client in mistake.always_seen_by
    settings = kafka_settings(
        client,
        bootstrap_servers=broker.addresses[mistake.listener],
        security=mistake.choice(secured),
        request_timeout_seconds=LONG_SECONDS if is_seen else SHORT_SECONDS,
    )
    expected = ConfigurationError if is_seen else (ConfigurationError, UnavailableError)
    began = time.monotonic()
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(expected, match=mistake.told) as caught,
    ):
        check_topics(settings)
    assert time.monotonic() - began < SOON_SECONDS
    shown = "".join(traceback.format_exception(caught.value))
    shown += f"{caught.value!r}{settings!r}{caplog.text}{''.join(capfd.readouterr())}"
    for secret in secured.secrets | {PASSWORD, KEY_PASSWORD, WRONG_PASSWORD}:
        assert secret not in shown
    assert "PEM pass phrase" not in shown  # OpenSSL asked for it on the terminal.


# -- away for a while ----------------------------------------------------------------------------


def test_a_broker_with_tls_that_is_killed_is_away_and_no_matter_of_configuration(
    secured: SecuredKafka, broker: PrivateKafka, to_close: ExitStack
) -> None:
    each = [
        kafka_settings(
            client,
            bootstrap_servers=broker.addresses[MUTUAL],
            security=secured.by_certificate(),
            request_timeout_seconds=PATIENCE_SECONDS,
        )
        for client in KAFKA_CLIENTS
    ]
    logs = []
    for settings in each:
        ensure_topics(settings)
        logs.append(to_close.enter_context(closing(KafkaLog(settings))))
        logs[-1].append([NewRecord(EVENTS, 0, b"k", b"before")], 1.0)
    broker.send(signal.SIGKILL)
    try:
        for log in logs:
            with pytest.raises(UnavailableError):
                log.append([NewRecord(EVENTS, 0, b"k", b"during")], 1.0)
    finally:
        broker.start()
    for settings in each:
        opened = until(partial(_log_or_none, settings), "a log")
        log = to_close.enter_context(closing(opened))
        assert log.read(EVENTS, 0, 0, 1).records[0].value == b"before"


def _log_or_none(settings: KafkaSettings) -> KafkaLog | None:
    try:
        return KafkaLog(settings)
    except UnavailableError:
        return None
