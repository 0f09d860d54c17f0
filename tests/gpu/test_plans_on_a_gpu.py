"""The example model's plans on a GPU: built by the command, compared with the ONNX, served by a process, sanitized.

Needs what ``test_tensorrt_on_a_gpu.py`` needs, and compute-sanitizer for the last; each is skipped with its reason.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from gpu_short_run import BATCHES
from measuring.processes import HOST
from measuring.served import serving
from saccade_predictor.engines.cuda import NoGpu, load_cuda
from saccade_predictor.engines.onnx import OnnxEngine
from saccade_predictor.engines.plan import Plan, read_sidecar
from saccade_predictor.machine import find_gpus, load_tensorrt
from saccade_serving.client import RestClient
from saccade_serving.oip.messages import InferRequest, Tensor

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).resolve().parents[2]
DETECTOR = ROOT / "examples" / "model-repository" / "detector"
IMAGES = ROOT / "examples" / "images"
#: Rows that every plan here takes at most.
ROWS = 8


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run saccade-build as a person does."""
    return subprocess.run(
        [sys.executable, "-m", "saccade_predictor.build", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the example model, built by ``saccade-build plan`` in a precision."""
    try:
        load_cuda()
    except NoGpu as error:
        pytest.skip(f"needs a GPU: {error}")
    if load_tensorrt("trt") is None:
        pytest.skip("needs TensorRT")
    folder = tmp_path_factory.mktemp("plans") / "detector"
    source = DETECTOR / "1" / "model.onnx"
    options = ["--kind", "trt", "--precision", request.param, "--batch", f"1,4,{ROWS}", "--no-tf32"]
    ended = command("plan", source, folder, *options, "--labels", DETECTOR / "labels.txt")
    assert ended.returncode == 0, ended.stderr
    return folder


def sidecar(model: Path) -> Plan:
    return read_sidecar(model / "1" / "plan.json")


def test_the_sidecar_names_this_gpu_and_this_tensorrt(model: Path) -> None:
    (gpu, *_), why = find_gpus()
    assert not why
    trt = load_tensorrt("trt")
    assert trt is not None
    plan = sidecar(model)
    assert (plan.kind, plan.gpu, plan.compute_capabilities) == ("trt", gpu.name, (gpu.compute_capability,))
    assert plan.tensorrt == trt.__version__
    assert plan.rows() == (1, ROWS)


def test_the_plan_finds_what_the_graph_finds(model: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    version = model / "1"
    ended = command("parity", version / "model.onnx", version / "model.plan", "--images", IMAGES, "--json", report)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert json.loads(report.read_text())
    assert sidecar(model).parity is not None, "the report stands in the sidecar too"


def test_a_process_serves_the_plan(model: Path, tmp_path: Path) -> None:
    picture = np.asarray(Image.open(IMAGES / "astronaut.jpg").convert("RGB").resize((416, 416)))[None]

    async def answers(port: int) -> list[NDArray[np.float32]]:
        client = RestClient(f"http://{HOST}:{port}")
        request = InferRequest("detector", [Tensor.of("image", picture)])
        try:
            metadata = await client.metadata("detector", 30)
            assert metadata.platform == "tensorrt_plan", "the ONNX file must not serve in the plan's place"
            given = await asyncio.gather(*(client.infer(request, 30) for _ in range(4 * ROWS)))
        finally:
            await client.close()
        return [one.outputs[0].array[0] for one in given]

    async def reference() -> NDArray[np.float32]:
        engine = OnnxEngine(model / "1" / "model.onnx", 1, 1)
        outputs = await engine.instances()[0].submit([{"image": picture}], 1).done
        found = np.array(outputs["candidates"][0])
        await asyncio.to_thread(engine.close)
        return found

    with serving(model, ROWS, tmp_path) as served:
        found = asyncio.run(answers(served.port))
        batches, rows = served.counts()
    assert rows / batches > 1, "requests were not batched"
    best = asyncio.run(reference())[0]
    assert best[4] > 0.4
    for table in found:
        np.testing.assert_allclose(table[0, :4], best[:4], atol=2.0)
        assert table[0, 4] == pytest.approx(best[4], abs=0.02)
        assert table[0, 5] == best[5]


def test_a_short_run_is_clean(model: Path) -> None:
    program = shutil.which("compute-sanitizer")
    if program is None:
        pytest.skip("needs compute-sanitizer, which comes with the CUDA toolkit")
    script, plan = ROOT / "tests" / "gpu_short_run.py", model / "1" / "model.plan"
    ended = subprocess.run(
        [program, "--tool=memcheck", "--error-exitcode=9", sys.executable, script, plan],
        capture_output=True,
        text=True,
        check=False,
    )
    said = ended.stdout + ended.stderr
    if "Device not supported" in said:
        pytest.skip("compute-sanitizer does not support this device")
    assert ended.returncode == 0, said[-4000:]
    assert str({str(rows): 4 * BATCHES for rows in (1, ROWS)}) in said, "not all batches were run"
