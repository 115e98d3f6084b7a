"""What an upload leaves that was cut off: in S3 the parts of an object, on disk a file beside it. Neither is in any listing of objects.

S3 keeps parts, and counts their bytes, until somebody aborts the upload. The client that all else goes through can neither list nor
abort those of another process, so these two requests are signed here (AWS Signature Version 4, with the key of the environment).
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib.parse import quote, urlsplit
from xml.sax.saxutils import unescape

from obstore.store import S3Store

from pretrain_stage.errors import StorageError
from pretrain_stage.storage import Storage

SECONDS = 30.0
EMPTY = hashlib.sha256(b"").hexdigest()
_STAGED = re.compile(r"(.+)#(\d+)")
"""How the client names a file on disk until it is whole."""
_UPLOAD = re.compile(r"<Upload>.*?<Key>(.*?)</Key>.*?<UploadId>(.*?)</UploadId>.*?</Upload>", re.DOTALL)


@dataclass(frozen=True)
class Upload:
    """An upload that was begun and not finished: of the object `path`, below the storage's URI."""

    path: str
    number: str
    """What tells it from others of the same object."""


def unfinished(storage: Storage, folder: str) -> list[Upload]:
    """Uploads to objects below `folder` that were begun and neither finished nor aborted, at most a thousand in S3.

    None in S3 without a key in the environment. Raises StorageError if S3 refuses or does not answer.
    """
    local = storage.local_path(folder)
    if local is not None:
        found = ((file, _STAGED.fullmatch(file.name)) for file in sorted(local.rglob("*#*")) if file.is_file())
        names = [(file.with_name(match[1]), match[2]) for file, match in found if match]
        return [Upload(file.relative_to(storage.uri).as_posix(), number) for file, number in names]
    assert isinstance(storage.store, S3Store), "a storage is a folder or a prefix in S3"
    if not os.environ.get("AWS_ACCESS_KEY_ID") or not os.environ.get("AWS_SECRET_ACCESS_KEY"):
        return []
    begin = f"{storage.store.prefix}/" if storage.store.prefix else ""
    said = _asked(storage, "GET", "", {"uploads": "", "prefix": f"{begin}{folder}/"})
    keys = [(unescape(key), unescape(number)) for key, number in _UPLOAD.findall(said)]
    return [Upload(key.removeprefix(begin), number) for key, number in keys if key.startswith(begin)]


def abort(storage: Storage, upload: Upload) -> None:
    """Removes what an upload has left. One that is gone is no error. Raises StorageError."""
    local = storage.local_path(f"{upload.path}#{upload.number}")
    if local is None:
        _asked(storage, "DELETE", upload.path, {"uploadId": upload.number})
        return
    local.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # there are others in it
        Path(local).parent.rmdir()


def _asked(storage: Storage, method: str, path: str, query: dict[str, str]) -> str:
    """The answer to a signed request: to the bucket, or with `path` to an object below the storage."""
    assert isinstance(storage.store, S3Store), "only S3 is asked"
    config, prefix = storage.store.config, storage.store.prefix
    bucket, region, endpoint = str(config["bucket"]), str(config["region"]), config.get("endpoint")
    base = urlsplit(str(endpoint) if endpoint else f"https://{bucket}.s3.{region}.amazonaws.com")
    parts = [bucket if endpoint else "", *([str(prefix)] if prefix and path else []), path]
    target = base.path.rstrip("/") + "/" + "/".join(quote(part, safe="/-_.~") for part in parts if part)
    asked = "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(query.items()))
    headers = _signed(method, base.netloc, target, asked, region)
    kind = HTTPSConnection if base.scheme == "https" else HTTPConnection
    connection = kind(base.netloc, timeout=SECONDS)
    try:
        connection.request(method, f"{target}?{asked}", headers=headers)
        answer = connection.getresponse()
        said = answer.read().decode(errors="replace")
    except (OSError, HTTPException) as error:
        raise StorageError(f"storage: {storage.uri}: unfinished uploads cannot be told ({error})", temporary=True) from None
    finally:
        connection.close()
    if answer.status >= 300 and (method, answer.status) != ("DELETE", 404):
        raise StorageError(
            f"storage: {storage.uri}: unfinished uploads cannot be told (HTTP {answer.status})", temporary=True
        )
    return said


def _signed(method: str, host: str, target: str, query: str, region: str) -> dict[str, str]:
    """The headers of a request without a body, its signature among them."""
    now = datetime.now(UTC)
    headers = {"host": host, "x-amz-content-sha256": EMPTY, "x-amz-date": f"{now:%Y%m%dT%H%M%SZ}"}
    if token := os.environ.get("AWS_SESSION_TOKEN"):
        headers["x-amz-security-token"] = token
    names = ";".join(headers)
    canonical = "\n".join([method, target, query, *(f"{name}:{value}" for name, value in headers.items()), "", names, EMPTY])
    scope = f"{now:%Y%m%d}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{headers['x-amz-date']}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{os.environ['AWS_SECRET_ACCESS_KEY']}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    credential = f"{os.environ['AWS_ACCESS_KEY_ID']}/{scope}"
    return headers | {
        "authorization": f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
    }
