"""The Python API; its names are exported by `tardis_fl` itself.

`actions` has what a user calls, `results` what these return, `notebook` how progress is shown.
"""
