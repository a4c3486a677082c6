"""HTTP in, engine requests, HTTP out: the OpenAI protocol, access, usage with its cost, metrics."""
