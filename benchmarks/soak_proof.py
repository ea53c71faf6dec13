"""What a soak has to prove: findings, log and replicas held against the event store."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence, Set

import msgspec

from benchmarks.soak_faults import Damage, matches
from benchmarks.soak_recovery import LOOK_SECONDS, RECOVERY_LIMIT_SECONDS, Eyes, Violation
from chaos.oracle import Facts, all_events, facts_of_view
from pipeline.event_store_postgresql import PostgresqlEventStore
from pipeline.log_kafka import KafkaLog
from service.configuration import Configuration
from service.distributed import DistributedPipeline
from service.stores import ReplicaPlan, open_database, open_storage, replica_plans
from synchroscope.ports import EVENTS
from synchroscope.replica import PartitionState
from validator.repeats import store_position


def check_findings(eyes: Eyes, damages: Sequence[Damage]) -> None:
    """Raise for a finding of what was not damaged."""
    findings = eyes.ask(lambda g: list(g.account(time.time()).findings), [])
    for finding in findings:
        if not any(matches(finding, damage) for damage in damages):
            raise Violation(f"a finding of nothing: {finding}")


def settle(pipeline: DistributedPipeline, eyes: Eyes, damages: Sequence[Damage]) -> None:
    """Wait until the end is proven; raise unless every replica is CONSISTENT."""
    deadline = time.monotonic() + 2 * RECOVERY_LIMIT_SECONDS
    while not (pipeline.is_caught_up() and pipeline.is_settled()):
        if time.monotonic() > deadline:
            raise Violation("the end was not proven in time")
        if pipeline.is_caught_up():
            pipeline.ask_for_proof(time.time())
        time.sleep(LOOK_SECONDS)
    check_findings(eyes, damages)
    for status in pipeline.account(time.time(), final=True).statuses:
        if status.verdict.value != "CONSISTENT":
            raise Violation(f"{status.name} is {status.verdict.value}: {status.reason}")


def verify(configuration: Configuration, acknowledged: Set[str]) -> int:
    """Hold log and replicas against the store; return how many records the log has again."""
    with contextlib.closing(open_database(configuration)) as database:
        events = all_events(PostgresqlEventStore(database))
    stored = {str(event.event_id) for event in events}
    if acknowledged - stored:
        raise Violation(f"lost: {sorted(acknowledged - stored)[:3]}")
    repeats = _verify_log(configuration, [str(event.event_id) for event in events])
    for plan in replica_plans(configuration):
        wanted = facts_of_view(events, plan.view)
        relevant = sum(event.context_type in plan.view.fields for event in events)
        _verify_replica(plan, configuration.log.kafka.partitions, wanted, relevant)
    return repeats


def _verify_log(configuration: Configuration, ids: list[str]) -> int:
    places: dict[str, int] = {}
    repeats = 0
    with contextlib.closing(KafkaLog(configuration.log.kafka)) as log:
        for number in range(log.partitions(EVENTS)):
            last = 0
            position, head = 0, log.head(EVENTS, number)
            while position < head:
                batch = log.read(EVENTS, number, position, 1_000)
                for record in batch.records:
                    place = store_position(record.headers) or 0
                    if place <= last:
                        repeats += 1
                        continue
                    last = place
                    places[(record.header("ce_id") or b"").decode()] = place
                if batch.position == position:
                    log.wait(0.05)
                position = batch.position
    if [places.get(one) for one in ids] != list(range(1, len(ids) + 1)):
        raise Violation("the log does not hold the store's events in the store's order")
    return repeats


def _verify_replica(plan: ReplicaPlan, partitions: int, wanted: Facts, relevant: int) -> None:
    with contextlib.closing(open_storage(plan)) as storage:
        held: Facts = {}
        applied = 0
        for number in range(partitions):
            state = storage.partition_state(number)
            if state is not None:
                applied += msgspec.msgpack.decode(state, type=PartitionState).applied
            for bucket in range(2):
                for record in storage.scan(number, bucket, 1):
                    for field, (value, _) in record.fields.items():
                        if value is not None:
                            held[record.context_type, record.subject, field] = value
    if held != wanted:
        odd = {k for k in held.keys() | wanted.keys() if held.get(k) != wanted.get(k)}
        raise Violation(
            f"{plan.name}: {len(odd)} facts are not what they must be: {sorted(odd)[:3]}"
        )
    if applied != relevant:
        raise Violation(f"{plan.name} applied {applied} events, {relevant} concern its view")
