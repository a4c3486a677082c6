"""Parts of bench/inference.py: the engines it measures, one file each, and what it makes of their numbers."""
