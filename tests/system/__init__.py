"""The whole service under load, killed, started wrongly, and as a daemon; commands as processes of their own."""
