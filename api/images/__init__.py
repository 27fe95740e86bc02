"""Pictures that clients send: their structure checked, decoded in processes of their own."""
