"""Requests in, token events out: scheduler, cache blocks, runners, sampler, speculation."""
