"""Files: their names and places, what is read from them, and what is to be removed when a run ends."""
