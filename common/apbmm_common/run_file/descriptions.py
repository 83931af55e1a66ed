"""What the keys of a run file mean: the text below each key of a table's class.

It is read from the source of the tables where a reference is made, so that reading a run file does
not take that time.
"""

from __future__ import annotations

import ast
import inspect
import sys
from functools import cache
from itertools import pairwise

from apbmm_common.run_file.sections.section import Section


def description(table: str, key: str) -> str:
    """The text below a key of a table, which is named by its class; "" where there is none."""
    return _texts().get((table, key), "")


@cache
def _texts() -> dict[tuple[str, str], str]:
    # `RunSpec` puts the tables together, so all are imported with this package.
    modules = {kind.__module__ for kind in Section.__subclasses__()}
    return {
        (table.name, above.target.id): inspect.cleandoc(below.value.value)
        for module in sorted(modules)
        for table in ast.parse(inspect.getsource(sys.modules[module])).body
        if isinstance(table, ast.ClassDef)
        for above, below in pairwise(table.body)
        if isinstance(above, ast.AnnAssign) and isinstance(above.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(below.value.value, str)
    }
