"""What every section of a configuration has in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from lakeward.config.scalars import absent, structure


class Section(BaseModel):
    """A mapping with known keys: unknown ones are errors, nothing is converted silently, nothing changes later."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, hide_input_in_errors=True, arbitrary_types_allowed=True
    )

    @model_validator(mode="before")
    @classmethod
    def _written(cls, data: Any) -> Any:
        data = structure(data)
        if not isinstance(data, Mapping):
            return data
        known = keys(cls)
        return {key: value for key, value in data.items() if not (key in known and absent(value))}


def keys(section: type[BaseModel]) -> dict[str, str]:
    """The keys that ``section`` knows, as they are written, each with the attribute that holds it."""
    return {field.alias or name: name for name, field in section.model_fields.items()}
