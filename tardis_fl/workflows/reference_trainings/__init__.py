"""Reference rows, the same data and budget trained otherwise: `trainings`, `running` (which are due, and the report)."""
