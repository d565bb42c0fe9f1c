"""``python -m sglang_speechlm.launch``: serve a SpeechLM checkpoint with one server, or several behind one port.

This is a module and not a package, so that the processes that SGLang spawns import it, and with it this package, before
any module of SGLang's (multiprocessing does not re-import a ``__main__.py``).
"""

import sys

from sglang_speechlm.process.gc import collect_garbage, collect_no_garbage

collect_no_garbage()

if __name__ == "__main__":
    from sglang_speechlm.options.fleet import is_fleet
    from sglang_speechlm.options.words import words_of
    from sglang_speechlm.process.exit_status import ExitStatus
    from sglang_speechlm.process.stdio import open_closed_streams

    open_closed_streams()
    try:
        arguments = words_of(sys.argv[1:])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(ExitStatus.BAD_OPTIONS)
    if is_fleet(arguments) and "--check" not in arguments:
        from sglang_speechlm.fleet.main import main

        collect_garbage()
        sys.exit(main(arguments))
    else:
        from sglang_speechlm.server.lifetime.start import main

        sys.exit(main(arguments))
