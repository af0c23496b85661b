"""Manifest entries in large Avro blocks, each file described once: most entries of a manifest were in another before.

PyIceberg encodes every entry anew, a value at a time, and in a block of its own. What an entry says of its file never
changes, and is by far the most of it: its bytes are remembered.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from io import BytesIO
from types import TracebackType

from pyiceberg.avro.encoder import BinaryEncoder
from pyiceberg.avro.file import AvroOutputFile
from pyiceberg.avro.writer import StructWriter, Writer
from pyiceberg.io import OutputFile
from pyiceberg.manifest import DataFile, ManifestEntry, ManifestWriter

_MOST_BYTES = 16 << 20
_BLOCK_BYTES = 1 << 20


@dataclass(slots=True)
class Described:
    """The bytes of files, as entries have them. One for each way of writing them: partitions differ by spec."""

    _known: OrderedDict[tuple[int, str], bytes] = field(default_factory=OrderedDict)
    _size: int = 0

    def of(self, file: DataFile, writer: Writer, way: int) -> bytes:
        """The bytes of ``file`` as ``writer`` writes it; ``way`` tells writers apart."""
        key = way, file.file_path
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
            return found
        stream = BytesIO()
        writer.write(BinaryEncoder(stream), file)
        made = self._known[key] = stream.getvalue()
        self._size += len(made)
        while self._size > _MOST_BYTES:
            _, oldest = self._known.popitem(last=False)
            self._size -= len(oldest)
        return made


def in_blocks(manifest: ManifestWriter, described: Described) -> None:
    """Let ``manifest``, whose file was begun, write many entries at a time."""
    manifest._writer = _Block(manifest._writer, described)  # type: ignore[assignment]  # noqa: SLF001 -- no other way in


class _Block:
    """Stands in for PyIceberg's writer of an Avro file."""

    def __init__(self, inner: AvroOutputFile[ManifestEntry], described: Described) -> None:
        self._inner = inner
        self._described = described
        self._content = BytesIO()
        self._encoder = BinaryEncoder(self._content)
        self._entries = 0
        self._way = hash(str(inner.file_schema))
        assert isinstance(inner.writer, StructWriter)  # noqa: S101 -- an entry is a record
        *self._numbers, (_, self._of_file) = inner.writer.field_writers

    @property
    def output_file(self) -> OutputFile:
        return self._inner.output_file

    def tell(self) -> int:
        return self._inner.tell()

    def write_block(self, entries: list[ManifestEntry]) -> None:
        for entry in entries:
            for at, writer in self._numbers:
                writer.write(self._encoder, entry[at] if at is not None else None)
            self._encoder.write(self._described.of(entry.data_file, self._of_file, self._way))
            self._entries += 1
            if self._content.tell() >= _BLOCK_BYTES:
                self._flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._entries:
            self._flush()
        self._inner.__exit__(kind, error, trace)

    def _flush(self) -> None:
        content, codec = self._content.getvalue(), self._inner.compression_codec()
        if codec is not None:
            content, _ = codec.compress(content)
        encoder = self._inner.encoder
        encoder.write_int(self._entries)
        encoder.write_int(len(content))
        encoder.write(content)
        encoder.write(self._inner.sync_bytes)
        self._content = BytesIO()
        self._encoder = BinaryEncoder(self._content)
        self._entries = 0
