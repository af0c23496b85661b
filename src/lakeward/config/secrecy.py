"""What is a secret, and how it is kept out of everything that is printed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"

_SECRET_KEY = re.compile(
    r"password|passwd|passphrase|pwd|secret|token|credential|private|authorization|jaas|cookie|signature"
    r"|connection[._-]?string|(?:^|[._-])key(?:[._-]|$)|(?:access|account|api)[._-]?key",
    re.IGNORECASE,
)
_USER_INFO = re.compile(r"(?P<before>\w://[^\s/:?#@]*:)\S*(?=@)")
_PARAMETER = re.compile(
    r"(?P<before>(?:^|[?&;\s])\w*(?:password|passwd|pwd|secret|token|credential|signature|key)\w*\s*=\s*)(?:'[^']*'|[^\s&;]+)",
    re.IGNORECASE,
)


class Secret:
    """A text that shows itself only to `reveal`; everywhere else it is ``***``.

    ``shown`` replaces the mask where a part may be seen, such as the host in a URL with a password.
    """

    __slots__ = ("_shown", "_text")

    def __init__(self, text: str, shown: str = MASK) -> None:
        self._text = text
        self._shown = shown

    def reveal(self) -> str:
        """The text itself: for the client that needs it, and for nothing that prints."""
        return self._text

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return f"Secret({self._shown!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


def is_secret(key: str) -> bool:
    """Whether a setting of this name holds something that must not be seen. Doubtful names do."""
    return _SECRET_KEY.search(key) is not None


def masked(text: str) -> str:
    """``text`` with the passwords of URLs and connection strings masked."""
    return _PARAMETER.sub(rf"\g<before>{MASK}", _USER_INFO.sub(rf"\g<before>{MASK}", text))


def concealed(text: str) -> str | Secret:
    """``text``, or a Secret where a part of it must not be seen."""
    shown = masked(text)
    return text if shown == text else Secret(text, shown)


def conceal(options: Mapping[str, Any]) -> dict[str, Any]:
    """Free-form options, nested ones too, with every secret among them made a `Secret`."""
    result: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, Mapping):
            result[key] = conceal(value)
        elif isinstance(value, str):
            result[key] = Secret(value) if is_secret(key) else concealed(value)
        else:
            result[key] = value
    return result


def reveal(options: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `conceal`: plain values, for the client library that takes them and for nothing that prints."""
    return {
        key: reveal(value) if isinstance(value, Mapping) else value.reveal() if isinstance(value, Secret) else value
        for key, value in options.items()
    }
