# Two images from one file:
#   docker build --target transformer -t saccade-transformer .
#   docker build --target predictor   -t saccade-predictor .
# Health is Kubernetes' business (readiness: /v2/models/<model>/ready), so there is no HEALTHCHECK.

FROM python:3.11-slim-bookworm AS base
# PYTHONSAFEPATH: the working directory is never on sys.path, whatever lies in it.
ENV PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

# The wheel of this project, built without a network beyond the locked build requirements.
FROM base AS wheel
WORKDIR /build
COPY requirements/build.txt requirements/build.txt
RUN python -m venv /venv && /venv/bin/pip install --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md LICENSE THIRD_PARTY.md ./
COPY serving serving
COPY predictor predictor
COPY transformers transformers
COPY cli cli
RUN /venv/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

FROM base AS transformer-environment
COPY requirements/transformer.txt /requirements.txt
RUN python -m venv /opt/saccade && /opt/saccade/bin/pip install --require-hashes -r /requirements.txt
COPY --from=wheel /wheels /wheels
RUN /opt/saccade/bin/pip install --no-deps --no-index --find-links /wheels saccade

FROM base AS predictor-environment
COPY requirements/predictor.txt /requirements.txt
RUN python -m venv /opt/saccade && /opt/saccade/bin/pip install --require-hashes -r /requirements.txt
COPY --from=wheel /wheels /wheels
RUN /opt/saccade/bin/pip install --no-deps --no-index --find-links /wheels saccade

FROM base AS transformer
LABEL org.opencontainers.image.title="saccade-transformer" \
      org.opencontainers.image.description="KServe custom transformer: images in, detections out" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=transformer-environment /opt/saccade /opt/saccade
USER 1000:1000
EXPOSE 8080 8081 9095
ENTRYPOINT ["/opt/saccade/bin/saccade-transformer"]

FROM base AS predictor
LABEL org.opencontainers.image.title="saccade-predictor" \
      org.opencontainers.image.description="KServe custom predictor: a Triton model repository with dynamic batching" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=predictor-environment /opt/saccade /opt/saccade
USER 1000:1000
EXPOSE 8080 8081 9095
ENTRYPOINT ["/opt/saccade/bin/saccade-predictor"]
