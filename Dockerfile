# syntax=docker/dockerfile:1
#
# Two images from one file, both with every command of `changeroom`:
#
#   docker build --target cpu  -t changeroom:cpu  .      gateway, and workers without a GPU
#   docker build --target cuda -t changeroom:cuda .      workers on an NVIDIA GPU (container toolkit on the host)
#
# Every package but one is locked by hash (deploy/requirements/), at the versions of constraints.txt. The exception is
# torch of the CPU image: it comes from PyTorch's own index, pinned by version. The base image is pinned by tag;
# deploy/SECURITY.md says how to pin its digest.

FROM python:3.12-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
RUN python -m venv /opt/changeroom
WORKDIR /build

FROM build AS build-cpu
COPY deploy/requirements/cpu.txt ./
RUN /opt/changeroom/bin/pip install --no-deps --index-url https://download.pytorch.org/whl/cpu torch==2.13.0 \
 && /opt/changeroom/bin/pip install --require-hashes --no-deps -r cpu.txt
COPY pyproject.toml README.md LICENSE ./
COPY kernels kernels
COPY engine_build engine_build
COPY service service
COPY loadtests loadtests
RUN /opt/changeroom/bin/pip install --no-deps --no-build-isolation .

FROM build AS build-cuda
COPY deploy/requirements/cuda.txt ./
RUN /opt/changeroom/bin/pip install --require-hashes --no-deps -r cuda.txt
COPY pyproject.toml README.md LICENSE ./
COPY kernels kernels
COPY engine_build engine_build
COPY service service
COPY loadtests loadtests
RUN /opt/changeroom/bin/pip install --no-deps --no-build-isolation .

FROM python:3.12-slim-bookworm AS runtime
LABEL org.opencontainers.image.title="changeroom" \
      org.opencontainers.image.description="Virtual try-on inference service" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 changeroom \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin changeroom \
 && install -d -o 10001 -g 10001 -m 0750 /var/lib/changeroom
COPY deploy/container/health.py /usr/local/lib/changeroom/health.py
ENV PATH=/opt/changeroom/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/var/lib/changeroom/huggingface \
    CHANGEROOM_DATA_DIR=/var/lib/changeroom \
    CHANGEROOM_HOST=0.0.0.0 \
    CHANGEROOM_PORT=8000
WORKDIR /var/lib/changeroom
EXPOSE 8000 9101
STOPSIGNAL SIGTERM
# The gateway's. A worker overrides it (compose.yaml, deploy/kubernetes/base/worker.yaml).
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-I", "/usr/local/lib/changeroom/health.py", "http://127.0.0.1:8000/livez"]
ENTRYPOINT ["changeroom"]
CMD ["gateway"]

FROM runtime AS cuda
# Triton compiles its launchers with a C compiler when a kernel first runs. Debian keeps only the newest version of a
# package, so a pinned one would stop building within weeks.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    TRITON_CACHE_DIR=/tmp/triton
COPY --from=build-cuda /opt/changeroom /opt/changeroom
USER 10001:10001

# Last, so that `docker build .` without a target makes the image that runs anywhere.
FROM runtime AS cpu
COPY --from=build-cpu /opt/changeroom /opt/changeroom
USER 10001:10001
