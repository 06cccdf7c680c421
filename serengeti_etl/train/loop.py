"""The training loop, top to bottom. Read ``train`` first, then ``_Trainer`` downwards.

A run is one folder or bucket prefix (see ``train.checkpoint``). The same call again goes on from
its last checkpoint: on a CPU the final weights equal those of an undisturbed run, bit for bit, as
long as torch works with the same number of threads (sums are split over them).

Under ``torchrun`` the ranks share every batch, so that any number of them takes the same steps on
the same images in the same order. The weights are then close, not equal: each rank's BatchNorm sees
its own part of a batch, and sums have another order. All ranks have the same state, but for the
running statistics of BatchNorm, of which the first rank's are passed on; so it saves all there is.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from serengeti_etl.dataset.index import Dataset
from serengeti_etl.errors import Incomplete, RunError, require
from serengeti_etl.load.batch import Batch
from serengeti_etl.load.device import Output
from serengeti_etl.load.loader import ShardLoader
from serengeti_etl.retry import patiently
from serengeti_etl.storage import Store
from serengeti_etl.train.average import WeightAverage
from serengeti_etl.train.checkpoint import Checkpoints, ModelFile, facts_of
from serengeti_etl.train.claim import Claim
from serengeti_etl.train.feed import Clock, on_device
from serengeti_etl.train.layers import parameter_groups, set_trainable
from serengeti_etl.train.losses import CALIBRATION_WARNING, LOSSES
from serengeti_etl.train.metrics import MetricsFile
from serengeti_etl.train.mixup import mix, seed_torch
from serengeti_etl.train.model import build_classifier, mixed_precision
from serengeti_etl.train.outbox import Outbox
from serengeti_etl.train.place import RunPlace
from serengeti_etl.train.ranks import Ranks, open_ranks, synced_batch_norm, without_exchange
from serengeti_etl.train.recipe import Recipe, Stage, one_cycle
from serengeti_etl.train.settings import Event, TrainResult, TrainSettings, Watch
from serengeti_etl.train.showcase import Showcase
from serengeti_etl.train.thinning import selection_of, thinned_means
from serengeti_etl.train.validation import Validation, predict_part


def train(  # noqa: PLR0913 - the public signature
    dataset_url: str,
    run_url: str,
    recipe: Recipe,
    *,
    settings: TrainSettings | None = None,
    on_event: Callable[[Event], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Train, or go on with, the run at ``run_url``; returns when ``model.pt`` is there.

    Args:
        dataset_url: a finished dataset's folder or bucket prefix.
        run_url: folder or bucket prefix of the run.
        recipe: what to train.
        settings: where to work and how often to tell.
        on_event: called in this thread; what it raises ends the run at that point.
        should_stop: asked between steps; once true, the run saves a checkpoint and ends.

    Raises:
        ConfigError: the recipe does not fit, or the folder holds a run of something else.
        DatasetError: there is no finished dataset.
        ShardError: a shard is damaged.
        RunError: no checkpoint can be used, or the loss is no longer a number.
        OutputHeld: another process trains this run.
        Incomplete: asked to stop, or what it saved never arrived; the same call goes on.
    """
    settings = settings or TrainSettings()
    dataset = Dataset(Store(url=dataset_url, options=settings.dataset_options))
    run = Store(url=run_url, options=settings.run_options)
    watch = Watch(on_event=on_event, should_stop=should_stop)
    trainer = _Trainer(dataset, run, recipe, settings, watch)
    # The claim is given up when nothing late can come any more.
    with open_ranks(settings.torch_device) as ranks, trainer.claim, trainer.outbox:
        return trainer.train(ranks)


