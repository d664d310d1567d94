"""The byte-facing half of every line protocol: bounded lines, bodies, one command in flight."""
