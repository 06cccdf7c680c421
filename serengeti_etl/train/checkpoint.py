"""A run's state as one file, whole or not at all, and proof against damage.

::

    run.json                    what is trained on what; see ``claim.Claim``
    checkpoints/step-….pt       the last states
    checkpoints/best.pt         weights with the best validation score so far
    metrics.jsonl               see ``metrics.MetricsFile``
    model.pt                    the final weights; written last

A state file starts with a magic word and the SHA-256 of the rest, so that a file cut or changed at
any byte is refused, and the state before it is used. So no pointer says which file counts: the
last one that is whole does.
"""

import hashlib
import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from serengeti_etl.dataset.index import DatasetIndex
from serengeti_etl.errors import ConfigError, RunError, refuse_newer
from serengeti_etl.storage import Store
from serengeti_etl.train.outbox import Outbox

MODEL_FILE = "model.pt"
BEST_FILE = "checkpoints/best.pt"
FOLDER = "checkpoints"

# What torch.load raises on bytes that are no torch file, or one cut somewhere.
_TORCH_FILE_ERRORS = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
_MAGIC = b"serengeti-run/1\n"
STOP_SECONDS = 10.0
"""For what has not arrived yet, when the run is to stop."""

_STATES = f"{FOLDER}/step-"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFile:
    """The contents of ``model.pt``: all that prediction needs.

    Attributes:
        model: as in ``Recipe``.
        classes: categories in the order of the outputs.
        image_size: height and width in px that the last stage trained on.
        state_dict: weights with the network's own names.
        plan_hash: of the dataset that it was trained on.
        step: steps that it was trained for.
        resize: how its photographs were made smaller, as ``ResizeSettings.deciding`` has it; a new
            photograph must be prepared in the same way.
        sequence_means: share of the training sequences that show each category, in order, before
            blanks were thinned.
        empty_shift: to be added to the log odds of ``empty``, which the making of the dataset or
            the recipe thinned in train; 0 if neither did (see ``calibration.shifted_blanks``).
        crop_bottom: share of each photograph's height that is cut off the bottom, as in ``Recipe``.
        versions: libraries that made its dataset's JPEGs.
        data: name, licence and citation of its dataset.
    """

    model: str
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    state_dict: dict[str, torch.Tensor]
    plan_hash: str
    step: int
    resize: dict[str, Any] = field(default_factory=dict)
    sequence_means: tuple[float, ...] = ()
    empty_shift: float = 0.0
    crop_bottom: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)

    def content(self) -> bytes:
        """A plain torch file: ``torch.load(..., weights_only=True)`` reads it."""
        value = {field: getattr(self, field) for field in self.__slots__}
        buffer = io.BytesIO()
        torch.save(value, buffer)
        return buffer.getvalue()

    def write(self, run: Store, name: str = MODEL_FILE) -> None:
        """Put its ``content`` at ``name``."""
        run.write(name, self.content())

    @staticmethod
    def read(run: Store, name: str = MODEL_FILE) -> "ModelFile":
        """The model of a finished run.

        Raises:
            ConfigError: there is none yet, or it is damaged, or of a newer version.
        """
        try:
            content = run.read(name)
        except FileNotFoundError:
            raise ConfigError(
                f"no {name} in {run.url}: the training has not finished; run the same "
                "`serengeti-etl train` again, it continues where it stopped"
            ) from None
        where = f"{name} in {run.url}"
        try:
            value = dict(read_tensors(content))
            known = {key: value.pop(key) for key in ModelFile.__slots__ if key in value}
            file = ModelFile(**known)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{where} is damaged: {error}") from error
        refuse_newer([str(key) for key in value], where)
        return file


def read_tensors(content: bytes) -> Any:
    """Tensors and plain values of a torch file, on the CPU; nothing in the file is executed.

    Raises:
        ValueError: the bytes are no such file.
    """
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except _TORCH_FILE_ERRORS as error:
        raise ValueError(str(error)) from error