class _Trainer:
    def __init__(
        self, dataset: Dataset, run: Store, recipe: Recipe, settings: TrainSettings, watch: Watch
    ) -> None:
        self._dataset, self._run, self._recipe = dataset, run, recipe
        self._settings, self._watch = settings, watch
        self._place = RunPlace()
        self._metrics = MetricsFile(run)
        self._stages = recipe.active_stages
        self._num_images = dataset.num_images("train")
        self._last_checkpoint = "none yet"
        self.claim, self.outbox = Claim(run), Outbox(self._tell_late)

    def train(self, ranks: Ranks) -> TrainResult:
        self._ranks, self._device = ranks, ranks.own(self._settings.torch_device)
        self._loss_sum = self._zero()
        num_parts = ranks.world_size * self._settings.accumulate
        self._recipe.check_fits(self._num_images, num_parts, self._device.type)
        self._build_model()
        # Only now: what was refused above must leave no trace that refuses a corrected recipe.
        self._run_id = ranks.from_first(lambda: self.claim.take(self._dataset, self._recipe))
        state = self._restore()
        self._tell(
            "start" if state is None else "resume",
            device=str(self._device),
            run_id=self._run_id,
            metrics=self._metrics,
            stages=[(stage.name, stage.num_steps(self._num_images)) for stage in self._stages],
        )
        if self._recipe.loss != "bce":
            self._tell("warning", text=CALIBRATION_WARNING.format(name=self._recipe.loss))
        while self._place.stage < len(self._stages):
            self._train_stage(self._stages[self._place.stage], state and state["optimizer"])
            state = None
        if ranks.is_first:
            self._checkpoints.save_final(self._model_file())
            self._checkpoints.finish(self._settings.patience_seconds)
        self._tell("done", name="model.pt")
        return TrainResult.of(self._run_id, self._place)

    def _build_model(self) -> None:
        recipe = self._recipe
        # Read through a loader, so that image counts and class codes are the loader's own.
        with self._train_loader(self._stages[0]) as loader:
            images = loader.samples.images
        counts_C, num_images = images.class_counts(), len(images)
        self._validation = Validation.of(self._dataset, images, recipe.empty_weight)
        empty = self._validation.empty
        seen_C = thinned_means(counts_C, num_images, empty, recipe.empty_weight)
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            model = build_classifier(recipe.model, seen_C, recipe.weights)
        if recipe.sync_batch_norm:
            model.network = synced_batch_norm(model.network)
        # As batches come; on two CPU cores too it trains a third faster. torch documents the
        # keyword, its stubs lack it.
        layout = {"memory_format": torch.channels_last}
        self._model = model.to(self._device, **layout)  # type: ignore[call-overload]
        decay = recipe.average
        self._average = None if decay is None else WeightAverage(self._model, decay)

    def _restore(self) -> dict[str, Any] | None:
        """Take up the last usable checkpoint, if there is one."""
        scratch, num_kept = self._settings.scratch, self._settings.num_kept
        nearby = None if scratch is None else Store(url=f"{scratch}/{self._run_id}")
        self._checkpoints = Checkpoints(self._run, nearby, num_kept, self.outbox)
        state = self._ranks.from_first(
            lambda: self._checkpoints.load(lambda name: self._tell("damaged", name=name))
        )
        if state is None:
            return None
        found = state["run_id"]
        require(found == self._run_id, "run_id of the checkpoint", found, repr(self._run_id))
        self._model.network.load_state_dict(state["model"])
        if self._average is not None:
            self._average.load_state(state["average"])
        self._place = RunPlace(**state["place"])
        self._loss_sum = self._zero() + self._place.loss_sum
        if self._ranks.is_first:
            self._metrics.restore(self._place.num_records)
        self._last_checkpoint = f"of step {self._place.step}"
        return state

    def _train_loader(self, stage: Stage) -> ShardLoader:
        settings = self._settings.loader_settings(
            stage.image_size,
            augment=stage.augment,
            crop_bottom=self._recipe.crop_bottom,
            window=self._recipe.window,
            resize_on=self._settings.resizes_on,
        )
        selection = selection_of(self._recipe.empty_weight)
        return self._loader("train", stage, settings=settings, selection=selection)

    def _loader(self, split: str, stage: Stage, **more: Any) -> ShardLoader:
        """Of this rank's share of a part of each batch."""
        num_ranks = self._ranks.world_size
        make = partial(
            ShardLoader,
            self._dataset,
            split=split,
            batch_size=stage.batch_size // (num_ranks * self._settings.accumulate),
            seed=self._recipe.seed,
            rank=self._ranks.rank,
            world_size=num_ranks,
            **more,
        )
        return patiently(make, self._settings.patience_seconds)

    def _train_stage(self, stage: Stage, optimizer_state: dict[str, Any] | None) -> None:
        set_trainable(self._model, stage.trainable)
        groups = parameter_groups(self._model, self._recipe.weight_decay, stage.backbone_rate)
        self._optimizer = torch.optim.AdamW(groups, lr=stage.learning_rate)
        if optimizer_state is not None:
            self._optimizer.load_state_dict(optimizer_state)
        # Anew in each stage: which gradients are exchanged is fixed here.
        forward = self._ranks.together(self._model)
        self._forward = torch.compile(forward) if self._settings.compile else forward
        place, number = self._place, self._place.stage
        with self._train_loader(stage) as loader:
            if place.cursor is not None:
                loader.load_state_dict(place.cursor)
            while place.stage == number:
                self._train_epoch(stage, loader)
                self._validate(stage, loader)
                self._end_epoch(stage, loader)

    def _train_epoch(self, stage: Stage, loader: ShardLoader) -> None:
        set_trainable(self._model, stage.trainable)
        left_of_stage = stage.num_steps(self._num_images) - self._place.steps_of_stage
        num_left = min(left_of_stage, loader.num_steps_left // self._settings.accumulate)
        is_whole = self._settings.resizes_on == "device"
        output = Output(image_size=stage.image_size) if is_whole else None
        clock = Clock(loader.ready)
        parts = on_device(clock.timed(loader), self._device, output)
        while num_left:
            self._set_rates(stage)
            self._step(stage, parts)
            num_left -= 1
            if self._place.step % self._settings.log_every == 0:
                self._log(stage, clock)
            if num_left and self._place.step % self._settings.checkpoint_every == 0:
                self._checkpoint(loader)
            self._tell("step")
            self._stop_if_asked(loader)

    def _set_rates(self, stage: Stage) -> None:
        share = one_cycle(self._place.steps_of_stage / stage.num_steps(self._num_images))
        for group in self._optimizer.param_groups:
            group["lr"] = stage.learning_rate * group["rate"] * share

    def _step(self, stage: Stage, parts: Iterator[Batch]) -> None:
        num_parts, place = self._settings.accumulate, self._place
        self._optimizer.zero_grad(set_to_none=True)
        for number in range(num_parts):
            part = next(parts)
            key = (self._recipe.seed, place.step, number, self._ranks.rank)
            seed_torch(key)
            images_BCHW, targets_BC = part.images_BCHW, part.targets_BC
            if stage.mixup:
                images_BCHW, targets_BC = mix(images_BCHW, targets_BC, stage.mixup, key)
            with without_exchange(self._forward, unless=number == num_parts - 1):
                with mixed_precision(self._device):
                    logits_BC = self._forward(images_BCHW)
                loss = LOSSES[self._recipe.loss](logits_BC, targets_BC) / num_parts
                torch.autograd.backward(loss)
            # Summed on the device: reading it at every step would make the CPU wait for the GPU.
            self._loss_sum = self._loss_sum + loss.detach().double()
        if self._recipe.max_gradient_norm is not None:
            parameters = self._model.network.parameters()
            torch.nn.utils.clip_grad_norm_(parameters, self._recipe.max_gradient_norm)
        self._optimizer.step()
        if self._average is not None:
            self._average.update(self._model)
        place.advance()

    def _log(self, stage: Stage, clock: Clock) -> None:
        """Record the mean loss since the last record."""
        loss = self._read_loss() / self._place.num_losses
        self._loss_sum, self._place.num_losses = self._zero(), 0
        values = {
            "loss": loss,
            "learning_rate": float(self._optimizer.param_groups[-1]["lr"]),
            **clock.read(self._ranks.world_size),
        }
        self._metrics.record("train", self._place, stage.name, values)
        self._tell("log", **values)
        self._tell_arrived()

    def _validate(self, stage: Stage, train_loader: ShardLoader) -> None:
        """Score the validation split by sequences; keep the weights if they are the best so far."""
        if "val" not in self._dataset.splits:
            return
        model = self._model if self._average is None else self._average.model
        self._ranks.share_buffers(model)
        crop, showcase = self._recipe.crop_bottom, Showcase()
        settings = self._settings.loader_settings(stage.image_size, crop_bottom=crop)
        with self._loader("val", stage, settings=settings.for_evaluation()) as loader:
            batches = on_device(showcase.keep(loader), self._device)
            part = predict_part(model, self._watched(batches, train_loader))
        parts, place = self._ranks.gather(part), self._place
        scores = self._ranks.from_first(lambda: self._validation.scores(parts))
        place.score, place.class_means_score = scores.score, scores.class_means_score
        values = {"score": scores.score, "class_means_score": scores.class_means_score}
        record = values | {"num_sequences": scores.num_sequences}
        self._metrics.record("val", place, stage.name, record)
        samples = showcase.samples(self._validation.judged(part), self._dataset.classes)
        is_best, before = place.is_best(scores.score), place.best_score
        self._tell("validated", samples=samples, is_best=is_best, best_before=before, **values)
        if is_best:
            place.best_score = scores.score
            if self._ranks.is_first:
                self._checkpoints.save_best(self._model_file())

    def _watched(self, batches: Iterable[Batch], train_loader: ShardLoader) -> Iterator[Batch]:
        for batch in batches:
            self._stop_if_asked(train_loader)
            self._tell("validating")
            yield batch

    def _end_epoch(self, stage: Stage, loader: ShardLoader) -> None:
        place = self._place
        loader.start_epoch(loader.epoch + 1)
        place.epochs += 1
        if place.steps_of_stage == stage.num_steps(self._num_images):
            place.stage, place.steps_of_stage = place.stage + 1, 0
        self._checkpoint(loader)

    def _stop_if_asked(self, loader: ShardLoader) -> None:
        """Save and end if any rank was asked to stop; all ranks do so after the same step."""
        if self._ranks.any(self._watch.should_stop() or self.claim.is_lost):
            self._checkpoint(loader)
            if self._ranks.is_first:
                self._checkpoints.finish()
                self._tell_arrived()
            saved = f"saved as {self._last_checkpoint}"
            raise Incomplete(f"stopped at step {self._place.step}, {saved}")

    def _checkpoint(self, loader: ShardLoader) -> None:
        place = self._place
        self.claim.check(self._ranks)
        place.loss_sum = self._read_loss()
        place.cursor = loader.state_dict()
        place.num_records = len(self._metrics.records)
        weights = self._model.network.state_dict()
        is_good = all(bool(torch.isfinite(tensor).all()) for tensor in weights.values())
        if self._ranks.any(not is_good):
            raise self._diverged("weights are")
        state = {
            "run_id": self._run_id,
            "place": place.state(),
            "model": weights,
            "average": None if self._average is None else self._average.state(),
            # A stage starts with a fresh optimiser. The schedule follows from the place, and what
            # is drawn at random from seed and step.
            "optimizer": self._optimizer.state_dict() if place.steps_of_stage else None,
        }
        if self._ranks.is_first:
            # The records first: what a checkpoint counts on is there before it.
            self._checkpoints.save(place.step, state, before=self._metrics.write)
            self._tell_arrived()

    def _read_loss(self) -> float:
        total = float(self._ranks.mean(self._loss_sum))
        if not np.isfinite(total):
            raise self._diverged("loss is")
        return total

    def _diverged(self, what: str) -> RunError:
        return RunError(
            f"the {what} no longer finite at step {self._place.step} of {self._run.url}; last good "
            f"checkpoint: {self._last_checkpoint}. Start a new run with a lower learning_rate"
        )

    def _tell(self, kind: Any, **values: Any) -> None:
        if not self._ranks.is_first:
            return
        event = Event(
            kind=kind,
            stage=self._stage.name,
            epoch=self._place.epochs,
            num_epochs=sum(stage.num_epochs(self._num_images) for stage in self._stages),
            step=self._place.step,
            num_steps=sum(stage.num_steps(self._num_images) for stage in self._stages),
            values=values,
        )
        self._watch.on_event(event)

    @property
    def _stage(self) -> Stage:
        """The stage that the run is in; at its end the last one."""
        return self._stages[min(self._place.stage, len(self._stages) - 1)]

    def _tell_arrived(self) -> None:
        for name in self._checkpoints.arrived():
            self._last_checkpoint = name
            self._tell("checkpoint", name=name)

    def _tell_late(self, error: OSError) -> None:
        self._tell("late", text=f"nothing can be saved at {self._run.url} for now: {error}")

    def _model_file(self) -> ModelFile:
        model = self._model if self._average is None else self._average.model
        return ModelFile(
            model=self._recipe.model,
            image_size=self._stage.image_size,
            state_dict={name: value.cpu() for name, value in model.network.state_dict().items()},
            step=self._place.step,
            sequence_means=tuple(self._validation.means_C.tolist()),
            crop_bottom=self._recipe.crop_bottom,
            empty_shift=-math.log(self._validation.empty_weight) + 0.0,
            **facts_of(self._dataset.info),
        )

    def _zero(self) -> torch.Tensor:
        return torch.zeros((), dtype=torch.float64, device=self._device)
