"""What is done to a MongoDB for the captures, as database commands in extended JSON."""

from __future__ import annotations

import json
from typing import Any

LONG = "\n".join(f"{number:04d} long" for number in range(40))


def _oid(number: int) -> dict[str, str]:
    return {"$oid": f"65f0000000000000{number:08x}"}


def _kinds(number: int) -> dict[str, Any]:
    """Every type of BSON that can still be written."""
    return {
        "_id": _oid(number),
        "text": 'ünï "q" \\ line\ntwo',
        "empty": "",
        "int": {"$numberInt": "-2147483648"},
        "long": {"$numberLong": "9223372036854775807"},
        "small_long": {"$numberLong": "7"},
        "double": {"$numberDouble": "0.1"},
        "whole_double": {"$numberDouble": "3.0"},
        "huge": {"$numberDouble": "1.7976931348623157E+308"},
        "minus_zero": {"$numberDouble": "-0.0"},
        "nan": {"$numberDouble": "NaN"},
        "infinite": {"$numberDouble": "-Infinity"},
        "decimal": {"$numberDecimal": "12345678901234567890.1234"},
        "decimal_exponent": {"$numberDecimal": "1E+3"},
        "decimal_nan": {"$numberDecimal": "NaN"},
        "decimal_infinite": {"$numberDecimal": "-Infinity"},
        "yes": True,
        "nothing": None,
        "when": {"$date": {"$numberLong": "1714558272123"}},
        "before_1970": {"$date": {"$numberLong": "-1"}},
        "after_9999": {"$date": {"$numberLong": "253402300800000"}},
        "id": _oid(255),
        "raw": {"$binary": {"base64": "AAH/gA==", "subType": "00"}},
        "uuid": {"$binary": {"base64": "AAAAAAAAAAAAAAAAAAAAKg==", "subType": "04"}},
        "md5": {"$binary": {"base64": "AAAAAAAAAAAAAAAAAAAAKg==", "subType": "05"}},
        "mine": {"$binary": {"base64": "AQ==", "subType": "80"}},
        "stamp": {"$timestamp": {"t": 1700000000, "i": 1}},
        "pattern": {"$regularExpression": {"pattern": "^a/b", "options": "i"}},
        "code": {"$code": "function() { return 1; }"},
        "scoped": {"$code": "x", "$scope": {"x": {"$numberInt": "1"}}},
        "least": {"$minKey": 1},
        "most": {"$maxKey": 1},
        "nested": {"a": {"b": [1, {"c": None, "d": {"$numberLong": "1"}}]}, "e": {}},
        "list": [1, "two", 3.5, None, True, {"four": {"$date": {"$numberLong": "0"}}}, [5, []]],
        "numbers": [1, {"$numberLong": "2"}, 3.5],
        "no_items": [],
        "no_fields": {},
        "a.dotted": 1,
        "$dollar": {"$numberInt": "2"},
        "with space": 3,
        "": "no name",
    }


def _insert(collection: str, *documents: dict[str, Any]) -> str:
    return _text({"insert": collection, "documents": list(documents)})


def _update(collection: str, query: dict[str, Any], change: dict[str, Any] | list[Any]) -> str:
    return _text({"update": collection, "updates": [{"q": query, "u": change, "multi": isinstance(change, list)}]})


def _delete(collection: str, query: dict[str, Any]) -> str:
    return _text({"delete": collection, "deletes": [{"q": query, "limit": 1}]})


def _together(*commands: str) -> str:
    return _text({"transaction": [json.loads(command) for command in commands]})


def _text(command: dict[str, Any]) -> str:
    return json.dumps(command, ensure_ascii=False)


