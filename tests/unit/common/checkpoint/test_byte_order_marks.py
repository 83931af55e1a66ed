"""A checkpoint whose JSON files begin with byte-order marks is read all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from apbmm_common.checkpoint.byte_order_marks import without_marks
from apbmm_common.checkpoint.headers import read_checkpoint
from tiny_checkpoints import write_tiny_pair


def test_transformers_reads_a_folder_with_marked_files(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder, other = write_tiny_pair(tmp_path)
    with without_marks(other) as same:
        assert same == other
    config = folder / "config.json"
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())
    (folder / "chat_template.jinja").write_text("{{ 1 }}", encoding="utf-8-sig")
    (folder / "trainer_state.json").symlink_to("nowhere")
    assert read_checkpoint(folder).config
    with pytest.raises(OSError, match="not a valid JSON"):
        transformers.AutoConfig.from_pretrained(folder)
    with without_marks(folder) as mended:
        assert {file.name for file in mended.iterdir()} == {f.name for f in folder.iterdir()}
        assert transformers.AutoConfig.from_pretrained(mended).model_type
        assert (mended / "chat_template.jinja").read_text(encoding="utf-8") == "{{ 1 }}"
    assert not mended.exists()
