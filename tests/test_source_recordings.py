"""Recordings of messages as sources: ROS 1, ROS 2 and MCAP written by their own libraries, read as frames."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags")
pytest.importorskip("mcap")

from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore

import edgevae
from edgevae import stream
from edgevae.errors import FrameError, SourceError
from edgevae.frame import Frame
from edgevae.sinks import open_record
from edgevae.sources import Source, open_source
from edgevae.sources.paired import PairedSource

ROS1, ROS2 = get_typestore(Stores.ROS1_NOETIC), get_typestore(Stores.ROS2_HUMBLE)
START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 33_333_333
COLOR, DEPTH, INFO = "/camera/color/image_raw", "/camera/aligned_depth/image_raw", "/camera/color/camera_info"
KINDS = ("bag", "ros2", "db3", "ros2-mcap", "mcap", "mcap-ros1")
Item = tuple[str, int, Any]  # topic, time of receipt, message by fields: see `image`, `compressed`, `info`


def rgb_of(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (24, 32, 3), np.uint8)


def depth_of(index: int) -> np.ndarray:
    return np.random.default_rng(1000 + index).integers(0, 5000, (24, 32), np.uint16)


def image(topic: str, at_ns: int, pixels: np.ndarray, encoding: str, **changes: Any) -> Item:
    fields = {
        "encoding": encoding,
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "step": pixels.nbytes // pixels.shape[0],
        "is_bigendian": 0,
        "data": np.frombuffer(pixels.tobytes(), np.uint8),
        **changes,
    }
    return topic, at_ns, ("Image", fields)


def compressed(topic: str, at_ns: int, data: bytes, format: str) -> Item:
    return topic, at_ns, ("CompressedImage", {"format": format, "data": np.frombuffer(data, np.uint8)})


def info(topic: str, at_ns: int, fx: float = 30.0, **changes: Any) -> Item:
    k = np.array([fx, 0, 15.5, 0, 31.0, 11.5, 0, 0, 1.0])
    fields = {
        "height": 24,
        "width": 32,
        "distortion_model": "plumb_bob",
        "d": np.array([0.1, -0.2, 0.0, 0.0, 0.3]),
        "k": k,
        **changes,
    }
    return topic, at_ns, ("CameraInfo", fields)


def ros_message(store: Any, stamp_ns: int, kind: str, fields: dict[str, Any], *, ros1: bool) -> Any:
    t = store.types
    time = t["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    sequence = {"seq": 0} if ros1 else {}
    header = t["std_msgs/msg/Header"](stamp=time, frame_id="camera", **sequence)
    if kind == "CameraInfo":
        r, p = np.eye(3).ravel(), np.zeros(12)
        roi = t["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
        matrices = {"d": fields["d"], "k": fields["k"], "r": r, "p": p}
        if ros1:
            matrices = {key.upper(): value for key, value in matrices.items()}
        plain = {key: value for key, value in fields.items() if key not in "dk"}
        fields = {**plain, **matrices, "binning_x": 0, "binning_y": 0, "roi": roi}
    return t[f"sensor_msgs/msg/{kind}"](header=header, **fields)


def write(kind: str, folder: Path, items: list[Item]) -> str:
    """Record ``items`` in the given kind of recording; the URI to open."""
    if kind.startswith("mcap"):
        return write_mcap(folder / "log.mcap", items, ros1=kind.endswith("ros1"))
    ros1 = kind == "bag"
    store = ROS1 if ros1 else ROS2
    plugin = StoragePlugin.MCAP if kind == "ros2-mcap" else StoragePlugin.SQLITE3
    path = folder / ("log.bag" if ros1 else "log")
    with Writer1(path) if ros1 else Writer2(path, version=9, storage_plugin=plugin) as writer:
        connections: dict[str, Any] = {}
        for topic, received_ns, (name, fields) in items:
            message_type = f"sensor_msgs/msg/{name}"
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, message_type, typestore=store)
            message = ros_message(
                store, fields.get("stamp_ns", received_ns), name, without_stamp(fields), ros1=ros1
            )
            serialize = store.serialize_ros1 if ros1 else store.serialize_cdr
            writer.write(connections[topic], received_ns, serialize(message, message_type))
    return str(next(path.glob("*.db3")) if kind == "db3" else path)


def without_stamp(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != "stamp_ns"}


def write_mcap(path: Path, items: list[Item], *, ros1: bool, chunk_size: int = 1 << 20) -> str:
    store = ROS1 if ros1 else ROS2
    with path.open("wb") as file:
        writer = McapWriter(file, chunk_size=chunk_size, compression=CompressionType.ZSTD)
        writer.start("ros1" if ros1 else "ros2")
        channels: dict[str, int] = {}
        for topic, received_ns, (name, fields) in items:
            message_type = f"sensor_msgs/msg/{name}"
            if topic not in channels:
                schema_name = f"sensor_msgs/{name}" if ros1 else message_type
                schema = writer.register_schema(schema_name, "ros1msg" if ros1 else "ros2msg", b"")
                channels[topic] = writer.register_channel(topic, "ros1" if ros1 else "cdr", schema)
            message = ros_message(
                store, fields.get("stamp_ns", received_ns), name, without_stamp(fields), ros1=ros1
            )
            serialize = store.serialize_ros1 if ros1 else store.serialize_cdr
            data = bytes(serialize(message, message_type))
            writer.add_message(channels[topic], received_ns, data, received_ns)
        writer.finish()
    return str(path)


def usual(count: int = 8, *, depth_late_ns: int = 9_000_000) -> list[Item]:
    """Colour, depth registered to it, intrinsics, and the pictures of two infrared cameras."""
    items: list[Item] = []
    for i in range(count):
        at = START_NS + i * PERIOD_NS
        items += [
            info(INFO, at),
            info("/camera/depth/camera_info", at, fx=99.0),
            image(COLOR, at, rgb_of(i), "rgb8"),
            image("/camera/infra1/image_rect_raw", at, rgb_of(i)[..., 0], "mono8"),
            image(DEPTH, at + depth_late_ns, depth_of(i), "16UC1"),
        ]
    return items


def frames(uri: str, **options: Any) -> list[Frame]:
    with open_source(uri, **options) as source:
        return list(source)


def read_all(source: Source) -> tuple[list[Frame], list[str]]:
    """The frames, and what was said of unusable ones."""
    good: list[Frame] = []
    bad: list[str] = []
    while True:
        try:
            frame = source.read()
        except FrameError as error:
            bad.append(str(error))
            continue
        if frame is None:
            return good, bad
        good.append(frame)


@pytest.mark.parametrize("kind", KINDS)
def test_colour_and_depth_in_pairs(tmp_path: Path, kind: str) -> None:
    with open_source(write(kind, tmp_path, usual())) as source:
        assert source.live is False
        got = list(source)
        counts = source.counts()
        assert counts.pop("pair_limit_ms") == pytest.approx(PERIOD_NS / 2e6, abs=1e-3)
        assert counts == {
            "color_unpaired": 0,
            "depth_unpaired": 0,
            "skew_ms_median": 9.0,
            "skew_ms_max": 9.0,
        }
        assert source.read() is None
    assert [frame.index for frame in got] == list(range(8))
    for i, frame in enumerate(got):
        np.testing.assert_array_equal(frame.rgb, rgb_of(i))
        np.testing.assert_array_equal(frame.depth, depth_of(i))
        assert frame.depth_scale == 0.001
        assert frame.timestamp_ns == START_NS + i * PERIOD_NS
        assert frame.clock == "file"
        assert frame.pose is None
        camera = frame.intrinsics
        assert camera is not None
        assert (camera.fx, camera.fy, camera.cx, camera.cy) == (30.0, 31.0, 15.5, 11.5)
        assert camera.distortion == (0.1, -0.2, 0.0, 0.0, 0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_options_choose_topics_and_scale(tmp_path: Path, kind: str) -> None:
    uri = write(kind, tmp_path, usual(4))
    infra = frames(f"{uri}?color=/camera/infra1/image_rect_raw&depth={DEPTH}&depth_scale=0.0002")
    np.testing.assert_array_equal(infra[2].rgb, np.repeat(rgb_of(2)[..., :1], 3, axis=2))
    assert infra[0].depth_scale == 0.0002
    assert frames(uri, depth="none")[3].depth is None
    assert frames(uri, depth=uri)[3].depth is not None


def bgr(i: int) -> np.ndarray:
    return rgb_of(i)[..., ::-1].copy()


def padded(i: int) -> np.ndarray:
    return np.concatenate([rgb_of(i).reshape(24, 96), np.full((24, 16), 7, np.uint8)], axis=1)


def alpha(pixels: np.ndarray) -> np.ndarray:
    return np.dstack([pixels, np.full(pixels.shape[:2], 9, np.uint8)])


def grey(i: int) -> np.ndarray:
    return np.repeat(rgb_of(i)[..., :1], 3, axis=2)


@pytest.mark.parametrize(
    ("encoding", "pixels", "wanted"),
    [
        ("bgr8", bgr, rgb_of),
        ("8UC3", bgr, rgb_of),
        ("rgba8", lambda i: alpha(rgb_of(i)), rgb_of),
        ("bgra8", lambda i: alpha(bgr(i)), rgb_of),
        ("mono8", lambda i: rgb_of(i)[..., 0].copy(), grey),
        ("8UC1", lambda i: rgb_of(i)[..., 0].copy(), grey),
    ],
)
def test_encodings_of_colour(
    tmp_path: Path,
    encoding: str,
    pixels: Callable[[int], np.ndarray],
    wanted: Callable[[int], np.ndarray],
) -> None:
    items = [image("/cam", START_NS + i * PERIOD_NS, pixels(i), encoding) for i in range(3)]
    for kind in ("bag", "mcap"):
        for i, frame in enumerate(frames(write(kind, tmp_path, items))):
            np.testing.assert_array_equal(frame.rgb, wanted(i))
            assert frame.depth is None


@pytest.mark.parametrize(
    ("pattern", "where"),
    [("rggb", (0, 0)), ("bggr", (1, 1)), ("gbrg", (1, 0)), ("grbg", (0, 1))],
)
def test_a_bayer_pattern_begins_where_its_name_says(
    tmp_path: Path, pattern: str, where: tuple[int, int]
) -> None:
    mosaic = np.zeros((24, 32), np.uint8)
    mosaic[where[0] :: 2, where[1] :: 2] = 200  # only the red cells see light
    (frame,) = frames(write("mcap", tmp_path, [image("/cam", START_NS, mosaic, f"bayer_{pattern}8")]))
    assert frame.rgb[12, 16].argmax() == 0
    assert frame.rgb[4:-4, 4:-4, 0].mean() > 150
    assert frame.rgb[4:-4, 4:-4, 2].max() < 60


@pytest.mark.parametrize(("encoding", "order"), [("yuv422", (1, 0)), ("yuv422_yuy2", (0, 1))])
def test_yuv(tmp_path: Path, encoding: str, order: tuple[int, int]) -> None:
    pixels = np.full((24, 32, 2), 128, np.uint8)
    pixels[:, :, order[0]] = 180  # brightness; the other byte is the colour's, here none
    (frame,) = frames(write("mcap", tmp_path, [image("/cam", START_NS, pixels, encoding)]))
    assert np.ptp(frame.rgb) == 0
    assert frame.rgb[0, 0, 0] > 150


def test_padded_rows_big_endian_and_floats(tmp_path: Path) -> None:
    metres = depth_of(0).astype(np.float32) / 1000
    metres[0, 0] = np.nan
    items = [
        image("/rgb", START_NS, padded(0), "rgb8", width=32, step=112),
        image("/depth", START_NS, depth_of(0).astype(">u2"), "16UC1", is_bigendian=1),
        image("/depth_m", START_NS, metres, "32FC1"),
    ]
    uri = write("ros2", tmp_path, items)
    (frame,) = frames(f"{uri}?depth=/depth")
    np.testing.assert_array_equal(frame.rgb, rgb_of(0))
    np.testing.assert_array_equal(frame.depth, depth_of(0))
    (frame,) = frames(f"{uri}?depth=/depth_m")
    np.testing.assert_array_equal(frame.depth, metres)


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


@pytest.mark.parametrize("kind", ["bag", "ros2", "mcap"])
def test_compressed_pictures(tmp_path: Path, kind: str) -> None:
    smooth = cv2.GaussianBlur(rgb_of(1), (0, 0), 3)
    jpeg = cv2.imencode(".jpg", smooth[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    items = [
        compressed("/color/compressed", START_NS, jpeg, "rgb8; jpeg compressed bgr8"),
        compressed("/depth/compressed", START_NS, png(depth_of(1)), "16UC1; png compressed "),
    ]
    (frame,) = frames(write(kind, tmp_path, items))
    assert np.abs(frame.rgb.astype(int) - smooth).max() < 12
    np.testing.assert_array_equal(frame.depth, depth_of(1))


def test_compressed_depth(tmp_path: Path) -> None:
    """The transport of ROS: 12 bytes before a PNG; of floats, 1 / metres in steps."""
    a, b = 100.0, 5.0
    steps = depth_of(2) + 10
    steps[0, 0] = 0
    quantised = np.array([0], np.int32).tobytes() + np.array([a, b], np.float32).tobytes() + png(steps)
    items = [
        compressed("/color", START_NS, png(bgr(2)), "png"),
        compressed(
            "/one/compressedDepth", START_NS, bytes(12) + png(depth_of(2)), "16UC1; compressedDepth png"
        ),
        compressed("/two/compressedDepth", START_NS, quantised, "32FC1; compressedDepth png"),
    ]
    uri = write("ros2", tmp_path, items)
    (frame,) = frames(f"{uri}?depth=/one/compressedDepth")
    np.testing.assert_array_equal(frame.rgb, rgb_of(2))
    np.testing.assert_array_equal(frame.depth, depth_of(2))
    (frame,) = frames(f"{uri}?depth=/two/compressedDepth")
    assert frame.depth is not None
    assert frame.depth[0, 0] == 0
    np.testing.assert_allclose(frame.depth[1:], a / (steps[1:] - b), rtol=1e-5)


def test_a_picture_without_a_stamp_has_its_time_of_receipt(tmp_path: Path) -> None:
    for kind in ("bag", "ros2", "mcap"):
        (frame,) = frames(write(kind, tmp_path, [image("/cam", START_NS, rgb_of(0), "rgb8", stamp_ns=0)]))
        assert frame.timestamp_ns == START_NS


def test_intrinsics_that_do_not_belong_are_left_out(tmp_path: Path) -> None:
    cameras = [
        info("/depth/camera_info", START_NS),
        info("/rgb/camera_info", START_NS, width=640, height=480),
        image("/rgb/image", START_NS, rgb_of(0), "rgb8"),
    ]
    assert frames(write("mcap", tmp_path, cameras))[0].intrinsics is None
    fisheye = info("/rgb/camera_info", START_NS, distortion_model="equidistant")
    assert frames(write("mcap", tmp_path, [fisheye, cameras[2]]))[0].intrinsics is None
    unset = info("/rgb/camera_info", START_NS, k=np.zeros(9))
    assert frames(write("mcap", tmp_path, [unset, cameras[2]]))[0].intrinsics is None


@pytest.mark.parametrize(
    ("items", "options", "sentence"),
    [
        (
            usual(2),
            "?color=/nowhere",
            r"has no pictures on /nowhere; it has /camera/aligned_depth/image_raw \(16",
        ),
        (usual(2), f"?depth={COLOR}", "holds rgb8 pictures, wanted depth"),
        (usual(2), "?colour=/x", r"the option 'colour=/x', wanted color=\.\.\. or depth="),
        (usual(2), "?depth_scale=-1", "depth_scale is '-1', wanted a positive number"),
        (
            [info(INFO, START_NS)],
            "",
            "holds no colour pictures; it has no pictures, only /camera/color/camera_info",
        ),
        (
            [image(DEPTH, START_NS, depth_of(0), "16UC1")],
            "",
            "holds no colour pictures; it has /camera/aligned",
        ),
        (
            [*usual(2)[:4], image(DEPTH, START_NS, depth_of(0)[:12, :16].copy(), "16UC1")],
            "",
            r"is 16x12, colour /camera/color/image_raw is 32x24; wanted the same size",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["bag", "ros2", "mcap"])
def test_wrong_topics(tmp_path: Path, kind: str, items: list[Item], options: str, sentence: str) -> None:
    uri = write(kind, tmp_path, items)
    with pytest.raises(SourceError, match=sentence):
        open_source(uri + options)


@pytest.mark.parametrize("kind", ["bag", "mcap"])
def test_no_depth_asked_of_a_recording_without(tmp_path: Path, kind: str) -> None:
    uri = write(kind, tmp_path, [image("/cam", START_NS, rgb_of(0), "rgb8")])
    with pytest.raises(SourceError, match="carries no depth"):
        open_source(uri, depth=uri)


@pytest.mark.parametrize("kind", ["bag", "ros2", "mcap"])
def test_depth_that_never_meets_colour(tmp_path: Path, kind: str) -> None:
    items = usual(6, depth_late_ns=0)
    shifted = [
        (topic, at, (name, {**fields, "stamp_ns": at + 5 * 10**9}) if topic == DEPTH else (name, fields))
        for topic, at, (name, fields) in items
    ]
    with open_source(write(kind, tmp_path, shifted)) as source:
        with pytest.raises(
            SourceError, match=r"none of the 6 pictures .* within 17 ms \(the nearest is 48.. ms"
        ):
            source.read()
        assert source.counts()["color_unpaired"] == 6


@pytest.mark.parametrize("kind", ["bag", "ros2", "mcap"])
def test_one_damaged_picture_costs_one_frame(tmp_path: Path, kind: str) -> None:
    items = usual(6)
    at = START_NS + 2 * PERIOD_NS
    items[12] = image(COLOR, at, rgb_of(2)[:20].copy(), "rgb8", height=24)
    with open_source(write(kind, tmp_path, items)) as source:
        good, bad = read_all(source)
    assert [frame.timestamp_ns for frame in good] == [START_NS + i * PERIOD_NS for i in (0, 1, 3, 4, 5)]
    assert len(bad) == 1
    assert "/camera/color/image_raw at 1700000000.067 s has 1920 bytes in rows of 96" in bad[0]


def test_a_torn_jpeg_costs_one_frame(tmp_path: Path) -> None:
    jpeg = cv2.imencode(".jpg", rgb_of(0))[1].tobytes()
    items = [compressed("/c", START_NS + i * PERIOD_NS, b"" if i == 1 else jpeg, "jpeg") for i in range(3)]
    with open_source(write("ros2", tmp_path, items)) as source:
        assert source.read() is not None
        with pytest.raises(FrameError, match="is empty"):
            source.read()
        assert source.read() is not None
        assert source.read() is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.9])
def test_a_file_that_was_cut_off(tmp_path: Path, kind: str, keep: float) -> None:
    uri = write(kind, tmp_path, usual(40))
    path = Path(uri)
    if path.is_dir():
        path = next(path for path in path.iterdir() if path.suffix in (".db3", ".mcap"))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    got: list[Frame] = []
    with contextlib.suppress(SourceError, FrameError), open_source(uri) as source:
        while (frame := source.read()) is not None:
            got.append(frame)
    for i, frame in enumerate(got):
        np.testing.assert_array_equal(frame.rgb, rgb_of(i))


def test_an_mcap_without_its_end_plays_what_is_whole(tmp_path: Path) -> None:
    uri = write_mcap(tmp_path / "log.mcap", usual(40), ros1=False, chunk_size=20_000)
    content = Path(uri).read_bytes()
    Path(uri).write_bytes(content[: len(content) // 2])
    with open_source(uri) as source:
        got = list(source)
        assert 10 < len(got) < 25
        assert source.counts()["cut_off"] == 1
    for i, frame in enumerate(got):
        np.testing.assert_array_equal(frame.rgb, rgb_of(i))
        np.testing.assert_array_equal(frame.depth, depth_of(i))


def test_a_damaged_chunk_of_an_mcap_costs_its_frames(tmp_path: Path) -> None:
    uri = write_mcap(tmp_path / "log.mcap", usual(40), ros1=False, chunk_size=20_000)
    content = bytearray(Path(uri).read_bytes())
    content[len(content) // 2 : len(content) // 2 + 50] = bytes(50)
    Path(uri).write_bytes(content)
    with open_source(uri) as source:
        got, errors = read_all(source)
    assert len(errors) == 1
    assert "is damaged before" in errors[0]
    assert 30 < len(got) < 40
    for frame in got:
        i = round((frame.timestamp_ns - START_NS) / PERIOD_NS)
        np.testing.assert_array_equal(frame.rgb, rgb_of(i))
        np.testing.assert_array_equal(frame.depth, depth_of(i))


@pytest.mark.parametrize("name", ["none.bag", "none.mcap", "none.db3"])
def test_a_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match=rf"{name}"):
        open_source(str(tmp_path / name))


@pytest.mark.parametrize("name", ["text.bag", "text.mcap", "text.db3"])
def test_a_foreign_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"nothing of the kind " * 500)
    with pytest.raises(SourceError, match=r"cannot be read as a ROS recording|is not an MCAP file"):
        open_source(str(tmp_path / name))


def test_a_url_that_ends_like_a_recording_is_a_stream() -> None:
    with pytest.raises(SourceError, match=r"http://127\.0\.0\.1:9"):
        open_source("http://127.0.0.1:9/log.mcap", timeout_s=1.0)


@pytest.mark.parametrize("uri", ["synthetic:3?size=64x48", "tum"])
def test_our_own_record_plays_back(tiny_model_path: Path, tmp_path: Path, uri: str, request: Any) -> None:
    """Raw colour gives the same latents to the last bit, JPEG nearly so."""
    if uri == "tum":
        uri = f"tum:{request.getfixturevalue('data_dir') / 'tum_fr1_rpy_100'}"
    model = edgevae.load(tiny_model_path, threads=1)
    raw, jpeg = tmp_path / "raw.mcap", tmp_path / "jpeg.mcap"
    for path, pictures in ((raw, ["color-raw", "depth"]), (jpeg, None)):
        stream.run(open_source(uri), model, [open_record(path, pictures=pictures)], max_frames=12)
    with open_source(uri) as original:
        for played, like in zip(frames(str(raw)), frames(str(jpeg)), strict=True):
            frame = original.read()
            assert frame is not None
            np.testing.assert_array_equal(played.rgb, frame.rgb)
            np.testing.assert_array_equal(played.depth, frame.depth)
            assert played.timestamp_ns == frame.timestamp_ns
            assert played.intrinsics == frame.intrinsics
            assert played.depth_scale == pytest.approx(frame.depth_scale)
            if frame.pose is not None:
                np.testing.assert_allclose(played.pose, frame.pose, rtol=0, atol=1e-12)
            wanted = model.encode_frame(frame).latent
            np.testing.assert_array_equal(model.encode_frame(played).latent, wanted)
            near = model.encode_frame(like).latent
            assert near @ wanted > 0.99 * np.linalg.norm(near) * np.linalg.norm(wanted)


def test_our_own_record_of_depth_alone_goes_beside_a_source_of_colour(
    tiny_model_path: Path, tmp_path: Path
) -> None:
    uri, path = "synthetic:3?size=64x48&frames=12", tmp_path / "depth.mcap"
    model = edgevae.load(tiny_model_path, threads=1)
    stream.run(open_source(uri), model, [open_record(path, pictures=["depth"])])
    with pytest.raises(SourceError, match="holds no colour pictures"):
        open_source(str(path))
    with open_source(uri) as original:
        for frame, wanted in zip(frames(uri, depth=str(path)), original, strict=True):
            np.testing.assert_array_equal(frame.rgb, wanted.rgb)
            np.testing.assert_allclose(frame.depth_m(), wanted.depth_m(), rtol=0, atol=1e-3)
            assert frame.timestamp_ns == wanted.timestamp_ns


@pytest.mark.parametrize("kind", KINDS)
def test_depth_for_another_source_is_as_its_camera_saw_it(tmp_path: Path, kind: str) -> None:
    """Of another size than the colour beside it, which is not looked at; with stamps of its own."""
    half, own = [], "/camera/depth/camera_info"
    for i in range(6):
        at = START_NS + i * PERIOD_NS
        half += [
            image(COLOR, at, rgb_of(i), "rgb8"),
            info(own, at, fx=15.0, width=16, height=12),
            image("/camera/depth/image", at + 2_000_000, depth_of(i)[::2, ::2], "16UC1"),
        ]
    recording = write(kind, tmp_path, half)
    with pytest.raises(SourceError, match="wanted the same size"):
        open_source(recording)
    with open_source("synthetic?size=64x48&frames=6", depth=recording) as paired:
        assert isinstance(paired, PairedSource)
        depth = list(paired._sources[1])
    assert [frame.timestamp_ns for frame in depth] == [START_NS + i * PERIOD_NS + 2_000_000 for i in range(6)]
    for i, frame in enumerate(depth):
        np.testing.assert_array_equal(frame.depth, depth_of(i)[::2, ::2])
        assert frame.rgb.shape == (12, 16, 3)
        assert frame.intrinsics is not None
        assert (frame.intrinsics.fx, frame.intrinsics.width) == (15.0, 16)


def test_a_record_of_latents_alone_is_no_source(tiny_model_path: Path, tmp_path: Path) -> None:
    model = edgevae.load(tiny_model_path, threads=1)
    path = tmp_path / "z.mcap"
    stream.run(open_source("synthetic:3?size=64x48"), model, [open_record(path)], max_frames=3)
    with pytest.raises(SourceError, match=r"no pictures, only .*/latent \(edgevae\.Latent\)"):
        open_source(str(path))


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_may_be_closed_at_any_time(tmp_path: Path, kind: str) -> None:
    source = open_source(write(kind, tmp_path, usual()))
    assert source.read() is not None
    source.close()
    source.close()
    assert source.read() is None
