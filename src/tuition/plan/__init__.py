"""A question (this model, this machine, this load) answered in time, money and memory. No torch."""
