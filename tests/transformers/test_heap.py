"""Freed memory stays with the process, so that the next picture finds its pages mapped."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from saccade_transformers import heap

_FAULTS = """
import resource, threading
import cv2, numpy as np
from saccade_transformers.heap import keep_freed_memory
assert keep_freed_memory()
data = cv2.imencode(".bmp", np.zeros((1080, 1920, 3), np.uint8))[1]
def work():
    for _ in range(3):
        cv2.imdecode(data, cv2.IMREAD_COLOR)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        cv2.imdecode(data, cv2.IMREAD_COLOR)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_a_thread_decodes_one_picture_after_the_other_without_asking_the_system_for_memory() -> None:
    ended = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    pages = 1920 * 1080 * 3 // 4096
    assert int(ended.stdout) < pages / 2, "ten pictures of so many pages each"


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(_name: None) -> object:
        return object()

    monkeypatch.setattr("saccade_transformers.heap.ctypes.CDLL", without)
    assert not heap.keep_freed_memory()
