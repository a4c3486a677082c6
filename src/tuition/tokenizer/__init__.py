"""Text to ids and back: tokenizers of any family, trained ones, chat templates, streaming that never splits a
character."""
