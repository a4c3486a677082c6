"""The database of everything that was paid for: schema, migrations, one writer with group commit."""
