"""Kafka topics as a source (PROTOCOL, sections 1 and 4): positions come from the tables, never from the group."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import TypeVar

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from lakeward.clock import Clock
from lakeward.errors import OperatorError, PermissionDeniedError, PositionError, UnreachableError
from lakeward.positions import Bounds, Partition, Position
from lakeward.records import Polled
from lakeward.sources.kafka_catalogue import LATEST, Catalogue
from lakeward.sources.kafka_client import KafkaSettings, Trouble, close, connect, consumer_of, is_denied, properties_of
from lakeward.sources.kafka_gather import native_intake
from lakeward.sources.kafka_intake import END, Event, Intake, PlainIntake, Taken
from lakeward.sources.kafka_runs import Run, Runs
from lakeward.sources.kafka_survey import surveying
from lakeward.sources.kafka_topics import TopicWatch

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

SLICE_S = 0.1
"""The longest wait for messages without a look at the group, in seconds."""

LEAVE_S = 1.0
"""How long leaving the group may take before the consumer is closed, in seconds."""

WAKE_S = 0.2
"""How long leaders may take to answer the question that wakes librdkafka, in seconds."""

OUT_OF_RANGE = KafkaError._AUTO_OFFSET_RESET  # noqa: SLF001  librdkafka's own codes are spelled so
FATAL = KafkaError._FATAL  # noqa: SLF001
FENCED = KafkaError(KafkaError.FENCED_INSTANCE_ID).str()
"""A fatal error keeps only the words of the one behind it."""
FENCES = 5
"""So often in a row a member whose name nobody else can have joins again after it was fenced."""
CALM_S = 60.0
"""After so many seconds, or a message, the next time is the first one again."""
DAMAGED = frozenset(
    {
        KafkaError._BAD_MSG,  # noqa: SLF001
        KafkaError._BAD_COMPRESSION,  # noqa: SLF001
        KafkaError._NOT_IMPLEMENTED,  # noqa: SLF001
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
    }
)
"""Errors after which librdkafka would go on behind the messages that it could not read."""

_numbers = count(1)
T = TypeVar("T")


class KafkaSource:
    """See `lakeward.stages.Source`. ``native=False`` takes messages the plain way even where the fast one would do."""

    def __init__(self, settings: KafkaSettings, clock: Clock, *, native: bool = True) -> None:
        self._settings = settings
        self._clock = clock
        self._native = native
        self._watch = TopicWatch(settings, clock)
        self._trouble = Trouble(settings.bootstrap_servers)
        self._runs = Runs()
        self._mine: set[Partition] = set()
        self._assigned: set[Partition] = set()
        self._revoked: set[Partition] = set()
        self._stopped: set[Partition] = set()
        """Those that librdkafka itself was asked to stop fetching."""
        self._consumer: Consumer | None = None
        self._intake: Intake | None = None
        self._catalogue: Catalogue | None = None
        self._fences = 0
        self._fenced_at = 0.0

    def open(self) -> None:
        """See `Source.open`.

        Raises:
            ConfigurationError: a property that is ours is set otherwise (PROTOCOL S4), or librdkafka refuses one.
        """
        connect(self._start(self._there), self._trouble, self._clock)
        self._subscribe()

    def _start(self, there: Callable[[], frozenset[str]]) -> Consumer:
        """Make what reads; ``there`` tells which of our topics there are, where that matters."""
        client_id = f"lakeward-{next(_numbers)}"
        properties = {**properties_of(self._settings, client_id), **self._name(there)}
        self._consumer = consumer = consumer_of(
            {**properties, "error_cb": self._trouble.heard, "on_commit": _on_commit, "logger": _logger()}
        )
        self._catalogue = Catalogue(consumer, properties)
        intake = native_intake(consumer, client_id, headers=self._settings.headers) if self._native else None
        if intake is None and self._native:
            log.warning("native gathering is not possible with this confluent-kafka; reading the plain way")
        self._intake = intake or PlainIntake(consumer, headers=self._settings.headers)
        return consumer

    def _there(self) -> frozenset[str]:
        with surveying(self._settings, self._clock) as catalogue:
            return TopicWatch(self._settings, self._clock).among(catalogue.topics())

    def _name(self, there: Callable[[], frozenset[str]]) -> dict[str, str]:
        """The member's name, which tells the topics that are there as well.

        A broker gives a member that was killed and comes back under its name what it had, and nothing of topics that
        have come up in between: with more topics it is another member.
        """
        name = self._settings.properties.get("group.instance.id")
        if not name or not (self._settings.patterns or len(self._settings.topics) > 1):
            return {}
        mark = hashlib.sha256(" ".join(sorted(there())).encode()).hexdigest()[:8]
        return {"group.instance.id": f"{name}-{mark}"}

    def poll(self, timeout: float) -> Polled:
        """See `Source.poll`."""
        self._subscribe()
        deadline = self._clock.monotonic() + timeout
        batches, ends = self._runs.stashed()
        while True:
            left = max(0.0, deadline - self._clock.monotonic())
            taken = self._take(0.0 if batches or ends else min(left, SLICE_S))
            if self._forgives(taken.events):
                self._start_again()
                batches, ends = [], {}
                break
            batches += [b for b in map(self._runs.pass_on, taken.batches) if len(b)]
            ends |= self._runs.reached(self._hear(taken.events))
            if batches or ends or self._assigned or self._revoked or left == 0.0:
                break
        if batches or ends:
            self._trouble.passed()
        if batches:
            self._fences = 0
        if self._runs.crowded:
            self._stop_fetching()
        polled = Polled(tuple(batches), ends, frozenset(self._assigned), frozenset(self._revoked))
        self._assigned, self._revoked = set(), set()
        return polled

    def _take(self, timeout: float) -> Taken:
        intake = _opened(self._intake)
        if self._runs.idle:
            events = intake.serve(timeout)
            if events is not None:
                return Taken((), events)
        return intake.take(timeout, self._settings.poll_records)

    def _forgives(self, events: Sequence[Event]) -> bool:
        """Whether somebody is said to have our name who cannot have it: a broker that was killed forgot who has."""
        sole = self._settings.sole
        if not any(_says_fenced(event) for event in events) or sole is None or not sole():
            return False
        now = self._clock.monotonic()
        self._fences = self._fences + 1 if now - self._fenced_at < CALM_S else 1
        self._fenced_at = now
        return self._fences <= FENCES

    def _start_again(self) -> None:
        """Go on with a fresh consumer; nothing that the old one brought is handed over from here on (PROTOCOL R2)."""
        log.warning("fenced, and nobody else can have our name; joins the consumer group again", times=self._fences)
        old, found = _opened(self._consumer), self._watch.found
        _opened(self._intake).close()
        self._give_up(set(self._mine))
        self._watch = TopicWatch(self._settings, self._clock)
        self._start(lambda: found)
        close(old)

    def _hear(self, events: Sequence[Event]) -> dict[Partition, int]:
        """React to what came between the messages; return the ends that were reached."""
        ends: dict[Partition, int] = {}
        for event in events:
            if event.code == END:
                if event.partition is not None:
                    ends[event.partition] = event.offset
            elif event.code == OUT_OF_RANGE:
                self._out_of_range(event)
            else:
                _raise_or_log(event)
        return ends

    def _out_of_range(self, event: Event) -> None:
        partition = event.partition
        if partition is None or partition not in self._runs:
            return
        run = self._runs[partition]
        if event.offset != run.at:  # of an earlier run; but librdkafka has stopped, so it is told again
            self._reassign(partition, run.at)
        elif run.witness is not None:  # gone with what is below the position: that proves nothing
            run.at, run.witness = run.next, None
            self._reassign(partition, run.next)
        else:
            bounds = self.partitions([partition.topic]).get(partition)
            held = f"it holds [{bounds.low}, {bounds.end})" if bounds else "it is gone"
            raise PositionError(
                f"{partition} cannot continue at offset {run.at}: {held}",
                "The records expired, or the topic was truncated, or this is another cluster. Check bootstrap_servers; "
                "`on_lost_positions: earliest` (or latest) continues there and records what was given up.",
            )

    def begin(self, starts: Mapping[Partition, Position]) -> None:
        """See `Source.begin`."""
        begun = [partition for partition in starts if partition in self._mine]  # the next poll says what was revoked
        for partition in begun:
            run = self._runs.begin(partition, starts[partition])
            self._seek(partition, run)
            _opened(self._consumer).resume([TopicPartition(*partition)])
            self._stopped.discard(partition)
        self._wake(begun)

    def _wake(self, partitions: Iterable[Partition]) -> None:
        """Ask their leaders anything: librdkafka looks for what was resumed with the next answer, or once a second."""
        asked = [TopicPartition(*p, LATEST) for p in partitions]
        if not asked:
            return
        try:
            _opened(self._consumer).offsets_for_times(asked, timeout=WAKE_S)
        except KafkaException as failure:  # then it takes that second
            log.debug("not woken", reason=failure.args[0].name())

    def _seek(self, partition: Partition, run: Run) -> None:
        try:
            _opened(self._consumer).seek(TopicPartition(*partition, run.at))
        except KafkaException as failure:
            # Not fetching (yet, or any more after an error): a fresh assignment with the offset in it always works.
            log.debug("assigned again", partition=str(partition), offset=run.at, reason=failure.args[0].name())
            self._reassign(partition, run.at)

    def _reassign(self, partition: Partition, offset: int) -> None:
        consumer = _opened(self._consumer)
        consumer.incremental_unassign([TopicPartition(*partition)])
        consumer.incremental_assign([TopicPartition(*partition, offset)])
        _opened(self._intake).attach(partition)

    def pause(self, partitions: Iterable[Partition]) -> None:
        """See `Source.pause`."""
        self._runs.hold(partitions)

    def resume(self, partitions: Iterable[Partition]) -> None:
        """See `Source.resume`."""
        ours = set(partitions)
        self._runs.release(ours)
        if again := ours & self._stopped:
            _opened(self._consumer).resume([TopicPartition(*p) for p in again])
            self._stopped -= again
            self._wake(again)

    def _stop_fetching(self) -> None:
        """Too much is kept for paused partitions: librdkafka keeps the place and fetches again on resume."""
        if more := self._runs.held - self._stopped:
            _opened(self._consumer).pause([TopicPartition(*p) for p in more])
            self._stopped |= more

    def partitions(self, topics: Iterable[str]) -> Mapping[Partition, Bounds]:
        """See `Source.partitions`. ``end`` is the end of what is committed (the last stable offset).

        Raises:
            UnreachableError, PermissionDeniedError: the brokers do not say.
        """
        return _opened(self._catalogue).partitions(topics)

    def offsets_at(self, partitions: Iterable[Partition], timestamp_ms: int) -> Mapping[Partition, int]:
        """See `Source.offsets_at`.

        Raises:
            UnreachableError, PermissionDeniedError: the brokers do not say.
        """
        return _opened(self._catalogue).offsets_at(partitions, timestamp_ms)

    def identities(self, topics: Iterable[str]) -> Mapping[str, str | None]:
        """See `Source.identities`.

        Raises:
            UnreachableError, PermissionDeniedError: the brokers do not say.
        """
        return _opened(self._catalogue).identities(topics)

    def ends(self) -> Mapping[Partition, int]:
        """See `Source.ends`."""
        return _opened(self._catalogue).ends(self._mine)

    def ack(self, positions: Mapping[Partition, Position]) -> None:
        """See `Source.ack`."""
        offsets = [TopicPartition(*p, at.next) for p, at in positions.items() if p in self._mine]
        if not offsets:
            return
        try:
            _opened(self._consumer).commit(offsets=offsets, asynchronous=True)
        except KafkaException as failure:
            log.debug("group offsets not written", reason=failure.args[0].str())

    def close(self) -> None:
        """See `Source.close`. Leaves the group, so that others take over at once; a second time does nothing."""
        if self._intake is not None:
            self._intake.close()
        if self._consumer is not None:
            self._leave(self._consumer)
            close(self._consumer)
        self._consumer = self._intake = self._catalogue = None

    def _leave(self, consumer: Consumer) -> None:
        """A member that has a name would keep its partitions until its session has timed out, if it only closed."""
        deadline = self._clock.monotonic() + LEAVE_S
        with suppress(KafkaException):
            consumer.unsubscribe()
            while consumer.assignment() and self._clock.monotonic() < deadline:
                consumer.poll(0.02)

    def _subscribe(self) -> None:
        consumer = _opened(self._consumer)
        if not self._watch.look(consumer):
            return
        revoked = self._on_revoke
        try:
            consumer.subscribe(sorted(self._watch.found), on_assign=self._on_assign, on_revoke=revoked, on_lost=revoked)
        except KafkaException as failure:
            if failure.args[0].code() != FATAL:
                raise
            log.debug("not subscribed", reason=failure.args[0].str())  # the next poll hears why

    def _on_assign(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        """Take the partitions, and stand still until `begin` (PROTOCOL S1)."""
        if consumer is not self._consumer:  # of one that was fenced
            return
        ours = [Partition(tp.topic, tp.partition) for tp in assigned if tp.topic in self._watch.found]
        strays = [TopicPartition(tp.topic, tp.partition, 0) for tp in assigned if tp.topic not in self._watch.found]
        if strays:  # what a member of this name read before
            log.warning(
                "assigned topics that are not read here any more: a worker that reads them needs another --instance",
                topics=sorted({tp.topic for tp in strays}),
            )
            consumer.incremental_assign(strays)
            consumer.pause(strays)
        if self._intake is not None:
            for partition in ours:
                self._intake.attach(partition)
        # An offset of our own: without one, librdkafka would ask for the group's.
        consumer.incremental_assign([TopicPartition(*p, 0) for p in ours])
        if ours:
            consumer.pause([TopicPartition(*p) for p in ours])
        self._mine.update(ours)
        self._assigned.update(ours)

    def _on_revoke(self, consumer: Consumer, revoked: list[TopicPartition]) -> None:
        """Give the partitions up; nothing of them is handed over from here on (PROTOCOL R2)."""
        consumer.incremental_unassign(revoked)
        if consumer is self._consumer:  # one that was fenced has nothing left
            self._give_up({Partition(tp.topic, tp.partition) for tp in revoked})

    def _give_up(self, theirs: set[Partition]) -> None:
        self._runs.end(theirs)
        self._mine -= theirs
        self._stopped -= theirs
        self._assigned -= theirs
        self._revoked |= theirs


def _opened(part: T | None) -> T:
    if part is None:
        raise RuntimeError("the source is not open")
    return part


def _logger() -> logging.Logger:
    """Where librdkafka's own log lines go: nowhere, unless somebody listens."""
    lines = logging.getLogger("lakeward.librdkafka")
    if not lines.handlers:
        lines.addHandler(logging.NullHandler())
    return lines


