"""config.pbtxt: what is read from it, what is refused, and that no field of Triton's is forgotten."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from saccade_predictor import modelconfig, tritonschema
from saccade_predictor.batchingconfig import DynamicBatching, ModelConfigError, make_queue, make_rules
from saccade_predictor.modelconfig import (
    InstanceGroup,
    TensorConfig,
    VersionPolicy,
    autocomplete,
    complete,
    parse,
)
from saccade_serving.oip.messages import TensorMetadata
from saccade_serving.scheduling.policy import BatchingRules
from saccade_serving.scheduling.queue import QueuePolicy

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "model-repository" / "detector" / "config.pbtxt"
IMAGE = TensorMetadata("image", "UINT8", (-1, 416, 416, 3))
CANDIDATES = TensorMetadata("candidates", "FP32", (-1, 1000, 6))


def read(text: str, **options: bool) -> modelconfig.ModelConfig:
    """Parse a configuration that must give no warning."""
    config, warnings = parse(text if "backend" in text else f'backend: "onnxruntime"\n{text}', "m", **options)
    assert warnings == []
    return config


def refusal(text: str, model: str = "m") -> str:
    with pytest.raises(ModelConfigError) as caught:
        parse(text, model)
    sentence = str(caught.value)
    assert sentence.startswith(f"{model}/config.pbtxt: ")
    assert "\n" not in sentence
    return sentence


def test_the_example_is_read_without_a_warning() -> None:
    config, warnings = parse(EXAMPLE.read_text(), "detector")
    assert warnings == []
    assert (config.name, config.backend, config.max_batch_size) == ("detector", "onnxruntime", 8)
    assert config.inputs == (TensorConfig("image", "UINT8", (416, 416, 3)),)
    assert config.outputs == (TensorConfig("candidates", "FP32", (1000, 6), "labels.txt"),)
    assert config.dynamic_batching == DynamicBatching()
    assert config.default_model_filename == "model.onnx"
    assert (EXAMPLE.parent / config.outputs[0].label_filename).read_text().count("\n") == 80


def test_instances_are_placed_on_the_gpus_that_are_named_or_on_all() -> None:
    config, _ = parse('backend: "tensorrt" instance_group [{ count: 2 gpus: [0, 2] }, { count: 1 }]', "m")
    assert config.instance_groups == (InstanceGroup(2, (0, 2)), InstanceGroup(1))
    assert [place for group in config.instance_groups for place in group.placed(2)] == [0, 0, 2, 2, 0, 1]
    assert config.instance_count == 3
    assert parse('backend: "tensorrt"', "m")[0].instance_groups == (InstanceGroup(1),)


def test_a_backend_for_cpus_is_not_put_on_a_gpu_that_is_there() -> None:
    with pytest.raises(ModelConfigError, match="backend onnxruntime runs on CPUs"):
        parse('backend: "onnxruntime" instance_group { kind: KIND_GPU }', "m", gpu_available=True)


def test_the_seeds_example_needs_only_a_gpu_or_a_fallback() -> None:
    text = """
      name: "yolo" backend: "tensorrt" max_batch_size: 64
      input [ { name: "images" data_type: TYPE_FP32 dims: [ 3, 640, 640 ] } ]
      output [ { name: "output0" data_type: TYPE_FP32 dims: [ -1, 8400 ] } ]
      dynamic_batching { preferred_batch_size: [ 8, 16, 32, 64 ] max_queue_delay_microseconds: 5000 }
      instance_group [ { kind: KIND_GPU count: 2 } ]
    """
    config, warnings = parse(text, "yolo", gpu_available=True)
    assert config.instance_count == 2
    assert config.default_model_filename == "model.plan"
    assert config.outputs[0].dims == (-1, 8400)
    assert config.dynamic_batching == DynamicBatching((8, 16, 32, 64), 5000)
    assert "KIND_GPU" in refusal(text, "yolo")

    fallback = text + 'parameters { key: "fallback_backend" value { string_value: "onnxruntime" } }'
    config, warnings = parse(fallback, "yolo")
    assert config.fallback_backend == "onnxruntime"
    assert any("onnxruntime serves, not tensorrt" in warning for warning in warnings)


def test_queue_settings_keep_their_triton_names_and_values() -> None:
    config = read("""
      max_batch_size: 4
      dynamic_batching {
        max_queue_delay_microseconds: 100
        default_queue_policy {
          max_queue_size: 32 default_timeout_microseconds: 250000 allow_timeout_override: true timeout_action: REJECT
        }
      }
    """)
    assert config.dynamic_batching == DynamicBatching(
        max_queue_delay_microseconds=100,
        default_queue_policy=QueuePolicy("REJECT", 0.25, True, 32),
    )


def test_preferences_priorities_and_policies_are_read() -> None:
    batching = read("""
      max_batch_size: 16
      dynamic_batching {
        preferred_batch_size: [ 16, 4, 8 ]
        priority_levels: 3 default_priority_level: 2
        default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 1000 }
        priority_queue_policy { key: 1 value { max_queue_size: 7 } }
      }
    """).dynamic_batching
    assert batching is not None
    assert batching.preferred_batch_size == (4, 8, 16)
    assert (batching.priority_levels, batching.default_priority_level) == (3, 2)
    assert batching.default_queue_policy == QueuePolicy("DELAY", 0.001)
    assert batching.priority_queue_policy == {1: QueuePolicy(max_queue_size=7)}
    assert not batching.may_delay  # no request can say when it wants to be delayed
    queue = make_queue(batching, 1024)
    assert [level.policy.max_queue_size for level in queue._levels] == [7, 1024, 1024]
    assert make_rules(batching, 16, 100.0) == BatchingRules(16, (4, 8, 16), 0.0, 0.1)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("preferred_batch_size: [ 0, 4 ]", "preferred_batch_size is [0, 4]; expected sizes of 1 to 4"),
        ("preferred_batch_size: [ 8 ]", "preferred_batch_size is [8]; expected sizes of 1 to 4, the max_batch_size"),
        ("priority_levels: 2", "default_priority_level is 0; expected 1 to 2, the priority_levels"),
        ("priority_levels: 2 default_priority_level: 3", "default_priority_level is 3; expected 1 to 2"),
        ("priority_levels: 4000000000 default_priority_level: 1", "expected at most 1024"),
        ("priority_queue_policy { key: 1 value { } }", "priority_queue_policy is [1]; expected levels of 1 to 0"),
        (
            "priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 3 value { } }",
            "priority_queue_policy is [3]; expected levels of 1 to 2",
        ),
        (
            "preserve_ordering: true priority_levels: 2 default_priority_level: 1",
            "priority_levels is 2; expected one with preserve_ordering",
        ),
        (
            "preserve_ordering: true default_queue_policy { timeout_action: DELAY }",
            "timeout_action is DELAY; expected REJECT with preserve_ordering",
        ),
    ],
)
def test_batching_that_contradicts_itself_is_refused_with_the_values(text: str, sentence: str) -> None:
    assert sentence in refusal(f'backend: "onnxruntime" max_batch_size: 4 dynamic_batching {{ {text} }}')


@pytest.mark.parametrize(
    ("slo", "batch", "found"),
    [
        ("100", 4, 100.0),
        ("0.5", 4, 0.5),
        ("0", 4, None),
        ("-1", 4, None),
        ("nan", 4, None),
        ("x", 4, None),
        ("9", 0, None),
    ],
)
def test_an_slo_is_milliseconds_above_0_for_a_model_with_batches(slo: str, batch: int, found: float | None) -> None:
    text = f'max_batch_size: {batch} parameters {{ key: "slo_ms" value {{ string_value: "{slo}" }} }}'
    if found is None:
        assert "parameters.slo_ms is" in refusal(f'backend: "onnxruntime" {text}')
    else:
        assert read(text).slo_ms == found


def test_without_dynamic_batching_requests_are_not_joined() -> None:
    assert read("max_batch_size: 4").dynamic_batching is None


def test_dynamic_batching_without_a_batch_dimension_is_named_in_a_warning() -> None:
    config, warnings = parse('backend: "onnxruntime" dynamic_batching { }', "m")
    assert config.dynamic_batching is None
    assert warnings == ["m/config.pbtxt: dynamic_batching has no effect: max_batch_size is 0"]


@pytest.mark.parametrize(
    ("text", "backend", "filename"),
    [
        ('backend: "onnxruntime"', "onnxruntime", "model.onnx"),
        ('platform: "onnxruntime_onnx"', "onnxruntime", "model.onnx"),
        ('backend: "onnxruntime" platform: "onnxruntime_onnx"', "onnxruntime", "model.onnx"),
        ('backend: "tensorrt"', "tensorrt", "model.plan"),
        ('platform: "tensorrt_plan"', "tensorrt", "model.plan"),
        ('backend: "tensorrt_rtx" default_model_filename: "rtx.engine"', "tensorrt_rtx", "rtx.engine"),
    ],
)
def test_backend_and_platform_choose_the_engine(text: str, backend: str, filename: str) -> None:
    config, warnings = parse(text, "m")
    assert (config.backend, config.default_model_filename, warnings) == (backend, filename, [])


@pytest.mark.parametrize(
    ("text", "policy", "chosen"),
    [
        ("", VersionPolicy(), (9,)),
        ("version_policy { latest { num_versions: 2 } }", VersionPolicy("latest", 2), (3, 9)),
        ("version_policy { latest { num_versions: 7 } }", VersionPolicy("latest", 7), (1, 3, 9)),
        ("version_policy { all { } }", VersionPolicy("all"), (1, 3, 9)),
        ("version_policy { specific { versions: [3, 4] } }", VersionPolicy("specific", versions=(3, 4)), (3,)),
    ],
)
def test_version_policies_choose_among_the_versions_on_disk(
    text: str, policy: VersionPolicy, chosen: tuple[int, ...]
) -> None:
    assert read(text).version_policy == policy
    assert policy.select([9, 1, 3]) == chosen
    assert policy.select([]) == ()


def test_instances_of_several_groups_add_up() -> None:
    config = read("instance_group [ { count: 2 kind: KIND_CPU }, { kind: KIND_CPU } ]")
    assert (config.instance_kind, config.instance_count) == ("KIND_CPU", 3)
    assert read("").instance_count == 1


def test_unknown_parameters_pass() -> None:
    config = read('parameters { key: "mine" value { string_value: "50" } } parameters { key: "other" }')
    assert config.parameters == {"mine": "50", "other": ""}


@pytest.mark.parametrize("name", sorted(set(modelconfig._DATATYPES)))
def test_every_datatype_of_the_protocol_has_its_triton_name(name: str) -> None:
    config = read(f'input [ {{ name: "x" data_type: {name} dims: [ 1 ] }} ]')
    expected = {"TYPE_STRING": "BYTES"}.get(name, name.removeprefix("TYPE_"))
    assert config.inputs[0].datatype == expected


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("max_batch_size: 8", ["backend is missing", "onnxruntime, tensorrt, tensorrt_rtx"]),
        ('backend: "python"', ["backend is 'python'", "onnxruntime"]),
        ('platform: "pytorch_libtorch"', ["platform is 'pytorch_libtorch'", "tensorrt_plan"]),
        ('backend: "onnxruntime" platform: "tensorrt_plan"', ["platform", "'tensorrt_plan'"]),
        ('name: "other" backend: "onnxruntime"', ["name is 'other'", "'m'"]),
        ('backend: "onnxruntime" max_batch_size: -1', ["max_batch_size is -1"]),
        ('backend: "onnxruntime" instance_group { kind: KIND_GPU }', ["KIND_GPU", "fallback_backend"]),
        ('backend: "onnxruntime" instance_group { kind: KIND_MODEL }', ["KIND_MODEL"]),
        ('backend: "tensorrt" instance_group { kind: KIND_CPU }', ["KIND_CPU", "KIND_GPU"]),
        ('backend: "onnxruntime" instance_group { count: -2 }', ["count is -2"]),
        ('backend: "tensorrt" instance_group { gpus: [1, 1] }', ["gpus is [1, 1]", "each GPU once"]),
        ('backend: "tensorrt" instance_group { gpus: [-1] }', ["gpus is [-1]", "counted from 0"]),
        ('backend: "tensorrt" instance_group { count: 33 gpus: [0, 1] }', ["count is 66", "at most 64"]),
        (
            'backend: "onnxruntime" instance_group [ { kind: KIND_CPU }, { count: 1 } ]',
            ["KIND_AUTO and KIND_CPU", "one kind"],
        ),
        ('backend: "onnxruntime" version_policy { latest { } }', ["num_versions is 0"]),
        ('backend: "onnxruntime" version_policy { specific { } }', ["versions is empty"]),
        ('backend: "onnxruntime" version_policy { specific { versions: 0 } }', ["versions is [0]"]),
        ('backend: "onnxruntime" input { data_type: TYPE_FP32 dims: 1 }', ["input[0].name is missing"]),
        (
            'backend: "onnxruntime" input [ { name: "x" data_type: TYPE_BOOL dims: 1 }, { name: "x" } ]',
            ["input[1].name", "'x' a second time"],
        ),
        ('backend: "onnxruntime" input { name: "x" dims: 1 }', ["input 'x' data_type is missing", "TYPE_UINT8"]),
        ('backend: "onnxruntime" output { name: "y" data_type: TYPE_BF16 dims: 1 }', ["TYPE_BF16"]),
        ('backend: "onnxruntime" input { name: "x" data_type: TYPE_FP32 }', ["input 'x' dims is missing"]),
        ('backend: "onnxruntime" input { name: "x" data_type: TYPE_FP32 dims: [2, 0] }', ["dims is [2, 0]"]),
        (
            'backend: "onnxruntime" parameters { key: "fallback_backend" value { string_value: "tensorrt" } }',
            ["parameters.fallback_backend is 'tensorrt'", "onnxruntime"],
        ),
        ('backend: "onnxruntime" default_model_filename: "../../secret"', ["default_model_filename"]),
        (
            'backend: "onnxruntime" output { name: "y" data_type: TYPE_FP32 dims: 1 label_filename: "/etc/passwd" }',
            ["output 'y' label_filename", "in the model's directory"],
        ),
    ],
)
def test_values_that_cannot_be_served_are_refused_by_name(text: str, parts: list[str]) -> None:
    sentence = refusal(text)
    for part in parts:
        assert part in sentence


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('backend: "onnxruntime"\nmax_batch_sise: 8', ["line 2", "max_batch_sise"]),
        ('\n\ninput [ { name: "x" data_type: FP32 } ]', ["line 3", "FP32"]),
        ("max_batch_size: many", ["line 1", "many"]),
        ("max_batch_size: 99999999999", ["line 1", "99999999999"]),
        ("dynamic_batching { max_queue_delay_microseconds: -5 }", ["line 1", "-5"]),
        ("input [ {", ["line 1", "}"]),
        ("not a configuration", ["line 1"]),
        ('name: "a"\nname: "b"', ["line 2", "multiple"]),
    ],
)
def test_text_that_is_no_configuration_is_refused_with_its_line(text: str, parts: list[str]) -> None:
    sentence = refusal(text)
    for part in parts:
        assert part in sentence


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("sequence_batching { }", "sequence_batching"),
        ('platform: "ensemble" ensemble_scheduling { step { model_name: "a" } }', "ensemble_scheduling"),
        ("model_transaction_policy { decoupled: true }", "model_transaction_policy.decoupled"),
        ("response_cache { enable: true }", "response_cache.enable"),
        ('input { name: "x" reshape { shape: [1] } }', "input[x].reshape"),
        ('input { name: "x" is_shape_tensor: true }', "input[x].is_shape_tensor"),
        ("input { allow_ragged_batch: true }", "input[0].allow_ragged_batch"),
        ("input { optional: true }", "input[0].optional"),
        ('output { name: "y" reshape { shape: [1] } }', "output[y].reshape"),
        ("instance_group { passive: true }", "instance_group[0].passive"),
        ('cc_model_filenames { key: "9.0" value: "h100.plan" }', "cc_model_filenames"),
        ('model_repository_agents { agents { name: "checksum" } }', "model_repository_agents"),
    ],
)
def test_a_field_that_would_change_answers_is_refused_by_its_path(text: str, path: str) -> None:
    assert f": {path} is set; expected absent" in refusal(text)


def test_what_is_refused_may_be_switched_off_explicitly() -> None:
    read("""
      max_batch_size: 2
      model_transaction_policy { decoupled: false }
      response_cache { enable: false }
      dynamic_batching { preserve_ordering: false priority_levels: 0 }
    """)


def test_harmless_fields_are_accepted_with_one_warning_each() -> None:
    config, warnings = parse(
        """
        backend: "onnxruntime" max_batch_size: 2 runtime: "other.so"
        optimization { graph { level: 1 } cuda { graphs: true } }
        input [ { name: "a" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 4, 4 ] },
                { name: "b" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 4, 4 ] } ]
        metric_tags [ { key: "one" value: "1" }, { key: "two" value: "2" } ]
        """,
        "m",
    )
    assert len(config.inputs) == 2
    assert [warning.split(" has no effect: ")[0] for warning in warnings] == [
        "m/config.pbtxt: input[a].format",
        "m/config.pbtxt: metric_tags",
        "m/config.pbtxt: optimization",
        "m/config.pbtxt: runtime",
    ]


def test_every_field_of_tritons_messages_is_in_exactly_one_table() -> None:
    tables = {
        "implemented": set(tritonschema.IMPLEMENTED),
        "harmless": set(tritonschema.HARMLESS),
        "refused": set(tritonschema.REFUSED),
    }
    seen: set[str] = set()
    wrong: list[str] = []

    def walk(descriptor: Any) -> None:
        for field in descriptor.fields:
            key = f"{descriptor.name}.{field.name}"
            classes = [name for name, keys in tables.items() if key in keys]
            if len(classes) != 1:
                wrong.append(f"{key}: {classes or 'in no table'}")
            if key not in seen and classes == ["implemented"] and field.message_type is not None:
                inner = field.message_type
                is_map = inner.GetOptions().map_entry
                walk(inner.fields_by_name["value"].message_type if is_map else inner)
            seen.add(key)

    walk(tritonschema.load_schema().ModelConfig.DESCRIPTOR)
    assert wrong == []
    assert set().union(*tables.values()) == seen, "a table names a field that Triton does not have"


def test_message_names_in_the_tables_mean_one_message_each() -> None:
    names: dict[str, str] = {}

    def walk(descriptor: Any) -> None:
        assert names.setdefault(descriptor.name, descriptor.full_name) == descriptor.full_name
        for field in descriptor.fields:
            implemented = f"{descriptor.name}.{field.name}" in tritonschema.IMPLEMENTED
            if implemented and field.message_type is not None and field.message_type.full_name not in names.values():
                walk(field.message_type)

    walk(tritonschema.load_schema().ModelConfig.DESCRIPTOR)


def test_tensors_left_out_are_taken_from_the_graph() -> None:
    config = complete(read("max_batch_size: 8 dynamic_batching { }"), [IMAGE], [CANDIDATES])
    assert config.inputs == (TensorConfig("image", "UINT8", (416, 416, 3)),)
    assert config.outputs == (TensorConfig("candidates", "FP32", (1000, 6)),)


def test_an_input_left_out_is_added_but_an_output_left_out_stays_out() -> None:
    scale = TensorMetadata("scale", "FP32", (-1,))
    count = TensorMetadata("count", "INT32", (-1, 1))
    config = read("""
      max_batch_size: 8
      input { name: "scale" data_type: TYPE_FP32 dims: [ 1 ] }
      output { name: "count" data_type: TYPE_INT32 dims: [ 1 ] }
    """)
    with pytest.raises(ModelConfigError, match=r"input 'scale' dims is \[1\]; expected \[\], as in the model"):
        complete(config, [IMAGE, scale], [CANDIDATES, count])
    config = complete(config, [IMAGE, TensorMetadata("scale", "FP32", (-1, 1))], [CANDIDATES, count])
    assert [tensor.name for tensor in config.inputs] == ["scale", "image"]
    assert [tensor.name for tensor in config.outputs] == ["count"]


def test_minus_one_matches_any_size_and_takes_the_fixed_one() -> None:
    config = read("""
      max_batch_size: 8
      input { name: "image" data_type: TYPE_UINT8 dims: [ -1, 416, 3 ] }
      output { name: "candidates" data_type: TYPE_FP32 dims: [ 1000, -1 ] label_filename: "labels.txt" }
    """)
    config = complete(config, [IMAGE], [TensorMetadata("candidates", "FP32", (-1, -1, -1))])
    assert config.inputs[0].dims == (416, 416, 3)
    assert config.outputs[0] == TensorConfig("candidates", "FP32", (1000, -1), "labels.txt")


def test_without_batching_the_dims_are_the_full_shape() -> None:
    text = 'input { name: "image" data_type: TYPE_UINT8 dims: [ 1, 416, 416, 3 ] }'
    config = complete(read(text), [TensorMetadata("image", "UINT8", (1, 416, 416, 3))], [CANDIDATES])
    assert config.inputs[0].dims == (1, 416, 416, 3)
    assert config.outputs[0].dims == (-1, 1000, 6)


@pytest.mark.parametrize(
    ("tensor", "parts"),
    [
        ('name: "images" data_type: TYPE_UINT8 dims: [416, 416, 3]', ["input 'images'", "one of 'image'"]),
        ('name: "image" data_type: TYPE_FP32 dims: [416, 416, 3]', ["data_type is FP32", "UINT8"]),
        ('name: "image" data_type: TYPE_UINT8 dims: [640, 640, 3]', ["[640, 640, 3]", "[416, 416, 3]"]),
        ('name: "image" data_type: TYPE_UINT8 dims: [-1, 416, 416, 3]', ["after the batch dimension"]),
    ],
)
def test_a_configuration_that_contradicts_the_graph_is_refused(tensor: str, parts: list[str]) -> None:
    config = read(f"max_batch_size: 8 input {{ {tensor} }}")
    with pytest.raises(ModelConfigError) as caught:
        complete(config, [IMAGE], [CANDIDATES])
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("shape", [(1, 416, 416, 3), ()])
def test_a_graph_with_a_fixed_first_dimension_cannot_batch(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelConfigError, match="max_batch_size is 8; expected 0: input 'image'"):
        complete(read("max_batch_size: 8"), [TensorMetadata("image", "UINT8", shape)], [CANDIDATES])


def test_a_model_without_a_configuration_batches_if_its_graph_can() -> None:
    config = autocomplete("m", "onnxruntime", [IMAGE], [CANDIDATES])
    assert config == autocomplete("m", "onnxruntime", [IMAGE], [CANDIDATES], first_dim_dynamic=True)
    assert (config.max_batch_size, config.dynamic_batching) == (8, DynamicBatching())
    assert config.inputs[0].dims == (416, 416, 3)

    fixed = TensorMetadata("image", "UINT8", (1, 416, 416, 3))
    assert autocomplete("m", "onnxruntime", [fixed], [CANDIDATES]).max_batch_size == 0
    with pytest.raises(ModelConfigError, match="no dynamic first dimension"):
        autocomplete("m", "onnxruntime", [fixed], [CANDIDATES], first_dim_dynamic=True)


def test_a_model_without_a_configuration_can_be_told_not_to_batch() -> None:
    config = autocomplete("m", "tensorrt", [IMAGE], [CANDIDATES], first_dim_dynamic=False)
    assert (config.max_batch_size, config.dynamic_batching) == (0, None)
    assert config.inputs[0].dims == (-1, 416, 416, 3)
    assert config.default_model_filename == "model.plan"


def test_tritons_schema_lives_beside_kserves_in_one_process() -> None:
    program = """
import sys
from kserve.protocol.grpc import grpc_predict_v2_pb2
from saccade_predictor.modelconfig import parse
config, _ = parse(open(sys.argv[1]).read(), "detector")
assert config.inputs[0].name == "image"
assert grpc_predict_v2_pb2.ModelInferRequest(model_name="detector").SerializeToString()
assert not [name for name in sys.modules if name.startswith("tritonclient.grpc")]
"""
    path = ":".join(str(ROOT / folder) for folder in ("serving", "predictor"))
    result = subprocess.run(
        [sys.executable, "-c", program, str(EXAMPLE)],
        env={"PYTHONPATH": path, "PATH": "", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
