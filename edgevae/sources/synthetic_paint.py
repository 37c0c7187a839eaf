"""Light and paint of the rendered street: from the face a pixel sees and the point it hits to a colour.

Paint is a function of the point in the world, so a place looks the same from every frame, and an edge
painted on a face is filtered over the pixel's footprint. Colours are linear until the last step, a square
root.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .synthetic_raster import DRAWN_M, F32, NEAR_M, NOISE_SIZE, FaceTable, Raster, View
from .synthetic_street import BLOCK_M, CURB_M, F64, FACADE_M, LANE_M, Material, Scene, Street

Ints = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]

HAZE_M = 170.0  # distance at which haze has taken 1 - 1/e of the contrast
_TABLE_STEPS_PER_M = 50
_BEHIND_M = 20


def tileable_noise(rng: np.random.Generator, roughness: float, cutoff: float) -> F32:
    """Tileable noise (512, 512) in [0, 1], amplitude falling as (1 + frequency / cutoff)^-roughness."""
    white = np.fft.rfft2(rng.standard_normal((NOISE_SIZE, NOISE_SIZE)))
    fy = np.fft.fftfreq(NOISE_SIZE)[:, None] * NOISE_SIZE
    fx = np.fft.rfftfreq(NOISE_SIZE)[None, :] * NOISE_SIZE
    field = np.fft.irfft2(white * (1.0 + np.hypot(fx, fy) / cutoff) ** -roughness, s=(NOISE_SIZE, NOISE_SIZE))
    field = (field - field.mean()) / field.std()
    return np.asarray(np.clip(0.5 + field / 5.0, 0.0, 1.0), dtype=np.float32)


def _cover(inside: F32, footprint: F32) -> F32:
    """How much of a pixel ``footprint`` metres wide lies within an edge that is ``inside`` metres away."""
    return _clip01(inside / footprint + np.float32(0.5))


def _clip01(x: F32) -> F32:
    return np.asarray(np.clip(x, np.float32(0.0), np.float32(1.0)))


def _wave(x: F32, period: float) -> F32:
    """Distance to the nearest multiple of ``period``."""
    nearest = np.float32(period) * np.rint(x * np.float32(1.0 / period))
    return np.asarray(np.abs(x - nearest))


@dataclass
class _Pixels:
    """What the picture's pixels see, (H, W) float32 each; points relative to the camera, metres."""

    x: F32
    y: F32
    z: F32
    depth: F32
    up: F32  # height above the ground
    along: F32  # world z, from ``base_z``
    lateral: F32  # to the right of the road's centre line
    footprint: F32  # width of a pixel at that depth
    base_z: int