KINDS_TABLES = [_text({"create": "kinds"}), _text({"create": "mixed"}), _text({"create": "keys"})]
KINDS_THERE = [
    _insert("kinds", _kinds(1), {"_id": _oid(2)}),
    _insert("mixed", {"_id": 1, "v": {"$numberInt": "1"}}, {"_id": 2, "v": {"$numberLong": "5000000000"}}),
    _insert(
        "keys", {"_id": "text", "x": 1}, {"_id": {"$numberLong": "42"}, "x": 1}, {"_id": {"b": "k", "a": 1}, "x": 1}
    ),
]
KINDS_STEPS = [
    [_insert("kinds", _kinds(3))],
    # one field, many types
    [_insert("mixed", {"_id": 3, "v": "three"}, {"_id": 4, "v": 4.5}, {"_id": 5, "v": None}, {"_id": 6})],
    [_insert("mixed", {"_id": 7, "v": {"a": 1}}, {"_id": 8, "v": [1, "x"]}, {"_id": 9, "v": _oid(9)})],
    [_insert("mixed", {"_id": 10, "v": True}, {"_id": 11, "v": {"$date": {"$numberLong": "0"}}})],
    [_insert("mixed", {"_id": 12, "v": {"$numberDecimal": "1.50"}}, {"_id": 13, "v": {"$numberInt": "13"}})],
    [
        _insert("keys", {"_id": 7, "x": 1}, {"_id": 7.5, "x": 1}, {"_id": {"$date": {"$numberLong": "0"}}, "x": 1}),
        _insert("keys", {"_id": {"$binary": {"base64": "AAAAAAAAAAAAAAAAAAAAKg==", "subType": "04"}}, "x": 1}),
        _insert("keys", {"_id": 'ünï "q"\n', "x": 1}, {"_id": True, "x": 1}, {"_id": None, "x": 1}),
    ],
    [
        _update("keys", {"_id": "text"}, {"$set": {"x": 2}}),
        _update("keys", {"_id": {"$numberLong": "42"}}, {"$set": {"x": 2}}),
        _delete("keys", {"_id": {"b": "k", "a": 1}}),
        _delete("keys", {"_id": 7.5}),
    ],
]

FLOW_TABLES = [
    _text({"create": "orders"}),
    _text({"create": "imaged", "changeStreamPreAndPostImages": {"enabled": True}}),
]


def _order(number: int) -> dict[str, Any]:
    return {
        "_id": _oid(number),
        "name": f"customer {number}",
        "total": {"$numberDecimal": f"{number}.50"},
        "lines": [{"sku": "a", "qty": 1}, {"sku": "b", "qty": 2}],
        "address": {"city": "Bern", "zip": {"code": 3000 + number}},
        "tags": ["x", "y", "z"],
        "visits": number,
    }


FLOW_THERE = [
    _insert("orders", _order(1), _order(2), _order(3)),
    _insert("imaged", _order(1), _order(2), _order(3)),
]


def _flow(collection: str) -> list[list[str]]:
    change: dict[str, Any] = {"$set": {"name": "changed", "address.zip.code": 1}, "$unset": {"visits": ""}}
    cut = [{"$set": {"tags": {"$slice": ["$tags", 1]}}}]  # told of as an array made shorter
    return [
        [_insert(collection, _order(4), _order(5))],
        [_update(collection, {"_id": _oid(1)}, change)],
        [_update(collection, {"_id": _oid(2)}, {"$push": {"lines": {"sku": "c"}}, "$inc": {"visits": 5}})],
        [_update(collection, {"_id": _oid(2)}, {"$set": {"lines.0.qty": 10, "note": LONG}})],
        [_update(collection, {"_id": _oid(3)}, cut)],
        [_update(collection, {"_id": _oid(3)}, {"$rename": {"name": "title"}})],
        [_update(collection, {"_id": _oid(4)}, {"replaced": True, "n": None})],
        [_delete(collection, {"_id": _oid(5)})],
        # looked up afterwards, the document is newer than the change that is told of, or gone
        [
            _together(
                _insert(collection, _order(20)),
                _update(collection, {"_id": _oid(20)}, {"$set": {"name": "first"}}),
                _update(collection, {"_id": _oid(20)}, {"$set": {"name": "second"}}),
                _delete(collection, {"_id": _oid(1)}),
            )
        ],
        [
            _together(
                _insert(collection, _order(21)),
                _update(collection, {"_id": _oid(21)}, {"$set": {"name": "soon gone"}}),
                _delete(collection, {"_id": _oid(21)}),
            )
        ],
        [_insert(collection, {"_id": _oid(22), "new_field": {"$numberLong": "1"}})],
    ]


FLOW_STEPS = [[*plain, *imaged] for plain, imaged in zip(_flow("orders"), _flow("imaged"), strict=True)]
