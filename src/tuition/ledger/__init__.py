"""Measured windows -> postings that balance -> statements: rates, meters, attribution, the check."""
