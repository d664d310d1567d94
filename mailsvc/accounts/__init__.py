"""Who may log in: passwords, throttling of guesses, and Twisted's cred interfaces."""
