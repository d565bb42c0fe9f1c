"""The demonstration: a server started, asked three things over HTTP, and stopped."""
