"""Requests of the five protocols are what the services read, and only right answers pass for right."""

from __future__ import annotations

import base64
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from saccade_loadtest.load.frames import Album, NoPictures, read_photos, stamp_of
from saccade_loadtest.load.trace import Shot
from saccade_loadtest.sending.checks import Asked, check_detect, check_pictures, check_tensors, check_v1, read_v2
from saccade_loadtest.sending.dialects import DIALECTS, Dialect, Endpoint, Request, Tensor, UnknownDialect
from saccade_loadtest.sending.oip_wire import WrongAnswer, decode_infer
from saccade_serving.oip import binary_codec, grpc_codec, proto
from saccade_serving.oip.messages import InferRequest, InferResponse
from saccade_serving.oip.messages import Tensor as OipTensor

ROOT = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT = 64, 48
ENDPOINT = Endpoint("http://host:80/prefix", "the model", cache="bypass", headers={"X-Team": "load"})
SHOT = Shot(1.5, 7, 3, 1)
ASKED = Asked("m")


@pytest.fixture(scope="module")
def album() -> Album:
    return Album(read_photos(ROOT / "examples" / "images"), WIDTH, HEIGHT, scenes=4, noises=2, lights=("day", "night"))


def split(request: Request) -> tuple[str, dict[str, str], bytes]:
    """Request line, headers in lower case, body."""
    head, _, rest = (request.first + request.rest).partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines)}
    assert len(headers) == len(lines)
    assert int(headers["content-length"]) == len(rest)
    return line, headers, rest


def request_of(name: str, album: Album, shot: Shot = SHOT, endpoint: Endpoint = ENDPOINT) -> Request:
    return Dialect(name, endpoint, album.pictures).request(album.key(shot), shot)


def jpeg_of(name: str, album: Album, shot: Shot = SHOT) -> bytes:
    """The picture in a request, as a service finds it."""
    request = request_of(name, album, shot)
    if name == "v2-grpc":
        message = proto.METHODS["ModelInfer"][0].FromString(request.first + request.rest)
        tensor = grpc_codec.decode_request(message).inputs[0]
        return bytes(tensor.data[0])
    _, headers, body = split(request)
    if name == "jpeg":
        return body
    if name == "v1":
        return base64.b64decode(json.loads(body)["instances"][0]["image"]["b64"], validate=True)
    if name == "v2-json":
        return base64.b64decode(json.loads(body)["inputs"][0]["data"][0], validate=True)
    length = headers["inference-header-content-length"]
    tensor = binary_codec.decode_request("m", "", body, length).inputs[0]
    assert (tensor.name, tensor.datatype, tensor.shape) == ("image", "BYTES", (1,))
    return bytes(tensor.data[0])


@pytest.mark.parametrize("name", DIALECTS)
def test_the_services_own_codecs_find_the_picture(name: str, album: Album) -> None:
    jpeg = jpeg_of(name, album)
    with Image.open(io.BytesIO(jpeg)) as image:
        assert image.size == (WIDTH, HEIGHT)
        image.load()
    assert jpeg == album.pictures[album.key(SHOT)].jpeg(stamp_of(SHOT))


@pytest.mark.parametrize("name", DIALECTS)
def test_equal_shots_are_equal_bytes_and_others_differ(name: str, album: Album) -> None:
    assert jpeg_of(name, album) == jpeg_of(name, album, SHOT._replace(due_s=9.0))
    others = [SHOT._replace(camera=8), SHOT._replace(scene=4), SHOT._replace(shot=2), SHOT._replace(scene=7, shot=3)]
    assert len({jpeg_of(name, album, one) for one in [SHOT, *others]}) == 5


@pytest.mark.parametrize("name", [name for name in DIALECTS if name != "v2-grpc"])
def test_heads_have_the_route_the_camera_and_what_was_asked_for(name: str, album: Album) -> None:
    line, headers, body = split(request_of(name, album))
    route = {"jpeg": "/detect?cache=bypass", "v1": "/v1/models/the%20model:predict"}
    assert line == f"POST /prefix{route.get(name, '/v2/models/the%20model/infer')} HTTP/1.1"
    assert headers["host"] == "host:80"
    assert headers["x-camera-id"] == "camera-7"
    assert headers["x-team"] == "load"
    if name in ("v1", "v2-json"):
        assert json.loads(body)["parameters"] == {"cache": "bypass"}
    if name == "v2-binary":
        header = json.loads(body[: int(headers["inference-header-content-length"])])
        assert header["parameters"] == {"binary_data_output": True, "cache": "bypass"}


