"""Starting, warming up, serving and stopping."""
