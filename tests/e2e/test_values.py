"""Values at the edges of their types, through Avro and JSON, read back equal by DuckDB and PyIceberg."""

from __future__ import annotations

import io
import json
import struct
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
from tests.e2e.rig import CommandLine, Site, configuration

from lakeward.testing.broker import EmbeddedBroker
from lakeward.testing.producing import produce, producer_of
from lakeward.testing.registry import EmbeddedRegistry

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("narrow", pa.decimal128(18, 6)),
        pa.field("wide", pa.decimal128(38, 10)),
        pa.field("whole", pa.decimal128(38, 0)),
        pa.field("at", pa.timestamp("us", "UTC")),
        pa.field("local", pa.timestamp("us")),
        pa.field("day", pa.date32()),
        pa.field("text", pa.string()),
        pa.field("number", pa.int32()),
        pa.field("ratio", pa.float64()),
        pa.field("yes", pa.bool_()),
    ]
)
SYDNEY, NEWFOUNDLAND = timezone(timedelta(hours=11)), timezone(-timedelta(hours=3, minutes=30))
ROWS: list[dict[str, Any]] = [
    {
        "narrow": Decimal("999999999999.999999"),
        "wide": Decimal("9999999999999999999999999999.9999999999"),
        "whole": Decimal("9" * 38),
        "at": datetime(2026, 3, 1, 0, 30, 0, 123000, SYDNEY),
        "local": datetime(2026, 3, 29, 2, 30, 0, 1000),  # noqa: DTZ001 -- local time
        "day": date(9999, 12, 31),
        "text": "",
        "number": 2**31 - 1,
        "ratio": 1.7976931348623157e308,
        "yes": True,
    },
    {
        "narrow": Decimal("-999999999999.999999"),
        "wide": Decimal("-9999999999999999999999999999.9999999999"),
        "whole": Decimal("-" + "9" * 38),
        "at": datetime(1969, 12, 31, 23, 59, 59, 999000, UTC),
        "local": datetime(1901, 1, 1, 12, 0, 0, 7000),  # noqa: DTZ001 -- local time
        "day": date(1, 1, 1),
        "text": 'naïve - 日本語 - \U0001f980 - e\u0301 - \u0000 - "quoted" \\ \n\t',
        "number": -(2**31),
        "ratio": -5e-324,
        "yes": False,
    },
    {
        "narrow": Decimal("0.000001"),
        "wide": Decimal("-0.0000000001"),
        "whole": Decimal(0),
        "at": datetime(1969, 12, 31, 20, 29, 59, 1000, NEWFOUNDLAND),
        "local": datetime(1969, 12, 31, 23, 59, 59, 999000),  # noqa: DTZ001 -- local time
        "day": date(1969, 12, 31),
        "text": " \u00a0",
        "number": 0,
        "ratio": 0.1,
        "yes": True,
    },
    {
        "narrow": Decimal("1.500000"),
        "wide": Decimal("1E+3"),
        "whole": Decimal(-1),
        "at": datetime(1, 1, 1, tzinfo=UTC),
        "local": datetime(9999, 12, 31, 23, 59, 59, 999000),  # noqa: DTZ001 -- local time
        "day": date(1970, 1, 1),
        "text": "x" * 100_000,
        "number": -1,
        "ratio": 1e16,
        "yes": False,
    },
    dict.fromkeys(SCHEMA.names[1:]),
]
for _row, _id in zip(ROWS, (-(2**63), -(2**62), 0, 2**62, 2**63 - 1), strict=True):
    _row["id"] = _id
