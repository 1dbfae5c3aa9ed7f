"""Which version this is; plain data, read by the command line too."""

from typing import Final

VERSION: Final = "0.1.0"
API: Final = 1
