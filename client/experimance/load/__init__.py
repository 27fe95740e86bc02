"""Open- and closed-loop load test with console, JSON and HTML reports."""
