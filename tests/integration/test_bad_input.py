"""Whatever is sent, by whichever route: the right code, one sentence without a trace of the server, and it goes on."""

from __future__ import annotations

import base64
import functools
import http.client
import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from integration_support import (
    GRPC_CODES,
    HOST,
    INFER,
    MODEL,
    PREDICT,
    ROOT,
    SOON_S,
    Address,
    Answer,
    RpcAnswer,
    binary_request,
    bytes_tensor,
    from_detect,
    from_rpc,
    from_v2_json,
    multipart,
    set_parameters,
    v1_json,
    v2_binary,
    v2_grpc,
    v2_json,
    watching_memory,
)
from saccade_cli.pair import Pair
from saccade_serving.oip import binary_codec, proto

JSON = {"content-type": "application/json"}
#: What no answer may hold: code, paths of this machine, names of libraries.
LEAKS = (
    *("Traceback", 'File "', "site-packages", "object at 0x", "cv2", "/home", "/usr"),
    *(path for path in (str(Path.home()), f"/{ROOT.parts[1]}", str(ROOT)) if len(path) > 1),
)


@pytest.fixture(autouse=True)
def still_serving(pair: Pair, transformer: Address, photos: dict[str, bytes]) -> Iterator[None]:
    """After each test the pair answers, and neither log has got a stack trace."""
    assert pair.log_dir is not None
    logs = [pair.log_dir / f"{name}.log" for name in ("predictor", "transformer")]
    before = [log.stat().st_size for log in logs]
    yield
    assert transformer.http("/detect", photos["coffee.jpg"]).status == 200
    pair.check()
    for log, size in zip(logs, before, strict=True):
        added = log.read_bytes()[size:].decode(errors="replace")
        assert "Traceback" not in added, added


def check_refused(answer: Answer | RpcAnswer, status: int, *words: str) -> None:
    """The status, or the gRPC code that belongs to it, and a sentence that has the words."""
    if isinstance(answer, Answer):
        assert answer.status == status, answer.body[:500]
        assert answer.headers["content-type"] == "application/json"
        sentence, everything = answer.error, answer.body.decode()
    else:
        assert answer.code == GRPC_CODES[status], answer
        assert answer.trailing["saccade-reason"]
        sentence = everything = answer.details
    for word in words:
        assert word in sentence
    assert 10 < len(sentence) < 500
    assert "\n" not in sentence
    for leak in LEAKS:
        assert leak not in everything


# The routes an image can arrive by; each takes request parameters as that route carries them.


def by_v2_binary(address: Address, image: bytes, headers: Mapping[str, str], **parameters: Any) -> Answer:
    body, own = v2_binary(image, **parameters)
    return address.http(INFER, body, {**own, **headers})


def by_v2_json(address: Address, image: bytes, headers: Mapping[str, str], **parameters: Any) -> Answer:
    return address.http(INFER, v2_json(image, **parameters), {**JSON, **headers})


def by_v2_grpc(address: Address, image: bytes, headers: Mapping[str, str], **parameters: Any) -> RpcAnswer:
    return address.rpc("ModelInfer", v2_grpc(image, **parameters), metadata=tuple(headers.items()))


def by_v1(address: Address, image: bytes, headers: Mapping[str, str], **parameters: Any) -> Answer:
    return address.http(PREDICT, v1_json(image, **parameters), {**JSON, **headers})


def by_detect(address: Address, image: bytes, headers: Mapping[str, str], **parameters: Any) -> Answer:
    query = "&".join(f"{name}={value}" for name, value in parameters.items())
    return address.http(f"/detect?{query}", image, {"content-type": "image/jpeg", **headers})


def by_form(address: Address, image: bytes, headers: Mapping[str, str], **parameters: Any) -> Answer:
    body, own = multipart(image, **{name: str(value) for name, value in parameters.items()})
    return address.http("/detect", body, {**own, **headers})


Send = Callable[..., Answer | RpcAnswer]
ROUTES: dict[str, Send] = {
    "v2-binary": by_v2_binary,
    "v2-json": by_v2_json,
    "v2-grpc": by_v2_grpc,
    "v1": by_v1,
    "detect": by_detect,
    "form": by_form,
}
every_route = pytest.mark.parametrize("send", ROUTES.values(), ids=ROUTES)


