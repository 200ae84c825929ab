# The packages of a lock file; the project itself is mounted. For an NVIDIA GPU (docs/gpu.md):
#   docker build --build-arg ACCELERATOR=jax-cuda --tag pipeline-gpu .
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/*

ARG ACCELERATOR=cpu
COPY requirements*.lock /locks/
RUN case "$ACCELERATOR" in \
        cpu) lock=requirements.lock ;; \
        jax-cuda | tf-cuda) lock="requirements-$ACCELERATOR.lock" ;; \
        *) echo "ACCELERATOR: expected cpu, jax-cuda or tf-cuda, got '$ACCELERATOR'" >&2; exit 1 ;; \
    esac \
    && python -m venv /venv \
    && /venv/bin/python -m pip install --no-cache-dir --require-hashes --requirement /locks/requirements-uv.lock \
    && /venv/bin/uv pip sync --no-cache --compile-bytecode --python /venv/bin/python --require-hashes "/locks/$lock"

ENV PATH=/venv/bin:$PATH
WORKDIR /project
RUN git config --system --add safe.directory /project
CMD ["python", "-m", "dvc", "repro"]
