"""The ledger, which holds the promise: claims, what came of them, and the passes that made them; nothing of HTTP."""
