"""The long-running worker: the schedule, and what it reports to others."""
