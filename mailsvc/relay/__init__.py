"""Mail that goes out: what the client side of SMTP needs."""
