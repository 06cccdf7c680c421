"""Another try at what may pass: which faults those are, and full-jitter back-off between tries."""

import re
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

import tenacity

from serengeti_etl.errors import SerengetiError

NUM_ATTEMPTS = 5
"""Tries of one request before its error is passed on."""

MAX_SECONDS = 120.0
"""Time after which no further try begins."""

_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.2, 10.0

_FINAL_ERRORS = (
    SerengetiError,
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
)
# The status only where it is called one: a photograph may be named 503.jpg.
_SLOW_DOWN = re.compile(
    r"SlowDown|status code: (429|503)\b|ServerBusy|TooManyRequests|rateLimitExceeded"
)

P = ParamSpec("P")
ResultT = TypeVar("ResultT")
OnRetry = Callable[[BaseException], None]


def is_transient(error: BaseException) -> bool:
    """True for faults of a store, network or disk that may pass, false for final answers."""
    return isinstance(error, OSError) and not isinstance(error, _FINAL_ERRORS)


def patiently(
    function: Callable[[], ResultT], seconds: float, on_wait: OnRetry = lambda _: None
) -> ResultT:
    """What ``function`` gives, which is called again while its errors may pass.

    For those who can wait out an outage; ``retried`` is for single requests.

    Args:
        function: what to call.
        seconds: after which no further try begins; 0 for a single one.
        on_wait: called with the error before each further try.
    """
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_delay(seconds),
        wait=tenacity.wait_random_exponential(1.0, _LONGEST_WAIT_SECONDS),
        retry=tenacity.retry_if_exception(is_transient),
        before_sleep=lambda state: on_wait(_error_of(state)),
        reraise=True,
    )
    return retrying(function)


def _error_of(state: tenacity.RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome else None
    return error or RuntimeError("a try without an outcome")


def is_slow_down(error: BaseException) -> bool:
    """True when the store says that it is asked too much at once."""
    return _SLOW_DOWN.search(str(error)) is not None


def retried(
    function: Callable[P, ResultT], on_retry: OnRetry | None = None
) -> Callable[P, ResultT]:
    """``function``, which tries again with full-jitter back-off after transient errors.

    Formula: sleep(random between 0 and min(longest, first · 2ᵏ)), "Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015.

    Args:
        function: what to try.
        on_retry: called with the error before each further try.
    """

    def tell(state: tenacity.RetryCallState) -> None:
        if on_retry is not None:
            on_retry(_error_of(state))

    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(NUM_ATTEMPTS) | tenacity.stop_after_delay(MAX_SECONDS),
        wait=tenacity.wait_random_exponential(_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS),
        retry=tenacity.retry_if_exception(is_transient),
        before_sleep=tell,
        reraise=True,
    )
    return partial(retrying, function)
