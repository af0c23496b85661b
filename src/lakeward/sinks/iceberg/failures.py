"""What a catalog or a store can raise, as our own errors: which server, and what an operator can do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import requests
import sqlalchemy.exc
from pydantic import ValidationError
from pyiceberg.exceptions import (
    AuthorizationExpiredError,
    CommitStateUnknownException,
    ForbiddenError,
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchTableError,
    OAuthError,
    RESTError,
    ServerError,
    ServiceUnavailableError,
    SignError,
    TableAlreadyExistsError,
    TooManyRequestsError,
    UnauthorizedError,
)

from lakeward.errors import (
    ConfigurationError,
    LakewardError,
    OperatorError,
    PermissionDeniedError,
    StorageError,
    UnreachableError,
)

_REFUSED = (UnauthorizedError, ForbiddenError, AuthorizationExpiredError, OAuthError, SignError)
_ANSWERS = (NoSuchTableError, NoSuchNamespaceError, TableAlreadyExistsError, NamespaceAlreadyExistsError)
_BUSY = (ServerError, ServiceUnavailableError, TooManyRequestsError, CommitStateUnknownException)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE}
_IN_THE_WAY = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_DENIED_WORDS = ("accessdenied", "forbidden", "invalidaccesskeyid", "signaturedoesnotmatch", "expiredtoken")
_GONE_WORDS = ("nosuchbucket",)
_SQL_DENIED_WORDS = ("password authentication failed", "permission denied", "readonly database", "pg_hba.conf")
_SQL_DENIED_STATES = {"28000", "28P01", "42501"}


@contextmanager
def translated(what: str, address: str) -> Iterator[None]:
    """Raise our own error for anything that a catalog or store at ``address`` raises while ``what`` is done.

    That a table or namespace is not there, or is there already, is an answer: it passes, as do our own errors.

    Raises:
        UnreachableError: no answer, or one that says "not now". PermissionDeniedError: it refuses us.
        StorageError: disk full, quota, missing bucket. ConfigurationError: it is not what the address promises.
        OperatorError: it rejects the request as invalid.
    """
    try:
        yield
    except (LakewardError, *_ANSWERS):
        raise
    except Exception as error:
        raise explained(error, what, address) from error


def explained(error: Exception, what: str, address: str) -> LakewardError:  # noqa: PLR0911 -- one a kind of failure
    """Our own error for ``error``, which was raised while ``what`` was done at ``address``; never raises."""
    told = f"{what}: {address}"
    if isinstance(error, _REFUSED):
        return PermissionDeniedError(
            f"{told} refuses us: {_first_line(error)}", "Check the credentials and their rights."
        )
    if isinstance(error, sqlalchemy.exc.SQLAlchemyError):
        return _from_sql(error, told)
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema)):
        return ConfigurationError(f"{told} is not an address", "Write it as http://host:port/path.")
    if isinstance(error, (requests.RequestException, TimeoutError, ConnectionError, *_BUSY)):
        return UnreachableError(
            f"{told} does not answer: {_first_line(error)}", "Is it running, and is the address right?"
        )
    if isinstance(error, (ValidationError, requests.exceptions.JSONDecodeError)):
        return UnreachableError(f"{told} answered something that cannot be read", "Is that address really the catalog?")
    if isinstance(error, RESTError):
        return OperatorError(f"{told} rejects the request: {_first_line(error)}", "The server's own log says more.")
    return _from_store(error, told)


def _from_sql(error: sqlalchemy.exc.SQLAlchemyError, told: str) -> LakewardError:
    # Only the driver's own words: SQLAlchemy's text would add the statement and its parameters.
    origin = getattr(error, "orig", None)
    words = _first_line(origin) if isinstance(origin, BaseException) else type(error).__name__
    if isinstance(error, (sqlalchemy.exc.ArgumentError, sqlalchemy.exc.NoSuchModuleError)):
        return ConfigurationError(f"{told} is not a database address", "Write it as dialect://user@host:port/database.")
    denied = any(word in words.lower() for word in _SQL_DENIED_WORDS)
    if denied or getattr(origin, "pgcode", None) in _SQL_DENIED_STATES:
        return PermissionDeniedError(f"{told} refuses us: {words}", "Check the credentials and their rights.")
    if "disk is full" in words.lower():
        return StorageError(f"{told}: {words}", "Make room on that disk.")
    return UnreachableError(f"{told} does not serve us: {words}", "Is it running, and is the address right?")


def _from_store(error: Exception, told: str) -> LakewardError:
    words = _first_line(error)
    plain = "".join(letter for letter in words.lower() if letter.isalpha())
    number = getattr(error, "errno", None)
    if number in _DENIED or any(word in plain for word in _DENIED_WORDS):
        return PermissionDeniedError(f"{told} refuses us: {words}", "Check the credentials and their rights.")
    if number in _IN_THE_WAY:
        return StorageError(
            f"{told}: {words}", "A file is where a folder should be, or the reverse. Move it, or choose another place."
        )
    if number in _FULL or any(word in plain for word in _GONE_WORDS):
        return StorageError(f"{told}: {words}", "Make room, raise the quota, or create the bucket.")
    if isinstance(error, OSError) or type(error).__module__.startswith(("botocore", "aiohttp", "aiobotocore")):
        return UnreachableError(f"{told} does not serve us: {words}", "Is it running, and is the address right?")
    return OperatorError(
        f"{told} ended in {type(error).__name__}: {words}",
        "Nothing was decided from it; look at the table, start again.",
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]
