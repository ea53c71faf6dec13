"""What is said of connections that no waiting mends, in the spellings of both clients, and when."""

from __future__ import annotations

import logging
from warnings import catch_warnings, simplefilter

import pytest

from pipeline.kafka_client import looks_seconds
from pipeline.kafka_errors import refusal_remedy

with catch_warnings():
    simplefilter("ignore", DeprecationWarning)  # kafka-python reads its schemas the old way.
    from kafka.errors import KafkaConnectionError, KafkaTimeoutError

    from pipeline.kafka_python_connection import _Troubles


def kept(*errors: Exception) -> Exception | None:
    """Return what is kept as the reason after kafka-python has logged these."""
    troubles = _Troubles()
    for error in errors:
        record = logging.makeLogRecord({"msg": "failed: %s", "args": (error,)})
        troubles.emit(record)
    return troubles.recent(60.0)


def raised(error: Exception) -> Exception:
    """Return the error with a traceback."""
    try:
        raise error
    except type(error) as caught:
        return caught


def test_a_reason_that_is_kept_holds_no_frames_and_so_no_sockets() -> None:
    found = kept(raised(KafkaConnectionError(raised(OSError("gone")))))
    assert found is not None and str(found) == "KafkaConnectionError: gone"
    assert found.__traceback__ is None and found.args[0].__traceback__ is None


def test_a_login_without_an_answer_is_a_reason_and_other_time_outs_are_none() -> None:
    found = kept(KafkaTimeoutError("Unable to bootstrap"))
    assert found is None
    found = kept(KafkaTimeoutError("SASL Authentication timed out"), KafkaTimeoutError("Unable"))
    assert "SASL" in str(found)


def test_a_refusal_gives_way_to_no_lesser_trouble() -> None:
    refusal = KafkaConnectionError("[SSL: X] sslv3 alert bad certificate")
    assert "alert" in str(kept(KafkaConnectionError("gone"), refusal, KafkaConnectionError("gone")))


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required", "key_file"),
        ("[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca (_ssl.c:2580)", "key_file"),
        ("SSL routines::ssl/tls alert bad certificate: SSL alert number 42", "key_file"),
        ("certificate verify failed: self-signed certificate in certificate chain", "ca_file"),
        ("Hostname mismatch, certificate is not valid for 'kafka-1'.", "bootstrap_servers"),
        ("certificate verify failed: certificate is not yet valid", "this host's clock"),
        ("InvalidReceiveError: Invalid frame length: 352518912", "security.protocol"),
        ("Invalid response size 352518912 (0..1000): increase receive.…", "security.protocol"),
        ("[Error 33] UnsupportedSaslMechanismError", "security.mechanism"),
        ("Broker: Request not valid in current SASL state", "security.protocol"),
    ],
)
def test_a_refusal_is_known_by_what_the_client_says_of_it(text: str, setting: str) -> None:
    assert setting in refusal_remedy(text)


def test_what_librdkafka_says_of_every_certificate_names_authority_and_host() -> None:
    text = "certificate verify failed: broker certificate could not be verified, verify that …"
    remedy = refusal_remedy(text)
    assert "security.ca_file" in remedy and "bootstrap_servers" in remedy


@pytest.mark.parametrize(
    "text",
    [
        "Connection refused",
        "socket disconnected",
        "[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol",
        "Disconnected: SSL connection closed by peer: connecting to a PLAINTEXT broker listener?",
    ],
)
def test_what_a_broker_that_goes_away_looks_like_is_no_refusal(text: str) -> None:
    assert refusal_remedy(text) == ""


@pytest.mark.parametrize(
    ("timeout_seconds", "looks"),
    [(1.0, (1.0,)), (2.0, (0.5, 2.0)), (10.0, (0.5, 1.0, 10.0)), (0.2, (0.2,))],
)
def test_a_refusal_is_looked_for_twice_before_the_whole_time_out(
    timeout_seconds: float, looks: tuple[float, ...]
) -> None:
    assert looks_seconds(timeout_seconds) == looks
