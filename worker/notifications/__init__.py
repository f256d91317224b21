"""Who is told how passes go: a watchdog (heartbeat), and people (Apprise), with what was told already."""
