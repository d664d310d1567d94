"""Everything that is kept: messages, maildrops, accounts and events in one SQL database.

`database.Database` runs plain functions of a cursor in transactions; `accounts`, `mailboxes` and `events`
are those functions; `dialect` is the only place that knows which database product it is.
"""
