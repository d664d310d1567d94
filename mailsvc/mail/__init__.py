"""The nouns that every other package speaks: addresses, envelopes, messages. Values only."""
