"""What is done to a PostgreSQL for the captures: tables with every type, and every way in which rows change."""

from __future__ import annotations

LONG = "\n".join(f"{number:04d} toasted" for number in range(165))
"""Text that PostgreSQL stores out of line."""

KINDS_TABLE = """
CREATE EXTENSION IF NOT EXISTS hstore SCHEMA public; CREATE EXTENSION IF NOT EXISTS citext SCHEMA public;
CREATE EXTENSION IF NOT EXISTS ltree SCHEMA public;
CREATE TYPE shop.mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN shop.cents AS numeric(8,2);
CREATE TABLE shop.kinds (
  id bigint PRIMARY KEY, small smallint, whole integer, large bigint, single real, double double precision,
  fixed numeric(12,2), wide numeric(38,10), round numeric(5,0), free numeric, cents shop.cents,
  cash money, flag boolean, fixed_text char(5), short_text varchar(20), any_text text, folded public.citext, raw bytea,
  day date, clock time, clock3 time(3), zoned_clock timetz, local timestamp, local3 timestamp(3), moment timestamptz,
  moment3 timestamptz(3), span interval, doc json, doc_b jsonb, uid uuid, markup xml, host inet, net cidr, mac macaddr,
  bit_one bit(1), bits bit(11), some_bits varbit(20), ints int4range, longs int8range, nums numrange, days daterange,
  locals tsrange, moments tstzrange, spot point, pairs public.hstore, path public.ltree, feeling shop.mood, number oid,
  texts text[], wholes integer[], larges bigint[], fixeds numeric(12,2)[], frees numeric[],
  uids uuid[], flags boolean[], dates date[], moments_list timestamptz[], feelings shop.mood[], docs jsonb[],
  doubles double precision[], words varchar(10)[]
);
-- what Debezium does not tell as it is: arrays of arrays, and numbers whose last digits are not kept
CREATE TABLE shop.odd (id integer PRIMARY KEY, matrix integer[][], hundreds numeric(5,-2));
"""

_FULL = """
({id}, -32768, 2147483647, -9223372036854775808, 0.1, 0.1, -1234567890.12, 1234567890123456789012345678.0123456789,
 99999, 123456789012345678901234567890.123456789, 5.05, '-1234.56', true, 'ab', 'short', 'ünï "q" \\ line
two', 'FoLd', '\\x0001ff80', '2024-02-29', '23:59:59.999999', '10:11:12.123', '10:11:12.5+02',
 '2024-05-01 10:00:00.123456', '2024-05-01 10:00:00.123', '2024-05-01 12:30:15.123456+02', '2024-05-01 12:30:15.123Z',
 '1 year 2 mons 3 days 04:05:06.789', '{{"z": 1.50, "a": [1, null]}}', '{{"z": 1.50, "a": {{"b": "ü"}}}}',
 '00000000-0000-0000-0000-00000000002a', '<a b="c">d</a>', '10.0.0.1/8', '10.1.0.0/16', '08:00:2b:01:02:03',
 '1', '10100000001', '101', '[1,5)', '[1,)', '(1.5,2.5]', '[2024-01-01,2024-02-01)',
 '[2024-01-01 00:00:00,2024-01-02 00:00:00)', '[2024-01-01 00:00:00+00,2024-01-02 00:00:00+00)', '(1.5,-2.25)',
 'a=>1, "b c"=>NULL', 'top.mid.leaf', 'happy', 4000000000,
 '{{a,"b,c",NULL,""}}', '{{1,2,NULL}}', '{{9223372036854775807}}', '{{1.25,-0.50}}',
 '{{1.5,12345678901234567890.123}}', '{{00000000-0000-0000-0000-000000000001}}', '{{t,f,NULL}}', '{{2024-02-29}}',
 '{{"2024-05-01 12:30:15.5+02"}}', '{{ok,sad}}', ARRAY['{{"a": 1}}'::jsonb], '{{0.1,NULL}}', '{{x,y}}')"""