def weights_sha256(state_dict: Mapping[str, torch.Tensor]) -> str:
    """A checksum of weights, wherever they lie and whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state_dict.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # Numbers of all kinds as bytes; numpy knows no bfloat16.
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def facts_of(info: DatasetIndex) -> dict[str, Any]:
    """What a model keeps of the dataset that it was trained on: fields of ``ModelFile``."""
    data = {key: str(info.settings.get(key, "")) for key in ("licence", "citation")}
    return {
        "classes": info.classes,
        "plan_hash": info.plan_hash,
        "resize": dict(info.settings.get("resize", {})),
        "versions": dict(info.versions),
        "data": {"name": info.name, **data},
    }


class Checkpoints:
    """The states of a run, kept where the run lies, and before that on a disk nearby, if given.

    What the run's store cannot take now, as it is away, it gets later, from a thread.

    Args:
        run: folder or bucket prefix of the run.
        scratch: local folder for copies; a state is there before it travels to the bucket, and is
            used when it has not arrived there.
        num_kept: states kept in each; those before the last are used when the last is damaged.
        outbox: of the run; by default one that tells nobody.
    """

    def __init__(
        self,
        run: Store,
        scratch: Store | None = None,
        num_kept: int = 2,
        outbox: Outbox | None = None,
    ) -> None:
        self._run, self._num_kept = run, num_kept
        # The nearest first.
        self._stores = [run] if scratch is None else [scratch, run]
        self._outbox = outbox or Outbox()

    def save(
        self, step: int, state: dict[str, Any], before: Callable[[], None] = lambda: None
    ) -> None:
        """Save ``state`` as that of ``step``; all but the last few are removed.

        Args:
            step: steps that the run has done.
            state: tensors and plain values only.
            before: called before the run gets the state, and after the copy nearby is made; from
                another thread, if that is later.

        Raises:
            OSError: a store failed, and will fail again.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        payload = buffer.getvalue()
        content = _MAGIC + hashlib.sha256(payload).digest() + payload
        name = f"{_STATES}{step:09d}.pt"
        for store in self._stores[:-1]:
            self._put(store, name, content)

        def deliver() -> None:
            before()
            self._put(self._run, name, content)

        self._outbox.send("state", name, deliver)

    def save_best(self, model: ModelFile) -> None:
        """Save ``model``, as it is now, as the best so far. Raises as ``save``."""
        self._save_model(model, BEST_FILE)

    def save_final(self, model: ModelFile) -> None:
        """Save ``model`` as what the run came to. Raises as ``save``."""
        self._save_model(model, MODEL_FILE)

    def arrived(self) -> list[str]:
        """Names of the states that the run's store has got since the last call, the last one last.

        Each is that of a whole file.
        """
        return [name for name in self._outbox.arrived() if name.startswith(_STATES)]

    def finish(self, seconds: float = STOP_SECONDS) -> None:
        """Return when all has arrived.

        Args:
            seconds: to wait for it; by default those of a run that is asked to stop.

        Raises:
            Incomplete: it has not.
            OSError: as ``save``.
        """
        self._outbox.finish(seconds)

    def _save_model(self, model: ModelFile, name: str) -> None:
        content = model.content()
        self._outbox.send(name, name, lambda: self._run.write(name, content))

    def _put(self, store: Store, name: str, content: bytes) -> None:
        store.write(name, content)
        for old in _state_files(store)[: -self._num_kept]:
            store.delete(old)

    def load(self, on_damaged: Callable[[str], None]) -> dict[str, Any] | None:
        """The last usable state, tensors on the CPU; None if there is no state at all.

        Args:
            on_damaged: called with the name of each state that cannot be used.

        Raises:
            RunError: there are states, but none of them can be used.
        """
        names = {store.url: _state_files(store) for store in self._stores}
        for name in sorted({one for some in names.values() for one in some}, reverse=True):
            for store in self._stores:
                if name in names[store.url]:
                    state = _parse_state(store.read(name))
                    if state is not None:
                        return state
                    on_damaged(name)
        found = sorted({one for some in names.values() for one in some})
        if found:
            raise RunError(
                f"all checkpoints of {self._run.url} are damaged ({', '.join(found)}); delete its "
                f"folder {FOLDER} to start this run anew"
            )
        return None


def _parse_state(content: bytes) -> dict[str, Any] | None:
    """The state in a file; None if it was cut or changed, or holds anything but plain values."""
    start = len(_MAGIC) + 32
    payload = content[start:]
    if content[:start] != _MAGIC + hashlib.sha256(payload).digest():
        return None
    try:
        return dict(read_tensors(payload))
    except ValueError:
        return None


def _state_files(store: Store) -> list[str]:
    return [name for name in store.list(FOLDER) if name.startswith(f"{FOLDER}/step-")]
