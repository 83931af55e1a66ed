"""The search: mathematics, dispatch, journal, status."""
