"""The scripts that measure; README.md says what each of them answers."""
