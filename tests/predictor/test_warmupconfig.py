"""``model_warmup``: the samples of a config.pbtxt become requests, and what does not fit is refused by its field."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

import onnx_graphs as graphs
from saccade_predictor.batchingconfig import ModelConfigError
from saccade_predictor.loading import find_versions
from saccade_predictor.modelconfig import parse
from saccade_predictor.repository import ModelDirectory, RepositoryError
from saccade_predictor.warmup import Sample
from saccade_predictor.warmupconfig import MAX_COUNT, read_samples

TENSORS = (
    'backend: "onnxruntime" input [{{ name: "x" data_type: TYPE_{0} dims: [ {1} ] }}] '
    'output [{{ name: "y" data_type: TYPE_{0} dims: [ {1} ] }}]\n'
)


def no_file(name: str, _limit: int) -> bytes:
    raise AssertionError(f"{name} is read")


def samples_of(sample: str, kind: str = "FP32", dims: str = "2", batch: str = "max_batch_size: 4") -> list[Sample]:
    config, _ = parse(TENSORS.format(kind, dims) + f"{batch} model_warmup {{ {sample} }}", "m")
    return read_samples(config, no_file)


def x(kind: str, dims: str, data: str) -> str:
    return f'inputs {{ key: "x" value {{ data_type: TYPE_{kind} dims: [ {dims} ] {data} }} }}'


def test_zeros_are_repeated_to_the_batch_size_and_sent_as_often_as_asked() -> None:
    [sample] = samples_of('name: "s" batch_size: 3 count: 7 ' + x("FP32", "2", "zero_data: true"))
    assert (sample.name, sample.rows, sample.count) == ("s", 3, 7)
    [tensor] = sample.tensors(3)
    assert (tensor.shape, tensor.datatype) == ((3, 2), "FP32")
    assert not tensor.array.any()


def test_a_sample_without_a_count_is_sent_once() -> None:
    [sample] = samples_of("batch_size: 1 " + x("FP32", "2", "zero_data: true"))
    assert (sample.name, sample.count) == ("0", 1)


@pytest.mark.parametrize("kind", ["FP32", "FP16", "FP64", "UINT8", "INT64", "BOOL"])
def test_random_data_has_the_inputs_datatype_and_is_the_same_at_every_start(kind: str) -> None:
    text = "batch_size: 2 " + x(kind, "400", "random_data: true")
    first, second = (samples_of(text, kind, "400")[0].tensors(2)[0].array for _ in range(2))
    assert (first == second).all()
    assert len(np.unique(first)) > (1 if kind == "BOOL" else 20)
    assert np.isfinite(first.astype(np.float64)).all()


def test_text_is_empty_as_at_triton() -> None:
    [sample] = samples_of("batch_size: 2 " + x("STRING", "2", "random_data: true"), "STRING")
    [tensor] = sample.tensors(2)
    assert (tensor.shape, list(tensor.elements)) == ((2, 2), [b""] * 4)


def test_a_model_without_batches_gets_its_full_shape() -> None:
    [sample] = samples_of("batch_size: 1 " + x("FP32", "3", "zero_data: true"), dims="3", batch="")
    assert sample.tensors(1)[0].shape == (3,)


def test_an_open_dimension_takes_the_samples_size() -> None:
    [sample] = samples_of("batch_size: 1 " + x("FP32", "17", "zero_data: true"), dims="-1")
    assert sample.tensors(1)[0].shape == (1, 17)


def test_batch_zero_is_skipped_as_at_triton() -> None:
    assert samples_of("batch_size: 0 " + x("FP32", "2", "zero_data: true")) == []


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (
            "batch_size: 5 " + x("FP32", "2", "zero_data: true"),
            r"batch_size is 5; expected 1 to 4, the max_batch_size",
        ),
        (f"batch_size: 1 count: {MAX_COUNT + 1}", "count is 10001; expected at most 10000"),
        ("batch_size: 1 " + x("FP32", "2", ""), r"inputs\[x\] is without data; expected zero_data, random_data"),
        ("batch_size: 1 " + x("FP32", "2", "zero_data: false"), "is without data"),
        ("batch_size: 1 " + x("FP32", "-1", "zero_data: true"), r"dims is \[-1\]; expected dimensions of 1 or more"),
        ("batch_size: 1 " + x("FP32", "3", "zero_data: true"), r"dims is \[3\]; expected \[2\], the input's"),
        ("batch_size: 1 " + x("INT8", "2", "zero_data: true"), "data_type is TYPE_INT8; expected TYPE_FP32"),
        ("batch_size: 1", r"inputs is \[\]; expected \['x'\], the model's"),
        (
            "batch_size: 1 " + x("FP32", "2", 'input_data_file: "../config.pbtxt"'),
            "name of a file in the model's folder",
        ),
        ("batch_size: 1 " + x("FP32", "2", 'input_data_file: "/etc/passwd"'), "name of a file in the model's folder"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_field(sample: str, words: str) -> None:
    with pytest.raises(ModelConfigError, match=words):
        samples_of(sample)


def test_an_absurd_size_is_refused_before_it_is_made() -> None:
    with pytest.raises(ModelConfigError, match="at most 268435456 bytes"):
        samples_of("batch_size: 1 " + x("FP32", "900000000000", "zero_data: true"), dims="-1")


class TestFiles:
    """``input_data_file``, read where Triton reads it: in the model's folder ``warmup``."""

    def open(self, root: Path, kind: str, dims: str, data: bytes) -> list[Sample]:
        graphs.identity(root / "1" / "model.onnx", "STRING" if kind == "STRING" else "FLOAT", ("n", int(dims)))
        (root / "warmup").mkdir()
        (root / "warmup" / "x.raw").write_bytes(data)
        sample = "model_warmup { batch_size: 2 " + x(kind, dims, 'input_data_file: "x.raw"') + " }"
        (root / "config.pbtxt").write_text(TENSORS.format(kind, dims) + "max_batch_size: 4 " + sample)
        [found] = find_versions(ModelDirectory("m", root), 1)
        file = found.open()
        file.engine.close()
        return list(file.samples)

    def test_raw_bytes_are_the_rows(self, tmp_path: Path) -> None:
        [sample] = self.open(tmp_path, "FP32", "2", struct.pack("<2f", 1.5, -2))
        assert sample.tensors(2)[0].array.tolist() == [[1.5, -2], [1.5, -2]]

    def test_text_is_length_and_bytes(self, tmp_path: Path) -> None:
        [sample] = self.open(tmp_path, "STRING", "1", struct.pack("<I", 3) + b"cat")
        assert [bytes(element) for element in sample.tensors(2)[0].elements] == [b"cat", b"cat"]

    @pytest.mark.parametrize("size", [4, 12])
    def test_a_file_of_the_wrong_size_is_refused(self, tmp_path: Path, size: int) -> None:
        with pytest.raises(ModelConfigError, match=r"expected the input's raw bytes: .* need 8"):
            self.open(tmp_path, "FP32", "2", bytes(size))

    def test_a_file_that_is_missing_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(RepositoryError, match=r"m/warmup/gone\.raw, named by model_warmup, cannot be read"):
            ModelDirectory("m", tmp_path).warmup_file("gone.raw", 8)
