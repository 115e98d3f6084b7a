"""What a client meets behind the proxy: against a real S3 server, with the client that training uses."""

from __future__ import annotations

import time
from collections.abc import Iterator

import obstore
import pytest
from obstore.exceptions import BaseError
from obstore.store import S3Store

from tests.faults.proxy import FaultyProxy
from tests.faults.schedule import Moment, Weather
from tests.seaweedfs import SeaweedFS

NOW = Moment(1, "step", 0.0)
BODY = bytes(range(256)) * 4096


@pytest.fixture
def proxy(seaweedfs: SeaweedFS) -> Iterator[FaultyProxy]:
    with FaultyProxy(seaweedfs.endpoint) as between:
        yield between


@pytest.fixture
def client(proxy: FaultyProxy, seaweedfs: SeaweedFS, s3_uri: str) -> S3Store:
    """A client that tries once, so that a fault is seen."""
    bucket, _, prefix = s3_uri.removeprefix("s3://").partition("/")
    return S3Store(
        bucket,
        prefix=prefix,
        endpoint=proxy.endpoint,
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )


def test_without_faults_everything_passes(client: S3Store) -> None:
    obstore.put(client, "a", BODY)
    assert bytes(obstore.get(client, "a").bytes()) == BODY
    assert obstore.head(client, "a")["size"] == len(BODY)
    assert [item["path"] for batch in obstore.list(client) for item in batch] == ["a"]
    obstore.delete(client, "a")
    with pytest.raises(FileNotFoundError):
        obstore.head(client, "a")


def test_slow(proxy: FaultyProxy, client: S3Store) -> None:
    proxy.begin(Weather(NOW, 30, latency=0.3))
    began = time.monotonic()
    obstore.put(client, "a", b"1")
    assert time.monotonic() - began >= 0.3


def test_of_every_two_requests_that_fail_one_was_carried_out(proxy: FaultyProxy, client: S3Store) -> None:
    proxy.begin(Weather(NOW, 30, errors=1.0))
    for name in ("a", "b"):
        with pytest.raises(BaseError, match="503"):
            obstore.put(client, name, BODY)
    proxy.weather.clear()
    assert [item["path"] for batch in obstore.list(client) for item in batch] == ["b"]


def test_away_and_back(proxy: FaultyProxy, client: S3Store) -> None:
    proxy.begin(Weather(NOW, 0.5, away=True))
    with pytest.raises(BaseError):
        obstore.put(client, "a", b"1")
    assert proxy.counts["refused"] > 0
    time.sleep(0.5)
    obstore.put(client, "a", b"1")


def test_a_reset_in_the_middle_of_a_body_leaves_no_object(proxy: FaultyProxy, client: S3Store) -> None:
    obstore.put(client, "there", BODY)
    proxy.begin(Weather(NOW, 30, resets=1.0))
    with pytest.raises(BaseError):
        obstore.put(client, "a", BODY)
    with pytest.raises(BaseError):
        obstore.get(client, "there").bytes()
    proxy.weather.clear()
    assert [item["path"] for batch in obstore.list(client) for item in batch] == ["there"]


def test_a_watched_upload_is_told_of_before_its_end(proxy: FaultyProxy, client: S3Store) -> None:
    other = proxy.watch_upload(lambda path: path.endswith("/other"), 0.5)
    obstore.put(client, "a", BODY)
    assert not other.is_set()
    obstore.put(client, "other", BODY)
    assert other.is_set()
    assert bytes(obstore.get(client, "other").bytes()) == BODY