KINDS_THERE = [
    f"INSERT INTO shop.kinds VALUES {_FULL.format(id=1)}",
    "INSERT INTO shop.kinds (id) VALUES (2)",
    "INSERT INTO shop.odd VALUES (1, '{{1,2},{3,4}}', 12345)",
]
KINDS_STEPS = [
    [f"INSERT INTO shop.kinds VALUES {_FULL.format(id=3)}"],
    ["UPDATE shop.kinds SET any_text = NULL, texts = '{}', wholes = '{}', pairs = '', doc_b = 'null' WHERE id = 1"],
    [
        """INSERT INTO shop.kinds (id, single, double, free, day, local, moment, doubles, cash)
        VALUES (4, 'NaN', 'Infinity', 'NaN', 'infinity', 'infinity', '-infinity', '{NaN,-Infinity}', 0)""",
        """INSERT INTO shop.kinds (id, single, double, free, day, local, moment, frees)
        VALUES (5, '-Infinity', '-0', 'Infinity', '-infinity', '-infinity', 'infinity', '{NaN,Infinity}')""",
    ],
    [
        """INSERT INTO shop.kinds (id, day, clock, local, moment, span, double, free) VALUES
        (6, '0001-01-01', '24:00:00', '0001-01-01 00:00:00', '0001-01-01 00:00:00Z', '-1 mon -3 days', 5e-324,
        1e-20)""",
        """INSERT INTO shop.kinds (id, day, clock, local, moment, span, double, free) VALUES
        (7, '9999-12-31', '00:00:00', '9999-12-31 23:59:59.999999', '9999-12-31 23:59:59.999999Z', '178000 years',
        1.7976931348623157e308, 0)""",
        """INSERT INTO shop.kinds (id, day, local, moment) VALUES
        (8, '0044-03-15 BC', '0044-03-15 BC', '0044-03-15 00:00:00Z BC')""",
    ],
    ["DELETE FROM shop.kinds WHERE id = 2", "INSERT INTO shop.odd VALUES (2, '{}', 0)"],
]

AMOUNTS_TABLE = """
CREATE TABLE shop.amounts (
  id numeric(20,0) PRIMARY KEY, fixed numeric(12,2), wide numeric(38,10), free numeric, cash money, list numeric(6,2)[]
);
"""
AMOUNTS_THERE = [
    "INSERT INTO shop.amounts VALUES (1, -1.25, 1234567890123456789012345678.0123456789, 1.50, '12.34', '{1.10,NULL}')"
]
AMOUNTS_STEPS = [
    [
        "INSERT INTO shop.amounts VALUES (12345678901234567890, 0, 0.0000000001, 'NaN', '-0.01', '{}')",
        "INSERT INTO shop.amounts VALUES (3, NULL, NULL, 'Infinity', NULL, NULL)",
    ],
    ["UPDATE shop.amounts SET fixed = 9999999999.99, free = 12345678901234567890.1234567890 WHERE id = 1"],
    ["DELETE FROM shop.amounts WHERE id = 3"],
]

TIMES_TABLE = """
CREATE TABLE shop.times (
  moment timestamptz PRIMARY KEY, day date, clock time, clock3 time(3), zoned_clock timetz, local timestamp,
  local0 timestamp(0), local3 timestamp(3), moment3 timestamptz(3), span interval, moments timestamptz[], days date[]
);
"""
TIMES_THERE = [
    """INSERT INTO shop.times VALUES ('2024-05-01 12:30:15.123456+02', '2024-02-29', '23:59:59.999999', '10:11:12.123',
    '10:11:12.5+02', '2024-05-01 10:00:00.123456', '2024-05-01 10:00:00', '2024-05-01 10:00:00.123',
    '2024-05-01 12:30:15.123Z', '1 year 2 mons 3 days 04:05:06.789', '{2024-05-01 12:30:15.123456+02}',
    '{2024-02-29}')"""
]
TIMES_STEPS = [
    [
        """INSERT INTO shop.times VALUES ('1969-12-31 23:59:59.999999Z', '1969-12-31', '00:00:00', '00:00:00',
        '00:00:00Z', '1969-12-31 23:59:59.999999', '1969-12-31 23:59:59', '1969-12-31 23:59:59.999', NULL, '-1 day',
        NULL, '{}')""",
        "INSERT INTO shop.times (moment, day, local) VALUES ('infinity', 'infinity', '-infinity')",
    ],
    ["UPDATE shop.times SET local = '9999-12-31 23:59:59.999999' WHERE day = '1969-12-31'"],
]

