"""What stands where in the rendered street: road, buildings, vehicles, trees, lamps, people.

Everything is a pure function of (seed, place) or (seed, vehicle, time), so any frame can be drawn
without the ones before it. World frame: metres, x right, y down, z along the street, ground at y = 0.
The road's centre line is x = centre(z); a place beside it is given by z and by ``lateral``, the
distance to the right of the centre line.

Solids are convex: the points p with normal·p <= offset for each of their planes. Each plane carries
one face: colour, material and the axis along which the material is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

BLOCK_M = 72.0  # the street is laid out in blocks of this length
LANE_M = 3.3
CURB_M = 5.7  # lanes, then a parking strip, then the pavement
FACADE_M = 10.0  # front of the buildings
CROSSING_M = 13.0  # gap between two blocks where a side street joins

MAX_PLANES = 10
FACE_COLUMNS = 14  # colour r g b, material, axis x z, axis offset, parameters 0..6


class Material(IntEnum):
    """How a face is painted."""

    GROUND = 0
    PLAIN = 1
    FACADE = 2
    LEAVES = 3
    CAR_FRONT = 4
    CAR_REAR = 5
    CAR_SIDE = 6
    CAR_GLASS = 7
    WHEEL = 8
    ROOF = 9
    BUS_SIDE = 10
    SKIN = 11


def linear(*rgb: int) -> tuple[float, float, float]:
    """An 8-bit colour as linear reflectance (gamma 2, which the renderer undoes with a square root)."""
    r, g, b = ((c / 255.0) ** 2 for c in rgb)
    return r, g, b


Color = tuple[float, float, float]


@dataclass(frozen=True)
class Solids:
    """Convex solids, stacked: the renderer transforms all of them at once.

    Attributes:
        planes: (P, MAX_PLANES, 4) normal and offset; unused rows are (0, 0, 0, 1), true everywhere.
        faces: (P, MAX_PLANES, FACE_COLUMNS).
        corners: (P, 8, 3) of a box around each solid.
        reach_m: (P,) distance beyond which a solid is not drawn.
    """

    planes: F64
    faces: F64
    corners: F64
    reach_m: F64

    def moved(self, x: float, z: float, heading: float) -> Solids:
        """The solids turned by ``heading`` about the vertical, then moved to (x, z)."""
        c, s = math.cos(heading), math.sin(heading)
        turn = np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
        place = np.array([x, 0.0, z])
        planes = self.planes.copy()
        planes[..., :3] = self.planes[..., :3] @ turn.T
        planes[..., 3] += planes[..., :3] @ place
        faces = self.faces.copy()
        axis = (
            np.stack([self.faces[..., 4], np.zeros_like(self.faces[..., 4]), self.faces[..., 5]], -1) @ turn.T
        )
        faces[..., 4], faces[..., 5] = axis[..., 0], axis[..., 2]
        faces[..., 6] += axis @ place
        return Solids(planes, faces, self.corners @ turn.T + place, self.reach_m)


@dataclass(frozen=True)
class Blobs:
    """Ellipsoids: crowns of trees and heads.

    Attributes:
        shape: (B, 8) centre x y z, radius x y z, 1 for leaves or 0, distance beyond which it is not drawn.
        color: (B, 3).
    """

    shape: F64
    color: F64


@dataclass(frozen=True)
class Scene:
    """All that may be visible in one frame."""

    solids: Solids
    blobs: Blobs
    footprints: F64  # (N, 6) dark ground under things: x, z, heading, half width, half length, strength


class SolidsBuilder:
    """Collects convex solids given in a local frame (x right, h up, z forward)."""

    def __init__(self) -> None:
        self._planes: list[F64] = []
        self._faces: list[F64] = []
        self._corners: list[F64] = []
        self._reach: list[float] = []

    def add(
        self,
        planes: Sequence[tuple[float, float, float, float]],
        faces: Sequence[Sequence[float]],
        bounds: tuple[float, float, float, float, float, float],
        reach_m: float,
    ) -> None:
        """One solid: planes (normal x, h, z, offset), a face per plane, bounds x0 x1 h0 h1 z0 z1."""
        plane_rows = np.zeros((MAX_PLANES, 4))
        plane_rows[:, 3] = 1.0
        face_rows = np.zeros((MAX_PLANES, FACE_COLUMNS))
        for k, ((nx, nh, nz, offset), face) in enumerate(zip(planes, faces, strict=True)):
            length = math.sqrt(nx * nx + nh * nh + nz * nz)
            plane_rows[k] = nx / length, -nh / length, nz / length, offset / length
            face_rows[k, : len(face)] = face
        x0, x1, h0, h1, z0, z1 = bounds
        self._planes.append(plane_rows)
        self._faces.append(face_rows)
        self._corners.append(np.array([(x, -h, z) for x in (x0, x1) for h in (h0, h1) for z in (z0, z1)]))
        self._reach.append(reach_m)

    def box(
        self,
        bounds: tuple[float, float, float, float, float, float],
        color: Color,
        reach_m: float = 120.0,
    ) -> None:
        """A plain box."""
        x0, x1, h0, h1, z0, z1 = bounds
        planes = [
            (1, 0, 0, x1),
            (-1, 0, 0, -x0),
            (0, 1, 0, h1),
            (0, -1, 0, -h0),
            (0, 0, 1, z1),
            (0, 0, -1, -z0),
        ]
        self.add(planes, [(*color, Material.PLAIN)] * 6, bounds, reach_m)

    def extruded(
        self,
        profile: Sequence[tuple[float, float]],
        edge_faces: Sequence[Sequence[float]],
        side_face: Sequence[float],
        half_width: float,
        inset: float = 0.0,
        reach_m: float = 120.0,
    ) -> None:
        """A convex profile of (z, h) points between two sides that lean in by ``inset``.

        The points run from -z to +z along the bottom and back along the top.
        """
        planes: list[tuple[float, float, float, float]] = []
        for (z0, h0), (z1, h1) in zip(profile, [*profile[1:], profile[0]], strict=True):
            nz, nh = h1 - h0, z0 - z1
            planes.append((0.0, nh, nz, nz * z0 + nh * h0))
        z = [p[0] for p in profile]
        h = [p[1] for p in profile]
        lean = inset / (max(h) - min(h))
        for sign in (1.0, -1.0):
            planes.append((sign, lean, 0.0, half_width + lean * min(h)))
        bounds = (-half_width, half_width, min(h), max(h), min(z), max(z))
        self.add(planes, [*edge_faces, side_face, side_face], bounds, reach_m)

    def build(self) -> Solids:
        if not self._planes:
            return Solids(
                np.zeros((0, MAX_PLANES, 4)),
                np.zeros((0, MAX_PLANES, FACE_COLUMNS)),
                np.zeros((0, 8, 3)),
                np.zeros(0),
            )
        return Solids(
            np.stack(self._planes), np.stack(self._faces), np.stack(self._corners), np.array(self._reach)
        )


def joined(parts: Sequence[Solids]) -> Solids:
    return Solids(
        np.concatenate([p.planes for p in parts]),
        np.concatenate([p.faces for p in parts]),
        np.concatenate([p.corners for p in parts]),
        np.concatenate([p.reach_m for p in parts]),
    )


_PAINTS: tuple[Color, ...] = (
    linear(225, 226, 224),
    linear(196, 199, 203),
    linear(128, 132, 138),
    linear(46, 48, 54),
    linear(34, 62, 118),
    linear(160, 30, 32),
    linear(38, 80, 66),
    linear(206, 186, 150),
    linear(96, 26, 36),
    linear(70, 112, 150),
)

_BUS_PAINTS: tuple[Color, ...] = (linear(206, 60, 44), linear(228, 180, 50), linear(60, 110, 170))


# Profiles of cars as (z, h) points in metres: the body from the rear bumper round, then what is glazed.
_CARS: dict[str, tuple[list[tuple[float, float]], list[tuple[float, float]]]] = {
    "sedan": (
        [(-2.05, 0.2), (2.0, 0.2), (2.12, 0.5), (2.0, 0.72), (0.95, 0.93), (-1.95, 0.95), (-2.12, 0.6)],
        [(-1.72, 0.9), (1.15, 0.9), (0.3, 1.43), (-1.05, 1.44)],
    ),
    "hatch": (
        [(-1.78, 0.2), (1.72, 0.2), (1.84, 0.5), (1.74, 0.76), (0.85, 0.97), (-1.75, 1.0), (-1.88, 0.62)],
        [(-1.78, 0.94), (1.1, 0.94), (0.3, 1.52), (-1.42, 1.53)],
    ),
    "van": (
        [(-2.35, 0.22), (2.3, 0.22), (2.42, 0.55), (2.28, 0.86), (1.75, 1.1), (-2.3, 1.2), (-2.42, 0.7)],
        [(-2.34, 1.0), (1.95, 1.0), (1.2, 1.95), (-2.25, 2.02)],
    ),
}

_ACROSS, _ALONG = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)  # axis of a face: local x, local z; from the middle


@lru_cache(maxsize=128)
def vehicle(kind: str, paint: int) -> Solids:
    """A vehicle centred on the origin, nose towards +z. Kinds: sedan, hatch, van, bus."""
    build = SolidsBuilder()
    if kind == "bus":
        half, long, top, radius = 1.25, 5.6, 3.05, 0.48
        axles = (-3.4, 3.3)
        color = _BUS_PAINTS[paint % len(_BUS_PAINTS)]
        plain = (*color, Material.PLAIN)
        front = (*color, Material.CAR_FRONT, *_ACROSS, half, 1.2)
        rear = (*color, Material.CAR_REAR, *_ACROSS, half, 1.2)
        side = (*color, Material.BUS_SIDE, *_ALONG, long)
        profile = [
            (-long, 0.3),
            (long, 0.3),
            (long, 2.9),
            (long - 0.2, top),
            (-long + 0.2, top),
            (-long, 2.9),
        ]
        build.extruded(profile, [plain, front, plain, plain, plain, rear], side, half, 0.05)
    else:
        half, radius = (0.92 if kind == "van" else 0.88), 0.33
        body, cabin = _CARS[kind]
        axle = body[1][0] - 0.72
        axles = (-axle, axle)
        color = _PAINTS[paint % len(_PAINTS)]
        plain = (*color, Material.PLAIN)
        front = (*color, Material.CAR_FRONT, *_ACROSS, half, 1.0)
        rear = (*color, Material.CAR_REAR, *_ACROSS, half, 1.0)
        doors = (*color, Material.CAR_SIDE, *_ALONG, radius + 0.01, axle)
        build.extruded(body, [plain, front, front, plain, plain, rear, rear], doors, half, 0.06)
        sill, head = cabin[0][1] + 0.1, cabin[2][1] - 0.1
        screen = (*color, Material.CAR_GLASS, *_ACROSS, half - 0.22, sill, head, 9.0)
        pillar = 0.55 if kind == "van" else -0.3
        window = (*color, Material.CAR_GLASS, *_ALONG, abs(cabin[3][0]) + 0.22, sill, head, pillar)
        build.extruded(cabin, [plain, screen, plain, screen], window, half - 0.03, 0.17)
    rubber = linear(34, 34, 36)
    for z in axles:  # one drum across the vehicle for both wheels: its middle is hidden
        angles = [2.0 * math.pi * (k + 0.5) / 8 for k in range(8)]
        ring = [(z + radius * math.cos(a), radius + radius * math.sin(a)) for a in angles]
        hub = (*rubber, Material.WHEEL, 0.0, 1.0, z, radius)
        build.extruded(ring, [(*rubber, Material.PLAIN)] * 8, hub, half + 0.01, reach_m=70.0)
    return build.build()


_WALLS: tuple[Color, ...] = (
    linear(196, 178, 150),
    linear(214, 202, 180),
    linear(170, 104, 80),
    linear(150, 88, 70),
    linear(186, 186, 182),
    linear(206, 170, 128),
    linear(168, 172, 164),
    linear(222, 212, 196),
    linear(178, 148, 126),
    linear(150, 160, 172),
    linear(206, 190, 132),
    linear(186, 140, 120),
)
_ROOFS: tuple[Color, ...] = (linear(124, 70, 54), linear(86, 82, 84), linear(110, 90, 76), linear(70, 74, 84))


def _add_building(
    build: SolidsBuilder, rng: np.random.Generator, side: float, front: float, width: float, height: float
) -> None:
    """A building in the local frame of the road at its middle: facade at ``side * front``, along z."""
    depth = float(rng.uniform(9.0, 14.0))
    wall = np.array(_WALLS[int(rng.integers(len(_WALLS)))]) * rng.uniform(0.85, 1.1)
    floor_m = float(rng.uniform(2.9, 3.5))
    windows = max(1, round(width / float(rng.uniform(2.3, 3.4))))
    style = float(rng.integers(4))  # 0 plain, 1 framed, 2 banded, 3 office bands
    shop = float(rng.random() < 0.6)
    base = 3.9 if shop else floor_m + 0.4
    floors = max(1, round((height - base) / floor_m))
    height = base + floors * floor_m + 0.7
    paint = float(rng.integers(1, 4096))
    half = width / 2
    near, far = side * front, side * (front + depth)
    x0, x1 = min(near, far), max(near, far)
    color = (float(wall[0]), float(wall[1]), float(wall[2]))
    facade = (
        *color,
        Material.FACADE,
        0.0,
        1.0,
        -half,
        width / windows,
        floor_m,
        base,
        height,
        style,
        shop,
        paint,
    )
    gable = (*color, Material.FACADE, 1.0, 0.0, x0, depth / 3, floor_m, base, height, 0.0, 0.0, paint)
    roof = (*_ROOFS[int(rng.integers(len(_ROOFS)))], Material.ROOF, 0.0, 1.0, 0.0)
    planes: list[tuple[float, float, float, float]] = [
        (-side, 0.0, 0.0, -front),
        (side, 0.0, 0.0, front + depth),
        (0.0, 0.0, 1.0, half),
        (0.0, 0.0, -1.0, half),
    ]
    faces: list[Sequence[float]] = [facade, facade, gable, gable]
    top = height
    if height < 15.0 and rng.random() < 0.65:  # a pitched roof, ridge along the street
        pitch = float(rng.uniform(0.5, 0.8))
        planes += [
            (-side, 1 / pitch, 0.0, height / pitch - front),
            (side, 1 / pitch, 0.0, height / pitch + front + depth),
        ]
        faces += [roof, roof]
        top = height + pitch * depth / 2
    else:
        planes.append((0.0, 1.0, 0.0, height))
        faces.append((*color, Material.PLAIN))
    build.add(planes, faces, (x0, x1, 0.0, top, -half, half), 260.0)


class Street:
    """The street of one seed. Blocks are laid out on demand and kept while they are near."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        rng = self._rng(0, 0)
        self._amplitude = rng.uniform([7.0, 2.0], [13.0, 4.0]) * rng.choice([-1.0, 1.0], 2)
        self._wave = 2.0 * np.pi / rng.uniform([330.0, 150.0], [460.0, 200.0])
        self._phase = rng.uniform(0.0, 2.0 * np.pi, 2)
        self.height_m = float(rng.uniform(9.0, 15.0))  # typical height of a building
        self.speed_m_s = float(rng.uniform(7.5, 10.0))
        self.oncoming_m_s = float(rng.uniform(8.0, 12.0))
        self.start_m = float(rng.uniform(14.0, 58.0))
        self.sun_azimuth = float(rng.choice([-1.0, 1.0]) * rng.uniform(0.6, 1.25))  # 0 = ahead, + = right
        self.sun_elevation = float(rng.uniform(0.6, 0.95))
        self.sky_tone = float(rng.random())
        self._lead = rng.uniform(0.0, 2.0 * np.pi, 3)
        self._lead_gap = np.cumsum(rng.uniform([13.0, 18.0, 22.0], [20.0, 38.0, 50.0]))
        self._block = lru_cache(maxsize=16)(self._lay_block)
        self._window = lru_cache(maxsize=2)(self._join_blocks)
        self._oncoming = lru_cache(maxsize=64)(self._oncoming_slot)

    def _rng(self, kind: int, place: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, kind, place + (1 << 40)])

    # The road -----------------------------------------------------------------------------------

    def center(self, z: npt.ArrayLike) -> F64:
        """x of the centre line at z, metres."""
        phase = self._wave * np.asarray(z, dtype=np.float64)[..., None] + self._phase
        return np.asarray((self._amplitude * np.sin(phase)).sum(-1))

    def slope(self, z: npt.ArrayLike) -> F64:
        """dx/dz of the centre line."""
        phase = self._wave * np.asarray(z, dtype=np.float64)[..., None] + self._phase
        return np.asarray((self._amplitude * self._wave * np.cos(phase)).sum(-1))

    def place(self, z: float, lateral: float) -> tuple[float, float, float]:
        """World x, z and heading (radians, 0 = +z, positive to the right) beside the road at z."""
        slope = float(self.slope(z))
        norm = math.sqrt(1.0 + slope * slope)
        return (
            float(self.center(z)) + lateral / norm,
            z - lateral * slope / norm,
            math.atan(slope),
        )

    def is_crossing(self, block: int) -> bool:
        """Whether a side street joins where ``block`` begins."""
        return bool(self._rng(1, block).random() < 0.5)

    def is_park(self, block: int, side: int) -> bool:
        """Whether the block has trees and grass instead of buildings on this side (0 left, 1 right)."""
        return bool(self._rng(2, 2 * block + side).random() < 0.16)

    # Things that stand still --------------------------------------------------------------------

    def _lay_block(self, block: int) -> tuple[Solids, F64, F64, F64, F64]:
        rng = self._rng(3, block)
        z0 = block * BLOCK_M
        start = z0 + (CROSSING_M / 2 if self.is_crossing(block) else 0.0)
        end = z0 + BLOCK_M - (CROSSING_M / 2 if self.is_crossing(block + 1) else 0.0)
        parts: list[Solids] = []
        blobs: list[tuple[float, ...]] = []
        colors: list[Color] = []
        footprints: list[tuple[float, ...]] = []
        skyline = np.zeros((2, int(BLOCK_M * 2)))

        def put(solids: Solids, z: float, lateral: float, turn: float = 0.0) -> tuple[float, float, float]:
            x, zz, heading = self.place(z, lateral)
            parts.append(solids.moved(x, zz, heading + turn))
            return x, zz, heading + turn

        def tree(z: float, lateral: float, size: float) -> None:
            trunk = SolidsBuilder()
            tall = 2.2 * size + 0.6
            trunk.box((-0.13, 0.13, 0.0, tall + 0.8, -0.13, 0.13), linear(88, 72, 58), 90.0)
            x, zz, _ = put(trunk.build(), z, lateral)
            green = np.array(linear(84, 116, 52)) * rng.uniform(0.75, 1.3) * rng.uniform(0.85, 1.15, 3)
            for _ in range(3):
                dx, dz = rng.uniform(-0.7, 0.7, 2) * size
                dh = rng.uniform(0.3, 1.5) * size
                r = rng.uniform(1.1, 1.6, 3) * size
                blobs.append((x + dx, -(tall + dh), zz + dz, r[0], r[1], r[2], 1.0, 150.0))
                colors.append((float(green[0]), float(green[1]), float(green[2])))
            footprints.append((x, zz, 0.0, 1.3 * size, 1.3 * size, 0.35))

        for side, sign in ((0, -1.0), (1, 1.0)):
            park = self.is_park(block, side)
            z = start
            while z < end - 1.0:
                width = float(rng.uniform(9.0, 19.0))
                if end - z - width < 8.0:
                    width = end - z
                height = self.height_m * float(rng.uniform(0.62, 1.5))
                front = FACADE_M + (float(rng.uniform(0.0, 0.5)) if rng.random() < 0.7 else 1.5)
                if park:
                    front, height = front + 26.0, height * 1.2
                build = SolidsBuilder()
                _add_building(build, rng, sign, front, width, height)
                solids = build.build()
                put(solids, z + width / 2, 0.0)
                if not park:
                    lo, hi = (round((edge - z0) * 2) for edge in (z, z + width))
                    skyline[side, max(lo, 0) : hi] = height
                z += width
            if not park:  # a second row, seen over the roofs and through the gaps
                build = SolidsBuilder()
                z = z0 + float(rng.uniform(6.0, 60.0))
                _add_building(
                    build,
                    rng,
                    sign,
                    31.0,
                    float(rng.uniform(12, 20)),
                    self.height_m * float(rng.uniform(1.2, 2.2)),
                )
                put(build.build(), z, 0.0)
            # parked vehicles
            z = start + 5.0 + float(rng.uniform(0.0, 3.0))
            while z < end - 6.0:
                if rng.random() < 0.62:
                    kind = str(rng.choice(["sedan", "hatch", "van"], p=[0.45, 0.38, 0.17]))
                    lateral = sign * (CURB_M - 1.12 + float(rng.normal(0.0, 0.06)))
                    turn = float(rng.normal(0.0, 0.012)) + (math.pi if side == 0 else 0.0)
                    x, zz, heading = put(vehicle(kind, int(rng.integers(64))), z, lateral, turn)
                    footprints.append((x, zz, heading, 0.85, 2.1, 0.8))
                z += float(rng.uniform(5.6, 6.6))
            # trees and lamps along the curb
            z = start + float(rng.uniform(3.0, 9.0))
            lamp_next = bool(rng.random() < 0.5)
            while z < end - 2.0:
                if lamp_next:
                    build = SolidsBuilder()
                    metal = linear(70, 74, 78)
                    build.box((-0.07, 0.07, 0.0, 6.2, -0.07, 0.07), metal, 100.0)
                    build.box(
                        (min(0.0, -sign * 1.5), max(0.0, -sign * 1.5), 6.1, 6.2, -0.05, 0.05), metal, 80.0
                    )
                    build.box(
                        (-sign * 1.5 - 0.3, -sign * 1.5 + 0.3, 6.0, 6.18, -0.12, 0.12),
                        linear(220, 220, 212),
                        100.0,
                    )
                    put(build.build(), z, sign * (CURB_M + 0.7))
                elif rng.random() < 0.8:
                    tree(z, sign * (CURB_M + 1.2), float(rng.uniform(0.75, 1.1)))
                lamp_next = not lamp_next
                z += float(rng.uniform(8.0, 12.0))
            if park:
                for _ in range(9):
                    tree(
                        float(rng.uniform(start + 2, end - 2)),
                        sign * float(rng.uniform(13.0, 31.0)),
                        float(rng.uniform(0.9, 1.7)),
                    )
            # people
            for _ in range(int(rng.integers(0, 4))):
                z = float(rng.uniform(start, end))
                lateral = sign * float(rng.uniform(CURB_M + 1.8, FACADE_M - 0.6))
                coat = linear(*(int(c) for c in rng.integers(30, 190, 3)))
                trousers = linear(*(int(c) for c in rng.integers(25, 90, 3)))
                build = SolidsBuilder()
                build.box((-0.16, 0.16, 0.0, 0.85, -0.14, 0.14), trousers, 70.0)
                build.box((-0.24, 0.24, 0.8, 1.45, -0.15, 0.15), coat, 70.0)
                x, zz, heading = put(build.build(), z, lateral, float(rng.uniform(-0.4, 0.4)))
                blobs.append((x, -1.6, zz, 0.12, 0.15, 0.12, 0.0, 60.0))
                colors.append(linear(196, 152, 128))
                footprints.append((x, zz, heading, 0.2, 0.2, 0.6))
        return (
            joined(parts),
            np.array(blobs, dtype=np.float64).reshape(-1, 8),
            np.array(colors, dtype=np.float64).reshape(-1, 3),
            np.array(footprints, dtype=np.float64).reshape(-1, 6),
            skyline,
        )

    def _join_blocks(self, first: int, last: int) -> tuple[Solids, F64, F64, F64, F64]:
        blocks = [self._block(k) for k in range(first, last + 1)]
        return (
            joined([b[0] for b in blocks]),
            np.concatenate([b[1] for b in blocks]),
            np.concatenate([b[2] for b in blocks]),
            np.concatenate([b[3] for b in blocks]),
            np.concatenate([b[4] for b in blocks], axis=1),
        )

    def skyline(self, first: int, last: int) -> F64:
        """Heights of the rows of buildings, left and right, at each half metre: (2, blocks * 144)."""
        return self._window(first, last)[4]

    # Things that move ---------------------------------------------------------------------------

    def _oncoming_slot(self, slot: int) -> tuple[str, int, float] | None:
        rng = self._rng(4, slot)
        if rng.random() < 0.35:
            return None
        kind = str(rng.choice(["sedan", "hatch", "van", "bus"], p=[0.45, 0.3, 0.15, 0.1]))
        return kind, int(rng.integers(64)), float(rng.uniform(-8.0, 8.0))

    def _vehicles(self, time_s: float, eye_z: float) -> list[tuple[Solids, tuple[float, float, float], str]]:
        found = []
        pitch = 34.0  # one slot of the oncoming stream, metres
        shift = self.oncoming_m_s * time_s
        for slot in range(
            math.floor((eye_z - 12.0 + shift) / pitch), math.floor((eye_z + 150.0 + shift) / pitch) + 1
        ):
            if (car := self._oncoming(slot)) is not None:
                kind, paint, jitter = car
                x, z, heading = self.place(slot * pitch + jitter - shift, -LANE_M / 2 - 0.05)
                found.append((vehicle(kind, paint), (x, z, heading + math.pi), kind))
        for k in range(3):
            gap = self._lead_gap[k] + (2.0 + k) * math.sin(0.23 * time_s + self._lead[k])
            kind = ("hatch", "sedan", "van", "sedan")[(self.seed + 2 * k) % 4]
            x, z, heading = self.place(eye_z + gap, LANE_M / 2 + 0.05)
            found.append((vehicle(kind, self.seed * 7 + 3 * k + 1), (x, z, heading), kind))
        return found

    def scene(self, time_s: float, eye_z: float, first: int, last: int) -> Scene:
        """Everything in blocks first..last and the traffic at ``time_s``."""
        solids, blobs, colors, footprints, _ = self._window(first, last)
        moving = self._vehicles(time_s, eye_z)
        parts = [solids, *(car.moved(*place) for car, place, _ in moving)]
        under = [
            (*place, 1.15 if k == "bus" else 0.85, 5.4 if k == "bus" else 2.1, 0.8) for _, place, k in moving
        ]
        return Scene(
            joined(parts), Blobs(blobs, colors), np.concatenate([footprints, np.array(under).reshape(-1, 6)])
        )

    # The camera ---------------------------------------------------------------------------------

    def eye(self, time_s: float) -> tuple[float, F64]:
        """z along the road and the camera-to-world pose (4, 4) at ``time_s``."""
        z = self.start_m + self.speed_m_s * time_s + 2.0 * math.sin(0.31 * time_s)
        lateral = LANE_M / 2 + 0.12 * math.sin(0.53 * time_s + self._phase[0])
        x, zz, heading = self.place(z, lateral)
        yaw = heading + 0.022 * math.sin(0.41 * time_s + self._phase[1]) - 0.012
        pitch = -0.012 + 0.004 * math.sin(7.1 * time_s) + 0.003 * math.sin(2.3 * time_s)
        roll = 0.004 * math.sin(3.7 * time_s + 1.0)
        height = 1.52 + 0.012 * math.sin(8.3 * time_s) + 0.006 * math.sin(13.7 * time_s)
        return z, _pose(x, -height, zz, yaw, pitch, roll)


def _pose(x: float, y: float, z: float, yaw: float, pitch: float, roll: float) -> F64:
    """Camera-to-world; yaw to the right, pitch up, roll clockwise as the camera sees itself; radians."""
    cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (math.cos, math.sin))
    about_y = np.array([[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]])
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, cp, -sp], [0.0, sp, cp]])
    about_z = np.array([[cr, -sr, 0.0], [sr, cr, 0.0], [0.0, 0.0, 1.0]])
    pose = np.eye(4)
    pose[:3, :3] = about_y @ about_x @ about_z
    pose[:3, 3] = x, y, z
    return pose
