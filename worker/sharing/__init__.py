"""The pass: it walks the table, claims, commits, calls and records."""
