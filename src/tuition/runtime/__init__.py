"""Where torch enters: device, threads, precision, random numbers, durable checkpoints."""
