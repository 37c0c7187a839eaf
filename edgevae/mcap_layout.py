"""What a record of edgevae in an MCAP file is made of: its topics, its latent message, its metadata.

docs/records.md says the same for readers that are not Python.
"""

from __future__ import annotations

from typing import Any

FORMAT_VERSION = 1
METADATA = "edgevae"

LATENT = "/latent"
COLOR = "/camera/color"
DEPTH = "/camera/depth"
CALIBRATION = "/camera/calibration"
POSE = "/camera/pose"
DECODED_COLOR = "/reconstruction/color"
DECODED_DEPTH = "/reconstruction/depth"
DECODED_CALIBRATION = "/reconstruction/calibration"
LOG = "/log"

LATENT_SCHEMA = "edgevae.Latent"
_LATENT_FIELDS = (  # number, type and name; a number stands for its field for ever
    (1, "fixed64", "frame"),
    (2, "sfixed64", "timestamp_ns"),
    (3, "string", "clock"),
    (4, "sfixed64", "arrival_ns"),
    (5, "repeated float", "latent"),
    (6, "repeated double", "pose"),
    (7, "float", "depth_valid"),
    (8, "string", "model_sha256"),
)


def latent_class() -> Any:
    """The protobuf class of ``edgevae.Latent``, made without a protobuf compiler.

    Raises:
        ImportError: protobuf is not installed.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    pool = (
        descriptor_pool.DescriptorPool()
    )  # of its own: another copy of edgevae may have filled the common one
    file = descriptor_pb2.FileDescriptorProto(name="edgevae/latent.proto", package="edgevae", syntax="proto3")
    message = file.message_type.add(name="Latent")
    kinds: Any = descriptor_pb2.FieldDescriptorProto
    for number, text, name in _LATENT_FIELDS:
        repeated, _, kind = text.rpartition(" ")
        message.field.add(
            name=name,
            number=number,
            type=kinds.Type.Value(f"TYPE_{kind.upper()}"),
            label=kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL,
        )
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(LATENT_SCHEMA))
