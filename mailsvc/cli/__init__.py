"""The `mailsvc` command: one module per group of commands."""
