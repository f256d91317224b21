"""What commands print: for people as aligned text, for machines as JSON or CSV."""
