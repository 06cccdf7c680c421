"""Options by the names that people know from fsspec's clients."""

from typing import Any

import pytest

from serengeti_etl.buckets.client import open_client
from serengeti_etl.buckets.options import azure_config, gcs_config, s3_config
from serengeti_etl.buckets.place import Place, place_of
from serengeti_etl.errors import ConfigError


def test_s3fs_options_are_understood() -> None:
    """Every name of s3fs' that decides where and as whom becomes obstore's."""
    options = {
        "anon": False,
        "key": "k",
        "secret": "s",
        "token": "t",
        "requester_pays": True,
        "client_kwargs": {"endpoint_url": "http://e", "region_name": "eu-west-1"},
    }
    assert s3_config(options) == {
        "skip_signature": False,
        "access_key_id": "k",
        "secret_access_key": "s",
        "session_token": "t",
        "request_payer": True,
        "endpoint": "http://e",
        "region": "eu-west-1",
    }
    assert s3_config({"endpoint_url": "http://e", "key": None}) == {"endpoint": "http://e"}


def test_an_unknown_inner_option_is_refused() -> None:
    """What botocore alone would understand is a ConfigError that lists what may be given."""
    with pytest.raises(ConfigError, match=r"client_kwargs\.verify, but it may have endpoint_url"):
        s3_config({"client_kwargs": {"verify": False}})


@pytest.mark.parametrize(
    ("options", "config"),
    [
        ({"token": "anon"}, {"skip_signature": True}),
        ({"token": "google_default", "project": "p"}, {}),
        ({"token": "key.json"}, {"application_credentials": "key.json"}),
        ({"endpoint_url": "http://e"}, {"base_url": "http://e"}),
        ({"bearer_token": "b"}, {"bearer_token": "b"}),
    ],
)
def test_gcsfs_options_are_understood(options: dict[str, Any], config: dict[str, Any]) -> None:
    """A token is nobody, the machine's own or a file."""
    assert gcs_config(options) == config


def test_a_token_that_is_no_text_is_refused() -> None:
    """Gcsfs' dictionary of credentials is a ConfigError that says what to give."""
    with pytest.raises(ConfigError, match="give the path of its file"):
        gcs_config({"token": {"private_key": "x"}})


def test_adlfs_options_are_understood() -> None:
    """A connection string is taken apart, and what stands beside it wins."""
    text = "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=k==;BlobEndpoint=http://e/a;"
    assert azure_config({"connection_string": text}) == {
        "account_name": "a",
        "account_key": "k==",
        "endpoint": "http://e/a",
    }
    assert azure_config({"connection_string": text, "account_name": "b"})["account_name"] == "b"
    assert azure_config({"sas_token": "s", "anon": True}) == {
        "sas_key": "s",
        "skip_signature": True,
    }


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("s3://b/x", {"nonsense": 1}, "s3://b cannot be opened: .*nonsense"),
        ("s3://b/x", {"anon": "perhaps"}, "s3://b cannot be opened: .*perhaps"),
        ("s3://b/x", {"profile": "nobody"}, "AWS credentials cannot be read: .*nobody"),
        ("https://h/x", {"anon": True}, "has anon, but of a web server only headers"),
    ],
)
def test_a_wrong_option_names_itself(url: str, options: dict[str, Any], message: str) -> None:
    """An option that the client cannot use is a ConfigError before any request."""
    found = place_of(url)
    assert found is not None
    with pytest.raises(ConfigError, match=message):
        open_client(found[0], options, max_retries=0)


@pytest.mark.parametrize(
    ("url", "place", "path"),
    [
        ("s3://b/a b/c#%20.jpg", Place(kind="s3", name="b"), "a b/c#%20.jpg"),
        ("s3a://b", Place(kind="s3", name="b"), ""),
        ("gcs://b/p/", Place(kind="gs", name="b"), "p"),
        ("abfs://c@a.dfs.core.windows.net/p", Place(kind="az", name="c", account="a"), "p"),
        ("az://c/p", Place(kind="az", name="c"), "p"),
        ("https://h:8/a%20b/c", Place(kind="http", name="https://h:8"), "a b/c"),
        ("https://h/a.zip?sig=1%2F", Place(kind="http", name="https://h/a.zip?sig=1%2F"), ""),
    ],
)
def test_a_url_is_a_place_and_a_path(url: str, place: Place, path: str) -> None:
    """Keys are literal; web addresses are percent-encoded; a signed one stays whole."""
    assert place_of(url) == (place, path)


@pytest.mark.parametrize("url", ["folder", "/a/b", "file:///a", "memory://a", "s3", "sftp://h/x"])
def test_everything_else_is_no_bucket(url: str) -> None:
    """Paths and other file systems are left to fsspec."""
    assert place_of(url) is None
