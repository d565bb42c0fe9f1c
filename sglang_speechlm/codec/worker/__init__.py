"""The codec process: batches of windows, decoded by Xcodec."""
