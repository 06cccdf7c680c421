"""The training loop, top to bottom. Read ``train`` first, then ``_Trainer`` downwards.

A run is one folder or bucket prefix (see ``train.checkpoint``). The same call again goes on from
its last checkpoint: on a CPU the final weights equal those of an undisturbed run, bit for bit, as
long as torch works with the same number of threads (sums are split over them).
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from serengeti_etl.dataset.index import Dataset
from serengeti_etl.errors import RunError, require
from serengeti_etl.label_config import EMPTY
from serengeti_etl.load.augment import Augment
from serengeti_etl.load.batch import Batch
from serengeti_etl.load.loader import ShardLoader
from serengeti_etl.storage import Store
from serengeti_etl.train.calibration import prior_shift
from serengeti_etl.train.checkpoint import (
    BEST_FILE,
    ModelFile,
    claim_run,
    load_latest,
    save_state,
)
from serengeti_etl.train.metrics import (
    MetricsFile,
    aggregate_sequences,
    class_means,
    mean_binary_log_loss,
)
from serengeti_etl.train.model import (
    build_classifier,
    mixed_precision,
    parameter_groups,
    predict,
    set_trainable,
    to_device,
)
from serengeti_etl.train.recipe import Recipe, Stage, one_cycle
from serengeti_etl.train.settings import Event, TrainResult, TrainSettings


def train(
    dataset_url: str,
    run_url: str,
    recipe: Recipe,
    *,
    settings: TrainSettings | None = None,
    on_event: Callable[[Event], None] = lambda _: None,
) -> TrainResult:
    """Train, or go on with, the run at ``run_url``; returns when ``model.pt`` is there.

    Args:
        dataset_url: a finished dataset's folder or bucket prefix.
        run_url: folder or bucket prefix of the run.
        recipe: what to train.
        settings: where to work and how often to tell.
        on_event: called in this thread; what it raises ends the run at that point.

    Raises:
        ConfigError: the recipe does not fit, or the folder holds a run of something else.
        DatasetError: there is no finished dataset.
        ShardError: a shard is damaged.
        RunError: no checkpoint can be used, or the loss is no longer a number.
    """
    settings = settings or TrainSettings()
    dataset = Dataset(Store(url=dataset_url, options=settings.dataset_options))
    run = Store(url=run_url, options=settings.run_options)
    return _Trainer(dataset, run, recipe, settings, on_event).train()


@dataclass(kw_only=True, slots=True)
class _Place:
    """How far a run is: all that changes, beside weights and optimiser. Kept in checkpoints."""

    stage: int = 0
    epochs_of_stage: int = 0
    epochs: int = 0
    step: int = 0
    cursor: dict[str, Any] | None = None
    loss_sum: float = 0.0
    num_losses: int = 0
    num_records: int = 0
    score: float | None = None
    best_score: float | None = None
    class_means_score: float | None = None

    @property
    def starts_stage(self) -> bool:
        """True between two stages, and before the first."""
        at_start_of_epoch = self.cursor is None or self.cursor["num_consumed"] == 0
        return self.epochs_of_stage == 0 and at_start_of_epoch

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {name: getattr(self, name) for name in self.__slots__}


class _Trainer:
    def __init__(
        self,
        dataset: Dataset,
        run: Store,
        recipe: Recipe,
        settings: TrainSettings,
        on_event: Callable[[Event], None],
    ) -> None:
        self._dataset, self._run, self._recipe = dataset, run, recipe
        self._settings, self._on_event = settings, on_event
        self._device = settings.torch_device
        self._place = _Place()
        self._metrics = MetricsFile(run)
        self._stages = recipe.active_stages
        self._num_steps = self._count_steps()
        self._last_checkpoint = "none yet"
        self._loss_sum = self._zero()

    def train(self) -> TrainResult:
        self._build_model()
        # Only now: what was refused above must leave no trace that refuses a corrected recipe.
        self._run.remove_partial()
        self._run_id = claim_run(self._run, self._dataset, self._recipe)
        state = self._restore()
        self._tell("start" if state is None else "resume", device=str(self._device))
        while self._place.stage < len(self._stages):
            self._train_stage(self._stages[self._place.stage], state and state["optimizer"])
            state = None
        self._model_file().write(self._run)
        self._tell("done", name="model.pt")
        place = self._place
        return TrainResult(
            run_id=self._run_id,
            num_steps=place.step,
            score=place.score,
            best_score=place.best_score,
            class_means_score=place.class_means_score,
        )

    def _count_steps(self) -> int:
        num_images = self._dataset.num_images("train")
        for stage in self._stages:
            # The loader of a late stage would say so hours later.
            size, allowed = stage.batch_size, f"at most {num_images}, the training images"
            require(size <= num_images, f"batch_size of stage {stage.name!r}", size, allowed)
        return sum(stage.epochs * (num_images // stage.batch_size) for stage in self._stages)

    def _build_model(self) -> None:
        stage = self._stages[0]
        # Read through a loader, so that image counts and class codes are the loader's own.
        with self._train_loader(stage) as loader:
            images = loader.samples.images
        means_C = class_means(images.class_counts(), len(images))
        self._sequence_means_C = class_means(*images.sequence_counts())
        with torch.random.fork_rng():
            torch.manual_seed(self._recipe.seed)
            model = build_classifier(self._recipe.model, means_C, self._recipe.weights)
        # As batches come; on two CPU cores too it trains a third faster. torch documents the
        # keyword, its stubs lack it.
        layout = {"memory_format": torch.channels_last}
        self._model = model.to(self._device, **layout)  # type: ignore[call-overload]

    def _restore(self) -> dict[str, Any] | None:
        """Take up the last usable checkpoint, if there is one."""
        state = load_latest(self._run, lambda name: self._tell("damaged", name=name))
        if state is None:
            return None
        found = state["run_id"]
        require(found == self._run_id, "run_id of the checkpoint", found, repr(self._run_id))
        self._model.network.load_state_dict(state["model"])
        self._place = _Place(**state["place"])
        self._loss_sum = self._zero() + self._place.loss_sum
        self._metrics.restore(self._place.num_records)
        torch.set_rng_state(state["rng"])
        self._last_checkpoint = f"of step {self._place.step}"
        return state

    def _train_loader(self, stage: Stage) -> ShardLoader:
        settings = self._settings.loader_settings(
            stage.image_size,
            augment=Augment() if stage.augment else None,
            window=self._recipe.window,
        )
        return ShardLoader(
            self._dataset,
            split="train",
            batch_size=stage.batch_size,
            seed=self._recipe.seed,
            settings=settings,
        )

    def _train_stage(self, stage: Stage, optimizer_state: dict[str, Any] | None) -> None:
        set_trainable(self._model, stage.trainable)
        groups = parameter_groups(self._model, self._recipe.weight_decay, stage.backbone_rate)
        self._optimizer = torch.optim.AdamW(groups, lr=stage.learning_rate)
        if optimizer_state is not None:
            self._optimizer.load_state_dict(optimizer_state)
        place, number = self._place, self._place.stage
        with self._train_loader(stage) as loader:
            if place.cursor is not None:
                loader.load_state_dict(place.cursor)
            while place.stage == number:
                self._train_epoch(stage, loader)
                self._validate(stage)
                self._end_epoch(stage, loader)

    def _train_epoch(self, stage: Stage, loader: ShardLoader) -> None:
        set_trainable(self._model, stage.trainable)
        steps_per_epoch = len(loader)
        done = self._place.epochs_of_stage * steps_per_epoch
        done += steps_per_epoch - loader.num_steps_left
        clock = _Clock()
        for batch in clock.timed(loader):
            self._set_rates(stage, done / (stage.epochs * steps_per_epoch))
            self._step(batch)
            done += 1
            if self._place.step % self._settings.log_every == 0:
                self._log(stage, clock)
            # After the last step of an epoch, one is written anyway.
            if self._place.step % self._settings.checkpoint_every == 0 and loader.num_steps_left:
                self._checkpoint(loader)
            self._tell("step")

    def _set_rates(self, stage: Stage, progress: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = stage.learning_rate * group["rate"] * one_cycle(progress)

    def _step(self, batch: Batch) -> None:
        images_BCHW = to_device(batch.images_BCHW, self._device)
        targets_BC = batch.targets_BC.to(self._device, non_blocking=True)
        with mixed_precision(self._device):
            logits_BC = self._model(images_BCHW)
        loss = binary_cross_entropy_with_logits(logits_BC, targets_BC)
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self._optimizer.step()
        self._place.step += 1
        self._place.num_losses += 1
        # Summed on the device: reading it at every step would make the CPU wait for the GPU.
        self._loss_sum = self._loss_sum + loss.detach().double()

    def _log(self, stage: Stage, clock: "_Clock") -> None:
        """Record the mean loss since the last record."""
        loss = self._read_loss() / self._place.num_losses
        self._loss_sum, self._place.num_losses = self._zero(), 0
        values = {
            "loss": loss,
            "learning_rate": float(self._optimizer.param_groups[-1]["lr"]),
            **clock.read(stage.batch_size),
        }
        self._record("train", stage, values)
        self._tell("log", **values)

    def _validate(self, stage: Stage) -> None:
        """Score the validation split by sequences; keep the weights if they are the best so far."""
        if "val" not in self._dataset.splits:
            return
        settings = self._settings.loader_settings(stage.image_size).for_evaluation()
        with ShardLoader(
            self._dataset, split="val", batch_size=stage.batch_size, settings=settings
        ) as loader:
            images = predict(self._model, loader)
        empty = self._dataset.class_index.get(EMPTY)
        sequences = aggregate_sequences(images, empty)
        place, targets_NC = self._place, sequences.targets_NC
        place.score = mean_binary_log_loss(targets_NC, sequences.probabilities_NC)
        place.class_means_score = mean_binary_log_loss(targets_NC, self._sequence_means_C)
        values = {"score": place.score, "class_means_score": place.class_means_score}
        self._record("val", stage, values | {"num_sequences": len(sequences.names)})
        self._tell("validated", **values)
        if place.best_score is None or place.score < place.best_score:
            place.best_score = place.score
            self._model_file().write(self._run, BEST_FILE)

    def _end_epoch(self, stage: Stage, loader: ShardLoader) -> None:
        place = self._place
        place.epochs += 1
        place.epochs_of_stage += 1
        if place.epochs_of_stage == stage.epochs:
            place.stage, place.epochs_of_stage = place.stage + 1, 0
        self._checkpoint(loader)

    def _checkpoint(self, loader: ShardLoader) -> None:
        place = self._place
        place.loss_sum = self._read_loss()
        place.cursor = loader.state_dict()
        place.num_records = len(self._metrics.records)
        weights = self._model.network.state_dict()
        if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
            raise self._diverged("weights are")
        # The records first: what a checkpoint counts on is there before it.
        self._metrics.write()
        state = {
            "run_id": self._run_id,
            "place": place.state(),
            "model": weights,
            # A stage starts with a fresh optimiser.
            "optimizer": None if place.starts_stage else self._optimizer.state_dict(),
            "rng": torch.get_rng_state(),
        }
        name = save_state(self._run, place.step, state)
        self._last_checkpoint = name
        self._tell("checkpoint", name=name)

    def _read_loss(self) -> float:
        total = float(self._loss_sum)
        if not np.isfinite(total):
            raise self._diverged("loss is")
        return total

    def _diverged(self, what: str) -> RunError:
        return RunError(
            f"the {what} no longer finite at step {self._place.step} of {self._run.url}; last good "
            f"checkpoint: {self._last_checkpoint}. Start a new run with a lower learning_rate"
        )

    def _record(self, kind: str, stage: Stage, values: Mapping[str, Any]) -> None:
        where = {"step": self._place.step, "epoch": self._place.epochs, "stage": stage.name}
        now = {"time": round(time.time(), 3)}
        self._metrics.records.append({"kind": kind} | where | dict(values) | now)

    def _tell(self, kind: Any, **values: Any) -> None:
        number = min(self._place.stage, len(self._stages) - 1)
        self._on_event(
            Event(
                kind=kind,
                stage=self._stages[number].name,
                epoch=self._place.epochs,
                num_epochs=self._recipe.num_epochs,
                step=self._place.step,
                num_steps=self._num_steps,
                values=values,
            )
        )

    def _model_file(self) -> ModelFile:
        number = min(self._place.stage, len(self._stages) - 1)
        weights = self._model.network.state_dict()
        info = self._dataset.info
        return ModelFile(
            model=self._recipe.model,
            classes=self._dataset.classes,
            image_size=self._stages[number].image_size,
            state_dict={name: tensor.cpu() for name, tensor in weights.items()},
            plan_hash=self._dataset.plan_hash,
            step=self._place.step,
            resize=dict(info.settings.get("resize", {})),
            sequence_means=tuple(self._sequence_means_C.tolist()),
            empty_shift=prior_shift(info.priors),
            versions=dict(info.versions),
            data={
                "name": info.name,
                **{key: str(info.settings.get(key, "")) for key in ("licence", "citation")},
            },
        )

    def _zero(self) -> torch.Tensor:
        return torch.zeros((), dtype=torch.float64, device=self._device)


class _Clock:
    """Time since the last reading, and the part of it spent waiting for batches."""

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self._start, self._waited, self._num_batches = time.perf_counter(), 0.0, 0

    def timed(self, batches: ShardLoader) -> Iterator[Batch]:
        """The batches, with the waiting for each of them measured."""
        stream = iter(batches)
        while True:
            start = time.perf_counter()
            batch = next(stream, None)
            self._waited += time.perf_counter() - start
            if batch is None:
                return
            self._num_batches += 1
            yield batch

    def read(self, batch_size: int) -> dict[str, float]:
        """``images_per_second`` and ``data_wait``, a share from 0 to 1, since the last reading."""
        seconds = time.perf_counter() - self._start
        speed, wait = self._num_batches * batch_size / seconds, self._waited / seconds
        self._restart()
        return {"images_per_second": round(speed, 2), "data_wait": round(wait, 4)}
