"""Making and checking certificates; usable without the server."""
