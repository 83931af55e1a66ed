"""The tables of a run file: every key with its type, range, default and description.

| module | tables |
|---|---|
| `sources` | `[sources]` |
| `benchmarks` | `[[benchmarks]]` |
| `generation` | `[generation]` |
| `objectives` | `[[objectives]]` |
| `merge` | `[merge]`, `[[merge.filters]]` |
| `search` | `[prior]`, `[algorithm]` |
| `budget` | `[budget]`, `[steps]` |
| `confirm` | `[confirm]` |
| `engine` | `[engine]`, `[evaluation]` |
| `reporting` | `[track]`, `[notify]` |
| `timings` | `[timings]` |

`section` has what all are made of: the class `Section`, kinds of values, marks of paths and units.

The docstring below each key is its description in the run-file reference: what the key means, and
when to change it; types, ranges and defaults come from the annotations.

A rule on several keys is written as a validator of the last of them, in the order in which they are
defined. pydantic shows it only those earlier keys whose values are valid, so all faults of a table
are found together, and one wrong key does not produce a second error. `RunSpec` has the rules
between tables in the same way.
"""
