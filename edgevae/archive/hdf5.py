"""An archive in HDF5: the record of ``edgevae stream`` with columns that say which source and camera.

To resume, the whole rows of the old file are copied into a new one, which then takes its name: a file whose
writer was killed may be read, but HDF5 promises nothing to who goes on writing it. At 2 kB a row that takes
seconds for a million; beyond, choose Parquet.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import RecordError
from ..latents import check_hdf5, hdf5_errors_as_sentences, open_hdf5
from ..model import ModelSpec
from ..sinks.base import Row, RunInfo
from ..sinks.hdf5 import Hdf5Sink, extend
from .base import Archive, Found, check_same
from .plan import Place, Plan

if TYPE_CHECKING:
    import h5py  # type: ignore[import-untyped]

CAMERA_BYTES = 1024
_COPY_ROWS = 4096
_CHUNK_ROWS = 64


class Hdf5Archive(Hdf5Sink, Archive):
    """Beside what ``Hdf5Sink`` writes, the data sets

    - ``source`` (N,) int32: the row's place in ``sources`` (S,), URIs in UTF-8;
    - ``camera`` (N,) int32: the row's place in ``cameras`` (C,), JSON with ``clock``, ``depth_scale`` and
      ``intrinsics``;

    and the attribute ``sources_sha256``. With more than one source the attributes ``clock``, ``depth_scale``
    and ``intrinsics`` are left out.
    """

    _plan: Plan
    _old: Path | None = None

    def find(self, plan: Plan, spec: ModelSpec) -> Found | None:
        if not self.path.exists():
            return None
        with hdf5_errors_as_sentences(self.path), open_hdf5(self.path) as file:
            check_hdf5(self.path, file)
            check_same(
                self.path, plan, spec, file.attrs.get("sources_sha256"), file.attrs.get("model_sha256")
            )
            rows = int(min(file[name].shape[0] for name in _columns(file)))
            if rows == 0:
                self.overwrite = True
                return None
            return Found(Place(int(file["source"][rows - 1]), int(file["frame"][rows - 1])), rows)

    def begin(self, plan: Plan, spec: ModelSpec, found: Found | None) -> None:
        if found is not None:
            self._old, self.rows, self.overwrite = self.path, found.rows, True
        self._plan = plan
        self._numbers: deque[int] = deque()
        self._cameras: dict[str, int] = {}
        self.open(RunInfo(plan.title, False, spec))

    def add(self, source: int, row: Row) -> None:
        self._numbers.append(source)
        self.write(row)

    def _lay_out(self, file: h5py.File, row: Row) -> None:
        super()._lay_out(file, row)
        for name in ("source", "camera"):
            self._data[name] = file.create_dataset(
                name, (0,), np.int32, maxshape=(None,), chunks=(_CHUNK_ROWS,)
            )
        self._data["cameras"] = file.create_dataset(
            "cameras", (0,), f"S{CAMERA_BYTES}", maxshape=(None,), chunks=(4,)
        )
        self._data["sources"] = file.create_dataset(
            "sources", data=np.array([name.encode() for name in self._plan.names])
        )
        file.attrs["sources_sha256"] = self._plan.digest
        if len(self._plan.sources) > 1:
            for name in ("clock", "depth_scale", "intrinsics"):
                del file.attrs[name]
        if self._old is not None:
            self._copy_old(file)

    def _copy_old(self, file: h5py.File) -> None:
        assert self._old is not None
        with open_hdf5(self._old) as old:
            names = [name for name in _columns(file) if name in old]
            self._claim_space(Path(file.filename), 0, self.rows)
            for name, count in [*((name, self.rows) for name in names), ("cameras", len(old["cameras"]))]:
                self._data[name].resize(count, axis=0)
                for begin in range(0, count, _COPY_ROWS):
                    end = min(begin + _COPY_ROWS, count)
                    self._data[name][begin:end] = old[name][begin:end]
            file.attrs["created"] = old.attrs["created"]
            self._cameras = {text.decode(): i for i, text in enumerate(old["cameras"][:])}
        self._old = None

    def _append(self, file: h5py.File, rows: list[Row]) -> None:
        numbers = [self._numbers[i] for i in range(len(rows))]
        extend(self._data["source"], numbers)
        extend(self._data["camera"], [self._camera(row) for row in rows])
        super()._append(file, rows)  # ends with ``frame``, whose length says that the rows are whole
        for _ in rows:
            self._numbers.popleft()

    def _camera(self, row: Row) -> int:
        """The number of the row's camera in the table, where it is entered the first time."""
        text = json.dumps(
            {
                "clock": row.clock,
                "depth_scale": row.depth_scale,
                "intrinsics": None if row.intrinsics is None else asdict(row.intrinsics),
            }
        )
        if text not in self._cameras:
            content = text.encode()
            if len(content) > CAMERA_BYTES:
                raise RecordError(
                    f"frame {row.index} has a camera of {len(content)} bytes, wanted {CAMERA_BYTES} at most."
                )
            number = len(self._cameras)
            extend(self._data["cameras"], [content])
            self._cameras[text] = number
        return self._cameras[text]


def _columns(file: h5py.File) -> list[str]:
    """The data sets with one entry a row, ``frame`` last."""
    others = [name for name in file if name not in ("sources", "cameras", "frame")]
    return [*others, "frame"]
