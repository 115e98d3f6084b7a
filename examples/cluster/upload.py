"""Uploads a folder to S3, and makes the bucket if the server allows that. Credentials come from the environment.

python examples/cluster/upload.py build/demo/raw s3://pretrain/raw --endpoint http://127.0.0.1:8333
"""

from __future__ import annotations

import argparse
from pathlib import Path

from obstore import put
from obstore.store import S3Store


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("uri", help="s3://bucket/prefix")
    arguments.add_argument("--endpoint", help="address of an S3-compatible server; omit for AWS")
    given = arguments.parse_args()
    bucket, _, prefix = given.uri.removeprefix("s3://").partition("/")
    service = {"endpoint": given.endpoint, "client_options": {"allow_http": True}} if given.endpoint else {}
    store = S3Store(bucket, prefix=prefix or None, region="us-east-1", virtual_hosted_style_request=False, **service)
    files = sorted(path for path in given.folder.rglob("*") if path.is_file())
    if not files:
        arguments.error(f"{given.folder} holds no files; make them with: python examples/demo/corpus.py {given.folder}")
    for number, path in enumerate(files, start=1):
        put(store, path.relative_to(given.folder).as_posix(), path)
        print(f"\r{number} of {len(files)} files", end="", flush=True)
    print(f"\n{given.folder} is in {given.uri.rstrip('/')}/")


if __name__ == "__main__":
    main()
