"""Deployment on vast.ai: the image, its boot, the serverless worker and the template."""
