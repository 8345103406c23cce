"""The configured machines and links, alone and under load."""
