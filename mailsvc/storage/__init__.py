"""Keeping mail: the schema, its upgrades, and plain functions of a database cursor."""
