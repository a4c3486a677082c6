"""The web pages. They talk to the server through its public HTTP API, like any other client."""
