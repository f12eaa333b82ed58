"""The store: results by what was measured, in one SQLite file."""
