"""Several workers behind one port: SGLang's router (smg) between them and a front of ours."""
