"""How long merges, their way into an engine, and their export take."""
