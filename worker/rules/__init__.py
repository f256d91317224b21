"""The rules: who is due, who may be called again today, and when passes are made."""
