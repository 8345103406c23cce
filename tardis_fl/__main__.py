from tardis_fl.cli import app

app()
