"""Where the console scripts begin: with three open descriptors, whatever they were started with.

It imports the commands only then, because what they import opens descriptors that would get the numbers 0 to 2.
"""

from __future__ import annotations

from mailsvc.cli.descriptors import fill


def mailsvc() -> int:
    """``mailsvc``, and ``python -m mailsvc``."""
    fill()
    from mailsvc.cli.main import main

    return main()


def sendmail() -> int:
    """``mailsvc-sendmail``, under whatever name it was linked."""
    fill()
    from mailsvc.cli.sendmail import main

    return main()
