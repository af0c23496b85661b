"""Updates that tell only what they have changed (`updateDescription`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lakeward.decoding import bson
from lakeward.decoding.json_reference import NotDecodableError

PARTIAL = "partial-update"
WAY_OUT = "; with `capture.mode: change_streams_update_full` events hold the whole document"


def changed(told: Mapping[str, Any], identity: bytes | None) -> tuple[bytes, frozenset[str]]:
    """The document of an update, extended JSON of the fields that it names, and their names.

    Args:
        told: the event's `updateDescription`.
        identity: a document that holds ``_id`` alone.

    Raises:
        NotDecodableError: it is no such description, or changes a part of a field, whose old value would be needed.
    """
    if identity is None:
        raise NotDecodableError("no-key", "the update has no key")
    updated = told.get("updatedFields")
    text = updated.strip() if isinstance(updated, str) else "{}"
    fields = bson.document(text.encode())
    removed = _names(told.get("removedFields"))
    if told.get("truncatedArrays") or any("." in name for name in (*fields, *removed)):
        raise NotDecodableError(PARTIAL, f"the event tells a change inside a field, not the field{WAY_OUT}")
    pieces = [identity.decode().removesuffix("}")]
    pieces += [text[1:-1]] if fields else []
    pieces += [f"{json.dumps(name)}:null" for name in removed]
    return f"{','.join(pieces)}}}".encode(), frozenset({"_id", *fields, *removed})


def _names(told: Any) -> list[str]:
    """Names in a list, or in a string that holds one."""
    names = json.loads(told) if isinstance(told, str) else told or []
    return [str(name) for name in names]
