"""Teaching: batches in, step records out. Losses, optimizers, schedules, the one loop, recipes."""
