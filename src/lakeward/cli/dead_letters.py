"""``lakeward dead-letters``: what could not be written, why, and the way back."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lakeward.cli.configuration import DEFAULT_FILE, read
from lakeward.cli.naming import moment, time_text
from lakeward.cli.output import json_option, print_json, print_table
from lakeward.clock import SystemClock
from lakeward.errors import ConfigurationError

if TYPE_CHECKING:
    import pyarrow as pa

    from lakeward.assembly import Assembly
    from lakeward.config.tables import Table
    from lakeward.dead_letters.book import Book
    from lakeward.dead_letters.replay import Replay, Result, Selection
    from lakeward.sinks.iceberg.target import IcebergTarget

F = TypeVar("F", bound=Callable[..., Any])

_SHOWN_BYTES = 4096


@click.group(short_help="List, show and bring back the records that could not be written.")
def command() -> None:
    """Records that could not become rows: list them, show one, bring them back once the cause is mended."""


def _words(metavar: str) -> Callable[[F], F]:
    return click.argument("words", nargs=-1, metavar=metavar)


def _selecting(function: F) -> F:
    options = (
        click.option("--reason", metavar="CODE", help="Only those with this reason."),
        click.option("--since", metavar="TIME", help="Only those set aside at TIME or later."),
        click.option("--until", metavar="TIME", help="Only those set aside before TIME."),
        click.option("--pipeline", metavar="NAME", help="Those of this pipeline: what FILE's was called before."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@command.command("list", short_help="How many there are, why, and where.")
@_words("[FILE] [TABLE]")
@_selecting
@click.option("--replayed", is_flag=True, help="Those that were brought back, instead of those that wait.")
@click.option("--limit", type=click.IntRange(0), default=20, show_default=True, help="How many are named.")
@json_option
def list_(words: tuple[str, ...], *, replayed: bool, limit: int, as_json: bool, **selecting: str | None) -> None:
    """Count the dead letters of TABLE (default: all) of FILE (default: lakeward.yaml) by reason, and name the last.

    Only letters that count are listed: those of commits that never were, or that were rolled back, do not.
    """
    selection = _selection(selecting)
    documents = []
    with _opened(words, selecting["pipeline"]) as (assembly, tables):
        for table, target in tables:
            book = _book(assembly, table, target)
            letters = selection.of(book.replayed if replayed else book.open)
            documents.append(_listed(target.name, letters, book, limit))
    if as_json:
        print_json({"tables": documents})
        return
    reasons = [(d["table"], *r.values()) for d in documents for r in d["reasons"]]
    if not reasons:
        click.echo("No dead letters.")
        return
    print_table(("TABLE", "REASON", "LETTERS", "FIRST SEEN", "LAST SEEN"), reasons)
    for document in documents:
        if document["letters"]:
            click.echo()
            columns = ("topic", "partition", "offset", "schema_id", "reason", "message", "last_seen")
            rows = [
                [str(letter[name] or "") if name == "schema_id" else letter[name] for name in columns]
                for letter in document["letters"]
            ]
            print_table([name.upper().replace("_", " ") for name in columns], rows, thousands="")


@command.command("show", short_help="All that is known of one.")
@_words("[FILE] TABLE TOPIC/PARTITION/OFFSET")
@json_option
def show(words: tuple[str, ...], *, as_json: bool) -> None:
    """Show a dead letter: what the record said, byte by byte, where it was, and why it could not be written."""
    from lakeward.dead_letters.book import with_payload  # noqa: PLC0415 - the help does without

    if len(words) not in {2, 3}:
        raise ConfigurationError(
            "TABLE and TOPIC/PARTITION/OFFSET are needed", "`lakeward dead-letters list` has them."
        )
    topic, partition, offset = _place(words[-1])
    found = []
    with _opened(words[:-1], None) as (assembly, tables):
        for table, target in tables:
            book = _book(assembly, table, target)
            for state, letters in (("waits", book.open), ("replayed", book.replayed)):
                here = _at(letters, topic, partition, offset)
                found += [
                    {"state": state, **row}
                    for row in with_payload(assembly.letters(table, target.name), here).to_pylist()
                ]
    if not found:
        raise ConfigurationError(f"there is no dead letter at {words[-1]}", "`lakeward dead-letters list` names them.")
    if as_json:
        print_json([_encoded(letter) for letter in found])
        return
    for letter in found:
        _print(letter)


@command.command("replay", short_help="Try them again, and make rows of those that can be.")
@_words("[FILE] [TABLE]")
@_selecting
@click.option("--dry-run", is_flag=True, help="Only say what would become of them.")
@json_option
def replay(words: tuple[str, ...], *, dry_run: bool, as_json: bool, **selecting: str | None) -> None:
    """Decode dead letters again as FILE says now, and add those that can be to the table, each exactly once.

    Writers need not be stopped. Those that fail again stay where they are, with the new reason. Exit code 1: some did.
    """
    selection = _selection(selecting)
    results: dict[str, Result] = {}
    with _opened(words, selecting["pipeline"]) as (assembly, tables):
        for table, target in tables:
            again = _replay(assembly, table, target)
            if again is not None:
                results[target.name] = again.run(selection, write=not dry_run)
    if as_json:
        print_json({"done": not dry_run, "tables": [_told(name, result) for name, result in results.items()]})
    else:
        for name, result in results.items():
            click.echo(f"{name}: {_sentence(result, dry_run=dry_run)}")
        if not results:
            click.echo("No dead letters.")
    click.get_current_context().exit(1 if any(result.failed or result.unread for result in results.values()) else 0)


@contextmanager
def _opened(
    words: tuple[str, ...], pipeline: str | None
) -> Iterator[tuple[Assembly, list[tuple[Table, IcebergTarget]]]]:
    """The configuration and the tables that ``words`` name; ``pipeline`` in the place of its name."""
    from lakeward.cli.tables import fed, quiet_assembly  # noqa: PLC0415 - the help does without
    from lakeward.config.suggestions import hint  # noqa: PLC0415

    if len(words) > 2:
        raise ConfigurationError("more than a FILE and one TABLE were given", "Name one table at a time.")
    is_file = len(words) == 2 or (len(words) == 1 and (Path(words[0]).suffix in {".yaml", ".yml"}))
    file, rest = (words[0], words[1:]) if is_file else (DEFAULT_FILE, words)
    config = read(Path(file))
    with quiet_assembly(config.model_copy(update={"name": pipeline}) if pipeline else config) as assembly:
        tables = fed(assembly)
        names = [target.name for _, target in tables]
        if rest and rest[0] not in names:
            raise ConfigurationError(f"the configuration feeds no table {rest[0]}{hint(rest[0], names)}")
        yield assembly, [(table, target) for table, target in tables if not rest or target.name == rest[0]]


def _book(assembly: Assembly, table: Table, target: IcebergTarget) -> Book:
    from lakeward.dead_letters.book import read as read_book  # noqa: PLC0415
    from lakeward.dead_letters.rows import Owner  # noqa: PLC0415

    entry = target.find().entry  # first: what it counts was durable before it
    return read_book(assembly.letters(table, target.name), Owner(assembly.config.name, target.name), entry)


def _replay(assembly: Assembly, table: Table, target: IcebergTarget) -> Replay | None:
    """None where the table has no letters that could be read."""
    from lakeward.dead_letters.replay import Replay  # noqa: PLC0415

    topics = _book(assembly, table, target).open.column("topic").unique().to_pylist()
    lanes = [lane for topic in topics for lane in assembly.lanes_for(topic) if lane.target is target]
    if not lanes or lanes[0].letterbox is None:
        return None
    lane, box = lanes[0], lanes[0].letterbox
    return Replay(
        lane,
        box,
        assembly.letters(table, target.name),
        lambda topic: any(one is lane for one in assembly.lanes_for(topic)),
        SystemClock(),
        lambda: secrets.token_hex(16),
    )


def _selection(selecting: Mapping[str, str | None]) -> Selection:
    from lakeward.dead_letters.replay import Selection  # noqa: PLC0415

    since, until = selecting["since"], selecting["until"]
    return Selection(selecting["reason"], moment(since) if since else None, moment(until) if until else None)


def _place(text: str) -> tuple[str, int, int]:
    topic, _, rest = text.rpartition("/")
    topic, _, number = topic.rpartition("/")
    if not topic or not number.isdecimal() or not rest.isdecimal():
        raise ConfigurationError(f"{text!r} is no topic, partition and offset", "Write it as orders/0/1200.")
    return topic, int(number), int(rest)


def _at(letters: pa.Table, topic: str, partition: int, offset: int) -> pa.Table:
    import pyarrow.compute as pc  # noqa: PLC0415

    here = pc.and_(pc.equal(letters.column("topic"), topic), pc.equal(letters.column("partition"), partition))
    return letters.filter(pc.and_(here, pc.equal(letters.column("offset"), offset)))


def _listed(name: str, letters: pa.Table, book: Book, limit: int) -> dict[str, Any]:
    """``letters`` by reason, and the last of them."""
    rows = sorted(letters.to_pylist(), key=lambda row: row["last_seen"], reverse=True)
    by_reason: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_reason.setdefault(row["code"], []).append(row)
    return {
        "table": name,
        "count": len(rows),
        "void": book.void,
        "reasons": [
            {
                "reason": code,
                "letters": len(some),
                "first_seen": _time(min(row["seen_at"] for row in some)),
                "last_seen": _time(some[0]["last_seen"]),
            }
            for code, some in sorted(by_reason.items())
        ],
        "letters": [
            {
                **{key: row[key] for key in ("topic", "partition", "offset", "schema_id")},
                "reason": row["code"],
                "message": row["message"],
                "first_seen": _time(row["seen_at"]),
                "last_seen": _time(row["last_seen"]),
            }
            for row in rows[:limit]
        ],
    }


def _time(moment_: datetime) -> str:
    return time_text(round(moment_.timestamp() * 1000))


def _encoded(letter: Mapping[str, Any]) -> dict[str, Any]:
    """Bytes as base64: JSON has no others."""
    headers = [{**header, "value": _base64(header["value"])} for header in letter["headers"] or ()]
    return {**letter, "key": _base64(letter["key"]), "value": _base64(letter["value"]), "headers": headers}


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def _print(letter: Mapping[str, Any]) -> None:
    click.echo(f"{letter['topic']}, partition {letter['partition']}, offset {letter['offset']}  {letter['state']}")
    for name in ("code", "message", "schema_id", "timestamp", "seen_at", "pipeline", "topic_id", "batch"):
        if letter[name] is not None:
            click.echo(f"  {name:<10} {letter[name]}")
    for header in letter["headers"] or ():
        click.echo(f"  {'header':<10} {header['name']}: {_text(header['value'])}")
    for name in ("key", "value"):
        if letter[name] is not None:
            click.echo(f"  {name:<10} {len(letter[name]):,} bytes")
            for line in _dump(letter[name][:_SHOWN_BYTES]):
                click.echo(f"    {line}")
            if len(letter[name]) > _SHOWN_BYTES:
                click.echo("    … --json has all of it")


def _text(value: bytes | None) -> str:
    return "null" if value is None else value.decode(errors="backslashreplace")


def _dump(value: bytes) -> Iterator[str]:
    for start in range(0, len(value), 16):
        part = value[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        yield f"{start:06x}  {part.hex(' '):<47}  {text}"


def _told(name: str, result: Result) -> dict[str, Any]:
    return {
        "table": name,
        "rows": result.rows,
        "skipped": result.skipped,
        "failed": dict(result.failed),
        "unread": result.unread,
    }


def _sentence(result: Result, *, dry_run: bool) -> str:
    parts = [f"{result.rows:,} {'would become' if dry_run else 'became'} rows"]
    if result.skipped:
        parts.append(f"{result.skipped:,} have none")
    parts += [f"{count:,} cannot be written: {code}" for code, count in sorted(result.failed.items())]
    if result.unread:
        parts.append(f"{result.unread:,} of topics that the configuration does not read into it")
    return "; ".join(parts)
