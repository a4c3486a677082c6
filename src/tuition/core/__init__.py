"""What every package uses: errors, units, settings, records, durable files, progress."""
