"""Byte-order marks before the text files of a checkpoint, which transformers does not expect.

It refuses JSON files with one, and would put that of a chat template into every prompt.
"""

from __future__ import annotations

import codecs
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MARK = codecs.BOM_UTF8
_TEXTS = ("*.json", "*.jinja", "*.txt")


@contextmanager
def without_marks(folder: Path) -> Iterator[Path]:
    """A folder with the files of ``folder``, none of whose text files begins with a mark.

    That is ``folder`` itself if none does; else a temporary folder of links and mended copies.
    """
    texts = (file for pattern in _TEXTS for file in folder.glob(pattern))
    marked = {file.name for file in texts if file.is_file() and _is_marked(file)}
    if not marked:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="apbmm-") as mended:
        for file in folder.resolve().iterdir():
            link = Path(mended, file.name)
            if file.name in marked:
                copy_without_mark(file, link)
            else:
                link.symlink_to(file, target_is_directory=file.is_dir())
        yield Path(mended)


def copy_without_mark(file: Path, copy: Path) -> None:
    """Copy a file, without the byte-order mark that it may begin with."""
    if _is_marked(file):
        copy.write_bytes(file.read_bytes().removeprefix(_MARK))
    else:
        shutil.copyfile(file, copy)


def _is_marked(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(_MARK)) == _MARK
