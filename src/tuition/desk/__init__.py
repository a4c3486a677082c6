"""The billed engine: the account of every request is opened, settled and written in one place."""
