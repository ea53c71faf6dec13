"""Break the validator, a replica, the relay or a projector in one place: it has to be noticed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("synchroscope", "pipeline", "validator", "chaos")
SEEDS = 150
REPAIR_SEEDS = 100
#: The seed that noticed it before is tried first; any of the others may notice it just as well.
#: `pytest -rP` shows which seed did.
NOTICED: dict[str, int] = {
    "the validator believes words that came late": 13,
    "a repair is closed when it is sent": 2,
    "a repair says what must be at the end of the store": 1,
    "the batched reference takes what is published again for new": 5,
    "the journal does not tell of repairs": 1,
    "the journal tells of repairs of the present position only": 1,
    "the judge does not play repairs": 1,
    "the judge takes a missed event for a storage fault": 1,
    "the log does not refuse a validator that lost its partition": 1,
    "the projector reports without looking whether storage moved on": 8,
    "the reference counts a stop one record late": 2,
    "the reference takes what is published again for new": 1,
    "the relay does not look what is published already": 7,
    "the relay says that all of a batch is published before it is": 1,
    "the relay skips an event": 1,
    "the replica applies duplicates again": 5,
    "the replica does not notice another life of its storage": 8,
    "the replica notes a marker before what was applied is hashed": 1,
    "the replica notes a marker one record late": 2,
    "the replica stores its position before what it applied": 1,
    "the replica trusts the event's previous instead of its storage": 4,
    "the scrub believes the digest": 4,
    "the search for a record does not pass over what is published again": 46,
    "the validator closes findings without an agreeing digest": 1,
    "the validator forgets how a replica was found": 1,
    "the validator goes on where a replica fell back": 5,
    "the validator never accepts an older life": 21,
    "the validator takes a repair into account twice": 5,
}

MUTATIONS = {
    "the replica forgets to subtract what it overwrites": (
        "synchroscope/applying.py",
        "work.exchanges.append((key, name, stored, current))",
        "work.exchanges.append((key, name, None, current))",
    ),
    "the replica applies duplicates again": (
        "synchroscope/applying.py",
        "        if late:\n            if sequence not in aggregate.missing:",
        "        if late:\n            if False:",
    ),
    "the replica throws late events away": (
        "synchroscope/applying.py",
        "if sequence not in aggregate.missing:",
        "if True:",
    ),
    "the replica lets a late event overwrite a newer value": (
        "synchroscope/applying.py",
        "if late and stored_sequence > sequence:",
        "if False:",
    ),
    "the replica keeps what an event withdraws": (
        "synchroscope/applying.py",
        "update.current if targets is None or model in targets else None",
        "update.current",
    ),
    "the replica trusts the event's previous instead of its storage": (
        "synchroscope/applying.py",
        "        is_known = (\n",
        "        stored = previous\n        is_known = (\n",
    ),
    "the replica stores its position before what it applied": (
        "synchroscope/replica.py",
        "        self._store(number, after, work.records, chunk, floor)",
        "        self._store(number, after, {}, None, floor)\n"
        "        self._store(number, after, work.records, chunk, floor)",
    ),
    "the replica notes a marker one record late": (
        "synchroscope/applying.py",
        "            self._pass_markers(number, after, work, record.offset)\n"
        "            if isinstance(event, WireEvent):\n"
        "                self._apply_event(number, after, work, record, event)",
        "            if isinstance(event, WireEvent):\n"
        "                self._apply_event(number, after, work, record, event)\n"
        "            self._pass_markers(number, after, work, record.offset)\n"
        "            if isinstance(event, WireEvent):\n"
        "                pass",
    ),
    "the replica notes a marker before what was applied is hashed": (
        "synchroscope/applying.py",
        "            return\n        self._settle(number, after, work)\n",
        "            return\n",
    ),
    "the replica hashes the first of each hundred events alone": (
        "synchroscope/applying.py",
        "        exchanges, work.exchanges = work.exchanges, []\n",
        "        exchanges, work.exchanges = work.exchanges[:1], []\n",
    ),
    "the scrub believes the digest": (
        "synchroscope/replica.py",
        "            wrong += not is_right\n",
        "",
    ),
    "the reference ignores who was to see the previous value": (
        "validator/reference.py",
        "if before is not None and (old_targets is None or model in old_targets):",
        "if before is not None:",
    ),
    "the reference counts a stop one record late": (
        "validator/reference.py",
        "while stops and stops[0] <= record.offset:",
        "while stops and stops[0] < record.offset:",
    ),
    "the validator compares at unequal positions": (
        "validator/validator.py",
        "point = self.reference.at(note.partition, note.position)",
        "point = self.reference.current(note.partition)",
    ),
    "the validator takes every difference for known": (
        "validator/validator.py",
        "        if delta != part.known:\n            part.news = True",
        "        if delta != part.known:\n            part.known = delta",
    ),
    "the validator closes findings without an agreeing digest": (
        "validator/investigator.py",
        "lambda f: bool(f.keys) and not deviating & set(f.keys)",
        "lambda f: True",
    ),
    "the validator ignores the events that were applied": (
        "validator/watch.py",
        "((reference.audit[0] - audit[0]) & MASK, (reference.audit[1] - audit[1]) & MASK)",
        "(0, 0)",
    ),
    "the judge takes a missed event for a storage fault": (
        "validator/judgement.py",
        "missed = [v for v in interval if v.mark not in entered]",
        "missed: list[Version] = []",
    ),
    "the validator forgets how a replica was found": (
        "validator/investigator.py",
        "            if judgement.deviates:",
        "            if False:",
    ),
    "the relay does not look what is published already": (
        "pipeline/relay.py",
        "self._published = [self._last_event(number) for number in range(self._partitions)]",
        "self._published = [0] * self._partitions",
    ),
    "the relay skips an event": (
        "pipeline/relay.py",
        "events = self._store.read(self._events, self._batch_records)",
        "events = self._store.read(self._events + (self._events == 7), self._batch_records)",
    ),
}


DIVIDED_MUTATIONS = {
    "the relay says that all of a batch is published before it is": (
        "pipeline/relay.py",
        "self._log.append([*records, *notes], now, consumer=self._name, positions=places)",
        "places = {STORE_EVENTS: events[-1].position} if events else {}\n"
        "            records += notes\n"
        "            self._log.append(records, now, consumer=self._name, positions=places)",
    ),
    "a relay that takes over believes the stored position alone": (
        "pipeline/relay.py",
        "self._published = [self._last_event(number) for number in range(self._partitions)]",
        "self._published = [self._events] * self._partitions",
    ),
    "the reference takes what is published again for new": (
        "validator/reference.py",
        "            is_repeat = self._is_published(partition, fold, record)\n",
        "            is_repeat = False\n",
    ),
    "the batched reference takes what is published again for new": (
        "validator/batch_fold.py",
        "        if store_positions is None:\n            return None",
        "        if store_positions is None:\n            store_positions = []",
    ),
    "the search for a record does not pass over what is published again": (
        "validator/reference.py",
        "            end = self._runs[partition].end_at(records[0].offset)",
        "            end = None",
    ),
    "the validator never accepts an older life": (
        "validator/validator.py",
        "if abs(now - watch.reported_at) <= self._evidence_limit_seconds:",
        "if True:",
    ),
    "the validator goes on where a replica fell back": (
        "validator/validator.py",
        "                part = watch.partitions[note.partition] = PartitionWatch()\n",
        "                pass\n",
    ),
    "validators of several partitions share a checkpoint": (
        "validator/standing.py",
        '    return "validator/" + ",".join(map(str, partitions))',
        '    return "validator"',
    ),
    "the projector reports without looking whether storage moved on": (
        "pipeline/projector.py",
        "[number for number in partitions if self.replica.refresh(number)]",
        "list(partitions)",
    ),
    "the projector goes on before it says how it found a partition": (
        "pipeline/projector.py",
        "return [number for number in self._owned if self.replica.is_reported(number)]",
        "return list(self._owned)",
    ),
    "the replica does not notice another life of its storage": (
        "synchroscope/replica.py",
        "        if self._storage.incarnation() != self.incarnation:",
        "        if False:",
    ),
    "the log does not refuse a validator that lost its partition": (
        "chaos/remote_log.py",
        "return self._epochs[writer] != epoch",
        "return False",
    ),
}


#: Noticed where divided worlds have somebody who orders repairs.
DIVIDED_REPAIR_MUTATIONS = {
    "the validator believes words that came late": (
        "validator/validator.py",
        "if report.at < watch.spoken_at.get(note.partition, report.at):",
        "if False:",
    ),
}


# What `merge` must not do is in tests/unit/test_repair_merge.py: few seeds meet it here.
REPAIR_MUTATIONS = {
    "the journal does not tell of repairs": (
        "synchroscope/replica.py",
        "            repairs=repairs + known.state.repairs,",
        "            repairs=[],",
    ),
    "the journal tells of repairs of the present position only": (
        "synchroscope/replica.py",
        "            repairs.extend(applied.repairs)",
        "            pass",
    ),
    "the validator takes a repair into account twice": (
        "validator/investigator.py",
        "[r for r in answer.repairs if r.serial > known]",
        "list(answer.repairs)",
    ),
    "the judge does not play repairs": (
        "validator/judgement.py",
        "            actual = _mend(case, repairs.popleft()[1], actual, faults)",
        "            repairs.popleft()",
    ),
    "a repair says what must be at the end of the store": (
        "validator/repair_plan.py",
        "truth = truth_of(view, history, key, store_position)",
        "truth = truth_of(view, history, key, 10**9)",
    ),
    "a repair is closed when it is sent": (
        "validator/repairing.py",
        '        self._ledger.mark(_with(finding, "repairing", {**work, **more}))',
        '        self._ledger.mark(_with(finding, "resolved", {**work, **more}))',
    ),
}


@pytest.mark.parametrize("name", REPAIR_MUTATIONS)
@pytest.mark.parametrize("mode", ["embedded"])
def test_the_simulator_with_repairs_notices_when(name: str, mode: str, tmp_path: Path) -> None:
    check(name, *REPAIR_MUTATIONS[name], mode, tmp_path, repair=True, seeds=REPAIR_SEEDS)


@pytest.mark.parametrize("name", DIVIDED_REPAIR_MUTATIONS)
def test_the_simulator_of_divided_worlds_with_repairs_notices_when(
    name: str, tmp_path: Path
) -> None:
    check(name, *DIVIDED_REPAIR_MUTATIONS[name], "divided", tmp_path, repair=True, seeds=SEEDS)


def test_every_mutation_fits_the_code() -> None:
    """Told in a second, not after all the others have run."""
    everyone = {
        **MUTATIONS,
        **DIVIDED_MUTATIONS,
        **DIVIDED_REPAIR_MUTATIONS,
        **REPAIR_MUTATIONS,
    }
    unfit = [
        name
        for name, (file, before, _after) in everyone.items()
        if (ROOT / file).read_text(encoding="utf-8").count(before) != 1
    ]
    assert unfit == []


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_simulator_notices_when(name: str, tmp_path: Path) -> None:
    check(name, *MUTATIONS[name], "embedded", tmp_path)


@pytest.mark.parametrize("name", DIVIDED_MUTATIONS)
def test_the_simulator_of_divided_worlds_notices_when(name: str, tmp_path: Path) -> None:
    check(name, *DIVIDED_MUTATIONS[name], "divided", tmp_path)


def check(
    name: str,
    file: str,
    before: str,
    after: str,
    mode: str,
    tmp_path: Path,
    *,
    repair: bool = False,
    seeds: int = SEEDS,
) -> None:
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    source = (tmp_path / file).read_text(encoding="utf-8")
    assert source.count(before) == 1, "the mutation no longer fits the code: mend this test"
    (tmp_path / file).write_text(source.replace(before, after), encoding="utf-8")

    tried = [NOTICED.get(name, 0), *range(seeds)]
    program = (
        "from chaos.simulator import simulate\n"
        f"for seed in {tried}:\n"
        "    print('seed', seed, flush=True)\n"
        f"    simulate(seed, {mode!r}, repair={repair})\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    print(f"{name!r}: {ended.stdout.split()[-1]},")
    assert ended.returncode != 0, "nothing was noticed"
    assert "in simulate" in ended.stderr, "it failed before anything was simulated"
