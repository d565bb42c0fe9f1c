"""What the client scripts share, in the order in which things happen to a line of the input.

source, lines, messages, audio, request, ask, answer, score, results, tally, summary, picture and espnet; run.py drives
them, and check.py looks at what came of it. files.py and ledger.py see to it that no file is lost. options.py reads the
command line, and command.py is what a script calls.
"""
