"""`mailsvc mailbox deleted|undelete|devices|import|export`: what lies in a mailbox.

Works on the database, not on the service, which may run meanwhile: many messages are moved in many small
transactions, so that deliveries and logins pass in between.
"""

from __future__ import annotations

import click

from mailsvc.cli.deleted import list_deleted, list_devices, undelete_messages
from mailsvc.cli.transfer import export_mail, import_mail


@click.group()
def mailbox() -> None:
    """What lies in a mailbox."""


mailbox.add_command(list_deleted)
mailbox.add_command(undelete_messages)
mailbox.add_command(list_devices)
mailbox.add_command(import_mail)
mailbox.add_command(export_mail)
