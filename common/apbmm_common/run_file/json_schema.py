"""The JSON schema of a run file, with which editors complete, describe and check its keys.

It is made from the models that read the file, so it is of the release that prints it. What rules on
several keys refuse, and what is looked up in registries, only `apbmm check` knows.
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from apbmm_common.run_file.descriptions import description
from apbmm_common.run_file.run_spec import RunSpec


def run_file_schema() -> dict[str, Any]:
    """The schema, JSON Schema 2020-12."""
    schema = RunSpec.model_json_schema(schema_generator=_TomlSchema)
    tables = {"RunSpec": schema, **schema["$defs"]}
    for name, table in tables.items():
        for key, value in table.get("properties", {}).items():
            if text := description(name, key):
                value["description"] = text
    return {
        "$schema": _TomlSchema.schema_dialect,
        **schema,
        "title": "Run file of apbmm",
    }


class _TomlSchema(GenerateJsonSchema):
    """TOML has no null: a key that may be left out has the type of its other values."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        if schema.get("default", ...) is None:
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)

    def encode_default(self, dft: Any) -> Any:
        """Defaults of whole tables, without the keys that they leave out."""
        return _without_null(super().encode_default(dft))


def _without_null(value: Any) -> Any:
    match value:
        case dict():
            return {key: _without_null(item) for key, item in value.items() if item is not None}
        case list():
            return [_without_null(item) for item in value]
        case _:
            return value
