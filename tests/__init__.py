"""The one suite: `pytest` and `trial tests` run the same test cases."""