def test_grpc_has_the_parameters_in_the_message_and_the_camera_beside_it(album: Album) -> None:
    request = request_of("v2-grpc", album)
    decoded = grpc_codec.decode_request(proto.METHODS["ModelInfer"][0].FromString(request.first + request.rest))
    assert (decoded.model_name, decoded.parameters) == ("the model", {"cache": "bypass"})
    assert request.camera == "camera-7"


def test_a_host_header_takes_the_urls_place(album: Album) -> None:
    endpoint = Endpoint("http://10.0.0.1:8080", "m", headers={"Host": "detector.example.com"})
    line, headers, _ = split(request_of("jpeg", album, endpoint=endpoint))
    assert (line, headers["host"]) == ("POST /detect HTTP/1.1", "detector.example.com")


@pytest.mark.parametrize("name", ["v2-binary", "v2-json", "v2-grpc"])
def test_a_predictor_gets_its_tensor(name: str) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    tensor = Tensor("image", "UINT8", (1, 2, 2, 3), pixels.tobytes())
    endpoint = Endpoint("http://host", "m", "predictor", outputs=("candidates",))
    request = Dialect(name, endpoint, {0: tensor}).request(0, SHOT)
    if name == "v2-grpc":
        decoded = grpc_codec.decode_request(proto.METHODS["ModelInfer"][0].FromString(request.first + request.rest))
    else:
        _, headers, body = split(request)
        decoded = binary_codec.decode_request("m", "", body, headers.get("inference-header-content-length"))
    assert decoded.inputs[0].name == "image"
    assert np.array_equal(decoded.inputs[0].array, pixels)
    with pytest.raises(UnknownDialect, match="'jpeg' is not served by a predictor"):
        Dialect("jpeg", endpoint, {0: tensor})


def test_night_is_darker_and_noise_differs_from_shot_to_shot(album: Album) -> None:
    def pixels(shot: Shot) -> Any:
        with Image.open(io.BytesIO(jpeg_of("jpeg", album, shot))) as image:
            return np.asarray(image.convert("L"), np.float32)

    day, night = pixels(SHOT), pixels(SHOT._replace(light="night"))
    assert night.mean() < 0.5 * day.mean()
    difference = np.abs(day - pixels(SHOT._replace(shot=2)))
    assert 0 < difference.mean() < 5


def test_a_folder_without_photos_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoPictures, match="has no photo"):
        read_photos(tmp_path)
    with pytest.raises(NoPictures, match="no folder"):
        read_photos(tmp_path / "nothing")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8nothing")
    with pytest.raises(NoPictures, match=r"broken\.jpg cannot be read"):
        read_photos(tmp_path)


def response(**changes: Any) -> InferResponse:
    """The transformer's answer about one picture with two detections, with outputs changed."""
    outputs = {
        "num_detections": OipTensor.of("num_detections", np.array([2], np.int32)),
        "boxes": OipTensor.of("boxes", np.array([[[1, 2, 30, 40], [0, 0, 64, 48]]], np.float32)),
        "scores": OipTensor.of("scores", np.array([[0.9, 0.5]], np.float32)),
        "class_ids": OipTensor.of("class_ids", np.array([[0, 15]], np.int32)),
        "labels": OipTensor.of_bytes("labels", (1, 2), [b"person", b"cat"]),
        "cache": OipTensor.of_bytes("cache", (1,), [b"near"]),
    }
    outputs.update(changes)
    found = [tensor for tensor in outputs.values() if tensor is not None]
    return InferResponse("m", model_version="3", outputs=found)


def seen_by(name: str, answer: InferResponse, asked: Asked = ASKED) -> Any:
    """What the check sees of an answer that the services' own codecs wrote."""
    if name == "v2-grpc":
        decoded = decode_infer(grpc_codec.encode_response(answer).SerializeToString())
        return check_pictures(decoded, WIDTH, HEIGHT, asked)
    request = InferRequest("m", [OipTensor.of_bytes("image", (1,), [b"x"])], binary_output=name == "v2-binary")
    encoded = binary_codec.encode_response(request, answer)
    body = b"".join(bytes(part) for part in encoded.parts)
    head = b"HTTP/1.1 200 OK\r\n"
    if encoded.json_length is not None:
        head += b"Inference-Header-Content-Length: %d\r\n" % encoded.json_length
    return check_pictures(read_v2(head, body), WIDTH, HEIGHT, asked)


