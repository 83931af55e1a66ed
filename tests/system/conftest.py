from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rehearsal_runs import Site, site_in


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield from site_in(tmp_path)
