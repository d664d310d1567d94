"""Who gets mail: where an address of ours leads, how much an account may hold, and programs as recipients.

`tables` are the nouns, `resolve` the walk from an address to accounts, `quota` the limits, `program` what a program
is told and what its exit status means; all of these are pure.  `running` runs programs, with Twisted.
"""
