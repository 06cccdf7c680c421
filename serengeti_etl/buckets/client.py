"""Connected clients of buckets: with credentials, in the right region, with time limits."""

import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, HTTPStore, ObjectStore, S3Store

from serengeti_etl.buckets.options import azure_config, gcs_config, s3_config
from serengeti_etl.buckets.place import Place
from serengeti_etl.errors import ConfigError

_TIMES = {
    "connect_timeout": "10s",
    "read_timeout": "60s",  # without a byte of progress
    "timeout": "1day",  # of a whole request: large objects may take their time
}
_CREDENTIALS_LIFE = timedelta(minutes=10)  # botocore renews its own 15 minutes ahead
_S3_HOST = "https://s3.amazonaws.com"


def open_client(place: Place, options: Mapping[str, Any], max_retries: int) -> ObjectStore:
    """A client of ``place``; nothing is asked of the store yet.

    Args:
        place: bucket or web server.
        options: as ``storage_options``.
        max_retries: of each request, by the client itself.

    Raises:
        ConfigError: an option is unknown or has an impossible value, or one is missing.
    """
    common: dict[str, Any] = {
        "client_options": {**_TIMES, "allow_http": True},
        "retry_config": {"max_retries": max_retries},
    }
    try:
        if place.kind == "s3":
            config: Any = s3_config(options)
            return S3Store(place.name, config=config, **_aws_session(config), **common)
        if place.kind == "gs":
            config = gcs_config(options)
            return GCSStore(place.name, config=config, **common)
        if place.kind == "az":
            config = azure_config(options)
            if place.account:
                config.setdefault("account_name", place.account)
            return AzureStore(place.name, config=config, **common)
        return _web_client(place, options, common)
    except (BaseError, ValueError, TypeError) as error:
        reason = str(error).partition("\n\nDebug source")[0]
        raise ConfigError(f"{place.url} cannot be opened: {reason}; see storage_options") from error


def bucket_region(bucket: str, host: str = _S3_HOST) -> str | None:
    """The region of a bucket of Amazon's, which any of its servers tells anyone; None if not.

    Source: "HeadBucket", Amazon S3 API Reference: ``x-amz-bucket-region``.
    """
    request = urllib.request.Request(f"{host}/{bucket}", method="HEAD")  # noqa: S310 - https
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            headers = answer.headers
    except urllib.error.HTTPError as error:  # refused or elsewhere, it tells all the same
        headers = error.headers
    except OSError:
        return None
    region: str | None = headers.get("x-amz-bucket-region")
    return region


def _web_client(place: Place, options: Mapping[str, Any], common: dict[str, Any]) -> HTTPStore:
    unknown = sorted(set(options) - {"headers"})
    if unknown:
        raise ConfigError(f"storage_options has {unknown[0]}, but of a web server only headers")
    headers = options.get("headers", {})
    common["client_options"] |= {"default_headers": headers} if headers else {}
    return HTTPStore(place.name, **common)


def _aws_session(config: dict[str, Any]) -> dict[str, Any]:
    """Credentials and region as the AWS command line finds them, if botocore is installed.

    Without it obstore looks in the environment and at the machine's role itself.
    """
    profile = config.pop("profile", None)
    if config.get("skip_signature") or "access_key_id" in config:
        return {}
    try:
        import botocore.exceptions
        import botocore.session
    except ImportError as error:
        if profile:
            raise ConfigError(f"a profile needs serengeti-etl[s3]: {error}") from error
        return {}
    session = botocore.session.Session(profile=profile)
    try:
        credentials = session.get_credentials()
        region = session.get_config_variable("region")
    except botocore.exceptions.BotoCoreError as error:
        raise ConfigError(f"AWS credentials cannot be read: {error}") from error
    if credentials is None:
        return {}
    if region:
        config.setdefault("region", region)

    def renew() -> dict[str, Any]:
        frozen = credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + _CREDENTIALS_LIFE,
        }

    return {"credential_provider": renew}
