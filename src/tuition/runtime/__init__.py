"""Where torch enters: device, threads, precision, memory, random numbers, durable checkpoints."""
