# Pods that do nothing and succeed: for tests of what the operator does between them. Context: any folder.

ARG BASE_IMAGE=python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b

FROM ${BASE_IMAGE}
RUN printf '#!/bin/sh\nexec sleep "${INSTANT_SECONDS:-0}"\n' >/usr/local/bin/python && chmod 755 /usr/local/bin/python
USER 1000:1000
