"""The command line: `python -m tardis_fl COMMAND`."""

from tardis_fl.cli import app

app()
