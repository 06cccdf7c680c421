"""Where tasks run: serial or Dask, behind one ``map``. Dask's only home.

This module knows nothing of photographs, so both halves of conversion (making shards, verifying
them) can use it.
"""

import importlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

from serengeti_etl.config import ClusterSpec
from serengeti_etl.errors import ConfigError, RequestRefused, ShardError

if TYPE_CHECKING:
    from serengeti_etl.worker_plugins import Fingerprint

logger = logging.getLogger(__name__)

TASKS_PER_THREAD = 3
"""Tasks handed to a cluster per thread: enough to keep it busy, few enough to stay small."""

RECOUNT_SECONDS = 2.0
"""How often the threads of a cluster are counted again: workers come and go as it works."""

MOST_DEATHS = 3
"""Workers that may die of a task before it is given up, as with Dask's own default."""

SHOWN_WORKERS = 5
"""Workers that a message names."""

WORKER_ENVIRONMENT = {
    "VIPS_CONCURRENCY": "1",  # one thread per photograph: the cluster is the parallelism
    "MALLOC_ARENA_MAX": "2",  # or glibc keeps an arena per thread and memory creeps up
    "PYTHONFAULTHANDLER": "1",  # a worker that is ended because it hangs says where
}


class Task(Protocol):
    """What a runner needs to know of a task."""

    @property
    def key(self) -> str:
        """A name that is the same for the same work."""


@runtime_checkable
class CarefulTask(Task, Protocol):
    """A task that can be done in such a way that a worker does not die of it."""

    def careful(self) -> "CarefulTask":
        """That other way to the same result; its key is another."""


TaskT = TypeVar("TaskT", bound=Task)
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome(Generic[TaskT, ResultT]):
    """What came of one task: a result, or the error that it ended with.

    Attributes:
        task: the task.
        result: what the function returned, or None.
        error: a fault that may pass when the task is run again, or None.
    """

    task: TaskT
    result: ResultT | None = None
    error: OSError | None = None


class Runner(Protocol):
    """Runs a function over tasks, somewhere.

    Attributes:
        num_threads: threads that a task may keep busy; None means every core it finds.
        dashboard: url of a page that shows the work, or None.
    """

    num_threads: int | None
    dashboard: str | None

    def map(
        self, function: Callable[[TaskT], ResultT], tasks: Iterable[TaskT]
    ) -> Iterator[Outcome[TaskT, ResultT]]:
        """Each task's outcome, in the order of completion.

        ``OSError`` (so ``ShardError``) ends up in the outcome; every other error, and
        ``RequestRefused``, is raised, because running again would not mend it.
        """


class SerialRunner:
    """Runs every task here, one after the other, on all cores."""

    num_threads: int | None = None
    dashboard: str | None = None

    def map(
        self, function: Callable[[TaskT], ResultT], tasks: Iterable[TaskT]
    ) -> Iterator[Outcome[TaskT, ResultT]]:
        """See ``Runner.map``."""
        for task in tasks:
            try:
                yield Outcome(task=task, result=function(task))
            except RequestRefused:
                raise
            except OSError as error:
                yield Outcome(task=task, error=error)


class DaskRunner:
    """Runs tasks on a Dask cluster, a bounded number of them at a time.

    Args:
        client: a connected ``distributed.Client``.
        num_expected: workers that there may come to be; those that are there count anyway.
    """

    num_threads: int | None = 1  # the cluster runs a task per core

    def __init__(self, client: Any, num_expected: int = 0) -> None:
        self.client = client
        self.num_expected = num_expected
        self.dashboard = _dashboard_of(client)

    def map(
        self, function: Callable[[TaskT], ResultT], tasks: Iterable[TaskT]
    ) -> Iterator[Outcome[TaskT, ResultT]]:
        """See ``Runner.map``."""
        from distributed import as_completed

        waiting = iter(tasks)
        running: dict[str, tuple[TaskT, int]] = {}
        window = _Window(self.client, self.num_expected)

        def submit(task: TaskT, num_deaths: int = 0) -> Any:
            key = f"{task.key}-again-{num_deaths}" if num_deaths else task.key
            running[key] = task, num_deaths
            return self.client.submit(function, task, key=key, pure=False)

        def submit_more() -> list[Any]:
            num_more = max(0, window.size() - len(running))
            return [submit(task) for task in islice(waiting, num_more)]

        finished = as_completed(submit_more())
        try:
            for future in finished:
                task, num_deaths = running.pop(future.key)
                if num_deaths < MOST_DEATHS and _has_killed(future):
                    finished.add(submit(_careful(task), num_deaths + 1))
                else:
                    yield self._outcome(task, future)
                finished.update(submit_more())
        finally:
            finished.clear()  # dropping the futures cancels what has not begun

    def has_bokeh(self) -> bool:
        """True if the scheduler can draw: dashboard and performance report need it."""
        found: bool = self.client.run_on_scheduler(is_installed, "bokeh")
        return found

    @staticmethod
    def _outcome(task: TaskT, future: Any) -> "Outcome[TaskT, Any]":
        from distributed import CancelledError, KilledWorker

        try:
            error = None if future.status == "finished" else future.exception()
            if error is None:  # or its worker died with the result, and another has made it since
                return Outcome(task=task, result=future.result())
        except CancelledError as cancelled:  # the scheduler can die between a result and its fetch
            error = ShardError(f"{task.key}: the cluster gave it up: {cancelled}")
        except KilledWorker as killed:
            error = killed
        if isinstance(error, KilledWorker):
            error = ShardError(f"{task.key}: its worker died each time it was tried: {error}")
        if not isinstance(error, OSError) or isinstance(error, RequestRefused):
            raise error
        return Outcome(task=task, error=error)


