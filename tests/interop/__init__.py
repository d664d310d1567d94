"""Real mail programs against the real service, on loopback."""
