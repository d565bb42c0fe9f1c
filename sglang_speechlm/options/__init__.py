"""The command line: what users may set, of ours and of SGLang's, and what each option becomes."""
