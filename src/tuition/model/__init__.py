"""The one decoder, its families as data, and model folders: read, checked, written."""
