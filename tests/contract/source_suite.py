"""What every Kafka source must do, whichever way it takes messages and whichever broker it reads."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from lakeward.clock import SystemClock
from lakeward.errors import PositionError
from lakeward.positions import Bounds, Partition, Position, Witness
from lakeward.records import Polled, RawBatch
from lakeward.sources.kafka import KafkaSource
from lakeward.sources.kafka_client import KafkaSettings, close

DEADLINE_S = 30.0
_numbers = itertools.count(1)


class Cluster(Protocol):
    bootstrap_servers: str

    def create(self, topic: str, partitions: int) -> None: ...

    def delete_records(self, topic: str, partition: int, before: int) -> None: ...


def fresh(kind: str) -> str:
    return f"source-{kind}-{os.getpid()}-{next(_numbers)}"  # no name that a fixture gives too


class Reader:
    """A source, and everything that it handed over: partition to (offset, value) in order."""

    def __init__(self, source: KafkaSource) -> None:
        self.source = source
        self.got: dict[Partition, list[tuple[int, bytes | None]]] = {}
        self.keys: dict[Partition, list[bytes | None]] = {}
        self.times: dict[Partition, list[int]] = {}
        self.headers: dict[Partition, list[Any]] = {}
        self.reached: dict[Partition, int] = {}
        self.mine: set[Partition] = set()
        self.lost: set[Partition] = set()
        self.starts: Mapping[Partition, Position] | None = {}
        """Where to begin what is assigned (0 where nothing is said); None: not at all."""

    def poll(self, timeout: float = 0.1) -> Polled:
        polled = self.source.poll(timeout)
        self.mine = (self.mine - polled.revoked) | polled.assigned
        self.lost = (self.lost | polled.revoked) - polled.assigned
        assert self.lost.isdisjoint(Partition(raw.topic, int(n)) for raw in polled.batches for n in raw.partition)
        for column in (self.got, self.keys, self.times, self.headers, self.reached):
            for place in polled.assigned:
                column.pop(place, None)  # what is assigned is read anew
        if polled.assigned and self.starts is not None:
            self.source.begin({p: self.starts.get(p, Position(0)) for p in polled.assigned})
        for raw in polled.batches:
            for i in range(len(raw)):
                place = Partition(raw.topic, int(raw.partition[i]))
                before = self.got.setdefault(place, [])
                assert not before or before[-1][0] < raw.offset[i]
                before.append((int(raw.offset[i]), raw.values.get(i)))
                self.keys.setdefault(place, []).append(raw.keys.get(i))
                self.times.setdefault(place, []).append(int(raw.timestamp[i]))
                self.headers.setdefault(place, []).append(raw.headers[i] if raw.headers is not None else None)
        self.reached.update(polled.reached)
        return polled

    def until(self, done: Callable[[], bool]) -> None:
        clock = SystemClock()
        end = clock.monotonic() + DEADLINE_S
        while not done():
            assert clock.monotonic() < end, f"waited in vain; got { ({str(p): len(g) for p, g in self.got.items()}) }"
            self.poll()

    def read(self, *partitions: Partition, upto: int) -> None:
        """Until each partition was handed over up to the offset ``upto``."""
        self.until(lambda: all(self.reached.get(p, 0) >= upto or self._at(p) >= upto for p in partitions))

    def _at(self, partition: Partition) -> int:
        got = self.got.get(partition)
        return got[-1][0] + 1 if got else 0

    def values(self, partition: Partition) -> list[bytes | None]:
        return [value for _, value in self.got.get(partition, [])]

    def offsets(self, partition: Partition) -> list[int]:
        return [offset for offset, _ in self.got.get(partition, [])]


def numbered(count: int, first: int = 0) -> list[bytes]:
    return [b"message %d" % number for number in range(first, first + count)]


class SourceContract:
    """Subclasses bring the fixtures ``cluster`` (a `Cluster`) and ``native`` (bool)."""

    MEMBERSHIP: ClassVar[Mapping[str, Any]] = {"session.timeout.ms": 1500, "heartbeat.interval.ms": 200}

    @pytest.fixture
    def open_reader(self, cluster: Cluster, *, native: bool) -> Iterator[Callable[..., Reader]]:
        with contextlib.ExitStack() as stack:

            def open_reader(*topics: str, **settings: Any) -> Reader:
                options = {
                    "group_id": fresh("group"),
                    "topics": topics,
                    "properties": dict(self.MEMBERSHIP),
                } | settings
                source = KafkaSource(KafkaSettings(cluster.bootstrap_servers, **options), SystemClock(), native=native)
                source.open()
                stack.callback(source.close)
                return Reader(source)

            yield open_reader

    @pytest.fixture
    def send(self, cluster: Cluster) -> Callable[..., None]:
        producer = Producer(
            {"bootstrap.servers": cluster.bootstrap_servers, "message.max.bytes": 8_000_000, "enable.idempotence": True}
        )

        def send(topic: str, values: Sequence[bytes | None], partition: int = 0, **more: Any) -> None:
            for value in values:
                producer.produce(topic, value, partition=partition, **more)
            assert producer.flush(20) == 0

        return send

    @pytest.fixture
    def topic(self, cluster: Cluster) -> str:
        name = fresh("topic")
        cluster.create(name, 3)
        return name

    def test_messages_come_once_in_order_from_offset_zero(self, topic, send, open_reader) -> None:
        for partition in range(3):
            send(topic, numbered(500, 1000 * partition), partition)
        reader = open_reader(topic, poll_records=64)
        places = [Partition(topic, number) for number in range(3)]
        reader.read(*places, upto=500)
        for place in places:
            assert reader.got[place] == list(enumerate(numbered(500, 1000 * place.number)))

    def test_what_is_sent_while_reading_comes_too(self, topic, send, open_reader) -> None:
        reader = open_reader(topic)
        place = Partition(topic, 0)
        reader.until(lambda: place in reader.reached)
        assert reader.reached[place] == 0
        send(topic, numbered(3))
        reader.read(place, upto=3)
        reader.until(lambda: reader.reached[place] == 3)
        assert reader.values(place) == numbered(3)

    def test_nothing_comes_before_begin(self, topic, send, open_reader) -> None:
        send(topic, numbered(10))
        reader = open_reader(topic)
        reader.starts = None
        reader.until(lambda: len(reader.mine) == 3)
        for _ in range(5):
            assert reader.poll() == Polled()
        reader.source.begin({Partition(topic, 0): Position(4)})
        reader.read(Partition(topic, 0), upto=10)
        assert reader.got == {Partition(topic, 0): list(enumerate(numbered(10)))[4:]}

    def test_a_position_in_the_middle_and_one_at_the_end_are_honoured(self, topic, send, open_reader) -> None:
        first, second = Partition(topic, 0), Partition(topic, 1)
        send(topic, numbered(10))
        send(topic, numbered(10), 1)
        reader = open_reader(topic)
        reader.starts = {first: Position(7), second: Position(10)}
        reader.until(lambda: reader.reached.get(first) == 10 and reader.reached.get(second) == 10)
        assert reader.offsets(first) == [7, 8, 9]
        assert reader.offsets(second) == []

    def test_begin_again_reads_again_while_messages_are_in_flight(self, topic, send, open_reader) -> None:
        place = Partition(topic, 0)
        send(topic, numbered(3000))
        reader = open_reader(topic, poll_records=100)
        for start in (1500, 20, 2900, 0):
            reader.until(lambda: bool(reader.got.get(place)) or reader.reached.get(place) == 3000)
            reader.got.clear()
            reader.reached.clear()
            reader.source.begin({place: Position(start)})
            reader.until(lambda: bool(reader.got.get(place)))
            assert reader.got[place][0] == (start, numbered(1, start)[0])
        reader.read(place, upto=3000)
        assert reader.got[place] == list(enumerate(numbered(3000)))

    def test_pause_hands_over_nothing_and_loses_nothing(self, topic, send, open_reader) -> None:
        first, second = Partition(topic, 0), Partition(topic, 1)
        reader = open_reader(topic, poll_records=50)
        reader.until(lambda: len(reader.reached) == 3)
        reader.source.pause([first])
        for number in range(2):
            send(topic, numbered(1000), number)
        reader.read(second, upto=1000)
        assert reader.offsets(first) == []
        assert reader.reached[first] == 0
        reader.source.resume([first])
        reader.read(first, upto=1000)
        assert reader.got[first] == list(enumerate(numbered(1000)))

    def test_pausing_everything_and_resuming_in_turn_keeps_the_order(self, topic, send, open_reader) -> None:
        places = [Partition(topic, number) for number in range(3)]
        for place in places:
            send(topic, numbered(400), place.number)
        reader = open_reader(topic, poll_records=37)
        reader.until(lambda: len(reader.mine) == 3)
        for turn in range(60):
            reader.source.pause(places)
            before = dict(reader.got)
            reader.poll(0)
            assert reader.got == before
            reader.source.resume([places[turn % 3]])
            reader.poll(0.01)
        reader.source.resume(places)
        reader.read(*places, upto=400)
        for place in places:
            assert reader.got[place] == list(enumerate(numbered(400)))

    def test_a_partition_paused_for_long_is_not_kept_without_bound(self, topic, send, open_reader, monkeypatch) -> None:
        monkeypatch.setattr("lakeward.sources.kafka_runs.STASH_BYTES", 2000)
        first, second = Partition(topic, 0), Partition(topic, 1)
        reader = open_reader(topic, poll_records=50)
        reader.until(lambda: len(reader.reached) == 3)
        reader.source.pause([first])
        for number in range(2):
            send(topic, numbered(2000), number)
        reader.read(second, upto=2000)
        reader.until(lambda: reader.source._stopped == {first})
        reader.source.resume([first])
        reader.read(first, upto=2000)
        assert reader.got[first] == list(enumerate(numbered(2000)))

    def test_rewinding_a_paused_partition_forgets_what_was_kept(self, topic, send, open_reader) -> None:
        first, second = Partition(topic, 0), Partition(topic, 1)
        reader = open_reader(topic, poll_records=50)
        reader.until(lambda: len(reader.reached) == 3)
        reader.source.pause([first])
        for number in range(2):
            send(topic, numbered(300), number)
        reader.read(second, upto=300)
        reader.source.begin({first: Position(290)})
        reader.read(first, upto=300)
        assert reader.offsets(first) == list(range(290, 300))

    def test_tombstones_empty_values_and_keys_are_told_apart(self, topic, send, open_reader) -> None:
        place = Partition(topic, 0)
        send(topic, [None, b"", b"x"], key=None)
        send(topic, [None, b"", b"x"], key=b"")
        send(topic, [None, b"", b"x"], key="schlüssel".encode())
        reader = open_reader(topic)
        reader.read(place, upto=9)
        assert reader.values(place) == [None, b"", b"x"] * 3
        assert reader.keys[place] == [None] * 3 + [b""] * 3 + ["schlüssel".encode()] * 3

    def test_timestamps_are_the_producers(self, topic, send, open_reader) -> None:
        place = Partition(topic, 0)
        for moment in (1_600_000_000_123, 1_700_000_000_000):
            send(topic, [b"x"], timestamp=moment)
        reader = open_reader(topic)
        reader.read(place, upto=2)
        assert reader.times[place] == [1_600_000_000_123, 1_700_000_000_000]

    def test_headers_come_only_when_asked_for(self, topic, send, open_reader) -> None:
        place = Partition(topic, 0)
        headers = [("a", b"1"), ("a", b""), ("ä", None)]
        send(topic, [b"x"], headers=headers)
        send(topic, [b"y", None])
        asked, unasked = open_reader(topic, headers=True), open_reader(topic)
        asked.read(place, upto=3)
        unasked.read(place, upto=3)
        assert asked.headers[place] == [headers, [], []]
        assert unasked.headers[place] == [None] * 3

    def test_headers_stay_with_messages_that_are_kept(self, topic, send, open_reader) -> None:
        for number in range(5):
            send(topic, [b"%d" % number], headers=[("number", b"%d" % number), ("to", b"keep")])
        reader = open_reader(topic, headers=True, poll_records=2)
        kept: list[RawBatch] = []
        for _ in range(300):
            kept += [raw.select(np.arange(len(raw))) for raw in reader.poll().batches]
            if sum(map(len, kept)) == 5:
                break
        reader.source.close()
        told = {raw.values.get(i): raw.headers[i] for raw in kept for i in range(len(raw)) if raw.headers is not None}
        assert told == {b"%d" % n: [("number", b"%d" % n), ("to", b"keep")] for n in range(5)}

    def test_a_large_message_comes_whole_between_small_ones(self, topic, send, open_reader) -> None:
        place = Partition(topic, 0)
        large = os.urandom(700_000) * 3
        send(topic, [b"small", large, b"small", large[:-1], b"last"])
        reader = open_reader(topic)
        reader.read(place, upto=5)
        assert reader.values(place) == [b"small", large, b"small", large[:-1], b"last"]

    def test_many_topics_in_one_poll_stay_apart(self, cluster, send, open_reader) -> None:
        topics = [fresh("many") for _ in range(8)]
        for number, topic in enumerate(topics):
            cluster.create(topic, 2)
            for partition in range(2):
                send(topic, numbered(50, 1000 * number), partition, key=topic.encode())
        reader = open_reader(*topics)
        places = [Partition(topic, number) for topic in topics for number in range(2)]
        reader.read(*places, upto=50)
        for place in places:
            assert reader.values(place) == numbered(50, 1000 * topics.index(place.topic))
            assert set(reader.keys[place]) == {place.topic.encode()}

    def test_patterns_match_whole_names_and_nothing_else_is_read(self, cluster, send, open_reader) -> None:
        prefix = fresh("shop").replace("-", "_")
        for name in (
            f"{prefix}.public.orders",
            f"{prefix}.public.items",
            f"{prefix}.public.a-b",
            f"x{prefix}.public.a",
        ):
            cluster.create(name, 1)
            send(name, [name.encode()])
        reader = open_reader(patterns=(rf"{prefix}\.public\.(?P<table>\w+)",))
        wanted = {Partition(f"{prefix}.public.{table}", 0) for table in ("orders", "items")}
        reader.until(lambda: reader.got.keys() == wanted)
        assert reader.mine == wanted
        late = Partition(f"{prefix}.public.late", 0)
        cluster.create(late.topic, 1)
        send(late.topic, [b"late"])
        reader.until(lambda: late in reader.got)
        assert reader.mine == wanted | {late}

    def test_a_topic_that_appears_later_is_read_from_then_on(self, cluster, topic, send, open_reader) -> None:
        later = fresh("later")
        reader = open_reader(topic, later)
        assert reader.source.partitions([later]) == {}
        assert reader.source.identities([later]) == {}
        reader.until(lambda: len(reader.reached) == 3)
        cluster.create(later, 1)
        send(later, numbered(5))
        reader.read(Partition(later, 0), upto=5)
        assert reader.values(Partition(later, 0)) == numbered(5)

    def test_revoked_partitions_hand_over_nothing_more_and_come_back_to_begin_anew(
        self, topic, send, open_reader
    ) -> None:
        for number in range(3):
            send(topic, numbered(2000), number)
        group = fresh("group")
        first = open_reader(topic, group_id=group, poll_records=10)
        first.until(lambda: bool(first.got))
        second = open_reader(topic, group_id=group)

        def share() -> bool:
            first.poll(0.01)
            second.poll(0.01)
            return len(first.mine) + len(second.mine) == 3 and bool(second.mine)

        share()
        first.until(share)
        moved = set(second.mine)
        assert first.mine.isdisjoint(second.mine)
        assert first.mine | second.mine == {Partition(topic, number) for number in range(3)}
        second.source.close()
        first.got.clear()
        first.until(lambda: len(first.mine) == 3)
        first.read(*moved, upto=2000)
        for place in moved:
            assert first.got[place] == list(enumerate(numbered(2000)))

    def test_an_expired_position_names_everything_and_is_never_reset(self, cluster, topic, send, open_reader) -> None:
        place = Partition(topic, 1)
        send(topic, numbered(100), 1)
        cluster.delete_records(topic, 1, 60)
        reader = open_reader(topic)
        reader.starts = {place: Position(30)}
        assert reader.source.partitions([topic])[place] == Bounds(60, 100)
        with pytest.raises(PositionError) as caught:
            reader.until(lambda: False)
        assert f"{topic}/1" in str(caught.value)
        for number in ("30", "60", "100"):
            assert number in caught.value.what
        assert reader.got.get(place) is None

    def test_a_position_past_the_end_is_refused(self, topic, send, open_reader) -> None:
        place = Partition(topic, 0)
        send(topic, numbered(5))
        reader = open_reader(topic)
        reader.starts = {place: Position(9)}
        with pytest.raises(PositionError, match=r"offset 9: it holds \[0, 5\)"):
            reader.until(lambda: False)

    def test_a_partition_whose_beginning_expired_can_still_be_begun(self, cluster, topic, send, open_reader) -> None:
        place = Partition(topic, 0)
        send(topic, numbered(100))
        cluster.delete_records(topic, 0, 60)
        reader = open_reader(topic)
        reader.starts = {place: Position(60)}
        reader.read(place, upto=100)
        assert reader.offsets(place) == list(range(60, 100))

    def _witness(self, reader: Reader, place: Partition, offset: int) -> Witness:
        index = reader.offsets(place).index(offset)
        return Witness(offset, reader.times[place][index], Witness.checksum_of(reader.values(place)[index]))

    @pytest.mark.parametrize("value", [b"seen", b"", None])
    def test_a_witness_that_is_still_there_lets_reading_go_on_behind_it(self, value, topic, send, open_reader) -> None:
        place = Partition(topic, 0)
        send(topic, [*numbered(5), value, *numbered(5, 6)])
        reader = open_reader(topic)
        reader.read(place, upto=11)
        witness = self._witness(reader, place, 5)
        reader.got.clear()
        reader.reached.clear()
        reader.source.begin({place: Position(6, None, witness)})
        reader.read(place, upto=11)
        assert reader.got[place] == list(enumerate(numbered(11)))[6:]

    @pytest.mark.parametrize("changed", ["timestamp", "checksum"])
    def test_a_witness_that_differs_stops_before_anything_is_handed_over(
        self, changed, topic, send, open_reader
    ) -> None:
        place = Partition(topic, 0)
        send(topic, numbered(10))
        reader = open_reader(topic)
        reader.read(place, upto=10)
        witness = self._witness(reader, place, 5)
        reader.got.clear()
        wrong = witness._replace(**{changed: getattr(witness, changed) + 1})
        reader.source.begin({place: Position(6, None, wrong)})
        with pytest.raises(PositionError, match="offset 5"):
            reader.until(lambda: False)
        assert reader.offsets(place) == []

    def test_a_witness_that_expired_proves_nothing(self, cluster, topic, send, open_reader) -> None:
        place = Partition(topic, 0)
        send(topic, numbered(10))
        cluster.delete_records(topic, 0, 6)
        reader = open_reader(topic)
        reader.starts = {place: Position(6, None, Witness(5, 1, 1))}
        reader.read(place, upto=10)
        assert reader.offsets(place) == [6, 7, 8, 9]

    def test_a_witness_does_not_hide_that_the_position_is_lost(self, cluster, topic, send, open_reader) -> None:
        place = Partition(topic, 0)
        send(topic, numbered(10))
        cluster.delete_records(topic, 0, 8)
        reader = open_reader(topic)
        reader.starts = {place: Position(6, None, Witness(5, 1, 1))}
        with pytest.raises(PositionError, match="offset 6"):
            reader.until(lambda: False)

    def test_acked_positions_reach_the_group_and_are_never_read(self, cluster, topic, send, open_reader) -> None:
        place, group = Partition(topic, 0), fresh("group")
        send(topic, numbered(10))
        reader = open_reader(topic, group_id=group)
        reader.read(place, upto=10)
        reader.source.ack({place: Position(7)})
        asking = Consumer({"bootstrap.servers": cluster.bootstrap_servers, "group.id": group})

        def acked() -> bool:
            return asking.committed([TopicPartition(*place)], timeout=5)[0].offset == 7

        reader.until(acked)
        close(asking)
        reader.source.close()
        again = open_reader(topic, group_id=group)
        again.read(place, upto=10)
        assert again.offsets(place) == list(range(10))

    def test_partitions_ends_and_identities_are_told(self, topic, send, open_reader) -> None:
        send(topic, numbered(10), 2)
        reader = open_reader(topic)
        reader.read(Partition(topic, 2), upto=10)
        assert reader.source.partitions([topic, "no-such-topic"]) == {
            Partition(topic, 0): Bounds(0, 0),
            Partition(topic, 1): Bounds(0, 0),
            Partition(topic, 2): Bounds(0, 10),
        }
        assert reader.source.ends()[Partition(topic, 2)] == 10
        assert reader.source.identities([topic, "no-such-topic"]).keys() == {topic}

    def test_a_topic_created_again_has_another_identity(self, cluster, topic, open_reader) -> None:
        reader = open_reader(topic)
        before = reader.source.identities([topic])[topic]
        cluster.delete(topic)
        reader.until(lambda: reader.source.identities([topic]) == {})
        cluster.create(topic, 3)
        reader.until(lambda: topic in reader.source.identities([topic]))
        assert before is not None
        assert reader.source.identities([topic])[topic] not in {None, before}

    def test_closing_twice_is_harmless_and_the_next_one_takes_over(self, topic, send, open_reader) -> None:
        send(topic, numbered(5))
        group = fresh("group")
        first = open_reader(topic, group_id=group)
        first.read(Partition(topic, 0), upto=5)
        first.source.close()
        first.source.close()
        second = open_reader(topic, group_id=group)
        second.read(Partition(topic, 0), upto=5)
        assert second.values(Partition(topic, 0)) == numbered(5)

    def test_nothing_is_left_running_after_closing(self, topic, open_reader) -> None:
        before = threading.active_count()
        reader = open_reader(topic)
        reader.until(lambda: len(reader.mine) == 3)
        reader.source.close()
        assert threading.active_count() == before