def _dashboard_of(client: Any) -> str | None:
    try:
        link: str | None = client.dashboard_link
    except KeyError:  # the scheduler was started without one
        return None
    return link or None


def _has_killed(future: Any) -> bool:
    """True if the worker died that ran the task, of it or by chance, or had too little memory."""
    from distributed import KilledWorker

    return future.status == "error" and isinstance(future.exception(), KilledWorker | MemoryError)


def _careful(task: TaskT) -> TaskT:
    if not isinstance(task, CarefulTask):
        return task
    careful: Any = task.careful()
    return careful  # type: ignore[no-any-return]


def is_installed(package: str) -> bool:
    """True if this process can import it."""
    return find_spec(package) is not None


class _Window:
    """How many tasks a cluster is handed at a time; it grows and shrinks with the cluster.

    Workers of a batch queue or a cloud come minutes after the first task is handed over, and an
    adaptive cluster asks for them only while more tasks wait than it can run.
    """

    def __init__(self, client: Any, num_expected: int) -> None:
        self.client = client
        self.num_expected = num_expected
        self.num_threads = 0
        self.recount_at = 0.0

    def size(self) -> int:
        """For the workers that are there or, where more of them are expected, for those."""
        if time.monotonic() >= self.recount_at:
            self.num_threads = int(sum(self.client.nthreads().values()))
            self.recount_at = time.monotonic() + RECOUNT_SECONDS
        return max(2, TASKS_PER_THREAD * max(self.num_threads, self.num_expected))


@contextmanager
def open_runner(
    where: str | ClusterSpec | None, fingerprint: "Fingerprint | None" = None
) -> Iterator[Runner]:
    """A runner for the length of a ``with`` block.

    Args:
        where: ``"serial"``; None or ``"local"`` for one spawned process per core; the address of a
            running scheduler such as ``"tcp://10.0.0.5:8786"``, or ``"tls://…"`` with certificates
            of Dask's own configuration; or a ``ClusterSpec``.
        fingerprint: gives versions by name, which must be the same here, on the scheduler and on
            every worker; None lets all work.

    Raises:
        ConfigError: the cluster cannot be built or reached, or is not like this process.
    """
    if where == "serial":
        yield SerialRunner()
        return
    import dask
    import distributed  # noqa: F401 - or what it adds to the configuration would go with ours

    prefix = "distributed.nanny.pre-spawn-environ."
    settings: dict[str, Any] = {
        f"{prefix}{name}": value for name, value in WORKER_ENVIRONMENT.items()
    }
    # Forking after libvips was used hangs children.
    settings["distributed.worker.multiprocessing-method"] = "spawn"
    # No task waits at a worker behind another: if that one kills the worker, it alone is blamed.
    settings["distributed.scheduler.worker-saturation"] = 1.0
    # One death is enough to be told of: DaskRunner decides how the task is run again.
    settings["distributed.scheduler.allowed-failures"] = 0
    if where is None or where == "local":
        # Dask tells dead workers by the clock of the day, and a machine that slept or whose clock
        # was set has a whole day between two heartbeats: all workers would be killed at once. Here
        # nannies see the death of each.
        settings["distributed.scheduler.worker-ttl"] = None
    num_expected = where.most_workers if isinstance(where, ClusterSpec) else None
    with (
        _environment_kept(),
        dask.config.set(settings),
        _cluster(where) as target,
        _connected(target) as client,
    ):
        if fingerprint is not None:
            _check_likeness(client, fingerprint)
        _still_profilers(client)
        yield DaskRunner(client, num_expected or 0)


@contextmanager
def performance_report(runner: Runner, path: Path | None) -> Iterator[None]:
    """Have Dask write its account of what a ``with`` block runs, as a page of HTML.

    Args:
        runner: of a cluster.
        path: file to write; None writes nothing.

    Raises:
        ConfigError: there is no cluster to report on, no folder for the file, or no bokeh where
            the scheduler runs, which draws the page. Raised at the beginning.
    """
    if path is None:
        yield
        return
    if not isinstance(runner, DaskRunner):
        raise ConfigError("a performance report needs a cluster: leave it out, or set --cluster")
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent} for the performance report")
    if not runner.has_bokeh():
        raise ConfigError(
            "a performance report needs the package bokeh where the scheduler runs: install the "
            "extra with `pip install 'serengeti-etl[dashboard]'`"
        )
    from distributed import performance_report as dask_report

    with dask_report(filename=str(path)):
        yield


