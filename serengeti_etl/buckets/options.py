"""What ``storage_options`` mean to a bucket's client, by the names that fsspec's clients gave them.

A name that is not in a table goes to the client as it is, so that every key of obstore's
``S3Config``, ``GCSConfig`` and ``AzureConfig`` may be used too.
"""

from collections.abc import Mapping
from typing import Any

from serengeti_etl.errors import ConfigError

Options = Mapping[str, Any]

_S3_NAMES = {
    "anon": "skip_signature",
    "key": "access_key_id",
    "secret": "secret_access_key",
    "token": "session_token",
    "endpoint_url": "endpoint",
    "requester_pays": "request_payer",
}
_S3_CLIENT_NAMES = {
    "endpoint_url": "endpoint",
    "region_name": "region",
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}
_GCS_NAMES = {"endpoint_url": "base_url", "anon": "skip_signature"}
_AZURE_NAMES = {"anon": "skip_signature", "sas_token": "sas_key"}
_CONNECTION_NAMES = {
    "accountname": "account_name",
    "accountkey": "account_key",
    "blobendpoint": "endpoint",
    "sharedaccesssignature": "sas_key",
}


def s3_config(options: Options) -> dict[str, Any]:
    """Keys of ``S3Config`` from those of s3fs.

    Raises:
        ConfigError: ``client_kwargs`` has a key that means nothing here.
    """
    config = _renamed(options, _S3_NAMES)
    inner = config.pop("client_kwargs", {})
    unknown = sorted(set(inner) - set(_S3_CLIENT_NAMES))
    if unknown:
        known = ", ".join(_S3_CLIENT_NAMES)
        raise ConfigError(
            f"storage_options has client_kwargs.{unknown[0]}, but it may have {known}"
        )
    return config | _renamed(inner, _S3_CLIENT_NAMES)


def gcs_config(options: Options) -> dict[str, Any]:
    """Keys of ``GCSConfig`` from those of gcsfs."""
    config = _renamed(options, _GCS_NAMES)
    config.pop("project", None)  # gcsfs wants it to list buckets, which nothing here does
    token = config.pop("token", None)
    if token == "anon":  # noqa: S105 - gcsfs' word for none
        config["skip_signature"] = True
    elif isinstance(token, str) and token not in ("google_default", "cloud"):
        config["application_credentials"] = token
    elif isinstance(token, Mapping):
        raise ConfigError("storage_options has a token that is no text: give the path of its file")
    return config


def azure_config(options: Options) -> dict[str, Any]:
    """Keys of ``AzureConfig`` from those of adlfs, a connection string taken apart."""
    config = _renamed(options, _AZURE_NAMES)
    parts = str(config.pop("connection_string", "")).split(";")
    for name, equals, value in (part.partition("=") for part in parts):
        if equals and name.lower() in _CONNECTION_NAMES:
            config.setdefault(_CONNECTION_NAMES[name.lower()], value)
    return config


def _renamed(options: Options, names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in options.items() if value is not None}
