"""The read-only page of `serve`: the questions of the command line, for people who look before they type."""
