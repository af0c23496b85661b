"""Change events against a slow decoder of a few lines, and extended JSON against its rules in Python, by seeds."""

from __future__ import annotations

import base64
import datetime as dt
import json
import random
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lakeward.changes import Effect
from lakeward.decoding import bson, json_reference
from lakeward.decoding.bson_documents import rewritten, unescaped
from lakeward.decoding.debezium import DebeziumDecoder, DebeziumSettings
from lakeward.decoding.json_reference import NotDecodableError
from lakeward.records import Blobs, RawBatch, Reject

COLUMNS = pa.schema(
    [
        ("id", pa.int64()),
        ("name", pa.string()),
        ("price", pa.decimal128(12, 2)),
        ("day", pa.date32()),
        ("at", pa.timestamp("us", "UTC")),
        ("raw", pa.binary()),
        ("ratio", pa.float64()),
        ("flag", pa.bool_()),
    ]
)
ABSENT = "__debezium_unavailable_value"
ZONE = dt.UTC
Outcome = tuple[str, dict[str, Any] | None]


def some_row(chance: random.Random, number: int) -> tuple[dict[str, Any], dict[str, Any], set[str]]:
    """A row as an event writes it, the values it stands for, and which it leaves out."""
    moment = dt.datetime(1970, 1, 1, tzinfo=ZONE) + dt.timedelta(microseconds=chance.randrange(-(10**15), 4 * 10**15))
    content = chance.randbytes(chance.randrange(6))
    cents = chance.randrange(-(10**11), 10**11)
    text = chance.choice(["", "a", 'q"uo\\te', "\u00fc\u20ac\U0001f600", "{[,:]}", "tab\tnew\n", "x" * 40])
    written: dict[str, Any] = {
        "id": number,
        "name": text,
        "price": f"{Decimal(cents) / 100:.2f}",
        "day": moment.date().isoformat(),
        "at": moment.isoformat().replace("+00:00", "Z"),
        "raw": base64.b64encode(content).decode(),
        "ratio": chance.choice([0.5, -1.25, 1e300, "NaN", "Infinity"]),
        "flag": chance.random() < 0.5,
    }
    ratio = written["ratio"]
    values = written | {"price": Decimal(cents).scaleb(-2), "day": moment.date(), "at": moment, "raw": content}
    values["ratio"] = float(ratio)
    absent: set[str] = set()
    for name in list(written):
        if name != "id" and chance.random() < 0.15:
            written[name] = values[name] = None
    if chance.random() < 0.2:
        written["name"], values["name"] = ABSENT, None
        absent.add("name")
    if chance.random() < 0.1:
        written.pop("flag")
        values["flag"] = None
    return written, values, absent


def text_of(chance: random.Random, value: Any) -> bytes:
    """JSON with white space and escapes as they come."""
    separators = chance.choice([(",", ":"), (", ", ": "), (" ,\n", " :\t")])
    text = json.dumps(value, ensure_ascii=chance.random() < 0.5, separators=separators)
    return (chance.choice(["", " ", "\n"]) + text).encode(errors="surrogatepass")


def wrapped(chance: random.Random, value: Any) -> Any:
    """A third of all messages carry a null schema."""
    return {"schema": None, "payload": value} if chance.random() < 0.3 else value


def some_message(chance: random.Random, number: int) -> tuple[bytes | None, bytes | None, Outcome, set[str]]:
    """Key and value of a message, what becomes of it, and which columns it leaves out."""
    row, values, absent = some_row(chance, number)
    key = text_of(chance, wrapped(chance, {"id": number}))
    source = {"connector": "postgresql", "lsn": number, "ts_ms": 5, "x": {"}": ["{", 1]}}
    members: dict[str, Any] = {"before": chance.choice([None, row]), "after": row, "source": source, "ts_ms": 1}
    kind = chance.choice(["c", "u", "r", "d", "t", "m", "tombstone", "flat", "broken", "odd", "none", "wrong"])
    nothing = {"id": number} | dict.fromkeys(COLUMNS.names[1:])
    outcome: Outcome = ("UPSERT", values)
    if kind in {"d", "t", "m", "none"}:
        members["after"] = None
        outcome = {
            "d": ("DELETE", nothing),
            "t": ("TRUNCATE", dict.fromkeys(COLUMNS.names)),
            "m": ("skipped", None),
            "none": ("no-after", None),
        }[kind]
    if kind == "odd":
        outcome = ("unknown-operation", None)
    if kind == "tombstone":
        return key, None, ("DELETE", nothing), set()
    if kind == "flat":
        return key, text_of(chance, wrapped(chance, row)), outcome, absent
    if kind == "broken":
        text = text_of(chance, members | {"op": "c"})
        return key, chance.choice([text[:-1], text + b"}", b"\xff", b"[]", b'"a"']), ("rejected", None), set()
    if kind == "wrong":
        row["id"], outcome = "x", ("wrong-type", None)
    operation = {"odd": "x", "none": "u", "wrong": "c"}.get(kind, kind)
    event = dict(chance.sample([*members.items(), ("op", operation)], len(members) + 1))
    text = text_of(chance, wrapped(chance, event))
    if chance.random() < 0.1:
        text = text.replace(b'"after"', b'"\\u0061fter"')
    return key, text, outcome, absent if outcome[0] == "UPSERT" else set()


def like(value: Any) -> Any:
    return "NaN" if value != value else value


