"""Deployment: containers, Kubernetes, vast.ai, monitoring, and tests of each."""
