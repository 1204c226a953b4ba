# Three images from one file:
#   docker build --target api         -t maskstream-api .          front end, no torch
#   docker build --target worker-cuda -t maskstream-worker .       GPU worker (torch with CUDA, from its wheel)
#   docker build --target worker-cpu  -t maskstream-worker-cpu .   CPU worker
# pip's cache is a build mount: nothing of it stays in an image.
# hadolint global ignore=DL3042
# The CPU build of torch stands in an index of its own: give it as TORCH_INDEX where pip does not find it by itself.

FROM python:3.11-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_CACHE_DIR=/var/cache/pip \
    PATH=/opt/venv/bin:$PATH
RUN python -m venv /opt/venv \
    && useradd --uid 10001 --no-create-home --home-dir /data maskstream \
    && mkdir /data \
    && chown maskstream /data
WORKDIR /app

# The dependencies change rarely and the code often: install them from the project file alone, in a layer of their own.
FROM base AS api-dependencies
COPY deploy/requirements.py pyproject.toml ./
RUN --mount=type=cache,target=/var/cache/pip \
    python requirements.py s3 > requirements.txt && pip install -r requirements.txt

FROM api-dependencies AS worker-cuda-dependencies
RUN --mount=type=cache,target=/var/cache/pip \
    python requirements.py worker text s3 > requirements.txt && pip install -r requirements.txt

FROM api-dependencies AS worker-cpu-dependencies
ARG TORCH_INDEX=""
# The version is pinned, in pyproject.toml.
# hadolint ignore=DL3013
RUN --mount=type=cache,target=/var/cache/pip \
    python requirements.py worker > torch.txt \
    && pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep '^torch==' torch.txt)" \
    && python requirements.py worker text s3 > requirements.txt && pip install -r requirements.txt

FROM base AS source
COPY pyproject.toml README.md LICENSE ./
COPY engines ./engines
COPY maskstream ./maskstream
COPY service ./service

FROM api-dependencies AS api
COPY --from=source /app /app
RUN pip install --no-cache-dir --no-deps -e . && rm -rf engines/starter/*.safetensors
USER 10001
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["maskstream"]
CMD ["api", "--host", "0.0.0.0"]

FROM worker-cpu-dependencies AS worker-cpu
COPY --from=source /app /app
RUN pip install --no-cache-dir --no-deps -e .
USER 10001
VOLUME /data
ENV MASKSTREAM_WORKER_METRICS_PORT=9100
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9100/metrics', timeout=4)"]
ENTRYPOINT ["maskstream"]
CMD ["worker"]

FROM worker-cuda-dependencies AS worker-cuda
COPY --from=source /app /app
RUN pip install --no-cache-dir --no-deps -e .
USER 10001
VOLUME /data
ENV MASKSTREAM_WORKER_METRICS_PORT=9100
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9100/metrics', timeout=4)"]
ENTRYPOINT ["maskstream"]
CMD ["worker"]
