"""Sending records with librdkafka: in transactions, or of each partition without a gap."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException

from pipeline.kafka_confluent_connection import Connection
from pipeline.kafka_settings import FRAME_BYTES
from synchroscope.errors import SynchroscopeError
from synchroscope.ports import NewRecord

QUEUE_KIBIBYTES = 65_536
SLICE_SECONDS = 1.0


class ConfluentWriter:
    """The `Writer` port: an idempotent producer, transactional where it has an ID."""

    def __init__(self, connection: Connection, transactional_id: str) -> None:
        self._connection = connection
        self._is_transactional = bool(transactional_id)
        self._failure: KafkaError | None = None
        settings = connection.settings
        options: dict[str, Any] = {
            "acks": "all",
            "enable.idempotence": True,
            "compression.type": settings.compression,
            "linger.ms": settings.linger_milliseconds,
            "batch.size": settings.batch_bytes,
            "message.max.bytes": settings.message_bytes + FRAME_BYTES,
            "queue.buffering.max.kbytes": QUEUE_KIBIBYTES,
            "delivery.report.only.error": True,
            "on_delivery": self._note_failure,
        }
        if transactional_id:
            timeout_milliseconds = int(settings.transaction_timeout_seconds * 1000)
            options |= {
                "transactional.id": transactional_id,
                "transaction.timeout.ms": timeout_milliseconds,
                "message.timeout.ms": timeout_milliseconds,
            }
        else:
            # A message that gives up while later ones of its partition go on would leave a gap:
            # none gives up by itself, and `send` gives up for all of them at once.
            options |= {"enable.gapless.guarantee": True, "message.timeout.ms": 0}
        self._producer: Any = connection.open(confluent_kafka.Producer, options)
        try:
            # Asked for first, since librdkafka repeats a request for its producer ID that finds no
            # connection half a second later.
            self._list_topics()
            if transactional_id:
                self._until_done("init_transactions", f"taking over {transactional_id}")
        except SynchroscopeError:
            self.close()
            raise

    def _list_topics(self) -> None:
        try:
            self._producer.list_topics(timeout=self._connection.timeout_seconds)
        except KafkaException as error:
            raise self._connection.translated(error, "opening the producer") from error

    def _note_failure(self, error: KafkaError | None, message: Any) -> None:
        if error is not None and self._failure is None:
            self._failure = error

    def send(
        self, records: Sequence[NewRecord], timestamp_milliseconds: int, *, wait: bool = True
    ) -> None:
        """Store the records and return when all are acknowledged, or those before are."""
        doing = f"sending {len(records)} records"
        try:
            if self._is_transactional:
                self._send_transaction(records, timestamp_milliseconds)
            elif wait:
                self._produce(records, timestamp_milliseconds)
                self._flush()
            else:
                self._flush()
                self._produce(records, timestamp_milliseconds)
        except KafkaException as error:
            raise self._connection.translated(self._failure or error, doing) from error
        except SystemError as error:
            # A producer that is beyond help raises through whatever callback is running.
            cause = self._failure or error.__cause__
            if not isinstance(cause, KafkaException | KafkaError):
                raise
            raise self._connection.translated(cause, doing) from error

    def _send_transaction(self, records: Sequence[NewRecord], timestamp: int) -> None:
        doing = f"committing {len(records)} records"
        self._producer.begin_transaction()
        try:
            self._produce(records, timestamp)
            self._until_done("commit_transaction", doing)
        except KafkaException as error:
            if error.args[0].txn_requires_abort():
                # With what is known of the cause, not with the abort's consequence.
                with suppress(KafkaException, SynchroscopeError):
                    self._until_done("abort_transaction", doing)
                raise self._connection.translated(self._failure or error, doing) from error
            raise

    def _produce(self, records: Sequence[NewRecord], timestamp: int) -> None:
        produce = self._producer.produce
        for record in records:
            while True:
                try:
                    produce(
                        record.topic,
                        record.value or None,  # Empty: in a compacted topic the key goes.
                        record.key,
                        record.partition,
                        timestamp=timestamp,
                        headers=list(record.headers) or None,
                    )
                    break
                except BufferError:
                    self._flush()

    def _flush(self) -> None:
        deadline = time.monotonic() + self._connection.timeout_seconds
        while self._producer.flush(min(SLICE_SECONDS, max(deadline - time.monotonic(), 0))):
            if self._failure is not None:
                break
            if time.monotonic() >= deadline:
                self.close()
                raise self._connection.timed_out("waiting for acknowledgements")
            self._connection.wait()
        if self._failure is not None:
            self.close()
            raise self._connection.translated(self._failure, "sending")

    def _until_done(self, what: str, doing: str) -> None:
        # By name: a method that an exception's frames hold would keep the producer alive.
        deadline = time.monotonic() + self._connection.timeout_seconds
        while True:
            left = deadline - time.monotonic()
            try:
                getattr(self._producer, what)(max(min(left, SLICE_SECONDS), 0.001))
                return
            except KafkaException as error:
                cause = error.args[0]
                if not cause.retriable():
                    if cause.txn_requires_abort():
                        raise
                    raise self._connection.translated(error, doing) from error
            self._producer.poll(0)
            if time.monotonic() >= deadline:
                raise self._connection.timed_out(doing)
            self._connection.wait()

    def close(self) -> None:
        """Release what is held, sending nothing more."""
        if self._producer is None:
            return
        with suppress(KafkaException, SystemError):
            self._producer.purge()
            self._producer.poll(0)
        # It ends with the last reference. Until it is collected as garbage it would go on asking
        # for its transactional ID, and so fence whoever has that now.
        self._producer = None
