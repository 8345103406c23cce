"""The main job: `python -m tardis_fl.simulate CONFIG`."""

if __name__ == "__main__":
    from tardis_fl.cli import simulate_app

    simulate_app()
