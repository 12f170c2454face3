"""What compiled programs exchange, hold and spend time on, read from their text and traces, and machines to compile them for."""