def _on_commit(error: KafkaError | None, _: list[TopicPartition]) -> None:
    if error is not None:
        log.debug("group offsets not written", reason=error.str())


def _says_fenced(event: Event) -> bool:
    return event.code == FATAL and FENCED in event.reason


def _raise_or_log(event: Event) -> None:
    where = str(event.partition) if event.partition else "Kafka"
    if event.code in DAMAGED:
        raise OperatorError(
            f"{where} cannot be read at offset {event.offset}: {event.reason}",
            "Nothing behind it was read, since that would skip it. A message that is too large needs a larger "
            "`receive.message.max.bytes`; a damaged one has to be repaired or removed on the broker.",
        )
    if is_denied(KafkaError(event.code)):
        raise PermissionDeniedError(
            f"reading {where} is refused: {event.reason}",
            "Give this user the right to read the topic and to use the consumer group.",
        )
    if _says_fenced(event):
        raise OperatorError(
            "another worker has joined the consumer group under the name of this one, and took its place",
            "Give every worker an --instance (group.instance.id) of its own, or none; one of the two has gone on.",
        )
    if event.code == FATAL:
        raise UnreachableError(f"the Kafka client has failed: {event.reason}", "Start again.")
    log.warning("kafka", partition=where, code=event.code, reason=event.reason)