@pytest.mark.parametrize("name", ["v2-binary", "v2-json", "v2-grpc"])
def test_a_right_v2_answer_is_read(name: str) -> None:
    seen = seen_by(name, response())
    assert (seen.version, seen.cache) == ("3", "near")
    assert seen.boxes.tolist() == [[1, 2, 30, 40], [0, 0, 64, 48]]
    assert seen.classes.tolist() == [0, 15]


@pytest.mark.parametrize("name", ["v2-binary", "v2-json", "v2-grpc"])
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"boxes": None}, "no output boxes"),
        ({"num_detections": OipTensor.of("num_detections", np.array([3], np.int32))}, "3 detections in outputs of 2"),
        (
            {"boxes": OipTensor.of("boxes", np.array([[[1, 2, 300, 40], [0, 0, 9, 9]]], np.float32))},
            "does not lie in the picture",
        ),
        (
            {"boxes": OipTensor.of("boxes", np.array([[[30, 2, 1, 40], [0, 0, 9, 9]]], np.float32))},
            "does not lie in the picture",
        ),
        ({"scores": OipTensor.of("scores", np.array([[0.5, 0.9]], np.float32))}, "not in order"),
        ({"scores": OipTensor.of("scores", np.array([[1.5, 0.9]], np.float32))}, "from 0 to 1"),
        ({"labels": OipTensor.of_bytes("labels", (1, 2), [b"person", b""])}, "without a label"),
        ({"cache": OipTensor.of_bytes("cache", (1,), [b"maybe"])}, "'maybe' is not known"),
    ],
)
def test_a_wrong_v2_answer_with_status_200_is_wrong(name: str, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(WrongAnswer, match=sentence):
        seen_by(name, response(**changes))


@pytest.mark.parametrize("name", ["v2-binary", "v2-json", "v2-grpc"])
@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (Asked("m", "bypass"), "cache=bypass was asked, and the outcome is 'near'; expected bypass"),
        (Asked("m", "refresh"), "cache=refresh was asked, and the outcome is 'near'; expected miss"),
        (Asked("n"), "model 'n' was asked, and 'm' has answered"),
    ],
)
def test_a_v2_answer_to_another_question_is_wrong(name: str, asked: Asked, sentence: str) -> None:
    with pytest.raises(WrongAnswer, match=sentence):
        seen_by(name, response(), asked)


@pytest.mark.parametrize("name", ["v2-binary", "v2-json", "v2-grpc"])
def test_a_transformers_answer_without_a_version_is_wrong(name: str) -> None:
    answer = response()
    answer.model_version = ""
    with pytest.raises(WrongAnswer, match="without its version"):
        seen_by(name, answer)


def test_a_predictor_may_leave_its_version_out_and_not_its_name() -> None:
    def answer(name: str) -> Any:
        outputs = [OipTensor.of("logits", np.zeros((1, 3), np.float32))]
        return decode_infer(grpc_codec.encode_response(InferResponse(name, outputs=outputs)).SerializeToString())

    assert check_tensors(answer("m"), ["logits"], Asked("m", service="predictor")).version == ""
    with pytest.raises(WrongAnswer, match="model 'm' was asked, and 'other' has answered"):
        check_tensors(answer("other"), ["logits"], Asked("m", service="predictor"))


@pytest.mark.parametrize(
    ("asked", "changes", "sentence"),
    [
        (Asked("m", "bypass"), {"cache": "exact"}, "cache=bypass was asked, and the outcome is 'exact'"),
        (Asked("m", "refresh"), {"cache": "coalesced"}, "cache=refresh was asked, and the outcome is 'coalesced'"),
        (Asked("m"), {"cache": "bypass"}, "cache=use was asked, and the outcome is 'bypass'"),
        (Asked("n"), {}, "model 'n' was asked, and 'm' has answered"),
        (Asked("m"), {"model": {"name": "m", "version": ""}}, "without its version"),
        (Asked("m"), {"model": {"name": "m", "version": None}}, "version is None; expected a text"),
        (Asked("m"), {"model": {"version": "1"}}, "not the object of detections"),
    ],
)
def test_an_answer_of_detect_or_v1_to_another_question_is_wrong(
    asked: Asked, changes: dict[str, Any], sentence: str
) -> None:
    body = detected(**changes)
    with pytest.raises(WrongAnswer, match=sentence):
        check_detect(json.dumps(body).encode(), WIDTH, HEIGHT, asked)
    with pytest.raises(WrongAnswer, match=sentence):
        check_v1(json.dumps({"predictions": [body]}).encode(), WIDTH, HEIGHT, asked)


