"""How far one map is from another."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from .ply import Cloud
from .tsdf import open3d


@dataclass(frozen=True, slots=True)
class MapError:
    """A map against a reference map of the same scene in the same world frame.

    Accuracy and completeness are what Knapitsch et al. (2017) call precision and recall.

    Attributes:
        median_m, p95_m: percentiles of the distance from each point of the map to the nearest point of the
            reference.
        within_m: the distance that counts as met.
        accuracy: share of the map's points that lie that near to a point of the reference.
        completeness: share of the reference's points that have a point of the map that near.
        reference_points: how many points the reference has.
    """

    median_m: float
    p95_m: float
    within_m: float
    accuracy: float
    completeness: float
    reference_points: int

    def __str__(self) -> str:
        return (
            f"median {self.median_m:.3f} m, 95 % within {self.p95_m:.3f} m; {self.accuracy:.0%} of the map "
            f"within {self.within_m:g} m of the reference, {self.completeness:.0%} of the reference "
            f"within {self.within_m:g} m of the map"
        )

    def document(self) -> dict[str, float | int]:
        """The same for JSON."""
        return {
            key: value if isinstance(value, int) else round(value, 5) for key, value in asdict(self).items()
        }


def map_error(map_points: Cloud, reference: Cloud, within_m: float) -> MapError | None:
    """Compare the points of two maps; None if either has none."""
    if len(map_points) == 0 or len(reference) == 0:
        return None
    to_reference = nearest_m(map_points.points, reference.points)
    to_map = nearest_m(reference.points, map_points.points)
    median_m, p95_m = np.percentile(to_reference, (50, 95))
    return MapError(
        float(median_m),
        float(p95_m),
        within_m,
        float(np.mean(to_reference <= within_m)),
        float(np.mean(to_map <= within_m)),
        len(reference),
    )


def nearest_m(points: npt.NDArray[np.float32], among: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Distance of each of ``points`` (N, 3) to the nearest of ``among`` (M, 3), exact, by Open3D's tree."""
    core = open3d().core
    search = core.nns.NearestNeighborSearch(core.Tensor(np.ascontiguousarray(among)))
    search.knn_index()
    squared = search.knn_search(core.Tensor(np.ascontiguousarray(points)), 1)[1].numpy()
    return np.asarray(np.sqrt(squared.ravel()), np.float64)
