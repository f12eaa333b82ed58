"""Tables are as wide as tests ask for: a width that a test runner gives its workers must not be taken up first."""

import os

os.environ.pop("COLUMNS", None)
