"""Say in one sentence why git-annex or DataLad did not deliver a file."""

from __future__ import annotations

import re

MOST_REASONS = 3
MOST_CHARACTERS = 200

# What the programs write -> what it means to the reader; the first group, if any, is quoted.
REASONS = (
    (
        r"allowed-ip-addresses does not allow accessing address (\S+)",
        "git-annex refuses the private address {}",
    ),
    (r"allowed-url-schemes", "git-annex refuses this kind of address"),
    (r"Verification of content failed", "a remote sent other bytes than the dataset says"),
    (r"not enough free space", "not enough free space"),
    (
        r"cannot be used since it's not verified|not verified",
        "a remote is not verified (git annex verifyremote)",
    ),
    (r"Failed to obtain OSF node handle", "OSF could not be reached"),
    (r"external special remote .*git-annex-remote-(\w+)", "the program git-annex-remote-{} is not installed"),
    (
        r"[Cc]ould not resolve host:? (\S+)|Name or service not known",
        "a host was not found by name (no network?)",
    ),
    (r"[Cc]onnection refused|Failed to connect", "a server refused the connection"),
    (r"download failed: ([^\n]+)", "an address failed ({})"),
    (
        r"(?:does not exist|does not appear to be a git repository)|[Nn]ot a git repository",
        "it does not exist or is no dataset",
    ),
    (r"dubious ownership", "git does not trust the owner of the dataset"),
    (r"Permission denied|could not read Username|Authentication failed", "access was denied"),
    (r"transfer already in progress", "another program is fetching the same file"),
    (
        r"[Uu]nable to access these remotes|Try making some of these repositories available",
        "no remote that holds its content can be reached",
    ),
    (
        r"[Nn]o other repository is known|not available|no known copies|\(0 copies\)",
        "the dataset knows no place that holds its content",
    ),
)


def one_sentence(text: str) -> str:
    """Translate the error output of git-annex or DataLad into one short sentence.

    Parameters
    ----------
    text : str
        One or more messages, of one or more lines.

    Returns
    -------
    str
        The distinct known reasons, most specific first; else the last line of the text.
    """
    found = []
    for pattern, meaning in REASONS:
        match = re.search(pattern, text)
        if match:
            found.append(meaning.format(next((group for group in match.groups() if group), "")))
    if found:
        return "; ".join(dict.fromkeys(found[:MOST_REASONS]))
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    return lines[-1][:MOST_CHARACTERS] if lines else "gave no reason"
