"""Reading an MCAP file record by record, in the order it was written, as far as it is whole.

The library's own readers want the index at the end of the file, which a killed writer never wrote. Its
stream of records needs none: every chunk that is there as a whole can be read, and its checksum says so.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import EdgevaeError

if TYPE_CHECKING:
    from mcap.records import Attachment, Channel, Message, Metadata, Schema

MAGIC = b"\x89MCAP0\r\n"


def need_mcap(error: ImportError) -> EdgevaeError:
    """The sentence for a machine without the MCAP libraries."""
    return EdgevaeError(f'MCAP files need {error.name}, which is not installed; pip install "edgevae[mcap]".')


class McapScan:
    """The messages, metadata and attachments of ``path``; iterate over it once.

    Attributes:
        schemas, channels: those met so far, by their ids.
        profile: what the file says it is for.
        complete: whether the file ended as its writer meant it to; known after the last record.
        damaged: chunks left out because their content is not what was written.
        chunks: chunks read.

    Raises:
        EdgevaeError: the library is not installed.
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.schemas: dict[int, Schema] = {}
        self.channels: dict[int, Channel] = {}
        self.profile = ""
        self.complete = False
        self.damaged = 0
        self.chunks = 0

    def __iter__(self) -> Iterator[Message | Metadata | Attachment]:
        try:
            from mcap.exceptions import McapError
            from mcap.records import Attachment, Channel, Chunk, Header, Message, Metadata, Schema
            from mcap.stream_reader import StreamReader, breakup_chunk
        except ImportError as error:
            raise need_mcap(error) from error

        with self.path.open("rb") as file:
            # No record is longer than its file; a damaged length would have the library ask for gigabytes.
            limit = self.path.stat().st_size
            records = iter(StreamReader(file, emit_chunks=True, record_size_limit=limit).records)
            while True:
                try:
                    record = next(records)
                except StopIteration:
                    self.complete = True
                    return
                except (McapError, struct.error, ValueError):  # cut off, or not written whole
                    return
                inner = [record]
                if isinstance(record, Chunk):
                    try:
                        inner = breakup_chunk(record, validate_crc=True)
                    except Exception:  # each kind of compression fails in its own way
                        self.damaged += 1
                        continue
                    self.chunks += 1
                for item in inner:
                    if isinstance(item, Schema):
                        self.schemas[item.id] = item
                    elif isinstance(item, Channel):
                        self.channels[item.id] = item
                    elif isinstance(item, Message):
                        if item.channel_id in self.channels:
                            yield item
                    elif isinstance(item, Header):
                        self.profile = item.profile
                    elif isinstance(item, Metadata | Attachment):
                        yield item

    def topic(self, message: Message) -> str:
        """The topic of a message of this file."""
        return self.channels[message.channel_id].topic

    def schema(self, message: Message) -> str:
        """The schema's name of a message of this file; empty where its channel has none."""
        schema = self.schemas.get(self.channels[message.channel_id].schema_id)
        return "" if schema is None else schema.name


def copy_mcap(scan: McapScan, target: Path, *, keep: Callable[[Message], bool]) -> None:
    """Write what ``scan`` reads, of the messages only those that ``keep`` takes, as a whole file.

    Raises:
        EdgevaeError: the library is not installed.
        OSError: a file cannot be read or written.
    """
    try:
        from mcap.records import Attachment, Metadata
        from mcap.writer import CompressionType, Writer
    except ImportError as error:
        raise need_mcap(error) from error

    schemas: dict[int, int] = {0: 0}
    channels: dict[int, int] = {}
    with target.open("wb") as file:
        writer: Any = Writer(file, chunk_size=4 << 20, compression=CompressionType.LZ4)
        started = False
        for record in scan:
            if not started:
                writer.start(profile=scan.profile)
                started = True
            if isinstance(record, Metadata):
                writer.add_metadata(record.name, record.metadata)
            elif isinstance(record, Attachment):
                writer.add_attachment(
                    record.create_time, record.log_time, record.name, record.media_type, record.data
                )
            elif keep(record):
                channel = scan.channels[record.channel_id]
                if channel.id not in channels:
                    schema = scan.schemas.get(channel.schema_id)
                    if schema is not None and schema.id not in schemas:
                        schemas[schema.id] = writer.register_schema(schema.name, schema.encoding, schema.data)
                    channels[channel.id] = writer.register_channel(
                        channel.topic,
                        channel.message_encoding,
                        schemas.get(channel.schema_id, 0),
                        channel.metadata,
                    )
                writer.add_message(
                    channels[channel.id], record.log_time, record.data, record.publish_time, record.sequence
                )
        if started:
            writer.finish()
