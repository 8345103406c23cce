"""Images, who holds which, and what each may be used for."""