class Painter:
    """Colours what a ``Raster`` has found, for one street."""

    def __init__(self, street: Street) -> None:
        self.street = street
        rng = np.random.default_rng([street.seed, 99])
        self.leaves = tileable_noise(rng, 2.0, 30.0)
        self._grain = tileable_noise(rng, 0.6, 40.0)
        self._patches = tileable_noise(rng, 1.7, 5.0)
        self._clouds = tileable_noise(rng, 2.1, 3.0)
        self._chance = rng.random(1024).astype(np.float32)
        azimuth, elevation = street.sun_azimuth, street.sun_elevation
        self._sun = np.array(
            [
                math.sin(azimuth) * math.cos(elevation),
                -math.sin(elevation),
                math.cos(azimuth) * math.cos(elevation),
            ]
        )
        low = 1.0 - (elevation - 0.6) / 0.35  # 1 for a low, warm sun
        self._sun_rgb = np.array([1.75, 1.56 - 0.10 * low, 1.32 - 0.28 * low], np.float32)
        self._air_rgb = np.array([0.42, 0.48, 0.58], np.float32)
        tone = street.sky_tone
        self._zenith = np.array([0.07 + 0.06 * tone, 0.20 + 0.06 * tone, 0.52], np.float32)
        self._haze = np.array([0.66 + 0.06 * low, 0.70, 0.76 - 0.08 * low], np.float32)

    def paint(
        self, raster: Raster, table: FaceTable, scene: Scene, view: View, first: int, last: int
    ) -> npt.NDArray[np.uint8]:
        """uint8 (H, W, 3) R G B of blocks ``first`` .. ``last``."""
        face = raster.face
        sky = raster.inverse <= np.float32(1.0 / DRAWN_M)
        u = np.arange(face.shape[1], dtype=np.float32)
        v = np.arange(face.shape[0], dtype=np.float32)
        du, dv, d0 = (d.astype(np.float32) for d in (view.du, view.dv, view.d0))
        rays = [(dv[i] * v + d0[i])[:, None] + du[i] * u for i in range(3)]
        at = self._locate(raster.inverse, rays, view)
        material = table.paint[:, 3].astype(np.int8)[face]

        ambient_row = np.float32(0.64) - np.float32(0.36) * table.normal[:, 1]
        sun_row = np.maximum(table.normal @ self._sun.astype(np.float32), np.float32(0.0))
        lit = self._sunlit(at, first, last)
        ambient = ambient_row[face]
        ambient *= np.float32(0.70) + np.float32(0.30) * np.minimum(at.up * np.float32(0.2), np.float32(1.0))
        sun = sun_row[face] * lit
        albedo = [table.paint[:, c][face] for c in range(3)]

        shine: list[tuple[Ints, F32, list[F32]]] = []  # reflections and lamps, laid over the lit surface
        of: dict[Material, Ints] = {
            kind: np.flatnonzero(material == kind) for kind in Material if kind != Material.GROUND
        }
        of[Material.GROUND] = np.flatnonzero((material == Material.GROUND) & ~sky)
        if len(where := of[Material.GROUND]):
            self._ground(where, at, albedo, ambient, sun, scene.footprints, view, first, last)
        if len(where := of[Material.FACADE]):
            shine.append(self._facade(where, at, albedo, ambient, face, table))
        for kind in (Material.LEAVES, Material.SKIN):
            if len(where := of[kind]):
                self._round(where, at, albedo, ambient, sun, lit, face, table, view, kind)
        if len(where := of[Material.ROOF]):
            rows = np.float32(1.0) - np.float32(0.35) * _cover(
                _wave(at.up.reshape(-1)[where], 0.32) - np.float32(0.11), at.footprint.reshape(-1)[where]
            )
            for plane in albedo:
                plane.reshape(-1)[where] *= rows
        for kind in (
            Material.CAR_FRONT,
            Material.CAR_REAR,
            Material.CAR_SIDE,
            Material.CAR_GLASS,
            Material.WHEEL,
            Material.BUS_SIDE,
        ):
            if len(where := of[kind]):
                shine.append(self._vehicle(kind, where, at, albedo, face, table))

        out = [a * (ambient * self._air_rgb[c] + sun * self._sun_rgb[c]) for c, a in enumerate(albedo)]
        for where, cover, colors in shine:
            for c in range(3):
                plane = out[c].reshape(-1)
                plane[where] += cover * (colors[c] - plane[where])
        clear = np.exp(at.depth * np.float32(-1.0 / HAZE_M))
        for c in range(3):
            out[c] = self._haze[c] + (out[c] - self._haze[c]) * clear
        if len(where := np.flatnonzero(sky)):
            for plane, color in zip(out, self._sky(where, rays, view), strict=True):
                plane.reshape(-1)[where] = color
        rgb = np.empty((*face.shape, 3), np.uint8)
        for c, plane in enumerate(self._soften(face, out)):
            rgb[..., c] = np.sqrt(np.clip(plane, np.float32(0.0), np.float32(1.0))) * np.float32(
                255.0
            ) + np.float32(0.5)
        return rgb

    def _locate(self, inverse: F32, rays: list[F32], view: View) -> _Pixels:
        depth = np.float32(1.0) / inverse
        x, y, z = (depth * ray for ray in rays)
        base_z = math.floor(view.eye[2]) - _BEHIND_M
        metres = np.arange(DRAWN_M + 2 * _BEHIND_M)
        steps = np.arange(0.0, metres[-1], 1.0 / _TABLE_STEPS_PER_M)
        slope = self.street.slope(base_z + metres)
        # the road bends so little that a line from metre to metre is off by less than a millimetre
        center = np.interp(steps, metres, self.street.center(base_z + metres) - view.eye[0]).astype(
            np.float32
        )
        narrow = np.interp(steps, metres, 1.0 / np.sqrt(1.0 + slope * slope)).astype(np.float32)
        along = z + np.float32(view.eye[2] - base_z)
        step = np.clip(along * np.float32(_TABLE_STEPS_PER_M), 0, len(steps) - 1).astype(np.int32)
        lateral = (x - center[step]) * narrow[step]
        up = np.float32(-view.eye[1]) - y
        return _Pixels(x, y, z, depth, up, along, lateral, depth * np.float32(1.0 / view.camera.fx), base_z)

    def _sunlit(self, at: _Pixels, first: int, last: int) -> F32:
        """1 in the sun, 0 in the shadow of the row of buildings on its side, as if the road were straight."""
        side = 1 if self._sun[0] > 0.0 else 0
        wall = np.float32(math.copysign(FACADE_M + 0.3, self._sun[0]))
        run = (wall - at.lateral) * np.float32(1.0 / self._sun[0])  # along the ray to the sun, metres
        height = at.up - run * np.float32(self._sun[1])
        place = at.along + run * np.float32(self._sun[2]) + np.float32(at.base_z - first * BLOCK_M)
        skyline = np.append(self.street.skyline(first, last)[side], 0.0).astype(np.float32)
        cell = np.clip(place * np.float32(2.0), 0, len(skyline) - 1).astype(np.int32)
        lit = _clip01((height - skyline[cell]) * np.float32(2.5) + np.float32(0.5))
        lit[run < 0.0] = 1.0
        return lit

    def _texture(self, noise: F32, a: F32, b: F32, a0: float, b0: float, per_m: float) -> F32:
        """``noise`` with ``per_m`` cells a metre at (a + a0, b + b0)."""
        period = NOISE_SIZE / per_m
        i = (a * np.float32(per_m) + np.float32((a0 % period) * per_m)).astype(np.int32) & (NOISE_SIZE - 1)
        j = (b * np.float32(per_m) + np.float32((b0 % period) * per_m)).astype(np.int32) & (NOISE_SIZE - 1)
        return np.asarray(noise[i, j])

    def _ground(
        self,
        where: Ints,
        at: _Pixels,
        albedo: list[F32],
        ambient: F32,
        sun: F32,
        footprints: F64,
        view: View,
        first: int,
        last: int,
    ) -> None:
        x, z, depth, lateral, along, wide = (
            a.reshape(-1)[where] for a in (at.x, at.z, at.depth, at.lateral, at.along, at.footprint)
        )
        deep = depth * wide * np.float32(1.0 / -view.eye[1])  # length of the footprint along the ground
        side = np.abs(lateral)
        grain = self._texture(self._grain, x, z, view.eye[0], view.eye[2], 22.0) - np.float32(0.5)
        patch = self._texture(self._patches, x, z, view.eye[0], view.eye[2], 9.0) - np.float32(0.5)
        grain *= np.float32(1.0) / (np.float32(1.0) + depth * np.float32(0.08))
        # asphalt, a little lighter where wheels run
        track = np.abs(np.abs(side - np.float32(LANE_M / 2)) - np.float32(0.8))
        tone = np.float32(0.11) + grain * np.float32(0.075) + patch * np.float32(0.06)
        tone += np.clip(np.float32(0.45) - track, 0.0, 0.3) * np.float32(0.07)
        color = [tone, tone, tone * np.float32(1.05)]

        def lay(cover: F32, rgb: tuple[float, float, float], gain: F32 | float = 1.0) -> None:
            for c in range(3):
                color[c] = color[c] + cover * (np.float32(rgb[c]) * gain - color[c])

        from_first = along + np.float32(at.base_z - first * BLOCK_M)
        nearest = np.clip(np.rint(from_first * np.float32(1 / BLOCK_M)), 0, last - first + 1).astype(np.int32)
        is_crossing = np.array([self.street.is_crossing(k) for k in range(first, last + 2)])
        crossing = is_crossing[nearest]
        offset = from_first - nearest.astype(np.float32) * np.float32(BLOCK_M)
        gap = np.where(crossing, np.abs(offset), np.float32(1e3))
        pavement = ~(gap < np.float32(4.4)) * np.float32(1.0)

        slab = np.minimum(_wave(side - np.float32(CURB_M), 0.8), _wave(from_first, 0.8))
        gain = np.float32(1.0) + grain * np.float32(0.5) + patch * np.float32(0.45)
        gain -= (
            np.float32(0.35)
            * _clip01(np.float32(1.4) - slab * np.float32(45.0))
            / (1 + depth * np.float32(0.12))
        )
        lay(_cover(side - np.float32(CURB_M), wide) * pavement, (0.30, 0.285, 0.265), gain)
        lay(
            _cover(np.float32(0.10) - np.abs(side - np.float32(CURB_M + 0.1)), wide) * pavement,
            (0.46, 0.45, 0.43),
        )
        lay(
            _cover(np.float32(0.13) - np.abs(side - np.float32(CURB_M - 0.14)), wide) * pavement,
            (0.05, 0.05, 0.05),
        )
        parks = np.array([[self.street.is_park(k, s) for k in range(first, last + 1)] for s in (0, 1)])
        block = np.clip(from_first * np.float32(1 / BLOCK_M), 0, last - first).astype(np.int32)
        grass = (
            parks[(lateral > 0).astype(np.int8), block] & (side > np.float32(10.2)) & (gap > np.float32(6.5))
        )
        lay(grass.astype(np.float32), (0.15, 0.23, 0.06), np.float32(0.95) + patch * np.float32(0.5) + grain)

        dash = _cover(np.float32(1.5) - _wave(from_first, 8.0), deep)
        marks = _cover(np.float32(0.07) - side, wide) * dash * (gap > 9.2)
        edge = np.abs(side - np.float32(LANE_M + 0.08))
        marks = np.maximum(marks, _cover(np.float32(0.055) - edge, wide) * (gap > 8.6))
        zebra = _cover(_wave(side, 1.0) - np.float32(0.25), wide) * (side < np.float32(CURB_M - 0.45))
        marks = np.maximum(marks, zebra * _cover(np.float32(1.4) - np.abs(gap - np.float32(6.6)), deep))
        ahead = np.where(offset < 0, lateral, -lateral)  # > 0 on the lane that comes to the crossing
        stop = _cover(np.float32(0.2) - np.abs(gap - np.float32(9.0)), deep)
        marks = np.maximum(marks, stop * ((ahead > np.float32(0.15)) & (ahead < np.float32(LANE_M))))
        lay(marks * (np.float32(0.85) + np.float32(0.8) * patch), (0.66, 0.66, 0.63))

        open_ = self._contact(footprints, at, view)
        if open_ is not None:
            ambient *= open_
            sun *= open_
        for c in range(3):
            albedo[c].reshape(-1)[where] = color[c]

    def _contact(self, footprints: F64, at: _Pixels, view: View) -> F32 | None:
        """How open the sky is over ground beside and under things, 0..1; None where nothing stands."""
        x, z, heading, half_width, half_length, strength = footprints.T
        reach = np.maximum(half_width, half_length) + 0.6
        corners = np.stack(
            [
                np.stack([x + i * reach, np.full_like(x, h), z + j * reach], axis=-1)
                for i in (-1.0, 1.0)
                for h in (-0.02, 0.0)
                for j in (-1.0, 1.0)
            ],
            axis=1,
        )
        rects, near, far = view.rects(corners)
        shown = (rects[:, 2:] > rects[:, :2]).all(1) & (near < 80.0) & (far > NEAR_M)
        open_: F32 | None = None
        for k in np.flatnonzero(shown):
            if open_ is None:
                open_ = np.ones(at.x.shape, np.float32)
            x0, y0, x1, y1 = rects[k].tolist()
            cut = (slice(y0, y1), slice(x0, x1))
            c, s = np.float32(math.cos(heading[k])), np.float32(math.sin(heading[k]))
            dx, dz = at.x[cut] - np.float32(x[k] - view.eye[0]), at.z[cut] - np.float32(z[k] - view.eye[2])
            shade = _clip01((np.float32(half_width[k] + 0.35) - np.abs(dx * c - dz * s)) * np.float32(2.2))
            shade *= _clip01((np.float32(half_length[k] + 0.35) - np.abs(dx * s + dz * c)) * np.float32(2.2))
            shade *= at.up[cut] < np.float32(0.02)
            open_[cut] *= np.float32(1.0) - shade * np.float32(strength[k])
        return open_

    def _round(
        self,
        where: Ints,
        at: _Pixels,
        albedo: list[F32],
        ambient: F32,
        sun: F32,
        lit: F32,
        face: npt.NDArray[np.int32],
        table: FaceTable,
        view: View,
        kind: Material,
    ) -> None:
        """Crowns of trees and heads: light by the normal of the ellipsoid, leaves by noise."""
        row = face.reshape(-1)[where]
        x, y, z = (a.reshape(-1)[where] for a in (at.x, at.y, at.z))
        normal = [
            (p - table.paint[:, 7 + i][row]) / table.paint[:, 10 + i][row] for i, p in enumerate((x, y, z))
        ]
        size = np.float32(1.0) / np.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2)
        toward = (
            sum((n * np.float32(s) for n, s in zip(normal, self._sun, strict=True)), np.float32(0.0)) * size
        )
        sun.reshape(-1)[where] = lit.reshape(-1)[where] * _clip01(
            np.float32(0.25) + np.float32(0.75) * toward
        )
        ambient.reshape(-1)[where] *= np.float32(0.95) - np.float32(0.35) * normal[1] * size
        if kind == Material.LEAVES:
            a0, b0 = view.eye[0] + 0.6 * view.eye[1], view.eye[2] - 0.8 * view.eye[1]
            leaf = self._texture(self.leaves, x + np.float32(0.6) * y, z - np.float32(0.8) * y, a0, b0, 36.0)
            gain = np.float32(0.35) + np.float32(1.3) * leaf
            for plane in albedo:
                plane.reshape(-1)[where] *= gain

    def _facade(
        self,
        where: Ints,
        at: _Pixels,
        albedo: list[F32],
        ambient: F32,
        face: npt.NDArray[np.int32],
        table: FaceTable,
    ) -> tuple[Ints, F32, list[F32]]:
        """Windows, shop fronts and mouldings; returns where there is glass, how much, and what it shows."""
        row = face.reshape(-1)[where]
        paint = table.paint
        x, z, up, depth, tall = (a.reshape(-1)[where] for a in (at.x, at.z, at.up, at.depth, at.footprint))
        across = x * paint[:, 4][row] + z * paint[:, 5][row] - paint[:, 6][row]
        pitch, floor_m, base, height, style, shop, seed = (paint[:, 7 + k][row] for k in range(7))
        # The footprint grows as the wall turns away: cos = distance of the plane / length of the ray.
        wide = np.maximum(tall * depth / np.maximum(table.distance[row], np.float32(0.05)), tall)

        column = np.floor(across / pitch)
        u = across - (column + np.float32(0.5)) * pitch  # from the middle of the window's axis
        storey = np.floor((up - base) / floor_m)
        v = up - base - storey * floor_m  # above the floor
        ground = up < base
        upper = (~ground) & (up < height - np.float32(0.75))
        hashed = (column * np.float32(37.0) + storey * np.float32(101.0) + seed).astype(np.int32)
        chance = self._chance[hashed & 1023]
        building = self._chance[(seed.astype(np.int32) * 7) & 1023]

        # far away, where a window is smaller than two pixels, only the mean is left
        detail = _clip01(np.float32(2.0) - np.float32(2.2) * wide / pitch)
        office = style == 3.0
        half_w = np.where(office, pitch * np.float32(0.47), np.float32(0.42) + np.float32(0.2) * building)
        sill = np.where(office, np.float32(0.75), np.float32(0.85))
        head = floor_m - np.where(office, np.float32(0.35), np.float32(0.45))
        in_u, in_v = half_w - np.abs(u), np.minimum(v - sill, head - v)
        pane = _cover(in_u, wide) * _cover(in_v, tall)
        mean = np.minimum(np.float32(2.0) * half_w / pitch, np.float32(0.95)) * _cover(in_v, tall)
        window = (mean + (pane - mean) * detail) * upper
        surround = (
            _cover(in_u + np.float32(0.13), wide) * _cover(in_v + np.float32(0.13), tall) * upper * detail
        )
        bars = np.maximum(
            _cover(np.float32(0.035) - np.abs(u), wide),
            _cover(np.float32(0.03) - np.abs(v - sill - np.float32(0.95)), tall),
        )
        bars = np.maximum(bars, _cover(np.float32(0.05) - np.minimum(in_u, in_v), tall)) * detail * ~office

        # shop fronts: two axes wide, a sign above
        unit = np.floor(across / (pitch * np.float32(2.0)))
        s = across - (unit + np.float32(0.5)) * pitch * np.float32(2.0)
        unit_chance = self._chance[(unit * np.float32(53.0) + seed * np.float32(3.0)).astype(np.int32) & 1023]
        is_shop = ground & (shop > 0.0)
        front_u = pitch - np.float32(0.3) - np.abs(s)
        front = (
            _cover(front_u, wide)
            * _cover(np.minimum(up - np.float32(0.45), np.float32(2.75) - up), tall)
            * is_shop
        )
        sign = (
            _cover(front_u + np.float32(0.1), wide)
            * _cover(np.minimum(up - np.float32(2.9), np.float32(3.5) - up), tall)
            * is_shop
        )
        sign *= unit_chance < np.float32(0.8)
        # a flat at ground level: windows like above, one door
        low_v = np.minimum(up - np.float32(1.1), np.float32(2.6) - up)
        door = (np.abs(column - np.float32(2.0)) < 0.5) & ground & ~is_shop
        low = _cover(in_u, wide) * _cover(low_v, tall) * (ground & ~is_shop) * ~door
        entry = _cover(np.float32(0.55) - np.abs(u), wide) * _cover(np.float32(2.3) - up, tall) * door

        wall = [albedo[c].reshape(-1)[where] for c in range(3)]
        rough = self._texture(self._grain, across, up, 0.0, 0.0, 9.0) - np.float32(0.5)
        rough2 = self._texture(self._patches, across, up, 0.0, 0.0, 14.0) - np.float32(0.5)
        gain = (
            np.float32(1.0)
            + rough * np.float32(0.35) / (np.float32(1.0) + depth * np.float32(0.1))
            + rough2 * np.float32(0.28)
        )
        band = _cover(np.float32(0.09) - np.abs(v - np.float32(0.12)), tall) * (style == 2.0) * upper
        cornice = _cover(np.float32(0.32) - np.abs(up - height + np.float32(0.42)), tall)
        under = _cover(np.float32(0.08) - np.abs(up - height + np.float32(0.82)), tall)
        belt = _cover(np.float32(0.12) - np.abs(up - base), tall)
        gain *= (
            np.float32(1.0)
            + np.float32(0.35) * np.maximum(np.maximum(band, cornice), belt)
            - np.float32(0.5) * under
        )
        gain *= np.float32(1.0) - np.float32(0.35) * _cover(np.float32(0.5) - up, tall)
        ledge = (
            _cover(np.float32(0.07) - np.abs(v - sill + np.float32(0.12)), tall)
            * _cover(in_u + np.float32(0.2), wide)
            * upper
            * detail
        )
        gain *= np.float32(1.0) + np.float32(0.4) * ledge * ~office
        framed = surround * ((style == 1.0) | (style == 2.0))
        sign_rgb = [
            self._chance[(unit * np.float32(17.0) + seed + np.float32(211 * c)).astype(np.int32) & 1023] ** 2
            for c in range(3)
        ]
        door_rgb = (0.10, 0.06, 0.035)
        for c in range(3):
            color = wall[c] * gain
            color += framed * (np.float32((0.62, 0.60, 0.55)[c]) - color)
            color += is_shop * np.float32(0.75) * (wall[c] * np.float32(0.55) - color)
            color += sign * (np.float32(0.04) + np.float32(0.6) * sign_rgb[c] - color)
            color += entry * (np.float32(door_rgb[c]) - color)
            albedo[c].reshape(-1)[where] = color

        # glass: the sky low on the horizon, blinds, curtains, a few lights
        shade = np.float32(0.25) + np.float32(0.75) * _clip01((v - sill) / (head - sill))
        reflect = np.float32(0.04) + np.float32(0.26) * shade * (np.float32(0.35) + np.float32(0.65) * chance)
        blind = (
            (chance > np.float32(0.55)) & (v > sill + (head - sill) * (np.float32(1.6) - chance)) & ~office
        )
        lamp = (chance < np.float32(0.06)) & upper
        goods = (
            np.float32(0.06)
            + np.float32(0.30)
            * self._chance[
                (np.floor(across * np.float32(2.1)) * 7 + np.floor(up * np.float32(1.6)) * 13 + seed).astype(
                    np.int32
                )
                & 1023
            ]
            * unit_chance
        )
        glass = np.maximum(np.maximum(window, front), low)
        lit_front = front > np.maximum(window, low)
        colors = []
        for c in range(3):
            tint = reflect * np.float32((0.80, 0.95, 1.15)[c])
            tint = np.where(blind, np.float32((0.42, 0.40, 0.35)[c]), tint)
            tint = np.where(lamp, np.float32((0.85, 0.62, 0.30)[c]), tint)
            tint = np.where(lit_front, goods * np.float32((1.1, 0.95, 0.75)[c]), tint)
            frame = np.float32((0.50, 0.49, 0.46)[c])
            tint = tint + bars * (frame - tint) * ~lit_front
            # seen from afar the hashed panes flicker: use their mean instead
            tint = np.where(
                lit_front,
                tint,
                np.float32((0.17, 0.19, 0.21)[c]) + (tint - np.float32((0.17, 0.19, 0.21)[c])) * detail,
            )
            colors.append(tint)
        return where, glass, colors

    def _vehicle(
        self,
        kind: Material,
        where: Ints,
        at: _Pixels,
        albedo: list[F32],
        face: npt.NDArray[np.int32],
        table: FaceTable,
    ) -> tuple[Ints, F32, list[F32]]:
        """Lamps, plates, glass and wheels; returns what shines, as ``_facade`` does."""
        row = face.reshape(-1)[where]
        paint = table.paint
        x, z, up, wide = (a.reshape(-1)[where] for a in (at.x, at.z, at.up, at.footprint))
        across = x * paint[:, 4][row] + z * paint[:, 5][row] - paint[:, 6][row]
        p = [paint[:, 7 + k][row] for k in range(4)]
        off = np.abs(across)
        none = np.zeros(len(where), np.float32)
        color = [albedo[c].reshape(-1)[where] for c in range(3)]
        glow: list[tuple[F32, tuple[float, float, float]]] = []

        def lay(cover: F32, rgb: tuple[float, float, float]) -> None:
            for c in range(3):
                color[c] = color[c] + cover * (np.float32(rgb[c]) - color[c])

        def box(in_u: F32, low: float | F32, high: float | F32) -> F32:
            return _cover(in_u, wide) * _cover(np.minimum(up - np.float32(low), np.float32(high) - up), wide)

        if kind in (Material.CAR_FRONT, Material.CAR_REAR):
            half = p[0]
            bus = p[1] > np.float32(1.1)
            lay(_cover(np.float32(0.38) - up, wide), (0.03, 0.03, 0.035))
            if kind == Material.CAR_FRONT:
                lay(box(half * np.float32(0.55) - off, 0.42, 0.62) * ~bus, (0.02, 0.02, 0.022))
                lamp = box(np.float32(0.16) - np.abs(off - half * np.float32(0.74)), 0.54, 0.68)
                glow.append((lamp, (0.95, 0.95, 0.88)))
            else:
                lamp = box(np.float32(0.10) - np.abs(off - half * np.float32(0.82)), 0.62, 0.80)
                glow.append((lamp, (0.62, 0.03, 0.02)))
            lay(box(np.float32(0.26) - off, 0.44, 0.55), (0.75, 0.75, 0.7))
            glow.append((box(half - np.float32(0.14) - off, 1.25, 2.55) * bus, (0.10, 0.13, 0.16)))
        elif kind == Material.CAR_SIDE:
            radius, axle = p[0], p[1]
            arch = np.hypot(off - axle, up - radius)
            lay(_cover(np.float32(0.30) - up, wide), (0.035, 0.035, 0.04))
            lay(_cover(radius + np.float32(0.06) - arch, wide), (0.012, 0.012, 0.013))
            seam = np.minimum(np.abs(across - np.float32(0.75)), np.abs(across + np.float32(0.35)))
            lay(_cover(np.float32(0.012) - seam, wide) * (up > 0.34) * np.float32(0.7), (0.02, 0.02, 0.02))
            lay(
                _cover(np.float32(0.03) - np.abs(up - np.float32(0.62)), wide) * np.float32(0.25),
                (0.02, 0.02, 0.02),
            )
        elif kind == Material.CAR_GLASS:
            pane = _cover(p[0] - off, wide) * _cover(np.minimum(up - p[1], p[2] - up), wide)
            pane *= np.float32(1.0) - _cover(np.float32(0.04) - np.abs(across - p[3]), wide)
            high = _clip01((up - p[1]) / (p[2] - p[1]))
            colors = [
                (np.float32(k) * (np.float32(0.35) + np.float32(0.65) * high)) for k in (0.15, 0.18, 0.21)
            ]
            return where, pane, colors
        elif kind == Material.WHEEL:
            radius = p[0]
            ring = np.hypot(across, up - radius)
            lay(_cover(radius * np.float32(0.66) - ring, wide), (0.36, 0.36, 0.37))
            lay(_cover(radius * np.float32(0.2) - ring, wide), (0.06, 0.06, 0.06))
        else:  # the side of a bus
            length = p[0]
            lay(_cover(np.float32(0.42) - up, wide), (0.04, 0.04, 0.045))
            lay(_cover(np.float32(0.10) - np.abs(up - np.float32(1.05)), wide), (0.8, 0.8, 0.78))
            bars = np.float32(1.0) - _cover(np.float32(0.06) - _wave(across, 1.55), wide)
            glow.append((box(length - np.float32(0.25) - off, 1.4, 2.45) * bars, (0.09, 0.11, 0.13)))
        for c in range(3):
            albedo[c].reshape(-1)[where] = color[c]
        cover = none
        colors = [none, none, none]
        for part, rgb in glow:
            cover = np.maximum(cover, part)
            colors = [np.where(part > 0.0, np.float32(rgb[c]), colors[c]) for c in range(3)]
        return where, cover, colors

    def _sky(self, where: Ints, rays: list[F32], view: View) -> list[F32]:
        dx, dy, dz = (ray.reshape(-1)[where] for ray in rays)
        size = np.float32(1.0) / np.sqrt(dx * dx + dy * dy + dz * dz)
        rise = np.maximum(-dy * size, np.float32(0.0))
        high = np.sqrt(rise)
        # a layer of cloud 900 m up, drifting past with the drive
        far = np.float32(1.0) / (rise + np.float32(0.06))
        cloud = self._texture(
            self._clouds, dx * size * far, dz * size * far, view.eye[0] / 900.0, view.eye[2] / 900.0, 70.0
        )
        cloud = _clip01((cloud - np.float32(0.50)) * np.float32(3.2)) * _clip01(rise * np.float32(6.0))
        toward = (
            dx * np.float32(self._sun[0]) + dy * np.float32(self._sun[1]) + dz * np.float32(self._sun[2])
        ) * size
        glare = np.maximum(toward, np.float32(0.0)) ** 24 * np.float32(0.35)
        out = []
        for c in range(3):
            blue = self._haze[c] + (self._zenith[c] - self._haze[c]) * np.minimum(
                high * np.float32(1.25), np.float32(1.0)
            )
            white = np.float32((0.90, 0.91, 0.93)[c])
            out.append(blue + cloud * np.float32(0.8) * (white - blue) + glare * self._sun_rgb[c])
        return out

    def _soften(self, face: npt.NDArray[np.int32], planes: list[F32]) -> list[F32]:
        """Blend pixels on the border of two faces with their neighbours, against stair-steps."""
        edge = np.zeros(face.shape, bool)
        differs = face[:, 1:] != face[:, :-1]
        edge[:, 1:] |= differs
        edge[:, :-1] |= differs
        differs = face[1:] != face[:-1]
        edge[1:] |= differs
        edge[:-1] |= differs
        edge[[0, -1]] = False
        edge[:, [0, -1]] = False
        where = np.flatnonzero(edge)
        width = face.shape[1]
        for plane in planes:
            flat = plane.reshape(-1)
            np.minimum(flat, np.float32(1.0), out=flat)
            around = flat[where - 1] + flat[where + 1] + flat[where - width] + flat[where + width]
            flat[where] = flat[where] * np.float32(0.5) + around * np.float32(0.125)
        return planes
