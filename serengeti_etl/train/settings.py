"""What goes into a run beside its recipe, what it tells meanwhile, and what comes out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch

from serengeti_etl.config import MIB
from serengeti_etl.errors import require
from serengeti_etl.load.loader import LoaderSettings
from serengeti_etl.load.shard_source import CacheSettings
from serengeti_etl.train.place import RunPlace


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSettings:
    """Where a run works and how often it tells; none of it decides the model.

    Attributes:
        device: a torch device such as ``cuda:0``; ``auto`` takes a GPU if there is one.
        accumulate: parts that each step is worked through in, one after the other: as many as
            memory asks for. Each part has its own statistics in BatchNorm, as each rank's part has.
        compile: let torch compile the network, which takes a minute or more first.
        resize_on: ``device`` crops and resizes training images there, which halves the work of the
            CPU; ``auto`` does so on a GPU.
        checkpoint_every: steps between checkpoints, beside those at the end of each epoch.
        num_kept: checkpoints kept, beside the best weights.
        scratch: local folder for copies of the checkpoints of a run in a bucket, written first.
        patience_seconds: that the stores may be away before the run ends, to be continued: in the
            meantime what is to be saved waits beside it, and it waits for shards.
        log_every: steps between records of the loss.
        num_threads: threads that decode; None means as many as the process may use cores.
        cache_folder: local folder for the shards of a bucket.
        cache_bytes: size in bytes that the folder is kept within.
        dataset_options: options for the fsspec file system of the dataset.
        run_options: options for the fsspec file system of the run.
    """

    device: str = "auto"
    accumulate: int = 1
    compile: bool = False
    resize_on: Literal["auto", "cpu", "device"] = "auto"
    checkpoint_every: int = 500
    num_kept: int = 2
    scratch: str | None = None
    patience_seconds: float = 900.0
    log_every: int = 20
    num_threads: int | None = None
    cache_folder: str = "~/.cache/serengeti-etl"
    cache_bytes: int = 8192 * MIB
    dataset_options: Mapping[str, Any] = field(default_factory=dict)
    run_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        every = self.checkpoint_every
        require(every > 0, "checkpoint_every", every, "positive")
        require(self.accumulate > 0, "accumulate", self.accumulate, "positive")
        require(self.num_kept > 0, "num_kept", self.num_kept, "positive")
        places = ("auto", "cpu", "device")
        require(self.resize_on in places, "resize_on", self.resize_on, f"one of {places}")
        require(self.log_every > 0, "log_every", self.log_every, "positive")

    @property
    def torch_device(self) -> torch.device:
        """The device to work on."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    @property
    def resizes_on(self) -> Literal["cpu", "device"]:
        """Where training images are cropped and resized."""
        if self.resize_on == "auto":
            return "device" if self.torch_device.type == "cuda" else "cpu"
        return self.resize_on

    def loader_settings(self, image_size: tuple[int, int], **more: Any) -> LoaderSettings:
        """Settings of a loader that works where this run does."""
        return LoaderSettings(
            image_size=image_size,
            num_threads=self.num_threads,
            cache=CacheSettings(
                folder=self.cache_folder,
                limit_bytes=self.cache_bytes,
                patience_seconds=self.patience_seconds,
            ),
            pin_memory=self.torch_device.type == "cuda",
            **more,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened in a run, for a progress line.

    Attributes:
        kind: ``start`` and ``resume``: once, before the first step; values ``device``, ``run_id``,
            ``metrics``, the run's records, and ``stages``, names with their steps. ``step``: after
            every step. ``validating``: with every batch of a validation. ``log``: every few steps;
            values ``loss``, ``learning_rate``, ``images_per_second``, ``data_wait``, the share of
            time spent waiting for batches, and ``ready``, how many lay ready on average when one
            was asked for. ``validated``: after every epoch; values ``score``,
            ``class_means_score``, ``is_best``, ``best_before``, the lowest score until then or
            None, and ``samples``, a few photographs with what the model makes of them.
            ``checkpoint``: one was written; ``damaged``: one could not be used; ``done``:
            ``model.pt`` is there. The last three have a ``name``. ``warning``: before the first
            step; has a ``text``, as has ``late``: the store is away, and what is to be saved waits
            for it.
        stage: name of the stage.
        epoch: epochs done in all stages.
        num_epochs: epochs of all stages.
        step: steps done in all stages.
        num_steps: steps of all stages.
        values: see ``kind``.
    """

    kind: Literal[
        "start",
        "resume",
        "warning",
        "step",
        "validating",
        "log",
        "validated",
        "checkpoint",
        "damaged",
        "late",
        "done",
    ]
    stage: str
    epoch: int
    num_epochs: int
    step: int
    num_steps: int
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Watch:
    """How a run and who started it hear of each other.

    Attributes:
        on_event: called in the thread of the first rank; what it raises ends the run at that point.
        should_stop: asked between steps; true on any rank ends the run with a checkpoint.
    """

    on_event: Callable[[Event], None] = lambda _: None
    should_stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """What a finished run came to.

    Attributes:
        run_id: of this run.
        num_steps: steps done.
        score: sequence-level score of the last validation; None without a ``val`` split.
        best_score: of the best validation.
        class_means_score: score of predicting the training split's class means.
    """

    run_id: str
    num_steps: int
    score: float | None
    best_score: float | None
    class_means_score: float | None

    @classmethod
    def of(cls, run_id: str, place: RunPlace) -> Self:
        """The run at its end."""
        return cls(
            run_id=run_id,
            num_steps=place.step,
            score=place.score,
            best_score=place.best_score,
            class_means_score=place.class_means_score,
        )
