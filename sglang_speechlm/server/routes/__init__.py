"""The routes: what is asked, answered whole or as a stream."""