AVRO = {
    "type": "record",
    "name": "Edges",
    "fields": [
        {"name": "id", "type": "long"},
        *(
            {"name": name, "type": ["null", kind]}
            for name, kind in {
                "narrow": {"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 6},
                "wide": {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 10},
                "whole": {
                    "type": "fixed", "name": "Whole", "size": 16, "logicalType": "decimal", "precision": 38, "scale": 0,
                },
                "at": {"type": "long", "logicalType": "timestamp-millis"},
                "local": {"type": "long", "logicalType": "local-timestamp-millis"},
                "day": {"type": "int", "logicalType": "date"},
                "text": "string",
                "number": "int",
                "ratio": "double",
                "yes": "boolean",
            }.items()
        ),
    ],
}  # fmt: skip
JSON = {
    "id": "long",
    "narrow": "decimal(18,6)",
    "wide": "decimal(38,10)",
    "whole": "decimal(38,0)",
    "at": "timestamptz",
    "local": "timestamp",
    "day": "date",
    "text": "string",
    "number": "int",
    "ratio": "double",
    "yes": "boolean",
}


def expected() -> pa.Table:
    return pa.Table.from_pylist(ROWS, SCHEMA)


def read_back_equal(site: Site, table: str, sent: pa.Table) -> None:
    difference = site.differs(table, sent)
    assert difference.exact, (difference, difference.missing.to_pylist(), difference.extra.to_pylist())
    scanned = site.scanned(table).select(sent.column_names).sort_by("id")
    assert scanned.to_pylist() == sent.sort_by("id").to_pylist()


def test_avro_values_at_the_edges_are_read_back_equal(
    broker: EmbeddedBroker, registry: EmbeddedRegistry, command_line: CommandLine, tmp_path: Path
) -> None:
    broker.create("edges", 2)
    header = b"\0" + struct.pack(">I", registry.register("edges-value", json.dumps(AVRO)))
    parsed = fastavro.parse_schema(AVRO)
    produce(producer_of(broker.bootstrap_servers), "edges", [header + avro(parsed, row) for row in ROWS])
    table = {"topics": ["edges"], "table": "values.edges", "partition_by": ["day(at)", "truncate(4, text)"]}
    site = Site(tmp_path, command_line, configuration(broker.bootstrap_servers, registry.url, [table]))
    site.catch_up()
    read_back_equal(site, "values.edges", expected())


def test_json_values_at_the_edges_are_read_back_equal(
    broker: EmbeddedBroker, command_line: CommandLine, tmp_path: Path
) -> None:
    broker.create("edges", 2)
    produce(producer_of(broker.bootstrap_servers), "edges", [text(row) for row in ROWS])
    table = {"topics": ["edges"], "table": "values.edges", "decode": {"json": {"fields": JSON}}, "sort_by": ["wide"]}
    site = Site(tmp_path, command_line, configuration(broker.bootstrap_servers, None, [table]))
    site.catch_up()
    # JSON has no required fields.
    read_back_equal(site, "values.edges", expected().cast(pa.schema([f.with_nullable(True) for f in SCHEMA])))


def avro(schema: Any, row: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, row)
    return out.getvalue()


def text(row: dict[str, Any]) -> bytes:
    """One object, its decimals as bare numbers, its times with the zone that they were written in."""
    parts = []
    for name, value in row.items():
        if isinstance(value, Decimal):
            written = f"{value:f}"
        elif isinstance(value, (datetime, date)):
            written = json.dumps(value.isoformat())
        else:
            written = json.dumps(value, ensure_ascii=False)
        parts.append(f"{json.dumps(name)}: {written}")
    return ("{" + ", ".join(parts) + "}").encode()


def test_a_table_gets_the_columns_that_were_chosen_under_the_names_that_were_chosen_over_a_restart(
    broker: EmbeddedBroker, command_line: CommandLine, tmp_path: Path
) -> None:
    broker.create("people", 1)
    producer = producer_of(broker.bootstrap_servers, {"log_level": 0})
    table = {
        "topics": ["people"],
        "table": "web.people",
        "columns": {"exclude": ["password"], "rename": {"id": "person"}},
        "metadata_columns": {"at": "offset"},
    }
    site = Site(tmp_path, command_line, configuration(broker.bootstrap_servers, None, [table]))
    for number in range(2):  # the second start reads the fields from the table
        produce(producer, "people", [b'{"id": %d, "name": "n%d", "password": "p"}' % (number, number)])
        site.catch_up()
    assert sorted(site.held("web.people").to_pylist(), key=lambda row: row["at"]) == [
        {"person": number, "name": f"n{number}", "at": number} for number in range(2)
    ]
