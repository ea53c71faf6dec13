"""How one librdkafka handle is set up, and what its errors mean."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from pipeline.kafka_client import OnWait
from pipeline.kafka_errors import (
    SASL_FAILED,
    UNKNOWN_TOPIC,
    refusal_remedy,
    translated,
    unavailable,
)
from pipeline.kafka_settings import KafkaSettings
from pipeline.kafka_tls import tls_context, why_not_trusted
from synchroscope.errors import SynchroscopeError

_log = logging.getLogger("pipeline.kafka")
_log.addHandler(logging.NullHandler())

_TLS_REMEDY = (
    "check kafka security.protocol against the broker's listener, and security.ca_file, "
    "security.certificate_file and security.key_file"
)
_ARGUMENT_REMEDY = "correct the kafka setting that it names"
#: librdkafka's own codes -> the protocol's code that means the same, and the remedy.
_LOCAL_CODES: Mapping[int, tuple[int, str]] = {
    KafkaError._FENCED: (90, ""),
    KafkaError._AUTHENTICATION: (SASL_FAILED, ""),
    KafkaError._UNKNOWN_TOPIC: (UNKNOWN_TOPIC, ""),
    KafkaError._UNKNOWN_PARTITION: (UNKNOWN_TOPIC, ""),
    KafkaError._SSL: (-1, _TLS_REMEDY),
    KafkaError._INVALID_ARG: (-1, _ARGUMENT_REMEDY),
    KafkaError._UNSUPPORTED_FEATURE: (-1, _ARGUMENT_REMEDY),
}
#: What no waiting mends; librdkafka tells it to its error callback and lets the request time out.
LASTING_TROUBLES = (KafkaError._AUTHENTICATION, KafkaError._SSL)
_CONSEQUENCES = (
    KafkaError._FATAL,
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._ALL_BROKERS_DOWN,
)


class Connection:
    """The settings of one librdkafka handle, and what it last complained of."""

    def __init__(self, settings: KafkaSettings, on_wait: OnWait | None) -> None:
        self.settings = settings
        self.timeout_seconds = settings.request_timeout_seconds
        self._on_wait = on_wait
        self._trouble: KafkaError | None = None
        self._complained_at = 0.0

    def _configuration(self) -> dict[str, Any]:
        security = self.settings.security
        options: dict[str, Any] = {
            "bootstrap.servers": self.settings.bootstrap_servers,
            "client.id": self.settings.name,
            "security.protocol": security.protocol,
            "socket.timeout.ms": max(int(self.timeout_seconds * 1000), 1_000),
            "socket.nagle.disable": True,
            "socket.keepalive.enable": True,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 1_000,
            "retry.backoff.ms": 50,
            "allow.auto.create.topics": False,
            "topic.metadata.refresh.fast.interval.ms": 100,
            "error_cb": self._complain,
            "logger": _log,
        }
        given = {
            "sasl.mechanism": security.mechanism if security.uses_sasl else "",
            "sasl.username": security.username if security.uses_sasl else "",
            "sasl.password": security.password if security.uses_sasl else "",
            "ssl.ca.location": security.ca_file if security.uses_tls else "",
            "ssl.certificate.location": security.certificate_file if security.uses_tls else "",
            "ssl.key.location": security.own_key_file if security.uses_tls else "",
            "ssl.key.password": security.key_password if security.uses_tls else "",
        }
        options.update((name, value) for name, value in given.items() if value)
        return options

    def open(self, make: Callable[[dict[str, Any]], Any], options: Mapping[str, Any]) -> Any:
        """Make a handle, or say which setting it does not accept."""
        if self.settings.security.uses_tls:
            tls_context(self.settings)  # Says what is wrong with a file, and in which setting.
        try:
            return make({**self._configuration(), **options})
        except KafkaException as error:
            raise self.translated(error, "opening the client") from error

    def _complain(self, error: KafkaError) -> None:
        last = self._recent_trouble()
        if last is None or _is_lasting(error) or not _is_lasting(last):
            self._trouble, self._complained_at = error, time.monotonic()

    def _recent_trouble(self) -> KafkaError | None:
        is_recent = time.monotonic() - self._complained_at < 2 * self.timeout_seconds
        return self._trouble if is_recent else None

    def is_refused(self) -> bool:
        """Say whether the brokers were reached, and what they answered is mended by no waiting."""
        trouble = self._recent_trouble()
        return trouble is not None and _is_lasting(trouble)

    def wait(self) -> None:
        """Tell the caller that something still waits."""
        if self._on_wait is not None:
            self._on_wait()

    def translated(self, error: KafkaException | KafkaError, doing: str) -> SynchroscopeError:
        """Return our error for librdkafka's; a time-out has the reason that it had before."""
        cause = error.args[0] if isinstance(error, KafkaException) else error
        code, text, trouble = cause.code(), cause.str(), self._recent_trouble()
        if trouble is not None and (cause.retriable() or code in _CONSEQUENCES):
            text = f"{text} ({trouble.str()})"
            if _is_lasting(trouble) or code == KafkaError._FATAL:
                code = trouble.code()
        code, remedy = _LOCAL_CODES.get(code, (code, ""))
        if "certificate verify failed" in text:
            reason = why_not_trusted(self.settings)
            text = f"certificate verify failed: {reason}" if reason else text
        return translated(self.settings, doing, code, text, refusal_remedy(text) or remedy)

    def timed_out(self, doing: str) -> SynchroscopeError:
        """Return the error for an answer that did not come in time."""
        trouble, text = self._recent_trouble(), f"no answer in {self.timeout_seconds:g} s"
        if trouble is None:
            return unavailable(self.settings, doing, text)
        if _is_lasting(trouble):
            return self.translated(trouble, doing)
        return unavailable(self.settings, doing, f"{text} ({trouble.str()})")


def _is_lasting(error: KafkaError) -> bool:
    return error.code() in LASTING_TROUBLES or bool(refusal_remedy(error.str()))
