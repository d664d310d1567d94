"""`mailsvc mailbox deleted|undelete|devices|import|export`: what lies in a mailbox.

Works on the database, not on the service, which may run meanwhile: many messages are moved in many small
transactions, so that deliveries and logins pass in between.
"""

from __future__ import annotations

import click


@click.group()
def mailbox() -> None:
    """What lies in a mailbox."""
