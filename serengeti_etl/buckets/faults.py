"""What a client's error means: no such object, no permission, never, or perhaps later."""

import re

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)

from serengeti_etl.errors import RequestRefused

CLIENT_ERRORS = (BaseError, FileNotFoundError, ValueError)
"""All that obstore raises for a request."""

_STALE = re.compile(
    r"ExpiredToken|InvalidToken|TokenRefreshRequired|RequestTimeTooSkewed|InvalidAccessKeyId"
    r"|SignatureDoesNotMatch|AuthenticationFailed"
)
_METADATA_SERVERS = re.compile(r"169\.254\.1[67]\d\.\d+|metadata\.google\.internal|Imds")
_NEVER = re.compile(r"status code: 4(?!08|29)\d\d")
_UNCONDITIONAL = re.compile(r"NotImplemented|status code: 501|not supported")
_REDIRECT = "redirect without LOCATION"
_MAX_LENGTH = 400
_QUERY = re.compile(r"\?\S+")  # may be a signature, which is as good as a password


def os_error(error: Exception) -> OSError:
    """The error as one of Python's own kinds, which tells whether it may pass.

    ``ConnectionError`` may pass. ``FileNotFoundError``, ``FileExistsError`` and
    ``PermissionError`` are about one object, ``RequestRefused`` is about the request or the
    credentials and blames no object.
    """
    text = _QUERY.sub("?…", str(error).partition("\n\nDebug source")[0].strip())[:_MAX_LENGTH]
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(text)
    if isinstance(error, AlreadyExistsError):
        return FileExistsError(text)
    if isinstance(error, ValueError | InvalidPathError):
        return FileNotFoundError(f"the store's client cannot ask for such a name: {text}")
    return _refusal(error, text) or ConnectionError(text)


def _refusal(error: Exception, text: str) -> OSError | None:
    """The error if asking again is of no use."""
    if _STALE.search(text):
        return RequestRefused(f"the credentials are not, or no longer, valid: {text}")
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return PermissionError(text)
    if _METADATA_SERVERS.search(text):
        return RequestRefused(
            f"no credentials were found, and this machine's metadata server gives none: {text}; "
            "for a public bucket set storage_options to {'anon': True}"
        )
    is_final = isinstance(error, NotSupportedError) or _NEVER.search(text) or _REDIRECT in text
    return RequestRefused(text) if is_final else None


def is_other_region(error: Exception) -> bool:
    """True when S3 says that the bucket lies in another region, but not in which."""
    return _REDIRECT in str(error)


def is_unconditional(error: OSError) -> bool:
    """True when a store says that it cannot write on a condition."""
    return _UNCONDITIONAL.search(str(error)) is not None
