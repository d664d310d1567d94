"""Fuzzing: whatever a stranger can send is parsed without a crash, a hang or a leak, and means one thing only."""
