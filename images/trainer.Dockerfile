# What training, evaluation, export and report run in: torch and DeepSpeed, for CPU or, with FLAVOUR=cuda, for NVIDIA GPUs.
# Context: the root of the repository. docs/images.md tells how to build it and how large it is.

ARG BASE_IMAGE=python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b
# cpu or cuda: what the image has besides Python packages.
ARG FLAVOUR=cpu

# Programs that build wheels, and the empty environment that images get: it holds no pip.
FROM ${BASE_IMAGE} AS tools
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /build && python3 -m venv --without-pip /opt/pretrain
COPY requirements/build.txt /requirements/
RUN /build/bin/pip install --quiet --require-hashes --requirement /requirements/build.txt

# Everything by the hashes of the lock file. Installing compiles to bytecode: nothing could be written at run time.
FROM tools AS dependencies
# One version of torch, two builds: the package index decides which. TORCH_INDEX is an index to look in besides the usual one.
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=
# trainer, or tracking for Weights & Biases too.
ARG EXTRA=trainer
COPY requirements/${EXTRA}.txt /requirements/
RUN /build/bin/pip wheel --quiet --no-deps --no-build-isolation --require-hashes \
      --requirement "/requirements/${EXTRA}.txt" --wheel-dir /wheels \
    && /build/bin/pip --python /opt/pretrain/bin/python install --quiet --no-deps --no-index /wheels/*.whl \
    && rm -r /wheels
RUN /build/bin/pip --python /opt/pretrain/bin/python install --quiet ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} "${TORCH}" \
    && /build/bin/pip --python /opt/pretrain/bin/python check \
    # 83 MB of C++ test programs, which nothing calls
    && rm -rf /opt/pretrain/lib/python3*/site-packages/torch/test

FROM tools AS code
COPY LICENSE README.md pyproject.toml /src/
COPY operator /src/operator
COPY preprocess /src/preprocess
COPY stage /src/stage
COPY trainer /src/trainer
RUN /build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheels /src \
    && /build/bin/pip --python /opt/pretrain/bin/python install --quiet --no-deps --no-index --root /code /wheels/*.whl

FROM ${BASE_IMAGE}
# training.compile calls a C++ compiler at run time, as do those operators of DeepSpeed that are compiled when first used.
# Which devices a pod sees is for the device plugin to say, not for the image.
ARG FLAVOUR
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN case "${FLAVOUR}" in \
      cpu) ;; \
      cuda) apt-get update -qq && apt-get install --yes -qq --no-install-recommends g++ && rm -rf /var/lib/apt/lists/* ;; \
      *) echo "FLAVOUR: ${FLAVOUR}; give cpu or cuda" >&2; exit 64 ;; \
    esac
# The image of Python brings its standard library without bytecode.
RUN python3 -m compileall -q -x '/(test|tests|lib2to3)/' "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
    && useradd --uid 1000 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin pretrain
COPY --from=dependencies /opt/pretrain /opt/pretrain
ENV PATH=/opt/pretrain/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 1000:1000
ENTRYPOINT ["python", "-m", "pretrain_trainer"]
CMD ["--help"]
ARG VERSION=dev
LABEL org.opencontainers.image.title="pretrain-trainer" \
      org.opencontainers.image.description="Tokens to a language model: training, evaluation and export of a PretrainJob" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
# Last, so that a change of our code builds and loads next to nothing.
COPY --from=code /code/opt/pretrain /opt/pretrain
