"""The vocabulary every room speaks: errors, units, settings, records, durable files, progress."""
