"""The log as files: entries, the daily files that hold them, and the search through them."""
