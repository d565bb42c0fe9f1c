"""What the client scripts share, in the order in which things happen to a line of the input.

lines, messages, request, ask, answer, score, results, tally, summary and picture; run.py drives them, options.py reads
the command line, and command.py is what a script calls.
"""
