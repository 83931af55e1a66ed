"""Byte-order marks before the JSON files of a checkpoint, which transformers does not read."""

from __future__ import annotations

import codecs
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def without_marks(folder: Path) -> Iterator[Path]:
    """A folder with the files of ``folder``, none of whose JSON files begins with a mark.

    That is ``folder`` itself if none does; else a temporary folder of links and mended copies.
    """
    marked = {f.name for f in folder.glob("*.json") if f.is_file() and _is_marked(f)}
    if not marked:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="apbmm-") as mended:
        for file in folder.resolve().iterdir():
            link = Path(mended, file.name)
            if file.name in marked:
                link.write_bytes(file.read_bytes().removeprefix(codecs.BOM_UTF8))
            else:
                link.symlink_to(file, target_is_directory=file.is_dir())
        yield Path(mended)


def _is_marked(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
