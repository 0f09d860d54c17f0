# Six images from one file (docs/images.md):
#   docker build --target transformer   -t saccade-transformer .
#   docker build --target predictor     -t saccade-predictor .        TensorRT plans on a GPU, ONNX on a CPU
#   docker build --target predictor-cpu -t saccade-predictor-cpu .    ONNX on a CPU; nothing of NVIDIA's
#   docker build --target example       -t saccade-example .          predictor-cpu with the example model in it, to try it
#   docker build --target plan-builder  -t saccade-plan-builder .     predictor, and what builds plans for it
#   docker build --target loadtest      -t saccade-loadtest .         Locust with our users, for helm/loadtest
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
COPY loadtest loadtest
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

FROM base AS predictor-cpu
LABEL org.opencontainers.image.title="saccade-predictor-cpu" \
      org.opencontainers.image.description="KServe custom predictor: a Triton model repository with dynamic batching, on CPUs" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=predictor-environment /opt/saccade /opt/saccade
USER 1000:1000
EXPOSE 8080 8081 9095
ENTRYPOINT ["/opt/saccade/bin/saccade-predictor"]

# The example model in its image, for a cluster without a bucket: helm/saccade/ci/cpu-only-values.yaml names the folder.
FROM predictor-cpu AS example
LABEL org.opencontainers.image.title="saccade-example" \
      org.opencontainers.image.description="The predictor for CPUs with the example detector, to try Saccade"
COPY examples/model-repository /opt/saccade/models

FROM base AS loadtest-environment
COPY requirements/loadtest.txt /requirements.txt
RUN python -m venv /opt/saccade && /opt/saccade/bin/pip install --require-hashes -r /requirements.txt
COPY --from=wheel /wheels /wheels
RUN /opt/saccade/bin/pip install --no-deps --no-index --find-links /wheels saccade

FROM base AS loadtest
LABEL org.opencontainers.image.title="saccade-loadtest" \
      org.opencontainers.image.description="Load tests of Saccade: Locust with cameras as users, and a verdict" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=loadtest-environment /opt/saccade /opt/saccade
COPY loadtest/locustfile.py /opt/loadtest/locustfile.py
COPY examples/images /opt/loadtest/images
USER 1000:1000
EXPOSE 5557 8089
ENTRYPOINT ["/opt/saccade/bin/locust", "-f", "/opt/loadtest/locustfile.py"]

# TensorRT's libraries and CUDA's toolkit. The version is that of the bindings in requirements/gpu.txt.
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS cuda
ARG TENSORRT_VERSION=10.13.3.9-1+cuda13.0
WORKDIR /usr/lib/x86_64-linux-gnu
# What runs plans, and apart from it what builds them, which is most of TensorRT's size. CUDA's own runtime is small.
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
      libnvinfer10="${TENSORRT_VERSION}" \
      libnvinfer-plugin10="${TENSORRT_VERSION}" \
      libnvonnxparsers10="${TENSORRT_VERSION}" \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir -p /tensorrt/runtime /tensorrt/builder \
    && cp -a libnvinfer.so.10* libnvinfer_plugin.so.10* libnvonnxparser.so.10* /tensorrt/runtime/ \
    && cp -a libnvinfer_builder_resource*.so.10* /tensorrt/builder/ \
    && cp -a /usr/local/cuda/lib64/libcudart.so.13* /tensorrt/runtime/

# pycuda is source only. Built by the images' own Python, without cuRAND, which nothing uses.
FROM python:3.11-bookworm AS pycuda
COPY --from=cuda /usr/local/cuda-13.0 /usr/local/cuda
COPY requirements/pycuda-build.txt requirements/pycuda.txt /
ENV PATH=/usr/local/cuda/bin:$PATH
RUN echo "CUDA_ENABLE_CURAND = False" > /etc/aksetup-defaults.py \
    && python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --require-hashes -r /pycuda-build.txt \
    && /venv/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --require-hashes --wheel-dir /wheels -r /pycuda.txt

FROM predictor-environment AS predictor-gpu-environment
COPY requirements/gpu.txt /requirements-gpu.txt
RUN /opt/saccade/bin/pip install --require-hashes -r /requirements-gpu.txt
COPY --from=pycuda /wheels /gpu-wheels
RUN /opt/saccade/bin/pip install --no-deps --no-index --find-links /gpu-wheels pycuda

FROM base AS predictor
LABEL org.opencontainers.image.title="saccade-predictor" \
      org.opencontainers.image.description="KServe custom predictor: TensorRT plans on GPUs, with dynamic batching" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=cuda /tensorrt/runtime /opt/tensorrt/lib
COPY --from=predictor-gpu-environment /opt/saccade /opt/saccade
# The driver's libraries come from the node: the container runtime mounts what these name.
ENV LD_LIBRARY_PATH=/opt/tensorrt/lib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
EXPOSE 8080 8081 9095
ENTRYPOINT ["/opt/saccade/bin/saccade-predictor"]

# What builds plans also gets graphs from a bucket and puts plans there: saccade-build fetch and publish.
FROM predictor-gpu-environment AS plan-builder-environment
COPY requirements/publish.txt /requirements-publish.txt
RUN /opt/saccade/bin/pip install --require-hashes -r /requirements-publish.txt

# Builds plans on the GPU that will run them, with the very TensorRT of the predictor; for a Job, not for serving.
FROM predictor AS plan-builder
LABEL org.opencontainers.image.title="saccade-plan-builder" \
      org.opencontainers.image.description="Builds TensorRT plans into a model repository: saccade-build" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=cuda /tensorrt/builder /opt/tensorrt/lib
COPY --from=plan-builder-environment /opt/saccade /opt/saccade
ENTRYPOINT ["/opt/saccade/bin/saccade-build"]
