"""What a model and a machine are, as numbers: shapes, counts of parameters, FLOPs, bytes, the catalogue."""
