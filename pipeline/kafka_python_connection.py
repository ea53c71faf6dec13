"""How kafka-python's objects are set up, and what their errors mean."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from kafka import errors

from pipeline.kafka_client import OnWait
from pipeline.kafka_errors import translated, unavailable
from pipeline.kafka_settings import KafkaSettings
from synchroscope.errors import SynchroscopeError, UnavailableError

SLICE_SECONDS = 1.0
_Answer = TypeVar("_Answer")

_TLS_REMEDY = (
    "check kafka security.protocol against the broker's listener, and security.ca_file, "
    "security.certificate_file and security.key_file"
)
_SETTING_REMEDY = "correct the kafka setting that it names"
#: What kafka-python raises; besides, it has some asserts and ValueErrors for wrong settings.
CLIENT_ERRORS = (errors.KafkaError, OSError, ValueError, AssertionError, RuntimeError)


class Connection:
    """The settings of one object of kafka-python, and how long one waits for it."""

    def __init__(self, settings: KafkaSettings, on_wait: OnWait | None) -> None:
        self.settings = settings
        self.timeout_seconds = settings.request_timeout_seconds
        self._on_wait = on_wait

    def _configuration(self) -> dict[str, Any]:
        settings, security = self.settings, self.settings.security
        timeout_milliseconds = int(self.timeout_seconds * 1000)
        options: dict[str, Any] = {
            "bootstrap_servers": settings.bootstrap_servers.split(","),
            "client_id": settings.name,
            "security_protocol": security.protocol,
            "request_timeout_ms": timeout_milliseconds,
            "bootstrap_timeout_ms": timeout_milliseconds,
            "reconnect_backoff_ms": 50,
            "reconnect_backoff_max_ms": 1_000,
            "retry_backoff_ms": 50,
        }
        if security.uses_sasl:
            options |= {
                "sasl_mechanism": security.mechanism,
                "sasl_plain_username": security.username,
                "sasl_plain_password": security.password,
            }
        if security.uses_tls:
            options |= {
                "ssl_cafile": security.ca_file or None,
                "ssl_certfile": security.certificate_file or None,
                "ssl_keyfile": security.key_file or None,
                "ssl_password": security.key_password or None,
            }
        return options

    def open(self, make: Callable[..., Any], options: Mapping[str, Any]) -> Any:
        """Make an object, or say which setting it does not accept."""
        doing = "opening the client"
        return self.call(lambda: make(**self._configuration(), **options), doing)

    def wait(self) -> None:
        """Tell the caller that something still waits."""
        if self._on_wait is not None:
            self._on_wait()

    def call(self, act: Callable[[], _Answer], doing: str) -> _Answer:
        """Do it and translate what it raises."""
        try:
            return act()
        except CLIENT_ERRORS as error:
            raise self.translated(error, doing) from error

    def call_bounded(self, act: Callable[[], _Answer], doing: str) -> _Answer:
        """Do what has no time-out of its own; a call that takes too long is left to itself."""
        answers: list[_Answer] = []
        failures: list[Exception] = []

        def run() -> None:
            try:
                answers.append(act())
            except Exception as error:
                failures.append(error)

        thread = threading.Thread(target=run, name=f"kafka: {doing}", daemon=True)
        thread.start()
        deadline = time.monotonic() + self.timeout_seconds
        while thread.is_alive():
            left = deadline - time.monotonic()
            if left <= 0:
                raise self.timed_out(doing)
            thread.join(min(left, SLICE_SECONDS))
            if thread.is_alive():
                self.wait()
        if failures:
            raise self.translated(failures[0], doing) from failures[0]
        return answers[0]

    def timed_out(self, doing: str) -> UnavailableError:
        """Return the error for an answer that did not come in time."""
        return unavailable(self.settings, doing, f"no answer in {self.timeout_seconds:g} s")

    def translated(self, error: Exception, doing: str) -> SynchroscopeError:
        """Return our error for kafka-python's."""
        text = str(error) or type(error).__name__
        if isinstance(error, SynchroscopeError):
            return error
        if isinstance(error, errors.BrokerResponseError):
            code = error.errno if error.errno is not None else -1
            return translated(self.settings, doing, code, text)
        if isinstance(error, ssl.SSLError):
            return translated(self.settings, doing, -1, text, _TLS_REMEDY)
        if isinstance(error, FileNotFoundError | PermissionError):
            return translated(self.settings, doing, -1, text, _TLS_REMEDY)
        settings_are_wrong = errors.KafkaConfigurationError, ValueError, AssertionError
        if isinstance(error, settings_are_wrong):
            return translated(self.settings, doing, -1, text, _SETTING_REMEDY)
        return unavailable(self.settings, doing, text)
