"""Sending records with kafka-python: in transactions, or of each partition without a gap."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaTimeoutError

from pipeline.kafka_python_connection import CLIENT_ERRORS, SLICE_SECONDS, Connection
from pipeline.kafka_settings import FRAME_BYTES
from synchroscope.errors import SynchroscopeError
from synchroscope.ports import NewRecord

#: No batch gives up by itself: `send` gives up for all of them at once.
NEVER_MILLISECONDS = 2**31 - 1
STOP_SECONDS = 1.0


class PythonWriter:
    """The `Writer` port: an idempotent producer, transactional where it has an ID.

    It has one batch of a partition in flight at a time, so that none is stored before an earlier.
    """

    def __init__(self, connection: Connection, transactional_id: str) -> None:
        self._connection = connection
        self._is_transactional = bool(transactional_id)
        #: Of what was handed over and is not known to be acknowledged.
        self._sent: list[Any] = []
        settings = connection.settings
        compression = None if settings.compression == "none" else settings.compression
        options: dict[str, Any] = {
            "acks": "all",
            "enable_idempotence": True,
            "max_in_flight_requests_per_connection": 1,
            "compression_type": compression,
            "linger_ms": settings.linger_milliseconds,
            "batch_size": settings.batch_bytes,
            "max_request_size": settings.message_bytes + FRAME_BYTES,
            "max_block_ms": int(connection.timeout_seconds * 1000),
            "delivery_timeout_ms": NEVER_MILLISECONDS,
            "allow_auto_create_topics": False,
            "metrics_enabled": False,
        }
        if transactional_id:
            options |= {
                "transactional_id": transactional_id,
                "transaction_timeout_ms": int(settings.transaction_timeout_seconds * 1000),
            }
        self._producer = connection.open(KafkaProducer, options)
        if transactional_id:
            doing = f"taking over {transactional_id}"
            try:
                connection.call_bounded(self._producer.init_transactions, doing)
            except SynchroscopeError:
                self.close()
                raise

    def send(
        self, records: Sequence[NewRecord], timestamp_milliseconds: int, *, wait: bool = True
    ) -> None:
        """Store the records and return when all are acknowledged, or those before are."""
        doing = f"sending {len(records)} records"
        if not self._is_transactional:
            self._deliver(records, timestamp_milliseconds, doing, wait)
            return
        self._connection.call(self._producer.begin_transaction, doing)
        try:
            self._deliver(records, timestamp_milliseconds, doing)
            self._connection.call_bounded(self._producer.commit_transaction, doing)
        except SynchroscopeError:
            with suppress(SynchroscopeError):
                self._connection.call_bounded(self._producer.abort_transaction, doing)
            raise

    def _deliver(
        self, records: Sequence[NewRecord], timestamp: int, doing: str, wait: bool = True
    ) -> None:
        deadline = time.monotonic() + self._connection.timeout_seconds
        try:
            if not wait:
                self._await_sent(deadline, doing)
            for record in records:
                future = self._producer.send(
                    record.topic,
                    record.value or None,  # Empty: in a compacted topic the key goes.
                    record.key,
                    list(record.headers),
                    record.partition,
                    timestamp,
                )
                self._sent.append(future)
            if wait:
                self._await_sent(deadline, doing)
        except CLIENT_ERRORS as error:
            self._stop()
            raise self._connection.translated(error, doing) from error
        except SynchroscopeError:
            self._stop()
            raise

    def _await_sent(self, deadline: float, doing: str) -> None:
        if not self._sent:
            return
        self._flush(deadline, doing)
        sent, self._sent = self._sent, []
        for future in sent:
            if not future.succeeded():
                raise future.exception or KafkaTimeoutError("not acknowledged")

    def _flush(self, deadline: float, doing: str) -> None:
        while True:
            left = deadline - time.monotonic()
            try:
                return self._producer.flush(max(min(left, SLICE_SECONDS), 0))  # type: ignore[no-any-return]
            except KafkaTimeoutError:
                if left <= SLICE_SECONDS:
                    raise self._connection.timed_out(doing) from None
            self._connection.wait()

    def _stop(self) -> None:
        """Send nothing more; what is under way may still arrive."""
        if self._is_transactional:
            return  # What arrives is aborted, or its transaction times out.
        # `close` waits for a flush and gives up where that fails, leaving the sender at work.
        sender: Any = self._producer._sender
        sender.force_close()
        sender.join(STOP_SECONDS)

    def close(self) -> None:
        """Release what is held, sending nothing more."""
        sender: Any = self._producer._sender
        sender.force_close()
        with suppress(*CLIENT_ERRORS):
            self._producer.close(timeout=STOP_SECONDS)
