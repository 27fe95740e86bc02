"""Weight sources: Google Cloud Storage buckets, the Hugging Face Hub and local files."""
