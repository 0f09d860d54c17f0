"""The running pair, asked by the clients people use: one picture has one answer, whichever way it comes."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray
from openapi_spec_validator import validate
from PIL import Image
from tritonclient.utils import InferenceServerException

from integration_support import (
    HOST,
    INFER,
    MODEL,
    PHOTOS,
    PREDICT,
    Address,
    Detection,
    check_rounded,
    check_same,
    from_arrays,
    from_detect,
    from_rpc,
    from_v2_json,
    multipart,
    run_client,
    v1_json,
    v2_binary,
    v2_grpc,
    v2_json,
)
from saccade_serving.oip import proto

OUTPUTS = ["num_detections", "boxes", "scores", "class_ids", "labels", "cache"]
PNGS = [name for name in PHOTOS if name.endswith(".png")]

Expected = dict[str, list[Detection]]
Photos = dict[str, bytes]


@pytest.fixture
def client(transformer: Address) -> Iterator[Any]:
    with triton.InferenceServerClient(f"{HOST}:{transformer.rest}") as opened:
        yield opened


@pytest.fixture
def predictor_client(predictor: Address) -> Iterator[Any]:
    with triton.InferenceServerClient(f"{HOST}:{predictor.rest}") as opened:
        yield opened


def tensor(array: NDArray[Any], datatype: str, name: str = "image", binary: bool = True) -> Any:
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def encoded(*images: bytes, binary: bool = True) -> Any:
    return tensor(np.array(images, dtype=object), "BYTES", binary=binary)


def pixels(photo: bytes, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """[1, height, width, 3] RGB."""
    with Image.open(io.BytesIO(photo)) as image:
        upright = image.convert("RGB")
        return np.asarray(upright.resize(size) if size else upright)[None]


def read(result: Any) -> list[list[Detection]]:
    arrays = {name: result.as_numpy(name) for name in OUTPUTS}
    labels = [label if isinstance(label, str) else label.decode() for label in arrays["labels"].ravel()]
    counts, boxes, scores, class_ids = (arrays[name].tolist() for name in OUTPUTS[:4])
    return from_arrays(counts, boxes, scores, class_ids, labels)


def of_report(images: list[dict[str, Any]] | dict[str, dict[str, Any]]) -> list[list[Detection]]:
    """The detections that a client's report holds."""
    return [from_detect(one) for one in (images.values() if isinstance(images, dict) else images)]


def check_all(found: list[list[Detection]], expected: Expected) -> None:
    for one, wanted in zip(found, expected.values(), strict=True):
        check_same(one, wanted)


def test_the_photos_show_what_people_see_in_them(expected: Expected) -> None:
    seen = {name: {one.label for one in found} for name, found in expected.items()}
    for suffix in ("jpg", "png"):
        assert "person" in seen[f"astronaut.{suffix}"]
        assert "person" in seen[f"grace_hopper.{suffix}"]
        assert "cat" in seen[f"chelsea.{suffix}"]
        assert seen[f"coffee.{suffix}"] & {"cup", "dining table"}


@pytest.fixture(scope="module")
def triton_grpc(transformer: Address, images: Path) -> Any:
    """What a process with tritonclient.grpc found out."""
    return run_client("triton_grpc.py", f"{HOST}:{transformer.grpc}", MODEL, *(str(images / name) for name in PHOTOS))


@pytest.fixture(scope="module")
def kserve_rest(transformer: Address, images: Path) -> Any:
    """What a process with kserve's REST client found out."""
    return run_client("kserve_rest.py", transformer.url, MODEL, *(str(images / name) for name in PHOTOS))


@pytest.fixture(scope="module")
def kserve_grpc(transformer: Address, images: Path) -> Any:
    """What a process with kserve's gRPC client found out."""
    return run_client("kserve_grpc.py", f"{HOST}:{transformer.grpc}", MODEL, *(str(images / name) for name in PHOTOS))


