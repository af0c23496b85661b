"""Where tables keep their files, asked as seldom as can be: a request to S3 takes longer than what it is for.

PyIceberg makes a client for every table that it loads, so each commit would open its connections anew, and sends three
requests for a file of any size. Here clients are kept, small files go in one request, and large ones in parts that are
sent while the next is being written.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from itertools import islice
from typing import Any

import structlog
from pyarrow.fs import FileSystem, S3FileSystem
from pyiceberg.io import (
    AWS_ACCESS_KEY_ID,
    AWS_PROFILE_NAME,
    AWS_REGION,
    AWS_ROLE_ARN,
    AWS_SECRET_ACCESS_KEY,
    AWS_SESSION_TOKEN,
    S3_ACCESS_KEY_ID,
    S3_ANONYMOUS,
    S3_CONNECT_TIMEOUT,
    S3_ENDPOINT,
    S3_FORCE_VIRTUAL_ADDRESSING,
    S3_PROXY_URI,
    S3_REGION,
    S3_REQUEST_TIMEOUT,
    S3_RETRY_STRATEGY_IMPL,
    S3_ROLE_ARN,
    S3_SECRET_ACCESS_KEY,
    S3_SESSION_TOKEN,
    FileIO,
    InputFile,
    OutputFile,
    OutputStream,
    load_file_io,
)
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.utils.properties import get_first_property_value, property_as_bool

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_OURS = "lakeward"
_KEPT = 64
"""Clients kept: as many as there are tables with settings of their own, up to this."""
_S3 = ("s3://", "s3a://", "s3n://")
_OTHERWISE_SIGNED = {S3_ANONYMOUS, S3_PROXY_URI, S3_ROLE_ARN, AWS_ROLE_ARN, AWS_PROFILE_NAME}
_MOST_IN_BULK = 1000
_DELETERS = 8
"""Files deleted side by side where each takes a request of its own."""


class ArrowStore(PyArrowFileIO):
    """PyIceberg's store through Arrow. What fails is sent again three times, by Arrow, with growing pauses."""

    def _initialize_s3_fs(self, netloc: str | None) -> FileSystem:
        made = super()._initialize_s3_fs(netloc)
        if S3_RETRY_STRATEGY_IMPL in self.properties:  # the one thing that a filesystem does not tell of itself
            return made
        _, (options,) = made.__reduce__()
        # Nothing is asked before the first byte is sent, so that a file smaller than a part is one request.
        return S3FileSystem(**{**options, "allow_delayed_open": True})

    @cached_property
    def bulk(self) -> Any | None:
        """A client that deletes many files in one request; None where it could not sign as Arrow does.

        Arrow takes three requests for each file, one of which writes the file's folder, as an object, again.
        """
        if not self.properties.keys().isdisjoint(_OTHERWISE_SIGNED):
            return None
        # 20 MiB that only S3 needs, and not at the start.
        from botocore.config import Config  # type: ignore[import-untyped]  # noqa: PLC0415
        from botocore.session import Session  # type: ignore[import-untyped]  # noqa: PLC0415

        def told(*names: str) -> Any | None:
            return get_first_property_value(self.properties, *names)

        by_name = property_as_bool(self.properties, S3_FORCE_VIRTUAL_ADDRESSING, default=False)
        config = Config(
            connect_timeout=float(told(S3_CONNECT_TIMEOUT) or 10),
            read_timeout=float(told(S3_REQUEST_TIMEOUT) or 60),
            retries={"mode": "standard", "max_attempts": 3},
            s3={"addressing_style": "path" if told(S3_ENDPOINT) and not by_name else "virtual"},
        )
        return Session().create_client(
            "s3",
            config=config,
            endpoint_url=told(S3_ENDPOINT),
            region_name=told(S3_REGION, AWS_REGION),
            aws_access_key_id=told(S3_ACCESS_KEY_ID, AWS_ACCESS_KEY_ID),
            aws_secret_access_key=told(S3_SECRET_ACCESS_KEY, AWS_SECRET_ACCESS_KEY),
            aws_session_token=told(S3_SESSION_TOKEN, AWS_SESSION_TOKEN),
        )