def _connected(target: Any) -> Any:
    from distributed import Client

    client = Client.__new__(Client)
    try:
        Client.__init__(client, target)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        # Left to Python's collector, one that failed can block the next one for ever.
        client.close()
        if isinstance(error, OSError):
            raise ConfigError(f"no Dask scheduler answers at {target}: {error}") from error
        raise ConfigError(
            f"Dask's configuration does not suit the scheduler at {target}: {error}; tls:// needs "
            "distributed.comm.tls.ca-file, .client.cert and .client.key there"
        ) from error
    return client


def _still_profilers(client: Any) -> None:
    """Stop the sampling of stacks on workers, now and to come, where Python hangs at it.

    In Python 3.11 ``sys._current_frames`` waits for ever if garbage is collected inside it
    (python/cpython#106883). Tasks with many threads meet that every few minutes: the worker stands
    still, and nothing says so.
    """
    if sys.version_info >= (3, 12):
        return
    from serengeti_etl.worker_plugins import StillProfilers

    client.register_plugin(StillProfilers())


def _check_likeness(client: Any, fingerprint: "Fingerprint") -> None:
    """Refuse scheduler and workers that are not like this process, now; later workers as they come.

    A worker with other code may understand a task otherwise; with other libraries it makes other
    pixels. The scheduler unpacks tasks too, so it needs the same package.
    """
    from serengeti_etl.worker_plugins import REFUSED, ForgetLikeness, Likeness, differences

    wanted = dict(fingerprint())
    reasons = {
        place: f"cannot tell its versions: {found!r}"
        if isinstance(found, BaseException)
        else differences(wanted, found)
        for place, found in _told(client, fingerprint).items()
    }
    unlike = [f"{place} has {reason}" for place, reason in reasons.items() if reason]
    if unlike:
        more = f"; and {len(unlike) - SHOWN_WORKERS} more" if len(unlike) > SHOWN_WORKERS else ""
        raise ConfigError(
            f"the cluster is not like this process: {'; '.join(unlike[:SHOWN_WORKERS])}{more}. "
            "Install the same serengeti-etl, Python and libraries everywhere, and start the "
            "cluster anew"
        )
    client.subscribe_topic(REFUSED, _log_refusal)
    client.register_plugin(Likeness(fingerprint, wanted))
    client.register_plugin(ForgetLikeness(client.id))


def _told(client: Any, fingerprint: "Fingerprint") -> dict[str, Any]:
    """What scheduler and present workers tell of themselves, or the error in place of it."""
    told: dict[str, Any] = {}
    try:
        told["the scheduler"] = client.run_on_scheduler(fingerprint)
    except (AttributeError, ImportError) as error:
        told["the scheduler"] = error
    told.update(client.run(fingerprint, on_error="return"))
    return told


def _log_refusal(event: tuple[float, Mapping[str, str]]) -> None:
    _, refusal = event
    logger.warning("worker %s was refused: it has %s", refusal["worker"], refusal["reason"])


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Put this process's environment back as it was.

    Dask sets its workers' variables here too and leaves them; with ``OMP_NUM_THREADS=1`` among
    them, torch would train on one core for the rest of this process's life.
    """
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _cluster(where: str | ClusterSpec | None) -> Iterator[Any]:
    if isinstance(where, str) and where != "local":
        yield where
        return
    spec = where if isinstance(where, ClusterSpec) else _local_spec()
    with _build(spec) as cluster:
        if spec.num_workers is not None:
            cluster.scale(spec.num_workers)
        if spec.adaptive is not None:
            fewest, most = spec.adaptive
            cluster.adapt(minimum=fewest, maximum=most)
        yield cluster


def _build(spec: ClusterSpec) -> Any:
    cluster_class = _load_class(spec.cluster)
    options = dict(spec.options)
    if spec.is_secure:
        options["security"] = _new_keys()
    try:
        return cluster_class(**options)
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"{spec.cluster} cannot be built: {error}") from error


def _new_keys() -> Any:
    from distributed import Security

    try:
        return Security.temporary()
    except ImportError as error:
        raise ConfigError(
            "is_secure needs the package cryptography: install the extra with "
            "`pip install 'serengeti-etl[tls]'`"
        ) from error


def _local_spec() -> ClusterSpec:
    options = {
        "n_workers": os.cpu_count() or 1,
        "threads_per_worker": 1,
        "processes": True,
        "dashboard_address": "127.0.0.1:0",
    }
    return ClusterSpec(cluster="distributed:LocalCluster", options=options)


def _load_class(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"cluster is {path!r}, which cannot be imported: {error}") from error
