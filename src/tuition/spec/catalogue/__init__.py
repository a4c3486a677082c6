"""Dated rows about hardware, prices and electricity, each with its source, and the reader of them."""