FLOW_TABLES = """
CREATE TABLE shop.orders (
  id bigint PRIMARY KEY, customer text NOT NULL, amount numeric(12,2), qty integer DEFAULT 1, note text, gone text
);
ALTER TABLE shop.orders ALTER COLUMN note SET STORAGE EXTERNAL;
CREATE TABLE shop.pairs (region text, number integer, v text, PRIMARY KEY (region, number));
CREATE TABLE shop.logs (a integer, b text);
ALTER TABLE shop.logs REPLICA IDENTITY FULL;
CREATE TABLE shop.full_rows (id integer PRIMARY KEY, a text, b numeric(10,4), big text);
ALTER TABLE shop.full_rows REPLICA IDENTITY FULL;
ALTER TABLE shop.full_rows ALTER COLUMN big SET STORAGE EXTERNAL;
CREATE TABLE shop.people (uid uuid PRIMARY KEY, name text, tags text[]);
CREATE TABLE shop.parted (id integer, region text, v integer, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE shop.parted_a PARTITION OF shop.parted FOR VALUES IN ('a');
CREATE TABLE shop.parted_b PARTITION OF shop.parted DEFAULT;
"""
FLOW_THERE = [
    f"INSERT INTO shop.orders VALUES (1, 'one', 1.10, 1, '{LONG}', 'x'), (2, 'two', NULL, 2, NULL, NULL)",
    "INSERT INTO shop.pairs VALUES ('eu', 1, 'a'), ('us', 1, NULL)",
    "INSERT INTO shop.logs VALUES (1, 'x')",
    f"INSERT INTO shop.full_rows VALUES (1, 'one', 1.5, '{LONG}'), (2, NULL, NULL, NULL)",
    "INSERT INTO shop.people VALUES ('00000000-0000-0000-0000-000000000001', 'Ann', '{a}')",
    "INSERT INTO shop.parted VALUES (1, 'a', 1), (2, 'b', 2)",
]
FLOW_STEPS = [
    ["INSERT INTO shop.orders VALUES (3, 'three', 3.30, 3, 'short', 'y'), (4, 'four', 4.40, 4, NULL, NULL)"],
    # the note is not told of again: it is out of line and has not changed
    ["UPDATE shop.orders SET amount = 99.99 WHERE id = 1"],
    [f"UPDATE shop.orders SET note = reverse('{LONG}') WHERE id = 1"],
    ["DELETE FROM shop.orders WHERE id = 2"],
    ["UPDATE shop.orders SET id = 1000 WHERE id = 3"],
    # the key changes while the note, which is out of line, does not
    ["UPDATE shop.orders SET id = 1001 WHERE id = 1"],
    ["BEGIN; DELETE FROM shop.orders WHERE id = 4; INSERT INTO shop.orders VALUES (4, 'again', 4.44); COMMIT"],
    ["BEGIN; INSERT INTO shop.orders VALUES (5, 'never', 0); DELETE FROM shop.orders; ROLLBACK"],
    [
        """BEGIN; INSERT INTO shop.orders VALUES (6, 'kept', 6); SAVEPOINT s; UPDATE shop.orders SET amount = 0;
        ROLLBACK TO s; UPDATE shop.orders SET amount = 6.66 WHERE id = 6; COMMIT""",
    ],
    [
        "UPDATE shop.pairs SET v = NULL WHERE region = 'eu'",
        "UPDATE shop.pairs SET number = 2 WHERE region = 'us'",
        "INSERT INTO shop.pairs VALUES ('ünï', 3, 'c')",
        "DELETE FROM shop.pairs WHERE region = 'eu'",
    ],
    [
        "INSERT INTO shop.logs VALUES (1, 'x'), (2, 'z')",
        "UPDATE shop.logs SET b = 'y' WHERE a = 2",
        "DELETE FROM shop.logs WHERE a = 1",
    ],
    [
        "INSERT INTO shop.full_rows VALUES (3, 'three', 3.3333, NULL)",
        "UPDATE shop.full_rows SET a = 'uno' WHERE id = 1",
        "UPDATE shop.full_rows SET id = 20 WHERE id = 2",
        "DELETE FROM shop.full_rows WHERE id = 3",
    ],
    [
        "INSERT INTO shop.people VALUES ('00000000-0000-0000-0000-000000000002', 'Bob', NULL)",
        "UPDATE shop.people SET name = NULL WHERE name = 'Ann'",
        "DELETE FROM shop.people WHERE name = 'Bob'",
    ],
    ["INSERT INTO shop.parted VALUES (3, 'c', 3)", "UPDATE shop.parted SET region = 'a' WHERE id = 2"],
    # nothing is told of a new column before a row is written; rows that are there have its default
    ["ALTER TABLE shop.orders ADD COLUMN added integer"],
    ["INSERT INTO shop.orders VALUES (7, 'after adding', 7, 7, NULL, NULL, 70)"],
    ["ALTER TABLE shop.orders ALTER COLUMN qty TYPE bigint"],
    ["INSERT INTO shop.orders (id, customer, qty) VALUES (8, 'after widening', 5000000000)"],
    ["ALTER TABLE shop.orders ALTER COLUMN amount TYPE numeric(14,4)"],
    ["INSERT INTO shop.orders (id, customer, amount) VALUES (9, 'after more digits', 0.0001)"],
    ["ALTER TABLE shop.orders DROP COLUMN gone"],
    ["UPDATE shop.orders SET customer = 'after dropping' WHERE id = 7"],
    ["ALTER TABLE shop.orders RENAME COLUMN qty TO quantity"],
    ["UPDATE shop.orders SET quantity = 77 WHERE id = 7"],
    ["SELECT pg_logical_emit_message(true, 'app', 'hello')"],
    ["TRUNCATE shop.pairs"],
    ["INSERT INTO shop.pairs VALUES ('eu', 1, 'after truncating')"],
]
