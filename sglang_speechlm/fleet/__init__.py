"""Several workers behind one port, with SGLang's router (smg) between them and this package's front."""
