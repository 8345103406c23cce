"""Reference rows: the same data and budget, trained in other ways.

`trainings` does them; `command` finds which are due and puts them into the report.
"""
