"""Console and HTML reports of a load test."""
