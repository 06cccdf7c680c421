"""What may be chosen about an evaluation."""

from dataclasses import dataclass

from serengeti_etl.errors import require


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSettings:
    """How a run is judged; none of it changes the run.

    Attributes:
        with_mirror: the mean of the logits of each photograph and its mirror image; twice the work.
        tune_on: split on which aggregation, temperatures and thresholds are fitted; a dataset
            without it has nothing fitted, and thresholds of 0.5.
        blank_threshold: probability of ``empty`` from which a sequence counts as blank; None takes
            the lowest that loses at most ``max_missed`` of the animals of ``tune_on``.
        max_missed: share of the sequences with animals, 0 to 1.
        day_hours: first hour of the day and first of the night, by the camera's clock; the default
            fits the equator, where the sun of Serengeti rises before 7 and sets before 19.
        num_resamples: of the sites, for intervals.
        seed: of the resamples, and of the folds of sites.
    """

    with_mirror: bool = False
    tune_on: str = "val"
    blank_threshold: float | None = None
    max_missed: float = 0.01
    day_hours: tuple[int, int] = (7, 19)
    num_resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        given = self.blank_threshold
        in_range = given is None or 0 <= given <= 1
        require(in_range, "blank_threshold", given, "from 0 to 1, or None")
        require(0 <= self.max_missed <= 1, "max_missed", self.max_missed, "from 0 to 1")
        dawn, dusk = self.day_hours
        rises = 0 <= dawn < dusk <= 24  # noqa: PLR2004 - hours of a day
        require(rises, "day_hours", self.day_hours, "(first hour of day, first of night), 0 to 24")
        require(self.num_resamples > 0, "num_resamples", self.num_resamples, "positive")
        require(self.seed >= 0, "seed", self.seed, "zero or positive")
