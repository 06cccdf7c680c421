"""What of each photograph is looked at, and how: crops, mirroring and light, drawn without a state.

What is cut off the bottom is not drawn, but the same for all: many cameras burn a banner there.

Randomness comes from a counter-based hash of (seed, epoch, place in the global order), so a resumed
run sees the same pixels, on any number of ranks and threads and in batches of any size. Each kind
of draw has columns of its own: switching one on does not change the others.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serengeti_etl.errors import require

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_NUM_FRAMING = 4  # columns of side, top, left and flip; those of the jitter follow
_NUM_JITTERS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Augment:
    """How training may change what it sees of a photograph; light, as animals stand at the edge.

    Attributes:
        min_area: smallest share of a photograph's area that a crop keeps, above 0 and at most 1;
            1 for no crops. Crops have the photograph's own aspect.
        flip: half of the photographs are mirrored left to right; never upside down.
        brightness: strength of the jitter, 0 to 1: the factor is drawn from 1 - s to 1 + s.
        contrast: likewise.
        saturation: likewise.
    """

    min_area: float = 0.65
    flip: bool = True
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self) -> None:
        require(0 < self.min_area <= 1, "min_area", self.min_area, "above 0 and at most 1")
        for name in ("brightness", "contrast", "saturation"):
            strength = getattr(self, name)
            require(0 <= strength <= 1, name, strength, "from 0 to 1")

    @property
    def strengths(self) -> tuple[float, float, float]:
        """Of brightness, contrast and saturation."""
        return (self.brightness, self.contrast, self.saturation)


def check_crop_bottom(share: float) -> None:
    """Nothing, if so much can be cut off the bottom of a photograph.

    Raises:
        ConfigError: otherwise.
    """
    require(0 <= share <= MAX_CROP_BOTTOM, "crop_bottom", share, f"from 0 to {MAX_CROP_BOTTOM}")


MAX_CROP_BOTTOM = 0.5
"""Share of the height: no banner is larger."""


def kept_heights(heights_B: Int64, crop_bottom: float) -> Int64:
    """Rows that are left of photographs of these heights; even where any are cut off.

    Args:
        heights_B: in px.
        crop_bottom: at least this share is cut off.
    """
    if crop_bottom == 0:
        return heights_B
    even_B: Int64 = 2 * np.floor(heights_B * (1 - crop_bottom) / 2).astype(np.int64)
    return np.maximum(1, even_B)


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What is looked at of one photograph, or of what is left of it above ``crop_bottom``.

    Attributes:
        top: upper edge of the crop as a share of the height, 0 to 1.
        left: left edge of the crop as a share of the width, 0 to 1.
        side: length of the crop as a share of height and of width, so that aspect is kept, 0 to 1.
        flip: mirrored left to right.
        jitter: factors of brightness, contrast and saturation; 1 changes nothing.
        crop_bottom: share of the height that is cut off the bottom before all this.
    """

    top: float = 0.0
    left: float = 0.0
    side: float = 1.0
    flip: bool = False
    jitter: tuple[float, float, float] = (1.0, 1.0, 1.0)
    crop_bottom: float = 0.0

    def box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, left, rows and columns of the crop in px of a photograph of this size.

        Crops lie on even px: a decode at half size can then cut out exactly the same.
        """
        height = int(kept_heights(np.array(height), self.crop_bottom))
        if self.side == 1:
            return 0, 0, height, width
        num_rows = max(1, 2 * round(height * self.side / 2))
        num_columns = max(1, 2 * round(width * self.side / 2))
        top = min(round(height * self.top / 2), (height - num_rows) // 2)
        left = min(round(width * self.left / 2), (width - num_columns) // 2)
        return 2 * top, 2 * left, num_rows, num_columns


WHOLE = View()
"""The whole photograph as it is, as evaluation sees it."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Views:
    """What is looked at of the photographs of a batch: ``View``, one column per attribute.

    Attributes:
        tops_B: float64.
        lefts_B: float64.
        sides_B: float64.
        flips_B: bool.
        jitter_B3: float32 factors of brightness, contrast and saturation.
        crop_bottom: of all of them.
    """

    tops_B: Float64
    lefts_B: Float64
    sides_B: Float64
    flips_B: NDArray[np.bool_]
    jitter_B3: Float32
    crop_bottom: float = 0.0

    def __len__(self) -> int:
        return len(self.tops_B)

    def __getitem__(self, part: slice) -> "Views":
        return Views(
            tops_B=self.tops_B[part],
            lefts_B=self.lefts_B[part],
            sides_B=self.sides_B[part],
            flips_B=self.flips_B[part],
            jitter_B3=self.jitter_B3[part],
            crop_bottom=self.crop_bottom,
        )

    def __iter__(self) -> Iterator[View]:
        columns = (self.tops_B, self.lefts_B, self.sides_B, self.flips_B, self.jitter_B3)
        for top, left, side, flip, jitter in zip(*(c.tolist() for c in columns), strict=True):
            yield View(
                top=top,
                left=left,
                side=side,
                flip=flip,
                jitter=tuple(jitter),
                crop_bottom=self.crop_bottom,
            )

    def of(self, at: int) -> View:
        """The view of one photograph."""
        (view,) = self[slice(at, at + 1)]
        return view

    def boxes(self, sizes_B2: Int64) -> Int64:
        """``View.box`` of each: top, left, rows and columns in px, (B, 4).

        Args:
            sizes_B2: height and width of each photograph in px; 0, of no photograph, counts as 1.
        """
        sizes_B2 = np.maximum(1, sizes_B2)
        kept_B = kept_heights(sizes_B2[:, 0], self.crop_bottom)
        sizes_B2 = np.stack([kept_B, sizes_B2[:, 1]], axis=1)
        even_B2 = np.maximum(1, 2 * np.rint(sizes_B2 * self.sides_B[:, None] / 2))
        lengths_B2 = np.where(self.sides_B[:, None] == 1, sizes_B2, even_B2)
        corners_B2 = np.rint(sizes_B2 * np.stack([self.tops_B, self.lefts_B], axis=1) / 2)
        corners_B2 = 2 * np.minimum(corners_B2, (sizes_B2 - lengths_B2) // 2)
        return np.concatenate([corners_B2, lengths_B2], axis=1).astype(np.int64)


def whole_views(num_views: int) -> Views:
    """Views of whole photographs as they are."""
    return Views(
        tops_B=np.zeros(num_views),
        lefts_B=np.zeros(num_views),
        sides_B=np.ones(num_views),
        flips_B=np.zeros(num_views, dtype=np.bool_),
        jitter_B3=np.ones((num_views, _NUM_JITTERS), dtype=np.float32),
    )


def draw_views(augment: Augment, key: tuple[int, int], positions_B: Int64) -> Views:
    """A crop, a flip and a jitter for each place, decided by key and place alone.

    The area of crops is uniform from ``min_area`` to 1, and their place uniform inside the frame.

    Args:
        augment: what may be drawn.
        key: seed and epoch.
        positions_B: places in the global order of the epoch.
    """
    num_draws = _NUM_FRAMING + (_NUM_JITTERS if any(augment.strengths) else 0)
    draws = uniform_bits(key, positions_B, num_draws)
    sides_B = np.sqrt(augment.min_area + (1 - augment.min_area) * draws[:, 0])
    even_chance = draws[:, 3] < 0.5  # noqa: PLR2004 - half of them
    return Views(
        tops_B=draws[:, 1] * (1 - sides_B),
        lefts_B=draws[:, 2] * (1 - sides_B),
        sides_B=sides_B,
        flips_B=even_chance & augment.flip,
        jitter_B3=_jitter(augment, draws[:, _NUM_FRAMING:]),
    )


def uniform_bits(key: tuple[int, int], positions_B: Int64, draws: int) -> Float64:
    """Numbers in [0, 1), (B, draws), each decided by its key, place and column alone.

    Args:
        key: seed and epoch.
        positions_B: places in the global order of the epoch.
        draws: numbers per place.
    """
    seed, epoch = key
    # uint64 arithmetic wraps around, which is what the hash wants.
    with np.errstate(over="ignore"):
        base = _mix(_mix(np.uint64(seed) + _GOLDEN) ^ (np.uint64(epoch) * _GOLDEN))
        per_place = _mix(base + positions_B.astype(np.uint64)[:, None] * _GOLDEN)
        bits = _mix(per_place + np.arange(1, draws + 1, dtype=np.uint64) * _GOLDEN)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _jitter(augment: Augment, draws_BJ: Float64) -> Float32:
    """Factors from 1 - s to 1 + s of each strength s; ones where nothing was drawn."""
    if draws_BJ.shape[1] == 0:
        return np.ones((len(draws_BJ), _NUM_JITTERS), dtype=np.float32)
    return (1 + np.array(augment.strengths) * (2 * draws_BJ - 1)).astype(np.float32)


def _mix(bits: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: every input bit changes half of the output bits."""
    bits = np.asarray(bits)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
