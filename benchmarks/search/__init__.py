"""How good searches are, on synthetic merges of known truth."""
