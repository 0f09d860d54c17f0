"""The model configuration extension: what a config.pbtxt becomes, held against tritonserver 2.51's own answer."""

from __future__ import annotations

import json
from typing import Any

from saccade_predictor.configuration import describe
from saccade_predictor.modelconfig import autocomplete, complete, parse
from saccade_predictor.tritonschema import load_schema, to_json
from saccade_serving.oip.messages import TensorMetadata

X = TensorMetadata("x", "FP32", (-1, 4))
Y = TensorMetadata("y", "FP32", (-1, 4))
TEXT = """
backend: "onnxruntime"
max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [ 4 ] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "labels.txt" }]
dynamic_batching {
  max_queue_delay_microseconds: 100
  default_queue_policy { max_queue_size: 7 default_timeout_microseconds: 5 }
}
version_policy { specific { versions: [1] } }
parameters { key: "a" value: { string_value: "b" } }
instance_group [{ kind: KIND_CPU count: 1 }]
"""
# GET /v2/models/ident/config of tritonserver 2.51 for TEXT with the Python backend.
RECORDED = """
{"name":"ident","platform":"","backend":"python","runtime":"","version_policy":{"specific":{"versions":[1]}},
"max_batch_size":8,"input":[{"name":"x","data_type":"TYPE_FP32","format":"FORMAT_NONE","dims":[4],
"is_shape_tensor":false,"allow_ragged_batch":false,"optional":false,"is_non_linear_format_io":false}],
"output":[{"name":"y","data_type":"TYPE_FP32","dims":[4],"label_filename":"labels.txt","is_shape_tensor":false,
"is_non_linear_format_io":false}],"batch_input":[],"batch_output":[],"optimization":{"priority":"PRIORITY_DEFAULT",
"input_pinned_memory":{"enable":true},"output_pinned_memory":{"enable":true},"gather_kernel_buffer_threshold":0,
"eager_batching":false},"dynamic_batching":{"preferred_batch_size":[8],"max_queue_delay_microseconds":100,
"preserve_ordering":false,"priority_levels":0,"default_priority_level":0,"default_queue_policy":{"timeout_action":
"REJECT","default_timeout_microseconds":5,"allow_timeout_override":false,"max_queue_size":7},
"priority_queue_policy":{}},"instance_group":[{"name":"ident_0","kind":"KIND_CPU","count":1,"gpus":[],
"secondary_devices":[],"profile":[],"passive":false,"host_policy":""}],"default_model_filename":"model.py",
"cc_model_filenames":{},"metric_tags":{},"parameters":{"a":{"string_value":"b"}},"model_warmup":[]}
"""


def told(text: str, platform: str = "", gpu_available: bool = False, name: str = "ident") -> Any:
    config, _ = parse(text, name, gpu_available=gpu_available)
    answer = describe(complete(config, [X], [Y]), platform)
    assert to_json(load_schema().ModelConfig.FromString(answer.protobuf)) == answer.json
    return json.loads(json.dumps(answer.json))


def test_the_answer_is_tritons_but_for_the_backend_and_pinned_memory() -> None:
    expected = json.loads(RECORDED)
    del expected["optimization"]
    expected |= {
        "backend": "onnxruntime",
        "platform": "onnxruntime_onnx",
        "default_model_filename": "model.onnx",
    }
    found = told(TEXT, "onnxruntime_onnx")
    assert found == expected
    assert list(found) == list(expected)


def test_fields_without_effect_survive() -> None:
    found = told(
        TEXT
        + 'optimization { priority: PRIORITY_MAX } metric_tags { key: "team" value: "eyes" }'
        + 'model_warmup [{ name: "w" inputs { key: "x" value { data_type: TYPE_FP32 dims: [4] zero_data: true } } }]'
    )
    assert found["optimization"]["priority"] == "PRIORITY_MAX"
    assert found["metric_tags"] == {"team": "eyes"}
    assert found["model_warmup"][0]["inputs"]["x"]["dims"] == [4]


def test_a_bare_config_is_filled_in_from_the_graph_with_tritons_defaults() -> None:
    found = told('backend: "onnxruntime" max_batch_size: 2')
    assert found["input"][0]["dims"] == [4]
    assert found["output"][0]["data_type"] == "TYPE_FP32"
    assert found["version_policy"] == {"latest": {"num_versions": 1}}
    assert "dynamic_batching" not in found
    [group] = found["instance_group"]
    assert (group["name"], group["kind"], group["count"]) == ("ident", "KIND_CPU", 1)


def test_dims_are_the_ones_that_hold_and_inputs_keep_what_else_was_said_of_them() -> None:
    found = told(
        'backend: "onnxruntime" max_batch_size: 2'
        " input [{ name: 'x' data_type: TYPE_FP32 dims: [ -1 ] format: FORMAT_NCHW }]"
    )
    assert found["input"] == [
        {
            "name": "x",
            "data_type": "TYPE_FP32",
            "format": "FORMAT_NCHW",
            "dims": [4],
            "is_shape_tensor": False,
            "allow_ragged_batch": False,
            "optional": False,
            "is_non_linear_format_io": False,
        }
    ]


def test_a_model_without_a_config_has_one_all_the_same() -> None:
    texts = TensorMetadata("t", "BYTES", (-1, 1))
    answer = describe(autocomplete("auto", "onnxruntime", [X, texts], [Y]), "onnxruntime_onnx").json
    assert (answer["name"], answer["max_batch_size"], answer["platform"]) == ("auto", 8, "onnxruntime_onnx")
    assert answer["dynamic_batching"]["preferred_batch_size"] == [8]
    assert answer["input"][1]["data_type"] == "TYPE_STRING"
    assert answer["default_model_filename"] == "model.onnx"


FALLBACK = """
backend: "tensorrt" platform: "tensorrt_plan" max_batch_size: 4
instance_group [{ kind: KIND_GPU count: 2 }]
parameters { key: "fallback_backend" value { string_value: "onnxruntime" } }
"""


def test_the_fallback_is_told_where_it_serves() -> None:
    found = told(FALLBACK, "onnxruntime_onnx")
    assert (found["backend"], found["platform"]) == ("onnxruntime", "onnxruntime_onnx")
    assert found["default_model_filename"] == "model.onnx"
    [group] = found["instance_group"]
    assert (group["kind"], group["gpus"], group["count"], group["name"]) == ("KIND_CPU", [], 2, "ident_0")


def test_a_gpu_backend_that_serves_is_told_with_its_gpu() -> None:
    found = told(FALLBACK, "tensorrt_plan", gpu_available=True)
    assert (found["backend"], found["platform"]) == ("tensorrt", "tensorrt_plan")
    assert found["default_model_filename"] == "model.plan"
    [group] = found["instance_group"]
    assert (group["kind"], group["gpus"]) == ("KIND_GPU", [0])


def test_the_keys_of_maps_stay_strings_and_64_bit_values_become_numbers() -> None:
    proto = load_schema().ModelConfig()
    proto.dynamic_batching.priority_queue_policy[3].default_timeout_microseconds = 2**40
    found = to_json(proto)["dynamic_batching"]["priority_queue_policy"]
    assert found["3"]["default_timeout_microseconds"] == 2**40
