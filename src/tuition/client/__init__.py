"""The HTTP client of the server's API: lists models, streams replies, reads receipts and bills. No torch."""