def detected(**changes: Any) -> dict[str, Any]:
    whole = {
        "detections": [{"box": [1, 2, 30, 40], "score": 0.9, "class_id": 0, "label": "person"}],
        "image": {"width": WIDTH, "height": HEIGHT},
        "cache": "miss",
        "model": {"name": "m", "version": "2"},
    }
    return {**whole, **changes}


def test_right_answers_of_detect_and_v1_are_read() -> None:
    assert check_detect(json.dumps(detected()).encode(), WIDTH, HEIGHT, ASKED).version == "2"
    assert check_v1(json.dumps({"predictions": [detected()]}).encode(), WIDTH, HEIGHT, ASKED).cache == "miss"
    nothing = check_detect(json.dumps(detected(detections=[])).encode(), WIDTH, HEIGHT, ASKED)
    assert nothing.boxes is not None
    assert nothing.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"<html>", "no JSON"),
        (b"[]", "a list"),
        (b"{}", "not the object of detections"),
        (json.dumps(detected(image={"width": 1, "height": 1})).encode(), "about a picture of 1 x 1, not 64 x 48"),
        (json.dumps(detected(cache="sometimes")).encode(), "cache outcome"),
        (json.dumps(detected(detections=[{"box": [1, 2, 3]}])).encode(), "not the object of detections"),
    ],
)
def test_a_wrong_answer_of_detect_with_status_200_is_wrong(body: bytes, sentence: str) -> None:
    with pytest.raises(WrongAnswer, match=sentence):
        check_detect(body, WIDTH, HEIGHT, ASKED)


def test_a_predictors_answer_must_have_its_outputs_and_numbers_in_them() -> None:
    def answer(array: Any) -> Any:
        message = grpc_codec.encode_response(
            InferResponse("m", model_version="1", outputs=[OipTensor.of("candidates", array)])
        )
        return decode_infer(message.SerializeToString())

    asked = Asked("m", service="predictor")
    rows = np.zeros((1, 3, 6), np.float32)
    rows[0, :, 4] = [0.9, 0.4, 0.0]
    assert check_tensors(answer(rows), ["candidates"], asked).version == "1"
    with pytest.raises(WrongAnswer, match="no output boxes"):
        check_tensors(answer(rows), ["boxes"], asked)
    with pytest.raises(WrongAnswer, match="no finite numbers"):
        check_tensors(answer(rows * np.nan), ["candidates"], asked)
    with pytest.raises(WrongAnswer, match="not in order"):
        check_tensors(answer(rows[:, ::-1]), ["candidates"], asked)
    with pytest.raises(WrongAnswer, match=r"expected \[1, K, 6\]"):
        check_tensors(answer(np.zeros((2, 3, 6), np.float32)), ["candidates"], asked)


@pytest.mark.parametrize(
    "message", [b"\x2a", b"\x2a\x05ab", b"\xff" * 12, struct.pack("<BB", 0x32, 4) + b"abcd", b"\x0b"]
)
def test_damaged_messages_are_wrong_answers_and_nothing_else(message: bytes) -> None:
    with pytest.raises(WrongAnswer):
        decode_infer(message)


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"\r\nInference-Header-Content-Length: 99\r\n", b"{}"),
        (b"\r\nInference-Header-Content-Length: 1\r\n", b"{}"),
        (b"", b"{}"),
        (b"", b'{"outputs": [{"name": "a", "datatype": "FP32", "shape": [2], "data": [1]}]}'),
        (b"", b'{"outputs": [{"name": "a", "datatype": "ODD", "shape": [1], "data": [1]}]}'),
        (
            b"\r\nInference-Header-Content-Length: 94\r\n",
            b'{"outputs": [{"name": "a", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}]}  ',
        ),
    ],
)
def test_damaged_v2_answers_are_wrong_answers_and_nothing_else(head: bytes, body: bytes) -> None:
    with pytest.raises(WrongAnswer):
        read_v2(head, body)
