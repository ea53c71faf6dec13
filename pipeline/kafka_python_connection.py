"""How kafka-python's objects are set up, and what their errors mean."""

from __future__ import annotations

import logging
import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import copy
from functools import wraps
from typing import Any, TypeVar

from kafka import errors
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.protocol.schemas.fields.struct import StructField

from pipeline.kafka_client import OnWait, looks_seconds
from pipeline.kafka_errors import refusal_remedy, translated, unavailable
from pipeline.kafka_settings import KafkaSettings
from pipeline.kafka_tls import tls_context
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


#: What no waiting mends; kafka-python logs it and goes on trying.
LASTING_TROUBLES = (
    errors.SaslAuthenticationFailedError,
    errors.IllegalSaslStateError,
    errors.UnsupportedSaslMechanismError,
    ssl.SSLError,
)
MAXIMUM_TEXT = 300
KEPT_SECONDS = 10.0
_WRAPPED_CODE = re.compile(r"\[Error (\d+)\]")


def _compile_one_at_a_time() -> None:
    """Have kafka-python make its decoders in one thread at a time.

    While it makes one (3.0), another class stands where other threads look for theirs: what they
    make then fails for good, and with it every answer of that kind.
    """
    unguarded, guard = StructField.compiled_decode_from, threading.RLock()

    @wraps(unguarded)
    def guarded(*arguments: Any, **more: Any) -> Any:
        with guard:
            return unguarded(*arguments, **more)

    StructField.compiled_decode_from = guarded


_compile_one_at_a_time()


class _Hidden(str):
    """A text that is not shown: kafka-python writes its settings into its log (level DEBUG)."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"


class _Troubles(logging.Handler):
    """Remembers why connections failed: kafka-python says it to its log alone."""

    def __init__(self) -> None:
        super().__init__()
        self._last: Exception | None = None
        self._at = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the exception that a log record is about."""
        arguments = record.args if isinstance(record.args, tuple) else ()
        for argument in arguments:
            is_consequence = isinstance(
                argument, errors.KafkaTimeoutError | errors.NodeNotReadyError
            )
            # A login that was not answered in time is none: it may be what keeps one waiting.
            is_consequence = is_consequence and "SASL" not in str(argument)
            if not isinstance(argument, Exception) or is_consequence:
                continue
            last = self.recent(KEPT_SECONDS)
            if _is_lasting(argument) or last is None or not _is_lasting(last):
                self._last, self._at = _without_frames(argument), time.monotonic()

    def forget(self) -> None:
        """Begin anew: what comes is of another attempt."""
        self._last = None

    def recent(self, seconds: float) -> Exception | None:
        """Return the last one, if it is not older than that."""
        return self._last if time.monotonic() - self._at < seconds else None


def _without_frames(error: Exception) -> Exception:
    """Return a copy without traceback: its frames hold sockets that kafka-python does not close."""
    copied = copy(error)
    copied.args = tuple(
        _without_frames(part) if isinstance(part, Exception) else part for part in error.args
    )
    return copied


_troubles = _Troubles()
logging.getLogger("kafka.net.manager").addHandler(_troubles)


