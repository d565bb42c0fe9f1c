"""Write the names of all options of the launcher into the file that it compares a command line with."""

import argparse

from sglang_speechlm.options.command_line import build_parser
from sglang_speechlm.options.names import FILE
from sglang_speechlm.options.vllm_names import OPTIONS, OVERRIDDEN_BY
from sglang_speechlm.sglang_hooks.options import add_options


def all_names() -> list[str]:
    """Return the names that the parsers of this package and SGLang's accept, sorted, with "=" where a value follows."""
    of_sglang = argparse.ArgumentParser(add_help=False)
    add_options(of_sglang)
    actions = [item for parser in (build_parser(), of_sglang) for item in parser._option_string_actions.items()]
    names = {f"{name}=" if action.nargs != 0 else name for name, action in actions}
    names |= {f"{name}=" if option.kind else name for option in OPTIONS for name in option.sglang}
    return sorted(names | {OVERRIDDEN_BY})


if __name__ == "__main__":
    FILE.write_text("".join(f"{name}\n" for name in all_names()), encoding="utf-8")
