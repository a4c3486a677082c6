"""Measured windows -> postings that balance -> statements: rates, meters, attribution, amortization."""
