"""Values in words and as JSON documents, the same on a terminal and on the page; no HTML, no layout."""
