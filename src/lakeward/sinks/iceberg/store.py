"""Where tables keep their files, asked as seldom as can be: a request to S3 takes longer than what it is for.

PyIceberg makes a client for every table that it loads, so each commit would open its connections anew, and sends three
requests for a file of any size. Here clients are kept, small files go in one request, and large ones in parts that are
sent while the next is being written.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from pyarrow.fs import FileSystem, S3FileSystem
from pyiceberg.io import S3_RETRY_STRATEGY_IMPL, FileIO, InputFile, OutputFile, OutputStream, load_file_io
from pyiceberg.io.pyarrow import PyArrowFileIO

_OURS = "lakeward"
_KEPT = 64
"""Clients kept: as many as there are tables with settings of their own, up to this."""


class ArrowStore(PyArrowFileIO):
    """PyIceberg's store through Arrow. What fails is sent again three times, by Arrow, with growing pauses."""

    def _initialize_s3_fs(self, netloc: str | None) -> FileSystem:
        made = super()._initialize_s3_fs(netloc)
        if S3_RETRY_STRATEGY_IMPL in self.properties:  # the one thing that a filesystem does not tell of itself
            return made
        _, (options,) = made.__reduce__()
        tuned = {
            # Nothing is asked before the first byte is sent, so that a file smaller than a part is one request.
            "allow_delayed_open": True,
            # After a file is deleted its folder is made again, as an object of its own, unless it is seen to be there.
            "check_directory_existence_before_creation": True,
        }
        return S3FileSystem(**{**options, **tuned})


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
