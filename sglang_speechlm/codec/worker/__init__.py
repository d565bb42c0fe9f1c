"""The codec's process: batches of windows, decoded by Xcodec."""
