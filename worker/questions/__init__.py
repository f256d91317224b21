"""What people ask: values in and values out; no text for a terminal, no HTML."""