def labels(answer: Answer | RpcAnswer) -> list[str]:
    """What was found, by whichever route."""
    if isinstance(answer, RpcAnswer):
        assert answer.code == "OK", answer
        return [one.label for one in from_rpc(answer.message)[0]]
    assert answer.status == 200, answer.body[:500]
    if (length := answer.headers.get("inference-header-content-length")) is not None:
        found = binary_codec.decode_response(answer.body, length).output("labels").elements
        return [bytes(label).decode() for label in found]
    if "outputs" in answer.json:
        return [one.label for one in from_v2_json(answer.json)[0]]
    [content] = answer.json.get("predictions", [answer.json])
    return [one.label for one in from_detect(content)]


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@functools.cache
def bomb() -> bytes:
    """A PNG of 30000 x 30000 pixels in about 1 MB: zeros at 2 bits a pixel; as RGB it is 2.7 GB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    side = 30_000
    packer = zlib.compressobj(1)
    rows = bytes((1 + side // 4) * 1000)
    data = b"".join([*(packer.compress(rows) for _ in range(side // 1000)), packer.flush()])
    header = struct.pack(">IIBBBBB", side, side, 2, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


class TestImages:
    @every_route
    def test_an_empty_image_is_400(self, transformer: Address, send: Send) -> None:
        check_refused(send(transformer, b"", {}), 400, "empty")

    @every_route
    def test_a_truncated_jpeg_is_400(self, transformer: Address, photos: dict[str, bytes], send: Send) -> None:
        image = photos["astronaut.jpg"]
        for kept in (len(image) - 2000, len(image) // 2, 400, 3):
            check_refused(send(transformer, image[:kept], {}), 400, "JPEG is damaged or truncated")

    @every_route
    def test_a_damaged_png_is_400(self, transformer: Address, photos: dict[str, bytes], send: Send) -> None:
        image = bytearray(photos["chelsea.png"])
        image[20_000:30_000] = random.Random(1).randbytes(10_000)
        check_refused(send(transformer, bytes(image), {}), 400, "PNG is damaged or truncated")

    @every_route
    def test_text_named_jpg_is_415(self, transformer: Address, send: Send) -> None:
        check_refused(
            send(transformer, b"This is no picture.\n" * 20, {}), 415, "looks like text", "accepted are JPEG, PNG"
        )

    @every_route
    def test_bytes_of_no_format_are_415(self, transformer: Address, send: Send) -> None:
        check_refused(send(transformer, bytes(range(256)) * 8, {}), 415, "no known image format")

    @every_route
    def test_an_animated_webp_is_415(self, transformer: Address, send: Send) -> None:
        frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "blue")]
        animation = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:])
        check_refused(send(transformer, animation, {}), 415, "animated WebP")

    @every_route
    def test_a_gif_is_415(self, transformer: Address, send: Send) -> None:
        check_refused(send(transformer, saved(Image.new("RGB", (64, 48)), "GIF"), {}), 415, "a GIF")

    @every_route
    def test_an_image_over_the_limit_of_bytes_is_413(
        self, transformer: Address, photos: dict[str, bytes], send: Send
    ) -> None:
        check_refused(send(transformer, photos["coffee.jpg"] + bytes(20 * 2**20), {}), 413, "the limit is", "bytes")

    @every_route
    def test_a_decompression_bomb_is_413_and_costs_no_memory(
        self, pair: Pair, transformer: Address, send: Send
    ) -> None:
        image = bomb()
        assert 500_000 < len(image) < 1_500_000
        pids = [process.pid for process in pair._processes.values()]
        with watching_memory(pids[0]) as predictor_grew, watching_memory(pids[1]) as transformer_grew:
            for _ in range(5):
                check_refused(send(transformer, image, {}), 413, "30000x30000", "900000000", "the limit is 33554432")
            assert transformer_grew() < 150
            assert predictor_grew() < 150

    @every_route
    def test_a_cmyk_jpeg_is_answered(self, transformer: Address, photos: dict[str, bytes], send: Send) -> None:
        with Image.open(io.BytesIO(photos["astronaut.png"])) as image:
            cmyk = saved(image.convert("CMYK"), "JPEG", quality=95)
        assert "person" in labels(send(transformer, cmyk, {}))

    @every_route
    @pytest.mark.parametrize("kind", ["WEBP", "BMP", "grey JPEG", "palette PNG", "16 bit PNG", "RGBA PNG"])
    def test_every_accepted_format_is_answered(
        self, transformer: Address, photos: dict[str, bytes], send: Send, kind: str
    ) -> None:
        if kind == "16 bit PNG":
            with Image.open(io.BytesIO(photos["astronaut.png"])) as image:
                deep = np.asarray(image.convert("L")).astype(np.uint16) * 257
            data = saved(Image.fromarray(deep), "PNG")
        else:
            mode = {"grey": "L", "palette": "P", "RGBA": "RGBA"}.get(kind.split()[0], "RGB")
            with Image.open(io.BytesIO(photos["astronaut.png"])) as image:
                data = saved(image.convert(mode), kind.split()[-1])
        assert "person" in labels(send(transformer, data, {}))

    def test_the_bad_image_of_a_batch_is_named(self, transformer: Address, photos: dict[str, bytes]) -> None:
        images = (photos["coffee.jpg"], photos["chelsea.jpg"], photos["chelsea.jpg"][:5000])
        raw = bytes_tensor(images)
        for answer in by_every_v2(transformer, [Sent("image", "BYTES", [3], raw, images)]).values():
            check_refused(answer, 400, "image 2: the JPEG is damaged or truncated")
        check_refused(transformer.http(PREDICT, v1_json(*images)), 400, "image 2: the JPEG")

    @pytest.mark.parametrize(
        ("text", "status", "words"),
        [
            ("!!!! no base64 !!!!", 400, "base64"),
            ("", 400, "empty"),
            ("A", 400, "base64"),
            ("AAAA=AAA", 400, "base64"),
            ("data:image/jpeg,AAAA", 400, "data: URL"),
            ("\u20ac\u20ac\u20ac\u20ac", 400, "base64"),
            (base64.b64encode(b"This is no picture.").decode(), 415, "looks like text"),
        ],
    )
    def test_base64_junk(self, transformer: Address, text: str, status: int, words: str) -> None:
        tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}
        check_refused(transformer.http(INFER, json.dumps({"inputs": [tensor]}).encode(), JSON), status, words)
        body = json.dumps({"instances": [{"image": {"b64": text}}]}).encode()
        check_refused(transformer.http(PREDICT, body, JSON), status, words)


@dataclass(frozen=True)
class Sent:
    """A tensor as no decent client would send it: shape, bytes and values need not fit together."""

    name: str
    datatype: str
    shape: list[int]
    raw: bytes
    values: Any = ()

    def json(self) -> Any:
        values = self.values
        if self.datatype == "BYTES":
            values = [base64.b64encode(value).decode() for value in values]
        return {"name": self.name, "datatype": self.datatype, "shape": self.shape, "data": list(values)}

    def binary(self) -> Any:
        size = {"binary_data_size": len(self.raw)}
        return {"name": self.name, "datatype": self.datatype, "shape": self.shape, "parameters": size}


def by_every_v2(
    address: Address,
    tensors: list[Sent],
    outputs: list[str] | None = None,
    model: str = MODEL,
    version: str = "",
    **parameters: Any,
) -> dict[str, Answer | RpcAnswer]:
    """The same request in the three encodings of V2."""
    path = f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/infer"
    wanted = {"parameters": parameters, "outputs": [{"name": name} for name in outputs or []]}
    body, headers = binary_request(
        {"inputs": [tensor.binary() for tensor in tensors], **wanted}, *(tensor.raw for tensor in tensors)
    )
    text = json.dumps({"inputs": [tensor.json() for tensor in tensors], **wanted}).encode()
    message = proto.ModelInferRequest(model_name=model, model_version=version)
    for tensor in tensors:
        message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_input_contents.append(tensor.raw)
    for name in outputs or []:
        message.outputs.add(name=name)
    set_parameters(message, parameters)
    return {
        "binary": address.http(path, body, headers),
        "json": address.http(path, text, JSON),
        "grpc": address.rpc("ModelInfer", message),
    }


def photo_tensor(name: str = "image") -> Sent:
    image = saved(Image.new("RGB", (32, 32)), "PNG")
    return Sent(name, "BYTES", [1], bytes_tensor([image]), [image])


class TestV2:
    @pytest.mark.parametrize(
        ("tensors", "words"),
        [
            ([], ["'inputs' of the request is empty"]),
            ([photo_tensor(), photo_tensor("second")], ["'second' is not a tensor of this model", "'image'"]),
            ([photo_tensor("picture")], ["input 'picture' is not a tensor of this model", "'image'"]),
            ([photo_tensor(), photo_tensor()], ["input 'image' is given twice"]),
            ([photo_tensor("")], ["input 0 has no name"]),
            ([Sent("image", "FP32", [1, 2, 2, 3], bytes(48), [0.5] * 12)], ["input 'image' is FP32", "UINT8 [n,"]),
            ([Sent("image", "UINT128", [1], b"\0", [0])], ["input 'image' has datatype 'UINT128'"]),
            ([Sent("image", "UINT8", [1, 8, 8, 3], bytes(100), [0] * 100)], ["input 'image' has 100", "[1, 8, 8, 3]"]),
            (
                [Sent("image", "UINT8", [8, 8, 3], bytes(192), [0] * 192)],
                ["input 'image' is UINT8 of shape [8, 8, 3]"],
            ),
            ([Sent("image", "UINT8", [1, 8, 8, 4], bytes(256), [0] * 256)], ["UINT8 of shape [1, 8, 8, 4]"]),
            ([Sent("image", "UINT8", [0, 8, 8, 3], b"", [])], ["input 'image' is UINT8 of shape [0, 8, 8, 3]"]),
            ([Sent("image", "BYTES", [0], b"", [])], ["input 'image' is BYTES of shape [0]"]),
            ([Sent("image", "BYTES", [2], bytes_tensor([b"a" * 8]), [b"a" * 8])], ["input 'image'"]),
            ([Sent("image", "BYTES", [-1], bytes_tensor([b"a"]), [b"a"])], ["input 'image' has -1 as dimension 0"]),
            ([Sent("image", "BYTES", [2**62], bytes_tensor([b"a"]), [b"a"])], ["input 'image' has", "as dimension 0"]),
            ([Sent("image", "UINT8", [2**20, 2**20, 2**20, 3], bytes(9), [0] * 9)], ["the limit is"]),
        ],
        ids=[
            *("no inputs", "two inputs", "unknown name", "same name twice", "no name", "wrong datatype"),
            *("no such datatype", "too few bytes", "no batch", "four channels", "no rows", "no elements"),
            *("too few elements", "negative dimension", "huge dimension", "huge shape"),
        ],
    )
    def test_inputs_that_do_not_fit_are_400(self, transformer: Address, tensors: list[Sent], words: list[str]) -> None:
        for answer in by_every_v2(transformer, tensors).values():
            check_refused(answer, 400, *words)

    def test_an_unknown_output_is_400(self, transformer: Address) -> None:
        for answer in by_every_v2(transformer, [photo_tensor()], ["boxes", "masks"]).values():
            check_refused(answer, 400, "output 'masks' is not a tensor of this model", "'num_detections'")

    def test_an_output_asked_for_twice_is_400(self, transformer: Address) -> None:
        for answer in by_every_v2(transformer, [photo_tensor()], ["boxes", "boxes"]).values():
            check_refused(answer, 400, "'boxes' is given twice")

    def test_an_unknown_model_is_404(self, transformer: Address, predictor: Address) -> None:
        for address in (transformer, predictor):
            for answer in by_every_v2(address, [photo_tensor()], model="absent").values():
                check_refused(answer, 404, "model 'absent' is not served here")

    @pytest.mark.parametrize("version", ["7", "latest", "01"])
    def test_an_unknown_version_is_404(self, transformer: Address, predictor: Address, version: str) -> None:
        for address in (transformer, predictor):
            for answer in by_every_v2(address, [photo_tensor()], version=version).values():
                check_refused(answer, 404, f"version '{version}' of model 'detector' is not served here")

    def test_more_images_than_allowed_are_413(self, transformer: Address) -> None:
        images = [saved(Image.new("RGB", (8, 8)), "PNG")] * 33
        sent = Sent("image", "BYTES", [33], bytes_tensor(images), images)
        raw = Sent("image", "UINT8", [33, 2, 2, 3], bytes(33 * 12), [0] * (33 * 12))
        for tensor in (sent, raw):
            for answer in by_every_v2(transformer, [tensor]).values():
                check_refused(answer, 413, "33 images", "the limit is 32 images")
        check_refused(transformer.http(PREDICT, v1_json(*images)), 413, "33 images")

    @pytest.mark.parametrize(
        "body",
        [b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b'{"inputs": {}}', b'{"inputs": [1]}', b"{}", b"[" * 100_000],
        ids=["cut", "array", "null", "string", "no utf-8", "inputs object", "inputs numbers", "no inputs", "deep"],
    )
    def test_malformed_json_is_400(self, transformer: Address, body: bytes) -> None:
        check_refused(transformer.http(INFER, body, JSON), 400)

    def test_an_empty_body_is_400(self, transformer: Address, predictor: Address) -> None:
        for address in (transformer, predictor):
            check_refused(address.http(INFER, b"", JSON), 400, "empty")

    @pytest.mark.parametrize("length", ["-1", "abc", "99999999", "0", "9" * 40, "1e3", "\xb2"])
    def test_a_wrong_json_length_is_400(self, transformer: Address, photos: dict[str, bytes], length: str) -> None:
        body, headers = v2_binary(photos["coffee.jpg"])
        answer = transformer.http(INFER, body, {**headers, "inference-header-content-length": length})
        check_refused(answer, 400, "Inference-Header-Content-Length")

    def test_binary_data_of_the_wrong_size_is_400(self, transformer: Address) -> None:
        tensor = photo_tensor()
        for change in (-1, 1, -(10**6), 10**12):
            header = tensor.binary()
            header["parameters"]["binary_data_size"] += change
            body, headers = binary_request({"inputs": [header]}, tensor.raw)
            check_refused(transformer.http(INFER, body, headers), 400)

    def test_data_and_binary_data_at_once_are_400(self, transformer: Address) -> None:
        tensor = photo_tensor()
        body, headers = binary_request({"inputs": [{**tensor.json(), **tensor.binary()}]}, tensor.raw)
        check_refused(transformer.http(INFER, body, headers), 400, "input 'image' has both 'data' and")

    def test_binary_data_without_its_header_is_400(self, transformer: Address, photos: dict[str, bytes]) -> None:
        body, _ = v2_binary(photos["coffee.jpg"])
        answer = transformer.http(INFER, body, {"content-type": "application/octet-stream"})
        check_refused(answer, 400, "needs the header Inference-Header-Content-Length")

    def test_more_raw_contents_than_inputs_are_400(self, transformer: Address) -> None:
        message = v2_grpc(b"x")
        message.raw_input_contents.append(b"more")
        check_refused(transformer.rpc("ModelInfer", message), 400, "raw_input_contents has 2 entries for 1 inputs")


class TestPredictor:
    SHAPE = (416, 416, 3)

    def test_a_batch_over_max_batch_size_is_400(self, predictor: Address) -> None:
        raw = bytes(9 * 416 * 416 * 3)
        body, headers = binary_request({"inputs": [Sent("image", "UINT8", [9, *self.SHAPE], raw).binary()]}, raw)
        check_refused(predictor.http(INFER, body, headers), 400, "'image' has a batch of 9; expected 1 to 8")
        message = proto.ModelInferRequest(model_name=MODEL, raw_input_contents=[raw])
        message.inputs.add(name="image", datatype="UINT8", shape=[9, *self.SHAPE])
        check_refused(predictor.rpc("ModelInfer", message), 400, "'image' has a batch of 9; expected 1 to 8")

    @pytest.mark.parametrize(
        ("tensor", "words"),
        [
            (Sent("image", "UINT8", [1, 8, 8, 3], bytes(192), [0] * 192), "input 'image' has shape [1, 8, 8, 3]"),
            (Sent("image", "UINT8", [0, *SHAPE], b"", []), "input 'image' has a batch of 0"),
            (Sent("image", "INT8", [1, 8, 8, 3], bytes(192), [0] * 192), "input 'image' is INT8; expected UINT8"),
            (Sent("images", "UINT8", [1, 8, 8, 3], bytes(192), [0] * 192), "input 'images' is not a tensor"),
        ],
        ids=["shape", "no rows", "datatype", "name"],
    )
    def test_a_tensor_that_does_not_fit_is_400(self, predictor: Address, tensor: Sent, words: str) -> None:
        for answer in by_every_v2(predictor, [tensor]).values():
            check_refused(answer, 400, words)

    def test_v1_is_501(self, predictor: Address) -> None:
        answer = predictor.http(PREDICT, b'{"instances": [[1]]}', JSON)
        check_refused(answer, 501, "v1 is not served here", "/infer")

    def test_v1_reads_no_body(self, pair: Pair, predictor: Address) -> None:
        with watching_memory(pair._processes["predictor"].pid) as grew:
            check_refused(predictor.http(PREDICT, bytes(60 * 2**20), JSON), 501, "v1 is not served here")
            assert grew() < 50

    def test_detect_is_404(self, predictor: Address) -> None:
        check_refused(predictor.http("/detect", b"x"), 404, "POST /detect is not served here")

    def test_a_body_over_the_limit_is_413(self, predictor: Address) -> None:
        header = {"inference-header-content-length": "200", "content-type": "application/octet-stream"}
        check_refused(predictor.http(INFER, bytes(64 * 2**20 + 1), header), 413, "the limit is 67108864 bytes")


BAD_PARAMETERS = [
    ("score_threshold", 1.5),
    ("score_threshold", -0.1),
    ("score_threshold", 0.01),
    ("score_threshold", "high"),
    ("score_threshold", "nan"),
    ("iou_threshold", 0),
    ("iou_threshold", "1,5"),
    ("max_detections", 0),
    ("max_detections", 2.5),
    ("max_detections", 1001),
    ("cache", "maybe"),
    ("timeout", -1),
    ("timeout", "soon"),
    ("timeout", "1.5"),
]


class TestParameters:
    @pytest.mark.parametrize(("name", "value"), BAD_PARAMETERS, ids=[f"{n}={v}" for n, v in BAD_PARAMETERS])
    def test_a_bad_value_is_400_by_every_route(
        self, transformer: Address, photos: dict[str, bytes], name: str, value: Any
    ) -> None:
        for send in ROUTES.values():
            answer = send(transformer, photos["coffee.jpg"], {}, **{name: value})
            check_refused(answer, 400, f"parameter '{name}' is", str(value), "expected")

    def test_score_threshold_under_what_the_model_reports_says_so(
        self, transformer: Address, photos: dict[str, bytes]
    ) -> None:
        answer = by_detect(transformer, photos["coffee.jpg"], {}, score_threshold=0.049)
        check_refused(answer, 400, "is 0.049", "the model reports nothing under 0.05")

    @pytest.mark.parametrize("value", [None, [1], {"a": 1}])
    def test_a_parameter_of_no_kind_is_400(
        self, transformer: Address, photos: dict[str, bytes], value: object
    ) -> None:
        image = photos["coffee.jpg"]
        check_refused(transformer.http(INFER, v2_json(image, cache=value), JSON), 400, "parameter 'cache'")
        check_refused(transformer.http(PREDICT, v1_json(image, cache=value), JSON), 400, "parameter 'cache'")

    def test_unknown_parameters_pass(self, transformer: Address, photos: dict[str, bytes]) -> None:
        for send in ROUTES.values():
            assert labels(send(transformer, photos["chelsea.jpg"], {}, colour="green")) == ["cat"]


class TestDeadlines:
    @pytest.mark.parametrize("value", ["soon", "-5", "0", "nan", "inf"])
    def test_a_deadline_header_that_is_no_time_is_400_by_every_route(
        self, transformer: Address, photos: dict[str, bytes], value: str
    ) -> None:
        for send in ROUTES.values():
            answer = send(transformer, photos["coffee.jpg"], {"x-deadline-ms": value})
            check_refused(answer, 400, "header x-deadline-ms is", repr(value))

    @every_route
    def test_a_deadline_header_nobody_can_keep_is_504(
        self, transformer: Address, photos: dict[str, bytes], send: Send
    ) -> None:
        check_refused(send(transformer, photos["coffee.jpg"], {"x-deadline-ms": "0.001"}), 504)

    @every_route
    def test_a_timeout_parameter_nobody_can_keep_is_504(
        self, transformer: Address, photos: dict[str, bytes], send: Send
    ) -> None:
        check_refused(send(transformer, photos["coffee.jpg"], {}, timeout=1), 504, "were over")

    @every_route
    def test_the_smaller_of_header_and_parameter_counts(
        self, transformer: Address, photos: dict[str, bytes], send: Send
    ) -> None:
        image = photos["coffee.jpg"]
        check_refused(send(transformer, image, {"x-deadline-ms": "30000"}, timeout=1), 504)
        check_refused(send(transformer, image, {"x-deadline-ms": "0.001"}, timeout=30_000_000), 504)
        assert labels(send(transformer, image, {"x-deadline-ms": "30000"}, timeout=30_000_000))

    def test_a_grpc_deadline_nobody_can_keep(self, transformer: Address, photos: dict[str, bytes]) -> None:
        answer = transformer.rpc("ModelInfer", v2_grpc(photos["coffee.jpg"]), timeout_s=0.001)
        assert answer.code == "DEADLINE_EXCEEDED"

    def test_the_predictor_keeps_deadlines_too(self, predictor: Address) -> None:
        raw = bytes(416 * 416 * 3)
        tensor = Sent("image", "UINT8", [1, 416, 416, 3], raw)
        for parameters, header in (({"timeout": 1}, {}), ({}, {"x-deadline-ms": "0.001"})):
            body, headers = binary_request({"inputs": [tensor.binary()], "parameters": parameters}, raw)
            check_refused(predictor.http(INFER, body, {**headers, **header}), 504, "were over")


class TestHttp:
    @pytest.mark.parametrize(
        ("path", "kind"),
        [
            (INFER, "image/jpeg"),
            (INFER, "text/plain"),
            (INFER, "multipart/form-data; boundary=x"),
            (PREDICT, "text/plain"),
            ("/detect", "application/json"),
            ("/detect", "text/html"),
        ],
    )
    def test_a_wrong_content_type_is_415(
        self, transformer: Address, photos: dict[str, bytes], path: str, kind: str
    ) -> None:
        answer = transformer.http(path, photos["coffee.jpg"], {"content-type": kind})
        check_refused(answer, 415, f"content-type '{kind.partition(';')[0]}' is not served here", "expected")

    @pytest.mark.parametrize("route", [name for name in ROUTES if name != "v2-grpc"])
    def test_a_coding_that_is_not_served_is_415(
        self, transformer: Address, photos: dict[str, bytes], route: str
    ) -> None:
        answer = ROUTES[route](transformer, photos["coffee.jpg"], {"content-encoding": "br"})
        check_refused(answer, 415, "content-encoding 'br' is not served; expected gzip, deflate or none")

    @pytest.mark.parametrize("route", [name for name in ROUTES if name != "v2-grpc"])
    def test_a_body_that_is_not_the_gzip_it_says_is_400(
        self, transformer: Address, photos: dict[str, bytes], route: str
    ) -> None:
        answer = ROUTES[route](transformer, photos["coffee.jpg"], {"content-encoding": "gzip"})
        check_refused(answer, 400, "the request body is not valid gzip")

    @pytest.mark.parametrize("path", ["/nothing", "/v2/nothing", "/v1/dream", "/v2/models/detector/x"])
    def test_an_unknown_path_is_404(self, transformer: Address, predictor: Address, path: str) -> None:
        for address in (transformer, predictor):
            for body in (None, b"{}"):
                check_refused(address.http(path, body, JSON), 404, path, "is not served here")

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", INFER),
            ("PUT", INFER),
            ("GET", "/detect"),
            ("DELETE", "/detect"),
            ("PUT", PREDICT),
            ("POST", "/v2"),
            ("POST", "/v2/health/ready"),
            ("POST", "/v2/health/live"),
            ("POST", f"/v2/models/{MODEL}/ready"),
            ("DELETE", f"/v2/models/{MODEL}"),
            ("POST", "/metrics"),
        ],
    )
    def test_a_wrong_method_is_405(self, transformer: Address, method: str, path: str) -> None:
        answer = transformer.http(path, b"{}" if method != "GET" else None, JSON, method)
        check_refused(answer, 405, f"{method} {path} is not served here")
        assert answer.headers["allow"]

    @pytest.mark.parametrize("verb", ["load", "unload"])
    def test_loading_and_unloading_is_501(self, transformer: Address, predictor: Address, verb: str) -> None:
        for address, words in (
            (transformer, "loading and unloading on request is not offered here"),
            (predictor, "loading and unloading on request is off"),
        ):
            check_refused(address.http(f"/v2/repository/models/{MODEL}/{verb}", b""), 501, words)
            method = f"RepositoryModel{verb.capitalize()}"
            check_refused(address.rpc(method, proto.METHODS[method][0](model_name=MODEL)), 501, words)

    def test_v1_explain_is_501(self, transformer: Address, predictor: Address) -> None:
        for address in (transformer, predictor):
            answer = address.http(f"/v1/models/{MODEL}:explain", b'{"instances": [1]}', JSON)
            check_refused(answer, 501, "v1 is not served here")

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ({}, "no list 'instances'"),
            ({"instances": []}, "'instances' is empty"),
            ({"instances": {"image": 1}}, "no list 'instances'"),
            ({"instances": [{"image": "text"}]}, "instances[0] has no string image.b64"),
            ({"instances": [{"image": {"b64": 7}}]}, "instances[0] has no string image.b64"),
            ({"instances": [{"image": {"b64": "AAAA"}}], "parameters": [1]}, "'parameters' is not an object"),
        ],
    )
    def test_a_malformed_v1_request_is_400(self, transformer: Address, content: Any, words: str) -> None:
        check_refused(transformer.http(PREDICT, json.dumps(content).encode(), JSON), 400, words)

    def test_v1_that_is_no_json_is_400(self, transformer: Address) -> None:
        for body in (b"", b"{", b"\xff"):
            check_refused(transformer.http(PREDICT, body, JSON), 400)

    def test_an_unknown_model_by_v1_is_404(self, transformer: Address) -> None:
        check_refused(transformer.http("/v1/models/absent:predict", v1_json(b"x"), JSON), 404, "model 'absent'")

    @pytest.mark.parametrize(
        ("body", "kind", "words"),
        [
            (multipart(b"x")[0].replace(b'name="file"', b'name="photo"'), "", "no file in a field 'file'"),
            (multipart(b"x")[0].replace(b'; filename="photo.jpg"', b""), "", "no file in a field 'file'"),
            (multipart(b"x")[0][:60], "", "form"),
            (b"nothing like a form", "", "form"),
            (multipart(b"x")[0], "multipart/form-data", "boundary"),
            (multipart(b"x")[0], "multipart/form-data; boundary=other", "form"),
            (multipart(b"x", **{f"f{i}": "1" for i in range(99)})[0], "", "it has over 33 parts"),
        ],
        ids=["other field", "text field", "cut", "no form", "no boundary", "wrong boundary", "many fields"],
    )
    def test_a_malformed_form_is_400(self, transformer: Address, body: bytes, kind: str, words: str) -> None:
        headers = {"content-type": kind} if kind else multipart(b"x")[1]
        check_refused(transformer.http("/detect", body, headers), 400, words)

    def test_json_over_its_limit_is_413(self, transformer: Address) -> None:
        big = v2_json(bytes(13 * 2**20))
        assert len(big) > 16 * 2**20
        check_refused(transformer.http(INFER, big, JSON), 413, "JSON", "the limit is 16777216 bytes")
        check_refused(transformer.http(PREDICT, v1_json(bytes(13 * 2**20)), JSON), 413, "JSON")


class TestBodiesOverTheLimit:
    """A client that is still sending does not read: the refusal must reach it all the same."""

    SIZE = 64 * 2**20 + 1

    @pytest.fixture(scope="class")
    @classmethod
    def body(cls) -> bytes:
        return bytes(cls.SIZE)

    @pytest.mark.parametrize("path", [INFER, "/detect", PREDICT])
    def test_with_a_content_length_the_answer_arrives_every_time(
        self, transformer: Address, body: bytes, path: str
    ) -> None:
        for _ in range(10 if path == INFER else 3):
            check_refused(transformer.http(path, body, JSON if path != "/detect" else {}), 413, str(self.SIZE))

    def test_in_chunks_the_answer_arrives(self, transformer: Address, body: bytes) -> None:
        connection = http.client.HTTPConnection(HOST, transformer.rest, timeout=SOON_S)
        try:
            chunks = (body[i : i + 2**20] for i in range(0, len(body), 2**20))
            connection.request("POST", "/detect", chunks, encode_chunked=True)
            response = connection.getresponse()
            assert response.status == 413
            assert "the limit is 67108864 bytes" in json.loads(response.read())["error"]
        finally:
            connection.close()

    def test_a_form_is_refused_too(self, transformer: Address) -> None:
        body, headers = multipart(bytes(64 * 2**20))
        check_refused(transformer.http("/detect", body, headers), 413, str(len(body)))

    def test_by_grpc(self, transformer: Address, predictor: Address, body: bytes) -> None:
        for address in (transformer, predictor):
            answer = address.rpc("ModelInfer", v2_grpc(body))
            assert answer.code == "RESOURCE_EXHAUSTED"
            assert "larger than max" in answer.details

    def test_a_length_that_is_no_number_is_refused(self, transformer: Address) -> None:
        for length in ("-1", "abc", "1, 2"):
            answer = transformer.http("/detect", b"x", {"content-length": length})
            assert answer.status == 400

    def test_memory_stays_bounded(self, pair: Pair, transformer: Address, body: bytes) -> None:
        with watching_memory(pair._processes["transformer"].pid) as grew:
            for _ in range(3):
                assert transformer.http("/detect", body).status == 413
            assert grew() < 50