class _Manager(KafkaConnectionManager):  # type: ignore[misc]
    """Waits for no server that hangs longer than for an answer, while the others answer.

    kafka-python (3.0) draws a bootstrap server by lot and waits for it as long as there is time for
    all of them; here it connects to one after the other. And where it connects to another broker it
    waits up to 30 s, whatever its time-out for requests.
    """

    def __init__(self, net: Any, **settings: Any) -> None:
        self._tried: set[Any] = set()
        super().__init__(net, **settings)
        for suffix in ("ms", "max_ms"):
            name = f"socket_connection_setup_timeout_{suffix}"
            self.config[name] = min(self.config[name], self.config["request_timeout_ms"])

    def get_connection(self, node_id: Any, timeout_ms: float | None = None, **more: Any) -> Any:
        """Return a connection, to a bootstrap server that was tried only when all were."""
        if timeout_ms is not None and self.cluster.is_bootstrap(node_id):
            count = len(self.cluster.bootstrap_brokers())
            if len(self._tried) >= count:
                self._tried.clear()
            if node_id in self._tried:
                raise errors.NodeNotReadyError(node_id)  # It draws again.
            self._tried.add(node_id)
            timeout_ms = min(timeout_ms, self.config["request_timeout_ms"] / count)
        return super().get_connection(node_id, timeout_ms=timeout_ms, **more)


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
            "reconnect_backoff_ms": 50,
            "reconnect_backoff_max_ms": 1_000,
            "retry_backoff_ms": 50,
        }
        if security.uses_sasl:
            options |= {
                "sasl_mechanism": security.mechanism,
                "sasl_plain_username": security.username,
                "sasl_plain_password": _Hidden(security.password),
            }
        if security.uses_tls:
            options["ssl_context"] = tls_context(settings)
        return options

    def open(self, make: Callable[..., Any], options: Mapping[str, Any]) -> Any:
        """Make an object, or say which setting it does not accept."""
        *first, last = looks_seconds(self.timeout_seconds)
        for seconds in first:
            with suppress(UnavailableError):  # No refusal: what is left of the time may mend it.
                return self._make(make, options, seconds)
        return self._make(make, options, last)

    def _make(self, make: Callable[..., Any], options: Mapping[str, Any], seconds: float) -> Any:
        made: list[KafkaNetClient] = []

        def make_network(**settings: Any) -> KafkaNetClient:
            net = NetworkSelector(**settings)
            made.append(KafkaNetClient(net, _Manager(net, **settings), **settings))
            return made[-1]

        _troubles.forget()
        try:
            return make(
                **self._configuration(),
                **options,
                bootstrap_timeout_ms=int(seconds * 1000),
                kafka_client=make_network,
            )
        except CLIENT_ERRORS as error:
            # One that finds no server while it is made leaves its thread and sockets behind.
            for network in made:
                with suppress(*CLIENT_ERRORS):
                    network.close()
            raise self.translated(error, "opening the client") from error

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
        """Return our error for kafka-python's; a time-out has the reason that it had before."""
        if isinstance(error, SynchroscopeError):
            return error
        reason = _troubles.recent(self.timeout_seconds + SLICE_SECONDS)
        if isinstance(error, errors.KafkaTimeoutError) and reason is not None:
            if isinstance(reason, LASTING_TROUBLES):
                return self.translated(reason, doing)
            if remedy := refusal_remedy(_text(reason)):
                return translated(self.settings, doing, -1, _text(reason), remedy)
            text = f"{_text(error)} ({_text(reason)}"
            if self.settings.security.uses_sasl:
                # It may overlook the broker's refusal when the end of the connection comes with it.
                text += "; or the login was refused: look at security.username, security.password"
            return unavailable(self.settings, doing, f"{text})")
        if isinstance(error, ssl.SSLError | FileNotFoundError | PermissionError):
            return translated(self.settings, doing, -1, _text(error), _TLS_REMEDY)
        if isinstance(error, errors.KafkaConfigurationError | ValueError | AssertionError):
            return translated(self.settings, doing, -1, _text(error), _SETTING_REMEDY)
        return translated(self.settings, doing, _code(error), _text(error))


def _is_lasting(error: Exception) -> bool:
    return isinstance(error, LASTING_TROUBLES) or bool(refusal_remedy(_text(error)))


def _code(error: Exception) -> int:
    if isinstance(error, errors.BrokerResponseError) and error.errno is not None:
        return int(error.errno)
    wrapped = _WRAPPED_CODE.search(str(error))  # Some are wrapped in an error without a code.
    return int(wrapped[1]) if wrapped else -1


def _text(error: Exception) -> str:
    text = str(error)
    if len(text) > MAXIMUM_TEXT and isinstance(error, errors.BrokerResponseError):
        text = error.description or ""  # It quoted the whole request.
    return text or type(error).__name__