class TestTritonHttp:
    @pytest.mark.parametrize("photo", PHOTOS)
    def test_an_encoded_photo_as_binary_bytes(
        self, client: Any, photos: Photos, expected: Expected, photo: str
    ) -> None:
        [found] = read(client.infer(MODEL, [encoded(photos[photo])]))
        check_same(found, expected[photo])

    @pytest.mark.parametrize("photo", PHOTOS)
    def test_a_base64_photo_as_json(self, client: Any, photos: Photos, expected: Expected, photo: str) -> None:
        image = encoded(base64.b64encode(photos[photo]), binary=False)
        outputs = [triton.InferRequestedOutput(name, binary_data=False) for name in OUTPUTS]
        [found] = read(client.infer(MODEL, [image], outputs=outputs))
        check_same(found, expected[photo])

    @pytest.mark.parametrize("photo", PNGS)
    def test_decoded_pixels_as_binary_uint8(self, client: Any, photos: Photos, expected: Expected, photo: str) -> None:
        [found] = read(client.infer(MODEL, [tensor(pixels(photos[photo]), "UINT8")]))
        check_same(found, expected[photo])

    @pytest.mark.parametrize("name", ["grace_hopper.png", "chelsea.png"])
    def test_a_small_picture_has_one_answer_as_json_pixels_binary_pixels_and_png(
        self, client: Any, photos: Photos, name: str
    ) -> None:
        picture = pixels(photos[name], (64, 48))
        png = io.BytesIO()
        Image.fromarray(picture[0]).save(png, "PNG")
        ways = (tensor(picture, "UINT8", binary=False), tensor(picture, "UINT8"), encoded(png.getvalue()))
        answers = [read(client.infer(MODEL, [way], parameters={"score_threshold": 0.1}))[0] for way in ways]
        assert answers[0]
        check_same(answers[0], answers[1])
        check_same(answers[0], answers[2])

    def test_a_batch_of_pictures_of_different_sizes(self, client: Any, photos: Photos, expected: Expected) -> None:
        result = client.infer(MODEL, [encoded(*photos.values())])
        check_all(read(result), expected)
        most = max(map(len, expected.values()))
        assert result.as_numpy("boxes").shape == (len(PHOTOS), most, 4)
        assert result.as_numpy("cache").tolist() == [b"miss"] * len(PHOTOS)

    def test_a_batch_of_decoded_pictures(self, client: Any, photos: Photos, expected: Expected) -> None:
        picture = pixels(photos["chelsea.png"])
        found = read(client.infer(MODEL, [tensor(np.concatenate([picture, picture[:, :, ::-1], picture]), "UINT8")]))
        check_same(found[0], expected["chelsea.png"])
        check_same(found[2], expected["chelsea.png"])
        assert [one.label for one in found[1]] == ["cat"]

    def test_a_picture_without_anything_has_tensors_without_rows(self, client: Any) -> None:
        result = client.infer(MODEL, [tensor(np.full((1, 64, 64, 3), 114, np.uint8), "UINT8")])
        assert result.as_numpy("num_detections").tolist() == [0]
        assert result.as_numpy("boxes").shape == (1, 0, 4)
        assert result.as_numpy("labels").shape == (1, 0)

    def test_requested_outputs_come_alone_and_in_the_order_asked_for(self, client: Any, photos: Photos) -> None:
        wanted = ["labels", "num_detections"]
        outputs = [triton.InferRequestedOutput(name) for name in wanted]
        result = client.infer(MODEL, [encoded(photos["grace_hopper.jpg"])], outputs=outputs)
        assert [one["name"] for one in result.get_response()["outputs"]] == wanted
        assert result.as_numpy("labels").tolist() == [[b"person", b"tie"]]

    def test_parameters_choose_what_is_reported(self, client: Any, photos: Photos, expected: Expected) -> None:
        def count(**parameters: Any) -> int:
            return len(read(client.infer(MODEL, [encoded(photos["grace_hopper.jpg"])], parameters=parameters))[0])

        assert count() == len(expected["grace_hopper.jpg"]) == 2
        assert count(score_threshold=0.8) == 1
        assert count(max_detections=1) == 1
        assert count(score_threshold=0.05, iou_threshold=1) > 2

    def test_request_id_and_model_version_come_back(self, client: Any, photos: Photos) -> None:
        image = encoded(photos["coffee.jpg"])
        answer = client.infer(MODEL, [image], model_version="1", request_id="r-7").get_response()
        assert (answer["id"], answer["model_name"], answer["model_version"]) == ("r-7", MODEL, "1")

    def test_the_cache_parameter_is_answered(self, client: Any, photos: Photos) -> None:
        result = client.infer(MODEL, [encoded(photos["coffee.jpg"])], parameters={"cache": "bypass"})
        assert result.as_numpy("cache").tolist() == [b"bypass"]

    def test_health_and_metadata(self, client: Any) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(MODEL)
        assert client.is_model_ready(MODEL, "1")
        assert not client.is_model_ready(MODEL, "7")
        assert not client.is_model_ready("absent")
        assert client.get_server_metadata()["name"] == "saccade"
        metadata = client.get_model_metadata(MODEL)
        assert metadata["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
        assert [one["name"] for one in metadata["outputs"]] == OUTPUTS
        assert client.get_model_metadata(MODEL, "1") == metadata

    @pytest.mark.parametrize(
        ("inputs", "sentence"),
        [
            (
                [tensor(np.zeros((8, 8, 3), np.uint8), "UINT8")],
                "input 'image' is UINT8 of shape [8, 8, 3]; expected BYTES [n]",
            ),
            ([tensor(np.zeros((1, 8, 8, 3), np.float32), "FP32")], "input 'image' is FP32; expected BYTES [n]"),
            ([tensor(np.zeros((1, 8, 8, 3), np.uint8), "UINT8", "picture")], "input 'picture' is not a tensor"),
        ],
        ids=["shape", "datatype", "name"],
    )
    def test_a_wrong_tensor_is_an_exception_that_names_it(self, client: Any, inputs: list[Any], sentence: str) -> None:
        with pytest.raises(InferenceServerException) as caught:
            client.infer(MODEL, inputs)
        assert caught.value.status() == "400"
        assert sentence in caught.value.message()

    def test_an_unknown_output_is_an_exception_that_names_it(self, client: Any, photos: Photos) -> None:
        with pytest.raises(InferenceServerException) as caught:
            client.infer(MODEL, [encoded(photos["coffee.jpg"])], outputs=[triton.InferRequestedOutput("masks")])
        assert caught.value.status() == "400"
        assert "output 'masks' is not a tensor of this model" in caught.value.message()

    def test_unknown_model_and_version_are_404(self, client: Any, photos: Photos) -> None:
        for model, version in (("absent", ""), (MODEL, "7")):
            with pytest.raises(InferenceServerException) as caught:
                client.infer(model, [encoded(photos["coffee.jpg"])], model_version=version)
            assert caught.value.status() == "404"


class TestTritonGrpc:
    def test_encoded_photos(self, triton_grpc: Any, expected: Expected) -> None:
        check_all(of_report(triton_grpc["bytes"]), expected)

    def test_decoded_pixels(self, triton_grpc: Any, expected: Expected) -> None:
        check_all(of_report(triton_grpc["uint8"]), {name: expected[name] for name in PNGS})

    def test_a_batch_of_pictures_of_different_sizes(self, triton_grpc: Any, expected: Expected) -> None:
        check_all(of_report(triton_grpc["batch"]), expected)

    def test_live_ready_and_versions(self, triton_grpc: Any) -> None:
        assert (
            triton_grpc["live"]
            is triton_grpc["ready"]
            is triton_grpc["model_ready"]
            is triton_grpc["version_ready"]
            is True
        )
        assert triton_grpc["unknown_version_ready"] is False
        assert triton_grpc["version"] == "1"

    def test_metadata(self, triton_grpc: Any) -> None:
        assert triton_grpc["server"]["name"] == "saccade"
        assert [one["name"] for one in triton_grpc["metadata"]["outputs"]] == OUTPUTS
        assert triton_grpc["metadata"]["versions"] == ["1"]
        assert triton_grpc["metadata_of_version"] == triton_grpc["metadata"]

    def test_requested_outputs_request_id_and_parameters(self, triton_grpc: Any) -> None:
        assert triton_grpc["subset"] == ["scores", "cache"]
        assert triton_grpc["id"] == "r-7"
        assert triton_grpc["above_threshold"] == []

    @pytest.mark.parametrize(
        ("what", "code", "sentence"),
        [
            ("unknown tensor", "INVALID_ARGUMENT", "input 'img' is not a tensor of this model"),
            ("wrong shape", "INVALID_ARGUMENT", "input 'image' is BYTES of shape [1, 1]"),
            ("wrong datatype", "INVALID_ARGUMENT", "input 'image' is FP32"),
            ("unknown output", "INVALID_ARGUMENT", "output 'masks' is not a tensor of this model"),
            ("not an image", "INVALID_ARGUMENT", "the data looks like text"),
            ("unknown model", "NOT_FOUND", "model 'absent' is not served here"),
            ("unknown version", "NOT_FOUND", "version '7' of model 'detector' is not served here"),
            ("readiness of an unknown model", "NOT_FOUND", "model 'absent' is not served here"),
            ("client timeout", "DEADLINE_EXCEEDED", ""),
            ("timeout parameter", "DEADLINE_EXCEEDED", "were over"),
            ("load", "UNIMPLEMENTED", "loading and unloading on request is not offered here"),
            ("unload", "UNIMPLEMENTED", "loading and unloading on request is not offered here"),
        ],
    )
    def test_errors_have_a_code_and_a_sentence(self, triton_grpc: Any, what: str, code: str, sentence: str) -> None:
        error = triton_grpc["errors"][what]
        assert error["status"] == f"StatusCode.{code}"
        assert sentence in error["message"]


class TestKServe:
    @pytest.mark.parametrize("way", ["binary", "json", "batch"])
    def test_v2_rest(self, kserve_rest: Any, expected: Expected, way: str) -> None:
        check_all(of_report(kserve_rest[way]), expected)

    def test_v1_predict(self, kserve_rest: Any, expected: Expected) -> None:
        for found, wanted in zip(of_report(kserve_rest["v1"]), expected.values(), strict=True):
            check_rounded(found, wanted)

    @pytest.mark.parametrize("way", ["bytes", "batch"])
    def test_v2_grpc(self, kserve_grpc: Any, expected: Expected, way: str) -> None:
        check_all(of_report(kserve_grpc[way]), expected)

    def test_health(self, kserve_rest: Any, kserve_grpc: Any) -> None:
        for report in (kserve_rest, kserve_grpc):
            assert report["live"] is report["ready"] is report["model_ready"] is True
        assert kserve_rest["v1_model_ready"] is True
        assert kserve_rest["unknown_model_ready"] is False

    @pytest.mark.parametrize(
        ("what", "status", "sentence"),
        [
            ("unknown tensor", "400", "input 'img' is not a tensor of this model"),
            ("not an image", "415", "the data looks like text"),
            ("not an image by v1", "415", "the data looks like text"),
            ("unknown model", "404", "model 'absent' is not served here"),
            ("unknown model by v1", "404", "model 'absent' is not served here"),
        ],
    )
    def test_rest_errors(self, kserve_rest: Any, what: str, status: str, sentence: str) -> None:
        assert kserve_rest["errors"][what]["status"] == status
        assert sentence in kserve_rest["errors"][what]["message"]

    @pytest.mark.parametrize(
        ("what", "code"),
        [
            ("unknown tensor", "INVALID_ARGUMENT"),
            ("not an image", "INVALID_ARGUMENT"),
            ("unknown model", "NOT_FOUND"),
            ("readiness of an unknown model", "NOT_FOUND"),
            ("timeout", "DEADLINE_EXCEEDED"),
        ],
    )
    def test_grpc_errors(self, kserve_grpc: Any, what: str, code: str) -> None:
        assert kserve_grpc["errors"][what]["status"] == code


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
class TestCurl:
    def curl(self, *arguments: str) -> bytes:
        return subprocess.run(["curl", "-sS", "--fail-with-body", *arguments], capture_output=True, check=True).stdout

    @pytest.mark.parametrize("photo", PHOTOS)
    def test_a_form(self, transformer: Address, images: Path, expected: Expected, photo: str) -> None:
        answer = json.loads(self.curl("-F", f"file=@{images / photo}", f"{transformer.url}/detect"))
        check_rounded(from_detect(answer), expected[photo])
        assert answer["model"] == {"name": MODEL, "version": "1"}
        with Image.open(images / photo) as image:
            assert (answer["image"]["width"], answer["image"]["height"]) == image.size

    def test_a_form_with_parameters(self, transformer: Address, images: Path) -> None:
        file = f"file=@{images / 'grace_hopper.jpg'}"
        url = f"{transformer.url}/detect"
        assert len(json.loads(self.curl("-F", file, "-F", "max_detections=1", url))["detections"]) == 1
        assert len(json.loads(self.curl("-F", file, f"{url}?score_threshold=0.8"))["detections"]) == 1

    @pytest.mark.parametrize("photo", PHOTOS)
    def test_a_raw_body_answered_with_the_picture_drawn(
        self, transformer: Address, images: Path, tmp_path: Path, photo: str
    ) -> None:
        drawn, head = tmp_path / "drawn.jpg", tmp_path / "head"
        headers = ("-H", "Content-Type: image/jpeg", "-H", "Accept: image/jpeg", "-D", str(head))
        self.curl(*headers, "--data-binary", f"@{images / photo}", "-o", str(drawn), f"{transformer.url}/detect")
        assert "content-type: image/jpeg" in head.read_text().lower()
        assert "x-saccade-cache: miss" in head.read_text().lower()
        with Image.open(drawn) as after, Image.open(images / photo) as before:
            assert after.format == "JPEG"
            assert after.size == before.size
            difference = np.abs(np.asarray(after).astype(int) - np.asarray(before.convert("RGB")).astype(int))
        # More than what JPEG itself changes: a box is drawn in a saturated colour.
        assert (difference.max(axis=2) > 80).sum() > 200

    def test_the_lines_that_saccade_up_prints(self, transformer: Address, images: Path, expected: Expected) -> None:
        script = (
            '(printf \'{"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"data":["\'; '
            "base64 < \"$1\" | tr -d '\\n'; printf '\"]}]}') | "
            "curl -s -H 'Content-Type: application/json' --data-binary @- \"$2\""
        )
        photo = images / "chelsea.jpg"
        ended = subprocess.run(
            ["sh", "-c", script, "sh", str(photo), transformer.url + INFER], capture_output=True, check=True
        )
        [found] = from_v2_json(json.loads(ended.stdout))
        check_same(found, expected["chelsea.jpg"])

    def test_a_large_body_that_waits_for_100_continue(self, transformer: Address, tmp_path: Path) -> None:
        noise = np.random.default_rng(7).integers(0, 256, (900, 900, 3), dtype=np.uint8)
        photo = tmp_path / "noise.png"
        Image.fromarray(noise).save(photo)
        assert photo.stat().st_size > 2**20
        head = tmp_path / "head"
        answer = self.curl(
            *("-H", "Expect: 100-continue", "-D", str(head)),
            *("-H", "Content-Type: image/png", "--data-binary", f"@{photo}", f"{transformer.url}/detect"),
        )
        assert json.loads(answer)["image"] == {"width": 900, "height": 900}
        assert head.read_text().startswith("HTTP/1.1 100")


class TestPlainHttp:
    @pytest.mark.parametrize("photo", PHOTOS)
    def test_v1_base64(self, transformer: Address, photos: Photos, expected: Expected, photo: str) -> None:
        answer = transformer.http(PREDICT, v1_json(photos[photo]), {"content-type": "application/json"})
        assert answer.status == 200
        [prediction] = answer.json["predictions"]
        check_rounded(from_detect(prediction), expected[photo])
        assert answer.headers["x-saccade-cache"] == "miss"

    def test_v1_takes_several_instances_parameters_and_data_urls(self, transformer: Address, photos: Photos) -> None:
        text = "data:image/jpeg;base64," + base64.b64encode(photos["grace_hopper.jpg"]).decode()
        body = {"instances": [{"image": {"b64": text}}] * 2, "parameters": {"max_detections": 1}}
        answer = transformer.http(PREDICT, json.dumps(body).encode())
        assert [len(one["detections"]) for one in answer.json["predictions"]] == [1, 1]

    def test_v1_takes_a_raw_image(self, transformer: Address, photos: Photos, expected: Expected) -> None:
        answer = transformer.http(PREDICT, photos["chelsea.jpg"], {"content-type": "image/jpeg"})
        check_rounded(from_detect(answer.json["predictions"][0]), expected["chelsea.jpg"])

    @pytest.mark.parametrize("kind", ["image/jpeg", "application/octet-stream", "image/x-whatever", None])
    def test_detect_looks_at_the_bytes_and_not_at_the_content_type(
        self, transformer: Address, photos: Photos, expected: Expected, kind: str | None
    ) -> None:
        answer = transformer.http("/detect", photos["astronaut.png"], {"content-type": kind} if kind else {})
        check_rounded(from_detect(answer.json), expected["astronaut.png"])

    def test_detect_takes_parameters_in_query_and_form(self, transformer: Address, photos: Photos) -> None:
        body, headers = multipart(photos["grace_hopper.jpg"], score_threshold="0.8", cache="bypass")
        answer = transformer.http("/detect?score_threshold=0.05", body, headers)
        assert [one["label"] for one in answer.json["detections"]] == ["person"]
        assert answer.json["cache"] == answer.headers["x-saccade-cache"] == "bypass"

    @pytest.mark.parametrize(
        ("accept", "kind"),
        [
            ("*/*", "application/json"),
            ("image/jpeg", "image/jpeg"),
            ("image/*", "image/jpeg"),
            ("application/json, image/jpeg;q=0.5", "application/json"),
            ("text/html", "application/json"),
        ],
    )
    def test_accept_chooses_between_boxes_and_picture(
        self, transformer: Address, photos: Photos, accept: str, kind: str
    ) -> None:
        answer = transformer.http("/detect", photos["coffee.jpg"], {"accept": accept})
        assert answer.headers["content-type"] == kind

    def test_a_chunked_body(self, transformer: Address, photos: Photos, expected: Expected) -> None:
        image = photos["chelsea.jpg"]
        chunks = b"".join(
            f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n"
            for chunk in (image[i : i + 10_000] for i in range(0, len(image), 10_000))
        )
        answer = transformer.http("/detect", chunks + b"0\r\n\r\n", {"transfer-encoding": "chunked"})
        check_rounded(from_detect(answer.json), expected["chelsea.jpg"])

    def test_metadata_and_ready_routes(self, transformer: Address) -> None:
        server = transformer.http("/v2").json
        assert server["name"] == "saccade"
        assert server["extensions"] == ["binary_tensor_data", "parameters", "statistics"]
        assert transformer.http("/v2/health/live").json == {"live": True}
        assert transformer.http("/v2/health/ready").json == {"ready": True}
        for path in (f"/v2/models/{MODEL}", f"/v2/models/{MODEL}/versions/1"):
            assert transformer.http(f"{path}/ready").json == {"name": MODEL, "ready": True}
            metadata = transformer.http(path).json
            assert metadata["versions"] == ["1"]
            assert [one["name"] for one in metadata["outputs"]] == OUTPUTS
            assert "person" in json.loads(metadata["properties"]["saccade.labels"])
        assert transformer.http("/v2/models").json == {"models": [MODEL]}
        assert transformer.http("/v1/models").json == {"models": [MODEL]}
        assert transformer.http(f"/v1/models/{MODEL}").json["ready"] in (True, "True")
        assert transformer.http("/").status == 200

    @pytest.mark.parametrize("path", ["", "/ready"])
    def test_unknown_model_and_version_are_404(self, transformer: Address, path: str) -> None:
        answer = transformer.http(f"/v2/models/absent{path}")
        assert (answer.status, answer.error) == (404, "model 'absent' is not served here; available: detector")
        answer = transformer.http(f"/v2/models/{MODEL}/versions/7{path}")
        assert answer.status == 404
        assert answer.error == "version '7' of model 'detector' is not served here; available: 1"

    def test_percent_encoded_names(self, transformer: Address, photos: Photos, expected: Expected) -> None:
        answer = transformer.http("/v2/models/%64etecto%72/versions/%31/infer", v2_json(photos["chelsea.jpg"]))
        check_same(from_v2_json(answer.json)[0], expected["chelsea.jpg"])
        assert transformer.http("/v2/models/%64etector/ready").status == 200
        answer = transformer.http("/v2/models/%C3%A9t%C3%A9%20a%27b/ready")
        assert answer.status == 404
        assert 'model "été a\'b" is not served here' in answer.error

    @pytest.mark.parametrize("path", [INFER, f"/v2/models/{MODEL}/versions/1/infer"])
    def test_v2_json_with_and_without_version(
        self, transformer: Address, photos: Photos, expected: Expected, path: str
    ) -> None:
        answer = transformer.http(path, v2_json(photos["coffee.jpg"]), {"content-type": "application/json"})
        assert answer.headers["content-type"] == "application/json"
        assert (answer.json["model_name"], answer.json["model_version"]) == (MODEL, "1")
        check_same(from_v2_json(answer.json)[0], expected["coffee.jpg"])

    def test_every_protocol_in_one_look(self, transformer: Address, photos: Photos, expected: Expected) -> None:
        for name, image in photos.items():
            check_same(from_rpc(transformer.rpc("ModelInfer", v2_grpc(image)).message)[0], expected[name])
            check_same(from_v2_json(transformer.http(INFER, v2_json(image)).json)[0], expected[name])
            check_rounded(from_detect(transformer.http("/detect", *multipart(image)).json), expected[name])


class TestRequestIds:
    def routes(self, image: bytes) -> list[tuple[str, bytes, dict[str, str]]]:
        return [
            (INFER, *v2_binary(image)),
            (INFER, v2_json(image), {}),
            ("/detect", image, {}),
            (PREDICT, v1_json(image), {}),
        ]

    def test_the_clients_id_comes_back(self, transformer: Address, photos: Photos) -> None:
        for path, body, headers in self.routes(photos["coffee.jpg"]):
            answer = transformer.http(path, body, {**headers, "x-request-id": "abc-1"})
            assert (answer.status, answer.headers["x-request-id"]) == (200, "abc-1")

    def test_without_one_the_server_makes_one(self, transformer: Address, photos: Photos) -> None:
        ids = [
            transformer.http(path, body, headers).headers["x-request-id"]
            for path, body, headers in self.routes(photos["coffee.jpg"])
        ]
        assert all(ids)
        assert len(set(ids)) == len(ids)

    def test_a_long_one_is_cut_and_an_unprintable_one_replaced(self, transformer: Address, photos: Photos) -> None:
        def returned(sent: str) -> str:
            answer = transformer.http("/detect", photos["coffee.jpg"], {"x-request-id": sent})
            assert answer.status == 200
            return answer.headers["x-request-id"]

        assert returned("x" * 300) == "x" * 128
        assert returned("caf\u00e9").isalnum()
        assert returned("caf\u00e9") != "caf\u00e9"

    def test_errors_carry_it_too(self, transformer: Address) -> None:
        for path, body, headers in self.routes(b"hello"):
            answer = transformer.http(path, body, {**headers, "x-request-id": "abc-2"})
            assert (answer.status, answer.headers["x-request-id"]) == (415, "abc-2")


class TestPredictor:
    """The predictor by itself: tensors in, tensors out."""

    SIDE = 416

    def letterboxed(self, photos: Photos, *names: str) -> NDArray[np.uint8]:
        return np.concatenate([pixels(photos[name], (self.SIDE, self.SIDE)) for name in names])

    def test_metadata(self, predictor_client: Any) -> None:
        metadata = predictor_client.get_model_metadata(MODEL)
        assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, self.SIDE, self.SIDE, 3]}]
        assert metadata["outputs"] == [{"name": "candidates", "datatype": "FP32", "shape": [-1, 1000, 6]}]
        assert metadata["platform"] == "onnxruntime_onnx"
        assert metadata["versions"] == ["1"]

    def test_what_perf_analyzer_asks_before_and_after_it_measures(self, predictor_client: Any) -> None:
        config = predictor_client.get_model_config(MODEL)
        assert (config["name"], config["backend"]) == (MODEL, "onnxruntime")
        assert config["max_batch_size"] >= 1
        before = predictor_client.get_inference_statistics(MODEL)["model_stats"][0]
        image = np.zeros((1, self.SIDE, self.SIDE, 3), np.uint8)
        predictor_client.infer(MODEL, [tensor(image, "UINT8")])
        after = predictor_client.get_inference_statistics(MODEL, "1")["model_stats"][0]
        assert int(after["inference_count"]) == int(before["inference_count"]) + 1
        for what in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
            assert int(after["inference_stats"][what]["count"]) == int(before["inference_stats"][what]["count"]) + 1
        spent = [int(told["inference_stats"]["compute_infer"]["ns"]) for told in (before, after)]
        assert spent[0] < spent[1]
        for refused in (
            lambda: predictor_client.register_system_shared_memory("r", "/r", 64),
            lambda: predictor_client.register_cuda_shared_memory("r", b"handle", 0, 64),
            lambda: predictor_client.unregister_system_shared_memory(),
            lambda: predictor_client.get_system_shared_memory_status(),
        ):
            with pytest.raises(InferenceServerException, match="binary data") as caught:
                refused()  # type: ignore[no-untyped-call]
            assert "501" in caught.value.status()

    def test_the_description_of_the_api_and_its_page(self, predictor: Address, transformer: Address) -> None:
        for service, path in (
            (predictor, "/v2/models/{model_name}/infer"),
            (transformer, "/detect"),
            (transformer, "/v1/models/{model_name}:predict"),
        ):
            page = service.http("/docs")
            assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
            assert b"/openapi.json" in page.body
            described = service.http("/openapi.json")
            assert described.status == 200
            validate(described.json)
            assert "408" in described.json["paths"][path]["post"]["responses"]

    def test_the_described_lists_of_kserve_answer(self, predictor: Address, transformer: Address) -> None:
        for service in (predictor, transformer):
            described = service.http("/openapi.json").json
            for path in ("/", "/v1/models", "/v1/models/{model_name}", "/v2/models"):
                schema = described["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
                reference = schema.get("$ref", "").rpartition("/")[2]
                required = (described["components"]["schemas"][reference] if reference else schema)["required"]
                answer = service.http(path.replace("{model_name}", MODEL))
                assert answer.status == 200
                assert set(answer.json) == set(required), path

    @pytest.mark.parametrize("length", ["9" * 5000, "-1", "1e3", "12345678901234567890", ""])
    def test_a_json_length_that_is_none_is_the_clients_error(self, predictor: Address, length: str) -> None:
        answer = predictor.http(INFER, b"{}", {"inference-header-content-length": length})
        assert answer.status == 400
        assert "Inference-Header-Content-Length is not a number" in answer.json["error"]

    def test_one_row(self, predictor_client: Any, photos: Photos) -> None:
        result = predictor_client.infer(MODEL, [tensor(self.letterboxed(photos, "astronaut.png"), "UINT8")])
        table = result.as_numpy("candidates")
        assert table.shape == (1, 1000, 6)
        assert table.dtype == np.float32
        scores = table[0, :, 4]
        assert (np.diff(scores) <= 0).all()
        assert scores[0] > 0.5
        assert table[0, 0, 5] == 0  # a person
        assert result.get_response()["model_version"] == "1"

    def test_three_rows_are_three_times_one_row(self, predictor_client: Any, photos: Photos) -> None:
        names = ("astronaut.png", "chelsea.png", "coffee.png")
        together = predictor_client.infer(MODEL, [tensor(self.letterboxed(photos, *names), "UINT8")])
        alone = [
            predictor_client.infer(MODEL, [tensor(self.letterboxed(photos, name), "UINT8")]).as_numpy("candidates")
            for name in names
        ]
        assert together.as_numpy("candidates").shape == (3, 1000, 6)
        np.testing.assert_allclose(together.as_numpy("candidates"), np.concatenate(alone), atol=1e-3)

    def test_the_answer_as_json_is_the_same(self, predictor_client: Any, photos: Photos) -> None:
        image = self.letterboxed(photos, "chelsea.png")
        outputs = [triton.InferRequestedOutput("candidates", binary_data=False)]
        as_json = predictor_client.infer(MODEL, [tensor(image, "UINT8")], outputs=outputs)
        assert "data" in as_json.get_response()["outputs"][0]
        as_binary = predictor_client.infer(MODEL, [tensor(image, "UINT8")])
        assert "data" not in as_binary.get_response()["outputs"][0]
        np.testing.assert_array_equal(as_json.as_numpy("candidates"), as_binary.as_numpy("candidates"))

    def test_binary_data_output_false_is_json(self, predictor: Address, photos: Photos) -> None:
        raw = self.letterboxed(photos, "chelsea.png").tobytes()
        shape = [1, self.SIDE, self.SIDE, 3]
        header = json.dumps(
            {
                "parameters": {"binary_data_output": False},
                "inputs": [
                    {
                        "name": "image",
                        "datatype": "UINT8",
                        "shape": shape,
                        "parameters": {"binary_data_size": len(raw)},
                    }
                ],
            }
        ).encode()
        answer = predictor.http(INFER, header + raw, {"inference-header-content-length": str(len(header))})
        assert answer.headers["content-type"] == "application/json"
        assert "inference-header-content-length" not in answer.headers
        assert len(answer.json["outputs"][0]["data"]) == 6000

    def test_a_requested_version(self, predictor_client: Any, photos: Photos) -> None:
        image = tensor(self.letterboxed(photos, "chelsea.png"), "UINT8")
        answer = predictor_client.infer(MODEL, [image], model_version="1").get_response()
        assert answer["model_version"] == "1"
        with pytest.raises(InferenceServerException, match="version '7' of model 'detector'"):
            predictor_client.infer(MODEL, [image], model_version="7")

    def test_grpc_with_typed_contents_is_the_same_as_raw(self, predictor: Address, photos: Photos) -> None:
        image = self.letterboxed(photos, "coffee.png")
        raw, typed = (proto.ModelInferRequest(model_name=MODEL) for _ in range(2))
        for message in (raw, typed):
            message.inputs.add(name="image", datatype="UINT8", shape=image.shape)
        raw.raw_input_contents.append(image.tobytes())
        typed.inputs[0].contents.uint_contents.extend(image.ravel().tolist())
        answers = [predictor.rpc("ModelInfer", message).message.raw_output_contents[0] for message in (raw, typed)]
        assert len(answers[0]) == 1000 * 6 * 4
        assert answers[0] == answers[1]