def delete_files(store: FileIO, paths: Sequence[str]) -> dict[str, Exception]:
    """Delete each of ``paths``; return what was left behind, and why. One that is not there is no failure."""
    left = list(paths)
    if isinstance(store, ArrowStore) and any(path.startswith(_S3) for path in left):
        left = _deleted_in_bulk(store, left)
    with ThreadPoolExecutor(min(_DELETERS, len(left)) or 1, thread_name_prefix="deleting") as pool:
        failures = zip(left, pool.map(partial(_deleted, store), left), strict=True)
        return {path: error for path, error in failures if error is not None}


def _deleted_in_bulk(store: ArrowStore, paths: Sequence[str]) -> list[str]:
    """Those of ``paths`` that have to be deleted one by one."""
    left = [path for path in paths if not path.startswith(_S3)]
    buckets: dict[str, dict[str, str]] = {}
    for path in paths:
        if path.startswith(_S3):
            bucket, _, key = path.partition("://")[2].partition("/")
            buckets.setdefault(bucket, {})[key] = path
    for bucket, keys in buckets.items():
        for some in _in_lists(keys):
            try:
                if store.bulk is None:
                    raise NotImplementedError  # noqa: TRY301 -- as where the store does not know the request
                asked = {"Objects": [{"Key": key} for key in some], "Quiet": True}
                answer = store.bulk.delete_objects(Bucket=bucket, Delete=asked)
                left += [keys[error["Key"]] for error in answer.get("Errors", ())]
            except Exception as error:  # noqa: BLE001 -- not every store knows this request
                log.debug("not deleted in bulk", bucket=bucket, error=type(error).__name__)
                left += [keys[key] for key in some]
    return left


def _in_lists(keys: Iterable[str]) -> Iterator[list[str]]:
    """``keys`` in lists of as many as one request may name."""
    rest = iter(keys)
    while some := list(islice(rest, _MOST_IN_BULK)):
        yield some


def _deleted(store: FileIO, path: str) -> Exception | None:
    try:
        store.delete(path)
    except FileNotFoundError:
        return None
    except Exception as error:  # noqa: BLE001 -- the others can still go
        return error
    return None


class WholeFile(OutputFile):
    """A small file that is sent in one piece when it is closed, and whose length is known without asking."""

    def __init__(self, inner: OutputFile) -> None:
        super().__init__(inner.location)
        self._inner = inner
        self._length = 0

    def __len__(self) -> int:
        """How many bytes were written."""
        return self._length

    def exists(self) -> bool:
        """See `OutputFile.exists`."""
        return self._inner.exists()

    def to_input_file(self) -> InputFile:
        """See `OutputFile.to_input_file`."""
        return self._inner.to_input_file()

    def create(self, overwrite: bool = False) -> OutputStream:  # noqa: FBT001, FBT002 -- PyIceberg's signature
        """See `OutputFile.create`; what cannot be written says so when the stream is closed."""
        return _Pending(self, overwrite=overwrite)

    def write(self, content: bytes, *, overwrite: bool) -> None:
        """Send ``content``."""
        with self._inner.create(overwrite=overwrite) as stream:
            stream.write(content)
        self._length = len(content)


class _Pending(io.BytesIO):
    def __init__(self, file: WholeFile, *, overwrite: bool) -> None:
        super().__init__()
        self._file = file
        self._overwrite = overwrite

    def close(self) -> None:
        if not self.closed:
            content = self.getvalue()
            super().close()
            self._file.write(content, overwrite=self._overwrite)


class Stores:
    """Makes the store for a table's properties, and hands out the same one for the same. Any thread may ask."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], FileIO] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, properties: Mapping[str, Any], location: str | None) -> FileIO:
        """The store for files such as ``location``. Credentials that differ, as vended ones do, make another one."""
        # Ledger entries are properties too, and are others after every commit.
        settings = {key: value for key, value in properties.items() if not key.startswith(_OURS)}
        scheme = (location or "").partition(":")[0]
        key = (
            scheme,
            *sorted((name, value if isinstance(value, str) else id(value)) for name, value in settings.items()),
        )
        with self._lock:
            store = self._kept.get(key)
            if store is None:
                store = load_file_io(settings, location)
                if type(store) is PyArrowFileIO:
                    store = ArrowStore(settings)
                self._kept[key] = store
            self._kept.move_to_end(key)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return store
