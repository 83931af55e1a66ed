"""What the keys of a run file mean: the text below each key in the schema.

It is read from the schema's source where a reference is made, so that reading a run file does not
take that time.
"""

from __future__ import annotations

import ast
import inspect
from functools import cache
from itertools import pairwise

from apbmm_common.run_file import schema


def description(table: str, key: str) -> str:
    """The text below a key of a table, which is named by its class; "" where there is none."""
    return _texts().get((table, key), "")


@cache
def _texts() -> dict[tuple[str, str], str]:
    return {
        (table.name, above.target.id): inspect.cleandoc(below.value.value)
        for table in ast.parse(inspect.getsource(schema)).body
        if isinstance(table, ast.ClassDef)
        for above, below in pairwise(table.body)
        if isinstance(above, ast.AnnAssign) and isinstance(above.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(below.value.value, str)
    }