@pytest.mark.parametrize("seed", range(6))
def test_random_events_become_what_a_slow_decoder_makes_of_them(seed: int) -> None:
    chance = random.Random(seed)
    messages = [some_message(chance, number) for number in range(1, 151)]
    keys, values, outcomes, absents = zip(*messages, strict=True)
    offset = np.arange(len(messages), dtype=np.int64)
    partition = np.array([chance.randrange(2) for _ in messages], np.int32)
    raw = RawBatch("t", partition, offset, offset, Blobs.of(keys), Blobs.of(values))
    decoded = DebeziumDecoder(DebeziumSettings(columns=COLUMNS)).decode(raw)
    found: dict[int, Outcome] = {int(i): ("skipped", None) for i in decoded.skipped}
    found |= {reject.index: (reject.code, None) for reject in decoded.rejects}
    for part in decoded.parts:
        assert part.changes is not None
        assert part.events is not None
        assert part.rows.schema == COLUMNS
        places = part.events.source_position.to_pylist()
        for k, (i, row) in enumerate(zip(part.index.tolist(), part.rows.to_pylist(), strict=True)):
            assert i not in found
            found[i] = (Effect(part.changes.effect[k]).name, row)
            left_out = {name for name, mask in part.changes.absent.items() if mask[k]}
            assert left_out == absents[i]
            assert places[k] in {None, f"0/{i + 1:X}"}
    assert sorted(found) == list(range(len(messages)))
    for i, (kind, row) in enumerate(outcomes):
        if kind == "rejected":
            assert found[i][1] is None
            continue
        assert found[i][0] == kind, values[i]
        wanted = None if row is None else {name: like(value) for name, value in row.items()}
        told = found[i][1]
        assert (None if told is None else {name: like(value) for name, value in told.items()}) == wanted


def some_value(chance: random.Random, depth: int = 0) -> Any:
    """A value of extended JSON, old or new, usual or not; some are none."""
    plain = [None, True, chance.randrange(-(2**40), 2**40), chance.random(), "t\u00e9xt", 'q"\\', "", float("nan")]
    millis = chance.choice([0, 1, -1, 951_782_400_000, 253_402_300_799_999, -62_135_596_800_000, 10**15])
    special = [
        {"$oid": f"{chance.randrange(2**90):024x}"},
        {"$oid": "no"},
        {"$date": millis},
        {"$date": {"$numberLong": str(chance.randrange(-(10**13), 10**14))}},
        {"$date": "2024-05-01T10:00:00Z"},
        {"$numberLong": str(chance.randrange(-(2**63), 2**63))},
        {"$numberLong": "1.5"},
        {"$numberInt": "7"},
        {"$numberDecimal": "1.10E+3"},
        {"$numberDouble": chance.choice(["NaN", "-0.5", "Infinity", "1e3", "x"])},
        {"$binary": "AQI=", "$type": "00"},
        {"$binary": {"base64": "AQI=", "subType": "04"}},
        {"$timestamp": {"t": 1, "i": 2}},
        {"$regex": "a", "$options": "i"},
        {"$regularExpression": {"pattern": "a", "options": ""}},
        {"$minKey": 1},
        {"$undefined": True},
        {"$symbol": "s"},
        {"$code": "f()"},
        {"$code": "f()", "$scope": {}},
        {"$unknown": 1},
        float("inf"),
        float("-inf"),
    ]
    kind = chance.random()
    if depth < 3 and kind < 0.15:
        return {f"m{k}": some_value(chance, depth + 1) for k in range(chance.randrange(4))}
    if depth < 3 and kind < 0.3:
        return [some_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    return chance.choice(special) if kind < 0.65 else chance.choice(plain)


@pytest.mark.parametrize("seed", range(3))
def test_documents_are_rewritten_as_their_rules_say(seed: int) -> None:
    chance = random.Random(seed)
    documents = [{f"f{k}": some_value(chance) for k in range(chance.randrange(5))} for _ in range(400)]
    texts = [json.dumps(one, ensure_ascii=chance.random() < 0.5).encode() for one in documents]
    texts += [b"", b"{", b"[]", b'{"a":1}}', b'{"a"', b"7", b'{"a":"\xff"}']
    # Whatever one byte becomes, a document is read to its end.
    texts += [
        bytes([*text[:at], chance.randrange(256), *text[at + 1 :]]) for text in texts[:200] if (at := len(text) // 2)
    ]
    texts += [b'{"a":%c}' % byte for byte in range(0x21)]
    strings = Blobs.of(
        [None if k % 7 == 0 else json.dumps(text.decode(errors="replace")).encode() for k, text in enumerate(texts)]
    )
    plain = unescaped(strings, None)
    rejects: list[Reject] = []
    found = rewritten(plain, rejects, None)
    codes = {reject.index: reject.code for reject in rejects}
    for k, text in enumerate(texts):
        read = text.decode(errors="replace").encode()
        if k % 7 == 0:
            assert found.get(k) is None
            continue
        assert plain.get(k) == read
        told, wanted = found.get(k), by_the_rules(read)
        if isinstance(wanted, NotDecodableError):
            # What the compiled code takes is checked by the reader of rows, which comes next.
            assert codes.get(k, wanted.code) == wanted.code
            assert told is None or isinstance(by_the_rules(told), NotDecodableError)
        else:
            assert told is not None
            assert json_reference.compact(json_reference.parse(told)) == wanted


def by_the_rules(document: bytes) -> str | NotDecodableError:
    """The plain JSON of a document, or why there is none."""
    try:
        return json_reference.compact(bson.document(document))
    except NotDecodableError as error:
        return error
